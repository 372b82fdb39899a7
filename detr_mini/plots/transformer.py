"""Figures of notebook 05: a layer with the shapes that ran through it, norms, passes, dead parameters, costs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch
from torch import Tensor, nn

from detr_mini.plots import style

# S tokens · Q queries · h heads · D width · F inner width of the feed-forward network

CONTENT, PLACE = style.INK, style.QUERY  # what is handed on, and what only says where
FUSED, EXPLICIT = "#D55E00", "#CC79A7"  # the two paths of attention
DEAD = 1e-12  # of the largest gradient: below it, float64 has only rounding left

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Run:
    """The shapes of the tensors that a module was given and gave back, in their order."""

    inputs: tuple[Shape, ...]
    outputs: tuple[Shape, ...]


@dataclass(frozen=True)
class LayerCost:
    """Multiply-adds of one encoder layer for one image."""

    projections: int  # of queries, keys, values and answers
    attention: int  # products of queries with keys, and of weights with values
    feedforward: int

    @property
    def total(self) -> int:
        return self.projections + self.attention + self.feedforward


def record(layer: nn.Module, *inputs: Tensor | None | bool) -> dict[str, Run]:
    """Run a layer and note the shapes at each of its direct parts, by name; the layer itself is ""."""
    seen = {}

    def hook(name: str):
        def note(module: nn.Module, given, answer) -> None:
            seen.setdefault(name, Run(_shapes(given), _shapes(answer)))

        return note

    parts = [("", layer), *layer.named_children()]
    handles = [part.register_forward_hook(hook(name)) for name, part in parts]
    try:
        layer(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def encoder_layer_cost(tokens: int, width: int = 256, feedforward: int = 2048) -> LayerCost:
    """Count by hand: four D x D matrices and two D x F ones for each token, and two products for each pair of tokens.

    Raises ValueError for a number below 1.
    """
    if min(tokens, width, feedforward) < 1:
        raise ValueError(f"tokens {tokens}, width {width}, feedforward {feedforward}: each must be at least 1")
    return LayerCost(4 * tokens * width**2, 2 * tokens**2 * width, 2 * tokens * width * feedforward)


def layer_figure(encoder: Mapping[str, Run], decoder: Mapping[str, Run]) -> Figure:
    """Draw a post-norm encoder and decoder layer, with the shapes of `record` at every arrow."""
    figure = style.new_figure(style.PAGE_IN, 6.75)
    for left, run, title in ((0.0, encoder, "Encoder layer"), (0.5, decoder, "Decoder layer")):
        axes = figure.add_axes((left, 0, 0.5, 6.5 / 6.75))
        axes.set(xlim=(0, 4.5), ylim=(6.5, 0))  # in inches, downwards
        axes.axis("off")
        _draw_layer(axes, run)
        axes.set_title(title, fontsize=11, color=style.INK, pad=4)
    return figure


def norms_figure(size: Mapping[str, Sequence[float]], gradient: Mapping[str, Sequence[float]]) -> Figure:
    """Draw the deviation of the tokens after each layer, and the gradient of each layer's weights, for both orders."""
    figure, (left, right) = style.row(2, 3.1, bottom=0.5, top=0.4, left=0.65, gap=0.85)
    looks = ((style.UNMATCHED, "--", "x"), (FUSED, "-", "o"))
    for axes, curves, first in ((left, size, 0), (right, gradient, 1)):
        for (name, values), (colour, line, marker) in zip(curves.items(), looks, strict=True):
            layers = range(first, first + len(values))
            axes.plot(layers, values, color=colour, linestyle=line, marker=marker, markersize=5, label=name)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("encoder layer", fontsize=9)
        style.tidy(axes)
    left.set_ylabel("standard deviation of the tokens", fontsize=9)
    left.set_title("Pre-norm tokens grow from layer to layer", fontsize=10, color=style.INK)
    right.set_ylabel("gradient of linear1, norm", fontsize=9)
    right.set_title("... and the late layers get less gradient", fontsize=10, color=style.INK)
    right.set_ylim(0, 1.15 * max(max(values) for values in gradient.values()))
    left.legend(fontsize=8, frameon=False, loc="lower right")
    return figure


def depends_figure(depends: Mapping[str, Tensor], rows: str, columns: str) -> Figure:
    """Draw tables of booleans (N, N): whether answer number row depends on input number column."""
    figure, panels = style.row(len(depends), 3.35, bottom=0.5, top=0.5, left=0.6, gap=0.45, right=0.15)
    paint = ListedColormap(["#FFFFFF", style.QUERY])
    for axes, (name, table) in zip(panels, depends.items(), strict=True):
        table = np.asarray(table, dtype=bool)
        axes.imshow(table, cmap=paint, vmin=0, vmax=1, aspect="equal")
        for row, column in zip(*table.nonzero(), strict=True):
            axes.text(column, row, "x", ha="center", va="center", fontsize=9, color="white")
        axes.set_xticks(range(table.shape[1]), range(1, table.shape[1] + 1))
        axes.set_yticks(range(len(table)), range(1, len(table) + 1))
        axes.set_xticks(np.arange(-0.5, table.shape[1]), minor=True)
        axes.set_yticks(np.arange(-0.5, len(table)), minor=True)
        axes.grid(which="minor", color="#BBBBBB", linewidth=0.6)
        axes.tick_params(which="minor", length=0)
        axes.tick_params(labelsize=8)
        axes.set_title(name, fontsize=9.5, color=style.INK)
        axes.set_xlabel(columns, fontsize=9)
    panels[0].set_ylabel(rows, fontsize=9)
    return figure


def passes_figure(
    objects: Sequence[int], passes: Mapping[str, Sequence[int]], seconds: Mapping[str, Sequence[float]]
) -> Figure:
    """Draw runs through the decoder, and the time of all of them, against the number of objects emitted."""
    figure, (left, right) = style.row(2, 3.1, bottom=0.5, top=0.4, left=0.65, gap=0.85)
    looks = {
        "one by one, all computed again": (style.UNMATCHED, ":", "s"),
        "one by one, with a cache": (style.UNMATCHED, "--", "x"),
        "all at once": (style.QUERY, "-", "o"),
    }
    for axes, curves, scale in ((left, passes, 1), (right, seconds, 1000)):
        for name, values in curves.items():
            colour, line, marker = looks[name]
            shown = [scale * value for value in values]
            axes.plot(objects, shown, color=colour, linestyle=line, marker=marker, markersize=5, label=name)
        axes.set(xscale="log", yscale="log")
        axes.set_xticks(objects, [str(count) for count in objects])
        axes.minorticks_off()
        axes.set_xlabel("objects in the image", fontsize=9)
        style.tidy(axes)
    left.set_ylabel("runs through the decoder", fontsize=9)
    left.set_title("One run, or one for each object and the stop", fontsize=10, color=style.INK)
    right.set_ylabel("time of one image, ms", fontsize=9)
    right.set_title("... and the time follows", fontsize=10, color=style.INK)
    right.legend(fontsize=8, frameon=False, loc="upper left")
    return figure


def gradients_figure(sizes: Mapping[str, float], title: str) -> Figure:
    """Draw each decoder piece's gradient, as a share of the largest, by layer; below 1e-12 is drawn as 0.

    Names are "decoder.layers.N.part"; others (encoder, final norm) count for the largest and are not drawn.
    """
    largest, table = max(sizes.values()), {}
    for name, size in sizes.items():
        stack, _, rest = name.partition(".layers.")
        if stack == "decoder" and rest:
            layer, _, part = rest.partition(".")
            table.setdefault(part, {})[int(layer)] = size / largest
    layers = 1 + max(max(row) for row in table.values())
    values = np.array([[row[layer] for layer in range(layers)] for row in table.values()])
    figure = style.new_figure(style.PAGE_IN, 0.9 + 0.215 * len(table))
    height = 0.9 + 0.215 * len(table)
    axes = figure.add_axes((2.3 / style.PAGE_IN, 0.5 / height, 5.2 / style.PAGE_IN, 1 - 0.9 / height))
    shown = np.ma.masked_less(values, DEAD)
    drawn = axes.imshow(np.ma.log10(shown), cmap="viridis", vmin=-5, vmax=0, aspect="auto")
    for row, layer in zip(*(values < DEAD).nonzero(), strict=True):
        axes.text(layer, row, "0", ha="center", va="center", fontsize=9, fontweight="bold", color=style.INK)
    axes.set_yticks(range(len(table)), list(table), fontsize=8, family="monospace")
    axes.set_xticks(range(layers), range(layers), fontsize=8)
    axes.set_xlabel("decoder layer, counted from 0", fontsize=9)
    axes.set_title(title, fontsize=10, color=style.INK)
    place = axes.get_position()
    scale = figure.colorbar(
        drawn, cax=figure.add_axes((7.75 / style.PAGE_IN, place.y0, 0.15 / style.PAGE_IN, place.height))
    )
    scale.set_label("largest gradient of the piece, log10 of its share", fontsize=8)
    scale.ax.tick_params(labelsize=8)
    return figure


def cost_figure(
    tokens: Sequence[int], mebibytes: Mapping[str, Sequence[float]], seconds: Mapping[str, Sequence[float]]
) -> Figure:
    """Draw peak memory and time of one attention against the number of tokens, fused and explicit."""
    figure, (left, right) = style.row(2, 3.3, bottom=0.5, top=0.4, left=0.75, gap=0.9)
    looks = {"explicit": (EXPLICIT, "--", "s"), "fused": (FUSED, "-", "o")}
    for axes, curves, scale in ((left, mebibytes, 1), (right, seconds, 1000)):
        for name, values in curves.items():
            colour, line, marker = looks[name]
            shown = [scale * value for value in values]
            axes.plot(tokens, shown, color=colour, linestyle=line, marker=marker, markersize=5, label=name)
        axes.set(xscale="log", yscale="log")
        axes.set_xticks(tokens, [f"{count:,}" for count in tokens])
        axes.minorticks_off()
        axes.set_xlabel("tokens HW", fontsize=9)
        style.tidy(axes)
    weights = [8 * count**2 * 4 / 2**20 for count in tokens]
    left.plot(tokens, weights, color=style.INK, linewidth=0.9, linestyle=":", label="the weights alone, 8 (HW)² · 4 B")
    left.set_ylabel("peak memory, MiB", fontsize=9)
    left.set_title("Without storing weights, memory grows like HW", fontsize=10, color=style.INK)
    right.set_ylabel("time, ms", fontsize=9)
    right.set_title("Both compute for every pair, one moves less", fontsize=10, color=style.INK)
    left.legend(fontsize=8, frameon=False, loc="upper left")
    return figure


def share_figure(marks: Mapping[str, int], width: int = 256, feedforward: int = 2048) -> Figure:
    """Draw how one encoder layer's multiply-adds are shared among its parts, against tokens; `marks` names some."""
    figure, (axes,) = style.row(1, 3.1, bottom=0.5, top=0.4, left=0.65, right=0.2)
    tokens = np.unique(np.geomspace(50, 10_000, 200).astype(int))
    costs = [encoder_layer_cost(int(count), width, feedforward) for count in tokens]
    parts = {
        "attention,\nevery pair of tokens": ("attention", "#E8B9D3", (3700, 0.2)),
        "projections of q, k, v and the answer": ("projections", "#BFD7EA", (60, 0.13)),
        "feed-forward network": ("feedforward", "#E3E3E3", (60, 0.6)),
    }
    below = np.zeros(len(tokens))
    for name, (field, colour, place) in parts.items():
        above = below + [getattr(cost, field) / cost.total for cost in costs]
        axes.fill_between(tokens, below, above, color=colour, edgecolor="white", linewidth=1)
        axes.text(*place, name, fontsize=9, va="center", color=style.INK)
        below = above
    for name, count in marks.items():
        axes.axvline(count, color=style.INK, linewidth=1)
        spot = (count * 0.97, 0.97)
        axes.text(*spot, f"{name}\n{count:,}", fontsize=8, ha="right", va="top", path_effects=style.SEAM)
    even = 2 * width + feedforward
    axes.plot([even], [0.5], color=style.INK, marker="o", markersize=5)
    said = f"half: 2D + F = {even:,} "
    axes.text(even * 0.97, 0.5, said, fontsize=8, ha="right", va="center", path_effects=style.SEAM)
    axes.set(xscale="log", xlim=(tokens[0], tokens[-1]), ylim=(0, 1))
    axes.set_xticks((100, 1000, 10_000), ("100", "1,000", "10,000"))
    axes.set_xlabel("tokens HW", fontsize=9)
    axes.set_ylabel("share of multiply-adds", fontsize=9)
    axes.set_title("Only beyond 2D + F tokens is most of a layer attention", fontsize=10, color=style.INK)
    style.tidy(axes)
    return figure


def _shapes(value) -> tuple[Shape, ...]:
    values = value if isinstance(value, (tuple, list)) else (value,)
    return tuple(tuple(each.shape) for each in values if isinstance(each, Tensor))


def _written(shape: Shape) -> str:
    return " × ".join(map(str, shape))


LINE_X, SKIP_X = 2.35, 3.55  # in the drawing: what flows down, and the way around a sub-layer


def _draw_layer(axes: Axes, run: Mapping[str, Run]) -> None:
    """One layer from above to below, in a drawing of 4.5 by 6.5 inches."""
    decoder = "multihead_attn" in run
    flow = run[""].inputs[0]
    gap = 0.0 if decoder else 0.35  # the encoder has one sub-layer less and more room
    y = 0.15
    axes.text(LINE_X, y, "states, at first zeros" if decoder else "tokens", ha="center", va="center", fontsize=9)
    y += 0.12
    sublayers = ["self_attn", *(["multihead_attn"] if decoder else []), "linear1"]
    for number, name in enumerate(sublayers, start=1):
        y = _draw_sublayer(axes, run, name, flow, y, gap, f"norm{number}", decoder)
        flow = run[f"norm{number}"].outputs[0]
    _arrow(axes, (LINE_X, y), (LINE_X, y + 0.42 + gap))
    axes.text(LINE_X + 0.08, y + 0.21 + gap / 2, _written(run[""].outputs[0]), fontsize=8.5, va="center")
    axes.text(LINE_X, y + 0.55 + gap, "to the next layer", ha="center", va="center", fontsize=9)


def _draw_sublayer(axes, run, name, flow, y, gap, norm, decoder) -> float:
    """An arrow, the sub-layer, the sum and the norm; returns where the next arrow starts."""
    start, y = y + 0.08, y + 0.42 + gap
    _arrow(axes, (LINE_X, start - 0.08), (LINE_X, y))
    axes.text(LINE_X + 0.08, (start - 0.08 + y) / 2, _written(flow), fontsize=8.5, va="center")
    if name == "linear1":
        inside, answer = run["linear1"].outputs[0], run["linear2"].outputs[0]
        said = f"linear1, ReLU, linear2\ninside {_written(inside)}"
    else:
        answer, *weights = run[name].outputs
        if name == "multihead_attn":
            said = "multihead_attn: at the image"
        else:
            said = f"self_attn: {'queries at queries' if decoder else 'tokens at tokens'}"
        if weights:
            said += f"\nweights {_written(weights[0])}"
        _draw_sides(axes, run, name, y, decoder)
    _box(axes, y, 0.46, said)
    joint = y + 0.46 + 0.42
    _arrow(axes, (LINE_X, y + 0.46), (LINE_X, joint - 0.11))
    axes.text(LINE_X + 0.08, y + 0.46 + 0.15, _written(answer), fontsize=8.5, va="center")
    axes.plot([LINE_X, SKIP_X + 0.35, SKIP_X + 0.35], [start, start, joint], color=CONTENT, linewidth=1.2)
    _arrow(axes, (SKIP_X + 0.35, joint), (LINE_X + 0.11, joint))
    axes.add_patch(Circle((LINE_X, joint), 0.11, facecolor="white", edgecolor=CONTENT, linewidth=1.2, zorder=3))
    axes.text(LINE_X, joint, "+", ha="center", va="center", fontsize=10, zorder=4)
    below = joint + 0.11 + 0.17
    _arrow(axes, (LINE_X, joint + 0.11), (LINE_X, below))
    _box(axes, below, 0.25, norm, wide=1.0)
    return below + 0.25


def _draw_sides(axes, run, name, y, decoder) -> None:
    """What enters an attention from the side: positions dashed, the memory solid."""
    given = run[name].inputs
    edge = LINE_X - 1.12
    who = "query positions" if decoder else "positions"
    added = "to queries\nand keys" if name == "self_attn" else "to queries"
    note = f"{who}\n{added}\n{_written(given[0])}"
    axes.text(edge - 0.2, y + 0.23, note, fontsize=8, ha="right", va="center", color=PLACE)
    _arrow(axes, (edge - 0.17, y + 0.23), (edge, y + 0.23), PLACE, "--")
    if name == "multihead_attn":
        said = f"memory, as keys\n(with positions)\nand values\n{_written(given[1])}"
        axes.text(edge - 0.2, y + 0.94, said, fontsize=8, ha="right", va="center", color=CONTENT)
        _arrow(axes, (edge - 0.17, y + 0.75), (edge + 0.12, y + 0.46), CONTENT)


def _box(axes: Axes, top: float, height: float, text: str, wide: float = 2.24) -> None:
    corner = (LINE_X - wide / 2, top)
    look = {"boxstyle": "round,pad=0,rounding_size=0.05", "facecolor": "#F2F2F2", "edgecolor": CONTENT}
    axes.add_patch(FancyBboxPatch(corner, wide, height, linewidth=1, **look))
    axes.text(LINE_X, top + height / 2, text, ha="center", va="center", fontsize=8.5)


def _arrow(axes: Axes, start, end, colour: str = CONTENT, line: str = "-") -> None:
    look = {"arrowstyle": "-|>", "color": colour, "linestyle": line, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", xy=end, xytext=start, arrowprops=look)


def slope(tokens: Sequence[int], values: Sequence[float]) -> float:
    """The power with which values grow between the last two counts: 1 is linear, 2 quadratic."""
    return math.log(values[-1] / values[-2]) / math.log(tokens[-1] / tokens[-2])
