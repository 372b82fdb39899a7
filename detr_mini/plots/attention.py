"""Figures of notebook 04: weights, saturation, sines as hands of a clock, similarity of places, left of."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Circle, Rectangle
from torch import Tensor, nn

from detr_mini import positions
from detr_mini.plots import style
from detr_mini.plots.detections import draw_attention, pixels_of, show_pixels

# h heads · N queries of the attention · S keys · C, D channels · H, W grid · B images

KINDS = ("none", "learned", "sine")
DEAD = 0.01  # standard deviation over the grid below which a channel hardly says anything
SPREAD = "RdBu"  # codes from -1 to 1; white is 0
TOLD, LEAKED = "#D55E00", "#CC79A7"  # positions from an encoding, or from what lies beyond the rim
LINES = {  # settings of the left-of experiment: colour, line, marker
    "no positions": (style.UNMATCHED, ":", "x"),
    "sine": (TOLD, "-", "o"),
    "learned": (TOLD, "--", "s"),
    "convnet, zeros": (LEAKED, "-", "^"),
    "convnet, replicate": (LEAKED, "--", "D"),
    "convnet, circular": (LEAKED, ":", "v"),
}


@dataclass(frozen=True, eq=False)
class Similarity:
    """How much the code of one cell is like those of all cells, as the cosine of the angle between them."""

    cell: tuple[int, int]  # row, column, from 0
    map: np.ndarray  # (H, W) in -1..1, 1 at the cell itself
    lowest: float  # of the map
    spread: float  # standard deviation over the map: 0 where all cells look alike


def similarity(
    kind: str,
    cell: tuple[int, int],
    size: tuple[int, int],
    temperature: float = 10_000.0,
    width: int = 256,
    line: bool = False,
) -> Similarity:
    """Compare a cell of an unpadded grid of `size` (H, W) with all others; kinds are those of `positions.build`.

    "learned" is the table before any training, drawn from seed 0; without an encoding all cells are equal, so 1.
    With `line` the cells are one sequence in reading order, as words are in the first transformer: the angle of the
    fastest hand is the cell's number, and all channels tell it. Raises ValueError for an unknown kind or a cell
    outside the grid.
    """
    if not (0 <= cell[0] < size[0] and 0 <= cell[1] < size[1]):
        raise ValueError(f"cell {cell} outside the grid of {size[0]} rows and {size[1]} columns, counted from 0")
    if kind == "none":
        codes = torch.ones(*size, width)
    elif kind == "learned":
        codes = learned_codes(size, width, line)
    elif kind == "sine" and line:
        hands = torch.arange(width // 2, dtype=torch.float64)
        angle = torch.arange(size[0] * size[1])[:, None] * temperature ** (-hands / (width // 2))  # (HW, D/2)
        codes = torch.cat([angle.sin(), angle.cos()], dim=-1).unflatten(0, size)
    else:
        codes = positions.build(kind, width, temperature).double()(torch.zeros(1, *size, dtype=torch.bool))[0]
    return compare_codes(codes, cell)


def learned_codes(size: tuple[int, int], width: int, line: bool = False, encoding: nn.Module | None = None) -> Tensor:
    """Learned codes (H, W, D): of an encoding, else drawn from seed 0, by row and column or (`line`) cell by cell."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        if line:
            return torch.rand(*size, width)
        return (encoding or positions.build("learned", width, 0.0))(torch.zeros(1, *size, dtype=torch.bool))[0]


def compare_codes(codes: Tensor, cell: tuple[int, int]) -> Similarity:
    """The same for any codes (H, W, D), for instance learned ones."""
    unit = F.normalize(codes.detach(), dim=-1)
    cosine = (unit @ unit[cell]).clamp(-1, 1).numpy()  # (H, W)
    return Similarity(cell, cosine, float(cosine.min()), float(cosine.std()))


def similarity_figure(shown: Mapping[str, Similarity]) -> Figure:
    """Draw maps of similarity to the marked cell side by side, on one scale."""
    rows, columns = next(iter(shown.values())).map.shape
    wide = (style.PAGE_IN - 1.45 - 0.35 * (len(shown) - 1)) / len(shown)
    figure, panels = style.row(len(shown), wide * rows / columns + 1.05, bottom=0.5, top=0.55, right=0.95)
    lowest = min(0.0, *(each.lowest for each in shown.values()))
    for axes, (name, each) in zip(panels, shown.items(), strict=True):
        drawn = axes.imshow(each.map, cmap=style.HEAT, vmin=lowest, vmax=1, aspect="auto")
        row, column = each.cell
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="black", linewidth=1.5))
        axes.set_title(f"{name}\nlowest {each.lowest:.2f}", fontsize=9, color=style.INK)
        axes.set_xlabel("column", fontsize=8)
        axes.tick_params(labelsize=8)
    panels[0].set_ylabel("row", fontsize=8)
    _scale(figure, drawn, "cosine")
    return figure


def matrix_figure(weights: Tensor, rows: Sequence[str], columns: Sequence[str], title: str) -> Figure:
    """Draw attention weights (N, S) as a table: a row for each query, adding up to 1."""
    figure = style.new_figure(0.9 * len(columns) + 2.2, 0.55 * len(rows) + 1.2)
    axes = figure.add_subplot()
    axes.imshow(np.asarray(weights), cmap=style.HEAT, vmin=0, vmax=1, aspect="auto")
    for (row, column), weight in np.ndenumerate(np.asarray(weights)):
        ink = "white" if weight < 0.6 else "black"
        axes.text(column, row, f"{weight:.3f}", ha="center", va="center", fontsize=10, color=ink)
    axes.set_xticks(range(len(columns)), columns, fontsize=9)
    axes.set_yticks(range(len(rows)), rows, fontsize=9)
    axes.set_xlabel("looked at (key)", fontsize=9)
    axes.set_ylabel("looking (query)", fontsize=9)
    axes.set_title(title, fontsize=10, color=style.INK)
    figure.tight_layout()
    return figure


def saturation_figure(
    widths: Sequence[int], entropy: Mapping[str, Sequence], slope: Mapping[str, Sequence], keys: int
) -> Figure:
    """Draw entropy in bits and slope of the softmax against the width d, for products divided by its root or not."""
    figure, (left, right) = style.row(2, 3.0, bottom=0.5, top=0.4, left=0.6, gap=0.75)
    looks = ((style.QUERY, "-", "o"), (style.UNMATCHED, "--", "x"))
    for axes, curves, what in ((left, entropy, "entropy in bits"), (right, slope, "slope, sum of w(1 - w)")):
        for (name, values), (colour, line, marker) in zip(curves.items(), looks, strict=True):
            axes.plot(widths, values, color=colour, linestyle=line, marker=marker, label=name)
        axes.set_xscale("log", base=2)
        axes.set_xticks(widths, [str(width) for width in widths])
        axes.set_xlabel("width d of query and key", fontsize=9)
        axes.set_ylabel(what, fontsize=9)
        axes.set_ylim(bottom=0)
        style.tidy(axes)
    left.axhline(math.log2(keys), color=style.INK, linewidth=0.8, linestyle=":")
    left.text(widths[0], math.log2(keys) - 0.08, f"all {keys} keys alike", fontsize=8, va="top")
    left.set_ylim(0, math.log2(keys) * 1.12)
    left.set_title("Without the root, one key takes all", fontsize=10, color=style.INK)
    right.set_title("... and the softmax stops learning", fontsize=10, color=style.INK)
    right.set_ylim(0, 1.05)
    left.legend(fontsize=8, frameon=False, loc="center right")
    return figure


def heads_figure(image: Tensor, weights: Tensor, token: tuple[int, int], title: str) -> Figure:
    """Draw for each head its matrix (N, N), and below where the marked token (row, column) looks in the image.

    `image` is (3, H, W) uint8, `weights` (h, N, N) over a square grid of N tokens.
    """
    heads, tokens = weights.shape[:2]
    side = math.isqrt(tokens)
    figure = style.new_figure(style.PAGE_IN, 5.2)
    grid = figure.add_gridspec(2, heads, left=0.075, right=0.99, bottom=0.03, top=0.89, wspace=0.12, hspace=0.26)
    figure.suptitle(title, fontsize=10, color=style.INK)
    pixels, query = pixels_of(image), token[0] * side + token[1]
    cell = pixels.shape[0] / side
    for head in range(heads):
        above = figure.add_subplot(grid[0, head])
        above.imshow(weights[head].numpy(), cmap=style.HEAT, vmin=0, vmax=float(torch.quantile(weights, 0.995)))
        above.axhline(query, color="white", linewidth=0.8, linestyle="--")
        above.set_title(f"head {head}", fontsize=9, color=style.INK)
        above.set_xticks(range(0, tokens, 2 * side))
        above.set_yticks(range(0, tokens, 2 * side))
        above.set_xlabel("looked at: token", fontsize=8)
        above.tick_params(labelsize=8, labelleft=head == 0)
        below = figure.add_subplot(grid[1, head])
        draw_attention(below, pixels, weights[head, query].reshape(side, side), smooth=False)
        below.set_aspect("equal")
        corner = (token[1] * cell, token[0] * cell)
        below.add_patch(Rectangle(corner, cell, cell, fill=False, edgecolor=style.QUERY, linewidth=2))
        if head == 0:
            above.set_ylabel("looking: token", fontsize=8)
            below.set_ylabel("the dashed row, as a map", fontsize=8)
    return figure


def clock_figure(frequencies: Sequence[float], angles: Sequence[float]) -> Figure:
    """Draw each frequency as the hand of a dial, at every angle; the last place is the strongest."""
    figure, panels = style.row(len(frequencies), 2.4, bottom=0.05, top=0.75, left=0.15, gap=0.15, right=0.15)
    figure.suptitle("One place is one time on all dials; the slow ones tell far from near", fontsize=10)
    for hand, (axes, frequency) in enumerate(zip(panels, frequencies, strict=True)):
        axes.add_patch(Circle((0, 0), 1, fill=False, edgecolor=style.UNMATCHED, linewidth=0.8))
        for index, angle in enumerate(angles):
            tip, last = (math.sin(angle * frequency), math.cos(angle * frequency)), index == len(angles) - 1
            paint = style.QUERY if last else "#9FB7C9"
            axes.plot(*zip((0, 0), tip, strict=True), color=paint, linewidth=2 if last else 1)
            axes.text(1.17 * tip[0], 1.17 * tip[1], str(index), fontsize=8, ha="center", va="center")
            crowded = abs(frequency) * (angles[-1] - angles[0]) < 0.22 * (len(angles) - 1)
            axes.texts[-1].set_visible(last or index == 0 or not crowded)
        axes.set(xlim=(-1.35, 1.35), ylim=(-1.35, 1.35), aspect="equal")
        axes.axis("off")
        axes.set_title(f"hand {hand}\n{frequency:.3g} rad a step", fontsize=8.5, color=style.INK)
    return figure


def falloff_figure(shift: Sequence[float], curves: Mapping[str, Sequence[float]], title: str) -> Figure:
    """Draw how alike two places of a line are, against the distance between them."""
    figure, (axes,) = style.row(1, 3.0, bottom=0.5, top=0.4, left=0.65)
    looks = ((TOLD, "-"), (style.UNMATCHED, "--"), (LEAKED, ":"))
    for (name, values), (colour, line) in zip(curves.items(), looks, strict=False):
        axes.plot(shift, values, color=colour, linestyle=line, label=name)
    axes.axhline(0, color=style.INK, linewidth=0.8)
    axes.set_xlabel("distance between the two places, in steps", fontsize=9)
    axes.set_ylabel("dot product / (C/2)", fontsize=9)
    axes.set_title(title, fontsize=10, color=style.INK)
    style.tidy(axes)
    axes.legend(fontsize=8, frameon=False)
    return figure


def channels_figure(codes: Mapping[str, Tensor]) -> Figure:
    """Draw codes (cells, C) of one axis as heat maps, sines above cosines; a bar marks channels that hardly change."""
    figure, panels = style.row(len(codes), 3.8, bottom=0.5, top=0.6, left=0.85, gap=0.55, right=0.95)
    for axes, (name, each) in zip(panels, codes.items(), strict=True):
        cells, channels = each.shape
        ordered = torch.cat([each[:, ::2], each[:, 1::2]], dim=1)  # (cells, C): sines, then cosines
        drawn = axes.imshow(ordered.T.numpy(), cmap=SPREAD, vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
        axes.axhline(channels / 2 - 0.5, color=style.INK, linewidth=1)
        dead = ordered.std(dim=0, correction=0) < DEAD
        for channel in dead.nonzero()[:, 0].tolist():
            place = (cells - 0.2, channel - 0.5)
            axes.add_patch(Rectangle(place, 0.025 * cells, 1, color=style.INK, clip_on=False, linewidth=0))
        axes.set_title(f"{name}\n{int(dead.sum())} of {channels} channels hardly change", fontsize=9, color=style.INK)
        axes.set_xlabel("column of the grid", fontsize=9)
        hands = range(0, channels // 2, max(1, channels // 8))
        axes.set_yticks([*hands, *(channels // 2 + hand for hand in hands)], [str(hand) for hand in hands] * 2)
        axes.tick_params(labelsize=8)
    panels[0].set_ylabel("cosine of hand            sine of hand", fontsize=9)
    _scale(figure, drawn, "code")
    return figure


def scenes_figure(images: Tensor, moved: Tensor, answers: Sequence[str], twin_answers: Sequence[str]) -> Figure:
    """Draw scenes (B, 3, H, W) in 0..1, and below each its twin, with the toy that is further left."""
    figure = style.new_figure(style.PAGE_IN, 3.75)
    grid = figure.add_gridspec(2, len(images), left=0.075, right=0.99, bottom=0.02, top=0.92, wspace=0.06, hspace=0.2)
    for row, (pictures, said, name) in enumerate(((images, answers, "a scene"), (moved, twin_answers, "its twin"))):
        for column, (picture, answer) in enumerate(zip(pictures, said, strict=True)):
            axes = figure.add_subplot(grid[row, column])
            _draw_scene(axes, picture)
            axes.set_title(f"left: {answer}", fontsize=8.5, color=style.INK, pad=3)
            if column == 0:
                axes.set_ylabel(name, fontsize=9)
    return figure


def curves_figure(curves: Mapping[str, Sequence[Sequence[float]]], title: str) -> Figure:
    """Draw accuracy against training steps for each setting of the left-of experiment, with chance as a line."""
    figure, (axes,) = style.row(1, 3.5, bottom=0.5, top=0.4, left=0.65, right=1.75)
    for name, curve in curves.items():
        colour, line, marker = LINES[name]
        axes.plot(*zip(*curve, strict=True), color=colour, linestyle=line, marker=marker, markersize=5, label=name)
    axes.axhline(0.5, color=style.INK, linewidth=0.8)
    axes.set_ylim(0.45, 1.03)
    axes.set_xlabel("training steps of 64 scenes", fontsize=9)
    axes.set_ylabel("right answers, share", fontsize=9)
    axes.set_title(title, fontsize=10, color=style.INK)
    style.tidy(axes)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def accuracy_figure(accuracy: Mapping[str, Sequence[float]], title: str) -> Figure:
    """Draw the final accuracy of each setting and seed as a mark on a line, with chance."""
    figure, (axes,) = style.row(1, 2.9, bottom=0.5, top=0.4, left=1.55)
    for row, (name, values) in enumerate(accuracy.items()):
        colour, _, marker = LINES[name]
        apart = row + 0.16 * (np.arange(len(values)) - (len(values) - 1) / 2)  # seeds above each other
        axes.plot(values, apart, marker, color=colour, markersize=6, linestyle="none")
        axes.text(min(max(values) + 0.012, 1.02), row, f"{np.mean(values):.3f}", fontsize=8, va="center")
    axes.axvline(0.5, color=style.INK, linewidth=0.8)
    axes.text(0.497, -0.75, "chance", fontsize=8, ha="right", va="center")
    axes.set_yticks(range(len(accuracy)), list(accuracy), fontsize=9)
    axes.set(xlim=(0.42, 1.05), ylim=(len(accuracy) - 0.5, -1.1))
    axes.set_xlabel("right answers, share; a mark for each seed, their mean beside it", fontsize=9)
    axes.set_title(title, fontsize=10, color=style.INK)
    style.tidy(axes)
    return figure


def looks_figure(images: Tensor, maps: Mapping[str, Tensor]) -> Figure:
    """Draw scenes (B, 3, H, W) in 0..1, and below them, for each model, where its query looks (B, gh, gw)."""
    rows = 1 + len(maps)
    figure = style.new_figure(style.PAGE_IN, 0.3 + 1.5 * rows)
    grid = figure.add_gridspec(
        rows, len(images), left=0.075, right=0.99, bottom=0.02, top=0.97, wspace=0.06, hspace=0.06
    )
    for column, image in enumerate(images):
        axes = figure.add_subplot(grid[0, column])
        _draw_scene(axes, image)
        if column == 0:
            axes.set_ylabel("scene", fontsize=9)
        for row, (name, weights) in enumerate(maps.items(), start=1):
            axes = figure.add_subplot(grid[row, column])
            draw_attention(axes, _bytes(image), weights[column], smooth=False)
            axes.set_aspect("equal")
            if column == 0:
                axes.set_ylabel(name, fontsize=9)
    return figure


def _bytes(image: Tensor) -> np.ndarray:
    """A picture (3, H, W) in about 0..1 as (H, W, 3) uint8."""
    return (255 * image.clamp(0, 1)).round().byte().permute(1, 2, 0).numpy()


def _draw_scene(axes: Axes, image: Tensor) -> None:
    show_pixels(axes, _bytes(image))
    axes.set_aspect("equal")


def _scale(figure: Figure, drawn: AxesImage, title: str) -> None:
    """A colour scale at the right rim, as high as the axes."""
    place = drawn.axes.get_position()
    scale = figure.colorbar(
        drawn, cax=figure.add_axes((1 - 0.7 / style.PAGE_IN, place.y0, 0.13 / style.PAGE_IN, place.height))
    )
    scale.ax.set_title(title, fontsize=8, pad=4)
    scale.ax.tick_params(labelsize=8)
