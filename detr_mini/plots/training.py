"""Figures of training: rates, clipping, the rungs of a test ladder, logs by layer, healthy and broken runs, memory."""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from torch import Tensor

from detr_mini.boxes import cxcywh_to_xyxy
from detr_mini.plots import style
from detr_mini.plots.detections import pixels_of
from detr_mini.runs import read_records

# N logged steps · E evaluations · L decoder layers
HEALTHY, BROKEN = style.INK, "#D55E00"  # no roles of the course: a run is neither a query nor an object
DASHES = ("-", "--", ":", "-.")
PARTS = {"label": "class part", "l1": "L1 part", "giou": "1 - GIoU part"}
UNITS = {
    **PARTS,
    "loss": "loss",
    "class_error": "class error (%)",
    "grad_norm": "gradient norm",
    "ap50": "AP50",
    "said": "boxes said",
}


@dataclass(frozen=True)
class Log:
    """The curves of a run. step (N,); loss, grad_norm, class_error (N,); label, l1, giou (N, L), without weights.

    eval_step, ap50 (E,); said_step, said (S,): boxes of score 0.5 or more a scene; scenes: the last of them.
    """

    name: str
    seed: int
    step: np.ndarray
    loss: np.ndarray
    grad_norm: np.ndarray
    class_error: np.ndarray
    label: np.ndarray
    l1: np.ndarray
    giou: np.ndarray
    eval_step: np.ndarray
    ap50: np.ndarray
    said_step: np.ndarray
    said: np.ndarray
    scenes: Sequence[Mapping]

    def curve(self, what: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps and values of "ap50", "said", or a key of a log; of a part that is the last layer's."""
        if what in ("ap50", "said"):
            return (self.eval_step, self.ap50) if what == "ap50" else (self.said_step, self.said)
        values = getattr(self, what)
        return self.step, values[:, -1] if values.ndim == 2 else values

    def end(self, what: str, last: int = 10) -> float:
        """The mean of a curve's last points; of "ap50" and "said" the last one alone."""
        values = self.curve(what)[1]
        return float(values[-1] if what in ("ap50", "said") else values[-last:].mean())

    def at(self, what: str, step: int) -> float:
        """A curve's value at the point nearest to `step`."""
        steps, values = self.curve(what)
        return float(values[np.abs(steps - step).argmin()])


def log_of(records: Sequence[Mapping], name: str, seed: int) -> Log:
    """The curves in a log's records, in their order."""
    steps = [record for record in records if "loss" in record]
    evaluations = [record for record in records if "eval" in record]
    said = [record for record in records if "said" in record]

    def column(key: str) -> np.ndarray:
        return np.array([record[key] for record in steps], dtype=float)

    return Log(
        name,
        seed,
        np.array([record["step"] for record in steps]),
        *(column(key) for key in ("loss", "grad_norm", "class_error", "label", "l1", "giou")),
        np.array([record["step"] for record in evaluations]),
        np.array([record["eval"]["ap50"] for record in evaluations], dtype=float),
        np.array([record["step"] for record in said]),
        np.array([record["said"]["a_scene"] for record in said], dtype=float),
        said[-1]["said"]["scenes"] if said else (),
    )


def gallery(folder: str | Path) -> dict[str, list[Log]]:
    """The logs that runs.json of `folder` names: a list of seeds for each name."""
    folder, logs = Path(folder), {}
    for key, facts in json.loads((folder / "runs.json").read_text(encoding="utf-8"))["runs"].items():
        name = key.rsplit("-", 1)[0]
        records = read_records(folder / f"{key}.jsonl")
        logs.setdefault(name, []).append(log_of(records, name, facts["seed"]))
    return {name: sorted(seeds, key=lambda log: log.seed) for name, seeds in logs.items()}


def unlabelled(logs: Mapping[str, Sequence[Log]], letters: str = "ABC") -> dict[str, Log]:
    """Faults switched on from a trained model whose loss does not give them away, shuffled, a letter for each.

    Those are the short runs that end with a loss below four times the healthy one's ("tuned").
    """
    healthy = logs["tuned"][0]
    short = [runs[0] for name, runs in logs.items() if name != "tuned" and runs[0].step[-1] == healthy.step[-1]]
    silent = [log for log in sorted(short, key=lambda log: log.name) if log.end("loss") < 4 * healthy.end("loss")]
    return dict(zip(letters, random.Random(1).sample(silent, len(letters)), strict=True))


def sure(healthy: Sequence[float], broken: Sequence[float]) -> str:
    """ "lower" or "higher" if all the broken values lie on one side of all the healthy ones, else "overlap"."""
    if max(broken) < min(healthy):
        return "lower"
    return "higher" if min(broken) > max(healthy) else "overlap"


@dataclass(frozen=True)
class Walk:
    """What AdamW does with one parameter: the gradient after clipping, the change and the place of each step (N,)."""

    gradient: np.ndarray
    change: np.ndarray
    place: np.ndarray


def adam_walk(
    gradients: Sequence[float],
    clip: float | None = None,
    lr: float = 0.001,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> Walk:
    """AdamW without weight decay on one parameter that starts at 0 and meets the gradients (N,), each clipped."""
    mean = square = place = 0.0
    rows = []
    for step, gradient in enumerate(gradients, start=1):
        if clip is not None and abs(gradient) > clip:
            gradient *= clip / abs(gradient)
        mean = betas[0] * mean + (1 - betas[0]) * gradient
        square = betas[1] * square + (1 - betas[1]) * gradient**2
        change = -lr * mean / (1 - betas[0] ** step) / (np.sqrt(square / (1 - betas[1] ** step)) + eps)
        place += change
        rows.append((gradient, change, place))
    return Walk(*np.array(rows).T)


def walks_figure(walks: Mapping[str, Walk], spike: int, title: str) -> Figure:
    """Draw the size of each step and the way gone, for each walk by its name; `spike` is the step of the outlier."""
    figure, (left, right) = style.row(2, 3.1, 0.5, 0.6, left=0.75, gap=0.85)
    for (name, walk), dash, colour in zip(walks.items(), DASHES, (HEALTHY, BROKEN, style.QUERY), strict=False):
        steps = np.arange(1, len(walk.place) + 1)
        left.plot(steps, np.abs(walk.change), dash, color=colour, linewidth=1.8, label=name)
        right.plot(steps, -walk.place, dash, color=colour, linewidth=1.8, label=name)
    for axes, label in ((left, "size of the step"), (right, "way gone in all")):
        axes.axvline(spike, color=style.UNMATCHED, linewidth=0.8, linestyle=":")
        axes.set_ylim(0)
        axes.set_xlabel("step", fontsize=9)
        axes.set_ylabel(label, fontsize=9)
        style.tidy(axes)
    right.legend(fontsize=8.5, frameon=False, loc="upper left")
    return _titled(figure, title)


def schedule_figure(factors: Mapping[str, Sequence[float]], title: str) -> Figure:
    """Draw the factor on the learning rate over the share of the run that is done, for each schedule by its name."""
    figure = style.new_figure(style.PAGE_IN, 2.7)
    axes = figure.add_axes((0.08, 0.19, 0.89, 0.66))
    for (name, values), dash, colour in zip(factors.items(), DASHES, (HEALTHY, style.QUERY, BROKEN), strict=False):
        done = np.arange(len(values)) / len(values)
        axes.plot(done, values, dash, color=colour, linewidth=2, label=name)
    axes.set(xlim=(0, 1), ylim=(0, 1.06))
    axes.set_xlabel("share of the run that is done", fontsize=9)
    axes.set_ylabel("factor on the rate", fontsize=9)
    axes.legend(fontsize=8.5, frameon=False, loc="lower left", bbox_to_anchor=(0.05, 0.02))
    style.tidy(axes)
    return _titled(figure, title)


@dataclass(frozen=True)
class Rung:
    """A run of the ladder: its log, and AP50 on the images that it trained on, (E,)."""

    log: Log
    seen: np.ndarray


def rung_of(records: Sequence[Mapping], name: str, seed: int) -> Rung:
    """A rung from its log's records; each evaluation comes with one of the images seen."""
    seen = [record["seen"]["ap50"] for record in records if "seen" in record]
    return Rung(log_of(records, name, seed), np.array(seen))


def ladder_figure(rungs: Mapping[str, Rung | Log], title: str) -> Figure:
    """Draw each rung's AP50 on images seen (none for a Log) and unseen, over its own steps."""
    figure, panels = style.row(len(rungs), 2.9, 0.5, 0.82, left=0.6, gap=0.4)
    for axes, (name, rung) in zip(panels, rungs.items(), strict=True):
        log = rung.log if isinstance(rung, Rung) else rung
        if isinstance(rung, Rung):
            axes.plot(log.eval_step, rung.seen, "-o", color=HEALTHY, markersize=4, label="images it trains on")
        axes.plot(log.eval_step, log.ap50, "--s", color=style.QUERY, markersize=4, label="images it never saw")
        axes.set(xlim=(0, log.eval_step[-1] * 1.03), ylim=(-0.03, 1.04))
        axes.set_title(name, fontsize=9.5, color=style.INK)
        axes.set_xlabel("step", fontsize=9)
        style.tidy(axes)
    panels[0].set_ylabel("AP50", fontsize=9)
    panels[0].legend(fontsize=8.5, frameon=False, loc="center right", bbox_to_anchor=(1.0, 0.62))
    return _titled(figure, title)


def layers_figure(log: Log, title: str, width: int = 5) -> Figure:
    """Draw a run's loss parts by decoder layer, and below class error, gradient norm and AP50."""
    figure = style.new_figure(style.PAGE_IN, 4.7)
    panels = figure.subplots(2, 3)
    figure.subplots_adjust(left=0.07, right=0.965, top=0.88, bottom=0.1, wspace=0.26, hspace=0.42)
    for axes, (part, name) in zip(panels[0], PARTS.items(), strict=True):
        values = getattr(log, part)
        for layer in range(values.shape[1]):
            axes.plot(
                log.step, style.running_mean(values[:, layer], width), DASHES[layer % 4], color=HEALTHY, linewidth=1.4
            )
        axes.set_title(name, fontsize=9.5, color=style.INK)
        axes.set_ylim(0)
    last = values.shape[1] - 1
    handles = [Line2D([], [], color=HEALTHY, linestyle=DASHES[i % 4], label=f"layer {i}") for i in range(last + 1)]
    panels[0, 0].legend(handles=handles, fontsize=8, frameon=False, loc="upper right")
    for axes, what in zip(panels[1], ("class_error", "grad_norm", "ap50"), strict=True):
        steps, values = log.curve(what)
        if what != "ap50":
            axes.plot(steps, values, ".", color=HEALTHY, markersize=3, alpha=0.3)
            values = style.running_mean(values, width)
        axes.plot(steps, values, "-o" if what == "ap50" else "-", color=HEALTHY, markersize=4, linewidth=1.4)
        axes.set_title(UNITS[what], fontsize=9.5, color=style.INK)
        axes.set_ylim(0)
        axes.set_xlabel("step", fontsize=9)
    for axes in panels.flat:
        axes.set_xlim(0, log.step[-1])
        style.tidy(axes)
    return _titled(figure, title)


def early_figure(healthy: Sequence[Log], other: Log, other_name: str, until: int, title: str) -> Figure:
    """Draw class error and boxes said of healthy seeds and of one other run, up to a step, and AP50."""
    figure, panels = style.row(3, 2.9, 0.5, 0.82, left=0.55, gap=0.5)
    for axes, what in zip(panels, ("class_error", "said", "ap50"), strict=True):
        for index, log in enumerate([*healthy, other]):
            steps, values = log.curve(what)
            shown = steps <= until
            broken = index == len(healthy)
            look = {"color": BROKEN, "linestyle": "--"} if broken else {"color": HEALTHY, "linestyle": "-"}
            axes.plot(steps[shown], values[shown], **look, linewidth=1.6 if broken else 1.2)
        axes.set_title(UNITS[what], fontsize=9.5, color=style.INK)
        axes.set_xlim(0, until)
        axes.set_ylim(0, 105 if what == "class_error" else None)
        axes.set_xlabel("step", fontsize=9)
        style.tidy(axes)
    panels[0].legend(handles=_two(f"{len(healthy)} healthy seeds", other_name), fontsize=8.5, frameon=False)
    return _titled(figure, title)


def live_figure(
    records: Sequence[Mapping], steps: int, seconds: float, healthy: Sequence[Log] = (), done: bool = False
) -> Figure:
    """Draw a run that is under way: a bar of its progress, the loss of each step, and the band of healthy seeds."""
    step = records[-1]["step"] if records else 0
    figure = style.new_figure(style.PAGE_IN, 3.3)
    bar = figure.add_axes((0.08, 0.9, 0.89, 0.05))
    bar.barh([0], [step], color=style.MATCHED, height=1)
    bar.set(xlim=(0, max(steps, 1)), ylim=(-0.5, 0.5), xticks=[], yticks=[])
    left = (seconds / step) * (steps - step) if step else 0.0
    rest = "done" if done else f"about {left:.0f} s to go"
    figure.text(0.08, 0.835, f"step {step} of {steps}, {seconds:.0f} s gone, {rest}", fontsize=9, color=style.INK)
    axes = figure.add_axes((0.08, 0.15, 0.89, 0.62))
    if healthy:
        x, low, high = _band(healthy, "loss", 1)
        axes.fill_between(x, low, high, color=style.UNMATCHED, alpha=0.25, linewidth=0)
        axes.plot([], [], color=style.UNMATCHED, alpha=0.4, linewidth=6, label=f"{len(healthy)} stored healthy seeds")
    x = [record["step"] for record in records]
    axes.plot(x, [record["loss"] for record in records], color=style.QUERY, linewidth=1.2, label="this run")
    axes.set(xlim=(0, max(steps, 1)), ylim=(0, 60))
    axes.set_xlabel("step", fontsize=9)
    axes.set_ylabel("loss", fontsize=9)
    axes.legend(fontsize=8.5, frameon=False, loc="lower left")
    style.tidy(axes)
    return figure


def band_figure(healthy: Sequence[Log], long: Log, title: str) -> Figure:
    """Draw loss and AP50: left the band of healthy seeds of one length, right one long run on its own axis."""
    figure = style.new_figure(style.PAGE_IN, 4.6)
    panels = figure.subplots(2, 2)
    figure.subplots_adjust(left=0.07, right=0.965, top=0.84, bottom=0.1, wspace=0.16, hspace=0.22)
    for row, what in enumerate(("loss", "ap50")):
        x, low, high = _band(healthy, what, 5)
        first = panels[row, 0]
        first.fill_between(x, low, high, color=style.UNMATCHED, alpha=0.3, linewidth=0)
        for log, dash in zip(healthy, DASHES, strict=False):
            steps, values = log.curve(what)
            first.plot(
                steps, style.running_mean(values, 5 if what == "loss" else 1), dash, color=HEALTHY, linewidth=1.1
            )
        steps, values = long.curve(what)
        second = panels[row, 1]
        second.plot(steps, style.running_mean(values, 5 if what == "loss" else 1), color=style.QUERY, linewidth=1.2)
        for axes, last in ((first, healthy[0].step[-1]), (second, long.step[-1])):
            axes.set(xlim=(0, last), ylim=(0, 55 if what == "loss" else 1))
            style.tidy(axes)
        first.set_ylabel(UNITS[what], fontsize=9)
        panels[1, row].set_xlabel("step", fontsize=9)
    panels[0, 0].set_title(f"{len(healthy)} seeds of {healthy[0].step[-1]:,} steps, and their band", fontsize=9.5)
    panels[0, 1].set_title(f"one run of {long.step[-1]:,} steps", fontsize=9.5)
    return _titled(figure, title)


def gallery_figure(
    healthy: Sequence[Log],
    runs: Mapping[str, Sequence[Log]],
    rows: Sequence[str],
    title: str,
    limits: Mapping[str, float] | None = None,
    layers: bool = False,
    width: int = 3,
) -> Figure:
    """Draw runs side by side, a column each: every row a curve of all its seeds beside the healthy ones'.

    limits: the top of a row's axis; with `layers` loss parts are drawn for the first decoder layer too, thin.
    """
    limits = {"class_error": 105, "ap50": 1.0} | dict(limits or {})
    high = 1.0 + 1.0 * len(rows)
    figure = style.new_figure(style.PAGE_IN, high)
    panels = figure.subplots(len(rows), len(runs), squeeze=False)
    figure.subplots_adjust(left=0.085, right=0.97, top=1 - 0.72 / high, bottom=0.42 / high, wspace=0.16, hspace=0.16)
    for column, (name, logs) in enumerate(runs.items()):
        panels[0, column].set_title(name, fontsize=9.5, color=style.INK)
        for row, what in enumerate(rows):
            axes = panels[row, column]
            for log, colour, dash in [*((h, HEALTHY, "-") for h in healthy), *((b, BROKEN, "--") for b in logs)]:
                steps, values = log.curve(what)
                point = "o" if what in ("ap50", "said") else ""
                values = values if point else style.running_mean(values, width)
                axes.plot(steps, values, dash, marker=point, markersize=2.5, color=colour, linewidth=1.3)
                if layers and what in PARTS:
                    axes.plot(
                        steps, style.running_mean(getattr(log, what)[:, 0], width), ":", color=colour, linewidth=1
                    )
            _row_axes(axes, what, limits, column, row == len(rows) - 1, logs[0].step[-1])
    some = [log for logs in (healthy, *runs.values()) for log in logs]
    for row, what in enumerate(rows):
        top = limits.get(what, max(float(style.running_mean(log.curve(what)[1], width).max()) for log in some) * 1.05)
        for axes in panels[row]:
            axes.set_ylim(0, top)
    figure.legend(
        handles=_two("healthy", "this column's run"),
        loc="upper right",
        bbox_to_anchor=(0.97, 1 - 0.24 / high),
        ncols=2,
        fontsize=8.5,
        frameon=False,
    )
    return _titled(figure, title)


def said_figure(images: Sequence[Tensor], targets: Sequence[Mapping], runs: Mapping[str, Log], names, title) -> Figure:
    """Draw what each run says, at its end, about the scenes that its log keeps; a row a run, true boxes dashed."""
    side, head, left = 1.74, 0.2, 1.42
    count = len(images)
    high = 0.75 + len(runs) * (side + head)
    figure = style.new_figure(style.PAGE_IN, high)
    for row, (run, log) in enumerate(runs.items()):
        top = 0.72 + row * (side + head)
        figure.text(0.1 / style.PAGE_IN, 1 - (top + side / 2) / high, run, fontsize=9, va="center", color=style.INK)
        for column, (image, target, said) in enumerate(zip(images, targets, log.scenes, strict=True)):
            place = (left + column * (side + 0.12)) / style.PAGE_IN, 1 - (top + side) / high
            axes = figure.add_axes((*place, side / style.PAGE_IN, side / high))
            pixels = pixels_of(image)
            axes.imshow(pixels, interpolation="nearest")
            tall, wide = pixels.shape[:2]
            axes.set(xlim=(-0.5, wide - 0.5), ylim=(tall - 0.5, -0.5), xticks=[], yticks=[])
            for box in cxcywh_to_xyxy(target["boxes"]) * tall:
                style.draw_box(axes, box - 0.5, style.OBJECT, "--", 1.6)
            for box in said["boxes_xyxy_px"]:
                style.draw_box(axes, [min(max(each, 0.6), tall - 0.6) - 0.5 for each in box], style.QUERY, "-", 1.2)
            spoken = ", ".join(names[label] for label in said["labels"]) or "says nothing"
            axes.set_title(spoken if len(spoken) < 30 else spoken[:28] + "...", fontsize=8, color=style.QUERY, pad=2)
    place = (left + count * (side + 0.12) - 0.12) / style.PAGE_IN
    handles = [
        Line2D([], [], color=style.OBJECT, linestyle="--", label="true object"),
        Line2D([], [], color=style.QUERY, label="box said, score 0.5 or more"),
    ]
    corner = {"loc": "upper right", "bbox_to_anchor": (place, 1 - 0.26 / high)}
    figure.legend(handles=handles, ncols=2, fontsize=8.5, frameon=False, **corner)
    return _titled(figure, title)


@dataclass(frozen=True)
class Memory:
    """What a training step holds on a device, in bytes; activations are of one image."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    def of_batch(self, images: int) -> int:
        """Bytes in all for so many images."""
        return self.weights + self.gradients + self.optimizer + images * self.activations

    def most_images(self, card_bytes: float) -> int:
        """The largest batch that such a card would hold, 0 where not even one image fits."""
        return max(0, int((card_bytes - self.of_batch(0)) // self.activations))


def memory_figure(kinds: Mapping[str, Memory], batches: Sequence[int], card_gib: float, title: str) -> Figure:
    """Draw memory as stacked bars for each batch size, a panel for each precision, with the line of a card."""
    figure, panels = style.row(len(kinds), 3.1, 0.5, 0.82, left=0.65, gap=0.45)
    gib = 2.0**30
    top = max(memory.of_batch(max(batches)) for memory in kinds.values()) / gib * 1.05
    hatches = {"weights": "", "gradients": "////", "AdamW's two states": "....", "activations": "xxxx"}
    for axes, (name, memory) in zip(panels, kinds.items(), strict=True):
        fixed = (memory.weights, memory.gradients, memory.optimizer)
        for place, images in enumerate(batches):
            bottom = 0.0
            for part, hatch in zip((*fixed, images * memory.activations), hatches.values(), strict=True):
                look = {"facecolor": "#9fb8cc", "edgecolor": "white", "hatch": hatch, "linewidth": 0.5}
                axes.bar(place, part / gib, 0.65, bottom=bottom, **look)
                bottom += part / gib
        axes.axhline(card_gib, color=BROKEN, linestyle="--", linewidth=1.4)
        axes.set_xticks(range(len(batches)), [str(images) for images in batches])
        axes.set_ylim(0, top)
        axes.set_title(name, fontsize=9.5, color=style.INK)
        axes.set_xlabel("images a step", fontsize=9)
        style.tidy(axes)
    panels[0].set_ylabel("GiB", fontsize=9)
    panels[0].text(-0.45, card_gib + top * 0.015, f"a card of {card_gib:g} GB", fontsize=8.5, color=BROKEN)
    handles = [Patch(facecolor="#9fb8cc", edgecolor="white", hatch=h, label=n) for n, h in hatches.items()]
    panels[-1].legend(handles=handles[::-1], fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(0, 0.84))
    return _titled(figure, title)


def _band(logs: Sequence[Log], what: str, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps that all logs share, and the lowest and highest of their smoothed curves there."""
    steps = logs[0].curve(what)[0]
    curves = [log.curve(what) for log in logs]
    if any(not np.array_equal(steps, x) for x, _ in curves):
        raise ValueError(f"{[len(x) for x, _ in curves]} points of {what}: a band needs runs of one length")
    values = np.array([style.running_mean(y, width if what not in ("ap50", "said") else 1) for _, y in curves])
    return steps, values.min(0), values.max(0)


def _row_axes(axes: Axes, what: str, limits: Mapping, column: int, lowest: bool, last: int) -> None:
    axes.set_xlim(0, last)
    style.tidy(axes)
    axes.tick_params(labelbottom=lowest, labelleft=column == 0)
    if lowest:
        axes.set_xlabel("step", fontsize=9)
    if column == 0:
        axes.set_ylabel(UNITS[what], fontsize=8.5)


def _two(healthy: str, broken: str) -> list[Line2D]:
    return [
        Line2D([], [], color=HEALTHY, linestyle="-", label=healthy),
        Line2D([], [], color=BROKEN, linestyle="--", label=broken),
    ]


def _titled(figure: Figure, title: str) -> Figure:
    height = figure.get_size_inches()[1]
    figure.text(0.5, 1 - 0.1 / height, title, fontsize=10, ha="center", va="top", color=style.INK)
    return figure
