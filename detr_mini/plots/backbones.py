"""Figures of data and backbones: contact sheets, statistics, padded batches, receptive fields, feature maps.

`reach` is the pure function behind the receptive field: kernels, strides and dilations in, pixels out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator, PercentFormatter
from torch import Tensor

from detr_mini.plots import style
from detr_mini.plots.detections import draw_box, pixels_of, show_pixels

# B images · T boxes · C channels · H, W image in px · h, w cells of the feature map

MARKS = (("-", "o", style.QUERY), ("--", "s", style.OBJECT), (":", "^", style.UNMATCHED), ("-.", "D", style.MATCHED))
PAPER = {"boxstyle": "square,pad=0.12", "facecolor": "white", "edgecolor": style.OBJECT, "linewidth": 0.8}
QUANTILES = (0.02, 0.98)  # of a principal component, stretched over one colour channel


@dataclass(frozen=True)
class Reach:
    """What one cell of a feature map sees: its receptive field and the step to the next cell, both in px."""

    field: int
    stride: int


def reach(layers: Sequence[tuple[int, int, int]]) -> Reach:
    """The reach of convolutions or poolings given as (kernel, stride, dilation), first layer first."""
    field, stride = 1, 1
    for kernel, step, dilation in layers:
        field += (kernel - 1) * dilation * stride
        stride *= step
    return Reach(field, stride)


def sheet(
    images: Sequence[Tensor],
    boxes_xyxy_px: Sequence[Tensor | np.ndarray],
    words: Sequence[Sequence[str]] | None = None,
    titles: Sequence[str] | None = None,
    columns: int = 4,
    title: str = "",
) -> Figure:
    """Draw images (3, H, W) uint8 of any sizes in a grid, at one scale a row, with boxes (T, 4) and a word at each."""
    rows = -(-len(images) // columns)
    aspect = max(image.shape[1] / image.shape[2] for image in images)
    figure = style.new_figure(9, rows * (9 / columns * min(aspect, 1.45) + (0.28 if titles else 0.1)) + 0.4)
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for index, axes in enumerate(grid):
        if index >= len(images):
            axes.set_axis_off()
            continue
        pixels = pixels_of(images[index])
        show_pixels(axes, pixels)
        axes.set_aspect("equal")
        for number, box in enumerate(boxes_xyxy_px[index]):
            draw_box(axes, box, style.OBJECT, "--")
            if words:
                _word(axes, box, words[index][number], pixels.shape[0])
        if titles:
            axes.set_title(titles[index], fontsize=9, color=style.INK, pad=3)
    figure.suptitle(title, fontsize=11, color=style.INK)
    figure.tight_layout(pad=0.4, h_pad=0.5, w_pad=0.4)
    return figure


def _word(axes, box: Tensor | np.ndarray, word: str, height: int) -> None:
    """Write at the upper left corner of a box, above it where there is room."""
    x1, y1, _, _ = (float(side) for side in box)
    above = y1 > 0.12 * height
    place = {"ha": "left", "va": "bottom" if above else "top", "fontsize": 8, "color": style.INK, "bbox": PAPER}
    axes.text(max(x1, 0), y1 - 0.01 * height if above else y1 + 0.01 * height, word, clip_on=True, **place)


def hardness_figure(
    sides_px: Tensor, edges_px: tuple[float, float], recall: Mapping[str, Mapping[str, tuple]]
) -> Figure:
    """Draw how large objects are (root of box area, px), and beside it how many of each kind a model found.

    `recall` maps a heading to {kind: (found, all)}.
    """
    figure = style.new_figure(9, 3.1)
    left, *others = figure.subplots(1, 1 + len(recall), gridspec_kw={"width_ratios": [1.35] + [1] * len(recall)})
    left.hist(sides_px.numpy(), bins=np.arange(2, float(sides_px.max()) + 3, 2), color=style.OBJECT, edgecolor="white")
    left.set_ylim(0, left.get_ylim()[1] * 1.12)
    middles = (edges_px[0] / 2, sum(edges_px) / 2, (edges_px[1] + float(sides_px.max())) / 2)
    for place, word in zip(middles, ("small", "medium", "large"), strict=True):
        left.text(place, left.get_ylim()[1] * 0.97, word, fontsize=8, color=style.INK, ha="center", va="top")
    for edge in edges_px:
        left.axvline(edge, color=style.UNMATCHED, linestyle="--")
    left.set_xlabel("root of the box's area, px", fontsize=9)
    left.set_ylabel("objects", fontsize=9)
    left.set_title(f"Half of the objects are under {sides_px.median():.0f} px", fontsize=10, color=style.INK)
    for axes, (heading, kinds) in zip(others, recall.items(), strict=True):
        shares = [found / total for found, total in kinds.values()]
        axes.bar(range(len(kinds)), shares, color=style.MATCHED, edgecolor=style.INK, hatch="//", width=0.62)
        for place, (found, total) in enumerate(kinds.values()):
            axes.text(place, found / total + 0.02, f"{found / total:.0%}", ha="center", fontsize=9)
        names = [f"{kind}\nof {total}" for kind, (_, total) in kinds.items()]
        axes.set_xticks(range(len(kinds)), names, fontsize=8)
        axes.set(ylim=(0, 1.12))
        axes.set_yticks((0, 0.5, 1), ("0", "50 %", "100 %"), fontsize=8)
        axes.set_title(heading, fontsize=10, color=style.INK)
    others[0].set_ylabel("found by toybox-mini", fontsize=9)
    left.tick_params(labelsize=8)
    figure.tight_layout()
    return figure


def batch_figure(images: Tensor, padding: Tensor, title: str) -> Figure:
    """Draw a batch (B, 3, H, W) uint8, above, and its padding (B, H, W), below, hatched where no image is."""
    count, _, height, width = images.shape
    figure = style.new_figure(9, 2 * (9 / count) * height / width + 0.75)
    for row, shown in zip(figure.subplots(2, count), (images, padding), strict=True):
        for index, axes in enumerate(row):
            if shown is images:
                show_pixels(axes, pixels_of(images[index]))
                valid = ~padding[index]
                axes.set_title(f"{int(valid[:, 0].sum())} x {int(valid[0].sum())} px", fontsize=9, pad=3)
            else:
                show_pixels(axes, np.where(padding[index].numpy(), 210, 255), cmap="gray", vmin=0, vmax=255)
                if padding[index].any():
                    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
                    amount = padding[index].float().numpy()
                    axes.contourf(x, y, amount, levels=[0.5, 1.5], hatches=["///"], colors="none")
            axes.set_aspect("equal")
    figure.axes[0].set_ylabel("image", fontsize=9)
    figure.axes[count].set_ylabel("padding (hatched)", fontsize=9)
    figure.suptitle(title, fontsize=11, color=style.INK)
    figure.tight_layout(pad=0.4)
    return figure


def leak_figure(changes: Mapping[str, Sequence[float]], title: str) -> Figure:
    """Draw how much each column of cells changes through padding, against its place in the image, 0..1."""
    figure = style.new_figure(9, 3.2)
    axes = figure.add_subplot()
    for (name, values), (dash, marker, colour) in zip(changes.items(), MARKS, strict=False):
        places = (np.arange(len(values)) + 0.5) / len(values)
        axes.plot(places, values, dash, marker=marker, color=colour, label=name, markersize=5)
    axes.axvline(1, color=style.INK, linewidth=2)
    axes.text(0.995, 0.5, "padding begins", rotation=90, fontsize=8, ha="right", va="center", transform=axes.transAxes)
    axes.set(xlim=(0, 1.02))
    axes.set_xlabel("place in the image, from its left to its right border", fontsize=9)
    axes.set_ylabel("change / standard deviation", fontsize=9)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=8, loc="upper left")
    axes.set_title(title, fontsize=11, color=style.INK)
    figure.tight_layout()
    return figure


def field_figure(fields: Mapping[str, Tensor], title: str) -> Figure:
    """Draw, for each network, the gradient (H, W) of one cell by the image's pixels, with its outermost box."""
    figure = style.new_figure(9, 9 / len(fields) + 0.75)
    for axes, (name, gradient) in zip(figure.subplots(1, len(fields)), fields.items(), strict=True):
        strength = (gradient / gradient.max()).sqrt().numpy()
        show_pixels(axes, strength, cmap=style.HEAT, vmin=0, vmax=1)
        axes.set_aspect("equal")
        for share, colour, dash in ((1.0, style.OBJECT, "--"), (0.9, style.QUERY, "-")):
            low, high = middle(gradient, share)
            draw_box(axes, np.array([low, low, high, high]), colour, dash)
        low, high = middle(gradient, 1.0)
        inner = middle(gradient, 0.9)
        axes.set_title(name, fontsize=10, color=style.INK)
        axes.set_xlabel(f"dashed: all, {high - low} px; solid: 90 %, {inner[1] - inner[0]} px", fontsize=9)
    figure.suptitle(title, fontsize=11, color=style.INK)
    figure.tight_layout(pad=0.6)
    return figure


def middle(gradient: Tensor, share: float) -> tuple[int, int]:
    """First and one past the last column (px) of the narrowest middle span that holds `share` of a gradient (H, W)."""
    columns = gradient.double().sum(0)
    low, high = (int(columns.nonzero()[place]) for place in (0, -1))
    total = columns.sum()
    while share < 1 and low < high:
        left_out = (low + 1, high) if columns[low] <= columns[high] else (low, high - 1)
        if columns[left_out[0] : left_out[1] + 1].sum() < share * total:
            break
        low, high = left_out
    return low, high + 1


def spread_figure(ratios: Mapping[str, Tensor], title: str) -> Figure:
    """Draw, for each number of images, one dot a channel and batch: measured deviation over the long-run one."""
    figure = style.new_figure(9, 3.1)
    axes = figure.add_subplot()
    generator, names = np.random.default_rng(0), []
    for place, values in enumerate(ratios.values()):
        flat = values.flatten().numpy()
        aside = place + generator.uniform(-0.28, 0.28, len(flat))
        axes.plot(aside, flat, ".", color=style.QUERY, markersize=3, alpha=0.6)
        low, high = np.quantile(flat, (0.05, 0.95))
        axes.plot([place - 0.36, place + 0.36] * 2, [low, low, high, high], "_", color=style.INK, markersize=14)
        names.append(f"{list(ratios)[place]}\nnine of ten: {low:.2f} to {high:.2f}")
    axes.axhline(1, color=style.OBJECT, linestyle="--", linewidth=2, label="frozen: the long-run deviation")
    axes.set_yscale("log", base=2)
    axes.set_yticks((0.25, 0.5, 1, 2), ("1/4", "1/2", "1", "2"), fontsize=8)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(range(len(ratios)), names, fontsize=9)
    axes.set(xlim=(-0.5, len(ratios) - 0.5))
    axes.set_ylabel("deviation of a channel,\nmeasured / long-run", fontsize=9)
    axes.legend(fontsize=8, loc="lower right")
    axes.set_title(title, fontsize=11, color=style.INK)
    figure.tight_layout()
    return figure


def pca_rgb(features: Tensor) -> np.ndarray:
    """The three strongest directions in which the cells of (C, h, w) differ, as (h, w, 3) in 0..1.

    Each component's sign is the one that makes its largest weight positive, so that colours do not flip.
    """
    channels, height, width = features.shape
    cells = features.double().reshape(channels, -1).T  # (C, h, w) -> (hw, C)
    cells = cells - cells.mean(0)
    _, _, directions = torch.linalg.svd(cells, full_matrices=False)
    directions = directions[:3]
    signs = directions.gather(1, directions.abs().argmax(1, keepdim=True)).sign()
    parts = cells @ (directions * signs).T  # (hw, 3)
    low, high = torch.quantile(parts, torch.tensor(QUANTILES, dtype=torch.float64), dim=0)
    return ((parts - low) / (high - low)).clamp(0, 1).reshape(height, width, 3).numpy()


def features_figure(image: Tensor, maps: Mapping[str, Tensor], title: str, columns: int = 3) -> Figure:
    """Draw the image (3, H, W) uint8 and, for each name, a feature map (C, h, w) with its cells coloured by PCA."""
    _, height, width = image.shape
    count = 1 + len(maps)
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = style.new_figure(9, rows * (9 / columns * height / width + 0.25) + 0.4)
    for index, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        if index >= count:
            axes.set_axis_off()
            continue
        if index == 0:
            show_pixels(axes, pixels_of(image))
            name = f"the image, {height} x {width} px"
        else:
            name, features = list(maps.items())[index - 1]
            show_pixels(axes, pca_rgb(features), (height, width), interpolation="nearest")
        axes.set_aspect("equal")
        axes.set_title(name, fontsize=9, color=style.INK, pad=3)
    figure.suptitle(title, fontsize=11, color=style.INK)
    figure.tight_layout(pad=0.4)
    return figure


def likeness_figure(image: Tensor, maps: Mapping[str, Tensor], cell: tuple[int, int], title: str) -> Figure:
    """Draw the image (3, H, W) uint8 and how alike (cosine) the cells of its maps (C, h, w) are to one, boxed."""
    _, height, width = image.shape
    figure = style.new_figure(9, 8.2 / (1 + len(maps)) * height / width + 0.65)
    first, *grid = figure.subplots(1, 1 + len(maps))
    show_pixels(first, pixels_of(image).mean(2), cmap="gray", vmin=0, vmax=255)  # colours are the maps'
    first.set_title("the image", fontsize=10, color=style.INK, pad=3)
    for axes, (name, features) in zip(grid, maps.items(), strict=True):
        alike = likeness(features, cell)
        h, w = alike.shape
        drawn = show_pixels(
            axes, alike.numpy(), (height, width), cmap=style.HEAT, vmin=0, vmax=1, interpolation="nearest"
        )
        axes.set_title(name, fontsize=10, color=style.INK, pad=3)
    y, x = cell[0] * height / h, cell[1] * width / w
    for axes in (first, *grid):
        draw_box(axes, np.array([x, y, x + width / w, y + height / h]), style.QUERY)
        axes.set_aspect("equal")
    figure.suptitle(title, fontsize=11, color=style.INK)
    figure.tight_layout(pad=0.4, rect=(0, 0, 0.92, 1))
    place = grid[-1].get_position()
    scale = figure.colorbar(drawn, cax=figure.add_axes((0.93, place.y0, 0.012, place.height)))
    scale.set_label("cosine", fontsize=8)
    scale.ax.tick_params(labelsize=8)
    return figure


def likeness(features: Tensor, cell: tuple[int, int]) -> Tensor:
    """Cosine (h, w) of every cell of (C, h, w) with the cell (row, column), the mean cell taken off."""
    away = features - features.mean((1, 2), keepdim=True)
    away = away / away.norm(dim=0).clamp(min=1e-12)
    return (away * away[:, cell[0], cell[1], None, None]).sum(0)
