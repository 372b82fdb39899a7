"""What missing labels do, for notebook 13: python data/missing_labels.py (about an hour on one thread).

The mini learns from scratch on scenes in which a share of the buses has no label, three seeds each for 20 and 40 %;
the runs with all labels are the healthy ones of data/gallery.py, which must have been made before. Every model is then
graded on test scenes with all labels, and on the same scenes with the same shares taken away. Finished runs are kept in
--out and a killed one goes on. Writes data/results/missing-labels/missing_labels.json.
"""

import argparse
import json
from datetime import date
from pathlib import Path

import numpy as np
import torch
from records import device
from torch import Tensor
from torch.utils.data import Dataset

from detr_mini import checkpoints, commands, evaluation
from detr_mini.datasets.toybox import Toybox, ToyboxConfig
from detr_mini.training import Trainer, read_log

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "data" / "results" / "missing-labels"
NAME, SHARES, SEEDS = "bus", (0.0, 0.2, 0.4), (0, 1, 2)
TESTED, STEPS = 2_000, 2_500  # scenes that grade, steps of a run


class PartlyLabelled(Dataset):
    """A toybox in which each object of one class has lost its label with a probability, the same ones every time."""

    def __init__(self, toybox: Toybox, name: str, share: float):
        self.toybox, self.label, self.share = toybox, toybox.names.index(name), share
        self.names, self.category_ids, self.config = toybox.names, toybox.category_ids, toybox.config
        self.length, self.size_edges_px = toybox.length, toybox.size_edges_px

    def __len__(self) -> int:
        return len(self.toybox)

    def __getitem__(self, index: int) -> tuple[Tensor, dict]:
        image, target = self.toybox[index]
        kept = torch.from_numpy(self.labelled(target["image_id"], target["labels"].numpy() == self.label))
        return image, {**target, "boxes": target["boxes"][kept], "labels": target["labels"][kept]}

    def labelled(self, image_id: int, of_the_class: np.ndarray) -> np.ndarray:
        """Which objects (T,) bool of an image keep their label; a larger share takes away what a smaller one does."""
        drawn = np.random.default_rng([self.toybox.seed, image_id]).random(len(of_the_class))
        return ~(of_the_class & (drawn < self.share))

    def ground_truth(self) -> dict:
        """COCO's form, without the annotations that were lost."""
        truth = self.toybox.ground_truth()
        category, kept, by_image = self.category_ids[self.label], [], {}
        for annotation in truth["annotations"]:
            by_image.setdefault(annotation["image_id"], []).append(annotation)
        for image_id, annotations in by_image.items():
            of_the_class = np.array([annotation["category_id"] == category for annotation in annotations])
            keep = self.labelled(image_id, of_the_class)
            kept += [annotation for annotation, stays in zip(annotations, keep, strict=True) if stays]
        return truth | {"annotations": kept}


def train(share: float, seed: int, out: Path, steps: int) -> Path:
    """Trains the mini on scenes that lack this share of labels, going on where it stopped; returns the folder."""
    folder = out / f"{round(100 * share)}-{seed}"
    configs = commands.with_settings(commands.read_config("mini"), [f"steps={steps}", f"seed={seed}"])
    scenes = configs["toybox"]
    Trainer(
        configs["model"],
        configs["train"],
        PartlyLabelled(Toybox(scenes, None, seed), NAME, share),
        Toybox(scenes, 300, 0, "val"),
        folder,
        device="cpu",
        resume=folder.exists(),
        progress=False,
    ).run()
    return folder


def grades(folder: Path) -> dict[str, dict]:
    """The last model of a run on test scenes with each share of labels gone: AP of the class and mean of the others."""
    model, found = checkpoints.load(folder / "last.safetensors").model, {}
    for share in SHARES:
        tested = PartlyLabelled(Toybox(ToyboxConfig(), TESTED, 0, "test"), NAME, share)
        per_class = evaluation.evaluate(model, tested, progress=False).per_class
        others = [ap for name, ap in per_class.items() if name != NAME]
        found[f"{share:g}"] = {"class": per_class[NAME], "others": sum(others) / len(others)}
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "missing-labels", help="folder of the runs")
    parser.add_argument("--gallery", type=Path, default=ROOT / "runs" / "gallery", help="data/gallery.py's folder")
    parser.add_argument("--steps", type=int, default=STEPS, help="fewer, to try the script")
    options = parser.parse_args(arguments)
    runs, minutes = {}, {}
    for share in SHARES:
        for seed in SEEDS:
            whole = options.gallery / f"healthy-{seed}"
            folder = train(share, seed, options.out, options.steps) if share else whole
            steps, evaluations = read_log(folder)
            if steps[-1]["step"] < options.steps:
                raise RuntimeError(f"{folder} stopped at step {steps[-1]['step']}: run data/gallery.py first")
            minutes[f"{share:g}-{seed}"] = round(evaluations[-1]["seconds_in_all"] / 60, 1)
            runs.setdefault(f"{share:g}", []).append(grades(folder))
            print(f"{share:.0%} of {NAME} labels gone, seed {seed}: {runs[f'{share:g}'][-1]}", flush=True)
    result = {
        "command": "python data/missing_labels.py",
        "class": NAME,
        "seeds": SEEDS,
        "steps": options.steps,
        "test_scenes": TESTED,
        "device": device(),
        "date": date.today().isoformat(),
        "minutes": minutes,
        "ap": runs,  # by share gone from training: one entry a seed, by share gone from the test labels
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "missing_labels.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
