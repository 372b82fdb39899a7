"""The runs of notebook 09, healthy and broken: python data/gallery.py (about two hours on one thread).

Faults in the data, and a learning rate ten times too high, are switched on from the shipped toybox-mini. Faults in
the model or the loss are trained from scratch, for the mini's own 2,500 steps with three seeds, since a part taken
away from a trained model would show the switch and not the fault. Finished runs are skipped and a killed one goes
on, so the command may be given again. `--ship` then writes data/results/gallery/NAME-SEED.jsonl (every 20th step and
all evaluations) and data/results/gallery/runs.json: what each run was, with command, device, date and minutes.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import torch
from records import device
from ship import EVERY, rounded

from detr_mini import backbones, checkpoints, commands
from detr_mini.datasets.batches import Batch, collate
from detr_mini.datasets.toybox import Toybox
from detr_mini.detection import detections, evaluating
from detr_mini.training import Trainer, read_log

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "data" / "results" / "gallery"
START = "toybox-mini"
WATCHED, DRAWN = 300, 4  # validation scenes: judged at each evaluation, kept with their boxes at the end
SURE = 0.5  # score from which a box counts as said


@dataclass(frozen=True)
class Run:
    """A run of the gallery: where it starts, what is set, what is done to its targets."""

    settings: tuple[str, ...] = ()
    spoil: str | None = None  # a key of SPOILS
    scratch: bool = False
    steps: int = 500
    seeds: tuple[int, ...] = (0,)


SCRATCH = {"scratch": True, "steps": 2_500, "seeds": (0, 1, 2)}
RUNS = {
    "tuned": Run(),
    "labels-off-by-one": Run(spoil="labels off by one"),
    "boxes-in-pixels": Run(spoil="boxes in pixels"),
    "corners-for-centres": Run(spoil="corners for centres"),
    "rate-times-ten": Run(("lr=1e-2", "backbone_lr=1e-2")),
    "healthy": Run(**SCRATCH),
    "no-object-weight-1": Run(("loss_weights.no_object=1.0",), **SCRATCH),
    "no-auxiliary-loss": Run(("loss_weights.auxiliary=false",), **SCRATCH),
    "no-positions": Run(("position=none",), **SCRATCH),
}


def off_by_one(target: dict) -> dict:
    """Every label one too high, as when ids that begin with 1 are taken for labels; the last wraps around."""
    return {**target, "labels": (target["labels"] + 1) % len(Toybox.names)}


def in_pixels(target: dict) -> dict:
    """(cx, cy, w, h) in pixels instead of shares of the image."""
    height, width = target["size"]
    return {**target, "boxes": target["boxes"] * torch.tensor([width, height, width, height])}


def corners(target: dict) -> dict:
    """(x1, y1, x2, y2), to be read as (cx, cy, w, h)."""
    cx, cy, w, h = target["boxes"].unbind(1)
    return {**target, "boxes": torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], 1)}


SPOILS = {"labels off by one": off_by_one, "boxes in pixels": in_pixels, "corners for centres": corners}


class GalleryTrainer(Trainer):
    """A trainer that can spoil targets behind the checks of `collate`, and counts what boxes are said."""

    spoil: str | None = None

    def batches(self, only: int | None = None):
        for batch in super().batches(only):
            yield batch if self.spoil is None else spoiled(batch, SPOILS[self.spoil])

    def evaluate(self):
        report = super().evaluate()
        self.write({"step": self.step, "said": self.said()})
        return report

    def said(self) -> dict:
        """Boxes said and objects shown per validation scene, and the first scenes' boxes."""
        samples = [self.val_data[i] for i in range(WATCHED)]
        batch = collate(samples, *backbones.normalization(self.model.config.backbone), len(Toybox.names))
        with evaluating(self.model, self.device):
            output = self.model(batch.images.to(self.device))
        sizes = [target["original_size"] for target in batch.targets]
        found = detections(output, sizes, Toybox.names, threshold=SURE)
        scenes = [
            {"boxes_xyxy_px": one.boxes_xyxy_px.tolist(), "labels": one.labels.tolist(), "scores": one.scores.tolist()}
            for one in found[:DRAWN]
        ]
        return {"a_scene": sum(len(one.scores) for one in found) / WATCHED, "scenes": scenes}


def spoiled(batch: Batch, change: Callable[[dict], dict]) -> Batch:
    return replace(batch, targets=[change(target) for target in batch.targets])


def train(name: str, seed: int, out: Path, steps: int | None = None) -> Path:
    """Trains one run of RUNS with one seed into out/NAME-SEED, going on where it stopped; returns that folder."""
    run, folder = RUNS[name], out / f"{name}-{seed}"
    settings = [*run.settings, f"steps={steps or run.steps}", f"seed={seed}"]
    configs = commands.with_settings(commands.read_config("mini"), settings)
    config, scenes = configs["train"], configs["toybox"]
    trainer = GalleryTrainer(
        configs["model"],
        config,
        Toybox(scenes, None, seed),
        Toybox(scenes, WATCHED, 0, "val"),
        folder,
        device="cpu",
        resume=folder.exists(),
        start_from=None if run.scratch else checkpoints.load(START),
        progress=False,
    )
    trainer.spoil = run.spoil
    return trainer.run()


def order() -> list[tuple[str, int]]:
    """Names and seeds: all runs with their first seed, then all that have a second, and so on."""
    return sorted(((name, seed) for name, run in RUNS.items() for seed in run.seeds), key=lambda pair: pair[1])


def ship(out: Path) -> None:
    """Copies thinned logs of finished runs to RESULTS, and says of each what it was."""
    facts = {}
    for name, seed in order():
        folder = out / f"{name}-{seed}"
        steps, _ = read_log(folder)
        if not steps or steps[-1]["step"] < RUNS[name].steps:
            raise RuntimeError(f"{folder} is not finished: run this without --ship first")
        ship_log(folder, RESULTS / f"{name}-{seed}.jsonl")
        facts[f"{name}-{seed}"] = {
            "start": None if RUNS[name].scratch else START,
            "settings": list(RUNS[name].settings),
            "spoil": RUNS[name].spoil,
            "seed": seed,
            "steps": RUNS[name].steps,
            **when(folder),
        }
    head = {
        "command": "python data/gallery.py",
        "device": device(),
        "scenes": f"{WATCHED} validation scenes of seed 0 judge every run",
        "runs": facts,
    }
    (RESULTS / "runs.json").write_text(json.dumps(head, indent=1) + "\n")


def ship_log(folder: Path, file: Path) -> None:
    """Writes a run's log to `file`: every step in EVERY, and all that is no step."""
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    kept = [thinned(record) for record in records if "loss" not in record or record["step"] % EVERY == 0]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(record) + "\n" for record in kept))


def when(folder: Path) -> dict:
    """A run's minutes, and the day of its last save; going on with a finished run touches its log."""
    day = date.fromtimestamp((folder / "last.safetensors").stat().st_mtime)
    return {"minutes": round(read_log(folder)[1][-1]["seconds_in_all"] / 60, 1), "date": day.isoformat()}


def thinned(record: dict) -> dict:
    """A record without what no curve shows, to five digits."""
    dropped = ("seconds", "waited", "images", "images_per_second")
    return rounded({key: value for key, value in record.items() if key not in dropped})


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "gallery", help="folder of the runs")
    parser.add_argument("--only", nargs="+", choices=list(RUNS), default=list(RUNS), help="some of the runs")
    parser.add_argument("--steps", type=int, help="fewer, to try the script")
    parser.add_argument("--ship", action="store_true")
    options = parser.parse_args(arguments)
    if options.ship:
        return ship(options.out)
    for name, seed in order():
        if name in options.only:
            started = time.perf_counter()
            folder = train(name, seed, options.out, options.steps)
            ap50 = read_log(folder)[1][-1]["eval"]["ap50"]
            print(f"{folder.name:<24} AP50 {ap50:.3f}  {(time.perf_counter() - started) / 60:.1f} min", flush=True)


if __name__ == "__main__":
    main()
