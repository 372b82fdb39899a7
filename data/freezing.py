"""Freeze the backbone or not, for notebook 13: python data/freezing.py (about twelve minutes on one thread).

Fine-tunes from toybox-mini on the playing cards twice, with the same seed and the same images: once with the last two
stages of the pretrained backbone trained, as the recipe for photographs does, once with the whole backbone frozen.
Needs the photographs (DETR_MINI_DATA, or detr-mini download cards). Writes data/results/freezing/freezing.json: loss
by step, AP on the 44 validation photographs at the end, seconds, numbers of trained parameters.
"""

import argparse
import json
import os
import tempfile
from datetime import date
from pathlib import Path

from records import device

from detr_mini import checkpoints
from detr_mini.datasets import transforms
from detr_mini.datasets.coco import open_split
from detr_mini.detr import DETRConfig
from detr_mini.evaluation import evaluate
from detr_mini.training import TrainConfig, Trainer

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "data" / "results" / "freezing"
SETTINGS = {"last two stages trained": {}, "backbone frozen": {"backbone_lr": 0.0}}
STEPS, SIDES = 400, {"short_side": 192, "long_side": 320}  # px, smaller than the recipe's, for speed


def train(changes: dict, steps: int, cards: Path, out: Path) -> dict:
    """One run from toybox-mini; what it measured."""
    config = TrainConfig.photos(steps=steps, warmup=20, **SIDES, **changes)
    training = open_split(cards, "train", transforms.photos_training(**SIDES))
    validation = open_split(cards, "val", transforms.evaluation(**SIDES))
    losses = []
    trainer = Trainer(
        DETRConfig.mini(backbone="efficientnet_lite0", num_classes=len(training.names)),
        config,
        training,
        None,
        out,
        device="cpu",
        start_from=checkpoints.load("toybox-mini"),
        callback=lambda record: losses.append([record["step"], round(record["loss"], 2)]),
        progress=False,
    )
    trainer.run()
    report = evaluate(trainer.model, validation, progress=False)
    return {
        "losses": losses,
        "ap": round(report.ap, 4),
        "ap50": round(report.ap50, 4),
        "images": report.images,
        "seconds": round(trainer.seconds, 1),
        "trained": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=STEPS, help="fewer, to try the script")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    cards = Path(os.environ.get("DETR_MINI_DATA", ROOT / "data")) / "cards"
    runs = {}
    for name, changes in SETTINGS.items():
        with tempfile.TemporaryDirectory() as folder:
            runs[name] = train(changes, options.steps, cards, Path(folder) / "run")
        print(name, runs[name]["ap"], runs[name]["seconds"], flush=True)
    result = {
        "command": "python data/freezing.py" + (f" --steps {options.steps}" if options.steps != STEPS else ""),
        "seed": 0,
        "steps": options.steps,
        "device": device(),
        "date": date.today().isoformat(),
        "minutes": round(sum(run["seconds"] for run in runs.values()) / 60, 1),
        "runs": runs,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in result.items()]
    (options.out / "freezing.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
