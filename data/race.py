"""DETR and Faster R-CNN on the same scenes: python data/race.py (about an hour and a quarter on one thread).

Both get the tiny backbone, the same scenes in the same order, the same optimizer, the same schedule and the same time:
seconds of this process's own CPU time spent in training, with one thread, so that other work on the machine does not
count. Each tries the same learning rates for a quarter of the time; the better one by validation runs in full. Faster
R-CNN is torchvision's: images stay at the scenes' size, its anchors have the sizes and shapes of the scenes' own
boxes. Writes data/results/race/race.json. Runs that are finished are kept in --out and not repeated.
"""

import argparse
import json
import math
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign, batched_nms

from detr_mini import backbones, losses
from detr_mini.boxes import cxcywh_to_xyxy
from detr_mini.datasets.batches import Batch, collate
from detr_mini.datasets.toybox import Toybox, ToyboxConfig
from detr_mini.detection import Detections, detections, evaluating
from detr_mini.detr import DETR, DETRConfig
from detr_mini.evaluation import Report, grade
from detr_mini.training import TrainConfig

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "data" / "results" / "race"
RATES = (3e-4, 1e-3, 3e-3)
BATCH, WARMUP, CLIP, DECAY = 32, 0.04, 1.0, 1e-4  # images, share of the time, norm of the gradient, AdamW
WATCHED, TESTED, POINTS = 300, 1000, 10  # scenes of the curve, scenes of the end, points of a curve
CUT, WIDTH = 5, 192  # Faster R-CNN's regions: cells a side (the whole map has 8), and channels of its head
NMS_IOU = 0.5  # torchvision's choice for its own detector


class DetrSide(nn.Module):
    """The mini, with its own loss."""

    label = "DETR"

    def __init__(self):
        super().__init__()
        self.model, self.config = DETR(DETRConfig.mini()), TrainConfig.mini()

    def loss(self, batch: Batch) -> Tensor:
        output = self.model(batch.images)
        weights = self.config.loss_weights, self.config.matching_weights
        return losses.set_loss(output.logits, output.boxes, batch.targets, *weights).total

    def answers(self, batch: Batch, nms_iou: float | None) -> list[Detections]:
        sizes = [target["original_size"] for target in batch.targets]
        return detections(self.model(batch.images), sizes, Toybox.names, threshold=0, nms_iou=nms_iou)


class FasterSide(nn.Module):
    """torchvision's Faster R-CNN on the mini's backbone; class 0 is its background."""

    label = "Faster R-CNN"

    def __init__(self, scenes: ToyboxConfig):
        super().__init__()
        sides, ratios = anchors(scenes)
        self.model = FasterRCNN(
            Features(),
            rpn_anchor_generator=AnchorGenerator((sides,), (ratios,)),
            box_roi_pool=MultiScaleRoIAlign(["0"], output_size=CUT, sampling_ratio=2),
            box_head=TwoLayers(backbones.Tiny.channels * CUT**2, WIDTH),
            box_predictor=torchvision.models.detection.faster_rcnn.FastRCNNPredictor(WIDTH, len(Toybox.names) + 1),
            min_size=scenes.size,
            max_size=scenes.size,
            image_mean=[0.0] * 3,  # the batch is normalised already
            image_std=[1.0] * 3,
            rpn_pre_nms_top_n_train=500,
            rpn_post_nms_top_n_train=200,
            rpn_pre_nms_top_n_test=200,
            rpn_post_nms_top_n_test=100,
            box_batch_size_per_image=32,
            box_score_thresh=0.0,
            box_nms_thresh=1.0,  # what NMS changes is measured afterwards, as for DETR
            box_detections_per_img=400,
        )

    def loss(self, batch: Batch) -> Tensor:
        size = torch.tensor([*batch.images.shape[:1:-1]] * 2)  # (W, H, W, H) px
        targets = [
            {"boxes": cxcywh_to_xyxy(target["boxes"]) * size, "labels": target["labels"] + 1}
            for target in batch.targets
        ]
        return sum(self.model(list(batch.images), targets).values())

    def answers(self, batch: Batch, nms_iou: float | None) -> list[Detections]:
        return [best(found, nms_iou) for found in self.model(list(batch.images))]


class Features(backbones.Tiny):
    """The tiny backbone under the name and attribute that torchvision looks for."""

    out_channels = backbones.Tiny.channels


class TwoLayers(nn.Sequential):
    """A region's cut-out, flattened, through two linear layers."""

    def __init__(self, inputs: int, width: int):
        layers = nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
        super().__init__(nn.Flatten(), *layers)


def anchors(scenes: ToyboxConfig, count: int = 500) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Sides in px and height-to-width ratios that split the scenes' own boxes into equal parts: five and three."""
    boxes = torch.cat([Toybox(scenes, count, 0)[i][1]["boxes"] for i in range(count)]) * scenes.size
    side, ratio = (boxes[:, 2] * boxes[:, 3]).sqrt(), boxes[:, 3] / boxes[:, 2]
    sides = side.quantile(torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9]))
    return tuple(round(s) for s in sides.tolist()), tuple(ratio.quantile(torch.tensor([1 / 6, 0.5, 5 / 6])).tolist())


def best(found: dict[str, Tensor], nms_iou: float | None, most: int = 100) -> Detections:
    """torchvision's answer for an image as Detections, the `most` surest, after NMS by class if asked for."""
    boxes, scores, labels = found["boxes"], found["scores"], found["labels"] - 1
    kept = scores.argsort(descending=True) if nms_iou is None else batched_nms(boxes, scores, labels, nms_iou)
    kept = kept[:most]
    names = [Toybox.names[label] for label in labels[kept].tolist()]
    return Detections(boxes[kept], scores[kept], labels[kept], names, torch.full_like(kept, -1))


def contender(label: str, seed: int, scenes: ToyboxConfig) -> nn.Module:
    torch.manual_seed(seed)
    return DetrSide() if label == DetrSide.label else FasterSide(scenes)


def batches(scenes: ToyboxConfig, seed: int):
    """Endless batches of fresh scenes, the same for both."""
    data, start = Toybox(scenes, None, seed), 0
    together = collator()
    while True:
        yield together([data[start + i] for i in range(BATCH)])
        start += BATCH


def collator() -> Callable[[list], Batch]:
    mean, std = backbones.normalization("tiny")
    return partial(collate, mean=mean, std=std, num_classes=len(Toybox.names))


def factor(share: float) -> float:
    """Of the learning rate, when this share of the time is spent: linear warm-up, then cosine to zero."""
    if share < WARMUP:
        return share / WARMUP + 1e-3
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (share - WARMUP) / (1 - WARMUP))))


def train(side: nn.Module, rate: float, seconds: float, seed: int, scenes: ToyboxConfig) -> list[dict]:
    """Trains for so many seconds of CPU time; returns the curve: seconds, steps, loss, AP on validation scenes."""
    optimizer = torch.optim.AdamW(side.parameters(), rate, weight_decay=DECAY, fused=True)
    spent, steps, curve, recent = 0.0, 0, [], []
    stream, watched = batches(scenes, seed), Toybox(scenes, WATCHED, seed, "val")
    while spent < seconds:
        before = time.process_time()
        side.train()
        for group in optimizer.param_groups:
            group["lr"] = rate * factor(spent / seconds)
        loss = side.loss(next(stream))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(side.parameters(), CLIP)
        optimizer.step()
        recent.append(loss.detach())
        spent, steps = spent + time.process_time() - before, steps + 1
        if spent >= seconds * (len(curve) + 1) / POINTS:
            report = measure(side, watched, NMS_IOU if side.label == FasterSide.label else None)
            point = {"seconds": round(spent, 1), "steps": steps, "loss": float(torch.stack(recent).mean())}
            curve.append(point | {"ap": report.ap, "ap50": report.ap50})
            recent.clear()
    return curve


def measure(side: nn.Module, dataset: Toybox, nms_iou: float | None) -> Report:
    """AP of a contender; its speed counts the model and the reading of its answers, not the drawing of scenes."""
    together, answers, spent = collator(), [], 0.0
    with evaluating(side, "cpu"):
        for start in range(0, len(dataset), BATCH):
            batch = together([dataset[i] for i in range(start, min(start + BATCH, len(dataset)))])
            before = time.process_time()
            answers += side.answers(batch, nms_iou)
            spent += time.process_time() - before
    return grade(dataset, answers, len(dataset) / spent, nms_iou)


def run(label: str, rate: float, seconds: float, seed: int, scenes: ToyboxConfig, out: Path) -> tuple:
    """One training, or what it left when it was finished before: the contender and its curve."""
    path = out / f"{label}-{rate}-{seconds:.0f}-{seed}.pt"
    side = contender(label, seed, scenes)
    if path.exists():
        stored = torch.load(path, weights_only=True)
        side.load_state_dict(stored["state"])
        return side, stored["curve"]
    curve = train(side, rate, seconds, seed, scenes)
    out.mkdir(parents=True, exist_ok=True)
    torch.save({"state": side.state_dict(), "curve": curve}, path)
    print(f"{label}, rate {rate:g}, {seconds / 60:.1f} min: AP {curve[-1]['ap']:.3f}", flush=True)
    return side, curve


def race(label: str, seconds: float, seed: int, scenes: ToyboxConfig, out: Path) -> dict:
    """A contender's tries, its full run at the best rate, and its grades on test scenes."""
    tries = {rate: run(label, rate, seconds / 4, seed, scenes, out)[1] for rate in RATES}
    chosen = max(tries, key=lambda rate: tries[rate][-1]["ap"])
    side, curve = run(label, chosen, seconds, seed, scenes, out)
    tested = Toybox(scenes, TESTED, seed, "test")
    reports = {name: measure(side, tested, nms) for name, nms in (("without NMS", None), ("with NMS", NMS_IOU))}
    parameters = sum(p.numel() for p in side.parameters())
    return {
        "parameters": parameters,
        "backbone_parameters": sum(p.numel() for p in contender(DetrSide.label, 0, scenes).model.backbone.parameters()),
        "tries": {f"{rate:g}": tried[-1]["ap"] for rate, tried in tries.items()},
        "rate": chosen,
        "curve": curve,
        "test": {name: report.to_dict() for name, report in reports.items()},
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0, help="of CPU time, for the full run of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "race", help="folder of the finished runs")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    scenes = replace(ToyboxConfig(), size=64)
    sides, ratios = anchors(scenes)
    result = {
        "command": f"python data/race.py --minutes {options.minutes:g}",
        "seed": options.seed,
        "device": f"CPU ({platform.machine()}), 1 thread, torch {torch.__version__}, "
        f"torchvision {torchvision.__version__}",
        "date": date.today().isoformat(),
        "minutes": options.minutes,
        "rates": RATES,
        "anchors": {"sides_px": sides, "height_to_width": [round(ratio, 2) for ratio in ratios]},
        "nms_iou": NMS_IOU,
    }
    for label in (DetrSide.label, FasterSide.label):
        result[label] = race(label, options.minutes * 60, options.seed, scenes, options.out)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "race.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
