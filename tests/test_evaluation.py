"""COCO's AP on planted answers: right, wrong, ignored; by class, size and layer, with and without NMS."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from detr_mini.boxes import xyxy_to_cxcywh
from detr_mini.detr import DETROutput
from detr_mini.evaluation import evaluate, evaluate_layers

NAMES, IDS = ("cat", "dog"), (17, 40)
Box = tuple[float, float, float, float]
Answer = tuple[int, float, Box]  # label, probability, box xyxy px


class Scenes(Dataset):
    """Blank images of these (H, W) with objects (label, box xyxy px); crowds only in the ground truth."""

    names, category_ids, size_edges_px = NAMES, IDS, (8.0, 24.0)

    def __init__(self, sizes: list[tuple[int, int]], objects: list[list[tuple[int, Box]]], crowds=()):
        self.sizes, self.objects, self.crowds = sizes, objects, crowds

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> tuple[Tensor, dict]:
        height, width = self.sizes[index]
        image = torch.zeros(3, height // 2, width // 2, dtype=torch.uint8)  # the model sees half the size
        image[:, 0, 0] = index
        boxes = torch.tensor([box for _, box in self.objects[index]]).reshape(-1, 4)
        target = {
            "boxes": xyxy_to_cxcywh(boxes / torch.tensor([width, height, width, height])),
            "labels": torch.tensor([label for label, _ in self.objects[index]], dtype=torch.int64),
            "image_id": 100 + index,
            "size": (height // 2, width // 2),
            "original_size": (height, width),
        }
        return image, target

    def ground_truth(self) -> dict:
        rows = [(i, label, box, 0) for i, objects in enumerate(self.objects) for label, box in objects]
        rows += [(i, label, box, 1) for i, label, box in self.crowds]
        annotations = [
            {
                "id": number,  # from 0, which pycocotools alone would count as unmatched
                "image_id": 100 + image,
                "category_id": IDS[label],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": crowd,
            }
            for number, (image, label, (x1, y1, x2, y2), crowd) in enumerate(rows)
        ]
        images = [{"id": 100 + i, "height": h, "width": w} for i, (h, w) in enumerate(self.sizes)]
        categories = [{"id": i, "name": name} for i, name in zip(IDS, NAMES, strict=True)]
        return {"images": images, "annotations": annotations, "categories": categories}


class Planted(nn.Module):
    """Gives each image, known by the number in its first pixel, the answers planted for each layer."""

    def __init__(self, sizes: list[tuple[int, int]], layers: list[list[list[Answer]]], classes: int = 2):
        super().__init__()
        self.config = SimpleNamespace(num_classes=classes, backbone="tiny", decoder_layers=len(layers))
        self.sizes, self.layers = sizes, layers
        self.queries = max(1, max(len(answers) for layer in layers for answers in layer))
        self.calls = 0

    def forward(self, images: Tensor, padding: Tensor) -> DETROutput:
        self.calls += 1
        assert not self.training and not torch.is_grad_enabled()
        numbers = (images[:, 0, 0, 0] * 0.229 * 255 + 0.485 * 255).round().int().tolist()
        probabilities = torch.full((len(self.layers), len(images), self.queries, self.config.num_classes + 1), 1e-9)
        probabilities[..., -1] = 1
        boxes = torch.full((len(self.layers), len(images), self.queries, 4), 0.5)
        for depth, layer in enumerate(self.layers):
            for row, number in enumerate(numbers):
                height, width = self.sizes[number]
                for query, (label, probability, box) in enumerate(layer[number]):
                    probabilities[depth, row, query, label] = probability
                    probabilities[depth, row, query, -1] = 1 - probability
                    sides = torch.tensor([width, height, width, height])
                    boxes[depth, row, query] = xyxy_to_cxcywh(torch.tensor(box) / sides)
        return DETROutput(probabilities.log(), boxes)


SIZES = [(40, 100), (120, 60), (50, 50)]
OBJECTS = [
    [(0, (10.0, 5, 50, 35)), (1, (60.0, 10, 66, 16))],
    [(1, (5.0, 60, 25, 80)), (0, (30.0, 10, 34, 18))],
    [],
]
# Less likely than nothing, and still the answer: evaluation takes every query's best class.
PERFECT = [[(label, 0.3, box) for label, box in objects] for objects in OBJECTS]
QUIET = {"progress": False, "batch_size": 2}


def test_planted_truth_scores_one_in_every_slice_whatever_the_batch():
    data = Scenes(SIZES, OBJECTS)
    for batch_size in (1, 2, 3):
        report = evaluate(Planted(SIZES, [PERFECT]), data, batch_size=batch_size, progress=False)
        numbers = [report.ap, report.ap50, report.ap75, report.ap_small, report.ap_medium, report.ap_large]
        assert numbers == pytest.approx([1] * 6)
        assert report.per_class == pytest.approx({"cat": 1, "dog": 1})
        assert report.images == 3 and report.images_per_second > 0
        assert report.layer == 0 and report.nms_iou is None


def test_a_model_that_finds_nothing_scores_zero():
    report = evaluate(Planted(SIZES, [[[], [], []]]), Scenes(SIZES, OBJECTS), **QUIET)
    assert (report.ap, report.ap50, report.per_class) == (0, 0, {"cat": 0, "dog": 0})


def test_answers_that_are_not_numbers_are_an_error_not_an_ap_of_zero():
    model = Planted(SIZES, [[[(0, math.nan, (0, 0, 9, 9))]] * 3])
    model.forward = lambda images, padding: DETROutput(
        torch.full((1, len(images), 1, 3), math.nan), torch.full((1, len(images), 1, 4), math.nan)
    )
    with pytest.raises(ValueError, match="logits of decoder layer 0 are not finite"):
        evaluate(model, Scenes(SIZES, OBJECTS), **QUIET)


def test_a_false_alarm_above_the_only_object_halves_precision_and_one_below_costs_nothing():
    size, box, elsewhere = [(100, 100)], (10.0, 10, 40, 40), (60.0, 60, 90, 90)
    data = Scenes(size, [[(0, box)]])
    for false_alarm, ap in ((0.9, 0.5), (0.5, 1.0)):
        model = Planted(size, [[[(0, 0.8, box), (0, false_alarm, elsewhere)]]])
        report = evaluate(model, data, **QUIET)
        assert report.ap == pytest.approx(ap) and report.per_class == {"cat": pytest.approx(ap), "dog": None}


def test_one_of_two_objects_found_fills_51_of_101_recall_points():
    size, boxes = [(100, 100)], [(10.0, 10, 40, 40), (60.0, 60, 90, 90)]
    report = evaluate(Planted(size, [[[(0, 0.9, boxes[0])]]]), Scenes(size, [[(0, box) for box in boxes]]), **QUIET)
    assert report.ap == report.ap50 == pytest.approx(51 / 101)


def test_a_box_with_iou_072_counts_up_to_070():
    size, box = [(100, 100)], (0.0, 0, 100, 50)
    model = Planted(size, [[[(0, 0.9, (0.0, 0, 72, 50))]]])
    report = evaluate(model, Scenes(size, [[(0, box)]]), **QUIET)
    assert (report.ap50, report.ap75, report.ap) == pytest.approx((1, 0, 5 / 10))  # 0.50, 0.55, ... 0.70


def test_a_duplicate_is_a_false_alarm_that_nms_takes_away():
    sizes, boxes = [(100, 100)] * 2, [(10.0, 10, 40, 40), (60.0, 60, 90, 90)]
    answers = [[(0, 0.9, boxes[0]), (0, 0.8, (11.0, 10, 41, 40))], [(0, 0.7, boxes[1])]]
    data = Scenes(sizes, [[(0, boxes[0])], [(0, boxes[1])]])
    raw = evaluate(Planted(sizes, [answers]), data, **QUIET)
    clean = evaluate(Planted(sizes, [answers]), data, nms_iou=0.7, **QUIET)
    assert raw.ap50 == pytest.approx((51 + 50 * 2 / 3) / 101) and clean.ap50 == pytest.approx(1)
    assert clean.nms_iou == 0.7


def test_crowds_are_neither_found_nor_missed():
    size, box, crowd = [(100, 100)], (10.0, 10, 40, 40), (50.0, 50, 100, 100)
    inside = [
        (0, 0.95, (52.0, 52, 70, 70)),
        (0, 0.94, (70.0, 70, 95, 95)),
    ]  # above the true one, but in the crowd
    model = Planted(size, [[[(0, 0.8, box), *inside]]])
    assert evaluate(model, Scenes(size, [[(0, box)]], crowds=[(0, 0, crowd)]), **QUIET).ap == pytest.approx(1)
    assert evaluate(model, Scenes(size, [[(0, box)]]), **QUIET).ap == pytest.approx(1 / 3)


def test_sizes_are_cut_at_the_data_sets_own_edges():
    answers = copy.deepcopy(PERFECT)
    answers[1] = answers[1][:1]  # the cat of 4 x 8 px, small by the edge at 8 px, is missed
    report = evaluate(Planted(SIZES, [answers]), Scenes(SIZES, OBJECTS), **QUIET)
    assert report.per_class == pytest.approx({"cat": 51 / 101, "dog": 1})
    assert (report.ap_small, report.ap_medium, report.ap_large) == pytest.approx((0.5, 1, 1))
    coco_edges = Scenes(SIZES, OBJECTS)
    coco_edges.size_edges_px = (32, 96)
    report = evaluate(Planted(SIZES, [answers]), coco_edges, **QUIET)
    assert report.ap_medium == pytest.approx(1) and report.ap_large is None  # the 40 x 30 cat is medium there


def test_a_false_alarm_counts_against_its_own_size_only():
    size, medium, large = [(100, 100)], (10.0, 10, 22, 22), (30.0, 30, 90, 90)
    model = Planted(size, [[[(0, 0.8, medium), (0, 0.9, large)]]])
    report = evaluate(model, Scenes(size, [[(0, medium)]]), **QUIET)
    assert (report.ap, report.ap_medium, report.ap_large) == (pytest.approx(0.5), pytest.approx(1), None)


def test_labels_of_a_published_model_are_category_ids():
    answers = [[(IDS[label], p, box) for label, p, box in image] for image in PERFECT]
    model, data = Planted(SIZES, [answers], classes=91), Scenes(SIZES, OBJECTS)
    assert evaluate(model, data, category_ids=range(91), **QUIET).ap == pytest.approx(1)
    with pytest.raises(ValueError, match="2 category ids for a model of 91 classes"):
        evaluate(model, data, **QUIET)


def test_swapped_labels_find_nothing():
    answers = [[(1 - label, p, box) for label, p, box in image] for image in PERFECT]
    assert evaluate(Planted(SIZES, [answers]), Scenes(SIZES, OBJECTS), **QUIET).ap == 0


def test_layers_are_scored_with_and_without_nms_in_one_pass():
    nothing, twice = [[], [], []], [[*image, *image] for image in PERFECT]
    model, data = Planted(SIZES, [nothing, twice, PERFECT]), Scenes(SIZES, OBJECTS)
    reports = evaluate_layers(model, data, nms_iou=0.6, **QUIET)
    assert model.calls == 2  # three images in batches of two
    assert [(r.layer, r.nms_iou) for r in reports] == [
        (0, None),
        (0, 0.6),
        (1, None),
        (1, 0.6),
        (2, None),
        (2, 0.6),
    ]
    ap = [report.ap for report in reports]
    assert ap[0] == ap[1] == 0 and ap[2] < 0.99 and ap[3:] == pytest.approx([1, 1, 1])
    for layer in (1, -1):
        alone = evaluate(model, data, layer=layer, **QUIET)
        assert alone.ap == reports[2 * layer if layer > 0 else -2].ap and alone.layer == layer % 3
    with pytest.raises(ValueError, match="decoder layer 3 of a model that has 3"):
        evaluate(model, data, layer=3, **QUIET)


def test_without_any_object_ap_is_not_defined():
    with pytest.raises(ValueError, match="no object to find"):
        evaluate(Planted(SIZES, [PERFECT]), Scenes(SIZES, [[], [], []], crowds=[(0, 0, (0.0, 0, 9, 9))]), **QUIET)


def test_the_mode_comes_back_and_nothing_is_printed(capsys):
    model = Planted(SIZES, [PERFECT])
    model.frozen = nn.Dropout().eval()
    evaluate(model, Scenes(SIZES, OBJECTS), **QUIET)
    assert model.training and not model.frozen.training
    assert capsys.readouterr() == ("", "")


def test_the_report_as_numbers_and_as_text():
    report = evaluate(Planted(SIZES, [PERFECT]), Scenes(SIZES, [OBJECTS[0][:1], [], []]), nms_iou=0.5, **QUIET)
    numbers = report.to_dict()
    assert numbers["per_class"]["dog"] is None and numbers["ap_small"] is None and numbers["nms_iou"] == 0.5
    lines = report.table().splitlines()
    assert lines[0].startswith("3 images (") and lines[0].endswith("decoder layer 1, NMS at IoU 0.5")
    named = dict(line.rsplit(maxsplit=1) for line in lines[1:] if line)
    assert named["AP"] == named["cat"] == "1.000" and named["dog"] == named["AP small"] == "-"
    assert len({line.index("1.000") for line in lines if line.endswith("1.000")}) == 1
