"""Figures of notebook 12: where queries sit, who takes which object over time, counting, collapse.

`timeline` and `film` turn a training log into what can be drawn or scrubbed through: owners, changes, and frames with
boxes, queries and pairs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Rectangle
from matplotlib.patheffects import withStroke
from torch import Tensor

from detr_mini.boxes import cxcywh_to_xyxy
from detr_mini.plots import style
from detr_mini.plots.detections import show_pixels

# P logged points · L decoder layers · N images · Q queries · T objects of an image, M of all images

SIZES = (("side below 0.2", "#56B4E9", "."), ("0.2 to 0.4", "#D55E00", "+"), ("above 0.4", "#CC79A7", "o"))
LOOKS = (("-", "o"), ("--", "s"), (":", "^"), ("-.", "D"))  # of curves that share a colour, or a figure
SHADES = (style.QUERY, "#D55E00", style.UNMATCHED, "#CC79A7")
PALE = "#BFE3D8"  # green of the matched, light enough to write on


@dataclass(frozen=True)
class Timeline:
    """Which query had each object at each logged point: owners (P, L, M), of M objects in the order of `objects`."""

    steps: tuple[int, ...]  # P
    objects: tuple[tuple[int, int], ...]  # M times (image id, number of the object in its image)
    owners: np.ndarray  # (P, L, M) int, -1 where an object has no query

    @property
    def changed(self) -> np.ndarray:
        """(P - 1, L, M) bool: whether the object has another query than at the point before."""
        return self.owners[1:] != self.owners[:-1]

    @property
    def instability(self) -> np.ndarray:
        """(P - 1, L): share of all objects whose query changed since the point before (DN-DETR, 2203.01305)."""
        return self.changed.mean(axis=2)

    def of_image(self, image: int) -> np.ndarray:
        """(P, L, T): the owners of one image's objects; ValueError for an image that was not logged."""
        mine = [index for index, (each, _) in enumerate(self.objects) if each == image]
        if not mine:
            known = sorted({each for each, _ in self.objects})
            raise ValueError(f"image {image} is not among the logged ones: {known}")
        return self.owners[:, :, mine]


@dataclass(frozen=True)
class Frame:
    """One scene at one logged point: what all queries say, and who has which object."""

    step: int
    boxes_cxcywh: np.ndarray  # (Q, 4)
    scores: np.ndarray  # (Q,) probability of any object
    query: np.ndarray  # (T,) the query of each object, -1 for none
    changed: np.ndarray  # (T,) bool: another query than in the frame before; all False in the first


def timeline(records: Iterable[Mapping]) -> Timeline:
    """Owners from the records of a training log; those without `matches` are passed over.

    `matches` holds for each image id the queries of its objects by layer (L, T), as `training.Trainer` logs them.
    Raises ValueError for fewer than two points, and where a point has other images or objects than the first.
    """
    points = [record for record in records if "matches" in record]
    if len(points) < 2:
        raise ValueError(f"{len(points)} logged points with matches; at least two are needed to see a change")
    first = _by_image(points[0])
    objects = tuple((image, number) for image in sorted(first) for number in range(len(first[image][0])))
    rows = []
    for point in points:
        matches = _by_image(point)
        if {i: np.shape(m) for i, m in matches.items()} != {i: np.shape(m) for i, m in first.items()}:
            raise ValueError(f"step {point['step']} has other images, objects or layers than step {points[0]['step']}")
        rows.append(np.concatenate([np.array(matches[image], dtype=int) for image in sorted(first)], axis=1))
    return Timeline(tuple(point["step"] for point in points), objects, np.stack(rows))


def film(records: Iterable[Mapping], image: int) -> list[Frame]:
    """One scene's frames from points that hold `answers` (boxes and probability of an object) beside `matches`.

    The match is that of the last decoder layer, whose boxes the answers are.
    """
    points = [point for point in records if str(image) in point.get("answers", {})]
    frames: list[Frame] = []
    for point in points:
        answer, query = point["answers"][str(image)], np.array(_by_image(point)[image][-1], dtype=int)
        changed = query != frames[-1].query if frames else np.zeros(len(query), dtype=bool)
        frames.append(Frame(point["step"], np.array(answer["boxes"]), np.array(answer["object"]), query, changed))
    if not frames:
        raise ValueError(f"no logged point holds answers for image {image}")
    return frames


def _by_image(point: Mapping) -> dict[int, list]:
    return {int(image): match for image, match in point["matches"].items()}


def interval(found: Sequence[int], shown: int, draws: int = 1000, seed: int = 0) -> tuple[float, float, float]:
    """Recall over scenes that each show so many objects, and its 95 % bootstrap interval over the scenes."""
    share = np.asarray(found, dtype=float) / shown
    again = np.random.default_rng(seed).integers(len(share), size=(draws, len(share)))
    low, high = np.quantile(share[again].mean(axis=1), [0.025, 0.975])
    return float(share.mean()), float(low), float(high)


def slots_figure(boxes_cxcywh: Tensor, speaks: Tensor, slots: Sequence[int], title: str) -> Figure:
    """Draw the centres (N, Q) of the boxes of some slots where `speaks` (N, Q) is True, coloured by size."""
    columns = 8
    rows = -(-len(slots) // columns)
    figure = style.new_figure(style.PAGE_IN, 1.27 * rows + 0.45)
    side_in, tall = 1.0, figure.get_size_inches()[1]
    for index, slot in enumerate(slots):
        row, column = divmod(index, columns)
        place = (0.1 + column * 1.11, tall - 0.55 - row * 1.27 - side_in)
        axes = figure.add_axes((place[0] / style.PAGE_IN, place[1] / tall, side_in / style.PAGE_IN, side_in / tall))
        _draw_slot(axes, boxes_cxcywh[speaks[:, slot], slot].numpy())
        axes.set_title(f"slot {slot}", fontsize=8, color=style.INK, pad=2)
    handles = [Line2D([], [], color=c, marker=m, linestyle="", markersize=5, label=name) for name, c, m in SIZES]
    for handle in handles[2:]:
        handle.set_markerfacecolor("none")
    figure.legend(handles=handles, loc="upper right", ncols=3, fontsize=8, frameon=False, handletextpad=0.2)
    figure.text(0.1 / style.PAGE_IN, 1 - 0.1 / tall, title, fontsize=10, color=style.INK, va="top")
    return figure


def _draw_slot(axes: Axes, boxes: np.ndarray) -> None:
    side = np.sqrt(boxes[:, 2] * boxes[:, 3])
    for index, (_, colour, marker) in enumerate(SIZES):
        mine = boxes[np.digitize(side, (0.2, 0.4)) == index]
        look = {"facecolors": "none", "edgecolors": colour} if marker == "o" else {"color": colour}
        axes.scatter(mine[:, 0], mine[:, 1], s=10, marker=marker, linewidths=0.7, **look)
    axes.set(xlim=(0, 1), ylim=(1, 0), xticks=[], yticks=[])


def seats_figure(seat_cxcywh: Tensor, home_cxcywh: Tensor) -> Figure:
    """Draw each query's usual box when it speaks, and its box for an empty image, as circles half as wide."""
    figure, (left, right) = style.row(2, 4.7, bottom=0.15, top=0.4, left=0.15, gap=0.3, right=0.15)
    for axes, boxes in ((left, seat_cxcywh.numpy()), (right, home_cxcywh.numpy())):
        for query, (x, y, w, h) in enumerate(boxes):
            if np.isnan(x):
                continue
            radius = np.sqrt(w * h) / 4
            axes.add_patch(Circle((x, y), radius, fill=False, edgecolor=style.QUERY, linewidth=0.7, alpha=0.55))
            text = axes.text(x, y, str(query), fontsize=8, ha="center", va="center", color=style.INK)
            text.set_path_effects([withStroke(linewidth=2, foreground="white")])
        axes.set(xlim=(0, 1), ylim=(1, 0), xticks=[], yticks=[], aspect="equal")
    left.set_title("Over scenes, queries have places and sizes", fontsize=10, color=style.INK)
    right.set_title("An empty image leaves the order of the places, not the sizes", fontsize=10, color=style.INK)
    return figure


def owners_figure(table: Timeline, layer: int, rows: Sequence[int]) -> Figure:
    """Draw who had some objects at each logged point: numbers of queries, green where the owner stayed."""
    owners, changed = table.owners[:, layer], table.changed[:, layer]
    figure, (axes,) = style.row(1, 0.26 * len(rows) + 0.95, bottom=0.5, top=0.4, left=1.35)
    for y, row in enumerate(rows):
        for x, owner in enumerate(owners[:, row]):
            stayed = x > 0 and not changed[x - 1, row]
            colour = PALE if stayed else "white"
            axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, edgecolor="#BBBBBB", linewidth=0.6))
            weight = "normal" if stayed or x == 0 else "bold"
            axes.text(x, y, str(owner), ha="center", va="center", fontsize=8.5, color=style.INK, fontweight=weight)
    axes.set(xlim=(-0.5, len(table.steps) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    axes.set_xticks(range(len(table.steps)), [f"{step:,}" for step in table.steps])
    axes.set_yticks(range(len(rows)), [f"image {table.objects[r][0]}, object {table.objects[r][1] + 1}" for r in rows])
    axes.tick_params(labelsize=8, length=0)
    axes.set_xlabel("training step of the logged point", fontsize=9)
    axes.set_title(
        "Queries that own an object: bold where it changed hands, green where it did not",
        fontsize=10,
        color=style.INK,
    )
    return figure


def instability_figure(runs: Mapping[str, Timeline], title: str) -> Figure:
    """Draw, for each run, the share of objects that changed hands since the point before, a curve for each layer."""
    figure, panels = style.row(len(runs), 3.1, bottom=0.5, top=0.6, left=0.8, gap=0.5)
    for axes, (name, table) in zip(panels, runs.items(), strict=True):
        layers = table.owners.shape[1]
        for layer in range(layers):
            line, marker = LOOKS[layer]
            last = layer == layers - 1
            axes.plot(
                table.steps[1:],
                100 * table.instability[:, layer],
                color=SHADES[layer],
                linestyle=line,
                marker=marker,
                markersize=3.5,
                linewidth=1.8 if last else 1.2,
                label=f"decoder layer {layer + 1}",
            )
        axes.set(ylim=(0, 100), xlim=(0, None))
        axes.set_xlabel("training step", fontsize=9)
        axes.set_title(name, fontsize=9, color=style.INK)
        style.tidy(axes)
    panels[0].set_ylabel("objects with another query than\nat the point before (%)", fontsize=9)
    most = max(zip(panels, runs.values(), strict=True), key=lambda pair: pair[1].owners.shape[1])[0]
    most.legend(fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=10, color=style.INK, y=0.99)
    return figure


def film_figure(frames: Sequence[Frame], pixels: np.ndarray, true_cxcywh: Tensor) -> Figure:
    """Draw one scene at some points: true boxes, the centre of every query's box, and lines from objects to owners."""
    figure, panels = style.row(len(frames), style.PAGE_IN / len(frames) + 0.25, 0.1, 0.35, left=0.1, gap=0.1, right=0.1)
    size = np.array(pixels.shape[1::-1])  # W, H
    for axes, frame in zip(panels, frames, strict=True):
        show_pixels(axes, pixels, alpha=0.55)
        draw_frame(axes, frame, true_cxcywh, size)
        axes.set_title(f"step {frame.step:,}", fontsize=9, color=style.INK, pad=3)
    return figure


def draw_frame(axes: Axes, frame: Frame, true_cxcywh: Tensor, size_px: np.ndarray) -> None:
    """Draw the objects orange, the queries as dots (filled: matched), and between them green lines; dashed: new."""
    centres = frame.boxes_cxcywh[:, :2] * size_px
    for box in cxcywh_to_xyxy(true_cxcywh).numpy() * np.tile(size_px, 2):
        style.draw_box(axes, box, style.OBJECT, "--", 1.5)
    for (x, y), query, new in zip(true_cxcywh[:, :2].numpy() * size_px, frame.query, frame.changed, strict=True):
        if query >= 0:
            line = "--" if new else "-"
            ends = [x, centres[query][0]], [y, centres[query][1]]
            axes.plot(*ends, color=style.MATCHED, linestyle=line, linewidth=2, path_effects=style.SEAM)
    for query, (x, y) in enumerate(centres):
        if query in frame.query:
            axes.plot(x, y, "o", color=style.QUERY, markersize=11, markeredgecolor="white", zorder=4)
            axes.text(x, y, str(query), fontsize=8, color="white", ha="center", va="center_baseline", zorder=5)
        else:
            axes.plot(x, y, "o", color="white", markersize=5, markeredgecolor=style.UNMATCHED)


def switch_figure(ways: Mapping[str, Mapping]) -> Figure:
    """Draw, by decoder layer and way of looking around: objects found, claims too many, and what NMS adds to AP."""
    figure, panels = style.row(3, 3.2, bottom=0.5, top=0.4, left=0.55, gap=0.65)
    for index, (name, way) in enumerate(ways.items()):
        layers = range(1, len(way["layers"]) + 1)
        line, marker = LOOKS[index]
        look = {"color": SHADES[index], "linestyle": line, "marker": marker, "markersize": 5, "label": name}
        panels[0].plot(layers, [100 * each["found"] / each["shown"] for each in way["layers"]], **look)
        panels[1].plot(layers, [each["again"] / each["found"] for each in way["layers"]], **look)
        panels[2].plot(layers, [100 * (each["nms"] - each["plain"]) for each in way["ap"]], **look)
    labels = ("objects found (%)", "repeated claims an object found", "gain of AP, in points")
    titles = ("How many objects are found", "How often each is claimed again", "What NMS would add to AP")
    for axes, label, title in zip(panels, labels, titles, strict=True):
        axes.set_xticks(list(layers))
        axes.set_xlabel("decoder layer", fontsize=9)
        axes.set_ylabel(label, fontsize=9)
        axes.set_title(title, fontsize=10, color=style.INK)
        style.tidy(axes)
    panels[0].set_ylim(0, 100)
    panels[1].set_ylim(bottom=0)
    panels[2].axhline(0, color="#BBBBBB", linewidth=0.8)
    panels[0].legend(fontsize=8, frameon=False, loc="lower left")
    return figure


def few_figure(
    curves: Mapping[str, Sequence[Mapping]], queries: Mapping[str, int], seconds: Mapping[int, float]
) -> Figure:
    """Draw recall against objects shown with the ceiling Q / T of each model, and the time of an image against Q."""
    figure, (left, right) = style.row(2, 3.2, bottom=0.5, top=0.4, left=0.6, gap=0.8)
    for index, (name, points) in enumerate(curves.items()):
        shown = [point["shown"] for point in points]
        line, marker = LOOKS[index]
        label = f"{name}, {queries[name]} queries"
        draw_recall(left, points, SHADES[index], line, marker, label)
        ceiling = [100 * min(1, queries[name] / count) for count in shown]
        if min(ceiling) < 100:
            left.plot(shown, ceiling, color=style.UNMATCHED, linestyle="-", linewidth=1)
            left.annotate(
                f"ceiling {queries[name]} / T",
                (shown[-2], ceiling[-2]),
                (0, -15),
                textcoords="offset points",
                fontsize=8,
                ha="center",
            )
    left.set(ylim=(0, 105), xlabel="objects shown, T", ylabel="objects found (%), 95 % interval")
    left.set_xticks(range(0, max(shown) + 1, 4))
    left.set_title("The small model falls long before its ceiling", fontsize=10, color=style.INK)
    left.legend(fontsize=8, frameon=False, loc="lower left")
    right.plot(list(seconds), [1000 * each for each in seconds.values()], color=style.QUERY, marker="o")
    right.set(xlabel="queries, Q", ylabel="time of one image (ms)", ylim=(0, None))
    right.set_title("Idle queries cost time, at first little", fontsize=10, color=style.INK)
    for axes in (left, right):
        axes.xaxis.label.set_size(9)
        axes.yaxis.label.set_size(9)
        style.tidy(axes)
    return figure


def draw_recall(axes: Axes, points: Sequence[Mapping], colour: str, line: str, marker: str, label: str) -> None:
    """Draw recall in per cent against objects shown (`like`, where few stand for many), with its interval."""
    shown = [point.get("like", point["shown"]) for point in points]
    middle, low, high = (100 * np.array([interval(p["found"], p["shown"]) for p in points])).T
    axes.plot(shown, middle, color=colour, linestyle=line, marker=marker, markersize=4, label=label)
    axes.fill_between(shown, low, high, color=colour, alpha=0.2, linewidth=0)


def counting_figure(curves: Mapping[str, Sequence[Mapping]], trained: int, queries: int) -> Figure:
    """Draw recall against objects shown, in a crowd and on grids; lines for training's most, the queries and chance."""
    figure, (left, right) = style.row(2, 3.7, bottom=0.5, top=0.6, left=0.6, gap=0.5)
    draw_recall(left, curves["crowd"], style.QUERY, "-", "o", "giraffes in a crowd")
    draw_recall(left, curves["few"], "#D55E00", "--", "s", "four giraffes, as small as in that crowd")
    draw_recall(right, curves["grid 5"], "#D55E00", "--", "s", "5 x 5 grid, larger cells")
    draw_recall(right, curves["grid 7"], style.QUERY, "-", "o", "7 x 7 grid")
    for axes, name in ((left, "crowd"), (right, "grid 7")):
        points = curves[name]
        chance = [100 * sum(p["by_chance"]) / (p["shown"] * len(p["by_chance"])) for p in points]
        axes.plot([p["shown"] for p in points], chance, color=style.UNMATCHED, linestyle=":", marker="x", markersize=4)
        axes.annotate(
            "chance", (points[-1]["shown"], chance[-1]), (-2, 5), textcoords="offset points", fontsize=8, ha="right"
        )
        for count, name in ((trained, "most in training"), (queries, "queries")):
            axes.axvline(count, color=style.INK, linestyle="-.", linewidth=0.8)
            axes.text(count, 106, f"{count}: {name}", fontsize=8, ha="center", va="bottom")
        axes.set(xlim=(0, queries + 2), ylim=(0, 105), xlabel="objects shown")
        axes.xaxis.label.set_size(9)
        style.tidy(axes)
    left.set_ylabel("objects found (%), 95 % interval", fontsize=9)
    left.set_title("In a crowd recall falls, and not for size alone", fontsize=10, color=style.INK, pad=18)
    right.set_title("It falls on a grid, where nothing overlaps", fontsize=10, color=style.INK, pad=18)
    left.legend(fontsize=8, frameon=False, loc="center", bbox_to_anchor=(0.63, 0.6))
    right.legend(fontsize=8, frameon=False, loc="center", bbox_to_anchor=(0.63, 0.75))
    return figure


def collapse_figure(path: Sequence[tuple[float, float]], cases: Mapping[str, tuple[float, float]]) -> Figure:
    """Draw spread over images against spread over queries, both logarithmic: a training's path, and single models."""
    figure, (axes,) = style.row(1, 4.0, bottom=0.55, top=0.4, left=0.8, right=2.6)
    floor = 1e-5  # what is smaller is drawn here
    images, queries = np.maximum(np.array(path).T, floor)
    axes.plot(
        images, queries, color=style.QUERY, linewidth=1, marker=".", markersize=4, label="a training, step by step"
    )
    axes.annotate("step 0", (images[0], queries[0]), (6, -10), textcoords="offset points", fontsize=8)
    axes.annotate("its end", (images[-1], queries[-1]), (8, -3), textcoords="offset points", fontsize=8)
    for (name, place), marker in zip(cases.items(), "osX^Dv", strict=False):
        x, y = np.maximum(place, floor)
        axes.plot(x, y, marker, color=SHADES[1], markersize=8, markerfacecolor="none", label=name)
    axes.set(xscale="log", yscale="log", xlim=(floor / 2, 1), ylim=(floor / 2, 1))
    axes.set_xlabel("spread over images: standard deviation of one query's box", fontsize=9)
    axes.set_ylabel("spread over queries: standard\ndeviation of one image's boxes", fontsize=9)
    axes.set_title("A healthy model is in the upper right corner", fontsize=10, color=style.INK)
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1))
    style.tidy(axes)
    return figure
