"""Figures of notebook 13: fine-tuning, AP by class, kinds of failure, queries against objects, missing labels.

`kinds` is the pure function behind the table of failures: detections and true boxes in, one word for each out.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from detr_mini.boxes import iou
from detr_mini.plots import style
from detr_mini.plots.detections import pixels_of, show_pixels

# N detections of an image · T true boxes

KINDS = ("right", "twice", "other class", "misplaced", "nothing there")
LOOKS = (("-", "o", style.QUERY), ("--", "s", "#D55E00"), (":", "^", style.UNMATCHED), ("-.", "D", "#CC79A7"))
PAPER = {"boxstyle": "square,pad=0.12", "facecolor": "white", "linewidth": 0.8}


def kinds(
    boxes_xyxy_px: Tensor, labels: Tensor, true_boxes_xyxy_px: Tensor, true_labels: Tensor, least_iou: float = 0.5
) -> tuple[list[str], list[bool]]:
    """One of `KINDS` for each detection (N, by falling score), and for each true box whether it was found.

    A box below `least_iou` with every true box is misplaced from an IoU of 0.1 on, else there is nothing there.
    """
    overlap, found, said = iou(boxes_xyxy_px, true_boxes_xyxy_px), [False] * len(true_labels), []
    for number, label in enumerate(labels.tolist()):
        row = overlap[number]
        near = [j for j in range(len(found)) if row[j] >= least_iou]
        same = [j for j in near if true_labels[j] == label]
        free = [j for j in same if not found[j]]
        if free:
            found[max(free, key=lambda j: float(row[j]))] = True
            said.append("right")
        elif same:
            said.append("twice")
        elif near:
            said.append("other class")
        else:
            said.append("misplaced" if len(row) and row.max() >= 0.1 else "nothing there")
    return said, found


def tuning_figure(live: Sequence[float] | None, log: Sequence[Mapping], evals: Sequence[Mapping], title: str) -> Figure:
    """Draw the loss of a short live run (by step, or None), a stored run's loss, and its AP on validation images."""
    figure, (first, second, third) = style.row(3, 3.0, bottom=0.55, top=0.75, left=0.6, gap=0.6)
    if live:
        first.plot(range(1, len(live) + 1), live, color="#9ecae1", linewidth=1, label="each step")
        first.plot(
            range(1, len(live) + 1), style.running_mean(live, 10), color=style.QUERY, linewidth=2, label="mean of ten"
        )
        first.legend(fontsize=8, frameon=False)
    else:
        first.text(0.5, 0.5, "needs the photographs", ha="center", va="center", fontsize=9, transform=first.transAxes)
    first.set_title(f"live, {len(live) if live else 0} steps", fontsize=10)
    steps = [record["step"] for record in log]
    second.plot(steps, [record["loss"] for record in log], color="#9ecae1", linewidth=1)
    second.plot(steps, style.running_mean([record["loss"] for record in log], 5), color=style.QUERY, linewidth=2)
    second.set_title(f"the shipped run, {evals[-1]['step']:,} steps", fontsize=10)
    steps = [record["step"] for record in evals]
    for key, name, (dash, marker, colour) in zip(("ap50", "ap"), ("AP50", "AP"), LOOKS, strict=False):
        values = [record["eval"][key] for record in evals]
        third.plot(steps, values, dash, marker=marker, color=colour, markersize=4)
        third.text(steps[-1], values[-1] + 0.03, name, color=colour, fontsize=9, ha="right", va="bottom")
    third.set_title("the same run, validation", fontsize=10)
    third.set_ylim(0, 1)
    for axes, unit in ((first, "loss"), (second, "loss"), (third, "AP")):
        axes.set_xlabel("step", fontsize=9)
        axes.set_ylabel(unit, fontsize=9)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        style.tidy(axes)
    figure.suptitle(title, fontsize=11, color=style.INK)
    return figure


def freezing_figure(runs: Mapping[str, Mapping], title: str, width: int = 30) -> Figure:
    """Draw the loss of runs {name: {"losses": [[step, loss], ...], "ap50", "trained"}}, and the AP50 of each."""
    figure, (left, right) = style.row(2, 3.0, bottom=0.55, top=0.5, left=0.6, gap=1.9)
    for (name, run), (dash, _, colour) in zip(runs.items(), LOOKS, strict=False):
        steps, losses = zip(*run["losses"], strict=True)
        left.plot(steps, style.running_mean(losses, width), dash, color=colour, linewidth=2, label=name)
    left.set_xlabel("step", fontsize=9)
    left.set_ylabel(f"loss in training (mean of {width} steps)", fontsize=9)
    left.legend(fontsize=8, frameon=False)
    colours = [look[2] for look in LOOKS][: len(runs)]
    values = [run["ap50"] for run in runs.values()]
    right.barh(range(len(runs)), values, color=colours, height=0.5, edgecolor=style.INK)
    names = [f"{name}\n{run['trained'] / 1e6:.1f} M trained" for name, run in runs.items()]
    right.set_yticks(range(len(runs)), names, fontsize=8)
    for place, value in enumerate(values):
        right.text(value + 0.01, place, f"{value:.2f}", va="center", fontsize=9)
    right.set_xlim(0, max(values) * 1.2 + 0.01)
    right.set_xlabel("AP50 on validation photographs", fontsize=9)
    right.invert_yaxis()
    for axes in (left, right):
        style.tidy(axes)
    figure.suptitle(title, fontsize=11, color=style.INK)
    return figure


def classes_figure(sets: Mapping[str, Mapping[str, Mapping[str, float]]], title: str) -> Figure:
    """Draw AP by class: {data set: {class: {split: AP}}}, one panel a set, one mark a split."""
    figure, panels = style.row(len(sets), 2.9, bottom=0.55, top=0.72, left=0.85, gap=1.0)
    for axes, (name, classes) in zip(panels, sets.items(), strict=True):
        order = sorted(classes, key=lambda each: -np.mean(list(classes[each].values())))
        splits = list(next(iter(classes.values())))
        shifts = 0.24 * (np.arange(len(splits)) - (len(splits) - 1) / 2)  # equal values do not hide each other
        for split, shift, (_, marker, colour) in zip(splits, shifts, LOOKS, strict=False):
            values = [classes[each][split] for each in order]
            axes.plot(values, np.arange(len(order)) + shift, marker, color=colour, markersize=7, label=split)
        for place, each in enumerate(order):
            axes.plot(list(classes[each].values()), place + shifts, color="#bbbbbb", zorder=0)
        axes.set_yticks(range(len(order)), order, fontsize=9)
        axes.set_ylim(len(order) - 0.5, -0.5)
        axes.set_xlim(0, 1)
        axes.set_xlabel("AP", fontsize=9)
        axes.set_title(name, fontsize=10, color=style.INK)
        style.tidy(axes)
    panels[0].legend(fontsize=8, frameon=False, loc="lower right")
    figure.suptitle(title, fontsize=11, color=style.INK)
    return figure


def confusion_figure(counts: np.ndarray, names: Sequence[str], title: str) -> Figure:
    """Draw how often each true class (rows, K) was called what (columns, K, and last "missed")."""
    figure = style.new_figure(6.2, 3.9)
    axes = figure.add_axes((0.14, 0.05, 0.84, 0.7))
    axes.imshow(counts, cmap="Blues", vmin=0, vmax=counts.max() * 1.6, aspect="auto")
    for row in range(counts.shape[0]):
        for column in range(counts.shape[1]):
            if counts[row, column]:
                axes.text(column, row, f"{counts[row, column]}", ha="center", va="center", fontsize=10)
    axes.set_xticks(range(counts.shape[1]), [*names, "missed"], fontsize=9)
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.set_xlabel("the detector says", fontsize=9)
    axes.set_ylabel("the label says", fontsize=9)
    axes.axvline(len(names) - 0.5, color=style.INK, linewidth=1)
    figure.suptitle(title, fontsize=11, color=style.INK)
    return figure


def crowded_figure(sets: Mapping[str, Sequence[int]], lines: Sequence[int], title: str) -> Figure:
    """Draw the number of objects in each image of some sets, and numbers of queries as lines."""
    figure, panels = style.row(len(sets), 2.7, bottom=0.55, top=0.72, left=0.6, gap=0.6)
    for axes, (name, counts) in zip(np.atleast_1d(panels), sets.items(), strict=True):
        most = max(max(counts), max(lines))
        bins = np.arange(-0.5, most + 2.5) if most < 40 else np.arange(-1.5, most + 2.5, 2)  # a line at 10.5 is an edge
        axes.hist(counts, bins=bins, color=style.OBJECT, edgecolor="white")
        top = axes.get_ylim()[1]
        axes.set_ylim(0, top * 1.25)
        for queries in lines:
            over = sum(count > queries for count in counts)
            axes.axvline(queries + 0.5, color=style.QUERY, linestyle="--")
            side = {"ha": "right" if queries > 0.7 * most else "left"}
            shift = -0.5 if side["ha"] == "right" else 1.2
            words = f"{queries} queries:\n{over} images above"
            axes.text(queries + shift, top * 1.22, words, fontsize=8, va="top", color=style.QUERY, **side)
        axes.set_xlabel("objects in the image", fontsize=9)
        axes.set_ylabel("images", fontsize=9)
        axes.set_title(name, fontsize=10, color=style.INK)
        style.tidy(axes)
    figure.suptitle(title, fontsize=11, color=style.INK)
    return figure


def precision_figure(curves: Mapping[str, tuple[Sequence[float], Sequence[float], float]], title: str) -> Figure:
    """Draw precision against recall: {name: (recall, precision, AP)}."""
    figure = style.new_figure(style.PAGE_IN, 2.9)
    axes = figure.add_axes((0.075, 0.19, 0.6, 0.65))
    for (name, (recall, precision, ap)), (dash, _, colour) in zip(curves.items(), LOOKS, strict=False):
        axes.plot(recall, precision, dash, color=colour, linewidth=2, label=f"{name}: AP {ap:.2f}")
    axes.set(xlim=(0, 1.01), ylim=(0, 1.05))
    axes.set_xlabel("recall, of the labels that are left", fontsize=9)
    axes.set_ylabel("precision", fontsize=9)
    axes.legend(fontsize=9, frameon=False, loc="center left", bbox_to_anchor=(1.02, 0.5))
    style.tidy(axes)
    figure.suptitle(title, fontsize=11, color=style.INK)
    return figure


def missing_figure(result: Mapping, title: str) -> Figure:
    """Draw AP of the class and of the others against the share gone from training, one line a share gone in the test.

    `result` is what data/missing_labels.py writes: `class`, and `ap` by share in training, seed and share in the test.
    """
    figure, panels = style.row(2, 3.2, bottom=0.55, top=0.72, left=0.6, gap=0.6)
    shares = list(result["ap"])
    tested = list(result["ap"][shares[0]][0])
    places = [100 * float(share) for share in shares]
    for axes, part in zip(panels, ("class", "others"), strict=True):
        for each, (dash, marker, colour) in zip(tested, LOOKS, strict=False):
            values = np.array([[seed[each][part] for seed in result["ap"][share]] for share in shares])
            label = f"graded with {float(each):.0%} of them gone"
            axes.plot(places, values.mean(1), dash, color=colour, linewidth=2, label=label)
            for column in values.T:
                axes.plot(places, column, marker, color=colour, markersize=4, alpha=0.7)
        axes.set_xticks(places)
        axes.xaxis.set_major_formatter(PercentFormatter(decimals=0))
        axes.set_xlabel(f"{result['class']} labels gone from training", fontsize=9)
        axes.set_ylabel("AP on test scenes", fontsize=9)
        style.tidy(axes)
    highest = max(
        entry[each][part]
        for share in shares
        for entry in result["ap"][share]
        for each in tested
        for part in ("class", "others")
    )
    for axes in panels:
        axes.set_ylim(0, highest * 1.12)
    panels[0].set_title(f"{result['class']}, whose labels are missing", fontsize=10, color=style.INK)
    panels[1].set_title("mean of the other classes", fontsize=10, color=style.INK)
    panels[0].legend(fontsize=8, frameon=False, loc="lower left")
    figure.suptitle(title, fontsize=11, color=style.INK)
    return figure


def schedule_figure(factors: Mapping[str, Sequence[float]], title: str) -> Figure:
    """Draw learning rates by the share of a run that is done: {name: rates}."""
    figure = style.new_figure(style.PAGE_IN, 2.5)
    axes = figure.add_axes((0.09, 0.22, 0.55, 0.62))
    for (name, rates), (dash, _, colour) in zip(factors.items(), LOOKS, strict=False):
        axes.plot(np.linspace(0, 100, len(rates)), rates, dash, color=colour, linewidth=2, label=name)
    axes.set_yscale("log")
    axes.set_ylim(bottom=1e-6)
    axes.set_xlabel("share of the run, %", fontsize=9)
    axes.set_ylabel("learning rate", fontsize=9)
    axes.legend(fontsize=9, frameon=False, loc="center left", bbox_to_anchor=(1.02, 0.5))
    style.tidy(axes)
    figure.suptitle(title, fontsize=11, color=style.INK)
    return figure


def marked_figure(
    images: Sequence[Tensor],
    marks: Sequence[Sequence[tuple]],
    titles: Sequence[str],
    title: str,
    columns: int = 4,
) -> Figure:
    """Draw images (3, H, W) uint8 in a grid; each has marks (box xyxy in px, word, colour, dash)."""
    rows = -(-len(images) // columns)
    wide, aspects = style.PAGE_IN / columns, [image.shape[1] / image.shape[2] for image in images]
    heights = [wide * max(aspects[row * columns : (row + 1) * columns]) + 0.3 for row in range(rows)]
    figure = style.new_figure(style.PAGE_IN, sum(heights) + 0.4)
    grid = figure.subplots(rows, columns, squeeze=False, gridspec_kw={"height_ratios": heights}).flat
    for index, axes in enumerate(grid):
        if index >= len(images):
            axes.set_axis_off()
            continue
        show_pixels(axes, pixels_of(images[index]))
        axes.set_aspect("equal")
        height = images[index].shape[1]
        for box, _, colour, dash in marks[index]:
            style.draw_box(axes, box, colour, dash, width=1.8)
        for box, word, colour, _ in marks[index]:  # words lie above all boxes
            x, y = max(float(box[0]), 0), max(float(box[1]), 0)
            above = y > 0.1 * height
            if word:
                inch = images[index].shape[2] / wide  # px an inch; a letter of 8 pt is about 0.07 inch wide
                right = min(float(box[2]), images[index].shape[2])
                turned = x + 0.07 * inch * len(word) > images[index].shape[2] > 0.07 * inch * len(word)
                side = {"ha": "right" if turned else "left", "va": "bottom" if above else "top"}
                look = {"fontsize": 8, "color": style.INK, **side}
                axes.text(right if turned else x, y, word, clip_on=True, bbox={**PAPER, "edgecolor": colour}, **look)
        axes.set_title(titles[index], fontsize=9, color=style.INK, pad=3)
    figure.suptitle(title, fontsize=11, color=style.INK)
    figure.tight_layout(pad=0.4, h_pad=0.6, w_pad=0.4)
    return figure
