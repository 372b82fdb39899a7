"""Notebook 12's figures draw what they are given, and the timeline and its frames are those of the log."""

import numpy as np
import pytest
import torch

from detr_mini.plots import queries as plots
from detr_mini.plots import style

pytestmark = pytest.mark.usefixtures("no_figure_is_left_in_pyplot")


def record(step, matches, **more):
    return {"step": step, "matches": matches} | more


def log():
    """Three points, two layers, images 2 and 10, with two objects and one."""
    return [
        record(10, {"2": [[0, 1], [0, 1]], "10": [[4], [4]]}),
        {"step": 15, "loss": 3.0},
        record(20, {"10": [[4], [3]], "2": [[1, 0], [0, 1]]}),
        record(30, {"2": [[1, 0], [0, 2]], "10": [[4], [3]]}),
    ]


def answers(step, query, x):
    boxes = [[x, 0.5, 0.2, 0.2], [0.5, x, 0.2, 0.2], [0.9, 0.9, 0.1, 0.1]]
    return record(step, {"7": [query, query]}, answers={"7": {"boxes": boxes, "object": [0.9, 0.5, 0.1]}})


def run():
    return [answers(0, [0, 1], 0.1), answers(40, [1, 0], 0.2), answers(80, [1, 0], 0.3)]


def texts(axes) -> str:
    return "\n".join(text.get_text() for text in (*axes.texts, axes.title))


def ink(figure) -> np.ndarray:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3]


# timeline and film


def test_timeline_puts_images_in_the_order_of_their_numbers():
    table = plots.timeline(log())
    assert table.steps == (10, 20, 30)
    assert table.objects == ((2, 0), (2, 1), (10, 0))
    assert table.owners[1].tolist() == [[1, 0, 4], [0, 1, 3]]
    assert table.instability.tolist() == [[2 / 3, 1 / 3], [0, 1 / 3]]
    assert table.of_image(10)[:, 1, 0].tolist() == [4, 3, 3]


def test_timeline_by_hand_equals_a_loop_on_random_logs():
    g = np.random.default_rng(0)
    counts = {3: 2, 1: 4, 12: 1}
    points = [
        record(step, {str(i): [g.integers(6, size=t).tolist() for _ in range(3)] for i, t in counts.items()})
        for step in range(5)
    ]
    table = plots.timeline(points)
    for p, (a, b) in enumerate(zip(points, points[1:], strict=False)):
        for layer in range(3):
            changed = [
                x != y
                for i in a["matches"]
                for x, y in zip(a["matches"][i][layer], b["matches"][i][layer], strict=True)
            ]
            assert table.instability[p, layer] == pytest.approx(sum(changed) / len(changed))


def test_a_log_without_two_points_or_with_other_images_is_an_error():
    with pytest.raises(ValueError, match="1 logged points"):
        plots.timeline(log()[:2])
    other = record(40, {"2": [[1, 0], [0, 2]], "11": [[4], [3]]})
    with pytest.raises(ValueError, match="step 40 has other images"):
        plots.timeline([*log(), other])
    with pytest.raises(ValueError, match=r"image 5 .*\[2, 10\]"):
        plots.timeline(log()).of_image(5)


def test_film_has_boxes_pairs_and_who_is_new():
    frames = plots.film(run(), 7)
    assert [frame.step for frame in frames] == [0, 40, 80]
    assert [frame.changed.tolist() for frame in frames] == [[False, False], [True, True], [False, False]]
    assert frames[2].boxes_cxcywh[0].tolist() == [0.3, 0.5, 0.2, 0.2]
    assert frames[1].query.tolist() == [1, 0] and frames[0].scores.tolist() == [0.9, 0.5, 0.1]
    with pytest.raises(ValueError, match="image 8"):
        plots.film(run(), 8)
    with pytest.raises(ValueError, match="image 2"):
        plots.film(log(), 2)


def test_interval_holds_the_mean_and_narrows_with_scenes():
    middle, low, high = plots.interval([2, 4, 3, 3] * 5, 4)
    assert middle == 0.75 and low < 0.75 < high
    _, tighter, wider = plots.interval([2, 4, 3, 3] * 50, 4)
    assert wider - tighter < high - low
    assert plots.interval([4, 4, 4], 4) == (1, 1, 1)
    assert plots.interval([1, 2], 2, seed=3) == plots.interval([1, 2], 2, seed=3)


# figures


def test_slots_figure_draws_only_who_speaks_by_size():
    boxes = torch.tensor([[0.2, 0.3, 0.1, 0.1], [0.5, 0.5, 0.3, 0.3], [0.7, 0.6, 0.5, 0.5]])[:, None].expand(3, 9, 4)
    speaks = torch.ones(3, 9, dtype=torch.bool)
    speaks[1, 8] = False
    figure = plots.slots_figure(boxes, speaks, [0, 8], "a title")
    first, second = figure.axes
    assert first.get_title() == "slot 0" and second.get_title() == "slot 8"
    assert [len(cloud.get_offsets()) for cloud in first.collections] == [1, 1, 1]
    assert [len(cloud.get_offsets()) for cloud in second.collections] == [1, 0, 1]
    assert first.get_ylim() == (1, 0), "y grows downwards, as in the image"


def test_seats_figure_leaves_silent_queries_out():
    seat = torch.tensor([[0.2, 0.3, 0.1, 0.4], [float("nan")] * 4])
    left, right = plots.seats_figure(seat, torch.full((2, 4), 0.5)).axes
    assert [text.get_text() for text in left.texts] == ["0"]
    assert len(right.texts) == 2
    assert left.patches[0].radius == pytest.approx(0.05)


def test_owners_figure_marks_what_changed():
    (axes,) = plots.owners_figure(plots.timeline(log()), 1, [1, 2]).axes
    cells = [(text.get_text(), text.get_fontweight()) for text in axes.texts]
    assert cells == [
        ("1", "normal"),
        ("1", "normal"),
        ("2", "bold"),
        ("4", "normal"),
        ("3", "bold"),
        ("3", "normal"),
    ]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["image 2, object 2", "image 10, object 1"]


def test_instability_figure_has_a_curve_a_layer():
    left, right = plots.instability_figure({"a": plots.timeline(log()), "b": plots.timeline(log())}, "both").axes
    assert left.get_title() == "a" and len(left.lines) == len(right.lines) == 2
    assert left.lines[1].get_ydata() == pytest.approx([100 / 3, 100 / 3])
    assert len({line.get_linestyle() for line in left.lines}) == 2


def test_film_figure_joins_each_object_with_its_query():
    pixels = np.full((20, 40, 3), 200, dtype=np.uint8)
    truth = torch.tensor([[0.25, 0.5, 0.2, 0.2], [0.75, 0.5, 0.2, 0.2]])
    first, second = plots.film_figure(plots.film(run(), 7)[:2], pixels, truth).axes
    lines = [line for line in second.lines if line.get_color() == style.MATCHED]
    assert [line.get_linestyle() for line in lines] == ["--", "--"], "new pairs are dashed"
    assert list(lines[0].get_xdata()) == pytest.approx([10, 20]) and list(lines[0].get_ydata()) == pytest.approx(
        [10, 4]
    )
    assert [line.get_linestyle() for line in first.lines if line.get_color() == style.MATCHED] == ["-", "-"]
    assert sorted(text.get_text() for text in second.texts) == ["0", "1"]
    assert second.get_title() == "step 40"


def test_switch_figure_draws_shares():
    way = {
        "layers": [{"shown": 10, "found": 8, "said": 14, "again": 4}, {"shown": 10, "found": 9, "said": 9, "again": 0}],
        "ap": [{"plain": 0.5, "nms": 0.6}, {"plain": 0.7, "nms": 0.69}],
    }
    found, again, gain = plots.switch_figure({"as trained": way, "alone": way}).axes
    assert found.lines[0].get_ydata() == pytest.approx([80, 90])
    assert again.lines[0].get_ydata() == pytest.approx([0.5, 0])
    assert gain.lines[0].get_ydata() == pytest.approx([10, -1])


def points(shown):
    return [{"shown": t, "found": [t, t - 1, t], "said": [t] * 3, "by_chance": [0, 0, 1]} for t in shown]


def test_few_figure_draws_the_ceiling_of_the_model_that_has_one():
    curves = {"ten": points((5, 10, 20, 40)), "fifty": points((5, 10, 20, 40))}
    left, right = plots.few_figure(curves, {"ten": 10, "fifty": 50}, {10: 0.01, 100: 0.03}).axes
    ceilings = [line for line in left.lines if line.get_color() == style.UNMATCHED]
    assert len(ceilings) == 1 and list(ceilings[0].get_ydata()) == [100, 100, 50, 25]
    assert list(right.lines[0].get_ydata()) == [10, 30]
    assert "ceiling 10 / T" in texts(left)


def test_counting_figure_draws_the_three_lines():
    curves = {name: points((4, 8, 40)) for name in ("crowd", "few", "grid 5", "grid 7")}
    curves["few"] = [point | {"like": 9 + index} for index, point in enumerate(curves["few"])]
    left, right = plots.counting_figure(curves, trained=8, queries=50).axes
    for axes in (left, right):
        assert "8: most in training" in texts(axes) and "50: queries" in texts(axes) and "chance" in texts(axes)
    assert list(left.lines[1].get_xdata()) == [9, 10, 11], "few stand at the number they are as small as"
    assert list(left.lines[0].get_ydata()) == pytest.approx([100 * (3 * t - 1) / (3 * t) for t in (4, 8, 40)])


def test_collapse_figure_keeps_a_zero_in_the_picture():
    figure = plots.collapse_figure([(0.1, 0.2), (0.2, 0.3)], {"healthy": (0.1, 0.1), "dead": (0.0, 0.0)})
    (axes,) = figure.axes
    names = [line.get_label() for line in axes.lines]
    assert names[1:] == ["healthy", "dead"]
    assert (ink(figure) < 250).any()
    low = axes.get_xlim()[0]
    assert all(float(line.get_xdata()[0]) >= low for line in axes.lines[1:])
