"""Notebook 05's figures draw what they are given, and recorded shapes and costs are what they say."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from detr_mini.plots import style
from detr_mini.plots import transformer as plots
from detr_mini.transformer import DecoderLayer, EncoderLayer

pytestmark = pytest.mark.usefixtures("no_figure_is_left_in_pyplot")

TOKENS, QUERIES = torch.zeros(2, 12, 16), torch.zeros(2, 5, 16)


def texts(axes) -> str:
    return "\n".join(text.get_text() for text in (*axes.texts, axes.title))


def runs():
    encoder = plots.record(EncoderLayer(16, 4, 32, 0.0, False), TOKENS, TOKENS, None, True)
    decoder = plots.record(DecoderLayer(16, 4, 32, 0.0, False), QUERIES, QUERIES, TOKENS, TOKENS, None, True)
    return encoder, decoder


def test_record_notes_what_went_in_and_came_out_and_leaves_no_hook():
    encoder, decoder = runs()
    assert encoder["self_attn"] == plots.Run(((2, 12, 16),) * 3, ((2, 12, 16), (2, 4, 12, 12)))
    assert encoder["linear1"] == plots.Run(((2, 12, 16),), ((2, 12, 32),))
    assert decoder["multihead_attn"].outputs == ((2, 5, 16), (2, 4, 5, 12))
    assert decoder[""].inputs == ((2, 5, 16),) * 2 + ((2, 12, 16),) * 2
    layer = EncoderLayer(16, 4, 32, 0.0, False)
    with pytest.raises(RuntimeError):
        plots.record(layer, TOKENS, torch.zeros(2, 11, 16), None)
    assert not any(module._forward_hooks for module in layer.modules())


def test_layer_figure_writes_the_recorded_shapes():
    left, right = plots.layer_figure(*runs()).axes
    assert left.get_title() == "Encoder layer" and right.get_title() == "Decoder layer"
    for axes, flow, weights, inner in (
        (left, "2 × 12 × 16", "2 × 4 × 12 × 12", "2 × 12 × 32"),
        (right, "2 × 5 × 16", "2 × 4 × 5 × 12", "2 × 5 × 32"),
    ):
        assert texts(axes).count(f"\n{flow}") >= 5
        assert f"weights {weights}" in texts(axes) and f"inside {inner}" in texts(axes)
    assert "2 × 12 × 16" in texts(right), "the memory"
    assert texts(left).count("norm") == 2 and texts(right).count("norm") == 3


@pytest.mark.parametrize(("tokens", "width", "inner"), [(5, 16, 32), (30, 32, 8)])
def test_cost_is_what_pytorch_counts(tokens, width, inner):
    layer, x = EncoderLayer(width, 4, inner, 0.0, False), torch.zeros(1, tokens, width)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        layer(x, x, None, True)
    assert counter.get_total_flops() == 2 * plots.encoder_layer_cost(tokens, width, inner).total


def test_cost_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="tokens 0"):
        plots.encoder_layer_cost(0)


def test_norms_figure_draws_both_orders():
    size, gradient = {"a": [1.0, 1.0, 1.0], "b": [1.0, 2.0, 3.0]}, {"a": [1.0, 2.0], "b": [2.0, 1.0]}
    left, right = plots.norms_figure(size, gradient).axes
    assert [list(line.get_ydata()) for line in left.lines] == list(size.values())
    assert [list(line.get_xdata()) for line in right.lines] == [[1, 2], [1, 2]], "gradients belong to layers from 1"


def test_depends_figure_marks_each_true_cell():
    tables = {"triangle": torch.ones(4, 4).tril() > 0, "diagonal": torch.eye(4) > 0}
    figure = plots.depends_figure(tables, "answer", "input")
    for axes, (name, table) in zip(figure.axes, tables.items(), strict=True):
        assert axes.get_title() == name
        assert np.array_equal(axes.images[0].get_array(), table)
        assert len(axes.texts) == int(table.sum())


def test_passes_figure_draws_runs_and_milliseconds():
    names = ("one by one, all computed again", "one by one, with a cache", "all at once")
    figures = {name: [2, 11] for name in names}
    left, right = plots.passes_figure((1, 10), figures, {name: [0.002, 0.011] for name in names}).axes
    assert [list(line.get_ydata()) for line in left.lines] == [[2, 11]] * 3
    assert all(np.allclose(line.get_ydata(), [2, 11]) for line in right.lines)
    assert len({(line.get_linestyle(), line.get_marker()) for line in left.lines}) == 3


def test_gradients_figure_writes_zero_where_dead():
    sizes = {"encoder.layers.0.a": 10.0, "decoder.norm.weight": 1.0}
    sizes |= {f"decoder.layers.{layer}.{part}": 1.0 for layer in range(2) for part in ("a", "b", "c")}
    sizes["decoder.layers.0.b"] = 1e-14
    axes = plots.gradients_figure(sizes, "title").axes[0]
    assert [(text.get_text(), text.get_position()) for text in axes.texts] == [("0", (0, 1))]
    drawn = axes.images[0].get_array()
    assert drawn.shape == (3, 2) and drawn.mask.sum() == 1 and np.allclose(drawn.compressed(), -1)


def test_cost_figure_and_its_slope():
    curves = {"explicit": [1.0, 4.0, 16.0], "fused": [1.0, 2.0, 4.0]}
    left, right = plots.cost_figure((100, 200, 400), curves, curves).axes
    assert [list(line.get_ydata()) for line in left.lines[:2]] == list(curves.values())
    assert left.lines[2].get_ydata()[0] == pytest.approx(8 * 100**2 * 4 / 2**20)
    assert np.allclose(right.lines[0].get_ydata(), [1000, 4000, 16000])
    assert plots.slope((100, 200, 400), curves["explicit"]) == pytest.approx(2)
    assert plots.slope((100, 200, 400), curves["fused"]) == pytest.approx(1)


def test_share_figure_adds_up_and_names_its_marks():
    figure = plots.share_figure({"here": 850})
    axes = figure.axes[0]
    assert "here\n850" in texts(axes) and len(axes.collections) == 3
    highest = axes.collections[-1].get_paths()[0].vertices[:, 1].max()
    assert highest == pytest.approx(1)
    assert style.png(figure)
