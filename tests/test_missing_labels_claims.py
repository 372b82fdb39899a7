"""What notebook 13 says of missing labels holds on the stored runs, and the script takes away what it says."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from detr_mini.datasets.toybox import Toybox, ToyboxConfig

ROOT = Path(__file__).resolve().parent.parent
SHARES = ("0", "0.2", "0.4")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("missing_labels", ROOT / "data" / "missing_labels.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def stored(script):
    return json.loads((script.RESULTS / "missing_labels.json").read_text(encoding="utf-8"))


def mean(stored: dict, trained: str, tested: str, part: str) -> float:
    return float(np.mean([seed[tested][part] for seed in stored["ap"][trained]]))


def test_the_stored_file_is_whole(stored):
    assert stored["command"] == "python data/missing_labels.py" and stored["date"] and stored["device"]
    assert stored["class"] == "bus" and stored["seeds"] == [0, 1, 2]
    assert tuple(stored["ap"]) == SHARES and stored["test_scenes"] >= 1000 and stored["steps"] >= 2000
    for runs in stored["ap"].values():
        assert len(runs) == len(stored["seeds"])
        for run in runs:
            assert tuple(run) == SHARES
            assert all(0 < part <= 1 for entry in run.values() for part in (entry["class"], entry["others"]))
    assert len(stored["minutes"]) == len(SHARES) * len(stored["seeds"])


@pytest.mark.parametrize("trained", SHARES)
def test_grading_with_missing_labels_lowers_the_ap_of_that_class_alone(stored, trained):
    for run in stored["ap"][trained]:
        assert run["0.4"]["class"] < run["0.2"]["class"] < run["0"]["class"]
        assert abs(run["0.4"]["others"] - run["0"]["others"]) < 0.02
    ratio = mean(stored, trained, "0.4", "class") / mean(stored, trained, "0", "class")
    assert 0.4 < ratio < 0.85, "about the share of labels that is left"


def test_the_script_takes_away_labels_of_the_class_alone_and_about_so_many(script):
    toybox = Toybox(ToyboxConfig(size=32), 300, seed=0, split="test")
    whole = toybox.ground_truth()["annotations"]
    part = script.PartlyLabelled(toybox, "bus", 0.4).ground_truth()["annotations"]
    bus = toybox.category_ids[toybox.names.index("bus")]
    buses = [sum(a["category_id"] == bus for a in annotations) for annotations in (whole, part)]
    assert len(whole) - len(part) == buses[0] - buses[1] and 0.35 < buses[1] / buses[0] < 0.85
