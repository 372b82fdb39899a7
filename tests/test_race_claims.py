"""What notebook 10 shows of the race between DETR and Faster R-CNN holds in the stored file, whoever wins."""

import importlib.util
import json
from pathlib import Path

import pytest

from detr_mini.plots import evaluation as plots

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "data" / "results" / "race" / "race.json"


@pytest.fixture(scope="module")
def race():
    return json.loads(FILE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("race", ROOT / "data" / "race.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_file_says_how_it_was_made(race, script):
    assert race["command"].startswith("python data/race.py") and race["device"] and race["date"]
    assert tuple(race["rates"]) == script.RATES and race["nms_iou"] == script.NMS_IOU


def test_there_is_something_to_compare(race):
    """Near zero both would be untrained, and the comparison must not be shown: train longer."""
    best = [race[side]["test"][way]["ap"] for side in plots.SIDES for way in ("without NMS", "with NMS")]
    assert max(best) >= plots.NOTHING
    assert len(plots.verdict(race)) > 1


def test_both_had_the_same_tries_time_and_backbone(race, script):
    ours, theirs = (race[side] for side in plots.SIDES)
    assert set(ours["tries"]) == set(theirs["tries"]) == {f"{rate:g}" for rate in race["rates"]}
    for side in (ours, theirs):
        assert f"{side['rate']:g}" == max(side["tries"], key=side["tries"].get), "the best by validation runs in full"
        assert len(side["curve"]) == script.POINTS
        assert side["curve"][-1]["seconds"] == pytest.approx(60 * race["minutes"], rel=0.02, abs=1.5)
        steps = [point["steps"] for point in side["curve"]]
        assert steps == sorted(steps) and steps[-1] > 0
        for report in side["test"].values():
            assert report["images"] == script.TESTED and report["images_per_second"] > 0
    assert ours["backbone_parameters"] == theirs["backbone_parameters"]
    assert 0.5 < ours["parameters"] / theirs["parameters"] < 2, "of comparable size"


def test_what_the_notebook_says_of_either_outcome(race):
    """Faster R-CNN is built on NMS, DETR is not; each verdict line follows from the numbers."""
    gains = [race[side]["test"]["with NMS"]["ap"] - race[side]["test"]["without NMS"]["ap"] for side in plots.SIDES]
    assert gains[1] > 0, "NMS must help Faster R-CNN"
    assert gains[1] > gains[0]
    for side, gain in zip(plots.SIDES, gains, strict=True):
        assert f"NMS       changes the AP of {side} by {100 * gain:+.1f} points" in plots.verdict(race)
    stretches = plots.leads(race)
    assert all(0 <= start <= stop <= race["minutes"] * 1.02 + 0.05 for _, start, stop in stretches)
    assert all(before[2] <= after[1] + 1e-9 for before, after in zip(stretches, stretches[1:], strict=False))
