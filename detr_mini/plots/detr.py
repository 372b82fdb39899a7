"""Figures of notebook 08: the architecture with live shapes, parameters and work by part, settings, one image."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from detr_mini.boxes import cxcywh_to_xyxy
from detr_mini.detection import Picture
from detr_mini.plots import style
from detr_mini.plots.detections import pixels_of, show_pixels

# L decoder layers · B images · Q queries · K classes · H, W feature map · D width · T true boxes

TOLD = "#D55E00"  # what only says where, as in notebooks 04 and 07
# The four parts of the model, told apart by colour and by hatching.
PARTS = {
    "backbone": ("#C8C8C8", ""),
    "encoder": ("#E3A7C6", "//"),
    "decoder": ("#7FB8DC", "\\\\"),
    "rest": ("#F2E48A", ".."),
}
FROZEN = "frozen"  # in a name: parameters that are not trained


# Shapes


def shapes_of(model: nn.Module, images: Tensor, padding: Tensor | None = None) -> dict[str, tuple[int, ...]]:
    """Run the model once, and return the shapes of what passed between its parts, by name.

    The model has DETR's parts under DETR's names and gives something with `logits` and `boxes`, or that pair.
    """
    shapes = {"images": tuple(images.shape), "padding": tuple(images.shape[:1] + images.shape[2:])}
    hooks = []

    def keep(module: nn.Module, name: str) -> None:
        def note(_module, inputs, output):
            shapes[name] = tuple((output[0] if isinstance(output, tuple) else output).shape)
            if name == "memory":
                shapes["tokens"] = tuple(inputs[0].shape)

        hooks.append(module.register_forward_hook(note))

    keep(model.backbone, "features")
    keep(model.position, "codes")
    keep(model.transformer.encoder, "memory")
    keep(model.transformer.decoder, "states")
    try:
        with torch.no_grad():
            output = model(images, padding)
    finally:
        for hook in hooks:
            hook.remove()
    logits, boxes = output[:2] if isinstance(output, tuple) else (output.logits, output.boxes)
    shapes |= {"queries": tuple(model.query_embed.weight.shape)}
    return shapes | {"logits": tuple(logits.shape), "boxes": tuple(boxes.shape)}


def architecture_figure(runs: Mapping[str, Mapping[str, tuple[int, ...]]]) -> Figure:
    """Draw the whole model with the shapes of one or two runs, `shapes_of` by the name of the model."""
    tall = 5.1
    figure = style.new_figure(style.PAGE_IN, tall)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, style.PAGE_IN), ylim=(0, tall))
    axes.axis("off")
    places = {
        "images": (0.9, 4.2, style.INK),
        "features": (3.3, 4.2, style.INK),
        "tokens": (5.7, 4.2, style.INK),
        "memory": (8.1, 4.2, style.INK),
        "padding": (0.9, 2.75, TOLD),
        "codes": (5.7, 2.75, TOLD),
        "queries": (8.1, 0.95, style.QUERY),
        "states": (4.6, 0.95, style.QUERY),
        "logits": (0.9, 1.4, style.QUERY),
        "boxes": (0.9, 0.5, style.QUERY),
    }
    for name, (x, y, colour) in places.items():
        _card(axes, x, y, name, [(run, shapes[name]) for run, shapes in runs.items()], colour)
    for start, end, what in (
        ("images", "features", "backbone"),
        ("features", "tokens", "input_proj,\nflatten"),
        ("tokens", "memory", "encoder"),
        ("padding", "codes", "nearest cell, then position"),
        ("queries", "states", "decoder"),
    ):
        (x1, y, _), (x2, _, _) = places[start], places[end]
        way = HALF if x2 > x1 else -HALF
        colour = TOLD if start == "padding" else style.INK
        _arrow(axes, (x1 + way, y), (x2 - way, y), colour, "--" if start == "padding" else "-")
        below = start == "queries"  # above, other arrows arrive
        axes.text((x1 + x2) / 2, y - 0.1 if below else y + 0.08, what, va="top" if below else "bottom", **LABEL)
    _arrow(axes, (6.0, 2.75 + RISE), (6.88, 4.13), TOLD, "--")
    _arrow(axes, (5.85, 2.75 - RISE), (6.25, 1.02), TOLD, "--")
    axes.text(6.2, 3.5, "to queries and keys,\nin every layer", va="center", **LABEL | {"ha": "right"})
    axes.text(5.9, 1.75, "to the keys,\nin every layer", va="center", **LABEL | {"ha": "right"})
    _arrow(axes, (8.0, 4.2 - RISE), (6.45, 1.02), style.INK, "-")
    axes.text(7.35, 2.1, "keys and values", va="center", **LABEL | {"ha": "left"})
    for name, what, y in (("logits", "class_embed", 1.38), ("boxes", "bbox_embed,\nsigmoid", 0.42)):
        _arrow(axes, (4.6 - HALF, 0.95), (0.9 + HALF, places[name][1]), style.INK, "-")
        axes.text(2.85, y, what, va="bottom" if name == "logits" else "center", **LABEL)
    figure.text(0.5, 0.965, "From pixels to a set of boxes: every shape on the way", ha="center", fontsize=10)
    return figure


LABEL = {"ha": "center", "fontsize": 8.5, "style": "italic"}
HALF, RISE = 0.76, 0.34  # half the width and height of a card, inches


def _card(axes: Axes, x: float, y: float, name: str, lines: Sequence[tuple[str, tuple]], colour: str) -> None:
    box = FancyBboxPatch((x - HALF, y - RISE), 2 * HALF, 2 * RISE, "round,pad=0,rounding_size=0.08")
    box.set(facecolor="white", edgecolor=colour, linewidth=1.8, zorder=3)
    axes.add_patch(box)
    axes.text(x, y + 0.2, name, ha="center", va="center", fontsize=9.5, color=colour, weight="bold", zorder=4)
    for row, (run, shape) in enumerate(lines):
        text = f"{run}: {' x '.join(map(str, shape))}"
        axes.text(x, y - 0.01 - 0.18 * row, text, ha="center", va="center", fontsize=8, zorder=4)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str, line: str) -> None:
    look = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.3, "linestyle": line, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops=look, zorder=2)


# Parameters


def parameters_by_part(model: nn.Module) -> dict[str, dict[str, int]]:
    """Parameters of a DETR by part (the keys of PARTS) and piece; "frozen" marks what is not trained."""
    counts: dict[str, dict[str, int]] = {part: {} for part in PARTS}
    for name, parameter in model.named_parameters():
        part, piece = _piece(name)
        piece += "" if parameter.requires_grad else f" ({FROZEN})"
        counts[part][piece] = counts[part].get(piece, 0) + parameter.numel()
    return counts


def _piece(name: str) -> tuple[str, str]:
    words = name.split(".")
    if words[0] == "backbone":
        piece = "stem" if words[1] in ("conv1", "bn1", "stem") else words[1]
        return "backbone", f"blocks.{words[2]}" if piece == "blocks" else piece
    if words[0] == "transformer":
        inner = words[4] if words[2] == "layers" else words[2]
        kinds = {"self_attn": "self-attention", "multihead_attn": "cross-attention"}
        kinds |= {"linear1": "feed-forward", "linear2": "feed-forward"}
        return words[1], kinds.get(inner, "norms")
    return "rest", words[0]


@dataclass(frozen=True)
class Tile:
    """A rectangle of a treemap, x, y, width and height in the unit of the whole."""

    name: str
    value: float
    x: float
    y: float
    width: float
    height: float


def tiles(values: Mapping[str, float], x: float, y: float, width: float, height: float) -> list[Tile]:
    """Fill a rectangle with one tile for each value above zero, its area the value's share.

    The values are halved again and again, as evenly as their order (largest first) allows, along the longer side.
    """
    ordered = sorted(((n, v) for n, v in values.items() if v > 0), key=lambda item: -item[1])
    if len(ordered) == 1:
        return [Tile(*ordered[0], x, y, width, height)]
    total, sums = sum(v for _, v in ordered), np.cumsum([v for _, v in ordered])
    cut = int(np.argmin(abs(sums[:-1] - total / 2))) + 1
    first, second = dict(ordered[:cut]), dict(ordered[cut:])
    share = sums[cut - 1] / total
    if width >= height:
        left = tiles(first, x, y, share * width, height)
        return left + tiles(second, x + share * width, y, (1 - share) * width, height)
    below = tiles(second, x, y, width, (1 - share) * height)
    return tiles(first, x, y + (1 - share) * height, width, share * height) + below


def treemap_figure(counts: Mapping[str, Mapping[str, int]], title: str) -> Figure:
    """Draw parameters as areas, by part and piece; pieces too small for a label inside stand in the legend's line."""
    tall = 4.9
    figure = style.new_figure(style.PAGE_IN, tall)
    axes = figure.add_axes((0.015, 0.13, 0.97, 0.79))
    wide, high = 0.97 * style.PAGE_IN, 0.79 * tall
    axes.set(xlim=(0, wide), ylim=(0, high), xticks=[], yticks=[])
    total = sum(sum(pieces.values()) for pieces in counts.values())
    unnamed = []
    for outer in tiles({part: sum(pieces.values()) for part, pieces in counts.items()}, 0, 0, wide, high):
        colour, hatch = PARTS[outer.name]
        for tile in tiles(counts[outer.name], outer.x, outer.y, outer.width, outer.height):
            look = {"facecolor": colour, "edgecolor": "white", "linewidth": 1.0}
            axes.add_patch(Rectangle((tile.x, tile.y), tile.width, tile.height, **look))
            if not _label(axes, tile, outer.name):
                unnamed.append(f"{outer.name}: {tile.name} {tile.value:,.0f}")
        look = {"fill": False, "edgecolor": style.INK, "linewidth": 1.8}
        axes.add_patch(Rectangle((outer.x, outer.y), outer.width, outer.height, **look))
    sums = [f"{part} {sum(pieces.values()) / total:.1%}" for part, pieces in counts.items()]
    figure.text(0.5, 0.08, " · ".join(sums), ha="center", fontsize=9)
    if unnamed:
        lines = textwrap.wrap(f"too small for a name: {' · '.join(unnamed)}", 125)
        figure.text(0.5, 0.062, "\n".join(lines), ha="center", va="top", fontsize=8)
    figure.text(0.5, 0.95, title, ha="center", fontsize=10)
    return figure


def _label(axes: Axes, tile: Tile, part: str) -> bool:
    """Write name and number into a tile where they fit (8 points are about 0.075 inches a letter)."""
    number = f"{tile.value / 1e6:.2f} M" if tile.value >= 1e5 else f"{tile.value / 1e3:.0f} k"
    lines = [part if part != "rest" else "", *tile.name.split(" ("), number]
    lines = [line.rstrip(")") for line in lines if line]
    for attempt in (lines, lines[1:] if part != "rest" else lines):
        long, thick = max(map(len, attempt)) * 0.078, len(attempt) * 0.155
        upright = long <= tile.width and thick <= tile.height
        if not upright and (long > tile.height or thick > tile.width):
            continue
        middle = (tile.x + tile.width / 2, tile.y + tile.height / 2)
        look = {"rotation": 0 if upright else 90, "linespacing": 1.15}
        axes.text(*middle, "\n".join(attempt), ha="center", va="center", fontsize=8, color=style.INK, **look)
        return True
    return False


# Work


def work_by_part(model: nn.Module, height: int, width: int) -> dict[str, int]:
    """Multiply-adds of one image by part, as `detr.multiply_adds` counts them; the model is on the device meta."""
    images = torch.empty(1, 3, height, width, device="meta")
    with FlopCounterMode(display=False) as counter:
        model(images, return_attention=True)
    counted = {name: sum(kinds.values()) // 2 for name, kinds in counter.get_flop_counts().items()}
    whole, kind = counted["Global"], type(model).__name__
    parts = {"backbone": counted[f"{kind}.backbone"]}
    parts |= {part: counted.get(f"{kind}.transformer.{part}", 0) for part in ("encoder", "decoder")}
    return parts | {"rest": whole - sum(parts.values())}


def work_figure(works: Mapping[str, Mapping[str, int]], table: Mapping[str, float], title: str) -> Figure:
    """Draw multiply-adds by part as stacked bars, one a row, with the number of Table 1 (G) where it has one."""
    figure = style.new_figure(style.PAGE_IN, 0.42 * len(works) + 1.55)
    axes = figure.add_subplot()
    most = max(sum(parts.values()) for parts in works.values()) / 1e9
    for row, (name, parts) in enumerate(works.items()):
        left = 0.0
        for part, (colour, hatch) in PARTS.items():
            wide = parts[part] / 1e9
            look = {"color": colour, "hatch": hatch, "edgecolor": style.INK, "linewidth": 0.6, "height": 0.62}
            axes.barh(row, wide, left=left, label=part if row == 0 else None, **look)
            left += wide
        if name in table:
            axes.plot([table[name]] * 2, [row - 0.4, row + 0.4], color=TOLD, linewidth=2.2, linestyle="--")
    axes.plot([], [], color=TOLD, linewidth=2.2, linestyle="--", label="Table 1")
    names = [f"{name}: {sum(parts.values()) / 1e9:.1f} G" for name, parts in works.items()]
    axes.set_yticks(range(len(works)), names, fontsize=8.5)
    axes.invert_yaxis()
    axes.set_xlim(0, most * 1.1)
    axes.set_xlabel("multiply-adds of one image, G", fontsize=9)
    style.tidy(axes)
    axes.legend(
        fontsize=8, frameon=False, ncols=5, loc="upper center", bbox_to_anchor=(0.45, -0.75 / (len(works) + 0.6))
    )
    axes.set_title(title, fontsize=10, color=style.INK)
    figure.tight_layout()
    return figure


# Settings


@dataclass(frozen=True)
class Setting:
    """One field of a configuration, its value for the paper's model and for the mini."""

    field: str
    paper: Any
    mini: Any

    @property
    def differs(self) -> bool:
        return self.paper != self.mini


def settings(paper: Any, mini: Any, prefix: str = "") -> list[Setting]:
    """All fields of two dataclasses of one type, those of dataclasses inside them under "outer.inner"."""
    found = []
    for field in fields(paper):
        here, there = getattr(paper, field.name), getattr(mini, field.name)
        if is_dataclass(here):
            found += settings(here, there, f"{prefix}{field.name}.")
        else:
            found.append(Setting(prefix + field.name, here, there))
    return found


def settings_table(rows: Sequence[Setting], reasons: Mapping[str, str]) -> str:
    """The settings that differ, as a table in Markdown, with the reason of each; ValueError where one has none.

    A reason for a setting that does not differ (any more), or does not exist, is an error too.
    """
    different = [row for row in rows if row.differs]
    lacking = [row.field for row in different if row.field not in reasons]
    left_over = sorted(set(reasons) - {row.field for row in different})
    if lacking or left_over:
        raise ValueError(f"without a reason: {lacking}; a reason but no difference: {left_over}")
    lines = ["| field | paper | mini | why |", "|:--|:--|:--|:--|"]
    for row in different:
        lines.append(f"| `{row.field}` | {_value(row.paper)} | {_value(row.mini)} | {reasons[row.field]} |")
    return "\n".join(lines)


def _value(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)


# One image


@dataclass(frozen=True, eq=False)
class Moment:
    """The answers at one step of a training: boxes cxcywh and classes by query, and the queries of the objects."""

    step: int
    boxes_cxcywh: np.ndarray  # (Q, 4)
    nothing: np.ndarray  # (Q,) probability of "no object"
    matched: np.ndarray  # (T,) query of each object
    iou: np.ndarray  # (T,) with its object


def film_figure(
    image: Picture, true_cxcywh: Tensor, film: Sequence[Moment], loss: Sequence[float], title: str
) -> Figure:
    """Draw the boxes at each moment above the loss of every step, on a logarithmic scale."""
    count = len(film)
    wide = (style.PAGE_IN - 0.1 * (count + 1)) / count
    tall = wide + 2.85
    figure = style.new_figure(style.PAGE_IN, tall)
    for i, moment in enumerate(film):
        place = (
            (0.1 + i * (wide + 0.1)) / style.PAGE_IN,
            (tall - 0.72 - wide) / tall,
            wide / style.PAGE_IN,
            wide / tall,
        )
        axes = figure.add_axes(place)
        _boxes(axes, image, true_cxcywh, moment)
        axes.set_title(f"step {moment.step}: worst IoU {moment.iou.min():.2f}", fontsize=8.5, color=style.INK, pad=4)
    axes = figure.add_axes((0.075, 0.5 / tall, 0.905, 1.3 / tall))
    axes.plot(np.arange(1, len(loss) + 1), loss, color=style.INK, linewidth=1.2)
    for moment in film:
        axes.axvline(max(moment.step, 1), color=style.QUERY, linestyle=":", linewidth=1.2)
    axes.set_yscale("log")
    axes.set_xlim(0, len(loss) + 1)
    axes.set_xlabel("step (dotted: the pictures above)", fontsize=8.5)
    axes.set_ylabel("loss, all layers", fontsize=8.5)
    style.tidy(axes)
    figure.text(0.5, 1 - 0.25 / tall, title, ha="center", fontsize=10)
    legend = "orange, wide: true · green, dashed: the query matched with it · grey, thin: the other queries"
    figure.text(0.5, (tall - 0.92 - wide) / tall, legend, ha="center", fontsize=8.5)
    return figure


def faults_figure(
    image: Picture,
    true_cxcywh: Tensor,
    ends: Mapping[str, Moment],
    losses: Mapping[str, Sequence[float]],
    title: str,
) -> Figure:
    """Draw the last answers of several runs on one image, and the loss curves of all beside them."""
    count, wide = len(ends), 1.62
    columns = -(-count // 2)
    tall = 2 * (wide + 0.36) + 0.6
    figure = style.new_figure(style.PAGE_IN, tall)
    for i, (name, moment) in enumerate(ends.items()):
        row, column = divmod(i, columns)
        left, bottom = 0.1 + column * (wide + 0.15), tall - 0.4 - (row + 1) * (wide + 0.36) + 0.06
        axes = figure.add_axes((left / style.PAGE_IN, bottom / tall, wide / style.PAGE_IN, wide / tall))
        _boxes(axes, image, true_cxcywh, moment)
        axes.set_title(name, fontsize=8.5, color=style.INK, pad=4)
    left = 0.1 + columns * (wide + 0.15) + 0.6
    place = (left / style.PAGE_IN, 0.5 / tall, (style.PAGE_IN - left - 0.15) / style.PAGE_IN, (tall - 1.1) / tall)
    axes = figure.add_axes(place)
    looks = [
        ("-", "#BBBBBB", 4),
        ("--", TOLD, 1.6),
        (":", style.QUERY, 1.8),
        ("-.", "#CC79A7", 1.4),
        ("-", style.INK, 1),
    ]
    for (name, curve), (line, colour, width) in zip(losses.items(), looks, strict=False):
        axes.plot(np.arange(1, len(curve) + 1), curve, color=colour, linestyle=line, linewidth=width, label=name)
    axes.set_yscale("log")
    axes.set_ylim(top=axes.get_ylim()[1] * 12)  # room for the legend
    axes.set_xlabel("step", fontsize=8.5)
    axes.set_ylabel("loss, all layers", fontsize=8.5)
    axes.legend(fontsize=8, frameon=False, loc="upper right", labelspacing=0.25)
    style.tidy(axes)
    figure.text(0.5, 1 - 0.24 / tall, title, ha="center", fontsize=10)
    return figure


def _boxes(axes: Axes, image: Picture, true_cxcywh: Tensor, moment: Moment) -> None:
    pixels = pixels_of(image)
    show_pixels(axes, pixels)
    sides = np.tile(pixels.shape[1::-1], 2)  # W, H, W, H
    corners = cxcywh_to_xyxy(torch.as_tensor(moment.boxes_cxcywh)).numpy() * sides
    for query, box in enumerate(corners):
        if query not in moment.matched:
            style.draw_box(axes, box, style.UNMATCHED, width=0.7, seam=False)
    for box in cxcywh_to_xyxy(true_cxcywh).numpy() * sides:
        style.draw_box(axes, box, style.OBJECT, width=3.2, seam=False)
    for query in moment.matched:
        style.draw_box(axes, corners[query], style.MATCHED, "--", width=1.8, seam=False)
