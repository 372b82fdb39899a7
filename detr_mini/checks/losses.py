"""Checks of notebook 03: the loss of one image, where gradient goes, and a loss that lets duplicates live."""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from detr_mini import matching
from detr_mini.boxes import cxcywh_to_xyxy, paired_giou, paired_iou
from detr_mini.checks.verdict import Wrong, ask, compare, exercise

# Q queries · T true boxes · K classes

EMPTY_IMAGE = "an image without objects"
# The table of exercise 2: query 3 is the cheapest for both objects, query 1 is nearly as good as query 0,
# and taking the cheapest pair first ends with 3 and 1.
GRADIENT_COSTS = np.array([[-1.6, -0.2], [-1.5, -0.4], [2.0, 1.8], [-1.7, -1.3], [0.4, 1.0]])


@exercise(1, "You can now put a number on any set of answers.")
def image_loss(answer: Callable) -> None:
    """`answer(logits (Q, K+1), boxes (Q, 4), labels (T,), true_boxes (T, 4), query (T,))` is the loss of one image."""
    for name, (logits, boxes, labels, true_boxes) in _images().items():
        query = _cheapest(logits, boxes, labels, true_boxes)
        arguments = (logits, boxes, labels, true_boxes, query)
        got = ask(answer, *(argument.clone() for argument in arguments))
        _refuse_nan(name, got)
        compare(name, got, _loss(*arguments), {text: _loss(*arguments, **how) for text, how in _SLIPS.items()})


@exercise(2, "Boxes learn only where there is something to learn from; every query learns what to say.")
def gradients(boxes_move: Iterable[int], classes_move: Iterable[int], classes_move_without: Iterable[int]) -> None:
    """Three sets of query numbers for the table of the exercise: whose boxes and whose logits get gradient."""
    everyone, matched = {0, 1, 2, 3, 4}, {0, 3}
    box, label, without = (_numbers(answer) for answer in (boxes_move, classes_move, classes_move_without))
    _tell(
        "boxes_move",
        box,
        matched,
        {
            frozenset(everyone): "a query without an object has no true box to be compared with: equation 2 has "
            "the box term only where the class is not ∅",
            frozenset({3}): "query 3 is the cheapest for both objects, but the match gives it only one of them: the "
            "other goes to the next best, so that the total is least",
            frozenset(
                {0, 1, 3}
            ): "a low cost is not a match: query 1 is nearly as good as query 0, and still gets nothing",
            frozenset(
                {1, 2, 4}
            ): "these are the queries without an object: only those with one have a box to learn from",
            frozenset({0, 1}): "these are the numbers of the objects (columns); asked are the queries (rows)",
            frozenset(
                {1, 3}
            ): "the total of this match is not the least: 1 with A and 3 with B cost -2.8, 0 with A and 3 with B "
            "-2.9; the cheapest pair first, 3 with A and then 1 with B, only reaches -2.1",
        },
    )
    _tell(
        "classes_move",
        label,
        everyone,
        {
            frozenset(matched): "the class term has no condition: a query without an object is trained too, to say ∅",
            frozenset({1, 2, 4}): "a query with an object is trained as well, to name its class",
        },
    )
    _tell(
        "classes_move_without",
        without,
        matched,
        {
            frozenset(everyone): "a class weight of 0 takes the term away, and its gradient with it",
            frozenset(): "the weight 0 belongs to ∅ alone: the terms of the objects keep theirs",
            frozenset({1, 2, 4}): "the weight 0 silences the queries whose target is ∅: the others are left",
        },
    )


@exercise(3, "A second claim on an object now costs, so it does not live long.")
def repaired(answer: Callable) -> None:
    """`answer(logits (Q, K+1), boxes (Q, 4), labels (T,), true_boxes (T, 4))` matches, and judges every query."""
    for name, arguments in _images().items():
        logits, boxes, labels, true_boxes = (argument.clone() for argument in arguments)
        logits.requires_grad_()
        boxes.requires_grad_()
        got = ask(answer, logits, boxes, labels, true_boxes)
        _refuse_nan(name, got)
        query, best, everyone = _cheapest(*arguments), _best_of_each(*arguments), _nearest(*arguments)
        costs = _costs(*arguments)
        dearest = torch.as_tensor(linear_sum_assignment(-costs.T)[1])
        mistakes = {
            "as before: a query without an object is not trained at all, so a duplicate keeps its score": _loss(
                *arguments, query, no_object=0.0
            ),
            "every query answers for the object nearest to it: this is the rule that makes duplicates": everyone,
            "each object took its best query for itself, so two can take the same: match them all at once": best,
            "the match of the largest total: linear_sum_assignment looks for the least cost": _loss(
                *arguments, dearest
            ),
            "the pairs come sorted by query, so the objects are in another order: take labels[of] and true_boxes[of], "
            "with `of` the second array of linear_sum_assignment": _loss(*arguments, query.sort().values),
            "the cheapest pair was taken first; the total over all pairs must be the least (02)": _loss(
                *arguments, _greedy(costs)
            ),
        }
        mistakes |= {text: _loss(*arguments, query, **how) for text, how in _SLIPS.items()}
        compare(name, got, _loss(*arguments, query), mistakes)
        if not isinstance(got, Tensor) or not got.requires_grad:
            raise Wrong(f"{name}: the number is right, but no gradient flows back: leave out detach, item and no_grad")
        slopes = torch.autograd.grad(got.sum(), (logits, boxes), allow_unused=True)
        for what, slope, wanted in zip(("logits", "boxes"), slopes, (True, len(labels) > 0), strict=True):
            if wanted and (slope is None or not slope.any()):
                raise Wrong(f"{name}: the number is right, but the {what} get no gradient: detach only the cost")


def _refuse_nan(name: str, got) -> None:
    if np.isnan(np.asarray(got.detach() if isinstance(got, Tensor) else got, dtype=float)).any():
        cause = "0 / 0: divide by max(objects, 1)" if name == EMPTY_IMAGE else "a logarithm of 0 or a division by 0"
        raise Wrong(f"{name}: not a number, from {cause}")


def _images() -> dict[str, tuple[Tensor, Tensor, Tensor, Tensor]]:
    """logits, boxes, labels, true boxes; in the first image query 3 is the cheapest for both objects."""
    generator = torch.Generator().manual_seed(3)
    random = torch.randn(6, 5, generator=generator), torch.rand(6, 4, generator=generator) * 0.3 + 0.3
    true = torch.rand(3, 4, generator=generator) * 0.3 + 0.3
    boxes = torch.tensor([[0.2, 0.3, 0.2, 0.4], [0.8, 0.2, 0.3, 0.2], [0.7, 0.8, 0.2, 0.1], [0.45, 0.5, 0.3, 0.3]])
    logits = torch.tensor([[1.0, 0.0, 2.0], [0.5, -1.0, 0.0], [0.0, 0.5, 1.0], [0.2, 1.5, 0.0]])
    pair = torch.tensor([[0.4, 0.5, 0.3, 0.3], [0.5, 0.55, 0.3, 0.4]])
    return {
        "four queries, two objects": (logits, boxes, torch.tensor([0, 1]), pair),
        "six queries, three objects": (*random, torch.tensor([3, 1, 1]), true),
        EMPTY_IMAGE: (logits, boxes, torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4)),
    }


def _costs(logits: Tensor, boxes: Tensor, labels: Tensor, true_boxes: Tensor) -> np.ndarray:
    targets = matching.pad_targets([{"labels": labels, "boxes": true_boxes}], logits.device)
    return matching.cost(logits[None, None], boxes[None, None], targets, matching.Weights())[0, 0].numpy()  # (Q, T)


def _cheapest(*image: Tensor) -> Tensor:
    """The query of each object (T,)."""
    return torch.as_tensor(linear_sum_assignment(_costs(*image).T)[1])


def _best_of_each(*image: Tensor) -> float:
    """The loss where each object takes its cheapest query; where two take the same, the later has it."""
    logits, boxes, labels, true_boxes = image
    query = torch.as_tensor(_costs(*image).argmin(0)) if len(labels) else torch.zeros(0, dtype=torch.int64)
    return _loss(*image, query)


def _greedy(costs: np.ndarray) -> Tensor:
    """The query of each object (T,), where the cheapest free pair is taken again and again."""
    free, query = costs.copy(), np.zeros(costs.shape[1], dtype=np.int64)
    for _ in query:
        place = np.unravel_index(free.argmin(), free.shape)
        query[place[1]] = place[0]
        free[place[0]] = free[:, place[1]] = np.inf
    return torch.as_tensor(query)


def _nearest(*image: Tensor) -> float:
    """The loss where each query takes its cheapest object; plain ∅ for all where there is none."""
    logits, boxes, labels, true_boxes = image
    if not len(labels):
        return _loss(*image, torch.zeros(0, dtype=torch.int64))
    target = torch.as_tensor(_costs(*image).argmin(1))  # (Q,)
    return _loss(logits, boxes, labels[target], true_boxes[target], torch.arange(len(logits)))


def _loss(
    logits: Tensor,
    boxes: Tensor,
    labels: Tensor,
    true_boxes: Tensor,
    query: Tensor,
    no_object: float = 0.1,
    empty: int = -1,
    label_divisor: str = "weights",
    box_divisor: str = "objects",
    coordinates: int = 1,
    nats: bool = True,
    softmaxes: int = 1,
    overlap: str = "1 - giou",
    corners: bool = True,
    weights: tuple[float, float] = (5.0, 2.0),
    in_order: bool = False,
) -> float:
    """The loss of one image, and what it becomes by the slips that have a parameter here."""
    queries, classes = logits.shape[0], logits.shape[1] - 1
    if in_order:
        query = torch.arange(len(query))
    wanted = torch.full((queries,), empty % (classes + 1))
    wanted[query] = labels
    class_weight = torch.full((queries,), no_object)
    class_weight[query] = 1.0
    probabilities = logits
    for _ in range(softmaxes):
        probabilities = probabilities.softmax(-1)
    probability = probabilities.gather(1, wanted[:, None])[:, 0]
    each = -probability.log() if nats else -probability
    divisors = {"weights": class_weight.sum(), "queries": queries, "objects": max(len(labels), 1), "nothing": 1}
    label = (class_weight * each).sum() / max(float(divisors[label_divisor]), 1e-9)
    predicted = boxes[query]
    l1 = (predicted - true_boxes).abs().sum() / coordinates
    pair = (cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(true_boxes)) if corners else (predicted, true_boxes)
    giou = paired_giou(*pair)
    parts = {"1 - giou": 1 - giou, "giou": giou, "- giou": -giou, "1 - iou": 1 - paired_iou(*pair)}
    total = weights[0] * l1 + weights[1] * parts[overlap].sum()
    return float(label + total / divisors[box_divisor])


_SLIPS = {
    "the class part is divided by the number of queries; the divisor is the sum of the class weights": {
        "label_divisor": "queries"
    },
    "the class part is divided by the number of objects; the divisor is the sum of the class weights": {
        "label_divisor": "objects"
    },
    "the class part is a sum; divide it by the sum of the class weights": {"label_divisor": "nothing"},
    "the class term is -p, that of the matching cost; in the loss it is -log p": {"nats": False},
    "no object counts as much as an object: its weight 0.1 is missing": {"no_object": 1.0},
    "queries without an object are left out of the class part": {"no_object": 0.0},
    "no object was taken for class 0; it is the last class, K or -1": {"empty": 0},
    "GIoU itself was added, so overlap is punished: the loss is 1 - GIoU": {"overlap": "giou"},
    "-GIoU was added, as in the matching cost; the loss is 1 - GIoU, which is 0 for a perfect box": {
        "overlap": "- giou"
    },
    "the softmax was taken twice: F.cross_entropy takes it itself, and wants the logits": {"softmaxes": 2},
    "this is IoU where GIoU was wanted": {"overlap": "1 - iou"},
    "(cx, cy, w, h) was read as corners; turn both boxes into (x1, y1, x2, y2) for the GIoU": {"corners": False},
    "L1 is the mean over the four numbers of a box; it is their sum": {"coordinates": 4},
    "the box parts are divided by the number of queries; the divisor is the number of objects": {
        "box_divisor": "queries"
    },
    "the box parts are a sum; divide them by the number of objects": {"box_divisor": "nothing"},
    "the weights 5 and 2 of the box parts are missing": {"weights": (1.0, 1.0)},
    "the weights 5 and 2 are exchanged: 5 belongs to L1, 2 to GIoU": {"weights": (2.0, 5.0)},
    "object i was compared with query i; its query is the one that the match names": {"in_order": True},
}


def _numbers(answer: Iterable[int]) -> set[int]:
    """A set of query numbers from a set, a list, or a mask of five booleans."""
    values = np.asarray(list(answer))
    if values.dtype == bool:
        values = np.flatnonzero(values)
    if values.size and values.dtype.kind not in "iu":
        raise Wrong(f"wanted whole numbers, the numbers of queries, got {answer}")
    return set(values.tolist())


def _tell(name: str, got: set[int], wanted: set[int], mistakes: dict[frozenset, str]) -> None:
    if got == wanted:
        return
    if got - {0, 1, 2, 3, 4}:
        raise Wrong(f"{name}: the queries have the numbers 0 to 4, got {sorted(got)}")
    raise Wrong(f"{name}: {mistakes.get(frozenset(got), f'{sorted(got)} is not right; find the match first')}")
