"""COCO's average precision by pycocotools: per class, per size, per decoder layer, with or without NMS."""

import io
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from detr_mini.backbones import normalization
from detr_mini.datasets.batches import collate
from detr_mini.detection import Detections, detections, evaluating

Way = tuple[int, float | None]  # decoder layer, IoU of NMS or None

MOST_DETECTIONS = 100  # of an image and class, by falling score: COCO's rule
LARGEST_AREA_PX = 1e10


@dataclass(frozen=True)
class Report:
    """Average precision, 0..1, of one decoder layer's answers; a size or class without objects has None."""

    ap: float  # mean over IoU 0.50, 0.55, ... 0.95 and over classes
    ap50: float
    ap75: float
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    per_class: dict[str, float | None]
    images: int
    images_per_second: float  # data, model and detections; without pycocotools' own time
    layer: int  # from 0
    nms_iou: float | None

    def to_dict(self) -> dict:
        """The report as plain numbers, ready for JSON."""
        return asdict(self)

    def table(self) -> str:
        """The report as aligned plain text, one number a line, classes from best to worst."""
        sizes = {"AP": self.ap, "AP50": self.ap50, "AP75": self.ap75}
        sizes |= {"AP small": self.ap_small, "AP medium": self.ap_medium, "AP large": self.ap_large}
        classes = sorted(self.per_class.items(), key=lambda item: 1 if item[1] is None else -item[1])
        width = max(len(name) for name in (*sizes, *self.per_class))
        lines = [f"{name:<{width}}  {_shown(value)}" for name, value in (*sizes.items(), ("", ""), *classes)]
        nms = "no NMS" if self.nms_iou is None else f"NMS at IoU {self.nms_iou:g}"
        head = f"{self.images} images ({self.images_per_second:.1f} a second)"
        head += f", decoder layer {self.layer + 1}, {nms}"
        return "\n".join([head, *(line.rstrip() for line in lines)])


def evaluate(
    model: nn.Module,
    dataset: Dataset,
    *,
    batch_size: int = 32,
    device: str | torch.device = "cpu",
    layer: int = -1,
    nms_iou: float | None = None,
    category_ids: Sequence[int] | None = None,
    workers: int = 0,
    progress: bool = True,
) -> Report:
    """Evaluate one decoder layer on a data set (`names`, `category_ids`, `size_edges_px`, `ground_truth()`).

    `category_ids` says which category of the ground truth each label of the model means: the data set's own
    unless given; for a published COCO model `range(91)`. Afterwards the model is on the device and in the
    mode it was in. Raises ValueError for a model of other classes or layers, for answers that are not finite, or
    where no object is given.
    """
    layers = model.config.decoder_layers
    if not -layers <= layer < layers:
        raise ValueError(f"decoder layer {layer} of a model that has {layers}: layers count from 0, or -1 for the last")
    ways = [(layer % layers, nms_iou)]
    found, speed = _run(model, dataset, ways, batch_size, device, category_ids, workers, progress)
    (report,) = _reports(dataset, found, speed)
    return report


def evaluate_layers(
    model: nn.Module,
    dataset: Dataset,
    *,
    nms_iou: float = 0.7,
    batch_size: int = 32,
    device: str | torch.device = "cpu",
    category_ids: Sequence[int] | None = None,
    workers: int = 0,
    progress: bool = True,
) -> list[Report]:
    """Evaluate every decoder layer without and with NMS (Fig. 4 of the paper) from one pass over the data.

    Two reports a layer, first to last: without NMS, then with. Arguments and errors as in `evaluate`.
    """
    layers = model.config.decoder_layers
    ways = [(layer, nms) for layer in range(layers) for nms in (None, nms_iou)]
    found, speed = _run(model, dataset, ways, batch_size, device, category_ids, workers, progress)
    return _reports(dataset, found, speed)


def grade(dataset: Dataset, answers: Sequence[Detections], speed: float = 0.0, nms_iou: float | None = None) -> Report:
    """Grade any detector's answers, one a data set's image and in its order, as `evaluate` grades a model's.

    Labels are positions in the data set's `category_ids`; `speed` (images a second) and `nms_iou` are only noted. The
    report's layer is -1. Raises ValueError where the numbers of answers and images differ, or no object is given.
    """
    images = dataset.ground_truth()["images"]
    if len(answers) != len(images):
        raise ValueError(f"{len(answers)} answers for {len(images)} images: one each, in the data set's order")
    entries = [
        entry
        for image, answer in zip(images, answers, strict=True)
        for entry in _entries(image["id"], answer, dataset.category_ids)
    ]
    (report,) = _reports(dataset, {(-1, nms_iou): entries}, speed)
    return report


def _run(
    model: nn.Module,
    dataset: Dataset,
    ways: list[Way],
    batch_size: int,
    device: str | torch.device,
    category_ids: Sequence[int] | None,
    workers: int,
    progress: bool,
) -> tuple[dict[Way, list[dict]], float]:
    """COCO's result entries for each way of reading the model's output, and images a second."""
    category_ids = dataset.category_ids if category_ids is None else category_ids
    if len(category_ids) != model.config.num_classes:
        raise ValueError(
            f"{len(category_ids)} category ids for a model of {model.config.num_classes} classes: "
            "trained on other data? A published COCO model wants category_ids=range(91)"
        )
    mean, std = normalization(model.config.backbone)
    together = partial(collate, mean=mean, std=std, num_classes=len(dataset.names))
    loader = DataLoader(dataset, batch_size, num_workers=workers, collate_fn=together)
    names = [str(category) for category in category_ids]
    found: dict[Way, list[dict]] = {way: [] for way in ways}
    start = time.perf_counter()
    with evaluating(model, device):
        for batch in tqdm(loader, desc="evaluate", unit="batch", disable=not progress):
            output = model(batch.images.to(device), batch.padding.to(device))
            sizes = [target["original_size"] for target in batch.targets]
            for layer, nms_iou in ways:
                answers = detections(output, sizes, names, threshold=0, layer=layer, nms_iou=nms_iou)
                for target, answer in zip(batch.targets, answers, strict=True):
                    found[layer, nms_iou] += _entries(target["image_id"], answer, category_ids)
    return found, len(dataset) / (time.perf_counter() - start)


def _entries(image_id: int, answer: Detections, category_ids: Sequence[int]) -> list[dict]:
    rows = zip(answer.boxes_xyxy_px.tolist(), answer.scores.tolist(), answer.labels.tolist(), strict=True)
    return [
        {
            "image_id": image_id,
            "category_id": category_ids[label],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
            "score": score,
            "iscrowd": 0,
        }
        for (x1, y1, x2, y2), score, label in rows
    ]


def _reports(dataset: Dataset, found: dict[Way, list[dict]], speed: float) -> list[Report]:
    truth = dataset.ground_truth()
    known = {category["id"] for category in truth["categories"]}
    if not any(a["category_id"] in known and not a.get("iscrowd") for a in truth["annotations"]):
        raise ValueError("no object to find, so AP is not defined: an empty or unlabelled split?")
    truth_index = _index(truth, truth["annotations"])
    reports = []
    for (layer, nms_iou), entries in found.items():
        precision = _precision(truth_index, _index(truth, entries), dataset.size_edges_px)
        whole = precision[..., 0]  # (IoU, recall, class)
        per_class = {c["name"]: _mean(whole[..., k]) for k, c in enumerate(_by_id(truth["categories"]))}
        numbers = [_mean(whole), _mean(whole[0]), _mean(whole[5])]  # IoU 0.50 to 0.95, 0.50, 0.75
        numbers += [_mean(precision[..., size]) for size in (1, 2, 3)]
        reports.append(Report(*numbers, per_class, len(truth["images"]), speed, layer, nms_iou))
    return reports


def _precision(truth: COCO, found: COCO, size_edges_px: tuple[float, float]) -> np.ndarray:
    """Precision (10 IoU thresholds, 101 recall points, classes, 4 sizes: all first); -1 without objects."""
    small, large = (edge**2 for edge in size_edges_px)
    with redirect_stdout(io.StringIO()):
        scorer = COCOeval(truth, found, "bbox")
        scorer.params.maxDets = [MOST_DETECTIONS]
        scorer.params.areaRng = [(0, LARGEST_AREA_PX), (0, small), (small, large), (large, LARGEST_AREA_PX)]
        scorer.params.areaRngLbl = ["all", "small", "medium", "large"]
        scorer.evaluate()
        scorer.accumulate()
    return scorer.eval["precision"][..., 0]


def _index(truth: dict, annotations: list[dict]) -> COCO:
    # Not COCO.loadRes: it fails where nothing was found. Ids from 1: pycocotools takes id 0 for "no match".
    coco = COCO()
    numbered = [{**annotation, "id": number} for number, annotation in enumerate(annotations, start=1)]
    coco.dataset = {"images": truth["images"], "categories": truth["categories"], "annotations": numbered}
    with redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def _by_id(categories: list[dict]) -> list[dict]:
    return sorted(categories, key=lambda category: category["id"])  # the order of pycocotools' class axis


def _mean(precision: np.ndarray) -> float | None:
    valid = precision[precision > -1]
    return float(valid.mean()) if valid.size else None


def _shown(value: float | str | None) -> str:
    return value if isinstance(value, str) else "    -" if value is None else f"{value:.3f}"
