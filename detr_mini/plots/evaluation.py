"""Figures of notebook 10: precision and recall, AP by decoder layer, the race against Faster R-CNN, kinds of error.

`curve` and `verdict` are the numbers behind them: a precision-recall curve from a list of matches, and what
data/results/race/race.json says.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from detr_mini.plots import style
from detr_mini.plots.detections import show_pixels

# N detections · T objects · K classes · R = 101 recalls · L decoder layers

RECALLS = np.linspace(0, 1, 101)
LOOKS = (("-", "o"), ("--", "s"), (":", "^"), ("-.", "D"))  # of curves that share a panel
SHADES = (style.QUERY, "#D55E00", style.UNMATCHED, "#CC79A7")
SIDES = ("DETR", "Faster R-CNN")  # the two of the race
LEVEL, NOTHING = 0.01, 0.05  # AP: a smaller distance is called level; below this there is nothing to compare
SIZES = ("ap_small", "ap_medium", "ap_large")


@dataclass(frozen=True)
class Curve:
    """A precision-recall curve: after each detection, and at COCO's 101 recalls."""

    recall: np.ndarray  # (N,)
    precision: np.ndarray  # (N,)
    envelope: np.ndarray  # (R,) the best precision at that recall or a larger one, 0 where it is never reached

    @property
    def ap(self) -> float:
        """The mean of the envelope, 0..1."""
        return float(self.envelope.mean())


def curve(right: Sequence[bool], objects: int) -> Curve:
    """The curve of detections by falling score, right or wrong (N,), where `objects` can be found.

    Raises ValueError without objects, and for more right detections than objects.
    """
    right = np.asarray(right, dtype=bool)
    if objects < 1 or right.sum() > objects:
        raise ValueError(f"{right.sum()} right detections of {objects} objects: each object is found at most once")
    hits = np.cumsum(right)
    recall, precision = hits / objects, hits / np.arange(1, len(right) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return Curve(recall, precision, np.append(best, 0)[np.searchsorted(recall, RECALLS)])


def ladder_figure(scores: Sequence[float], right: Sequence[bool], objects: int) -> Figure:
    """Draw a list of detections as a ladder of scores, and the curve that it makes."""
    made = curve(right, objects)
    figure = style.new_figure(style.PAGE_IN, 3.7)
    left, axes = figure.add_axes((0.06, 0.14, 0.27, 0.74)), figure.add_axes((0.43, 0.14, 0.55, 0.74))
    for index, (score, good) in enumerate(zip(scores, right, strict=True)):
        colour, marker, word = (style.MATCHED, "o", "right") if good else (style.UNMATCHED, "x", "wrong")
        left.plot(score, index + 1, marker, color=colour, markersize=8, markeredgewidth=2)
        left.text(1.06, index + 1, word, fontsize=8, va="center", color=colour)
    left.set(xlim=(0, 1.3), xticks=(0, 0.5, 1), ylim=(len(scores) + 0.6, 0.4), yticks=range(1, len(scores) + 1))
    left.set_xlabel("score", fontsize=9)
    left.set_ylabel("detections, the surest first", fontsize=9)
    left.set_title("What came, judged", fontsize=10, color=style.INK)
    axes.plot(
        made.recall,
        made.precision,
        color=style.UNMATCHED,
        linestyle=":",
        marker=".",
        label="after each of the detections",
    )
    for number, point in enumerate(zip(made.recall, made.precision, strict=True), start=1):
        axes.annotate(str(number), point, (4, 5), textcoords="offset points", fontsize=8, color=style.INK)
    axes.step(RECALLS, made.envelope, where="pre", color=style.QUERY, linewidth=2, label="the best from there on")
    axes.fill_between(RECALLS, made.envelope, step="pre", color=style.QUERY, alpha=0.12)
    axes.text(0.06, 0.3, f"AP {made.ap:.3f}", fontsize=11, color=style.QUERY)
    _recall_axes(axes)
    axes.set_ylabel("precision", fontsize=9)
    axes.set_title("Every place to stop is a point; AP is the area under the steps", fontsize=10, color=style.INK)
    axes.legend(fontsize=8, frameon=False, loc="lower left")
    style.tidy(left)
    return figure


def curves_figure(panels: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Draw envelopes (R,) by panel and name, each with its AP in the legend; a panel's name is its title."""
    figure, places = style.row(len(panels), 3.4, bottom=0.5, top=0.4, left=0.6, gap=0.5)
    for axes, (title, envelopes) in zip(places, panels.items(), strict=True):
        for index, (name, envelope) in enumerate(envelopes.items()):
            line, _ = LOOKS[index]
            label = f"{name}: AP {envelope.mean():.2f}"
            axes.plot(RECALLS, envelope, color=SHADES[index], linestyle=line, linewidth=1.8, label=label)
        _recall_axes(axes)
        axes.set_title(title, fontsize=10, color=style.INK)
        low = min(envelope[:40].min() for envelope in envelopes.values()) > 0.4  # the lower left is free
        axes.legend(fontsize=8, frameon=False, loc="lower left" if low else "center left")
    places[0].set_ylabel("precision, best from there on", fontsize=9)
    return figure


def spread_figure(per_class: Mapping[str, float], by_iou: Sequence[float], sizes: Mapping[str, float]) -> Figure:
    """Draw AP by class, by the IoU asked for (10,), and by the objects' size."""
    figure = style.new_figure(style.PAGE_IN, 3.9)
    left = figure.add_axes((0.1, 0.14, 0.36, 0.77))
    middle, right = figure.add_axes((0.54, 0.14, 0.24, 0.77)), figure.add_axes((0.84, 0.14, 0.15, 0.77))
    names = sorted(per_class, key=per_class.get)
    left.barh(names, [per_class[name] for name in names], color=style.QUERY, height=0.7)
    mean = float(np.mean(list(per_class.values())))
    left.plot([mean, mean], [-0.6, len(names) - 0.4], color=style.INK, linestyle="--", linewidth=1)
    left.text(mean, len(names) - 0.3, f"mean {mean:.2f}", fontsize=8, ha="center", va="bottom")
    left.set(ylim=(-0.6, len(names) + 0.4))
    left.set_xlabel("AP", fontsize=9)
    left.set_title(f"{names[-1].capitalize()} is easiest, {names[0]} hardest", fontsize=10, color=style.INK)
    middle.plot(np.linspace(0.5, 0.95, 10), by_iou, color=style.QUERY, marker="o", markersize=4)
    middle.set(ylim=(0, 1))
    middle.set_xlabel("IoU that a match needs", fontsize=9)
    middle.set_ylabel("AP", fontsize=9, labelpad=1)
    middle.set_title(f"Exactness: {by_iou[0]:.2f} to {by_iou[-1]:.2f}", fontsize=10, color=style.INK)
    right.bar(list(sizes), list(sizes.values()), color=style.QUERY, width=0.65)
    right.set(ylim=(0, 1))
    right.tick_params(axis="x", labelrotation=30)
    right.set_ylabel("AP", fontsize=9, labelpad=1)
    right.set_title(f"{min(sizes, key=sizes.get).capitalize()} is hardest", fontsize=10, color=style.INK)
    for axes in (left, middle, right):
        style.tidy(axes)
    return figure


def layers_figure(
    ways: Mapping[str, Sequence[float]],
    gain_by_iou: Mapping[str, Sequence[float]],
    gain_by_nms: Mapping[str, Mapping[float, float]],
) -> Figure:
    """Draw AP by decoder layer and way; what NMS adds by the IoU that a match needs (10,), and by NMS's own IoU."""
    figure, (left, middle, right) = style.row(3, 3.4, bottom=0.5, top=0.4, left=0.55, gap=0.65)
    for (name, aps), (line, marker), colour in zip(ways.items(), LOOKS, SHADES, strict=False):
        look = {"color": colour, "linestyle": line, "marker": marker, "markersize": 5}
        left.plot(range(1, len(aps) + 1), [100 * ap for ap in aps], label=name, **look)
    left.set_xticks(range(1, len(aps) + 1))
    left.set_xlabel("decoder layer", fontsize=9)
    left.set_ylabel("AP (%)", fontsize=9)
    left.set_title("NMS helps early answers", fontsize=10, color=style.INK)
    for (name, gains), (line, marker), colour in zip(gain_by_iou.items(), LOOKS, SHADES, strict=False):
        look = {"color": colour, "linestyle": line, "marker": marker, "markersize": 4}
        middle.plot(np.linspace(0.5, 0.95, 10), [100 * gain for gain in gains], label=name, **look)
    middle.set_xlabel("IoU that a match needs", fontsize=9)
    middle.set_title("It harms exactness", fontsize=10, color=style.INK)
    for (name, gains), (line, marker), colour in zip(gain_by_nms.items(), LOOKS, SHADES, strict=False):
        look = {"color": colour, "linestyle": line, "marker": marker, "markersize": 4}
        right.plot(list(gains), [100 * gain for gain in gains.values()], label=name, **look)
    right.set_xlabel("IoU above which NMS removes", fontsize=9)
    right.set_title("Its own threshold decides", fontsize=10, color=style.INK)
    for axes in (middle, right):
        axes.axhline(0, color="#BBBBBB", linewidth=0.8)
        axes.set_ylabel("gain by NMS (points of AP)", fontsize=9, labelpad=2)
    for axes in (left, middle, right):
        axes.legend(fontsize=8, frameon=False)
        style.tidy(axes)
    return figure


def riddle_figure(healthy: np.ndarray, damaged: Sequence[np.ndarray]) -> Figure:
    """Draw curves (2, R), at IoU 0.5 and 0.75, of damaged answers, numbered, with the healthy ones behind."""
    figure, places = style.row(len(damaged), 3.0, bottom=0.8, top=0.35, left=0.5, gap=0.2)
    for number, (axes, curves) in enumerate(zip(places, damaged, strict=True), start=1):
        for envelope, line, name in zip(healthy, ("-", "--"), ("0.5", "0.75"), strict=True):
            axes.plot(RECALLS, envelope, color="#BBBBBB", linestyle=line, linewidth=1.2, label=f"healthy, IoU {name}")
        for envelope, line, name in zip(curves, ("-", "--"), ("0.5", "0.75"), strict=True):
            axes.plot(RECALLS, envelope, color=style.QUERY, linestyle=line, linewidth=2, label=f"damaged, IoU {name}")
        _recall_axes(axes)
        axes.set_title(f"curve {number}", fontsize=10, color=style.INK)
        if number > 1:
            axes.set_yticklabels([])
    places[0].set_ylabel("precision", fontsize=9)
    figure.legend(*places[0].get_legend_handles_labels(), fontsize=8, frameon=False, loc="lower center", ncols=4)
    return figure


def race_figure(race: Mapping) -> Figure:
    """Draw both learning curves against time, AP and AP50 on the validation scenes, each side read in its own way."""
    figure, panels = style.row(2, 3.0, bottom=0.5, top=0.4, left=0.6, gap=0.6)
    for axes, key, name in zip(panels, ("ap", "ap50"), ("AP", "AP50"), strict=True):
        for side, (line, marker), colour in zip(SIDES, LOOKS, SHADES, strict=False):
            points = race[side]["curve"]
            minutes = [0] + [point["seconds"] / 60 for point in points]
            look = {"color": colour, "linestyle": line, "marker": marker, "markersize": 5, "label": side}
            axes.plot(minutes, [0] + [point[key] for point in points], **look)
        axes.set(ylim=(0, None), xlim=(0, None))
        axes.set_xlabel("minutes of training", fontsize=9)
        axes.set_ylabel(name, fontsize=9)
        axes.legend(fontsize=8, frameon=False, loc="upper left")
        style.tidy(axes)
    last = [race[side]["curve"][-1]["ap"] for side in SIDES]
    title = f"At the end, on validation scenes: {ahead(*last)}"
    figure.suptitle(title, fontsize=10, color=style.INK, y=0.98)
    return figure


def race_bars_figure(race: Mapping) -> Figure:
    """Draw AP on the test scenes, of all objects and by size, of both sides with and without NMS."""
    figure, (axes,) = style.row(1, 3.0, bottom=0.35, top=0.4, left=0.6, right=2.3)
    keys = ("ap", *SIZES)
    for side, colour, shift in zip(SIDES, SHADES, (-0.2, 0.2), strict=False):
        for way, hatch, offset in (("without NMS", None, -0.1), ("with NMS", "///", 0.1)):
            values = [race[side]["test"][way][key] or 0 for key in keys]
            look = {"facecolor": "white" if hatch else colour, "edgecolor": colour, "hatch": hatch}
            axes.bar(np.arange(4) + shift + offset, values, width=0.18, label=f"{side}, {way}", **look)
    axes.set_xticks(range(4), ["all", "small", "medium", "large"])
    axes.set_ylabel("AP on test scenes", fontsize=9)
    gains = [f"{_gain(race[side]['test']):+.1f} points to {side}" for side in SIDES]
    axes.set_title(f"NMS adds {' and '.join(gains)}", fontsize=10, color=style.INK)
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1))
    style.tidy(axes)
    return figure


def leads(race: Mapping, points: int = 201) -> list[tuple[str, float, float]]:
    """Who is ahead on the validation curves, and from which minute to which; stretches with less than LEVEL between
    the two are left out, ends lie between measured points by straight lines."""
    curves = [race[side]["curve"] for side in SIDES]
    end = min(each[-1]["seconds"] for each in curves)
    grid = np.linspace(0, end, points)
    ours, theirs = (
        np.interp(grid, [0] + [p["seconds"] for p in each], [0] + [p["ap"] for p in each]) for each in curves
    )
    ahead = np.where(abs(ours - theirs) < LEVEL, -1, np.where(ours > theirs, 0, 1))
    starts = np.flatnonzero(np.r_[True, ahead[1:] != ahead[:-1]])
    ends = np.r_[starts[1:], points - 1]
    stretches = zip(ahead[starts], grid[starts] / 60, grid[ends] / 60, strict=True)
    return [(SIDES[who], float(start), float(stop)) for who, start, stop in stretches if who >= 0]


def ahead(ours: float | None, theirs: float | None) -> str:
    """DETR's AP against Faster R-CNN's, in words."""
    if ours is None or theirs is None:
        return "no objects of this kind"
    gap = 100 * (ours - theirs)
    numbers = f"DETR {ours:.3f}, Faster R-CNN {theirs:.3f}"
    if abs(gap) < 100 * LEVEL:
        return f"{numbers}: level (less than a point apart)"
    return f"{numbers}: {SIDES[0] if gap > 0 else SIDES[1]} leads by {abs(gap):.1f} points"


def verdict(race: Mapping) -> list[str]:
    """Who wins where, a line each, from the stored race: each side read in its own way, Faster R-CNN after NMS."""
    tests = {side: race[side]["test"] for side in SIDES}
    ours, theirs = tests["DETR"]["without NMS"], tests["Faster R-CNN"]["with NMS"]
    if max(ours["ap"], theirs["ap"]) < NOTHING:
        return [f"both have an AP below {NOTHING}: trained too short, nothing can be compared"]
    lines = [f"{who} ahead from minute {start:.1f} to {stop:.1f}" for who, start, stop in leads(race)]
    lines = lines or ["the curves are never a point apart"]
    names = {"ap": "AP", "ap50": "AP50", "ap75": "AP75"} | {key: f"AP {key[3:]}" for key in SIZES}
    lines += [f"{name:<9} {ahead(ours[key], theirs[key])}" for key, name in names.items()]
    pairs = [(ours["per_class"][name], theirs["per_class"][name]) for name in ours["per_class"]]
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    lines.append(f"classes   DETR is ahead in {sum(a > b for a, b in known)} of {len(known)}")
    lines += [f"NMS       changes the AP of {side} by {_gain(tests[side]):+.1f} points" for side in SIDES]
    speeds = {"DETR": ours["images_per_second"], "Faster R-CNN": theirs["images_per_second"]}
    first = max(speeds, key=speeds.get)
    rates = ", ".join(f"{side} {speed:.0f}" for side, speed in speeds.items())
    lines.append(f"images/s  {rates}: {first} is {max(speeds.values()) / min(speeds.values()):.1f} times as fast")
    return lines


def _gain(test: Mapping) -> float:
    """What NMS adds, in points of AP."""
    return 100 * (test["with NMS"]["ap"] - test["without NMS"]["ap"])


def errors_figure(counts: Mapping[str, int], gains: Mapping[str, float]) -> Figure:
    """Draw how often each kind of error occurs, and the points of AP50 that its repair alone would bring."""
    figure, (left, right) = style.row(2, 2.8, bottom=0.5, top=0.4, left=1.6, gap=0.3)
    names = list(counts)[::-1]
    for axes, values, label, form in (
        (left, [counts[name] for name in names], "how many", "{:.0f}"),
        (right, [100 * gains[name] for name in names], "gain of AP50 if repaired (points)", "{:+.1f}"),
    ):
        axes.barh(names, values, color=style.QUERY, height=0.65)
        for y, value in enumerate(values):
            axes.text(max(value, 0), y, " " + form.format(value), fontsize=8, va="center")
        axes.set_xlim(min(0, *values), 1.2 * max(1e-3, *values))
        axes.set_xlabel(label, fontsize=9)
        style.tidy(axes)
    right.set_yticklabels([])
    left.set_title(f"Most errors: {max(counts, key=counts.get)}", fontsize=10, color=style.INK)
    right.set_title(f"What costs most: {max(gains, key=gains.get)}", fontsize=10, color=style.INK)
    return figure


@dataclass(frozen=True)
class Case:
    """One error to be shown: the picture, the detection or None, the object that it concerns or None."""

    pixels: np.ndarray  # (H, W, 3) uint8
    found_xyxy_px: np.ndarray | None  # (4,)
    said: str  # class and score
    true_xyxy_px: np.ndarray | None  # (4,)
    truth: str  # class of the object


def gallery_figure(cases: Mapping[str, Sequence[Case]]) -> Figure:
    """Draw some cases of each kind, a row a kind: the detection blue, the object that it concerns orange and dashed."""
    columns, side, name_in, text_in = max(map(len, cases.values())), 1.42, 1.3, 0.36
    height = len(cases) * (side + text_in) + 0.1
    figure = style.new_figure(style.PAGE_IN, height)
    for row, (kind, some) in enumerate(cases.items()):
        top = height - 0.05 - row * (side + text_in)
        place = 0.08 / style.PAGE_IN, (top - text_in - side / 2) / height
        figure.text(*place, kind, fontsize=10, color=style.INK, va="center")
        for column, case in enumerate(some):
            left = name_in + column * (style.PAGE_IN - name_in) / columns
            axes = figure.add_axes(
                (left / style.PAGE_IN, (top - text_in - side) / height, side / style.PAGE_IN, side / height)
            )
            show_pixels(axes, case.pixels)
            if case.true_xyxy_px is not None:
                style.draw_box(axes, case.true_xyxy_px, style.OBJECT, "--")
            if case.found_xyxy_px is not None:
                style.draw_box(axes, case.found_xyxy_px, style.QUERY)
            text = "\n".join(filter(None, [f"says {case.said}" if case.said else "says nothing", case.truth]))
            axes.set_title(text, fontsize=8, color=style.INK, pad=2, loc="left", linespacing=1.0)
    return figure


def _recall_axes(axes: Axes) -> None:
    axes.set(xlim=(0, 1), ylim=(0, 1.05))
    axes.set_xlabel("recall", fontsize=9)
    style.tidy(axes)
