"""Notebook 10's figures draw what they are given, and its curve is COCO's."""

import numpy as np
import pytest

from detr_mini.plots import evaluation as plots
from detr_mini.plots import style

pytestmark = pytest.mark.usefixtures("no_figure_is_left_in_pyplot")

RIGHT = [True, True, False, True, False, True, False, False, True, False]


def texts(figure):
    found = [text.get_text() for axes in figure.axes for text in [*axes.texts, axes.title]]
    return found + [text.get_text() for axes in figure.axes if axes.get_legend() for text in axes.get_legend().texts]


def lines(axes):
    return [line.get_xydata() for line in axes.lines]


def test_the_curve_of_ten_detections_is_that_of_paper():
    curve = plots.curve(RIGHT, 6)
    assert curve.precision.tolist() == pytest.approx([1, 1, 2 / 3, 3 / 4, 3 / 5, 4 / 6, 4 / 7, 1 / 2, 5 / 9, 1 / 2])
    assert curve.recall.tolist() == pytest.approx([k / 6 for k in (1, 2, 2, 3, 3, 4, 4, 4, 5, 5)])
    assert curve.ap == pytest.approx((34 + 17 * 3 / 4 + 16 * 2 / 3 + 17 * 5 / 9) / 101)
    assert (np.diff(curve.envelope) <= 0).all() and curve.envelope[84:].max() == 0


def test_a_curve_without_detections_is_zero_and_more_hits_than_objects_is_an_error():
    assert plots.curve([], 3).ap == 0
    for right, objects in (([True], 0), ([True, True], 1)):
        with pytest.raises(ValueError, match="at most once"):
            plots.curve(right, objects)


def test_the_ladder_has_a_mark_for_each_detection_and_the_steps():
    figure = plots.ladder_figure(np.linspace(0.9, 0.1, 10), RIGHT, 6)
    words = texts(figure)
    assert words.count("right") == 5 and words.count("wrong") == 5 and "AP 0.662" in words
    assert style.png(figure).startswith(b"\x89PNG")


def test_the_curves_have_their_ap_in_the_legend():
    envelope = plots.curve(RIGHT, 6).envelope
    figure = plots.curves_figure({"one": {"cat": envelope}, "two": {"dog": envelope / 2, "bus": 0 * envelope}})
    assert {"cat: AP 0.66", "dog: AP 0.33", "bus: AP 0.00", "one", "two"} <= set(texts(figure))
    np.testing.assert_allclose(lines(figure.axes[1])[0][:, 1], envelope / 2)


def test_the_spread_names_the_hardest():
    figure = plots.spread_figure(
        {"cat": 0.3, "dog": 0.7}, np.linspace(0.8, 0.1, 10), {"small": 0.2, "medium": 0.5, "large": 0.4}
    )
    assert {"Dog is easiest, cat hardest", "Small is hardest", "Exactness: 0.80 to 0.10"} <= set(texts(figure))
    assert [bar.get_width() for bar in figure.axes[0].patches] == [0.3, 0.7]
    assert [bar.get_height() for bar in figure.axes[2].patches] == [0.2, 0.5, 0.4]


def test_the_layers_are_in_points():
    figure = plots.layers_figure(
        {"without NMS": [0.4, 0.5], "with": [0.45, 0.49]}, {"first": np.full(10, 0.02)}, {"first": {0.5: -0.01}}
    )
    left, middle, right = figure.axes
    assert lines(left)[1][:, 1].tolist() == pytest.approx([45, 49])
    assert lines(middle)[0][:, 1].tolist() == pytest.approx([2] * 10)
    assert lines(right)[0].tolist() == [[0.5, pytest.approx(-1)]]


def test_the_riddle_has_the_healthy_curves_behind_each():
    healthy = np.stack([np.linspace(1, 0, 101), np.linspace(0.8, 0, 101)])
    figure = plots.riddle_figure(healthy, [healthy / 2, healthy / 3, healthy / 4, healthy / 5])
    assert [axes.get_title() for axes in figure.axes] == [f"curve {n}" for n in (1, 2, 3, 4)]
    for divisor, axes in enumerate(figure.axes, start=2):
        drawn = lines(axes)
        np.testing.assert_allclose(drawn[0][:, 1], healthy[0])
        np.testing.assert_allclose(drawn[3][:, 1], healthy[1] / divisor)


def race(ours, theirs, nms=(0.0, 0.05), sizes=(0.2, 0.4, None)):
    """A race whose curves are `ours` and `theirs` (AP by minute), and whose test grades are the last ones."""

    def side(curve, gain, speed):
        ap = curve[-1]
        tests = {}
        for way, value in (("without NMS", ap - (gain if gain > 0 else 0)), ("with NMS", ap + min(gain, 0))):
            grades = dict(zip(plots.SIZES, sizes, strict=True))
            per_class = {"cat": value, "dog": value / 2, "bus": None}
            tests[way] = {"ap": value, "ap50": value, "ap75": value, "images_per_second": speed} | grades
            tests[way]["per_class"] = per_class
        points = [{"seconds": 60 * (m + 1), "steps": m, "ap": ap, "ap50": ap} for m, ap in enumerate(curve)]
        return {"curve": points, "test": tests}

    return {"DETR": side(ours, nms[0], 200.0), "Faster R-CNN": side(theirs, nms[1], 50.0)}


def test_leads_change_where_the_curves_cross():
    crossing = race([0.0, 0.1, 0.3, 0.6], [0.1, 0.2, 0.3, 0.4])
    (first, start, stop), (second, later, end) = plots.leads(crossing)
    assert (first, second) == ("Faster R-CNN", "DETR")
    assert start == pytest.approx(0.1, abs=0.05) and stop == pytest.approx(2.9, abs=0.05)
    assert later == pytest.approx(3.05, abs=0.05) and end == 4


def test_level_curves_have_no_leader():
    assert plots.leads(race([0.1, 0.2], [0.105, 0.195])) == []
    assert plots.verdict(race([0.1, 0.2], [0.105, 0.195]))[0] == "the curves are never a point apart"


@pytest.mark.parametrize(("ours", "theirs", "winner"), [(0.5, 0.4, "DETR"), (0.4, 0.5, "Faster R-CNN")])
def test_the_verdict_names_who_wins(ours, theirs, winner):
    lines = plots.verdict(race([0.1, ours], [0.1, theirs]))
    assert any(line.startswith("AP ") and line.endswith(f"{winner} leads by 10.0 points") for line in lines)
    assert any(
        "classes   DETR is ahead in" in line and line.endswith("2 of 2" if winner == "DETR" else "0 of 2")
        for line in lines
    )
    assert "NMS       changes the AP of Faster R-CNN by +5.0 points" in lines
    assert any("DETR 200, Faster R-CNN 50: DETR is 4.0 times as fast" in line for line in lines)
    assert any("AP small  DETR 0.200, Faster R-CNN 0.200: level" in line for line in lines)
    assert any("AP large  no objects of this kind" in line for line in lines)


def test_near_zero_nothing_is_compared():
    (line,) = plots.verdict(race([0.0, 0.04], [0.0, 0.01]))
    assert "nothing can be compared" in line


def test_the_race_is_drawn_from_the_start():
    made = race([0.1, 0.5], [0.2, 0.3])
    figure = plots.race_figure(made)
    assert lines(figure.axes[0])[0].tolist() == [[0, 0], [1, 0.1], [2, 0.5]]
    assert "DETR leads by 20.0 points" in figure.get_suptitle()
    bars = plots.race_bars_figure(made)
    assert len(bars.axes[0].patches) == 16
    assert bars.axes[0].get_title() == "NMS adds +0.0 points to DETR and +5.0 points to Faster R-CNN"


def test_errors_and_gallery_have_a_row_a_kind():
    figure = plots.errors_figure({"duplicate": 9, "missed": 3}, {"duplicate": 0.01, "missed": 0.04})
    assert {"Most errors: duplicate", "What costs most: missed", " 9", " +4.0"} <= set(texts(figure))
    pixels = np.full((96, 96, 3), 128, dtype=np.uint8)
    box = np.array([10.0, 10, 40, 40])
    cases = {
        "wrong class": [plots.Case(pixels, box, "cat 0.90", box + 5, "true: dog")],
        "background": [plots.Case(pixels, box, "cat 0.60", None, "")] * 2,
        "missed": [plots.Case(pixels, None, "", box, "true: cat")],
    }
    figure = plots.gallery_figure(cases)
    assert [len(axes.patches) for axes in figure.axes] == [2, 1, 1, 1]
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[0] == "says cat 0.90\ntrue: dog" and titles[-1] == "says nothing\ntrue: cat"
    assert {text.get_text() for text in figure.texts} == set(cases)
