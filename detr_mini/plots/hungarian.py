"""Figures of notebook 02: pairings, cost tables, the steps of the Hungarian algorithm, and each cost term."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from detr_mini import hungarian, matching
from detr_mini.datasets.toybox import Toybox, ToyboxConfig
from detr_mini.plots import style

# Q queries · T true boxes · K classes · H, W image in px · N, M rows and columns of any cost matrix

Pairs = list[tuple[int, int]]  # (query, object)
FREE_FILL, FADED = "#FFF3C4", "#B0B0B0"  # a cell or edge of reduced cost 0; what is not yet in play
CLOSE = 1e-9
ASIDE = 0.22  # the path runs right of the numbers in a cell, in cells


@dataclass(frozen=True, eq=False)
class AssignmentState:
    """One image's predictions held against its objects: all costs, and who is matched with whom."""

    boxes_cxcywh: np.ndarray  # (Q, 4) predicted
    true_cxcywh: np.ndarray  # (T, 4)
    terms: dict[str, np.ndarray]  # "class", "L1", "GIoU": (Q, T) each, times its weight
    cost: np.ndarray  # (Q, T), their sum
    optimal: Pairs  # min(Q, T) pairs, sorted by query
    greedy: Pairs  # as many, in the order in which greedy takes them
    optimal_total: float
    greedy_total: float
    margin: float  # what the second-best assignment costs more; 0 in a tie, inf where there is no other


@dataclass(frozen=True, eq=False)
class Preset:
    """A scene with predictions that shows one property of the assignment; `says` puts it in words."""

    says: str
    image: np.ndarray  # (H, W, 3) uint8
    target: dict  # boxes (T, 4) cxcywh, labels (T,)
    boxes_cxcywh: Tensor  # (Q, 4)
    probabilities: Tensor  # (Q, K+1), "no object" last
    weights: matching.Weights = matching.Weights()  # noqa: RUF009, frozen


def assign(
    boxes_cxcywh: Tensor, probabilities: Tensor, target: dict, weights: matching.Weights | None = None
) -> AssignmentState:
    """Match predicted boxes (Q, 4) with class probabilities (Q, K+1) to one image's target (boxes, labels).

    The cost is `matching.cost`'s, the answer `hungarian.solve`'s, so that `hungarian.trace(state.cost)` steps to it.
    Raises ValueError where an input is not finite.
    """
    weights = weights or matching.Weights()
    padded = matching.pad_targets([target], torch.device("cpu"))
    logits, boxes = probabilities.double().log()[None, None], boxes_cxcywh.double()[None, None]  # (1, 1, Q, .)
    none = matching.Weights(0, 0, 0)
    alone = {
        "class": replace(none, label=weights.label),
        "L1": replace(none, l1=weights.l1),
        "GIoU": replace(none, giou=weights.giou),
    }
    terms = {n: matching.cost(logits, boxes, padded, w)[0, 0].numpy() for n, w in alone.items()}
    cost = sum(terms.values())
    optimal, greedily = _pairs(*hungarian.solve(cost)), greedy(cost)
    total = _total(cost, optimal)
    return AssignmentState(
        boxes_cxcywh=boxes[0, 0].numpy(),
        true_cxcywh=target["boxes"].float().numpy(),
        terms=terms,
        cost=cost,
        optimal=optimal,
        greedy=greedily,
        optimal_total=total,
        greedy_total=_total(cost, greedily),
        margin=_second_best(cost, optimal) - total,
    )


def greedy(cost: np.ndarray) -> Pairs:
    """Take the smallest entry (N, M), strike its row and column, repeat; the first of equals is taken."""
    left, pairs = np.asarray(cost, dtype=float).copy(), []
    for _ in range(min(left.shape)):
        row, column = map(int, np.unravel_index(left.argmin(), left.shape))
        pairs.append((row, column))
        left[row], left[:, column] = np.inf, np.inf
    return pairs


def presets() -> dict[str, Preset]:
    """Six situations on toybox scenes: greedy fails, and in a chain; class beats geometry, a tie, too many, none."""
    return {
        "greedy fails": _greedy_fails(),
        "a chain": _chain(),
        "class beats geometry": _class_beats_geometry(),
        "a tie": _tie(),
        "more objects than queries": _too_many(),
        "no objects": _nobody(),
    }


def pairings(
    boxes_cxcywh: np.ndarray | Tensor,
    true_cxcywh: np.ndarray | Tensor,
    choices: Mapping[str, Pairs],
    best: str = "",
    image: np.ndarray | None = None,
    columns: int = 3,
    window: tuple[float, float, float, float] = (0, 0, 1, 1),
    queries: Sequence[int] | None = None,
    bow: float = 0.0,
) -> Figure:
    """Draw one panel for each way to pair predictions (Q, 4) with objects (T, 4); `best` names the one to frame.

    `window` (x1, y1, x2, y2) cuts out a part of the unit square, behind which the image (H, W, 3) lies. `queries`
    leaves out all other predictions; `bow` bends the lines, so that those on one line come apart.
    """
    rows = -(-len(choices) // columns)
    side, aspect = style.PAGE_IN / columns, (window[3] - window[1]) / (window[2] - window[0])
    figure = style.new_figure(style.PAGE_IN, rows * (side * aspect + 0.32))
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(choices) :]:
        axes.axis("off")
    for axes, (title, pairs) in zip(grid.flat, choices.items(), strict=False):
        draw_pairing(axes, np.asarray(boxes_cxcywh), np.asarray(true_cxcywh), pairs, image, window, queries, bow)
        winner = title == best
        axes.set_title(title, fontsize=9, weight="bold" if winner else "normal", color=style.INK, pad=4)
        for spine in axes.spines.values():
            spine.set(edgecolor=style.MATCHED if winner else FADED, linewidth=3 if winner else 0.8)
    figure.tight_layout(pad=0.4, h_pad=0.8)
    return figure


def draw_pairing(
    axes: Axes,
    boxes_cxcywh: np.ndarray,
    true_cxcywh: np.ndarray,
    pairs: Pairs,
    image: np.ndarray | None = None,
    window: tuple[float, float, float, float] = (0, 0, 1, 1),
    queries: Sequence[int] | None = None,
    bow: float = 0.0,
) -> None:
    """Draw predictions (Q, 4), objects (T, 4) in 0..1 and a line for each pair, on the faded image if there is one."""
    if image is not None:
        faded = 255 - (255 - image.astype(float)) * 0.5  # lines and letters must read on it
        axes.imshow(faded.astype(np.uint8), extent=(0, 1, 1, 0), interpolation="nearest", aspect="auto")
    matched = {query for query, _ in pairs}
    for index, box in enumerate(true_cxcywh):
        _box(axes, box, style.OBJECT, "--", f"o{index}", True, window)
    for index in range(len(boxes_cxcywh)) if queries is None else queries:
        box = boxes_cxcywh[index]
        _box(axes, box, style.QUERY if index in matched else style.UNMATCHED, "-", f"q{index}", False, window)
    for query, true in pairs:
        (x, y), (X, Y) = boxes_cxcywh[query][:2], true_cxcywh[true][:2]
        look = {"arrowstyle": "-", "connectionstyle": f"arc3,rad={bow}", "color": style.MATCHED, "linewidth": 2.2}
        axes.annotate("", xy=(X, Y), xytext=(x, y), arrowprops=look | {"shrinkA": 0, "shrinkB": 0}).arrow_patch.set(
            path_effects=style.SEAM, zorder=4
        )
        axes.plot([x, X], [y, Y], "o", color=style.MATCHED, markersize=4, path_effects=style.SEAM, zorder=4)
    axes.set(xlim=(window[0], window[2]), ylim=(window[3], window[1]), xticks=[], yticks=[])


def tables(cost: np.ndarray, choices: Mapping[str, Pairs], number: str = "{:g}") -> Figure:
    """Draw the cost (Q, T) once for each choice of pairs, whose cells are framed and numbered as they were taken."""
    figure = style.new_figure(3.2 * len(choices), 0.55 + 0.42 * (len(cost) + 1))
    for axes, (title, pairs) in zip(figure.subplots(1, len(choices), squeeze=False)[0], choices.items(), strict=True):
        _grid(axes, cost.shape)
        for (row, column), value in np.ndenumerate(cost):
            axes.text(column, row, number.format(value), fontsize=11, ha="center", va="center", color=style.INK)
        for order, (row, column) in enumerate(pairs, 1):
            _frame(axes, row, column)
            axes.text(column + 0.4, row + 0.4, f"{order}.", fontsize=8, ha="right", va="bottom", color=style.INK)
        _names(axes, cost.shape)
        axes.set(xlim=(-1.1, cost.shape[1] - 0.4), ylim=(len(cost) - 0.4, -1.1), aspect="equal")
        axes.set_title(title, fontsize=10, color=style.INK, pad=4)
    figure.tight_layout(pad=0.4)
    return figure


def steps(cost: np.ndarray, taken: Sequence[hungarian.Step], shown: Sequence[int], columns: int = 4) -> Figure:
    """Draw chosen steps of a trace as cost tables (N, M) with potentials, slack and path.

    In a cell the cost stands above and the reduced cost below; cells of reduced cost 0 are tinted, matched ones
    framed. The path runs from its first cell: + enters the matching, - leaves it. Lines not yet added are pale;
    those that take part in the search have a dark name.
    """
    cost, rows = np.asarray(cost, dtype=float), -(-len(shown) // columns)
    across, down = cost.shape[1] + 3.0, cost.shape[0] + 3.3
    cell = style.PAGE_IN / columns / across
    figure = style.new_figure(style.PAGE_IN, rows * down * cell + 0.15)
    for index, number in enumerate(shown):
        row, column = divmod(index, columns)
        place = (column / columns, 1 - (row + 1) / rows, 1 / columns, 1 / rows)
        axes = figure.add_axes(place, xlim=(-2.2, across - 2.2), ylim=(down - 2.7, -2.7))
        before = taken[number - 1] if number else None
        _draw_step(axes, cost, taken[number], _what_happened(taken[number], before))
    return figure


def graphs(cost: np.ndarray, taken: Sequence[hungarian.Step], shown: Sequence[int]) -> Figure:
    """Draw chosen steps as bipartite graphs: edges of reduced cost 0 dotted, matched ones solid, the path's dashed."""
    cost = np.asarray(cost, dtype=float)
    figure = style.new_figure(style.PAGE_IN, 0.65 + 0.48 * max(cost.shape))
    for axes, number in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        _draw_graph(axes, cost, taken[number], _what_happened(taken[number], taken[number - 1] if number else None))
    figure.tight_layout(pad=0.5)
    return figure


def timings(measured: Mapping[str, tuple[Sequence[int], Sequence[float]]], title: str) -> Figure:
    """Draw seconds against n for each method, both logarithmic; `measured` maps a name to (sizes, seconds)."""
    figure = style.new_figure(7.5, 4.2)
    axes = figure.add_subplot()
    looks = zip((style.UNMATCHED, style.QUERY, style.MATCHED), "s^o", ("--", "-.", "-"), strict=True)
    for (name, (sizes, seconds)), (colour, marker, line) in zip(measured.items(), looks, strict=False):
        axes.loglog(sizes, seconds, line, marker=marker, color=colour, label=name, linewidth=1.8, markersize=6)
        axes.annotate(
            name, (sizes[-1], seconds[-1]), xytext=(8, 0), textcoords="offset points", fontsize=9, va="center"
        )
    axes.set_xlabel("n, queries and objects of an n x n cost matrix", fontsize=9)
    axes.set_ylabel("time of one assignment (s)", fontsize=9)
    axes.set_title(title, fontsize=10, color=style.INK)
    axes.grid(which="major", color="#DDDDDD")
    axes.tick_params(labelsize=8.5)
    largest = max(max(sizes) for sizes, _ in measured.values())
    axes.set_xlim(right=largest * 4)  # room for the names
    figure.tight_layout(pad=0.5)
    return figure


def class_scales(spreads: Mapping[str, Mapping[str, np.ndarray]], title: str) -> Figure:
    """Beside the two prices of a probability, how far each weighted cost term differs between queries.

    `spreads` maps a model to its terms, a term to one positive number for each object: the standard deviation of the
    object's column. A number added to a whole column changes no match, so the level of a column says nothing.
    """
    figure = style.new_figure(style.PAGE_IN, 3.7)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.5))
    p = np.geomspace(1e-4, 1, 200)
    left.semilogx(p, -np.log(p), "--", color=style.UNMATCHED, linewidth=2)
    left.semilogx(p, -p, "-", color=style.QUERY, linewidth=2)
    left.text(6e-4, 7.9, "$-\\log p$", fontsize=10, color=style.UNMATCHED)
    left.text(6e-4, -1.0, "$-p$", fontsize=10, color=style.QUERY)
    left.set_xlabel("probability p of the object's class", fontsize=9)
    left.set_ylabel("class cost of the pair", fontsize=9)
    left.set_title("One stays within 1, the other has no end", fontsize=10, color=style.INK)
    left.set_ylim(-1.6, 9.8)
    looks = zip((style.QUERY, style.UNMATCHED), ("o", "s"), strict=True)
    names = list(next(iter(spreads.values())))
    for (model, terms), (colour, marker), shift in zip(spreads.items(), looks, (-0.15, 0.15), strict=False):
        for place, name in enumerate(names):
            low, q1, middle, q3, high = np.quantile(terms[name], (0.01, 0.25, 0.5, 0.75, 0.99))
            y = place + shift
            right.plot([low, high], [y, y], color=colour, linewidth=1.2)
            right.plot([q1, q3], [y, y], color=colour, linewidth=6, solid_capstyle="butt")
            right.plot(middle, y, marker, color="white", markeredgecolor=colour, markersize=6)
        right.plot([], [], "-" + marker, color=colour, linewidth=3, markerfacecolor="white", label=model)
    right.set_yticks(range(len(names)), names)
    right.invert_yaxis()
    right.set_xscale("log")
    right.set_xlabel("st. dev. over an object's queries; half of the objects thick, 98 % thin", fontsize=9)
    right.set_title(title, fontsize=10, color=style.INK)
    right.legend(fontsize=8.5, loc="center", frameon=False)
    for axes in (left, right):
        axes.grid(color="#DDDDDD")
        axes.tick_params(labelsize=9)
    figure.tight_layout(pad=0.5)
    return figure


def assignments(rows: Sequence[tuple[str, np.ndarray, AssignmentState]]) -> Figure:
    """Draw for each (title, image (H, W, 3), state) the optimal pairs, greedy's, and the cost table between them.

    In the table a solid frame is an optimal pair, a dashed one greedy's; below each cost its three terms.
    """
    high = 2.95
    figure = style.new_figure(style.PAGE_IN, high * len(rows))
    for index, (title, image, state) in enumerate(rows):
        top = 1 - index / len(rows)
        unit = 1 / len(rows) / high  # one inch, as a share of the figure's height
        figure.text(0.008, top - 0.13 * unit, title, fontsize=10, weight="bold", color=style.INK, va="center")
        bottom, tall = top - 2.7 * unit, 2.2 * unit
        for left, name, pairs, total in (
            (0.008, "optimal", state.optimal, state.optimal_total),
            (0.262, "greedy", state.greedy, state.greedy_total),
        ):
            axes = figure.add_axes((left, bottom, 2.2 / style.PAGE_IN, tall))
            draw_pairing(axes, state.boxes_cxcywh, state.true_cxcywh, pairs, image)
            axes.set_title(f"{name}: {total:.2f}", fontsize=9, color=style.INK, pad=3)
        wide = min(0.43, 0.17 * max(1, state.cost.shape[1])) if state.cost.size else 0.43
        _heat(figure.add_axes((0.545 + (0.43 - wide) / 2, bottom, wide, tall)), state)
    return figure


def _heat(axes: Axes, state: AssignmentState) -> None:
    queries, objects = state.cost.shape
    axes.set_title("cost = class + L1 + GIoU", fontsize=9, color=style.INK, pad=3)
    if not state.cost.size:
        axes.axis("off")
        words = f"{queries} queries x {objects} objects:\nan empty table, nothing to pay"
        if not objects:
            words += ",\nall queries learn to say nothing"
        axes.text(0.5, 0.5, words, fontsize=9, ha="center", va="center", transform=axes.transAxes, color=style.INK)
        return
    axes.imshow(state.cost, cmap=style.HEAT, aspect="auto")
    low, high, digits = state.cost.min(), state.cost.max(), ".2f" if objects < 4 else ".1f"
    for (row, column), value in np.ndenumerate(state.cost):
        ink = "black" if value - low > 0.6 * (high - low) else "white"
        parts = " ".join(f"{term[row, column]:+{digits}}" for term in state.terms.values())
        axes.text(column, row - 0.12, f"{value:.2f}", fontsize=9.5, ha="center", va="center", color=ink, weight="bold")
        axes.text(column, row + 0.24, parts, fontsize=8, ha="center", va="center", color=ink)
    for row, column in state.optimal:
        _frame(axes, row, column, inset=0.03)
    for row, column in state.greedy:
        for colour, line in (("white", "-"), (style.INK, (0, (3, 2)))):
            options = {"fill": False, "edgecolor": colour, "linestyle": line, "linewidth": 1.8}
            axes.add_patch(Rectangle((column - 0.42, row - 0.4), 0.84, 0.8, **options))
    axes.set_yticks(range(queries), [f"q{row}" for row in range(queries)], fontsize=8.5, color=style.INK)
    axes.set_xticks(range(objects), [f"o{column}" for column in range(objects)], fontsize=8.5, color=style.INK)
    axes.xaxis.set_ticks_position("bottom")
    axes.tick_params(length=0, pad=1)


def _box(axes: Axes, box_cxcywh: np.ndarray, colour: str, line: str, name: str, low: bool, window: tuple) -> None:
    cx, cy, w, h = (float(side) for side in box_cxcywh)
    style.draw_box(axes, (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), colour, line)
    paper = {"boxstyle": "square,pad=0.12", "facecolor": "white", "edgecolor": colour, "linewidth": 0.8}
    x1, y1, x2, y2 = window
    margin = 0.05 * (x2 - x1)
    x = min(max(cx + (-0.5 if low else 0.5) * w, x1 + margin), x2 - margin)  # objects low left, predictions high right
    y = min(max(cy + (0.5 if low else -0.5) * h, y1 + margin), y2 - margin)
    axes.text(x, y, name, fontsize=8, color=style.INK, ha="center", va="center", bbox=paper, zorder=5)


def _grid(axes: Axes, shape: tuple[int, int]) -> None:
    for row, column in np.ndindex(*shape):
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor="white", edgecolor=FADED, linewidth=0.8))
    axes.axis("off")


def _frame(axes: Axes, row: int, column: int, inset: float = 0.06) -> None:
    side = 1 - 2 * inset
    corner = (column - 0.5 + inset, row - 0.5 + inset)
    axes.add_patch(Rectangle(corner, side, side, fill=False, edgecolor=style.MATCHED, linewidth=2.6, zorder=3))


def _names(axes: Axes, shape: tuple[int, int]) -> None:
    for row in range(shape[0]):
        axes.text(-0.8, row, f"q{row}", fontsize=10, ha="center", va="center", color=style.QUERY)
    for column in range(shape[1]):
        axes.text(column, -0.8, f"o{column}", fontsize=10, ha="center", va="center", color=style.INK)


def _search(step: hungarian.Step) -> tuple[set[int], set[int]]:
    """The rows and columns that take part in the search at this step."""
    if step.kind == "augment":
        return set(), set()
    reached = set(np.flatnonzero(step.visited).tolist())
    pairs = step.matching.items()
    if step.adds == "rows":
        return {step.added} | {row for row, column in pairs if column in reached}, reached
    return reached, {step.added} | {column for row, column in pairs if row in reached}


def _what_happened(step: hungarian.Step, before: hungarian.Step | None) -> str:
    shorter, longer = ("q", "o") if step.adds == "rows" else ("o", "q")
    if step.kind == "start":
        return f"{shorter}{step.added} enters"
    if step.kind == "augment":
        return f"{shorter}{step.added} matched" + (": path flipped" if len(step.path) > 1 else "")
    potentials = [s.row_potentials if s.adds == "rows" else s.column_potentials for s in (step, before)]
    rise = potentials[0][step.added] - potentials[1][step.added]
    return f"rise {rise:g}, reach {longer}{step.reached}"


def _draw_step(axes: Axes, cost: np.ndarray, step: hungarian.Step, title: str) -> None:
    u, v = step.row_potentials, step.column_potentials
    reduced = cost - u[:, None] - v
    rows, columns = cost.shape
    in_rows, in_columns = _search(step)
    by_rows = step.adds == "rows"
    _grid(axes, cost.shape)
    for (row, column), value in np.ndenumerate(reduced):
        known = (row if by_rows else column) <= step.added
        if known and abs(value) < CLOSE:
            corner = (column - 0.5, row - 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, facecolor=FREE_FILL, edgecolor=FADED, linewidth=0.8))
        centred = {"ha": "center", "va": "center"}
        pale = style.UNMATCHED if known else FADED
        axes.text(column - 0.2, row - 0.24, f"{cost[row, column]:g}", fontsize=8, color=pale, **centred)
        if known:
            axes.text(column - 0.2, row + 0.22, f"{value:g}", fontsize=9.5, weight="bold", color=style.INK, **centred)
    for row, column in step.matching.items():
        _frame(axes, row, column)
    _lines(axes, 0, [f"q{row}" for row in range(rows)], u, in_rows, known=step.added + 1 if by_rows else rows)
    _lines(axes, 1, [f"o{c}" for c in range(columns)], v, in_columns, known=columns if by_rows else step.added + 1)
    if step.kind != "augment":
        _slack(axes, step, cost.shape)
        if step.path:
            _path(axes, step.path)
    axes.text(-2.1, -2.3, title, fontsize=9, weight="bold", color=style.INK, va="center")


def _lines(axes: Axes, way: int, names: list[str], potentials: np.ndarray, searching: set[int], known: int) -> None:
    """Names and potentials of the rows (way 0, at the left) or the columns (way 1, on top)."""
    for index, (name, potential) in enumerate(zip(names, potentials, strict=True)):
        dark = index in searching
        paper = {"boxstyle": "square,pad=0.15", "facecolor": style.INK if dark else "white", "edgecolor": "none"}
        at, value_at = ((-1.75, index), (-0.95, index)) if way == 0 else ((index, -1.6), (index, -0.9))
        ink = "white" if dark else style.INK if index < known else FADED
        centred = {"ha": "center", "va": "center"}
        axes.text(*at, name, fontsize=8, color=ink, bbox=paper, **centred)
        value_ink = style.INK if index < known else FADED
        axes.text(*value_at, f"{potential:g}", fontsize=8.5, color=value_ink, style="italic", **centred)


def _slack(axes: Axes, step: hungarian.Step, shape: tuple[int, int]) -> None:
    for index, value in enumerate(step.slack):
        text = "in" if step.visited[index] else f"{value:g}"
        at = (index, shape[0] - 0.2) if step.adds == "rows" else (shape[1] - 0.1, index)
        axes.text(*at, text, fontsize=8, color=style.UNMATCHED, ha="center", va="center")
    at = (-1.3, shape[0] - 0.2) if step.adds == "rows" else (shape[1] - 0.1, -0.9)
    axes.text(*at, "slack", fontsize=8, color=style.UNMATCHED, ha="center", va="center")


def _path(axes: Axes, path: list[tuple[int, int]]) -> None:
    for (row, column), (next_row, next_column) in zip(path[:-1], path[1:], strict=True):
        arrow = {"arrowstyle": "-|>", "color": style.QUERY, "linewidth": 1.8, "shrinkA": 4, "shrinkB": 5}
        start, end = (column + ASIDE, row), (next_column + ASIDE, next_row)
        axes.annotate("", xy=end, xytext=start, arrowprops=arrow, zorder=4)
    for place, (row, column) in enumerate(path):
        at = (column + ASIDE, row)
        axes.plot(*at, "o", color=style.QUERY, markersize=11, zorder=5)
        axes.plot(*at, marker="_" if place % 2 else "+", color="white", markersize=7, markeredgewidth=1.8, zorder=6)


def _draw_graph(axes: Axes, cost: np.ndarray, step: hungarian.Step, title: str) -> None:
    rows, columns = cost.shape
    reduced = cost - step.row_potentials[:, None] - step.column_potentials
    path = step.path if step.kind == "visit" else []
    left, right = np.linspace(0, 1, rows + 2)[1:-1], np.linspace(0, 1, columns + 2)[1:-1]
    for row, column in zip(*np.nonzero(np.abs(reduced) < CLOSE), strict=True):
        if (row if step.adds == "rows" else column) <= step.added:
            axes.plot([0, 1], [left[row], right[column]], ":", color=style.UNMATCHED, linewidth=1.2, zorder=1)
    for row, column in step.matching.items():
        axes.plot([0, 1], [left[row], right[column]], "-", color=style.MATCHED, linewidth=3.5, zorder=2)
    for place, (row, column) in enumerate(path):
        start, end = (0.08, left[row]), (0.92, right[column])
        forward = (place % 2 == 0) == (step.adds == "rows")
        if not forward:
            start, end = end, start
        arrow = {"arrowstyle": "-|>", "color": style.INK, "linewidth": 1.6, "linestyle": "--", "mutation_scale": 13}
        axes.annotate("", xy=end, xytext=start, arrowprops=arrow, zorder=4)
    words = {"fontsize": 9.5, "ha": "center", "va": "center", "color": "white", "zorder": 6}
    for row in range(rows):
        axes.plot(0, left[row], "o", color=style.QUERY, markersize=19, zorder=5)
        axes.text(0, left[row], f"q{row}", **words)
    for column in range(columns):
        axes.plot(1, right[column], "s", color=style.OBJECT, markersize=18, zorder=5)
        axes.text(1, right[column], f"o{column}", **(words | {"color": style.INK}))
    axes.set(xlim=(-0.2, 1.2), ylim=(1, 0))
    axes.axis("off")
    axes.set_title(title, fontsize=9.5, color=style.INK, weight="bold", pad=2)


def _pairs(rows: np.ndarray, columns: np.ndarray) -> Pairs:
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


def _total(cost: np.ndarray, pairs: Pairs) -> float:
    return float(sum(cost[pair] for pair in pairs))


def _second_best(cost: np.ndarray, optimal: Pairs) -> float:
    """The least total of another assignment: at least one of the optimal pairs is not in it."""
    best, forbidden = np.inf, 2 * np.abs(cost).sum() + 1
    for pair in optimal:
        without = cost.copy()
        without[pair] = forbidden
        others = _pairs(*hungarian.solve(without))
        if pair not in others:
            best = min(best, _total(cost, others))
    return best


def _scene(index: int, **config) -> tuple[np.ndarray, dict]:
    image, target = Toybox(ToyboxConfig(**config), 1000, seed=0, split="test")[index]
    return image.permute(1, 2, 0).numpy(), target  # (3, H, W) -> (H, W, 3)


def _sure(labels: Sequence[int], p: float = 0.9, classes: int = 20) -> Tensor:
    """Probabilities (Q, K+1) of queries that give `labels` probability p, "no object" the rest."""
    probabilities = torch.zeros(len(labels), classes + 1)
    probabilities[range(len(labels)), list(labels)] = p
    probabilities[:, -1] = 1 - p
    return probabilities


def _greedy_fails() -> Preset:
    image, target = _scene(39)
    car, chair = target["boxes"]
    boxes = torch.stack([car + step * (chair - car) for step in (-0.5, 0.45)])  # before the car, and between the two
    undecided = _sure(target["labels"].tolist(), 0.4)
    undecided[:, target["labels"]] = 0.4
    undecided[:, -1] = 0.2
    says = "q1 is a little nearer to o0 than q0 is; greedy takes it, and q0 must go far"
    return Preset(says, image, target, boxes, undecided)


def _chain() -> Preset:
    image, target = _scene(432)
    zebra, car, bird = target["boxes"][[1, 2, 0]]  # from above to below, nearly on one line
    boxes = torch.stack([car + 0.4 * (bird - car), zebra + 0.4 * (car - zebra), zebra - 0.5 * (car - zebra)])
    undecided = torch.zeros(3, 21)
    undecided[:, target["labels"]] = 0.3
    undecided[:, -1] = 0.1
    says = "q0 and q1 are nearer to the object behind them; if each takes the next one, q2 need not go far"
    return Preset(says, image, target, boxes, undecided)


def _class_beats_geometry() -> Preset:
    image, target = _scene(169)
    one, two = target["boxes"]
    boxes = torch.stack([one + step * (two - one) for step in (0.44, 0.56)])
    boxes[:, 1] -= torch.tensor([0.15, 0.03])  # above the objects, and one above the other, so that both are seen
    says = "each box lies nearer to one object and names the other's class: the class decides"
    return Preset(says, image, target, boxes, _sure(target["labels"].tolist()[::-1], 0.9))


def _tie() -> Preset:
    image, target = _scene(41)
    shift = torch.tensor([4 / 64, 0, 0, 0])
    boxes = torch.cat([target["boxes"] - shift, target["boxes"] + shift])
    says = "two queries are equally good: either may be taken, here the first"
    return Preset(says, image, target, boxes, _sure(target["labels"].tolist() * 2, 0.8))


def _too_many() -> Preset:
    image, target = _scene(46)
    boxes = target["boxes"][[3, 1, 0]] + torch.tensor([[0.05, 0.03, 0.02, 0], [-0.04, 0, 0, 0.03], [0.02, 0.05, 0, 0]])
    labels = target["labels"][[3, 1, 0]].tolist()
    says = "three queries, four objects: one object is left out, and nothing is learned from it"
    return Preset(says, image, target, boxes, _sure(labels, 0.8))


def _nobody() -> Preset:
    image, target = _scene(0, objects=(0, 0))
    boxes = torch.tensor([[0.3, 0.4, 0.3, 0.3], [0.7, 0.6, 0.2, 0.4]])
    says = "nothing to match: every query should say that there is nothing"
    return Preset(says, image, target, boxes, _sure([0, 1], 0.5))
