"""Figures of the set prediction loss: what each pair costs, who owns which object over time, what 0.1 does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from torch import Tensor

from detr_mini import losses, matching
from detr_mini.boxes import cxcywh_to_xyxy, paired_giou
from detr_mini.plots import style

# Q queries · T true boxes · K classes
HATCHES = ("", "////", "....", "xxxx", "++++", "oooo")  # one for each object, so that colour is not the only sign
DASHES = ("-", "--", ":")
WINDOW = 25  # logged points in the mean of a curve


@dataclass(frozen=True)
class PairLosses:
    """What every query adds to the loss of one image; label, l1 and giou are weighted and divided, so that all add up.

    query, target: (P,) int, the matched pairs, sorted by query; owner (Q,): the object that a query answers for, -1
    where none. label, l1, giou: (Q,), the last two 0 without an object. total: the set loss of the image.
    """

    query: np.ndarray
    target: np.ndarray
    owner: np.ndarray
    label: np.ndarray
    l1: np.ndarray
    giou: np.ndarray
    total: float


@dataclass(frozen=True)
class Frame:
    """One moment of the free-set experiment: boxes (Q, 4) cxcywh, probabilities (Q, K+1), owner (Q,) or -1, parts (3,).

    parts: class, L1 and GIoU part of the loss, weighted.
    """

    step: int
    boxes_cxcywh: Tensor
    probabilities: Tensor
    owner: Tensor
    parts: Tensor

    @property
    def says(self) -> Tensor:
        """The likeliest class of every query (Q,), -1 where that is "no object"."""
        likeliest = self.probabilities.argmax(-1)
        return torch.where(likeliest == self.probabilities.shape[-1] - 1, -1, likeliest)


def pair_losses(
    probabilities: Tensor,
    boxes_cxcywh: Tensor,
    labels: Tensor,
    true_cxcywh: Tensor,
    weights: losses.Weights | None = None,
    costs: matching.Weights | None = None,
) -> PairLosses:
    """Match one image and take its loss apart by query: probabilities (Q, K+1), boxes (Q, 4), labels (T,), true (T, 4).

    Raises what `matching.match` raises. The parts' sum is `losses.set_loss` of log(probabilities).
    """
    weights = weights or losses.Weights()
    targets = matching.pad_targets([{"labels": labels, "boxes": true_cxcywh}], probabilities.device)
    logits = probabilities.clamp(min=1e-12).log()
    match = matching.match(logits[None, None], boxes_cxcywh[None, None], targets, costs)
    query, target = match.pairs(0, 0)
    order = query.argsort()
    query, target = query[order], target[order]
    no_object = probabilities.shape[-1] - 1
    owner = torch.full((len(probabilities),), -1)
    owner[query] = target
    wanted = torch.full_like(owner, no_object)
    wanted[query] = labels[target]
    class_weight = torch.where(owner >= 0, 1.0, weights.no_object)  # (Q,)
    nats = -logits.log_softmax(-1).gather(1, wanted[:, None])[:, 0]  # (Q,)
    label = weights.label * class_weight * nats / class_weight.sum().clamp(min=1e-9)
    l1, giou = torch.zeros(2, len(owner), dtype=boxes_cxcywh.dtype)
    predicted, true, objects = boxes_cxcywh[query], true_cxcywh[target], max(len(labels), 1)
    l1[query] = weights.l1 * (predicted - true).abs().sum(-1) / objects
    giou[query] = weights.giou * (1 - paired_giou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(true))) / objects
    total = float(label.sum() + l1.sum() + giou.sum())
    return PairLosses(*(part.detach().numpy() for part in (query, target, owner, label, l1, giou)), total)


def pair_figure(pairs: PairLosses, boxes_cxcywh: Tensor, true_cxcywh: Tensor, true_names: Sequence[str]) -> Figure:
    """Draw boxes (Q, 4) and true boxes (T, 4) in a unit square, and beside them what each query adds to the loss."""
    figure = style.new_figure(9, 3.9)
    left, right = figure.add_axes((0.05, 0.1, 0.35, 0.8)), figure.add_axes((0.52, 0.13, 0.46, 0.7))
    left.set(xlim=(0, 1), ylim=(1, 0), aspect="equal")
    left.set_title("Who answers for which object", fontsize=10, color=style.INK)
    left.tick_params(labelsize=8)
    for target, box in enumerate(cxcywh_to_xyxy(true_cxcywh).tolist()):
        style.draw_box(left, _shrunk(box, 0.006), style.OBJECT, "--", 2.5)
        _tag(left, box[2] - 0.01, box[3] - 0.01, true_names[target], style.OBJECT, "right", "bottom")
    corners = cxcywh_to_xyxy(boxes_cxcywh).tolist()
    for query, box in enumerate(corners):
        owner = pairs.owner[query]
        same = corners[:query].count(box)  # boxes on top of each other: one inside, one label beside the other
        look = (style.MATCHED, "-") if owner >= 0 else (style.UNMATCHED, ":")
        style.draw_box(left, _shrunk(box, 0.015 * same), *look, 2)
        _tag(left, box[0] + 0.01 + 0.07 * same, box[1] + 0.01, f"q{query}", _role(owner), "left", "top")
    rows = np.arange(len(corners))
    start = np.zeros(len(corners))
    kinds = (("class", pairs.label, ""), ("L1", pairs.l1, "////"), ("1 - GIoU", pairs.giou, "...."))
    for _, part, hatch in kinds:
        colours = [_role(owner) for owner in pairs.owner]
        right.barh(rows, part, 0.62, left=start, color=colours, hatch=hatch, edgecolor="white", linewidth=1)
        start = start + part
    names = [f"q{q}: {true_names[o] if o >= 0 else 'no object'}" for q, o in enumerate(pairs.owner)]
    right.set_yticks(rows, names, fontsize=9)
    right.invert_yaxis()
    right.tick_params(axis="x", labelsize=8)
    right.set_xlabel("share of the loss, weighted and divided", fontsize=9)
    right.set_xlim(0, max(1e-6, start.max()) * 1.12)
    for row, value in zip(rows, start, strict=True):
        right.text(value, row, f" {value:.2f}", va="center", fontsize=8, color=style.INK)
    right.set_title(f"The loss {pairs.total:.2f}, taken apart by query", fontsize=10, color=style.INK, pad=26)
    grey = {"facecolor": "#999999", "edgecolor": "white"}
    handles = [Patch(hatch=hatch, label=name, **grey) for name, _, hatch in kinds]
    _legend(right, handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    _clean(right)
    return figure


def weight_figure(points: Mapping[str, float], weights: Sequence[float] = (1.0, 0.1, 0.01)) -> Figure:
    """Draw the share w(r-1) / (w(r-1) + 1) of "no object" in the class part against r = Q/T, for several weights w.

    points: settings by name, each with its r, marked on the curve of w = 0.1.
    """
    figure = style.new_figure(9, 3.8)
    axes = figure.add_axes((0.08, 0.14, 0.74, 0.75))
    ratio = np.geomspace(1, 100, 300)
    for weight, dash in zip(weights, DASHES, strict=True):
        share = _share(weight, ratio)
        axes.plot(ratio, share, dash, color=style.UNMATCHED, linewidth=2)
        axes.text(104, share[-1], f"weight {weight:g}", fontsize=9, va="center", color=style.INK)
    axes.axhline(0.5, color=style.INK, linewidth=0.8, alpha=0.5)
    axes.text(2.35, 0.515, 'objects and "no object" weigh the same', fontsize=8, color=style.INK)
    for name, value in points.items():
        share = float(_share(0.1, np.array(value)))
        axes.plot(value, share, "o", color=style.QUERY, markersize=7)
        axes.annotate(name, (value, share), (8, -11), textcoords="offset points", fontsize=8.5, color=style.QUERY)
    axes.set(xscale="log", xlim=(1, 100), ylim=(0, 1.02))
    axes.set_xticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
    axes.tick_params(labelsize=8)
    axes.set_xlabel("queries for each object, Q / T", fontsize=9)
    axes.set_ylabel('share of "no object"', fontsize=9)
    title = 'At weight 1 "no object" outweighs the objects; 0.1 evens them out at eleven queries for each object'
    axes.set_title(title, fontsize=10, color=style.INK)
    _clean(axes)
    return figure


def slide_figure(place: Tensor, loss: Tensor, slope: Tensor, measured: Tensor, owner: Tensor) -> Figure:
    """Draw loss and slope (N,) while query 0 slides over `place` (N,).

    owner (N,): its object, 0 or 1; measured (N-1,): the loss's differences between neighbouring places.
    """
    place, loss, slope, measured, owner = (values.numpy() for values in (place, loss, slope, measured, owner))
    figure = style.new_figure(9, 4.5)
    axes = [figure.add_axes((0.08, 0.56, 0.89, 0.37)), figure.add_axes((0.08, 0.18, 0.89, 0.32))]
    switches = np.flatnonzero(owner[1:] != owner[:-1]).tolist()
    for first, last in zip([0, *[s + 1 for s in switches]], [*switches, len(place) - 1], strict=True):
        span = slice(first, last + 1)
        axes[0].plot(place[span], loss[span], color=style.INK, linewidth=2)
        middle = float(place[first] + place[last]) / 2
        text = f"query 0 has object {'AB'[int(owner[first])]}"
        axes[0].text(
            middle, 0.93, text, fontsize=9, ha="center", va="top", color=style.MATCHED, transform=_mixed(axes[0])
        )
    axes[1].plot(place, slope, ".", color=style.QUERY, markersize=8, alpha=0.35, markeredgewidth=0)
    inside = np.ones(len(measured), dtype=bool)
    inside[switches] = False
    axes[1].plot(
        ((place[1:] + place[:-1]) / 2)[inside][3::7], measured[inside][3::7], ".", color=style.INK, markersize=4
    )
    for panel in axes:
        for switch in switches:
            panel.axvline(float(place[switch] + place[switch + 1]) / 2, color=style.MATCHED, linestyle="--")
        panel.set_xlim(float(place[0]), float(place[-1]))
        panel.tick_params(labelsize=8)
        _clean(panel)
    low, high = float(loss.min()), float(loss.max())
    axes[0].set_ylim(low - 0.1 * (high - low), high + 0.35 * (high - low))
    axes[0].set_xticklabels([])
    axes[0].set_ylabel("loss", fontsize=9)
    axes[1].set_ylabel("slope", fontsize=9)
    axes[1].set_xlabel("centre x of query 0, in widths of the image", fontsize=9)
    axes[0].set_title("The loss jumps where the match changes; the gradient knows nothing of it", fontsize=10)
    handles = [
        Line2D([], [], color=style.QUERY, marker=".", markersize=11, linestyle="", alpha=0.5, label="gradient"),
        Line2D([], [], color=style.INK, marker=".", linestyle="", label="measured by differences"),
        Line2D([], [], color=style.MATCHED, linestyle="--", label="the match changes"),
    ]
    figure.legend(handles=handles, loc="lower center", ncols=3, fontsize=8.5, frameon=False)
    return figure


def film_strip(
    image: Tensor, true_cxcywh: Tensor, frames: Sequence[Frame], names: Sequence[str], title: str, columns: int = 3
) -> Figure:
    """Draw frames of the free-set experiment over the scene (3, H, W) uint8: owners, other claims, silent queries."""
    rows, side, gap, head, foot = -(-len(frames) // columns), 2.88, 0.1, 0.27, 0.36
    height = 0.3 + rows * (side + head) + foot
    figure = style.new_figure(columns * (side + gap) + gap, height)
    for index, frame in enumerate(frames):
        row, column = divmod(index, columns)
        left, top = gap + column * (side + gap), 0.3 + row * (side + head) + head
        wide = figure.get_size_inches()[0]
        axes = figure.add_axes((left / wide, 1 - (top + side) / height, side / wide, side / height))
        axes.imshow(image.permute(1, 2, 0).numpy(), extent=(0, 1, 1, 0), interpolation="nearest", alpha=0.75)
        axes.set(xlim=(0, 1), ylim=(1, 0), xticks=[], yticks=[])
        named = int((frame.says >= 0).sum())
        axes.set_title(f"step {frame.step}: {named} of {len(frame.says)} name an object", fontsize=9, pad=3)
        _draw_frame(axes, true_cxcywh, frame, names)
    figure.text(0.5, 1 - 0.08 / height, title, fontsize=10, ha="center", va="top", color=style.INK)
    owns, says = (torch.cat([getattr(frame, name) for frame in frames]) >= 0 for name in ("owner", "says"))
    handles = [
        Line2D([], [], color=style.OBJECT, linestyle="--", linewidth=2.5, label="true object"),
        Line2D([], [], color=style.MATCHED, linewidth=2, label="trained towards an object"),
    ]
    if (~owns & says).any():
        handles.append(Line2D([], [], color=style.QUERY, linestyle="-.", linewidth=2, label="not, but still names one"))
    if (~owns & ~says).any():
        handles.append(Line2D([], [], color=style.UNMATCHED, linestyle=":", linewidth=1.5, label="says nothing"))
    figure.legend(handles=handles, loc="lower center", ncols=4, fontsize=8.5, frameon=False)
    return figure


def ownership(runs: Mapping[str, Sequence[Frame]], object_names: Sequence[str]) -> Figure:
    """Draw, for each run by its title, which query had which object when, and when each query named an object."""
    high = 0.62 + 1.95 * len(runs)
    figure = style.new_figure(9, high)
    for index, (title, frames) in enumerate(runs.items()):
        axes = figure.add_axes((0.07, 1 - (0.32 + 1.95 * index + 1.42) / high, 0.91, 1.42 / high))
        owner = torch.stack([frame.owner for frame in frames]).numpy()  # (steps, Q)
        speaks = torch.stack([frame.says >= 0 for frame in frames]).numpy()
        last, queries = frames[-1].step, owner.shape[1]
        for query in range(queries):
            for first, end, obj in _stretches(owner[:, query]):
                if obj >= 0:
                    bar = Rectangle((first, query - 0.42), end - first, 0.56, hatch=HATCHES[obj])
                    bar.set(facecolor=style.MATCHED, edgecolor="white", linewidth=0.4)
                    axes.add_patch(bar)
            for first, end, spoke in _stretches(speaks[:, query]):
                if spoke:
                    axes.plot((first, end), (query + 0.3, query + 0.3), color=style.QUERY, linewidth=2.2)
        axes.set(xlim=(0, last), ylim=(queries - 0.5, -0.6))
        axes.set_yticks(range(queries), [f"q{query}" for query in range(queries)], fontsize=8)
        axes.tick_params(axis="x", labelsize=8)
        axes.set_title(title, fontsize=10, color=style.INK, pad=4)
        if index == len(runs) - 1:
            axes.set_xlabel("step", fontsize=9)
        _clean(axes)
    kinds = {"facecolor": style.MATCHED, "edgecolor": "white"}
    handles = [Patch(hatch=HATCHES[i], label=f"trained towards {name}", **kinds) for i, name in enumerate(object_names)]
    handles.append(Line2D([], [], color=style.QUERY, linewidth=2, label="names an object"))
    figure.legend(handles=handles, loc="lower center", ncols=4, fontsize=8.5, frameon=False)
    return figure


def parts_figure(frames: Sequence[Frame], named: Mapping[str, Sequence[Sequence[int]]], objects: int) -> Figure:
    """Draw the weighted loss parts over time, and for each rule the number of queries that name an object, by seed."""
    figure = style.new_figure(9, 3.4)
    left, right = figure.add_axes((0.07, 0.15, 0.37, 0.73)), figure.add_axes((0.54, 0.15, 0.33, 0.73))
    steps = [frame.step for frame in frames]
    parts = torch.stack([frame.parts for frame in frames]).clamp(min=1e-4).numpy()  # (steps, 3)
    for column, (name, dash) in enumerate(zip(("class", "5 x L1", "2 x (1 - GIoU)"), DASHES, strict=True)):
        left.plot(steps, parts[:, column], dash, color=style.INK, linewidth=1.6, label=name)
    left.set(yscale="log", xlim=(0, steps[-1]))
    left.set_ylabel("part of the loss, weighted", fontsize=9)
    left.set_title("All three parts fall together", fontsize=10, color=style.INK)
    _legend(left, None, loc="upper right")
    looks = ((style.MATCHED, "-"), (style.QUERY, "--"))
    for (name, seeds), (colour, dash) in zip(named.items(), looks, strict=False):
        for counts in seeds:
            right.plot(range(len(counts)), counts, dash, color=colour, linewidth=1.6, alpha=0.85)
        right.text(
            len(seeds[0]) * 1.02, np.mean([counts[-1] for counts in seeds]), name, fontsize=9, color=colour, va="center"
        )
    right.axhline(objects, color=style.OBJECT, linestyle=":", linewidth=2)
    right.text(len(seeds[0]) * 1.02, objects - 0.55, f"{objects} objects", fontsize=9, color="#8A5F00", va="center")
    right.set(xlim=(0, len(seeds[0])), ylim=(0, 8.6))
    right.set_ylabel("queries that name an object", fontsize=9)
    right.set_title("One rule ends with as many as there are objects", fontsize=10, color=style.INK)
    for axes in (left, right):
        axes.set_xlabel("step", fontsize=9)
        axes.tick_params(labelsize=8)
        _clean(axes)
    return figure


def log_figure(records: Sequence[Mapping], mean_objects: float) -> Figure:
    """Draw class error, cardinality error and the class loss by decoder layer from the records of a training log."""
    figure = style.new_figure(9, 3.2)
    steps = np.array([record["step"] for record in records]) / 1000
    titles = ("Class error: wrong names", "Cardinality error: wrong numbers", "Class loss by decoder layer")
    labels = ("% of matched objects", "objects an image", "nats")
    for column, (title, label) in enumerate(zip(titles, labels, strict=True)):
        axes = figure.add_axes((0.065 + 0.327 * column, 0.16, 0.265, 0.71))
        if column == 2:
            parts = style.running_mean([record["label"] for record in records], WINDOW)  # (N, L)
            for layer, dash in enumerate((":", "--", "-")[-parts.shape[1] :]):
                axes.plot(steps, parts[:, layer], dash, color=style.INK, linewidth=1.5, label=f"layer {layer + 1}")
            _legend(axes, None, loc="upper right")
        else:
            values = np.array([record[("class_error", "cardinality")[column]] for record in records])
            axes.plot(steps, values, ".", color=style.QUERY, markersize=2, alpha=0.3)
            axes.plot(steps, style.running_mean(values, WINDOW), color=style.QUERY, linewidth=1.8)
        if column == 1:
            axes.axhline(mean_objects, color=style.OBJECT, linestyle="--", linewidth=1.8)
            axes.text(steps[-1], mean_objects * 1.03, "every query silent", fontsize=8.5, ha="right", color="#8A5F00")
        axes.set_ylim(bottom=0)
        axes.set_xlim(0, steps[-1])
        axes.set_title(title, fontsize=10, color=style.INK)
        axes.set_xlabel("step, thousands", fontsize=9)
        axes.set_ylabel(label, fontsize=9)
        axes.tick_params(labelsize=8)
        _clean(axes)
    return figure


def _share(weight: float, ratio: np.ndarray) -> np.ndarray:
    return weight * (ratio - 1) / (weight * (ratio - 1) + 1)


def _stretches(values: np.ndarray) -> list[tuple[int, int, int]]:
    """Where (N,) keeps its value: (first, one past the last, value)."""
    edges = [0, *(np.flatnonzero(values[1:] != values[:-1]) + 1).tolist(), len(values)]
    return [(first, end, int(values[first])) for first, end in zip(edges[:-1], edges[1:], strict=True)]


def _draw_frame(axes: Axes, true_cxcywh: Tensor, frame: Frame, names: Sequence[str]) -> None:
    for box in cxcywh_to_xyxy(true_cxcywh).tolist():
        style.draw_box(axes, box, style.OBJECT, "--", 2.5)
    taken: list = []
    looks = {
        "silent": (style.UNMATCHED, ":", 1.4),
        "claims": (style.QUERY, "-.", 1.8),
        "owns": (style.MATCHED, "-", 1.8),
    }
    for kind, look in looks.items():
        for query, box in enumerate(cxcywh_to_xyxy(frame.boxes_cxcywh).tolist()):
            owns, says = frame.owner[query] >= 0, int(frame.says[query])
            if ("owns" if owns else "claims" if says >= 0 else "silent") == kind:
                style.draw_box(axes, box, *look)
    for query in sorted(range(len(frame.owner)), key=lambda q: int(frame.owner[q]) < 0):
        box = cxcywh_to_xyxy(frame.boxes_cxcywh)[query].clamp(0, 1).tolist()
        owns, says = frame.owner[query] >= 0, int(frame.says[query])
        colour = style.MATCHED if owns else style.QUERY if says >= 0 else style.UNMATCHED
        text = f"q{query} {names[says]}" if says >= 0 else f"q{query}"
        _free_tag(axes, box, text, colour, taken)


def _free_tag(axes: Axes, box: Sequence[float], text: str, colour: str, taken: list) -> None:
    """Write at the corner of the box where the text stays in the picture and off others."""
    renderer, (x1, y1, x2, y2) = axes.figure.canvas.get_renderer(), box
    frame = axes.get_window_extent(renderer)
    tag = _tag(axes, 0, 0, text, colour, "left", "top")
    best: tuple = ()
    rows = [y1, y2, (y1 + y2) / 2, y1 + (y2 - y1) / 4, y1 + 3 * (y2 - y1) / 4]
    for x, across in ((x1, "left"), (x2, "right"), (x2, "left"), (x1, "right")):
        for y in rows:
            for up in ("top", "bottom", "center"):
                tag.set(position=(x, y), ha=across, va=up)
                place = tag.get_window_extent(renderer).padded(1.5)
                inside = frame.x0 <= place.x0 and place.x1 <= frame.x1 and frame.y0 <= place.y0 and place.y1 <= frame.y1
                cost = sum(place.overlaps(other) for other in taken) + 3 * (not inside)
                if not best or cost < best[0]:
                    best = (cost, place, {"position": (x, y), "ha": across, "va": up})
    tag.set(**best[2])
    taken.append(best[1])


def _shrunk(box_xyxy: Sequence[float], by: float) -> list[float]:
    x1, y1, x2, y2 = box_xyxy
    return [x1 + by, y1 + by, x2 - by, y2 - by]


def _tag(axes: Axes, x: float, y: float, text: str, colour: str, across: str, up: str):
    paper = {"boxstyle": "square,pad=0.12", "facecolor": colour, "edgecolor": "white", "linewidth": 0.5}
    ink = style.INK if colour == style.OBJECT else "white"
    return axes.text(x, y, text, fontsize=8, color=ink, ha=across, va=up, bbox=paper, zorder=5)


def _role(owner: int) -> str:
    return style.MATCHED if owner >= 0 else style.UNMATCHED


def _mixed(axes: Axes):
    return axes.get_xaxis_transform()  # x in data, y in 0..1 of the axes


def _legend(axes: Axes, handles: list | None, **place) -> None:
    axes.legend(**({"handles": handles} if handles else {}), fontsize=8.5, frameon=False, **place)


def _clean(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
