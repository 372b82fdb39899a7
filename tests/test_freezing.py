"""Frozen or trained backbone, for notebook 13: the script writes what the notebook reads; the claims hold."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("freezing", ROOT / "data" / "freezing.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def stored(script):
    return json.loads((script.RESULTS / "freezing.json").read_text(encoding="utf-8"))


def test_the_stored_claims_hold(script, stored):
    assert stored["command"] == "python data/freezing.py" and stored["date"] and stored["device"]
    assert list(stored["runs"]) == list(script.SETTINGS) and stored["steps"] == script.STEPS
    trained, frozen = stored["runs"].values()
    assert [len(run["losses"]) for run in (trained, frozen)] == [script.STEPS] * 2
    assert trained["trained"] > 3 * frozen["trained"] and trained["seconds"] > 1.2 * frozen["seconds"]
    assert trained["ap50"] > 2 * frozen["ap50"] and trained["ap"] > 1.5 * frozen["ap"]
    assert sum(loss for _, loss in trained["losses"][-30:]) < sum(loss for _, loss in frozen["losses"][-30:])


def test_a_short_run_writes_what_the_notebook_reads(script, stored, photos, tmp_path, monkeypatch):
    pytest.importorskip("timm")
    monkeypatch.setenv("DETR_MINI_DATA", str(photos("cards").parent))
    script.main(["--steps", "1", "--out", str(tmp_path / "freezing")])
    written = json.loads((tmp_path / "freezing" / "freezing.json").read_text(encoding="utf-8"))
    assert written["command"] == "python data/freezing.py --steps 1" and set(written) == set(stored)
    for name, run in written["runs"].items():
        assert set(run) == set(stored["runs"][name]) and run["trained"] == stored["runs"][name]["trained"]
