"""The left-of experiment: the script runs the notebook's own cells, and the stored runs are those of the cells."""

import importlib.util
import json
import subprocess
from pathlib import Path

import nbformat
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("left_of", ROOT / "data" / "left_of.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def cells(script):
    """The names that the notebook's tagged cells define."""
    names: dict = {}
    exec(script.source(), names)
    return names


@pytest.fixture(scope="module")
def stored(script):
    return json.loads((script.RESULTS / "left_of.json").read_text(encoding="utf-8"))


def test_a_short_run_writes_all_that_the_notebook_reads(script, tmp_path):
    script.main(["--seeds", "5", "--steps", "10", "--out", str(tmp_path / "left-of")])
    written = json.loads((tmp_path / "left-of" / "left_of.json").read_text(encoding="utf-8"))
    assert written["seeds"] == [5] and written["steps"] == 10
    assert written["command"] == "python data/left_of.py --seeds 5 --steps 10"
    assert written["cells"] == script.fingerprint(script.source())
    assert list(written["accuracy"]) == list(written["curves"])
    for setting, curves in written["curves"].items():
        assert [step for step, _ in curves[0]] == list(range(1, 11))
        assert written["accuracy"][setting] == [curves[0][-1][1]]


def test_the_stored_runs_are_those_of_the_notebooks_cells(script, stored):
    assert stored["command"] == "python data/left_of.py" and stored["date"] and stored["device"]
    assert stored["cells"] == script.fingerprint(script.source()), "run python data/left_of.py again"
    assert len(stored["seeds"]) >= 3
    assert all(len(values) == len(stored["seeds"]) for values in stored["accuracy"].values())


def test_the_claims_hold_on_the_stored_runs(stored):
    accuracy = stored["accuracy"]
    for setting in ("sine", "learned", "convnet, zeros", "convnet, replicate"):
        assert min(accuracy[setting]) > 0.95
    for setting in ("no positions", "convnet, circular"):
        assert max(accuracy[setting]) < 0.70


def test_a_notebook_without_the_cells_is_an_error(script, tmp_path, monkeypatch):
    nbformat.write(new_notebook(cells=[new_code_cell("1")]), tmp_path / "empty.ipynb")
    monkeypatch.setattr(script, "NOTEBOOK", tmp_path / "empty.ipynb")
    with pytest.raises(RuntimeError, match="no code cell tagged 'left-of'"):
        script.source()


def test_git_keeps_the_script():
    ignored = subprocess.run(["git", "check-ignore", "-q", "data/left_of.py"], cwd=ROOT)
    assert ignored.returncode in (1, 128), "1: not ignored; 128: no repository here"


def test_a_left_edge_says_nothing_about_its_column(cells):
    """Columns differ, the answer is the smaller one's, and what a twin shows are the same patches."""
    images, answers, column = cells["draw"](400, seed=1)
    assert (column[:, 0] != column[:, 1]).all() and column.min() == 0 and column.max() == 5
    assert 0.4 < answers.float().mean() < 0.6
    moved = cells["twins"](images, column)
    patches = [torch.nn.functional.unfold(each, 4, stride=4).transpose(1, 2) for each in (images, moved)]
    for before, after in zip(*patches, strict=True):
        assert sorted(before.tolist()) == sorted(after.tolist())
    assert torch.equal(cells["twins"](moved, column.flip(1)), images)


@pytest.mark.parametrize("setting", ["no positions", "convnet, circular"])
def test_without_positions_a_twin_gets_the_same_answer(cells, setting):
    torch.manual_seed(0)
    model = cells["LeftOf"](**cells["SETTINGS"][setting])
    images, _, column = cells["draw"](20, seed=2)
    with torch.no_grad():
        here, there = (model(each)[0] for each in (images, cells["twins"](images, column)))
    torch.testing.assert_close(here, there, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("setting", ["sine", "learned", "convnet, zeros", "convnet, replicate"])
def test_with_positions_it_does_not(cells, setting):
    torch.manual_seed(0)
    model = cells["LeftOf"](**cells["SETTINGS"][setting])
    images, _, column = cells["draw"](20, seed=2)
    with torch.no_grad():
        here, there = (model(each)[0] for each in (images, cells["twins"](images, column)))
    assert (here - there).abs().max() > 2e-5, "against rounding of 1e-7"


def test_no_token_sees_both_toys(cells):
    """What changes in the lower half changes no token of the upper."""
    torch.manual_seed(0)
    model = cells["LeftOf"](**cells["SETTINGS"]["convnet, zeros"])
    images, _, _ = cells["draw"](4, seed=3)
    other = images.clone()
    other[:, :, 16:] = 0
    with torch.no_grad():
        before, after = (model.mix(model.patches(each)) for each in (images, other))
    assert torch.equal(before[:, :, :4], after[:, :, :4]) and not torch.equal(before, after)
