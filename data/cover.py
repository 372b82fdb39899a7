"""The covering experiment of notebook 11 at full size: python data/cover.py (six to twelve minutes on one thread).

Executes the notebook's cells that are tagged "cover", the very ones that a reader sees, on 800 detections of the
toybox model in validation scenes drawn by lot, and writes data/results/cover/cover.json: for each detection how far
its class probability falls when a set of tokens is covered, and whether the object is still found; and, over fewer
scenes, whether the map ranks the tokens of a box as covering them one by one does. With the command, the seed, the
device, the date, and a fingerprint of the cells.
"""

import argparse
import json
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch
from records import device, fingerprint, rounded, tagged_code
from scipy.stats import rankdata
from torchvision.transforms.v2.functional import gaussian_blur

from detr_mini import checkpoints
from detr_mini.backbones import normalization
from detr_mini.boxes import cxcywh_to_xyxy, iou
from detr_mini.datasets.toybox import NAMES, Toybox, ToyboxConfig
from detr_mini.detection import detections

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "notebooks" / "11_attention_maps.ipynb"
RESULTS = ROOT / "data" / "results" / "cover"
TAG = "cover"
SEED, DETECTIONS, SWEPT = 0, 800, 60
SCENES = Toybox(ToyboxConfig(size=96, objects=(1, 8)), 1000, seed=0, split="val")
ORDER = np.random.default_rng(SEED).permutation(len(SCENES)).tolist()


def source() -> str:
    """The code of the tagged cells, in order; raises RuntimeError where there is none."""
    return tagged_code(NOTEBOOK, TAG)


def names(code: str) -> dict:
    """What the cells define, given the imports and the normalisation that stand above them in the notebook."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in normalization("tiny"))
    given = {"np": np, "torch": torch, "rankdata": rankdata, "gaussian_blur": gaussian_blur, "NAMES": NAMES}
    given |= {"cxcywh_to_xyxy": cxcywh_to_xyxy, "iou": iou, "detections": detections, "mean": mean, "std": std}
    exec(compile(code, NOTEBOOK.name, "exec"), given)
    return given


def cover(cells: dict, model: torch.nn.Module, count: int) -> tuple[list[dict], list[int]]:
    """Rows of `count` detections, taken scene by scene in a seeded order, and the scene of each."""
    dice, rows, scene_of = torch.Generator().manual_seed(SEED), [], []
    for index in ORDER:
        if len(rows) >= count:
            break
        here = cells["cover_scene"](model, SCENES[index][0] / 255, dice)
        rows, scene_of = rows + here, scene_of + [index] * len(here)
    return rows[:count], scene_of[:count]


def ranks(cells: dict, model: torch.nn.Module, scenes: int) -> dict[str, list]:
    """For each detection in so many scenes, how the ranks of a map agree with those of covering one token."""
    agree: dict[str, list] = {"scene": [], "last layer": [], "all layers": [], "nearness to the middle": []}
    for index in ORDER[:scenes]:
        image = SCENES[index][0] / 255
        with torch.inference_mode():
            output = model(((image - cells["mean"]) / cells["std"])[None], return_attention=True)
        (found,) = detections(output, [image.shape[-2:]], NAMES)
        after = cells["sweep"](model, image) if len(found) else None
        for query, label, score, box in zip(
            found.queries, found.labels, found.scores, found.boxes_xyxy_px, strict=True
        ):
            maps = output.attention.decoder[:, 0, :, query].mean(1).unflatten(1, output.attention.feature_size)
            weights = {"last": maps[-1], "mean": maps.mean(0)}
            by, inside = cells["orders"](weights, box, torch.Generator().manual_seed(SEED))
            if inside < 8:
                continue
            middle = by["middle of the box"][0]
            where, drop = middle > 1, score - after[:, :, query, label]  # 10 was added inside
            agree["scene"].append(index)
            agree["last layer"].append(cells["agreement"](maps[-1], drop, where))
            agree["all layers"].append(cells["agreement"](maps.mean(0), drop, where))
            agree["nearness to the middle"].append(cells["agreement"](middle, drop, where))
    return agree


def measure(count: int, swept: int) -> dict:
    """What the JSON file holds."""
    changed = [] if count == DETECTIONS else ["--detections", str(count)]
    changed += [] if swept == SWEPT else ["--swept", str(swept)]
    code, start = source(), time.perf_counter()
    cells, model = names(code), checkpoints.load("toybox").model.eval()
    rows, scene_of = cover(cells, model, count)
    kinds = {
        what: {kind: {n: [row[what][kind][n] for row in rows] for n in rows[0][what][kind]} for kind in rows[0][what]}
        for what in ("drop", "lost")
    }
    return {
        "command": " ".join(["python data/cover.py", *changed]),
        "seed": SEED,
        "checkpoint": "toybox",
        "device": device(),
        "date": date.today().isoformat(),
        "cells": fingerprint(code),
        "scene": scene_of,
        "score": [row["score"] for row in rows],
        "inside": [row["inside"] for row in rows],
        **kinds,
        "ranks": ranks(cells, model, swept),
        "minutes": round((time.perf_counter() - start) / 60, 1),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detections", type=int, default=DETECTIONS)
    parser.add_argument("--swept", type=int, default=SWEPT, help="scenes in which tokens are covered one by one")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    measured = measure(options.detections, options.swept)
    options.out.mkdir(parents=True, exist_ok=True)
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in rounded(measured, 3).items()]
    (options.out / "cover.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
