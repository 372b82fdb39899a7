"""Figures of notebook 07: a shape after every line, the way of an image, untrained answers, where parameters sit."""

import inspect
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from torch import Tensor, nn

from detr_mini.boxes import cxcywh_to_xyxy
from detr_mini.detection import Picture
from detr_mini.plots import style
from detr_mini.plots.detections import pixels_of, show_pixels

# B images · Q queries · K classes · H, W feature map · D width

TOLD = "#D55E00"  # positions from an encoding, as in notebook 04


@dataclass(frozen=True)
class Step:
    """One line of a function's source, and what it bound when it ran: names to shapes, or to plain numbers."""

    source: str
    bound: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Answers:
    """What the queries of a model say of one image, and how much they differ among themselves."""

    classes: int  # K+1, "no object" among them
    labels: int  # different likeliest classes, "no object" left aside
    score: np.ndarray  # (Q,) probability of the likeliest class
    nothing: np.ndarray  # (Q,) probability of "no object"
    boxes_xyxy: np.ndarray  # (Q, 4) in 0..1
    spread: float  # standard deviation of a box coordinate (cxcywh) over the queries, mean of the four


def shapes_by_line(function: Callable, *arguments: Any) -> list[Step]:
    """Run a function or method and note, after each line of its source, the shapes of what this line bound.

    One statement a line; a tuple stands for a tensor's shape, "returns" for what came back. Whatever the function
    raises passes through.
    """
    lines, first = inspect.getsourcelines(function)
    code = inspect.unwrap(getattr(function, "__func__", function)).__code__
    bound: dict[int, dict[str, Any]] = {}
    known: dict[str, Any] = {}  # holds the values themselves, so that no identity is used twice
    current = 0  # the line that is running; 0 before the first

    def watch(frame, event, value):
        nonlocal current
        now = dict(frame.f_locals)
        new = {name: shape(x) for name, x in now.items() if known.get(name) is not x and shape(x) is not None}
        if current:
            bound.setdefault(current, {}).update(new)
        if event == "return" and value is not None:
            bound.setdefault(current, {})["returns"] = shape(value)
        known.update(now)
        current = frame.f_lineno
        return watch

    before = sys.gettrace()
    sys.settrace(lambda frame, event, value: watch(frame, event, value) if frame.f_code is code else None)
    try:
        function(*arguments)
    finally:
        sys.settrace(before)
    steps = [Step(line, bound.get(first + i, {})) for i, line in enumerate(lines)]
    dedented = textwrap.dedent("".join(step.source for step in steps)).splitlines()
    return [Step(line, step.bound) for line, step in zip(dedented, steps, strict=True)]


def shape(value: Any) -> Any:
    """The shape of a tensor, the shapes of a tuple of them, an int itself; None for all else."""
    if isinstance(value, Tensor):
        return tuple(value.shape)
    if isinstance(value, tuple) and value and all(isinstance(part, Tensor) for part in value):
        return tuple(tuple(part.shape) for part in value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def annotated(steps: Sequence[Step]) -> str:
    """The source with what each line bound behind it, as text."""
    wide = max(len(step.source) for step in steps if step.bound) + 2
    texts = []
    for step in steps:
        notes = ", ".join(str(what) if name == "returns" else f"{name} {what}" for name, what in step.bound.items())
        texts.append(f"{step.source:<{wide}}# {notes}" if notes else step.source)
    return "\n".join(texts)


def way_figure(shapes: Mapping[str, tuple[int, ...]]) -> Figure:
    """Draw the way of one image through the listing.

    `shapes` holds those of image, features, h, tokens, pos, memory, queries, states, logits and boxes.
    """
    figure = style.new_figure(style.PAGE_IN, 3.7)
    axes = _axes(figure, 0, 0, style.PAGE_IN, 3.4)
    axes.set(xlim=(0, style.PAGE_IN), ylim=(0, 3.4))
    axes.axis("off")
    places = {
        "image": (0.75, 2.75, style.INK),
        "features": (2.6, 2.75, style.INK),
        "h": (4.45, 2.75, style.INK),
        "tokens": (6.3, 2.75, style.INK),
        "pos": (6.3, 1.75, TOLD),
        "memory": (8.25, 2.75, style.INK),
        "queries": (8.25, 0.87, style.QUERY),
        "states": (5.3, 0.87, style.QUERY),
        "logits": (2.6, 1.35, style.QUERY),
        "boxes": (2.6, 0.4, style.QUERY),
    }
    for name, (x, y, colour) in places.items():
        _card(axes, x, y, name, shapes[name], colour)
    for start, end, what in (
        ("image", "features", "backbone"),
        ("features", "h", "conv"),
        ("h", "tokens", "flatten"),
        ("tokens", "memory", "encoder"),
        ("queries", "states", "decoder"),
    ):
        (x1, y, _), (x2, _, _) = places[start], places[end]
        way = 0.66 if x2 > x1 else -0.66
        _arrow(axes, (x1 + way, y), (x2 - way, y))
        below = start == "queries"  # above, another arrow arrives
        place = {"y": y - 0.1, "va": "top"} if below else {"y": y + 0.12, "va": "bottom"}
        axes.text((x1 + x2) / 2, s=what, ha="center", fontsize=8.5, style="italic", **place)
    _arrow(axes, (6.3, 2.05), (6.3, 2.45))
    axes.text(6.38, 2.25, "added once", va="center", fontsize=8.5, style="italic")
    _arrow(axes, (8.25, 2.45), (6.8, 0.97))
    axes.text(7.72, 1.63, "looked at", va="center", fontsize=8.5, style="italic")
    for name, what in (("logits", "linear_class"), ("boxes", "linear_bbox, sigmoid")):
        x, y, _ = places[name]
        _arrow(axes, (4.64, 0.87), (x + 0.66, y))
        above = name == "logits"
        place = {"y": 1.28, "va": "bottom"} if above else {"y": 0.36, "va": "top"}
        axes.text(4.05, s=what, ha="center", fontsize=8.5, style="italic", **place)
    figure.suptitle("From pixels to one hundred answers: every shape of the listing", fontsize=10, y=0.97)
    return figure


def untrained_figure(images: Sequence[Picture], said: Mapping[str, Answers]) -> Figure:
    """Draw all boxes of each image, named as in `said`, and the probabilities of best class and "no object"."""
    names, answers = list(said), list(said.values())
    high, gap, wide = 2.2, 0.15, 2.9
    figure = style.new_figure(style.PAGE_IN, high + 0.95)
    for i, (image, answer) in enumerate(zip(images, answers, strict=True)):
        pixels = pixels_of(image)
        place = (gap + i * (wide + gap), 0.5, wide, high)
        axes = _axes(figure, *place)
        show_pixels(axes, pixels)
        height, width = pixels.shape[:2]
        corners = answer.boxes_xyxy * (width, height, width, height)
        for x1, y1, x2, y2 in corners:
            axes.plot([x1, x2, x2, x1, x1], [y1, y1, y2, y2, y1], color=style.QUERY, linewidth=0.5, alpha=0.6)
        axes.set_title(f"{names[i]}: {len(corners)} boxes", fontsize=9, color=style.INK)
    left = 2 * (wide + gap) + gap + 0.65
    axes = _axes(figure, left, 0.5, style.PAGE_IN - left - 0.15, high)
    for answer, line, name in zip(answers, ("-", "--"), names, strict=True):
        order = np.arange(len(answer.score))
        axes.plot(order, answer.score, color=style.QUERY, linestyle=line, linewidth=1.4, label=f"best class, {name}")
        axes.plot(
            order, answer.nothing, color=style.UNMATCHED, linestyle=line, linewidth=1.4, label=f'"no object", {name}'
        )
    even = 1 / answers[0].classes
    axes.axhline(even, color=style.INK, linewidth=0.9, linestyle=":")
    axes.text(
        len(answers[0].score), even - 0.002, f"even guess, 1/{answers[0].classes}", fontsize=8, ha="right", va="top"
    )
    axes.set_ylim(0, 1.9 * max(answer.score.max() for answer in answers))
    axes.set_xlabel("query", fontsize=8)
    axes.set_ylabel("probability", fontsize=8)
    style.tidy(axes)
    axes.legend(fontsize=8, frameon=False, loc="upper right", borderpad=0, labelspacing=0.2)
    axes.set_title("the queries hardly differ", fontsize=9, color=style.INK)
    figure.suptitle("Untrained: nearly one answer for all queries and all images", fontsize=10, y=0.985)
    return figure


def answers_of(logits: Tensor, boxes: Tensor) -> Answers:
    """Sum up logits (Q, K+1), "no object" last, and boxes (Q, 4) cxcywh of one image."""
    probabilities = logits.detach().softmax(-1)
    score, label = probabilities[:, :-1].max(-1)
    return Answers(
        classes=logits.shape[-1],
        labels=len(label.unique()),
        score=score.numpy(),
        nothing=probabilities[:, -1].numpy(),
        boxes_xyxy=cxcywh_to_xyxy(boxes.detach()).clamp(0, 1).numpy(),
        spread=float(boxes.detach().std(dim=0).mean()),
    )


def parameters_by_part(model: nn.Module) -> dict[str, int]:
    """The number of parameters under each top-level name of a model, the transformer's halves apart."""
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        part = ".".join(parts[:2]) if parts[0] == "transformer" else parts[0]
        counts[part] = counts.get(part, 0) + parameter.numel()
    return counts


def parameters_figure(counts: Mapping[str, int], title: str) -> Figure:
    """Draw parameter counts as bars on a logarithmic scale, largest on top, with number and share beside each."""
    ordered, total = sorted(counts.items(), key=lambda item: item[1]), sum(counts.values())
    figure = style.new_figure(style.PAGE_IN, 0.3 * len(ordered) + 1.1)
    axes = figure.add_subplot()
    values = [count for _, count in ordered]
    axes.barh([name for name, _ in ordered], values, color=style.QUERY, height=0.65)
    for row, count in enumerate(values):
        axes.text(count * 1.15, row, f"{count:,}  ({_share(count / total)})", va="center", fontsize=8.5)
    axes.set_xscale("log")
    axes.set_xlim(min(values) / 3, max(values) * 40)
    axes.set_xlabel("parameters (each line of the grid ten times the one before)", fontsize=9)
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, fontsize=10, color=style.INK)
    figure.tight_layout()
    return figure


def _share(part: float) -> str:
    return f"{100 * part:.2f} %" if part >= 0.0001 else "< 0.01 %"


def _axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at inches from the figure's lower left corner."""
    whole, tall = figure.get_size_inches()
    return figure.add_axes((left / whole, bottom / tall, width / whole, height / tall))


def _card(axes: Axes, x: float, y: float, name: str, size: tuple[int, ...], colour: str) -> None:
    box = FancyBboxPatch((x - 0.6, y - 0.3), 1.2, 0.6, "round,pad=0,rounding_size=0.08", fill=False, edgecolor=colour)
    box.set_linewidth(1.8)
    axes.add_patch(box)
    axes.text(x, y + 0.11, name, ha="center", va="center", fontsize=9.5, color=colour, weight="bold")
    axes.text(x, y - 0.13, " x ".join(str(side) for side in size), ha="center", va="center", fontsize=8.5)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": style.INK, "linewidth": 1.2})
