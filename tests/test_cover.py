"""The covering experiment: the script runs the notebook's own cells, and the stored run is of those cells."""

import importlib.util
import json
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook

ROOT = Path(__file__).resolve().parent.parent
RANDOM = ("random, anywhere", "random, in the box", "random block, in the box")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("cover", ROOT / "data" / "cover.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def cells(script):
    return script.names(script.source())


@pytest.fixture(scope="module")
def stored(script):
    return json.loads((script.RESULTS / "cover.json").read_text(encoding="utf-8"))


def test_a_short_run_writes_all_that_the_notebook_reads(script, stored, tmp_path):
    script.main(["--detections", "3", "--swept", "1", "--out", str(tmp_path)])
    written = json.loads((tmp_path / "cover.json").read_text(encoding="utf-8"))
    assert written["command"] == "python data/cover.py --detections 3 --swept 1"
    assert written.keys() == stored.keys() and written["cells"] == script.fingerprint(script.source())
    assert written["scene"] == stored["scene"][:3] and len(written["score"]) == 3
    for what in ("drop", "lost"):
        for kind in ("grey", "blur"):
            for name, values in written[what][kind].items():
                assert values == pytest.approx(stored[what][kind][name][:3], abs=0.02), name


def test_the_stored_run_is_that_of_the_notebooks_cells(script, stored):
    assert stored["command"] == "python data/cover.py" and stored["date"] and stored["device"]
    assert stored["cells"] == script.fingerprint(script.source()), "run python data/cover.py again"
    count = len(stored["score"])
    assert count >= 200 and len(stored["scene"]) == count and min(stored["inside"]) >= 8
    for what in ("drop", "lost"):
        assert all(len(values) == count for kind in stored[what].values() for values in kind.values())


@pytest.mark.parametrize("kind", ["grey", "blur"])
def test_the_claims_hold_on_the_stored_run(kind, cells, stored):
    drop = {name: np.array(values) for name, values in stored["drop"][kind].items()}
    for name in RANDOM:
        _, low, _ = cells["interval"](drop["most attended"] - drop[name], stored["scene"])
        assert low > 0.1, name
    _, low, high = cells["interval"](drop["most attended"] - drop["middle of the box"], stored["scene"])
    assert high < 0, "the middle of the box does more harm"
    _, low, _ = cells["interval"](drop["most attended, all layers"] - drop["most attended"], stored["scene"])
    assert low > 0
    _, low, high = cells["interval"](drop["most attended, all layers"] - drop["middle of the box"], stored["scene"])
    assert low < 0 < high, "level with the middle"


def test_the_ranks_agree_weakly(cells, stored):
    ranks = stored["ranks"]
    for name in ("last layer", "all layers", "nearness to the middle"):
        _, low, high = cells["interval"](ranks[name], ranks["scene"])
        assert low > 0.1 and high < 0.4


def test_every_set_has_the_same_area_and_keeps_to_its_place(cells):
    weights = torch.rand(12, 12, generator=torch.Generator().manual_seed(0))
    box = torch.tensor([20.0, 20, 68, 60])  # middles of patches at 20 are not inside, at 28 to 60 and to 52 they are
    by, inside = cells["orders"]({"last": weights, "mean": weights}, box, torch.Generator().manual_seed(0))
    assert inside == 5 * 4
    sets = {name: cells["largest"](values, 5) for name, values in by.items()}
    for name, each in sets.items():
        assert (each.flatten(1).sum(1) == 5).all(), name
        within = each[:, 3:7, 3:8].flatten(1).sum(1)
        assert "in the box" not in name and name != "middle of the box" or (within == 5).all(), name
    assert torch.equal(sets["most attended"].flatten().nonzero()[:, 0], weights.flatten().topk(5).indices.sort().values)
    apart = sets["most attended, in the box"] * sets["least attended, in the box"]
    assert not apart.any() and len(sets["random, in the box"]) == 4


@pytest.mark.parametrize("kind", ["grey", "blur"])
def test_a_cover_changes_its_patches_and_nothing_else(kind, cells):
    image = torch.rand(3, 96, 96, generator=torch.Generator().manual_seed(0))
    sets = torch.zeros(2, 12, 12)
    sets[0, 4, 6] = sets[1, 0, 0] = 1
    first, second = cells["covered"](image, sets, kind)
    changed = (first != image).any(0)
    assert changed[32:40, 48:56].float().mean() > 0.95 and changed.sum() <= 64
    assert (second != image).any(0)[:8, :8].any() and not (second != image).any(0)[8:].any()
    if kind == "grey":
        assert torch.equal(first[:, 32:40, 48:56], cells["mean"].expand(3, 8, 8))
    else:
        assert first[:, 32:40, 48:56].std() < image[:, 32:40, 48:56].std() / 2


def test_the_interval_counts_scenes(cells):
    values, scenes = [0.0] * 50 + [1.0] * 50, [0] * 50 + [1] * 50
    assert cells["interval"](values, scenes) == (0.5, 0, 1), "two scenes say little, however many detections"
    mean, low, high = cells["interval"](values, range(100))
    assert mean == 0.5 and 0.35 < low < 0.45 < 0.55 < high < 0.65


def test_agreement_is_a_rank_correlation_where_it_is_asked(cells):
    first = torch.arange(9.0).reshape(3, 3)
    where = torch.ones(3, 3, dtype=torch.bool)
    assert cells["agreement"](first, first**3, where) == pytest.approx(1)
    assert cells["agreement"](first, -first, where) == pytest.approx(-1)
    second = first.clone()
    second[2, 2], where[2, 2] = -100, False
    assert cells["agreement"](first, second, where) == pytest.approx(1)


def test_a_notebook_without_the_cells_is_an_error(script, tmp_path, monkeypatch):
    nbformat.write(new_notebook(cells=[new_code_cell("1")]), tmp_path / "empty.ipynb")
    monkeypatch.setattr(script, "NOTEBOOK", tmp_path / "empty.ipynb")
    with pytest.raises(RuntimeError, match="no code cell tagged 'cover'"):
        script.source()
