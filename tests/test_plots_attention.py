"""Notebook 04's figures draw what they are given, and similarity is what it says."""

import math

import numpy as np
import pytest
import torch

from detr_mini import positions
from detr_mini.plots import attention as plots
from detr_mini.plots import style

pytestmark = pytest.mark.usefixtures("no_figure_is_left_in_pyplot")

SCENES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def texts(figure) -> str:
    """All that is written on a figure."""
    found = [text.get_text() for axes in figure.axes for text in (*axes.texts, axes.title, axes.xaxis.label)]
    return "\n".join(found)


@pytest.mark.parametrize("kind", plots.KINDS)
def test_similarity_is_one_at_the_cell_and_symmetric(kind):
    here, there = (plots.similarity(kind, cell, (5, 7), 20.0, width=32) for cell in ((1, 2), (4, 6)))
    assert here.map.shape == (5, 7) and here.map[1, 2] == pytest.approx(1, abs=1e-6)
    assert here.map[4, 6] == pytest.approx(there.map[1, 2], abs=1e-6)
    assert here.lowest == pytest.approx(here.map.min()) and here.spread == pytest.approx(here.map.std())


def test_similarity_of_sines_is_a_sum_of_cosines():
    """Column 1 of 4 is pi, column 3 is 2 pi: with two hands an axis, (2 + cos(pi) + cos(pi w)) / 4."""
    seen = plots.similarity("sine", (0, 1), (1, 4), 100.0, width=8)
    assert seen.map[0, 3] == pytest.approx((2 + math.cos(math.pi) + math.cos(0.1 * math.pi)) / 4, abs=1e-5)


def test_similarity_without_encoding_is_flat_and_a_low_temperature_less_so_than_a_high_one():
    assert plots.similarity("none", (0, 0), (4, 4)).spread == 0
    cold, hot = (plots.similarity("sine", (8, 10), (25, 34), t) for t in (20.0, 10_000.0))
    assert cold.spread > 2 * hot.spread and cold.lowest < hot.lowest


def test_similarity_leaves_the_random_numbers_alone_and_repeats():
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    first = plots.similarity("learned", (0, 0), (3, 3))
    assert torch.rand(1) == wanted
    assert np.array_equal(first.map, plots.similarity("learned", (0, 0), (3, 3)).map)


@pytest.mark.parametrize("cell", [(-1, 0), (5, 0), (0, 7)])
def test_similarity_of_a_cell_outside_is_an_error(cell):
    with pytest.raises(ValueError, match="outside the grid of 5 rows and 7 columns"):
        plots.similarity("sine", cell, (5, 7))


def test_an_unknown_kind_is_an_error():
    with pytest.raises(ValueError, match="'cosine' is none of"):
        plots.similarity("cosine", (0, 0), (5, 7))


def test_similarity_figure_shows_every_map():
    maps = {kind: plots.similarity(kind, (1, 2), (5, 7), 20.0, width=32) for kind in plots.KINDS}
    figure = plots.similarity_figure(maps)
    for axes, (kind, each) in zip(figure.axes, maps.items(), strict=False):
        assert np.array_equal(axes.images[0].get_array(), each.map)
        assert axes.get_title() == f"{kind}\nlowest {each.lowest:.2f}"
        assert axes.patches[0].get_xy() == (1.5, 0.5)
    assert style.png(figure)


def test_matrix_figure_writes_every_weight():
    figure = plots.matrix_figure(torch.tensor([[0.25, 0.75], [1.0, 0.0]]), ("a", "b"), ("c", "d"), "title")
    assert {"0.250", "0.750", "1.000", "0.000", "title"} <= set(texts(figure).split("\n"))


def test_saturation_figure_draws_both_curves():
    curves = {"with": [5.0, 5.0], "without": [4.0, 1.0]}
    left, right = plots.saturation_figure((4, 16), curves, curves, keys=64).axes
    for axes in (left, right):
        assert [list(line.get_ydata()) for line in axes.lines[:2]] == [[5.0, 5.0], [4.0, 1.0]]
        assert axes.lines[0].get_linestyle() != axes.lines[1].get_linestyle()
    assert "all 64 keys alike" in texts(left.figure)


def test_heads_figure_draws_matrices_and_the_marked_row():
    weights = torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(0)).softmax(-1)
    figure = plots.heads_figure((SCENES[0] * 255).byte(), weights, (1, 2), "title")
    above = [axes for axes in figure.axes if axes.get_title().startswith("head")]
    assert len(figure.axes) == 4 and len(above) == 2
    for head, axes in enumerate(above):
        assert np.allclose(axes.images[0].get_array(), weights[head])
        assert list(axes.lines[0].get_ydata()) == [6, 6]
    maps = [axes for axes in figure.axes if axes not in above]
    for head, axes in enumerate(maps):
        assert np.allclose(axes.images[-1].get_array(), 100 * weights[head, 6].reshape(4, 4))
        assert axes.patches[0].get_xy() == (16, 8)


def test_clock_figure_turns_the_hands():
    figure = plots.clock_figure([1.0, 0.1], range(3))
    for axes, frequency in zip(figure.axes, (1.0, 0.1), strict=True):
        tips = [(line.get_xdata()[1], line.get_ydata()[1]) for line in axes.lines]
        assert np.allclose(tips, [(math.sin(frequency * p), math.cos(frequency * p)) for p in range(3)])
    assert all(text.get_visible() for text in figure.axes[0].texts)


def test_falloff_figure_draws_each_curve():
    figure = plots.falloff_figure(range(3), {"one": [1, 0.5, 0], "two": [1, 0.9, 0.8]}, "title")
    assert [list(line.get_ydata()) for line in figure.axes[0].lines[:2]] == [[1, 0.5, 0], [1, 0.9, 0.8]]


def test_channels_figure_sorts_and_marks():
    codes = positions.SineEncoding(16, 1e6)(torch.zeros(1, 1, 9, dtype=torch.bool))[0, 0, :, 8:]
    dead = int((codes.std(0, correction=0) < 0.01).sum())
    axes = plots.channels_figure({"T": codes}).axes[0]
    assert f"{dead} of 8 channels" in axes.get_title() and len(axes.patches) == dead > 0
    assert np.allclose(axes.images[0].get_array(), torch.cat([codes[:, ::2], codes[:, 1::2]], dim=1).T)


def test_scenes_figure_says_who_is_left():
    figure = plots.scenes_figure(SCENES, SCENES.flip(3), ["apple", "bus", "bus"], ["bus", "apple", "apple"])
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["left: apple", "left: bus", "left: bus", "left: bus", "left: apple", "left: apple"]
    pixels = figure.axes[0].images[0].get_array()
    assert np.array_equal(pixels, (255 * SCENES[0]).round().byte().permute(1, 2, 0))


def test_curves_and_accuracy_tell_settings_apart():
    curves = {name: [[10, 0.5 + 0.05 * row], [20, 0.6]] for row, name in enumerate(plots.LINES)}
    axes = plots.curves_figure(curves, "title").axes[0]
    drawn = axes.lines[: len(curves)]
    assert [list(line.get_ydata()) for line in drawn] == [[y for _, y in curve] for curve in curves.values()]
    assert len({(line.get_linestyle(), line.get_color()) for line in drawn}) == len(curves)
    assert len({line.get_marker() for line in drawn}) == len(curves)
    final = {name: [0.5, 0.6, 0.7] for name in plots.LINES}
    axes = plots.accuracy_figure(final, "title").axes[0]
    assert [list(line.get_xdata()) for line in axes.lines[: len(final)]] == list(final.values())
    assert texts(axes.figure).count("0.600") == len(final)


def test_looks_figure_lays_each_map_over_its_scene():
    maps = {"a": torch.rand(3, 8, 8), "b": torch.rand(3, 8, 8)}
    figure = plots.looks_figure(SCENES, maps)
    assert len(figure.axes) == 9
    labels = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
    assert sorted(labels) == ["a", "b", "scene"]
    drawn = [axes.images[-1].get_array() for axes in figure.axes if len(axes.images) == 2]
    for picture in drawn:
        assert any(np.allclose(picture, 100 * each) for weights in maps.values() for each in weights)
