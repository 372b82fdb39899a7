"""Notebook 07's figures draw what they are given; its cells for the published demo work when the file is there."""

import hashlib
import sys
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from detr_mini import download, published
from detr_mini.detr import DETR, DETRConfig
from detr_mini.plots import listing as plots
from detr_mini.plots import style

pytestmark = pytest.mark.usefixtures("no_figure_is_left_in_pyplot")

NOTEBOOK = Path(__file__).resolve().parent.parent / "notebooks" / "07_fifty_lines.ipynb"
CAT = 17  # COCO's id


def texts(figure) -> str:
    found = [text.get_text() for axes in figure.axes for text in (*axes.texts, axes.title, axes.xaxis.label)]
    return "\n".join([*found, figure.get_suptitle()])


def walked(x, times):
    """A docstring binds nothing."""
    y = x.T
    rows, columns = y.shape
    for _ in range(times):
        y = y + 1
    name = "no shape"
    if not name:
        y = None
    return y, x


def test_shapes_are_noted_behind_the_line_that_made_them():
    x = torch.zeros(2, 3)
    steps = plots.shapes_by_line(walked, x, 2)
    bound = {step.source.strip(): step.bound for step in steps}
    assert bound["y = x.T"]["y"] == (3, 2)
    assert bound["rows, columns = y.shape"] == {"rows": 3, "columns": 2}
    assert bound["y = y + 1"]["y"] == (3, 2)
    assert bound['name = "no shape"'] == {} == bound["y = None"]
    assert bound["return y, x"] == {"returns": ((3, 2), (2, 3))}
    lines = plots.annotated(steps).splitlines()
    assert lines[0] == "def walked(x, times):" and lines[-1].endswith("# ((3, 2), (2, 3))")
    assert len({line.index("#") for line in lines if "#" in line}) == 1, "notes stand in one column"


def test_a_methods_indent_is_taken_off():
    class Holder:
        def double(self, x):
            twice = torch.cat([x, x])
            return twice

    lines = plots.annotated(plots.shapes_by_line(Holder().double, torch.zeros(2, 3))).splitlines()
    assert lines[0] == "def double(self, x):"
    assert lines[1].split("  # ")[1] == "twice (4, 3)" and lines[2].endswith("# (4, 3)")


def test_an_error_passes_through_and_the_tracing_ends():
    before = sys.gettrace()
    with pytest.raises(AttributeError):
        plots.shapes_by_line(walked, 3, 1)
    assert sys.gettrace() is before


def test_the_way_shows_every_shape():
    names = ("image", "features", "h", "tokens", "pos", "memory", "queries", "states", "logits", "boxes")
    shapes = {name: (1, 10 + i, 7) for i, name in enumerate(names)}
    written = texts(plots.way_figure(shapes))
    for i, name in enumerate(names):
        assert name in written and f"1 x {10 + i} x 7" in written


def test_answers_are_summed_up():
    logits = torch.zeros(3, 5)
    logits[0, 1] = logits[1, 1] = 2.0
    logits[2, 4] = 9.0  # "no object", so the best class of query 2 is 0
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.5, 0.5, 0.2, 0.4], [0.9, 0.5, 0.6, 0.4]])
    answer = plots.answers_of(logits, boxes)
    assert answer.labels == 2 and answer.classes == 5
    e = np.exp(2)
    assert answer.score[0] == pytest.approx(e / (4 + e)) and answer.nothing[0] == pytest.approx(1 / (4 + e))
    assert answer.nothing[2] > 0.99 > 0.01 > answer.score[2]
    assert answer.boxes_xyxy[0] == pytest.approx([0.4, 0.3, 0.6, 0.7])
    assert answer.boxes_xyxy[2] == pytest.approx([0.6, 0.3, 1.0, 0.7]), "cut at the border"
    assert answer.spread == pytest.approx(
        np.mean([np.std([0.5, 0.5, 0.9], ddof=1), 0, np.std([0.2, 0.2, 0.6], ddof=1), 0])
    )


def test_the_untrained_figure_draws_each_box_and_both_photographs():
    torch.manual_seed(0)
    said = {name: plots.answers_of(torch.randn(7, 5), torch.rand(7, 4)) for name in ("dawn", "dusk")}
    images = [torch.randint(0, 256, (3, 30, 40 + i), dtype=torch.uint8) for i in range(2)]
    figure = plots.untrained_figure(images, said)
    dawn, dusk, right = figure.axes
    assert len(dawn.lines) == len(dusk.lines) == 7
    corners = said["dusk"].boxes_xyxy[3] * (41, 30, 41, 30)
    drawn = dusk.lines[3].get_xydata()
    assert drawn.min(axis=0) == pytest.approx(corners[:2]) and drawn.max(axis=0) == pytest.approx(corners[2:])
    assert "dawn: 7 boxes" in texts(figure) and "1/5" in texts(figure)
    assert [text.get_text() for text in right.get_legend().texts][2] == "best class, dusk"
    assert style.png(figure, 256)


def test_parameters_are_summed_by_part_and_drawn_in_order():
    with torch.device("meta"):
        model = DETR(DETRConfig.mini())
    counts = plots.parameters_by_part(model)
    assert sum(counts.values()) == sum(p.numel() for p in model.parameters())
    assert counts["transformer.encoder"] == sum(p.numel() for p in model.transformer.encoder.parameters())
    figure = plots.parameters_figure({"much": 90_000, "little": 9_999, "hardly": 1}, "shares")
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["hardly", "little", "much"]
    assert [bar.get_width() for bar in axes.patches] == [1, 9_999, 90_000]
    assert "90,000  (90.00 %)" in texts(figure) and "1  (< 0.01 %)" in texts(figure)


# The cells of notebook 07 that look for the published demo's file


def published_like(cats: bool) -> dict[str, torch.Tensor]:
    """Random values in the published demo's format; with `cats`, a class head that sees cats everywhere."""
    torch.manual_seed(0)
    demo = nn.ModuleDict(
        {
            "backbone": torchvision.models.resnet50(weights=None),
            "conv": nn.Conv2d(2048, 256, 1),
            "transformer": nn.Transformer(256, 8, 6, 6, 2048, batch_first=True),
            "linear_class": nn.Linear(256, 92),
            "linear_bbox": nn.Linear(256, 4),
        }
    )
    if cats:
        nn.init.zeros_(demo["linear_class"].weight)
        nn.init.zeros_(demo["linear_class"].bias).data[CAT] = 9.0
    state = {name: value for name, value in demo.state_dict().items() if ".fc." not in name}
    state |= {"query_pos": torch.rand(100, 256), "row_embed": torch.rand(50, 128), "col_embed": torch.rand(50, 128)}
    assert len(state) == 511
    return {name: value.half() if value.is_floating_point() else value for name, value in state.items()}


@pytest.fixture
def places(tmp_path, monkeypatch):
    """data/weights and torch.hub's cache, empty, in a temporary folder; any download fails the test."""

    def refused(url, *_, **__):
        raise AssertionError(f"something asks the network for {url}")

    (tmp_path / "data" / "checkpoints").mkdir(parents=True)
    monkeypatch.setattr(download, "DATA", tmp_path / "data")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(download.urllib.request, "urlopen", refused)
    monkeypatch.chdir(NOTEBOOK.parent)
    folders = tmp_path / "data" / "weights", tmp_path / "hub" / "checkpoints"
    for folder in folders:
        folder.mkdir(parents=True)
    return folders


def run_demo_cells() -> dict:
    """The notebook's imports, its `prepared`, and the cells tagged "demo-weights", run here; their names."""
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    wanted = [cells[0], *(cell for cell in cells[1:] if "def prepared" in cell.source)]
    tagged = [cell for cell in cells if "demo-weights" in cell.metadata.get("tags", [])]
    assert len(wanted) == 2 and len(tagged) == 3
    names: dict = {}
    for cell in wanted + tagged:
        exec(compile(cell.source, "notebook 07", "exec"), names)
    return names


@pytest.mark.parametrize(("place", "cats"), [(0, True), (1, True), (1, False)])
def test_with_the_demos_file_the_notebook_prints_what_is_found(place, cats, places, monkeypatch, capsys):
    unnamed = places[place] / "unnamed"
    torch.save(published_like(cats), unnamed)
    digits = hashlib.sha256(unnamed.read_bytes()).hexdigest()[:8]
    unnamed.rename(places[place] / f"detr_demo-{digits}.pth")
    known = replace(published.MODELS["detr_demo"], file=f"detr_demo-{digits}.pth")
    monkeypatch.setitem(published.MODELS, "detr_demo", known)
    names = run_demo_cells()
    assert names["here"] and names["found"].names == ["cat"] * 100 * cats
    printed = capsys.readouterr().out
    assert ("found: cat 0.9" if cats else "found: nothing\n") in printed and "is not here" not in printed
    assert f"without 0.1: {'cat' if cats else 'nothing'}" in printed


def test_without_the_demos_file_the_notebook_says_how_to_get_it(places, capsys):
    names = run_demo_cells()
    assert not names["here"] and "demo" not in names
    printed = capsys.readouterr().out
    assert published.MODELS["detr_demo"].file in printed and "checkpoints.load('detr_demo')" in printed
    assert "does not need it" in printed
