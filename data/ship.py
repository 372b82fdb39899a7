"""Puts a finished run where the course finds it: python data/ship.py RUN NAME --data toybox|DIR [--half].

Writes data/checkpoints/NAME.safetensors (the best by validation, with --half in float16) and, in data/results/NAME/,
the run's config.json, its log.jsonl with every 20th step and all evaluations, and eval.json: AP on the test split,
of the very file that ships.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from records import shortened

from detr_mini import checkpoints, commands

EVERY = 20  # steps between those that the shipped log keeps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("--data", required=True)
    parser.add_argument("--half", action="store_true")
    options = parser.parse_args()
    loaded = checkpoints.load(options.run)
    shipped = checkpoints.SHIPPED / f"{options.name}.safetensors"
    dtype = torch.float16 if options.half else torch.float32
    checkpoints.save(shipped, loaded.model, loaded.names, loaded.category_ids, loaded.info, dtype)
    results = checkpoints.SHIPPED.parent / "results" / options.name
    results.mkdir(parents=True, exist_ok=True)
    shutil.copy(options.run / "config.json", results)
    records = [json.loads(line) for line in (options.run / "log.jsonl").read_text().splitlines()]
    kept = [rounded(record) for record in records if "eval" in record or record["step"] % EVERY == 0]
    (results / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in kept))
    reports = commands.evaluate(options.name, options.data, split="test", device="cpu")
    (results / "eval.json").write_text(json.dumps([report.to_dict() for report in reports], indent=1) + "\n")
    print(reports[0].table())
    print(f"{shipped.name}: {shipped.stat().st_size / 1e6:.1f} MB, {len(kept)} log records")


def rounded(value):
    """Numbers to 5 digits: a log is for curves."""
    return shortened(value, lambda number: float(f"{number:.5g}"))


if __name__ == "__main__":
    main()
