"""Figures of notebook 13 show what they were given, stay within their frame, and leave nothing in pyplot."""

import numpy as np
import pytest
import torch
from figures import readable

from detr_mini.plots import photographs as plots
from detr_mini.plots import style

pytestmark = pytest.mark.usefixtures("no_figure_is_left_in_pyplot")


def kinds(boxes, labels, true_boxes, true_labels):
    boxes, true_boxes = (torch.tensor(each, dtype=torch.float32).reshape(-1, 4) for each in (boxes, true_boxes))
    return plots.kinds(boxes, torch.tensor(labels), true_boxes, torch.tensor(true_labels))


def test_kinds_by_hand():
    true = [[0, 0, 10, 10], [20, 0, 30, 10]]
    boxes = [[0, 0, 10, 10], [0, 1, 10, 10], [20, 0, 30, 10], [25, 0, 45, 10], [80, 80, 90, 90]]
    said, found = kinds(boxes, [0, 0, 0, 1, 1], true, [0, 1])
    assert said == ["right", "twice", "other class", "misplaced", "nothing there"] and found == [True, False]
    assert set(said) == set(plots.KINDS)


def test_kinds_without_boxes():
    assert kinds([], [], [[0, 0, 1, 1]], [0]) == ([], [False])
    assert kinds([[0, 0, 1, 1]], [0], [], []) == (["nothing there"], [])


def test_of_two_objects_that_overlap_each_takes_its_own():
    true = [[0, 0, 10, 10], [0, 2, 10, 12]]
    said, found = kinds([[0, 2, 10, 12], [0, 0, 10, 10]], [0, 0], true, [0, 0])
    assert said == ["right", "right"] and found == [True, True]


def test_smoothed_by_hand():
    assert style.running_mean([2.0, 4.0, 6.0, 8.0], 2).tolist() == [2, 3, 5, 7]
    assert style.running_mean([1.0, 3.0], 10).tolist() == [1, 2]


LOG = [{"step": 20 * i, "loss": 30.0 / i} for i in range(1, 9)]
EVALS = [{"step": 40 * i, "eval": {"ap": 0.1 * i, "ap50": 0.2 * i}} for i in range(1, 5)]


@pytest.mark.parametrize("live", [None, [40.0, 30.0, 20.0]])
def test_tuning_draws_the_live_run_or_says_why_not(live):
    figure = plots.tuning_figure(live, LOG, EVALS, "it falls")
    assert readable(figure)
    assert len(figure.axes[0].lines) == (2 if live else 0)
    assert [line.get_ydata()[-1] for line in figure.axes[2].lines] == [0.8, 0.4]


def test_freezing_shows_both_runs():
    runs = {
        name: {"losses": [[1, 4.0], [2, 3.0]], "ap50": ap, "trained": 10**6} for name, ap in (("a", 0.1), ("b", 0.2))
    }
    figure = plots.freezing_figure(runs, "two runs")
    assert readable(figure) and len(figure.axes[0].lines) == 2
    assert [text.get_text() for text in figure.axes[1].texts] == ["0.10", "0.20"]


def test_classes_are_sorted_by_their_mean():
    sets = {"cards": {"ten": {"val": 0.3, "test": 0.4}, "ace": {"val": 0.6, "test": 0.4}}}
    sets["cells"] = {"RBC": {"val": 0.5, "test": 0.5}}
    figure = plots.classes_figure(sets, "by class")
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["ace", "ten"] and readable(figure)


def test_confusion_writes_what_is_not_zero():
    figure = plots.confusion_figure(np.array([[3, 0, 1], [2, 5, 0]]), ["nine", "ten"], "who is who")
    assert sorted(text.get_text() for text in figure.axes[0].texts) == ["1", "2", "3", "5"] and readable(figure)


def test_crowded_counts_the_images_above_each_line():
    figure = plots.crowded_figure({"cells": [3, 12, 28], "scenes": [1, 2]}, [10, 60], "how many")
    assert "2 images above" in figure.axes[0].texts[0].get_text() and readable(figure)
    assert "0 images above" in figure.axes[1].texts[0].get_text()


def test_precision_names_each_curve_with_its_ap():
    figure = plots.precision_figure({"whole": ([0, 1], [1, 1], 1.0), "part": ([0, 1], [0.5, 0.6], 0.6)}, "two")
    assert [t.get_text() for t in figure.axes[0].get_legend().get_texts()] == ["whole: AP 1.00", "part: AP 0.60"]
    assert readable(figure)


def test_missing_draws_a_line_for_each_share_in_the_test():
    entry = {"0": {"class": 0.7, "others": 0.6}, "0.4": {"class": 0.4, "others": 0.6}}
    result = {"class": "bus", "ap": {"0": [entry, entry], "0.4": [entry, entry]}}
    figure = plots.missing_figure(result, "missing")
    lines = [line for line in figure.axes[0].lines if line.get_linestyle() != "None"]
    assert [line.get_ydata().tolist() for line in lines] == [[0.7, 0.7], [0.4, 0.4]] and readable(figure)


def test_schedules_keep_their_rates():
    figure = plots.schedule_figure({"drop": [1e-4, 1e-5], "cosine": [1e-3, 1e-4]}, "rates")
    assert figure.axes[0].get_yscale() == "log" and readable(figure)
    assert [line.get_ydata()[0] for line in figure.axes[0].lines] == [1e-4, 1e-3]


def test_marked_draws_each_box_with_its_word():
    images = [torch.zeros(3, 40, 60, dtype=torch.uint8)] * 3
    marks = [[((2, 3, 12, 15), "bus", "#009E73", "-"), ((20, 20, 30, 30), "", "#444444", "--")], [], []]
    figure = plots.marked_figure(images, marks, ["one", "two", "three"], "all", columns=2)
    boxes = [patch for patch in figure.axes[0].patches if not patch.get_fill()]
    assert [box.get_xy() for box in boxes] == [(2, 3), (20, 20)] and readable(figure)
    assert [text.get_text() for text in figure.axes[0].texts] == ["bus"]
