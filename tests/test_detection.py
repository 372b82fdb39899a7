"""From planted outputs to boxes in pixels: what is kept, where it lies, what the model is shown."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.testing import assert_close

from detr_mini.backbones import normalization
from detr_mini.checkpoints import Checkpoint
from detr_mini.datasets.batches import collate
from detr_mini.detection import detect, detections, evaluating
from detr_mini.detr import DETR, Attention, DETRConfig, DETROutput

NAMES = ("cat", "dog", "bus")
NOTHING = len(NAMES)


def planted(*images: list[tuple[int, float, tuple[float, ...]]]) -> DETROutput:
    """One decoder layer; each query says (class, its probability, box cxcywh), the rest is "no object"."""
    probabilities = torch.full((len(images), len(images[0]), NOTHING + 1), 1e-6)
    for row, queries in zip(probabilities, images, strict=True):
        for query, (label, probability, _) in zip(row, queries, strict=True):
            query[NOTHING] = 1 - probability
            query[label] = probability
    boxes = torch.tensor([[box for *_, box in queries] for queries in images])
    return DETROutput(probabilities.log()[None], boxes[None].float())


MIDDLE = (0.5, 0.5, 0.5, 0.5)
LEFT = (0.2, 0.5, 0.2, 0.4)


def test_boxes_come_in_pixels_of_a_wide_image_sorted_by_score_with_their_names_and_queries():
    output = planted([(0, 0.8, MIDDLE), (1, 0.1, MIDDLE), (2, 0.9, LEFT)])
    (found,) = detections(output, [(100, 400)], NAMES)
    assert len(found) == 2
    assert_close(found.boxes_xyxy_px, torch.tensor([[40.0, 30, 120, 70], [100, 25, 300, 75]]))
    assert_close(found.scores, torch.tensor([0.9, 0.8]), atol=1e-4, rtol=0)
    assert (found.labels.tolist(), found.names, found.queries.tolist()) == ([2, 0], ["bus", "cat"], [2, 0])


def test_each_image_has_its_own_size():
    one = [(0, 0.9, MIDDLE)]
    first, second = detections(planted(one, one), [(100, 400), (80, 40)], NAMES)
    assert first.boxes_xyxy_px.tolist() == [[100, 25, 300, 75]]
    assert second.boxes_xyxy_px.tolist() == [[10, 20, 30, 60]]


def test_at_threshold_zero_every_query_gives_its_best_class_even_where_nothing_is_likelier():
    output = planted([(1, 0.01, MIDDLE), (2, 0.6, LEFT)])
    (found,) = detections(output, [(10, 10)], NAMES, threshold=0)
    assert found.queries.tolist() == [1, 0] and found.names == ["bus", "dog"]
    assert [len(detections(output, [(10, 10)], NAMES, threshold=t)[0]) for t in (0.005, 0.5, 0.7)] == [
        2,
        1,
        0,
    ]


def test_boxes_are_cut_at_the_border_of_the_image():
    (found,) = detections(planted([(0, 0.9, (0.9, 0.1, 0.4, 0.4))]), [(100, 200)], NAMES)
    assert_close(found.boxes_xyxy_px, torch.tensor([[140.0, 0, 200, 30]]))


def test_without_detections_the_tensors_are_empty_but_shaped():
    (found,) = detections(planted([(0, 0.1, MIDDLE)]), [(10, 10)], NAMES)
    assert found.boxes_xyxy_px.shape == (0, 4) and len(found) == 0 and found.names == []


def test_nms_drops_the_weaker_duplicate_of_a_class_and_leaves_other_classes_and_places():
    shifted = (0.52, 0.5, 0.5, 0.5)  # IoU 0.92 with MIDDLE
    output = planted([(0, 0.8, MIDDLE), (0, 0.9, shifted), (1, 0.75, MIDDLE), (0, 0.71, (0.1, 0.1, 0.1, 0.1))])
    assert [len(detections(output, [(100, 100)], NAMES, nms_iou=iou)[0]) for iou in (None, 0.95, 0.7)] == [
        4,
        4,
        3,
    ]
    (found,) = detections(output, [(100, 100)], NAMES, nms_iou=0.7)
    assert found.queries.tolist() == [1, 2, 3]


def test_a_layer_can_be_chosen():
    early, late = planted([(0, 0.9, MIDDLE)]), planted([(1, 0.9, LEFT)])
    both = DETROutput(torch.cat([early.logits, late.logits]), torch.cat([early.boxes, late.boxes]))
    assert [detections(both, [(10, 10)], NAMES, layer=layer)[0].names for layer in (0, 1, -1)] == [
        ["cat"],
        ["dog"],
        ["dog"],
    ]


def test_names_and_sizes_that_do_not_fit_are_refused():
    output = planted([(0, 0.9, MIDDLE)])
    with pytest.raises(ValueError, match="2 class names for a model of 3 classes"):
        detections(output, [(10, 10)], NAMES[:2])
    with pytest.raises(ValueError, match="2 original sizes for 1 images"):
        detections(output, [(10, 10)] * 2, NAMES)


class Whereabouts(nn.Module):
    """A stand-in for DETR: query 0 boxes the bright pixels; each batch it sees is kept."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(num_classes=3, backbone="tiny", decoder_layers=1)
        self.frozen = nn.BatchNorm2d(1).eval()
        self.seen: list[tuple[Tensor, Tensor, bool]] = []

    def forward(self, images: Tensor, padding: Tensor, return_attention: bool = False) -> DETROutput:
        self.seen.append((images, padding, self.training))
        boxes = []
        for image, outside in zip(images, padding, strict=True):
            height, width = (~outside).any(1).sum(), (~outside).any(0).sum()
            bright = ((image.mean(0) > 1) & ~outside).nonzero().float()
            (top, left), (bottom, right) = bright.amin(0), bright.amax(0) + 1
            cx, cy = (left + right) / 2 / width, (top + bottom) / 2 / height
            boxes.append(torch.stack([cx, cy, (right - left) / width, (bottom - top) / height]))
        logits = torch.tensor([5.0, 0, 0, 0]).expand(1, len(images), 1, 4)
        attention = Attention(torch.zeros(1), torch.zeros(1), (1, 1)) if return_attention else None
        return DETROutput(logits, torch.stack(boxes)[None, :, None], attention)


def scene(height: int, width: int, box_xyxy: tuple[int, int, int, int]) -> Tensor:
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    x1, y1, x2, y2 = box_xyxy
    image[:, y1:y2, x1:x2] = 255
    return image


def checkpoint(**info: int | None) -> Checkpoint:
    return Checkpoint(Whereabouts(), NAMES, (1, 2, 3), info)


def test_padding_a_batch_does_not_shift_boxes():
    boxes = [(10, 5, 30, 15), (2, 20, 12, 60)]
    images = [scene(20, 60, boxes[0]), scene(80, 30, boxes[1])]
    samples = [
        (image, {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "image_id": number})
        for number, image in enumerate(images)
    ]
    batch = collate(samples, *normalization("tiny"), num_classes=3)
    assert batch.images.shape == (2, 3, 80, 60) and batch.padding.any()
    output = Whereabouts()(batch.images, batch.padding)
    found = detections(output, [(20, 60), (80, 30)], NAMES)
    assert_close(torch.cat([one.boxes_xyxy_px for one in found]), torch.tensor(boxes).float())


@pytest.mark.parametrize(
    ("info", "seen"),
    [
        ({}, (60, 200)),
        ({"short_side": None, "long_side": None}, (60, 200)),
        ({"short_side": 30, "long_side": None}, (30, 100)),
        ({"short_side": 120, "long_side": 200}, (60, 200)),
        ({"short_side": 50, "long_side": 50}, (15, 50)),
    ],
)
def test_the_model_sees_the_evaluation_size_and_the_box_lies_in_the_original(info, seen):
    loaded = checkpoint(**info)
    (found,) = detect(loaded, scene(60, 200, (40, 20, 120, 40)))
    ((batch, padding, _),) = loaded.model.seen
    assert batch.shape == (1, 3, *seen) and not padding.any()
    assert_close(found.boxes_xyxy_px, torch.tensor([[40.0, 20, 120, 40]]), atol=4, rtol=0)


def test_files_pil_images_and_tensors_give_the_same_and_in_order(tmp_path):
    image = scene(40, 60, (10, 20, 30, 30))
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    picture.save(tmp_path / "scene.png")
    other = scene(40, 60, (0, 0, 5, 5))
    loaded = checkpoint()
    results = detect(loaded, [tmp_path / "scene.png", str(tmp_path / "scene.png"), picture, image, other])
    corners = [found.boxes_xyxy_px.round().tolist()[0] for found in results]
    assert corners == [[10, 20, 30, 30]] * 4 + [[0, 0, 5, 5]]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in normalization("tiny"))
    for batch, _, _ in loaded.model.seen[:4]:
        assert_close(batch[0], (image / 255 - mean) / std)


def test_grey_transparent_and_turned_pictures(tmp_path):
    turned = Image.fromarray(scene(40, 60, (0, 0, 30, 10)).permute(1, 2, 0).numpy())
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise: the top left comes to the top right
    turned.save(tmp_path / "turned.png", exif=exif)
    found = detect(checkpoint(), [tmp_path / "turned.png", turned.convert("L"), turned.convert("RGBA")])
    assert found[0].boxes_xyxy_px.round().tolist() == [[30, 0, 40, 30]]
    assert found[1].boxes_xyxy_px.round().tolist() == found[2].boxes_xyxy_px.round().tolist() == [[0, 0, 30, 10]]


def test_attention_comes_beside_the_detections_when_asked_for():
    config = DETRConfig.mini(num_classes=3)
    loaded = Checkpoint(DETR(config).eval(), NAMES, (1, 2, 3), {"short_side": 64, "long_side": 64})
    ((found, attention),) = detect(loaded, scene(40, 60, (0, 0, 9, 9)), threshold=0, return_attention=True)
    height, width = attention.feature_size
    assert len(found) == config.queries and attention.decoder.shape[0] == config.decoder_layers
    assert attention.decoder.shape[-2:] == (config.queries, height * width)


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(3, 8, 8),
        torch.zeros(8, 8, 3, dtype=torch.uint8),
        torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
    ],
)
def test_tensors_of_another_kind_are_refused(image):
    with pytest.raises(ValueError, match=r"wanted torch.uint8 \(3, H, W\)"):
        detect(checkpoint(), [image])


def test_a_missing_file_and_a_file_that_is_no_image_are_named(tmp_path):
    (tmp_path / "notes.png").write_text("not an image")
    with pytest.raises(FileNotFoundError, match="absent.png"):
        detect(checkpoint(), [tmp_path / "absent.png"])
    with pytest.raises(OSError, match="notes.png"):
        detect(checkpoint(), [tmp_path / "notes.png"])


def test_the_model_is_left_in_the_mode_it_was_in_even_after_an_error():
    loaded = checkpoint()
    model = loaded.model.train()
    model.frozen.eval()
    detect(loaded, scene(10, 10, (0, 0, 5, 5)))
    with pytest.raises(RuntimeError, match="inside"), evaluating(model, "cpu"):
        assert not torch.is_grad_enabled()
        raise RuntimeError("inside")
    assert [training for *_, training in model.seen] == [False]
    assert model.training and not model.frozen.training and torch.is_grad_enabled()
