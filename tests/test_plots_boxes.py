"""Figures of notebook 01 show the boxes and numbers that they were given; the measures behind them are right."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from detr_mini import boxes
from detr_mini.plots import boxes as plots
from detr_mini.plots import style

pytestmark = pytest.mark.usefixtures("no_figure_is_left_in_pyplot")

IMAGE = (torch.arange(3 * 32 * 64) % 251).to(torch.uint8).reshape(3, 32, 64)
HALVES = torch.tensor([[0.25, 0.5, 0.3, 0.5], [0.7, 0.4, 0.2, 0.4]])  # cxcywh
SIX = torch.tensor([[0, 0, 10, 6], [0, 1, 10, 7], [2, 0, 12, 6], [14, 1, 19, 6], [15, 1, 20, 6], [0, 0, 6, 6.0]])
NAMES = ["A1", "A2", "C", "B1", "B2", "A3"]
SCORES = torch.tensor([0.95, 0.9, 0.85, 0.8, 0.7, 0.6])


def drawn(axes, colour) -> list[tuple]:
    """Corners of the outlines of one colour, sorted."""
    found = [patch for patch in axes.patches if isinstance(patch, Rectangle) and not patch.get_fill()]
    found = [patch for patch in found if to_hex(patch.get_edgecolor()).upper() == colour.upper()]
    corners = [(*p.get_xy(), p.get_x() + p.get_width(), p.get_y() + p.get_height()) for p in found]
    return sorted(tuple(round(float(side), 4) for side in box) for box in corners)


def inside(figure) -> bool:
    """Whether all words lie within the figure."""
    renderer = figure.canvas.get_renderer()
    axes_texts = [t for axes in figure.axes for t in (*axes.texts, axes.title, axes.xaxis.label, axes.yaxis.label)]
    texts = [*axes_texts, *(text for legend in figure.legends for text in legend.get_texts())]
    places = [text.get_window_extent(renderer) for text in texts if text.get_text()]
    width, height = figure.bbox.width, figure.bbox.height
    return all(p.x0 >= 0 and p.y0 >= 0 and p.x1 <= width and p.y1 <= height for p in places)


def smallest_type(figure) -> float:
    figure.canvas.draw()
    return min(text.get_fontsize() for text in figure.findobj(plt.Text) if text.get_text())


def test_measures_by_hand():
    found = plots.measures((0, 0, 0.2, 0.2), (0.1, 0.1, 0.3, 0.3))
    assert found.iou == pytest.approx(1 / 7) and found.giou == pytest.approx(1 / 7 - 2 / 9)
    assert found.l1 == pytest.approx(0.2) and isinstance(found.l1, float)
    apart = plots.measures((0.0, 0.4, 0.1, 0.6), (0.4, 0.4, 0.5, 0.6))
    assert apart.iou_gradient.tolist() == [0, 0, 0, 0] and apart.pull("IoU").tolist() == [0, 0, 0, 0]
    cx, _, w, _ = apart.pull("GIoU").tolist()
    assert w / cx == pytest.approx(0.5 / 0.2 - 0.5)  # hull / (sum of widths) - 1/2
    assert apart.pull("L1")[0] == 1 and apart.l1_gradient[0] == -1


def test_l1_pulls_nothing_that_differs_by_rounding_alone():
    b = (0.25, 0.4, 0.35, 0.6)
    for step in range(-3, 60):
        found = plots.measures((0.05 + step / 64, 0.4, 0.15 + step / 64, 0.6), b)
        assert found.l1_gradient[1:].tolist() == [0, 0, 0], "equal heights, widths and places"
        assert abs(found.l1_gradient[0]) == 1 and found.l1 == pytest.approx(abs(0.2 - step / 64))
    same = plots.measures((0.1, 0.2, 0.3, 0.4), (0.1, 0.2, 0.1 + 0.2, 0.4))
    assert same.l1_gradient.tolist() == [0, 0, 0, 0] and "-" not in str(same.pull("L1").tolist())


@pytest.mark.parametrize("measure", plots.MEASURES)
def test_a_small_step_along_the_pull_is_better(measure):
    a, b = torch.tensor([0.1, 0.2, 0.5, 0.7]).double(), torch.tensor([0.25, 0.3, 0.8, 0.75]).double()
    before = plots.measures(a, b)
    step = boxes.xyxy_to_cxcywh(a) + 1e-4 * before.pull(measure)
    after = plots.measures(boxes.cxcywh_to_xyxy(step), b)
    gain = {"IoU": after.iou - before.iou, "GIoU": after.giou - before.giou, "L1": before.l1 - after.l1}
    assert gain[measure] > 0


def test_measures_take_lists_and_tensors_and_leave_them_as_they_were():
    a = torch.tensor([0.1, 0.2, 0.5, 0.7])
    one, two = plots.measures(a, [0.2, 0.2, 0.6, 0.7]), plots.measures(a.tolist(), (0.2, 0.2, 0.6, 0.7))
    assert one.giou == pytest.approx(two.giou) and not a.requires_grad and a.dtype == torch.float32


@pytest.mark.parametrize(
    "a, b, told",
    [
        ((0, 0, 2, 2), (1, 1, 3, 3), "shared 1, union 7, hull 9\nIoU 1/7\nGIoU 1/7 - 2/9 = -5/63"),
        ((0, 0, 1, 1), (3, 0, 4, 1), "shared 0, union 2, hull 4\nIoU 0\nGIoU 0 - 1/2 = -1/2"),
        ((0, 0, 4, 4), (1, 1, 3, 3), "shared 4, union 16, hull 16\nIoU 1/4\nGIoU 1/4 - 0 = 1/4"),
    ],
)
def test_cells_are_counted(a, b, told):
    assert plots.counts(a, b) == told
    figure = plots.cells({"one": (a, b)})
    (axes,) = figure.axes
    assert axes.get_xlabel() == told and axes.get_title() == "one"
    assert drawn(axes, style.QUERY) == [a] and drawn(axes, style.OBJECT) == [b]
    hull = (min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3]))
    assert drawn(axes, style.UNMATCHED) == [hull]
    shared = [patch for patch in axes.patches if patch.get_fill()]
    assert len(shared) == ("shared 0" not in told)


def test_cells_without_hull_do_not_speak_of_it():
    figure = plots.cells({"one": ((0, 0, 2, 2), (1, 1, 3, 3))}, hull=False)
    assert figure.axes[0].get_xlabel() == "shared 1, union 7\nIoU 1/7" and not drawn(figure.axes[0], style.UNMATCHED)
    assert "hull" not in [text.get_text() for text in figure.legends[0].get_texts()]


def test_formats_and_trap_show_the_pixels_and_the_boxes():
    figure = plots.formats(IMAGE, HALVES[0])
    axes = figure.axes[0]
    assert np.array_equal(axes.images[0].get_array(), IMAGE.permute(1, 2, 0))
    assert drawn(axes, style.OBJECT) == [(6.4, 8, 25.6, 24)]
    assert {"x1, y1", "x2, y2", "cx, cy", "w", "h"} == {text.get_text() for text in axes.texts} - {""}
    swapped = boxes.cxcywh_to_xyxy(HALVES) * torch.tensor([32, 64, 32, 64])
    left, right = plots.trap(IMAGE, HALVES, swapped).axes
    assert drawn(left, style.OBJECT) == [(6.4, 8, 25.6, 24), (38.4, 6.4, 51.2, 19.2)]
    assert drawn(right, style.OBJECT) == [(3.2, 16, 12.8, 48), (19.2, 12.8, 25.6, 38.4)]


def test_the_sliding_box_has_the_values_of_the_package():
    a, b, centres = torch.tensor([0.0, 0.5, 0.2, 0.3]), torch.tensor([0.5, 0.4, 0.3, 0.3]), torch.linspace(0.1, 0.9, 9)
    scene, curve, slope = plots.sliding(a, b, centres).axes
    slid = a.repeat(9, 1)
    slid[:, 0] = centres
    corners = boxes.cxcywh_to_xyxy(slid), boxes.cxcywh_to_xyxy(b)
    lines = {line.get_label(): line.get_ydata() for line in curve.lines}
    assert np.allclose(lines["IoU"], boxes.paired_iou(*corners), atol=1e-6)
    assert np.allclose(lines["GIoU"], boxes.paired_giou(*corners), atol=1e-6)
    assert len(drawn(scene, style.QUERY)) == 3 and len(drawn(scene, style.OBJECT)) == 1
    slopes = {line.get_label(): line.get_ydata() for line in slope.lines}
    assert slopes["slope of IoU"][0] == 0 and slopes["slope of GIoU"][0] > 0


def test_the_field_has_no_arrow_where_iou_has_no_gradient():
    figure = plots.gradient_field(torch.tensor([0.5, 0.5, 0.2, 0.2]), (0.15, 0.15), per_side=6)
    iou, giou, l1 = (axes.collections[0] for axes in figure.axes)
    assert iou.N < giou.N == l1.N == 36
    x, y = giou.get_offsets().T
    assert (np.sign(giou.U) == np.sign(0.5 - x)).all() and (np.sign(giou.V) == np.sign(0.5 - y)).all()
    still = next(line for line in figure.axes[0].lines if line.get_marker() == ".")
    assert len(still.get_xdata()) == 36 - iou.N


def test_the_film_shows_the_path_at_the_steps():
    path = torch.linspace(0, 1, 11)[:, None] * torch.tensor([0.5, 0.0, 0.1, 0.0]) + torch.tensor([0.2, 0.5, 0.1, 0.2])
    figure = plots.film(
        {"one": path, "two\nlines": path.flip(0)}, torch.tensor([0.7, 0.5, 0.2, 0.2]), (0, 5, 10), "both arrive"
    )
    assert len(figure.axes) == 2 * 3 + 2 and figure.get_suptitle() == "both arrive"
    for axes, step in zip(figure.axes[:3], (0, 5, 10), strict=True):
        assert axes.get_title() == f"step {step}"
        [box] = drawn(axes, style.QUERY)
        assert np.allclose(box, boxes.cxcywh_to_xyxy(path[step]), atol=1e-3)
        assert drawn(axes, style.OBJECT) == [(0.6, 0.4, 0.8, 0.6)]
    assert np.allclose(figure.axes[6].lines[0].get_ydata(), path[:, 2])
    assert figure.axes[7].lines[0].get_ydata()[-1] == pytest.approx(1)


def test_two_boxes_bear_their_numbers_and_arrows():
    a, b = (0.1, 0.15, 0.3, 0.4), (0.55, 0.5, 0.9, 0.85)
    figure = plots.two_boxes(a, b)
    found = plots.measures(a, b)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["IoU = 0.000", f"GIoU = {found.giou:.3f}", f"L1 = {found.l1:.3f}"]
    arrows = [[text for text in axes.texts if hasattr(text, "arrow_patch")] for axes in figure.axes]
    assert [len(found) for found in arrows] == [0, 4, 4]
    assert "asks for nothing" in figure.axes[0].get_xlabel() and "cx +1.00" in figure.axes[2].get_xlabel()
    [right] = [arrow for arrow in arrows[2] if arrow.xyann == (0.3, 0.275)]
    assert right.xy[0] > 0.3 and right.xy[1] == 0.275  # L1 wants the right side to go to the right


def test_nms_panels_show_what_is_left():
    panels = {"one": [0, 3], "two": [0, 2, 3, 4, 5]}
    figure = plots.nms_six(SIX, NAMES, SCORES, panels, SIX[[0, 2, 3]])
    for axes, indices in zip(figure.axes, (range(6), *panels.values()), strict=True):
        assert drawn(axes, style.QUERY) == sorted(tuple(box) for box in SIX[list(indices)].tolist())
        assert [text.get_text().split()[0] for text in axes.texts] == [NAMES[index] for index in indices]
        places = [text.get_window_extent(figure.canvas.get_renderer()) for text in axes.texts]
        assert not [pair for pair in itertools.combinations(places, 2) if pair[0].overlaps(pair[1])]


def test_the_lost_object_of_a_scene_is_crossed_out():
    two = torch.tensor([[4.0, 4, 30, 28], [10, 6, 36, 30]])
    before, after = plots.nms_scene(IMAGE, two, [0]).axes
    assert len(drawn(before, style.QUERY)) == 2 and not before.lines
    assert drawn(after, style.QUERY) == [(4, 4, 30, 28)] and drawn(after, style.UNMATCHED) == [(10, 6, 36, 30)]
    assert len(after.lines) == 2 and "1 object lost" in after.get_title()


@pytest.mark.parametrize(
    "figure",
    [
        lambda: plots.cells({"a": ((0, 0, 2, 2), (1, 1, 3, 3)), "b": ((0, 0, 1, 1), (3, 3, 4, 4))}),
        lambda: plots.sliding(HALVES[0], HALVES[1], torch.linspace(0.1, 0.9, 9)),
        lambda: plots.gradient_field(HALVES[0], (0.2, 0.2)),
        lambda: plots.film(
            {"one": HALVES[:1].repeat(5, 1), "two": HALVES[1:].repeat(5, 1)}, HALVES[0], (0, 4), "still"
        ),
        lambda: plots.two_boxes((0.1, 0.1, 0.4, 0.3), (0.3, 0.2, 0.8, 0.7)),
        lambda: plots.nms_six(SIX, NAMES, SCORES, {"kept": [0]}, SIX[:1]),
        lambda: plots.formats(IMAGE, HALVES[0]),
        lambda: plots.trap(IMAGE, HALVES, SIX[:2]),
    ],
)
def test_words_are_large_enough_and_lie_in_the_figure(figure):
    drawing = figure()
    assert smallest_type(drawing) >= 8 and inside(drawing)
    assert drawing.get_size_inches()[0] == 9
