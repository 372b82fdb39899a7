"""The rungs below a full training, for notebook 09: python data/ladder.py (six minutes on one free core).

The mini learns one batch, and a hundred images, by heart; the rung above them, an endless stream of scenes, is the
healthy run of `data/gallery.py`. Each rung is graded on images it has seen and on the 300 validation scenes that judge
the gallery. Finished rungs are skipped and a killed one goes on. Writes data/results/ladder/NAME.jsonl (every 20th step
and all evaluations) and runs.json: command, device, and of each rung its seed, steps, minutes and date.
"""

import argparse
import json
from pathlib import Path

from gallery import WATCHED, ship_log, when
from records import device

from detr_mini import commands
from detr_mini.datasets.toybox import Toybox
from detr_mini.evaluation import evaluate
from detr_mini.training import Trainer, read_log

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "data" / "results" / "ladder"
RUNGS = {"one-batch": (32, 300), "hundred-images": (100, 1_500)}  # images, steps
SEED = 0


class LadderTrainer(Trainer):
    """A trainer that is graded on its own training images too."""

    def evaluate(self):
        report = super().evaluate()
        own = evaluate(self.model, self.train_data, batch_size=50, device=self.device, progress=False)
        self.write({"step": self.step, "seen": own.to_dict()})
        return report


def train(name: str, out: Path, steps: int | None = None) -> Path:
    """Trains one rung into out/NAME, going on where it stopped; returns that folder."""
    images, length = RUNGS[name]
    settings = [f"steps={steps or length}", f"seed={SEED}"]
    configs = commands.with_settings(commands.read_config("mini"), settings)
    scenes, folder = configs["toybox"], out / name
    trainer = LadderTrainer(
        configs["model"],
        configs["train"],
        Toybox(scenes, images, SEED),
        Toybox(scenes, WATCHED, 0, "val"),
        folder,
        device="cpu",
        resume=folder.exists(),
        progress=False,
    )
    return trainer.run()


def ship(out: Path, results: Path) -> None:
    """Copies thinned logs of the rungs to `results`, and says of each what it was."""
    facts = {}
    for name, (images, _) in RUNGS.items():
        folder = out / name
        ship_log(folder, results / f"{name}.jsonl")
        facts[name] = {
            "images": images,
            "seed": SEED,
            "steps": read_log(folder)[0][-1]["step"],
            **when(folder),
        }
    head = {"command": "python data/ladder.py", "device": device(), "runs": facts}
    (results / "runs.json").write_text(json.dumps(head, indent=1) + "\n")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "ladder", help="folder of the runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the shipped logs")
    parser.add_argument("--steps", type=int, help="fewer, to try the script")
    options = parser.parse_args(arguments)
    for name in RUNGS:
        train(name, options.out, options.steps)
    ship(options.out, options.results)


if __name__ == "__main__":
    main()
