"""The ladder of notebook 09: a short run writes what the notebook reads, and the stored one shows what it claims."""

import json
from pathlib import Path

import ladder
import pytest

from detr_mini.plots import training as plots
from detr_mini.runs import read_records

RESULTS = ladder.RESULTS


def test_a_short_run_writes_all_that_the_notebook_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(ladder, "WATCHED", 8)
    monkeypatch.setattr(ladder, "RUNGS", {"one-batch": (4, 2)})
    ladder.main(["--out", str(tmp_path / "runs"), "--results", str(tmp_path / "results"), "--steps", "2"])
    facts = json.loads((tmp_path / "results" / "runs.json").read_text())
    assert facts["command"] == "python data/ladder.py" and facts["runs"]["one-batch"]["steps"] == 2
    records = read_records(tmp_path / "results" / "one-batch.jsonl")
    seen, graded = ([record for record in records if key in record] for key in ("seen", "eval"))
    assert len(seen) == len(graded) == 2 and "ap50" in seen[0]["seen"]


@pytest.mark.parametrize("name", ladder.RUNGS)
def test_the_stored_rungs_are_learned_by_heart(name):
    facts = json.loads((RESULTS / "runs.json").read_text(encoding="utf-8"))
    run = facts["runs"][name]
    assert (run["images"], run["steps"]) == ladder.RUNGS[name]
    assert facts["device"] and run["date"] and run["minutes"] > 0
    rung = plots.rung_of(read_records(RESULTS / f"{name}.jsonl"), name, run["seed"])
    assert rung.log.step[-1] == run["steps"] and len(rung.seen) == len(rung.log.ap50) == 10
    assert rung.seen[-1] > 0.9
    healthy = plots.gallery(Path(RESULTS.parent / "gallery"))["healthy"]
    assert rung.log.ap50[-1] < 0.5 * min(log.ap50[-1] for log in healthy)
