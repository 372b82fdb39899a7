"""Figures of boxes: formats, overlap cell by cell, what pulls on a box that is wrong, and what NMS keeps.

`measures` is the pure function behind the picture of two boxes: eight numbers in, overlap and its gradients out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from torch import Tensor

from detr_mini.boxes import cxcywh_to_xyxy, iou, paired_giou, paired_iou, xyxy_to_cxcywh
from detr_mini.plots import style
from detr_mini.plots.detections import draw_box, pixels_of, show_pixels

# N boxes · S steps · T true boxes
MEASURES = ("IoU", "GIoU", "L1")
DASHES = ("-", "--", ":")
PULL = 0.22  # length of the longest arrow, in sides of the image
STILL = 1e-9  # a gradient below this is none
SHARED = {"facecolor": "#DDDDDD", "edgecolor": style.UNMATCHED, "hatch": "///", "linewidth": 0}
A_LINE = Line2D([], [], color=style.QUERY, linewidth=2.5, label="a, predicted")
B_LINE = Line2D([], [], color=style.OBJECT, linewidth=2.5, linestyle="--", label="b, true")
HULL_LINE = Line2D([], [], color=style.UNMATCHED, linewidth=3, linestyle=":", label="hull")


@dataclass(frozen=True)
class BoxMeasures:
    """How far a box is from another: IoU 0..1, GIoU -1..1, L1 of (cx, cy, w, h), and each one's gradient (4,).

    The gradients are with respect to the first box's (cx, cy, w, h), the numbers that DETR predicts.
    """

    iou: float
    giou: float
    l1: float
    iou_gradient: Tensor
    giou_gradient: Tensor
    l1_gradient: Tensor

    def pull(self, measure: str) -> Tensor:
        """How (cx, cy, w, h) should change to become better in that measure, "IoU", "GIoU" or "L1"; (4,)."""
        gradient = {"IoU": self.iou_gradient, "GIoU": self.giou_gradient, "L1": 0 - self.l1_gradient}
        return gradient[measure]


def measures(a_xyxy: Sequence[float] | Tensor, b_xyxy: Sequence[float] | Tensor) -> BoxMeasures:
    """Measure box `a` (4,) against box `b` (4,), both in 0..1 of the image; in float64."""
    a, b = (torch.as_tensor(box, dtype=torch.float64) for box in (a_xyxy, b_xyxy))
    values, gradients = _measure(xyxy_to_cxcywh(a)[None], xyxy_to_cxcywh(b))
    return BoxMeasures(*(value.item() for value in values), *(gradient[0] for gradient in gradients))


def _measure(a_cxcywh: Tensor, b_cxcywh: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """IoU, GIoU and L1 of boxes (N, 4) with one box (4,): three values (N,) and three gradients (N, 4)."""
    a = a_cxcywh.clone().requires_grad_()
    corners = cxcywh_to_xyxy(a), cxcywh_to_xyxy(b_cxcywh)
    away = a - b_cxcywh
    away = away.where(away.abs() > STILL, 0)  # equal but for rounding: L1 has no slope there
    values = [paired_iou(*corners), paired_giou(*corners), away.abs().sum(-1)]
    gradients = [torch.autograd.grad(value.sum(), a, retain_graph=True)[0] for value in values]
    return [value.detach() for value in values], gradients


def formats(image: Tensor, box_cxcywh: Tensor) -> Figure:
    """Draw a box on its image (3, H, W) uint8 with what each format stores: corners, or centre and size, 0..1."""
    _, height, width = image.shape
    figure = style.new_figure(9, 9 * height / width * 0.86 + 0.85)
    axes = figure.add_subplot()
    show_pixels(axes, pixels_of(image))
    axes.set_aspect("equal")
    cx, cy, w, h = (box_cxcywh * torch.tensor([width, height, width, height])).tolist()
    x1, y1, x2, y2 = cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
    draw_box(axes, np.array([x1, y1, x2, y2]), style.OBJECT, "--")
    axes.plot([cx], [cy], "o", color=style.OBJECT, markeredgecolor="white", markersize=9)
    names = {(x1, y1): ("x1, y1", "right", "bottom"), (x2, y2): ("x2, y2", "left", "top")}
    names[cx, cy - 1] = ("cx, cy", "center", "bottom")
    for (x, y), (name, across, up) in names.items():
        _tag(axes, x, y, name, ha=across, va=up)
    for start, end, name in (((x1, y2 + 3), (x2, y2 + 3), "w"), ((x1 - 3, y1), (x1 - 3, y2), "h")):
        axes.annotate("", end, start, arrowprops={"arrowstyle": "<->", "color": "white", "linewidth": 2})
        _tag(axes, (start[0] + end[0]) / 2, (start[1] + end[1]) / 2, name)
    axes.set_xticks(np.linspace(0, width, 5), [f"{x:g}" for x in np.linspace(0, width, 5)], fontsize=8)
    axes.set_yticks(np.linspace(0, height, 5), [f"{y:g}" for y in np.linspace(0, height, 5)], fontsize=8)
    axes.set_xlabel("x in px, below; as a fraction of the width, above", fontsize=9)
    axes.set_ylabel("y in px, left; fraction, right", fontsize=9)
    above, right = axes.secondary_xaxis("top"), axes.secondary_yaxis("right")
    above.set_xticks(np.linspace(0, width, 5), ["0", "0.25", "0.5", "0.75", "1"], fontsize=8)
    right.set_yticks(np.linspace(0, height, 5), ["0", "0.25", "0.5", "0.75", "1"], fontsize=8)
    axes.set_title("One box in four numbers: two corners, or centre and size", fontsize=11, color=style.INK, pad=8)
    figure.tight_layout()
    return figure


def trap(image: Tensor, boxes_cxcywh: Tensor, wrong_xyxy_px: Tensor) -> Figure:
    """Draw true boxes (T, 4) as they are, left, and the pixels (T, 4) that mixed-up sides made of them, right."""
    _, height, width = image.shape
    figure = style.new_figure(9, 4.5 * height / width + 0.4)
    right_xyxy_px = cxcywh_to_xyxy(boxes_cxcywh) * torch.tensor([width, height, width, height])
    titles = ("times (W, H, W, H): right", "times (H, W, H, W): no error, wrong boxes")
    for axes, boxes, title in zip(figure.subplots(1, 2), (right_xyxy_px, wrong_xyxy_px), titles, strict=True):
        show_pixels(axes, pixels_of(image))
        axes.set_aspect("equal")
        for box in boxes:
            draw_box(axes, box, style.OBJECT, "--")
        axes.set_title(title, fontsize=10, color=style.INK)
    figure.tight_layout()
    return figure


def cells(pairs: Mapping[str, tuple[Sequence[int], Sequence[int]]], hull: bool = True) -> Figure:
    """Draw pairs of boxes with whole corners on unit cells, count the shared ones, and give IoU as a fraction.

    `pairs` maps a title to two boxes xyxy. With `hull` also the smallest box around both, and GIoU.
    """
    figure = style.new_figure(9, 9 / len(pairs) + 1.1)
    bottom = (1.15 if hull else 0.95) / figure.get_figheight()
    places = {"left": 0.03, "right": 0.99, "top": 1 - 0.3 / figure.get_figheight(), "bottom": bottom, "wspace": 0.12}
    axes_in_row = figure.subplots(1, len(pairs), squeeze=False, gridspec_kw=places)[0]
    for axes, (title, (a, b)) in zip(axes_in_row, pairs.items(), strict=True):
        around = [*np.minimum(a[:2], b[:2]), *np.maximum(a[2:], b[2:])]
        low, high = min(around[:2]) - 0.35, max(around[2:]) + 0.35
        axes.set(xlim=(low, high), ylim=(high, low), aspect="equal", axisbelow=True)
        axes.set_xticks(range(int(max(around[2:])) + 1))
        axes.set_yticks(range(int(max(around[2:])) + 1))
        axes.tick_params(labelsize=8)
        axes.grid(color="#DDDDDD")
        if hull:
            outline(axes, around, style.UNMATCHED, ":", width=4.5)
        _shade_shared(axes, a, b)
        outline(axes, a, style.QUERY, "-")
        outline(axes, b, style.OBJECT, "--")
        axes.set_title(title, fontsize=10, color=style.INK)
        axes.set_xlabel(counts(a, b, hull), fontsize=9)
    entries = [A_LINE, B_LINE, Rectangle((0, 0), 1, 1, **SHARED, label="shared")]
    _legend(figure, [*entries, HULL_LINE] if hull else entries)
    return figure


def counts(a_xyxy: Sequence[int], b_xyxy: Sequence[int], with_hull: bool = True) -> str:
    """Two or three lines: the areas of two boxes with whole corners, and IoU and GIoU as fractions."""
    a, b = np.array(a_xyxy), np.array(b_xyxy)
    shared = int(np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)))
    union = int(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - shared
    hull = int(np.prod(np.maximum(a[2:], b[2:]) - np.minimum(a[:2], b[:2])))
    overlap, empty = Fraction(shared, union), Fraction(hull - union, hull)
    if not with_hull:
        return f"shared {shared}, union {union}\nIoU {overlap}"
    return f"shared {shared}, union {union}, hull {hull}\nIoU {overlap}\nGIoU {overlap} - {empty} = {overlap - empty}"


def sliding(a_cxcywh: Tensor, b_cxcywh: Tensor, centres: Tensor) -> Figure:
    """Draw IoU, GIoU and their slopes while box `a` slides along x past `b`; centres (N,) are its cx."""
    boxes = a_cxcywh.repeat(len(centres), 1)
    boxes[:, 0] = centres
    values, gradients = _measure(boxes.double(), b_cxcywh.double())
    figure = style.new_figure(9, 6.2)
    heights = {"height_ratios": (0.9, 2, 1.5), "left": 0.09, "right": 0.98, "top": 0.94, "bottom": 0.085, "hspace": 0.3}
    scene, curve, slope = figure.subplots(3, 1, sharex=True, gridspec_kw=heights)
    x = centres.numpy()
    corners = cxcywh_to_xyxy(boxes).tolist()
    for index in np.linspace(0, len(x) - 1, 3).round().astype(int):
        outline(scene, corners[index], style.QUERY, "-")
    outline(scene, cxcywh_to_xyxy(b_cxcywh).tolist(), style.OBJECT, "--")
    middle, tall = b_cxcywh[1].item(), max(a_cxcywh[3].item(), b_cxcywh[3].item())
    scene.set(ylim=(middle + 0.65 * tall, middle - 0.65 * tall), yticks=[])
    lines = [
        Line2D([], [], color=style.QUERY, label="slides"),
        Line2D([], [], color=style.OBJECT, ls="--", label="stays"),
    ]
    scene.legend(
        handles=lines, fontsize=8, frameon=False, loc="upper right", handlelength=1.6, bbox_to_anchor=(0.77, 1)
    )
    scene.set_title("Once the boxes part, IoU is flat: nothing says where to go", fontsize=11, color=style.INK)
    touching = (a_cxcywh[2] + b_cxcywh[2]).item() / 2
    for axes in (curve, slope):
        for side in (-1, 1):
            axes.axvline(b_cxcywh[0].item() + side * touching, color=style.UNMATCHED, linewidth=1, linestyle=":")
        axes.axhline(0, color=style.UNMATCHED, linewidth=0.8)
        axes.tick_params(labelsize=8)
    for index in (0, 1):
        look = {"linestyle": DASHES[index], "color": (style.INK, style.QUERY)[index], "linewidth": 2.2}
        curve.plot(x, values[index].numpy(), label=MEASURES[index], **look)
        slope.plot(x, gradients[index][:, 0].numpy(), label=f"slope of {MEASURES[index]}", **look)
    curve.set_ylabel("IoU and GIoU", fontsize=9)
    slope.set_ylabel("change per unit of cx", fontsize=9)
    slope.set_xlabel("cx of the sliding box, fraction of the image (dotted: where the boxes touch)", fontsize=9)
    curve.legend(fontsize=9, loc="upper left", frameon=False)
    slope.legend(fontsize=9, loc="upper right", frameon=False)
    return figure


def gradient_field(truth_cxcywh: Tensor, size: tuple[float, float], per_side: int = 10) -> Figure:
    """Draw, for a predicted box of `size` (w, h) at each place of a grid, how three measures want to move it."""
    place = (torch.arange(per_side, dtype=torch.float64) + 0.5) / per_side
    cx, cy = (axis.flatten() for axis in torch.meshgrid(place, place, indexing="xy"))
    boxes = torch.stack([cx, cy, *(torch.full_like(cx, side) for side in size)], dim=1)  # (N, 4)
    _, gradients = _measure(boxes, truth_cxcywh.double())
    pulls = [gradients[0], gradients[1], -gradients[2]]
    figure = style.new_figure(9, 4.0)
    places = {"left": 0.03, "right": 0.99, "top": 0.92, "bottom": 0.18, "wspace": 0.05}
    titles = (
        "IoU: nothing once they are apart",
        "GIoU: a pull everywhere, weak far off",
        "L1: the same pull everywhere",
    )
    for axes, pull, title in zip(figure.subplots(1, 3, gridspec_kw=places), pulls, titles, strict=True):
        move, grow = pull[:, :2], pull[:, 2:].norm(dim=1)
        length = move.norm(dim=1)
        outline(axes, cxcywh_to_xyxy(truth_cxcywh).tolist(), style.OBJECT, "--")
        still, swells = (length < STILL) & (grow < STILL), (grow > 1.001 * length) & (grow > STILL)
        axes.plot(cx[still].numpy(), cy[still].numpy(), ".", color=style.UNMATCHED, markersize=4)
        axes.plot(
            cx[swells].numpy(),
            cy[swells].numpy(),
            "s",
            color=style.QUERY,
            fillstyle="none",
            markersize=9,
            markeredgewidth=1,
        )
        goes = length > STILL
        strength = (length[goes] / length.max()).sqrt()  # so that weak pulls stay visible
        arrows = move[goes] * (0.11 * strength / length[goes])[:, None]
        look = {"color": style.QUERY, "width": 0.008, "angles": "xy", "scale_units": "xy", "scale": 1, "zorder": 3}
        axes.quiver(*(numbers.numpy() for numbers in (cx[goes], cy[goes], arrows[:, 0], arrows[:, 1])), **look)
        axes.set(xlim=(0, 1), ylim=(1, 0), aspect="equal", xticks=[], yticks=[])
        axes.set_title(title, fontsize=10, color=style.INK)
        axes.set_xlabel("predicted cx, 0 to 1", fontsize=9)
    figure.axes[0].set_ylabel("predicted cy, 0 to 1", fontsize=9)
    point = {"linestyle": "", "color": style.QUERY}
    entries = [
        B_LINE,
        Line2D([], [], marker=r"$\rightarrow$", markersize=14, label="moves", **point),
        Line2D([], [], marker="s", fillstyle="none", markersize=9, label="changes size more than place", **point),
        Line2D([], [], marker=".", linestyle="", color=style.UNMATCHED, label="no gradient"),
    ]
    _legend(figure, entries)
    return figure


def film(paths: Mapping[str, Tensor], truth_cxcywh: Tensor, steps: Sequence[int], title: str) -> Figure:
    """Draw boxes that descend their loss: each name's path (S + 1, 4) cxcywh at some steps, then width and IoU."""
    high = 1.18 * len(paths) + 2.7  # inches: title and steps 0.55, the frames, and 2.15 for the curves
    figure = style.new_figure(9, high)
    figure.suptitle(title, fontsize=11, color=style.INK, y=1 - 0.08 / high, va="top")
    above = {"left": 0.1, "right": 0.99, "top": 1 - 0.55 / high, "bottom": 2.15 / high, "wspace": 0.05, "hspace": 0.08}
    frames = figure.subplots(len(paths), len(steps), squeeze=False, gridspec_kw=above)
    below = {"left": 0.1, "right": 0.99, "top": 1.7 / high, "bottom": 0.5 / high, "wspace": 0.22}
    _frames(frames, paths, truth_cxcywh, steps)
    _curves(*figure.subplots(1, 2, gridspec_kw=below), paths, truth_cxcywh)
    return figure


def _frames(frames: np.ndarray, paths: Mapping[str, Tensor], truth_cxcywh: Tensor, steps: Sequence[int]) -> None:
    truth = cxcywh_to_xyxy(truth_cxcywh)
    everything = torch.cat([*(cxcywh_to_xyxy(path) for path in paths.values()), truth[None]])
    (left, top), (right, bottom) = (
        (everything[:, :2].amin(0) - 0.04).tolist(),
        (everything[:, 2:].amax(0) + 0.04).tolist(),
    )
    for row, (name, path) in zip(frames, paths.items(), strict=True):
        for axes, step in zip(row, steps, strict=True):
            outline(axes, cxcywh_to_xyxy(path[step]).tolist(), style.QUERY, "-")
            outline(axes, truth.tolist(), style.OBJECT, "--")
            axes.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[])
        row[0].set_ylabel(name, fontsize=9)
    for axes, step in zip(frames[0], steps, strict=True):
        axes.set_title(f"step {step}", fontsize=9, color=style.INK)


def _curves(width: Axes, overlap: Axes, paths: Mapping[str, Tensor], truth_cxcywh: Tensor) -> None:
    colours = (style.QUERY, style.INK, style.UNMATCHED)
    for index, (name, path) in enumerate(paths.items()):
        look = {"linestyle": DASHES[index % 3], "color": colours[index % 3], "linewidth": 2}
        width.plot(path[:, 2].numpy(), label=name.replace("\n", " "), **look)
        overlap.plot(paired_iou(cxcywh_to_xyxy(path), cxcywh_to_xyxy(truth_cxcywh)).numpy(), **look)
    width.axhline(truth_cxcywh[2].item(), color=style.OBJECT, linestyle="--", linewidth=1)
    width.set_title("width, fraction of the image (dashed orange: true)", fontsize=9, color=style.INK)
    overlap.set_title("IoU with the true box", fontsize=9, color=style.INK)
    for axes in (width, overlap):
        axes.set_xlabel("step", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.set_ylim(0)
    width.set_ylim(0, 1.6 * width.get_ylim()[1])  # room for the legend
    width.legend(fontsize=8, frameon=False, loc="upper right")


def two_boxes(a_xyxy: Sequence[float], b_xyxy: Sequence[float]) -> Figure:
    """Draw box `a` against `b` (0..1) once for each measure: its number, and arrows where it wants a's sides to go."""
    found = measures(a_xyxy, b_xyxy)
    hull = [*np.minimum(a_xyxy[:2], b_xyxy[:2]), *np.maximum(a_xyxy[2:], b_xyxy[2:])]
    figure = style.new_figure(9, 4.25)
    places = {"left": 0.01, "right": 0.99, "top": 0.94, "bottom": 0.22, "wspace": 0.04}
    values = (found.iou, found.giou, found.l1)
    for axes, name, value in zip(figure.subplots(1, 3, gridspec_kw=places), MEASURES, values, strict=True):
        if name == "GIoU":
            outline(axes, hull, style.UNMATCHED, ":", width=2)
        if name != "L1":
            _shade_shared(axes, a_xyxy, b_xyxy)
        outline(axes, b_xyxy, style.OBJECT, "--")
        outline(axes, a_xyxy, style.QUERY, "-")
        pull = found.pull(name)
        _side_arrows(axes, a_xyxy, pull)
        axes.set(xlim=(0, 1), ylim=(1, 0), aspect="equal", xticks=[], yticks=[])
        axes.set_title(f"{name} = {value:.3f}", fontsize=11, color=style.INK)
        if pull.abs().max() < STILL:
            wanted = "no gradient: it asks for nothing"
        else:
            number = dict(zip(("cx", "cy", "w", "h"), pull.tolist(), strict=True))
            pairs = ("cx", "cy"), ("w", "h")
            wanted = "\n".join("   ".join(f"{key} {number[key]:+.2f}" for key in pair) for pair in pairs)
        axes.set_xlabel(f"wants\n{wanted}" if "\n" in wanted else f"\n{wanted}", fontsize=9)
    entries = [
        A_LINE,
        B_LINE,
        HULL_LINE,
        Line2D(
            [],
            [],
            color=style.QUERY,
            marker=r"$\rightarrow$",
            linestyle="",
            markersize=14,
            label="which way a's sides are pulled",
        ),
    ]
    _legend(figure, entries)
    return figure


def nms_six(
    boxes_xyxy_px: Tensor, names: Sequence[str], scores: Tensor, kept: Mapping[str, Sequence[int]], truth: Tensor
) -> Figure:
    """Draw N named boxes and, for each title in `kept`, which of them are left, over the true boxes (T, 4)."""
    figure = style.new_figure(9, 2.5)
    places = {"left": 0.01, "right": 0.99, "top": 0.88, "bottom": 0.13, "wspace": 0.04}
    panels = {"six detections": range(len(names)), **kept}
    low, high = boxes_xyxy_px.amin(0).tolist(), boxes_xyxy_px.amax(0).tolist()
    everything = figure.subplots(1, len(panels), gridspec_kw=places)
    for axes, (title, indices) in zip(everything, panels.items(), strict=True):
        for box in truth.tolist():
            x1, y1, x2, y2 = box
            look = {"facecolor": style.OBJECT, "alpha": 0.3, "edgecolor": "none"}
            axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, **look))
            outline(axes, box, style.OBJECT, "--", width=1.2)
        for index in indices:
            x1, y1, x2, y2 = box = boxes_xyxy_px[index].tolist()
            outline(axes, box, style.QUERY, "-", width=2)
            x, y, across, up = LABEL_PLACES[index % len(LABEL_PLACES)](x1, y1, x2, y2)
            text = f"{names[index]} {scores[index]:.2f}"
            axes.text(x, y, text, ha=across, va=up, fontsize=8, color=style.QUERY, path_effects=style.SEAM)
        axes.set(xlim=(low[0] - 0.7, high[2] + 0.7), ylim=(high[3] + 1.3, low[1] - 1.6), xticks=[], yticks=[])
        axes.set_aspect("equal")
        axes.set_title(title, fontsize=9, color=style.INK)
    entries = [
        Rectangle((0, 0), 1, 1, facecolor=style.OBJECT, alpha=0.4, label="three objects"),
        Line2D([], [], color=style.QUERY, linewidth=2, label="detections, named after their object, with score"),
    ]
    _legend(figure, entries)
    return figure


# Where the label of each of six boxes stands, so that those of overlapping ones do not collide.
LABEL_PLACES = (
    lambda x1, y1, x2, y2: (x1, y1 - 0.2, "left", "bottom"),
    lambda x1, y1, x2, y2: (x1, y2 + 0.2, "left", "top"),
    lambda x1, y1, x2, y2: (x2, y1 - 0.2, "right", "bottom"),
    lambda x1, y1, x2, y2: (x1 - 0.3, y1 - 0.2, "left", "bottom"),
    lambda x1, y1, x2, y2: (x2, y2 + 0.2, "right", "top"),
    lambda x1, y1, x2, y2: ((x1 + x2) / 2, (y1 + y2) / 2, "center", "center"),
)


def nms_scene(image: Tensor, boxes_xyxy_px: Tensor, kept: Sequence[int]) -> Figure:
    """Draw faultless detections (N, 4) of a scene (3, H, W) uint8, left, and what NMS leaves of them, right."""
    figure = style.new_figure(9, 4.3)
    kept = list(kept)
    lost = len(boxes_xyxy_px) - len(kept)
    overlap = iou(boxes_xyxy_px, boxes_xyxy_px).fill_diagonal_(0).max()
    titles = (f"{len(boxes_xyxy_px)} true boxes, IoU {overlap:.2f}", f"after NMS at 0.5: {lost} object lost")
    places = {"left": 0.01, "right": 0.99, "top": 0.93, "bottom": 0.02, "wspace": 0.03}
    for axes, title in zip(figure.subplots(1, 2, gridspec_kw=places), titles, strict=True):
        show_pixels(axes, pixels_of(image))
        axes.set_aspect("equal")
        for index, box in enumerate(boxes_xyxy_px):
            gone = axes is figure.axes[1] and index not in kept
            draw_box(axes, box, style.UNMATCHED if gone else style.QUERY, ":" if gone else "-")
            if gone:
                x1, y1, x2, y2 = box.tolist()
                axes.plot([x1, x2], [y1, y2], color=style.UNMATCHED, linestyle=":", path_effects=style.SEAM)
                axes.plot([x1, x2], [y2, y1], color=style.UNMATCHED, linestyle=":", path_effects=style.SEAM)
        axes.set_title(title, fontsize=10, color=style.INK)
    return figure


def outline(axes: Axes, box_xyxy: Sequence[float], colour: str, line: str, width: float = 2.5) -> None:
    """Draw the outline of one box (4,) without a seam, for figures on white."""
    draw_box(axes, box_xyxy, colour, line, width, seam=False)


def _side_arrows(axes: Axes, box_xyxy: Sequence[float], pull_cxcywh: Tensor) -> None:
    """Arrows from the middle of each side of a box to where the pull on (cx, cy, w, h) would take that side."""
    longest = float((pull_cxcywh[:2].abs() + pull_cxcywh[2:].abs() / 2).max())
    if longest < STILL:
        return
    x1, y1, x2, y2 = box_xyxy
    sides = cxcywh_to_xyxy(pull_cxcywh * PULL / longest).tolist()  # linear, so it also converts a change
    middle = (x1 + x2) / 2, (y1 + y2) / 2
    starts = ((x1, middle[1]), (middle[0], y1), (x2, middle[1]), (middle[0], y2))
    for index, (start, length) in enumerate(zip(starts, sides, strict=True)):
        if abs(length) > 0.02 * PULL:
            end = (start[0] + length, start[1]) if index % 2 == 0 else (start[0], start[1] + length)
            look = {"arrowstyle": "-|>", "color": style.QUERY, "linewidth": 1.8, "shrinkA": 0, "shrinkB": 0}
            axes.annotate("", end, start, arrowprops=look)


def _tag(axes: Axes, x: float, y: float, text: str, ha: str = "center", va: str = "center") -> None:
    paper = {"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.9}
    axes.text(x, y, text, ha=ha, va=va, fontsize=10, color=style.INK, bbox=paper)


def _shade_shared(axes: Axes, a_xyxy: Sequence[float], b_xyxy: Sequence[float]) -> None:
    (x1, y1), (x2, y2) = np.maximum(a_xyxy[:2], b_xyxy[:2]), np.minimum(a_xyxy[2:], b_xyxy[2:])
    if x1 < x2 and y1 < y2:
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, **SHARED))


def _legend(figure: Figure, entries: list) -> None:
    figure.legend(handles=entries, loc="lower center", ncols=len(entries), fontsize=9, frameon=False)
