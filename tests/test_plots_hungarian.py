"""Notebook 02's figures and the pure function behind its lab: right numbers, right cells, nothing outside."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgb

from detr_mini import hungarian, matching
from detr_mini.plots import hungarian as plots
from detr_mini.plots import style

pytestmark = pytest.mark.usefixtures("no_figure_is_left_in_pyplot")

SQUARE = np.array([[4, 6, 7, 9], [4, 5, 3, 7], [3, 7, 8, 6], [7, 2, 1, 9]])
TALL = np.array([[1, 1, 2], [2, 3, 5], [3, 5, 8], [7, 7, 7], [9, 6, 8]])


def answers(queries: int, objects: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    boxes, true = (torch.rand(n, 4, generator=generator) * 0.4 + 0.2 for n in (queries, objects))
    probabilities = torch.randn(queries, 4, generator=generator).softmax(-1)
    return boxes, probabilities, {"boxes": true, "labels": torch.randint(0, 3, (objects,), generator=generator)}


def totals_of_all(cost: np.ndarray) -> list[float]:
    wide = cost if cost.shape[0] <= cost.shape[1] else cost.T
    rows, columns = map(range, wide.shape)
    return sorted(wide[rows, list(way)].sum() for way in itertools.permutations(columns, len(rows)))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(0, 4), st.integers(0, 1000))
def test_an_assignment_is_the_packages_with_its_terms_totals_and_margin(queries, objects, seed):
    boxes, probabilities, target = answers(queries, objects, seed)
    weights = matching.Weights(0.5, 3, 1)
    state = plots.assign(boxes, probabilities, target, weights)
    padded = matching.pad_targets([target], torch.device("cpu"))
    cost = matching.cost(probabilities.log()[None, None], boxes[None, None], padded, weights)[0, 0]
    assert state.cost.shape == (queries, objects) and list(state.terms) == ["class", "L1", "GIoU"]
    np.testing.assert_allclose(state.cost, cost, atol=1e-5)
    np.testing.assert_allclose(sum(state.terms.values()), state.cost)
    best, *others = totals_of_all(state.cost)
    assert state.optimal_total == pytest.approx(best) and state.greedy_total >= best - 1e-9
    assert state.margin == pytest.approx(others[0] - best if others and objects else np.inf, abs=1e-9)
    assert state.optimal == sorted(state.optimal) and len(state.greedy) == len(state.optimal) == min(queries, objects)


def test_the_steps_of_the_cost_lead_to_the_optimal_pairs():
    state = plots.assign(*answers(6, 3))
    *_, last = hungarian.trace(state.cost)
    assert list(last.matching.items()) == state.optimal


def test_a_box_of_nan_is_an_error():
    boxes, probabilities, target = answers(3, 2)
    boxes[1] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        plots.assign(boxes, probabilities, target)


def test_a_class_of_probability_zero_is_taken():
    boxes, _, target = answers(2, 2)
    sure = torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0]])
    target["labels"] = torch.tensor([0, 1])
    assert plots.assign(boxes, sure, target).terms["class"].tolist() == [[-1, 0], [0, -1]]


def test_greedy_takes_the_smallest_first():
    assert plots.greedy(np.array([[3, 8], [2, 3]])) == [(1, 0), (0, 1)]
    assert plots.greedy(np.zeros((4, 0))) == []


def test_each_preset_shows_what_it_says():
    states = {
        name: plots.assign(p.boxes_cxcywh, p.probabilities, p.target, p.weights) for name, p in plots.presets().items()
    }
    fails, chain, beats, tie, crowd, empty = states.values()
    assert fails.greedy_total > 1.5 * fails.optimal_total
    assert chain.greedy_total > 3 * chain.optimal_total
    assert max(len(step.path) for step in hungarian.trace(chain.cost)) == 5, "all three change hands"
    geometry = beats.terms["L1"] + beats.terms["GIoU"]
    assert beats.optimal == [(0, 1), (1, 0)] and geometry[0].argmin() == 0 and geometry[1].argmin() == 1
    assert tie.margin == 0 and tie.cost.shape == (2, 1)
    assert crowd.cost.shape == (3, 4) and len(crowd.optimal) == 3
    assert empty.cost.shape == (2, 0) and empty.optimal == [] and empty.optimal_total == 0


def test_presets_have_boxes_inside_the_image_and_probabilities():
    for preset in plots.presets().values():
        assert torch.allclose(preset.probabilities.sum(-1), torch.ones(len(preset.boxes_cxcywh)))
        centre, half = preset.boxes_cxcywh[:, :2], preset.boxes_cxcywh[:, 2:] / 2
        assert (half > 0).all() and (centre - half > -0.01).all() and (centre + half < 1.01).all()


def inside(figure) -> bool:
    """Whether all text lies in the figure."""
    renderer, frame = figure.canvas.get_renderer(), figure.bbox
    texts = list(figure.texts) + [text for axes in figure.axes for text in [*axes.texts, axes.title]]
    places = [text.get_window_extent(renderer) for text in texts if text.get_text()]
    return all(p.x0 >= -1 and p.y0 >= -1 and p.x1 <= frame.x1 + 1 and p.y1 <= frame.y1 + 1 for p in places)


def small_type(figure) -> list[str]:
    texts = [*figure.texts, *(text for axes in figure.axes for text in [*axes.texts, axes.title])]
    return [text.get_text() for text in texts if text.get_text() and text.get_fontsize() < 8]


@pytest.mark.parametrize("cost", [SQUARE, TALL, TALL.T, np.array([[1.5]])])
def test_every_step_is_drawn_with_its_numbers(cost):
    steps = list(hungarian.trace(cost))
    figure = plots.steps(cost, steps, range(len(steps)))
    assert len(figure.axes) == len(steps) and inside(figure) and not small_type(figure)
    framed = [patch for patch in figure.axes[-1].patches if patch.get_edgecolor()[:3] == to_rgb(style.MATCHED)]
    assert len(framed) == min(cost.shape)
    said = [text.get_text() for text in figure.axes[-1].texts]
    reduced = cost - steps[-1].row_potentials[:, None] - steps[-1].column_potentials
    assert {f"{value:g}" for value in reduced.flat} <= set(said)


def test_a_step_says_how_far_potentials_rose_and_what_was_reached():
    steps = list(hungarian.trace(SQUARE))
    figure = plots.steps(SQUARE, steps, [6, 8, 9])
    titles = [axes.texts[-1].get_text() for axes in figure.axes]
    assert titles == ["q2 enters", "rise 2, reach o1", "q2 matched: path flipped"]


@pytest.mark.parametrize("cost", [SQUARE, TALL])
def test_graphs_hold_the_matched_edges(cost):
    steps = list(hungarian.trace(cost))
    figure = plots.graphs(cost, steps, [len(steps) - 2, len(steps) - 1])
    solid = [line for line in figure.axes[-1].lines if line.get_linestyle() == "-" and line.get_linewidth() > 3]
    assert len(solid) == min(cost.shape) and inside(figure)


def test_pairings_draw_a_panel_each_and_frame_the_best():
    boxes, true = np.full((3, 4), 0.3), np.full((2, 4), 0.5)
    figure = plots.pairings(boxes, true, {"one": [(0, 0), (1, 1)], "two": [(2, 0)]}, best="two", columns=2)
    one, two = figure.axes
    assert one.get_title() == "one" and two.spines["left"].get_edgecolor()[:3] == to_rgb(style.MATCHED)
    assert [text.get_text() for text in one.texts if text.get_text()] == ["o0", "o1", "q0", "q1", "q2"]
    only = plots.pairings(boxes, true, {"two": [(2, 0)]}, queries=[2], columns=1)
    assert [text.get_text() for text in only.axes[0].texts if text.get_text()] == ["o0", "o1", "q2"]


def test_tables_number_the_cells_as_they_were_taken():
    figure = plots.tables(np.array([[3, 8], [2, 3]]), {"greedy": [(1, 0), (0, 1)]})
    placed = {text.get_text(): text.get_position() for text in figure.axes[0].texts}
    assert placed["1."][1] > 1 > placed["2."][1] and inside(figure)


def test_presets_are_drawn_readably():
    rows = [
        (name, preset.image, plots.assign(preset.boxes_cxcywh, preset.probabilities, preset.target))
        for name, preset in plots.presets().items()
    ]
    figure = plots.assignments(rows)
    assert len(figure.axes) == 3 * len(rows) and inside(figure) and not small_type(figure)


def test_times_and_scales_are_drawn():
    figure = plots.timings({"a": ([1, 2], [0.1, 0.2]), "b": ([2, 4], [0.01, 0.1])}, "title")
    assert figure.axes[0].get_xscale() == figure.axes[0].get_yscale() == "log" and inside(figure)
    spread = {"one": np.arange(10.0), "two": np.arange(3.0)}
    figure = plots.class_scales({"trained": spread, "untrained": spread}, "title")
    assert [label.get_text() for label in figure.axes[1].get_yticklabels()] == ["one", "two"]
