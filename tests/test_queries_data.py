"""The long measurements of notebook 12: the script runs the notebook's own cells, and the stored claims hold."""

import importlib.util
import json
import subprocess
from pathlib import Path

import nbformat
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook

from detr_mini import checkpoints
from detr_mini.datasets.toybox import Toybox, ToyboxConfig
from detr_mini.detr import DETROutput
from detr_mini.plots import queries as plots

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("timeline", "alone", "switch", "counting", "few")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("queries_data", ROOT / "data" / "queries.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def cells(script):
    """The names that the notebook's tagged cells define."""
    return script.cells()[0]


@pytest.fixture(scope="module")
def stored(script):
    return {part: json.loads((script.RESULTS / f"{part}.json").read_text(encoding="utf-8")) for part in PARTS}


def share(point: dict) -> float:
    return sum(point["found"]) / (point["shown"] * len(point["found"]))


@pytest.mark.parametrize("part", PARTS)
def test_the_stored_numbers_are_those_of_the_notebooks_cells(script, stored, part):
    assert stored[part]["command"] == f"python data/queries.py {part}", "at full length"
    assert stored[part]["date"] and stored[part]["device"] and stored[part]["minutes"] > 0 and stored[part]["seed"] == 0
    assert stored[part]["cells"] == script.cells()[1], f"run python data/queries.py {part} again"


def test_a_short_run_writes_what_the_notebook_reads(script, stored, tmp_path):
    script.main(["timeline", "few", "--steps", "2", "--points", "2", "--scenes", "3", "--out", str(tmp_path)])
    written = json.loads((tmp_path / "timeline.json").read_text(encoding="utf-8"))
    assert written["command"] == "python data/queries.py timeline --steps 2 --points 2 --scenes 3"
    assert [point["step"] for point in written["points"]] == [0, 1, 2]
    assert set(written["points"][1]) == set(stored["timeline"]["points"][1])
    assert plots.timeline(written["points"]).owners.shape == (3, 3, _objects(script))
    few = json.loads((tmp_path / "few.json").read_text(encoding="utf-8"))
    assert [len(p["found"]) for p in few["curves"]["toybox"]] == [3] * len(script.MANY)
    assert set(few["curves"]) == set(stored["few"]["curves"])


def _objects(script) -> int:
    val = Toybox(length=script.MATCHED, split="val")
    return sum(len(val[index][1]["labels"]) for index in range(script.MATCHED))


def test_an_unknown_part_is_an_error(script, capsys):
    with pytest.raises(SystemExit):
        script.main(["everything"])
    assert "no part everything" in capsys.readouterr().err


def test_a_notebook_without_the_cells_is_an_error(script, tmp_path, monkeypatch):
    nbformat.write(new_notebook(cells=[new_code_cell("1")]), tmp_path / "empty.ipynb")
    monkeypatch.setattr(script, "NOTEBOOK", tmp_path / "empty.ipynb")
    with pytest.raises(RuntimeError, match="no code cell tagged 'queries'"):
        script.cells()


def test_git_keeps_the_script():
    ignored = subprocess.run(["git", "check-ignore", "-q", "data/queries.py"], cwd=ROOT)
    assert ignored.returncode in (1, 128), "1: not ignored; 128: no repository here"


# what the cells do


def test_claims_count_every_detection_once(cells):
    """Two detections on the first object, one of the wrong class on the second, one beside everything, one silent."""
    true = torch.tensor([[0.3, 0.3, 0.2, 0.2], [0.7, 0.7, 0.2, 0.2]])
    boxes = torch.stack([true[0], true[0] + 0.02, true[1], torch.tensor([0.1, 0.9, 0.1, 0.1]), true[1]])
    logits = torch.full((5, 4), -9.0)
    logits[range(5), [0, 0, 0, 0, 3]] = 9.0  # the last says no object
    output = DETROutput(logits[None, None], boxes[None, None])
    target = [{"boxes": true, "labels": torch.tensor([0, 1])}]
    ((claim, said),) = cells["claims"](output, target)
    assert claim.tolist() == [2, 0] and said == 4
    assert cells["tally"](output, target) == {"shown": 2, "found": 1, "said": 4, "again": 1}


def test_wrong_company_is_the_usual_attention_where_the_other_image_is_the_same(cells):
    attention = checkpoints.load("toybox").model.transformer.decoder.layers[1].self_attn
    x, codes = torch.randn(2, 1, 50, 96, generator=torch.Generator().manual_seed(0))
    twice, placed = x.expand(3, -1, -1), (x + codes).expand(3, -1, -1)
    with torch.no_grad():
        usual, _ = attention(placed, placed, twice)
        company, _ = cells["wrong_company"](attention, placed, placed, twice)
    torch.testing.assert_close(company, usual, atol=1e-5, rtol=1e-4)


def test_wrong_company_hears_itself_and_the_other_image(cells):
    attention = checkpoints.load("toybox").model.transformer.decoder.layers[1].self_attn
    x = torch.randn(2, 6, 96, generator=torch.Generator().manual_seed(1))
    changed = x.clone()
    changed[1, 4] += 1
    with torch.no_grad():
        before, after = (cells["wrong_company"](attention, each, each, each)[0] for each in (x, changed))
    moved = (before - after).abs().amax(-1) > 1e-4  # (2, 6)
    assert moved[0].tolist() == [True] * 4 + [False, True], "all hear image 1's query 4 but the one in its place"
    assert moved[1].tolist() == [False] * 4 + [True, False], "in its own image only itself"


def test_rewired_gives_the_model_back(cells):
    model = checkpoints.load("toybox").model
    images = [Toybox(ToyboxConfig(size=96, objects=(1, 8)), 2, split="val")[index][0] for index in range(2)]
    before = cells["answer"](model, images).boxes
    with pytest.raises(KeyError), cells["rewired"](model, cells["only_self"]):
        assert not torch.allclose(cells["answer"](model, images).boxes, before, atol=1e-3)
        raise KeyError
    assert torch.equal(cells["answer"](model, images).boxes, before)


# what the notebook claims


def test_claims_about_the_timeline_hold(stored):
    run = plots.timeline(stored["timeline"]["points"])
    coarse = plots.timeline(stored["timeline"]["points"][::10])
    assert len(run.steps) == 51 and run.steps[-1] == stored["timeline"]["steps"] == 2000
    assert run.changed[:, -1].sum() > 3 * coarse.changed[:, -1].sum()
    assert run.instability[:10].mean() > 2 * run.instability[-10:].mean()


def test_claims_about_the_switch_hold(stored):
    ways = stored["switch"]["ways"]
    rate = {name: [t["again"] / t["found"] for t in way["layers"]] for name, way in ways.items()}
    assert rate["as trained"][-1] < 0.6 * rate["as trained"][0]
    assert rate["wrong company"][-1] > 3 * rate["as trained"][-1]
    assert ways["wrong company"]["layers"][-1]["found"] > 0.95 * ways["as trained"]["layers"][-1]["found"]
    assert ways["alone"]["layers"][-1]["found"] < 0.6 * ways["as trained"]["layers"][-1]["found"]
    assert len({json.dumps(way["layers"][0]) for way in ways.values()}) == 1, "the first layer does not change"
    gain = [a["nms"] - a["plain"] for a in ways["as trained"]["ap"]]
    assert gain[0] > 0.02 and gain[0] > gain[-1]


def test_claims_about_getting_used_to_it_hold(stored):
    ends = {name: way["after"] for name, way in stored["alone"]["ways"].items()}
    starts = {name: way["before"] for name, way in stored["alone"]["ways"].items()}
    assert starts["alone"]["layers"][0] == starts["as trained"]["layers"][0], "nothing to be shut in the first layer"
    rate = {name: [t["again"] / t["found"] for t in end["layers"]] for name, end in ends.items()}
    assert rate["as trained"] == sorted(rate["as trained"], reverse=True) and rate["alone"] == sorted(rate["alone"])
    assert rate["alone"][-1] > 2.5 * rate["as trained"][-1]
    gain = {name: end["ap"][-1]["nms"] - end["ap"][-1]["plain"] for name, end in ends.items()}
    assert gain["as trained"] < 0 and gain["alone"] > 0.015
    lost = starts["as trained"]["ap"][-1]["plain"] - starts["alone"]["ap"][-1]["plain"]
    back = ends["alone"]["ap"][-1]["plain"] - starts["alone"]["ap"][-1]["plain"]
    assert 0.65 < back / lost < 0.85


def test_claims_about_counting_hold(stored):
    curves = stored["counting"]["curves"]
    crowd = {p["shown"]: p for p in curves["crowd"]}
    few = {p["like"]: p for p in curves["few"]}
    assert share(crowd[24]) < 0.45 and share(few[24]) > 0.75 and share(few[40]) > 0.7
    found = {shown: sum(p["found"]) / len(p["found"]) for shown, p in crowd.items()}
    assert max(found.values()) < 11 and found[40] < 0.6 * max(found.values())
    assert all(max(p["said"]) <= 50 for each in curves.values() for p in each)
    assert all(sum(p["said"]) / len(p["said"]) < 25 for each in curves.values() for p in each)
    assert share(curves["grid 7"][0]) < 0.7 < 0.9 < share(curves["grid 5"][0])
    assert curves["grid 7"][0]["side_px"] < 0.15 * 96 < curves["crowd"][-4]["side_px"]
    assert all(len(p["found"]) == stored["counting"]["scenes"] == 200 for each in curves.values() for p in each)


def test_claims_about_few_queries_hold(stored):
    for name, queries in (("toybox-mini", 10), ("toybox", 50)):
        for point in stored["few"]["curves"][name]:
            assert share(point) <= min(1, queries / point["shown"]) and max(point["found"]) <= queries
    last = {name: share(points[-1]) for name, points in stored["few"]["curves"].items()}
    assert last["toybox-mini"] < 0.3 and last["toybox"] > 0.5
