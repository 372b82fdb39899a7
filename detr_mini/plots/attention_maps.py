"""Notebook 11: from attention to maps, their numbers, and the figures of where queries and tokens look."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from detr_mini.detection import Detections, Picture
from detr_mini.detr import Attention
from detr_mini.plots import style
from detr_mini.plots.detections import draw_attention, pixels_of, show_pixels
from detr_mini.plots.style import draw_box

# L layers · B images · h heads · Q queries · gh, gw feature map · H, W image in px

OTHER = "#CC79A7"  # the other object of the same class


@dataclass(frozen=True)
class View:
    """Where one query or one token looks, in one layer, one head or the mean of all."""

    weights: Tensor  # (gh, gw), sum 1
    entropy_bits: float  # 0: all on one token; log2(gh gw): all alike
    peak: tuple[int, int]  # row and column of the largest weight
    peak_share: float  # 0..1, that weight
    share_in_box: float | None  # 0..1, of the attention in the box that was asked about


def explore(
    attention: Attention,
    *,
    query: int | None = None,
    token: tuple[int, int] | None = None,
    layer: int = -1,
    head: int | None = None,
    image: int = 0,
    box_xyxy_px: Sequence[float] | Tensor | None = None,
    grid_px: tuple[float, float] | None = None,
) -> View:
    """What a `query` takes from the image (decoder), or a `token` (row, column) from the others (encoder).

    `head` None is the mean of the heads. With a box and the `grid_px` of `detections.token_grid_px` the view says
    which share of the attention lies in it. Raises ValueError unless exactly one of query and token is given, or
    where a token lies outside the feature map.
    """
    height, width = attention.feature_size
    if (query is None) == (token is None):
        raise ValueError(f"query {query}, token {token}: give one of the two")
    if token is None:
        weights = attention.decoder[layer, image, :, query]  # (h, HW)
    else:
        row, column = token
        if not (0 <= row < height and 0 <= column < width):
            raise ValueError(f"token {token} outside a feature map of {height} x {width} (rows, columns)")
        weights = attention.encoder[layer, image, :, row * width + column]  # (h, HW)
    weights = weights.float().mean(0) if head is None else weights[head].float()
    weights = weights.cpu().reshape(height, width)
    peak = int(weights.argmax())
    inside = None
    if box_xyxy_px is not None:
        inside = float((weights * box_coverage(box_xyxy_px, (height, width), grid_px)).sum())
    bits = float(entropy_bits(weights.flatten().double()))
    return View(weights, bits, divmod(peak, width), float(weights.max()), inside)


def token_at(x_px: float, y_px: float, feature_size: tuple[int, int], grid_px: tuple[float, float]) -> tuple[int, int]:
    """Row and column of the token whose patch holds a point of the image."""
    (rows, columns), (height, width) = feature_size, grid_px
    return min(int(y_px / height * rows), rows - 1), min(int(x_px / width * columns), columns - 1)


def patch_px(
    token: tuple[int, int],
    feature_size: tuple[int, int],
    grid_px: tuple[float, float],
    image_size: tuple[int, int] | None = None,
) -> tuple[float, float, float, float]:
    """The corners (x1, y1, x2, y2) of a token's patch; with `image_size` (H, W) px cut at the image's border."""
    (row, column), high, wide = token, grid_px[0] / feature_size[0], grid_px[1] / feature_size[1]
    box = column * wide, row * high, (column + 1) * wide, (row + 1) * high
    if image_size is None:
        return box
    height, width = image_size
    x1, y1, x2, y2 = (min(side, most) for side, most in zip(box, (width, height) * 2, strict=True))
    return x1, y1, x2, y2


def entropy_bits(weights: Tensor) -> Tensor:
    """Entropy in bits over the last axis, whose weights sum to 1."""
    return torch.special.entr(weights).sum(-1) / np.log(2)


def coverage(region: np.ndarray, stride: int) -> Tensor:
    """The share of each token's patch (gh, gw) that lies in a region (..., H, W) of the image, True or False.

    Where a side is no multiple of the stride, the last patches reach beyond the image, and their share is of what
    lies in it.
    """
    height, width = region.shape[-2:]
    spare = [(0, 0)] * (region.ndim - 2) + [(0, -height % stride), (0, -width % stride)]

    def sums(values: np.ndarray) -> np.ndarray:
        values = np.pad(values.astype(float), spare[-values.ndim :])
        rows, columns = (side // stride for side in values.shape[-2:])
        return values.reshape(*values.shape[:-2], rows, stride, columns, stride).sum((-3, -1))

    return torch.from_numpy(sums(region) / sums(np.ones((height, width)))).float()


def box_coverage(
    box_xyxy_px: Sequence[float] | Tensor, feature_size: tuple[int, int], grid_px: tuple[float, float] | None
) -> Tensor:
    """The share of each token's patch (gh, gw) that a box covers; `grid_px` as in `explore`."""
    if grid_px is None:
        raise ValueError("a box needs grid_px, the pixels that the tokens cover: detections.token_grid_px")
    x1, y1, x2, y2 = (float(side) for side in box_xyxy_px)
    sides = []
    for cells, length, low, high in zip(feature_size, grid_px, (y1, x1), (y2, x2), strict=True):
        edges = torch.arange(cells + 1) * (length / cells)
        overlap = edges[1:].clamp(max=high) - edges[:-1].clamp(min=low)
        sides.append(overlap.clamp(min=0) * cells / length)
    return sides[0][:, None] * sides[1]


def in_box_frame(weights: Tensor, box_xyxy_px: Sequence[float] | Tensor, stride: int, cells: int = 12) -> Tensor:
    """Maps (..., gh, gw) as seen from a box: density on cells x cells points over twice its sides, its box the middle.

    The density is relative to a map that is the same everywhere: 1 is chance. Points outside the image are NaN.
    """
    height, width = weights.shape[-2:]
    x1, y1, x2, y2 = (float(side) for side in box_xyxy_px)
    steps = (np.arange(cells) + 0.5) / cells * 2 - 0.5  # 0..1 is the box
    columns = np.floor((x1 + steps * (x2 - x1)) / stride).astype(int)
    rows = np.floor((y1 + steps * (y2 - y1)) / stride).astype(int)
    seen = weights[..., rows.clip(0, height - 1)[:, None], columns.clip(0, width - 1)] * height * width
    beyond = ((rows < 0) | (rows >= height))[:, None] | ((columns < 0) | (columns >= width))
    return seen.masked_fill(torch.from_numpy(beyond), float("nan"))


def planted_figure(
    images: Sequence[Picture],
    maps: Sequence[Tensor],
    grids_px: Sequence[tuple[float, float]],
    titles: Sequence[str],
) -> Figure:
    """Draw maps (gh, gw) over images of any shape, with the borders of all patches."""
    figure, panels = style.row(len(images), 3.1, bottom=0.3, top=0.45, left=0.3, gap=0.4, right=0.15)
    drawn = zip(panels, images, maps, grids_px, titles, strict=True)
    for axes, image, weights, (height, width), title in drawn:
        pixels = pixels_of(image)
        draw_attention(axes, pixels, weights, smooth=False, grid_px=(height, width))
        rows, columns = weights.shape
        for edge in np.arange(rows + 1) * height / rows:
            axes.axhline(edge, color="white", linewidth=0.4)
        for edge in np.arange(columns + 1) * width / columns:
            axes.axvline(edge, color="white", linewidth=0.4)
        axes.set_aspect("equal")
        axes.set_xticks([0, pixels.shape[1]])
        axes.set_yticks([0, pixels.shape[0]])
        axes.tick_params(labelsize=8)
        axes.set_title(title, fontsize=9, color=style.INK)
    return figure


def eye_figure(seen: Tensor, token: tuple[int, int], stride: int) -> Figure:
    """Draw how much each pixel (H, W) moves one token's features, with the token's patch and the centre of it all."""
    figure, (axes, scale) = style.row(2, 3.4, bottom=0.45, top=0.4, left=0.6, gap=0.75)
    share = (seen / seen.sum()).numpy()
    drawn = axes.imshow(100 * share, cmap=style.HEAT, extent=(0, share.shape[1], share.shape[0], 0))
    x1, y1, x2, y2 = patch_px(token, (1, 1), (stride, stride))
    draw_box(axes, (x1, y1, x2, y2), style.QUERY)
    y, x = ((share.sum(axis) * (np.arange(share.shape[1 - axis]) + 0.5)).sum() for axis in (1, 0))
    axes.plot(x, y, marker="+", color=style.MATCHED, markersize=13, markeredgewidth=2.5)
    axes.set_title("How much each pixel moves one token", fontsize=10, color=style.INK)
    axes.set_xlabel("x in px", fontsize=9)
    axes.set_ylabel("y in px", fontsize=9)
    axes.tick_params(labelsize=8)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.9).ax
    bar.set_title("%", fontsize=8)
    bar.tick_params(labelsize=8)
    along = np.arange(share.shape[1]) + 0.5
    scale.plot(along, 100 * share.sum(0), color=style.UNMATCHED)
    scale.axvspan(x1, x2, color=style.QUERY, alpha=0.2)
    scale.text(x2 + 1, 100 * share.sum(0).max(), "the token's patch", color=style.QUERY, fontsize=8, va="top")
    scale.axvline(x, color=style.MATCHED, linestyle="--")
    scale.text(x - 2, 100 * share.sum(0).max(), "centre", color=style.MATCHED, fontsize=8, ha="right", va="top")
    scale.set_xlabel("x in px", fontsize=9)
    scale.set_ylabel("per cent of a column", fontsize=9)
    scale.set_title("Its centre is near the corner of the patch", fontsize=10, color=style.INK)
    style.tidy(scale)
    return figure


def table_figure(
    image: Picture,
    attention: Attention,
    query: int,
    box_xyxy_px: Tensor,
    title: str,
    grid_px: tuple[float, float] | None = None,
) -> Figure:
    """Draw one detection's maps, a row for each decoder layer, a column for each head and one for their mean.

    On each map its entropy in bits, and the largest weight in per cent: every map has its own scale.
    """
    layers, _, heads = attention.decoder.shape[:3]
    pixels = pixels_of(image)
    aspect = pixels.shape[0] / pixels.shape[1]
    side = (style.PAGE_IN - 0.8) / (heads + 1) - 0.08
    figure = style.new_figure(style.PAGE_IN, 0.65 + layers * (side * aspect + 0.25))
    grid = figure.add_gridspec(
        layers,
        heads + 1,
        left=0.06,
        right=0.995,
        bottom=0.01,
        top=1 - 0.62 / figure.get_figheight(),
        wspace=0.05,
        hspace=0.2,
    )
    figure.suptitle(title, fontsize=10, color=style.INK)
    for layer in range(layers):
        for column in range(heads + 1):
            head = None if column == heads else column
            view = explore(attention, query=query, layer=layer, head=head)
            axes = figure.add_subplot(grid[layer, column])
            draw_attention(axes, pixels, view.weights, smooth=False, grid_px=grid_px)
            axes.set_aspect("equal")
            draw_box(axes, box_xyxy_px, style.QUERY, width=1.5)
            name = ("mean of heads" if head is None else f"head {head}") + "\n" if layer == 0 else ""
            axes.set_title(f"{name}{view.entropy_bits:.1f} bits, {view.peak_share:.0%}", fontsize=8, pad=2)
            if column == 0:
                axes.set_ylabel(f"layer {layer}", fontsize=9)
    return figure


def riddle_figure(image: Picture, found: Detections, maps: Sequence[Tensor], letters: str) -> Figure:
    """Draw the detections' boxes with letters, and beside them maps (gh, gw) on black, numbered and without boxes."""
    figure, (scene, *panels) = style.row(1 + len(maps), 2.45, bottom=0.1, top=0.35, left=0.1, gap=0.15, right=0.1)
    show_pixels(scene, pixels_of(image))
    for letter, name, box in zip(letters, found.names, found.boxes_xyxy_px, strict=True):
        draw_box(scene, box, style.QUERY)
        x1, y1 = (float(side) for side in box[:2])
        paper = {"boxstyle": "square,pad=0.15", "facecolor": style.QUERY, "edgecolor": "white", "linewidth": 0.6}
        scene.text(x1 + 2, max(y1, 5), f"{letter} {name}", fontsize=8, color="white", va="center", bbox=paper)
    scene.set_title("The detections", fontsize=9, color=style.INK)
    for number, (axes, weights) in enumerate(zip(panels, maps, strict=True), start=1):
        axes.imshow(weights.numpy(), cmap=style.HEAT, vmin=0)
        axes.set(xticks=[], yticks=[])
        axes.set_title(f"Map {number}", fontsize=9, color=style.INK)
    return figure


def regions_figure(shares: Mapping[str, Sequence[float]], chance: Mapping[str, float], title: str) -> Figure:
    """Draw by layer how many times more attention a region gets than its area's share, 1 being chance."""
    figure, (axes,) = style.row(1, 3.2, bottom=0.5, top=0.35, left=0.65, right=2.6)
    looks = ((style.QUERY, "-", "o"), (style.MATCHED, "--", "s"), (style.OBJECT, "-.", "^"), (OTHER, ":", "D"))
    looks += ((style.UNMATCHED, (0, (5, 1, 1, 1, 1, 1)), "x"),)
    for (name, values), (colour, line, marker) in zip(shares.items(), looks, strict=False):
        times = np.asarray(values) / chance[name]
        axes.plot(range(len(times)), times, color=colour, linestyle=line, marker=marker, label=name)
    axes.axhline(1, color=style.INK, linewidth=0.8, linestyle=":")
    axes.text(0, 1.03, "chance: its share of the area", fontsize=8, va="bottom")
    axes.set_yscale("log")
    axes.set_yticks([0.5, 1, 2, 4, 8], ["0.5", "1", "2", "4", "8"])
    axes.minorticks_off()
    axes.set_xticks(range(len(next(iter(shares.values())))))
    axes.set_xlabel("decoder layer", fontsize=9)
    axes.set_ylabel("attention / share of the area", fontsize=9)
    axes.set_title(title, fontsize=10, color=style.INK)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
    style.tidy(axes)
    return figure


def frame_figure(frames: Tensor, title: str) -> Figure:
    """Draw mean maps (L, h, n, n) of `in_box_frame`, relative to chance, with the box in their middle."""
    layers, heads, cells, _ = frames.shape
    figure = style.new_figure(style.PAGE_IN, 0.65 + 1.5 * layers)
    top = 1 - 0.55 / figure.get_figheight()
    grid = figure.add_gridspec(layers, heads, left=0.17, right=0.83, bottom=0.01, top=top, wspace=0.06, hspace=0.06)
    figure.suptitle(title, fontsize=10, color=style.INK)
    for layer in range(layers):
        for head in range(heads):
            axes = figure.add_subplot(grid[layer, head])
            seen = frames[layer, head].numpy()
            drawn = axes.imshow(seen, cmap=style.HEAT, vmin=0, vmax=float(frames.max()), extent=(-0.5, 1.5, 1.5, -0.5))
            draw_box(axes, (0, 0, 1, 1), style.QUERY, width=1.5)
            axes.set(xticks=[], yticks=[])
            if layer == 0:
                axes.set_title(f"head {head}", fontsize=9, color=style.INK)
            if head == 0:
                axes.set_ylabel(f"layer {layer}", fontsize=9)
    scale = figure.colorbar(drawn, cax=figure.add_axes((0.86, 0.1, 0.018, 0.7)))
    scale.ax.tick_params(labelsize=8)
    scale.ax.set_title("times\nchance", fontsize=8)
    return figure


def entropy_figure(decoder: Tensor, encoder: Tensor, most_bits: float) -> Figure:
    """Draw the mean entropy in bits of each layer and head, (L, h) of the decoder and of the encoder."""
    figure, panels = style.row(2, 3.0, bottom=0.5, top=0.4, left=0.6, gap=0.5)
    markers = "os^Dv<>p"
    for axes, values, what in zip(panels, (encoder, decoder), ("Encoder", "Decoder"), strict=True):
        layers = np.arange(len(values))
        for head in range(values.shape[1]):
            look = {"linestyle": "none", "marker": markers[head % 8], "markersize": 7}
            axes.plot(layers + 0.09 * (head - 1.5), values[:, head], color=style.QUERY, label=f"head {head}", **look)
        axes.plot(layers, values.mean(1), color=style.UNMATCHED, linestyle="--", label="mean of the heads' bits")
        axes.axhline(most_bits, color=style.INK, linewidth=0.8, linestyle=":")
        axes.text(-0.4, most_bits + 0.1, "all tokens alike", fontsize=8, va="bottom")
        axes.set_ylim(0, most_bits + 1)
        axes.set_xlim(-0.5, len(layers) - 0.5)
        axes.set_xticks(layers)
        axes.set_xlabel(f"{what.lower()} layer", fontsize=9)
        style.tidy(axes)
    panels[0].set_ylabel("entropy in bits", fontsize=9)
    panels[0].set_title("The encoder's tokens look around widely", fontsize=10, color=style.INK)
    panels[1].set_title("... the decoder's detections at few tokens", fontsize=10, color=style.INK)
    panels[0].legend(fontsize=8, frameon=False, loc="lower left", ncols=2)
    return figure


def points_figure(
    image: Picture, masks: np.ndarray, attention: Attention, tokens: Sequence[tuple[int, int]], stride: int, title: str
) -> Figure:
    """Draw the encoder's attention from chosen tokens (row, column), a row for each layer, mean of the heads.

    The outlines of the objects' masks (T, H, W) are drawn over each map.
    """
    pixels, layers = pixels_of(image), len(attention.encoder)
    side = 1.65
    figure = style.new_figure(style.PAGE_IN, 0.65 + layers * (side + 0.1))
    top = 1 - 0.62 / figure.get_figheight()
    columns = 1 + len(tokens)
    grid = figure.add_gridspec(layers, columns, left=0.01, right=0.99, bottom=0.02, top=top, wspace=0.2, hspace=0.08)
    figure.suptitle(title, fontsize=10, color=style.INK)
    scene = figure.add_subplot(grid[0, 0])
    show_pixels(scene, pixels)
    scene.set_aspect("equal")
    for number, (row, column) in enumerate(tokens, start=1):
        place = (column + 0.5) * stride, (row + 0.5) * stride
        scene.text(*place, number, fontsize=10, ha="center", va="center", color=style.QUERY, path_effects=style.SEAM)
    scene.set_title("the points", fontsize=9, color=style.INK)
    for layer in range(layers):
        for number, (row, column) in enumerate(tokens, start=1):
            axes = figure.add_subplot(grid[layer, number])
            draw_attention(axes, pixels, explore(attention, token=(row, column), layer=layer).weights, smooth=False)
            axes.set_aspect("equal")
            _outline(axes, masks)
            corner = column * stride, row * stride
            draw_box(axes, (*corner, corner[0] + stride, corner[1] + stride), style.QUERY, width=1.5)
            if layer == 0:
                axes.set_title(f"from point {number}", fontsize=9, color=style.INK)
            if number == 1:
                axes.set_ylabel(f"layer {layer}", fontsize=9, labelpad=2)
    return figure


def distance_figure(curves: Sequence[Mapping[str, Sequence[float]]], middles: Sequence[float]) -> Figure:
    """Draw for each encoder layer the attention to a token, relative to chance, against its distance in tokens."""
    figure, panels = style.row(len(curves), 3.2, bottom=0.5, top=0.4, left=0.6, gap=0.5)
    looks = ((style.MATCHED, "-", "o"), (OTHER, "--", "s"), (style.UNMATCHED, ":", "x"))
    for layer, (axes, lines) in enumerate(zip(panels, curves, strict=True)):
        for (name, values), (colour, line, marker) in zip(lines.items(), looks, strict=True):
            axes.plot(middles, values, color=colour, linestyle=line, marker=marker, label=name)
        axes.axhline(1, color=style.INK, linewidth=0.8, linestyle=":")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("distance in tokens", fontsize=9)
        axes.set_title(f"Encoder layer {layer}", fontsize=10, color=style.INK)
        style.tidy(axes)
    panels[0].set_ylabel("attention a token, times chance", fontsize=9)
    panels[0].legend(fontsize=8, frameon=False, title="the other token lies on", title_fontsize=8)
    return figure


def covers_figure(images: Sequence[Tensor], box_xyxy_px: Tensor, titles: Sequence[str]) -> Figure:
    """Draw copies (3, H, W) in 0..1 of one scene in a row, each with the box that was found in the first."""
    figure, panels = style.row(len(images), 2.3, bottom=0.05, top=0.5, left=0.05, gap=0.1, right=0.05)
    for axes, image, title in zip(panels, images, titles, strict=True):
        show_pixels(axes, pixels_of((255 * image).round().clamp(0, 255).to(torch.uint8)))
        axes.set_aspect("equal")
        draw_box(axes, box_xyxy_px, style.QUERY, width=1.5)
        axes.set_title(title, fontsize=8, color=style.INK)
    return figure


def drops_figure(results: Mapping[str, Mapping[str, Sequence[float]]], titles: Sequence[str], label: str) -> Figure:
    """Draw means with their intervals (mean, low, high), a panel for each cover and a row for each set of tokens.

    Sets chosen by attention are blue and round, the controls grey and square.
    """
    count = len(next(iter(results.values())))
    figure, panels = style.row(len(results), 0.95 + 0.28 * count, bottom=0.5, top=0.4, left=2.1, gap=0.2)
    for index, (axes, rows, title) in enumerate(zip(panels, results.values(), titles, strict=True)):
        for row, (name, (mean, low, high)) in enumerate(rows.items()):
            asked = "most attended" in name
            colour, marker = (style.QUERY, "o") if asked else (style.UNMATCHED, "s")
            axes.plot([low, high], [row, row], color=colour, linewidth=2)
            axes.plot(mean, row, color=colour, marker=marker, markersize=6)
        axes.set_yticks(range(count), list(rows) if index == 0 else [""] * count)
        axes.set_ylim(count - 0.4, -0.6)
        axes.axvline(0, color=style.INK, linewidth=0.8, linestyle=":")
        axes.set_xlabel(label, fontsize=9)
        axes.set_title(title, fontsize=10, color=style.INK)
        axes.grid(axis="x", color="#DDDDDD", linewidth=0.6)
        style.tidy(axes)
    low, high = (limit([axes.get_xlim()[side] for axes in panels]) for side, limit in ((0, min), (1, max)))
    for axes in panels:
        axes.set_xlim(low, high)
    return figure


def sweep_figure(image: Picture, weights: Tensor, drop: Tensor, box_xyxy_px: Tensor, titles: Sequence[str]) -> Figure:
    """Draw the scene, a query's map (gh, gw), and how far its score falls when each token alone is covered (gh, gw)."""
    figure, panels = style.row(3, 3.1, bottom=0.1, top=0.45, left=0.1, gap=0.2, right=0.1)
    pixels = pixels_of(image)
    show_pixels(panels[0], pixels)
    for axes, values in zip(panels[1:], (weights, drop.clamp(min=0)), strict=True):
        draw_attention(axes, pixels, values, smooth=False)
    for axes, title in zip(panels, titles, strict=True):
        axes.set_aspect("equal")
        draw_box(axes, box_xyxy_px, style.QUERY)
        axes.set_title(title, fontsize=9, color=style.INK)
    return figure


def _outline(axes: Axes, masks: np.ndarray) -> None:
    """The borders of masks (T, H, W) as white lines."""
    height, width = masks.shape[-2:]
    for mask in masks:
        axes.contour(
            np.arange(width) + 0.5, np.arange(height) + 0.5, mask, levels=[0.5], colors="white", linewidths=0.8
        )
