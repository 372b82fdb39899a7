"""Checks of notebook 02: greedy's loss, an augmenting step, the matching cost, class against geometry."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from detr_mini import hungarian
from detr_mini.boxes import cxcywh_to_xyxy, giou, iou, xyxy_to_cxcywh
from detr_mini.checks.verdict import Open, Wrong, ask, compare, exercise

# Q queries · T true boxes · K classes

CLOSE = 1e-6
THREE_OBJECTS = ((0.2, 0.5, 0.08, 0.2), (0.5, 0.5, 0.08, 0.2), (0.8, 0.5, 0.08, 0.2))  # cxcywh, exercise 1
PREDICTED = ((0.47, 0.5, 0.2, 0.3), (0.53, 0.5, 0.2, 0.3))  # cxcywh, exercise 4
CAT_AND_DOG = ((0.35, 0.5, 0.2, 0.3), (0.65, 0.5, 0.2, 0.3))


@exercise(1, "The cheapest pair first is a bargain that the last pair pays for.")
def greedy_pays_double(predicted) -> None:
    """Three predicted boxes (3, 4) cxcywh for which greedy's total L1 is at least twice the smallest."""
    boxes = np.asarray(predicted, dtype=float)
    if boxes.shape != (3, 4):
        raise Wrong(f"your boxes have shape {boxes.shape}, wanted (3, 4): one row (cx, cy, w, h) a prediction")
    if (boxes > 1.5).any():
        raise Wrong("a number is above 1: boxes are given relative to the image, 0..1, not in pixels")
    as_corners = xyxy_to_cxcywh(torch.tensor(boxes)).numpy()
    if _fault(boxes) and not _fault(as_corners):
        raise Wrong("this is right if the rows are corners (x1, y1, x2, y2); wanted (cx, cy, w, h)")
    if fault := _fault(boxes):
        raise Wrong(fault)


@exercise(2, "Nobody lost a partner for good: each owner on the path moved to another free cell.")
def augment(answer: Callable) -> None:
    """`augment(cost, u, v, matching, row)`: the matching with one row more, along free cells."""
    for place, (where, cost, u, v, matching, row) in enumerate(_augmentations()):
        given = dict(matching)
        try:
            found = ask(answer, cost.copy(), u.copy(), v.copy(), given, row)
        except RecursionError:
            raise Wrong(f"{where}: the search goes in circles; mark each column as asked, and ask it once") from None
        except Open:
            if place == 0:
                raise
            found = dict(matching)  # a search that found no path and returned nothing
        _judge_augmentation(where, cost - u[:, None] - v, matching, row, found)
        if given != matching:
            raise Wrong(f"{where}: the matching that was handed in has changed; work on a copy, dict(matching)")


@exercise(3, "This table, and nothing else, decides who learns what.")
def cost_matrix(answer: Callable) -> None:
    """`cost_matrix(logits (Q, K+1), boxes (Q, 4), labels (T,), true boxes (T, 4))`: the (Q, T) cost at 1, 5, 2."""
    for where, queries, objects in (("5 queries, 3 objects", 5, 3), ("no objects", 5, 0), ("4 and 4", 4, 4)):
        logits, boxes, labels, true = _predictions(queries, objects)
        got = ask(answer, logits.clone(), boxes.clone(), labels.clone(), true.clone())
        got = got.detach() if isinstance(got, Tensor) else np.asarray(got, dtype=float)
        terms = _terms(logits, boxes, labels, true)
        compare(where, got, _sum(**terms), _cost_mistakes(terms, logits, boxes, labels, true), tolerance=1e-4)


@exercise(4, "Two sure queries outweigh boxes that lie nearer; one alone could not.")
def class_flips(probabilities) -> None:
    """Probabilities (2, 3) of (cat, dog, no object) with which q0 gets the dog although it lies nearer to the cat."""
    p = np.asarray(probabilities, dtype=float)
    if p.shape == (3, 2):
        raise Wrong("your table has shape (3, 2): a row for each of the two queries, a column for each class")
    if p.shape != (2, 3):
        raise Wrong(f"your table has shape {p.shape}, wanted (2, 3): cat, dog, no object for each query")
    if fault := _not_probabilities(p):
        raise Wrong(fault)
    against, gain = against_crossing(), _crossing(p)
    if gain > against + CLOSE:
        return
    numbers = f"your classes favour the crossed pairs by {gain:.2f}, geometry is against them by {against:.2f}"
    if _crossing(p[:, [1, 2, 0]]) > against + CLOSE:
        raise Wrong('this is right if "no object" is the first column; in DETR it is the last')
    if gain < 0:
        raise Wrong(f"the classes side with geometry: q0 lies near the cat and must speak for the dog ({numbers})")
    if min(p[0, 1] - p[0, 0], p[1, 0] - p[1, 1]) <= CLOSE:
        raise Wrong(f"only one query speaks for the other object, and one alone has at most 1 to say: {numbers}")
    raise Wrong(f"not sure enough: {numbers}")


def l1(boxes_cxcywh, true_cxcywh) -> np.ndarray:
    """The L1 cost (Q, T) alone, unweighted: summed difference of the four numbers."""
    boxes, true = (np.asarray(given, dtype=float) for given in (boxes_cxcywh, true_cxcywh))
    return np.abs(boxes[:, None] - true).sum(-1)  # (Q, 1, 4) - (T, 4) -> (Q, T)


def against_crossing() -> float:
    """By how much the boxes of exercise 4 (L1 and GIoU, weighted) prefer q0-cat, q1-dog to q0-dog, q1-cat."""
    boxes, true = torch.tensor(PREDICTED), torch.tensor(CAT_AND_DOG)
    geometry = 5 * torch.tensor(l1(boxes, true)) - 2 * giou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(true))
    return float(geometry[0, 1] + geometry[1, 0] - geometry[0, 0] - geometry[1, 1])


def _fault(boxes: np.ndarray) -> str:
    """What is wrong with an answer to exercise 1; nothing where it is right."""
    corners = cxcywh_to_xyxy(torch.tensor(boxes)).numpy()
    if (boxes[:, 2:] <= 0).any():
        return "a box has no width or no height: the order is (cx, cy, w, h)"
    if corners.min() < -CLOSE or corners.max() > 1 + CLOSE:
        return "a box leaves the image: cx - w/2 and cy - h/2 must be at least 0, cx + w/2 and cy + h/2 at most 1"
    cost = l1(boxes, THREE_OBJECTS)
    best, pays = cost[hungarian.solve(cost)].sum(), _greedy_total(cost)
    if best < CLOSE:
        return "each box lies exactly on an object: the smallest total is 0, and so is greedy's"
    numbers = f"greedy pays {pays:.3f}, the best assignment {best:.3f}, a ratio of {pays / best:.2f}"
    if pays >= 2 * best - CLOSE:
        return ""
    if _query_by_query(cost) >= 2 * best - CLOSE:
        return f"this ruins a greedy that serves q0, then q1; ours takes the smallest entry of the table: {numbers}"
    if pays <= best + CLOSE:
        return "greedy finds the best assignment here: no wrong pair is the cheapest entry of the table"
    return f"greedy loses, but not enough: {numbers}"


def _greedy_total(cost: np.ndarray) -> float:
    left, total = cost.copy(), 0.0
    for _ in range(len(cost)):
        row, column = np.unravel_index(left.argmin(), left.shape)
        total += left[row, column]
        left[row], left[:, column] = np.inf, np.inf
    return total


def _query_by_query(cost: np.ndarray) -> float:
    left, total = cost.copy(), 0.0
    for row in left:
        column = row.argmin()
        total += row[column]
        left[:, column] = np.inf
    return total


def _augmentations() -> list[tuple]:
    """(what it shows, cost, u, v, matching, row to add): states in which a free path exists."""
    three = np.array([[1.0, 2.0, 9.0], [4.0, 9.0, 3.0], [5.0, 6.0, 7.0]])
    direct = (three, np.array([2.0, 3.0, 0.0]), np.array([-1.0, 0.0, 0.0]), {0: 0}, 1)
    two = np.array([[1.0, 2.0], [3.0, 9.0]])
    path = (two, np.array([2.0, 4.0]), np.array([-1.0, 0.0]), {0: 0}, 1)
    blind = np.array([[5.0, 5.0, 9.0, 9.0], [5.0, 9.0, 9.0, 9.0], [9.0, 5.0, 5.0, 9.0], [5.0, 9.0, 9.0, 5.0]])
    maze = (blind, np.full(4, 5.0), np.zeros(4), {1: 0, 2: 1, 3: 3}, 0)
    *_, before, _last = hungarian.trace(TENTHS)
    matching = {row: column for row, column in before.matching.items() if row != before.added}
    tenths = (TENTHS, before.row_potentials, before.column_potentials, matching, before.added)
    names = ("a column without owner", "the column is taken", "the first free cell leads nowhere", "costs in tenths")
    return [(name, *case) for name, case in zip(names, (direct, path, maze, tenths), strict=True)]


TENTHS = np.array([[0.3, 0.7, 0.9], [0.1, 0.4, 0.8], [0.2, 0.6, 0.9]])  # the potentials do not add up in binary


def _judge_augmentation(where: str, reduced: np.ndarray, matching: dict, row: int, found) -> None:
    if not isinstance(found, dict):
        raise Wrong(f"{where}: wanted a dictionary row -> column, got {type(found).__name__}")
    found = {int(r): int(c) for r, c in found.items()}
    if _is_right(found, reduced, matching, row):
        return
    if found != matching and _is_right({c: r for r, c in found.items()}, reduced, matching, row):
        raise Wrong(f"{where}: your dictionary goes from column to row, wanted row -> column")
    if found == matching and where == "costs in tenths":
        raise Wrong(f"{where}: row {row} found no free cell; rounding leaves 1e-17 where 0 is meant: compare with 1e-9")
    if found == matching and where == "a column without owner":
        raise Wrong(f"{where}: row {row} found no free cell; a cell is free where cost - u - v is 0")
    if found == matching:
        raise Wrong(f"{where}: row {row} is still alone; ask the owner of the column that it wants to move to another")
    if lost := set(matching) - set(found):
        raise Wrong(f"{where}: row {min(lost)} had a column and has none now; whoever is driven out must move on")
    if len(set(found.values())) < len(found):
        raise Wrong(f"{where}: two rows share a column; where a cell enters, the owner's old cell must leave")
    bad = [(r, c) for r, c in found.items() if not abs(reduced[r, c]) < CLOSE]
    if bad:
        raise Wrong(f"{where}: cell {bad[0]} is not free: its reduced cost is {reduced[bad[0]]:g}, not 0")
    raise Wrong(f"{where}: got {found}, wanted the rows {sorted({*matching, row})} matched by free cells")


def _is_right(found: dict, reduced: np.ndarray, matching: dict, row: int) -> bool:
    if set(found) != {*matching, row} or len(set(found.values())) < len(found):
        return False
    n, m = reduced.shape
    return all(0 <= r < n and 0 <= c < m and abs(reduced[r, c]) < CLOSE for r, c in found.items())


def _predictions(queries: int, objects: int, classes: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(10 * queries + objects)
    logits = 2 * torch.randn(queries, classes + 1, generator=generator)
    boxes, true = (torch.rand(n, 4, generator=generator) * 0.3 + 0.3 for n in (queries, objects))
    return logits, boxes, torch.randint(0, classes, (objects,), generator=generator), true


def _terms(logits: Tensor, boxes: Tensor, labels: Tensor, true: Tensor) -> dict[str, Tensor]:
    """The unweighted terms, each (Q, T): probability, L1 and GIoU."""
    overlap = giou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(true))
    return {"p": logits.softmax(-1)[:, labels], "l1": (boxes[:, None] - true).abs().sum(-1), "giou": overlap}


def _sum(p: Tensor, l1: Tensor, giou: Tensor, weights: tuple = (-1, 5, -2)) -> Tensor:
    return weights[0] * p + weights[1] * l1 + weights[2] * giou


def _cost_mistakes(terms: dict, logits: Tensor, boxes: Tensor, labels: Tensor, true: Tensor) -> dict[str, Tensor]:
    corners = cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(true)
    right = _sum(**terms)
    without = logits[:, :-1].softmax(-1)[:, labels]
    return {
        "transposed: queries are the rows, objects the columns": right.T,
        "this is minus the log-probability; matching takes minus the probability": _sum(
            **terms | {"p": logits.log_softmax(-1)[:, labels]}
        ),
        'the softmax leaves "no object" out; it runs over all K+1 classes': _sum(**terms | {"p": without}),
        "these are logits: take the softmax first": _sum(**terms | {"p": logits[:, labels]}),
        "the softmax runs over the queries; wanted over each query's classes": _sum(
            **terms | {"p": logits.softmax(0)[:, labels]}
        ),
        "this is each query's largest probability; wanted that of the object's class": _sum(
            **terms | {"p": logits.softmax(-1).amax(-1, keepdim=True).expand(-1, len(labels))}
        ),
        "each class has a sigmoid of its own here; DETR takes a softmax over all": _sum(
            **terms | {"p": logits.sigmoid()[:, labels]}
        ),
        "the probability has the wrong sign: a sure query must cost less": _sum(**terms, weights=(1, 5, -2)),
        "IoU instead of GIoU": _sum(**terms | {"giou": iou(*corners)}),
        "the GIoU is taken of (cx, cy, w, h) as if these were corners: convert first": _sum(
            **terms | {"giou": giou(boxes, true)}
        ),
        "the GIoU has the wrong sign: overlap must cost less": _sum(**terms, weights=(-1, 5, 2)),
        "L1 is taken between corners; wanted between (cx, cy, w, h)": _sum(
            **terms | {"l1": (corners[0][:, None] - corners[1]).abs().sum(-1)}
        ),
        "L1 is the sum of the four differences, not their mean": _sum(**terms | {"l1": terms["l1"] / 4}),
        "L1 takes differences without sign, not squared": _sum(
            **terms | {"l1": (boxes[:, None] - true).square().sum(-1)}
        ),
        "the distance is the Euclidean one; L1 sums the four differences (torch.cdist needs p=1)": _sum(
            **terms | {"l1": (boxes[:, None] - true).square().sum(-1).sqrt()}
        ),
        "the weights 1, 5 and 2 are missing": _sum(**terms, weights=(-1, 1, -1)),
        "the weights 5 and 2 are exchanged": _sum(**terms, weights=(-1, 2, -5)),
        "too high by 2 everywhere: 1 - GIoU belongs to the loss; the match would be the same": right + 2,
        "too high by 1 everywhere: 1 - p instead of -p; the match would be the same": right + 1,
        "too high by 3 everywhere: 1 - p and 1 - GIoU; the match would be the same": right + 3,
    }


def _crossing(p: np.ndarray) -> float:
    """By how much the class terms prefer q0-dog, q1-cat."""
    return float(p[0, 1] + p[1, 0] - p[0, 0] - p[1, 1])


def _not_probabilities(p: np.ndarray) -> str:
    if (p <= 0).all() and np.allclose(np.exp(p).sum(1), 1, atol=1e-2):
        return "these are log-probabilities; wanted the probabilities themselves"
    if (p >= 0).all() and np.allclose(p.sum(1), 100, atol=1):
        return "these are per cent: a row of probabilities adds up to 1"
    if (p < 0).any() or (p > 1).any():
        return "a number is outside 0..1: logits? Wanted what the softmax makes of them"
    if not np.allclose(p.sum(1), 1, atol=1e-3):
        if np.allclose(p.sum(0), 1, atol=1e-3):
            return "the columns add up to 1; it is each query's row that must"
        return f"the rows add up to {p.sum(1).round(3).tolist()}: each query's three probabilities must add up to 1"
    return ""
