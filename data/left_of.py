"""The long runs of notebook 04's left-of experiment: python data/left_of.py (about seven minutes on one thread).

Executes the notebook's cells that are tagged "left-of", the very ones that a reader sees, trains every setting with
three seeds, and writes data/results/left-of/left_of.json: the accuracies on the way and at the end, with the
command, the seeds, the device, the date, and a fingerprint of the cells.
"""

import argparse
import json
import time
from datetime import date
from pathlib import Path

from records import device, fingerprint, rounded, tagged_code

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "notebooks" / "04_attention_and_positions.ipynb"
RESULTS = ROOT / "data" / "results" / "left-of"
TAG = "left-of"
SEEDS, STEPS = [0, 1, 2], 1000


def source() -> str:
    """The code of the tagged cells, in order; raises RuntimeError where there is none."""
    return tagged_code(NOTEBOOK, TAG)


def measure(seeds: list[int], steps: int) -> dict:
    """Train every setting of the notebook with every seed; returns what the JSON file holds."""
    changed = [] if seeds == SEEDS else ["--seeds", *map(str, seeds)]
    changed += [] if steps == STEPS else ["--steps", str(steps)]
    code, start = source(), time.perf_counter()
    cells: dict = {}
    exec(compile(code, NOTEBOOK.name, "exec"), cells)
    curves: dict[str, list] = {}
    for setting in cells["SETTINGS"]:
        curves[setting] = [cells["train"](setting, seed, steps)[1] for seed in seeds]
        print(f"{setting:<20}", *(f"{curve[-1][1]:.3f}" for curve in curves[setting]), flush=True)
    return {
        "command": " ".join(["python data/left_of.py", *changed]),
        "seeds": seeds,
        "steps": steps,
        "device": device(),
        "date": date.today().isoformat(),
        "minutes": round((time.perf_counter() - start) / 60, 1),
        "cells": fingerprint(code),
        "accuracy": {setting: [curve[-1][1] for curve in each] for setting, each in curves.items()},
        "curves": curves,
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--steps", type=int, default=STEPS, help="of 64 scenes each, ten or more")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    measured = measure(options.seeds, options.steps)
    options.out.mkdir(parents=True, exist_ok=True)
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in rounded(measured, 4).items()]
    (options.out / "left_of.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
