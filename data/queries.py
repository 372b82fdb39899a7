"""The long measurements of notebook 12: python data/queries.py (about twenty minutes on a core of its own).

Executes the notebook's cells that are tagged "queries", the very ones that a reader sees, and writes one file for each
part to data/results/queries/: what was measured, with the command, the seed, the device, the date, the minutes, and a
fingerprint of the cells' functions. `python data/queries.py counting` makes one part alone.
"""

import argparse
import ast
import json
import tempfile
import time
from datetime import date
from pathlib import Path

import torch
from records import device, fingerprint, rounded, tagged_code

from detr_mini import checkpoints, evaluation
from detr_mini.backbones import normalization
from detr_mini.datasets.batches import collate
from detr_mini.datasets.toybox import Toybox, ToyboxConfig
from detr_mini.detr import DETRConfig
from detr_mini.training import TrainConfig, Trainer

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "notebooks" / "12_queries_and_assignments.ipynb"
RESULTS = ROOT / "data" / "results" / "queries"
TAG = "queries"
STEPS, POINTS = 2000, 50  # of the short training, and how often it is looked at
USED_TO = 400  # steps to get used to being alone
MATCHED, FILMED = 64, 6  # validation scenes whose match, and of these whose boxes are kept as well
SCENES = 200  # for each number of objects shown
CROWD = (1, 2, 4, 6, 8, 10, 12, 16, 20, 24, 30, 35, 40)  # giraffes
GRIDS = {7: (1, 4, 8, 12, 16, 20, 25, 30, 36, 42, 49), 5: (1, 4, 8, 12, 16, 20, 25)}  # cells along a side: objects
MANY = (1, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20)  # objects for the model with ten queries


def cells() -> tuple[dict, str]:
    """The names that the tagged cells define, and a fingerprint of the functions; RuntimeError if none is tagged."""
    code, names = tagged_code(NOTEBOOK, TAG), {}
    exec(compile(code, NOTEBOOK.name, "exec"), names)
    functions = [ast.dump(node) for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)]
    return names, fingerprint("\n".join(functions))


def train(names: dict, steps: int, points: int) -> dict:
    """Train the mini for a short while and keep, at each point, who took which object, and some answers."""
    val, kept = Toybox(length=MATCHED, split="val"), []
    mean, std = normalization("tiny")
    batch = collate([val[index] for index in range(MATCHED)], mean, std, 20)
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig.mini(steps=steps, eval_every=1 / points)
        run = Path(folder) / "run"
        trainer = Trainer(DETRConfig.mini(), config, Toybox(length=None), val, run, device="cpu", progress=False)

        def look(record: dict) -> None:
            if "eval" in record:
                kept.append(point(trainer, batch, record["step"], record["eval"]["ap50"]))

        trainer.callback = look
        kept.append(point(trainer, batch, 0, None))
        trainer.run()
    return {"steps": steps, "points": kept}


def get_used(names: dict, steps: int) -> dict:
    """The shipped mini after some more steps, with its queries' self-attention open, and with it shut."""
    start, test, found = checkpoints.load("toybox-mini"), Toybox(split="test"), {}
    config = TrainConfig.mini(steps=steps, lr=3e-4, backbone_lr=3e-4)
    for name in ("as trained", "alone"):
        with tempfile.TemporaryDirectory() as folder:
            parts = (start.model.config, config, Toybox(length=None, seed=1), None, Path(folder) / "run")
            trainer = Trainer(*parts, device="cpu", start_from=start, progress=False)
            names["rewire"](trainer.model, names["WAYS"][name])
            before = layers_of(names, trainer.model, test)
            trainer.run()
            found[name] = {"before": before, "after": layers_of(names, trainer.model, test)}
    return {"steps": steps, "scenes": len(test), "ways": found}


@torch.no_grad()
def point(trainer: Trainer, batch, step: int, ap50: float | None) -> dict:
    """One look at a model in training: matches as the log has them, answers to the filmed scenes, spread of boxes."""
    matches = trainer.matches_of_fixed_images(MATCHED)
    trainer.model.eval()
    output = trainer.model(batch.images)
    boxes, score = output.last_boxes, 1 - output.last_logits.softmax(-1)[..., -1]  # (64, Q, 4), (64, Q)
    over_images, over_queries = boxes.std(0).mean(), boxes.std(1).mean()
    answers = {
        str(index + 1): {"boxes": rounded(boxes[index].tolist(), 3), "object": rounded(score[index].tolist(), 2)}
        for index in range(FILMED)
    }
    return {
        "step": step,
        "ap50": ap50,
        "spread": rounded([float(over_images), float(over_queries)], 4),
        "matches": {str(image): match for image, match in matches.items()},
        "answers": answers,
    }


def layers_of(names: dict, model, scenes: Toybox) -> dict:
    """For each decoder layer: objects shown and found, detections, repeated claims; AP without NMS and with it."""
    samples = [scenes[index] for index in range(len(scenes))]
    output = names["answer"](model, [image for image, _ in samples])
    targets = [target for _, target in samples]
    tallies = [names["tally"](output, targets, layer) for layer in range(len(output.logits))]
    reports = evaluation.evaluate_layers(model, scenes, nms_iou=0.5, batch_size=50, progress=False)
    pairs = zip(reports[::2], reports[1::2], strict=True)
    return {"layers": tallies, "ap": [rounded({"plain": a.ap, "nms": b.ap}, 4) for a, b in pairs]}


def switch(names: dict) -> dict:
    """The shipped model with its queries' self-attention as trained, shut, and fed with another image's queries."""
    loaded = checkpoints.load("toybox")
    test = Toybox(ToyboxConfig(size=96, objects=(1, 8)), 1000, split="test")
    found = {}
    for name in ("as trained", "alone", "wrong company"):
        with names["rewired"](loaded.model, names["WAYS"][name]):
            found[name] = layers_of(names, loaded.model, test)
    return {"scenes": 1000, "ways": found}


def counted(names: dict, model, config: ToyboxConfig, scenes: int) -> dict:
    """Objects found in each scene, detections, and what the answers to the next scene would have found."""
    toybox = Toybox(config, scenes, split="test")
    samples = [toybox[index] for index in range(scenes)]
    output = names["answer"](model, [image for image, _ in samples])
    targets = [target for _, target in samples]
    claims = names["claims"](output, targets, len(output.logits) - 1)
    luck = names["claims"](output, targets[1:] + targets[:1], len(output.logits) - 1)
    side = torch.cat([target["boxes"][:, 2:].prod(1).sqrt() for target in targets]).mean() * config.size
    return {
        "shown": config.objects[0],
        "side_px": round(float(side), 1),
        "found": [int((claim > 0).sum()) for claim, _ in claims],
        "said": [said for _, said in claims],
        "by_chance": [int((claim > 0).sum()) for claim, _ in luck],
    }


def counting(names: dict, scenes: int) -> dict:
    """More objects than training ever showed: giraffes in a crowd, one kind on a grid, and few of the same size."""
    model, curves = checkpoints.load("toybox").model, {"crowd": [], "few": []}
    for shown in CROWD:
        crowd = ToyboxConfig(size=96, objects=(shown, shown), classes=("giraffe",), mode="crowd")
        curves["crowd"].append(counted(names, model, crowd, scenes))
        high = min(0.75, 1.1 / shown**0.5)  # sizes as the crowd has them, but four giraffes
        few = ToyboxConfig(size=96, objects=(4, 4), classes=("giraffe",), scale=(max(0.15, high / 1.5), high))
        if shown >= 4:
            curves["few"].append(counted(names, model, few, scenes) | {"like": shown})
    for side, numbers in GRIDS.items():
        grids = (ToyboxConfig(size=96, objects=(shown, shown), mode="grid", grid=side) for shown in numbers)
        curves[f"grid {side}"] = [counted(names, model, grid, scenes) for grid in grids]
    return {"scenes": scenes, "curves": curves}


def few_queries(names: dict, scenes: int) -> dict:
    """The model with ten queries, and the one with fifty, on ever more objects; sizes between 0.15 and 0.25."""
    curves = {}
    for name, size in (("toybox-mini", 64), ("toybox", 96)):
        model = checkpoints.load(name).model
        shared = {"size": size, "scale": (0.15, 0.25), "max_overlap": 0.3}
        configs = (ToyboxConfig(objects=(shown, shown), **shared) for shown in MANY)
        curves[name] = [counted(names, model, config, scenes) for config in configs]
    return {"scenes": scenes, "curves": curves}


PARTS = {  # about so many minutes on a core of its own
    "timeline": lambda names, o: train(names, o.steps, o.points),  # 8
    "alone": lambda names, o: get_used(names, o.used),  # 4
    "switch": lambda names, o: switch(names),  # 3
    "counting": lambda names, o: counting(names, o.scenes),  # 3
    "few": lambda names, o: few_queries(names, o.scenes),  # 1
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=[], help=f"of {', '.join(PARTS)}; all unless named")
    parser.add_argument("--steps", type=int, default=STEPS, help="of the short training")
    parser.add_argument("--used", type=int, default=USED_TO, help="steps to get used to being alone")
    parser.add_argument("--points", type=int, default=POINTS, help="how often a training is looked at")
    parser.add_argument("--scenes", type=int, default=SCENES, help="for each number of objects")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    options.out.mkdir(parents=True, exist_ok=True)
    names, fingerprint = cells()
    for part in options.parts or PARTS:
        start = time.perf_counter()
        measured = PARTS[part](names, options)
        facts = {
            "command": " ".join(["python data/queries.py", part, *changes(options)]),
            "seed": 0,
            "device": device(),
            "date": date.today().isoformat(),
            "minutes": round((time.perf_counter() - start) / 60, 1),
            "cells": fingerprint,
        }
        write(options.out / f"{part}.json", facts | measured)
        print(f"{part}: {facts['minutes']} minutes", flush=True)


def changes(options: argparse.Namespace) -> list[str]:
    """The options that are not the defaults, as they were typed."""
    defaults = {"steps": STEPS, "used": USED_TO, "points": POINTS, "scenes": SCENES}
    changed = [name for name, value in defaults.items() if getattr(options, name) != value]
    return [text for name in changed for text in (f"--{name}", str(getattr(options, name)))]


def write(path: Path, content: dict) -> None:
    """JSON with one line for each point, layer or curve."""
    lines = [f" {json.dumps(key)}: {_lines(value)}" for key, value in content.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _lines(value) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n  " + ",\n  ".join(json.dumps(each, separators=(",", ":")) for each in value) + "\n ]"
    return json.dumps(value)


if __name__ == "__main__":
    main()
