"""Notebook 02's checks: right answers in two styles pass, and each mistake of a learner gets its own message."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from detr_mini.boxes import cxcywh_to_xyxy, giou, iou, xyxy_to_cxcywh
from detr_mini.checks import hungarian as checks
from detr_mini.checks.verdict import Wrong

CHAIN = [[0.045, 0.5, 0.08, 0.2], [0.345, 0.5, 0.08, 0.2], [0.645, 0.5, 0.08, 0.2]]
CROSSED = [[0.05, 0.9, 0.05], [0.9, 0.05, 0.05]]


def messages(check, mistakes) -> list[str]:
    """What the check says to each mistake; all different."""
    said = []
    for mistake in mistakes:
        with pytest.raises(Wrong) as wrong:
            check(mistake)
        said.append(str(wrong.value))
    assert len(set(said)) == len(said)
    return said


@pytest.mark.parametrize("check", ["greedy_pays_double", "augment", "cost_matrix", "class_flips"])
def test_a_stub_is_open(check, capsys):
    number = {"greedy_pays_double": 1, "augment": 2, "cost_matrix": 3, "class_flips": 4}[check]
    for stub in (..., None) if number in (1, 4) else (lambda *arguments: ..., lambda *arguments: None):
        getattr(checks, check)(stub)
        assert capsys.readouterr().out == f"exercise {number} is open\n"


# 1: boxes for which greedy pays double


@pytest.mark.parametrize("right", [CHAIN, torch.tensor(CHAIN), np.array(CHAIN)[[2, 0, 1]]])
def test_a_chain_of_boxes_ruins_greedy(right, capsys):
    checks.greedy_pays_double(right)
    assert capsys.readouterr().out.startswith("exercise 1 is right.")


def with_centres(*cx: float) -> np.ndarray:
    return np.array([[x, 0.5, 0.08, 0.2] for x in cx])


def test_mistakes_with_boxes_that_should_ruin_greedy():
    in_pixels = 64 * np.array(CHAIN)
    corners = cxcywh_to_xyxy(torch.tensor(CHAIN)).numpy()
    sizes_first = np.array(CHAIN)[:, [2, 3, 0, 1]]
    said = messages(
        checks.greedy_pays_double,
        [
            in_pixels,
            corners,
            sizes_first,
            np.array(checks.THREE_OBJECTS),  # perfect predictions
            with_centres(0.25, 0.55, 0.75),  # three small errors, none between two objects
            with_centres(0.045, 0.345, 0.8),  # one wrong bargain is not enough
            with_centres(0.345, 0.2, 0.8),  # bad for a greedy that serves q0 first
            np.array(CHAIN)[:2],  # a row for each object that greedy gets wrong
        ],
    )
    words = (
        "pixels",
        "corners",
        "leaves the image",
        "exactly on",
        "finds the best",
        "not enough",
        "serves q0",
        "(2, 4)",
    )
    for message, word in zip(said, words, strict=True):
        assert word in message


# 2: one augmenting step


def by_recursion(cost, u, v, matching, row):
    reduced = cost - u[:, None] - v
    owner = {column: r for r, column in matching.items()}
    tried = set()

    def place(r):
        for column in np.flatnonzero(np.abs(reduced[r]) < 1e-9).tolist():
            if column in tried:
                continue
            tried.add(column)
            if column not in owner or place(owner[column]):
                owner[column] = r
                return True
        return False

    place(row)
    return {r: column for column, r in owner.items()}


def by_breadth(cost, u, v, matching, row):
    free = torch.tensor(cost - u[:, None] - v).abs() < 1e-9
    owner = {column: r for r, column in matching.items()}
    waiting, came_from = [row], {}
    while waiting:
        r = waiting.pop(0)
        for column in free[r].nonzero()[:, 0].tolist():
            if column not in came_from:
                came_from[column] = r
                if column in owner:
                    waiting.append(owner[column])
                    continue
                found = dict(matching)
                while True:
                    r, leaves = came_from[column], found.get(came_from[column])
                    found[r] = column
                    if r == row:
                        return found
                    column = leaves


@pytest.mark.parametrize("right", [by_recursion, by_breadth])
def test_a_path_found_in_depth_or_in_breadth(right, capsys):
    checks.augment(right)
    assert capsys.readouterr().out.startswith("exercise 2 is right.")


def first_free(cost, u, v, row):
    return int(np.abs(cost - u[:, None] - v)[row].argmin())


def steals(cost, u, v, matching, row):
    column = first_free(cost, u, v, row)
    return {r: c for r, c in matching.items() if c != column} | {row: column}


def shares(cost, u, v, matching, row):
    return matching | {row: first_free(cost, u, v, row)}


def takes_what_is_left(cost, u, v, matching, row):
    left = [c for c in range(cost.shape[1]) if c not in matching.values()]
    return matching | {row: min(left, key=lambda c: cost[row, c])}


def only_where_nobody_is(cost, u, v, matching, row):
    free = np.flatnonzero(np.abs(cost - u[:, None] - v)[row] < 1e-9).tolist()
    free = [c for c in free if c not in matching.values()]
    return matching | ({row: free[0]} if free else {})


def by_column(cost, u, v, matching, row):
    return {c: r for r, c in by_recursion(cost, u, v, matching, row).items()}


def added_potentials(cost, u, v, matching, row):
    return by_recursion(cost, -u, -v, matching, row)


def exactly_zero(cost, u, v, matching, row):
    exact = np.where(cost - u[:, None] - v == 0, 0.0, 1.0)
    return by_recursion(exact, 0 * u, 0 * v, matching, row)


def in_place(cost, u, v, matching, row):
    matching.update(by_recursion(cost, u, v, dict(matching), row))
    return matching


def asks_without_end(cost, u, v, matching, row):
    free = np.abs(cost - u[:, None] - v) < 1e-9
    owner = {column: r for r, column in matching.items()}

    def place(r):
        for column in np.flatnonzero(free[r]).tolist():
            if column not in owner or place(owner[column]):
                owner[column] = r
                return True
        return False

    place(row)
    return {r: column for column, r in owner.items()}


def nothing_where_stuck(cost, u, v, matching, row):
    found = exactly_zero(cost, u, v, matching, row)
    return found if row in found else None


def pairs(cost, u, v, matching, row):
    return sorted(by_recursion(cost, u, v, matching, row).items())


def test_mistakes_with_an_augmenting_step():
    mistakes = (
        steals, shares, takes_what_is_left, only_where_nobody_is, by_column,
        added_potentials, exactly_zero, in_place, pairs, asks_without_end,
    )  # fmt: skip
    words = (
        "must move on", "share a column", "not free", "still alone", "column to row",
        "cost - u - v", "rounding", "has changed", "dictionary row -> column",
        "in circles",
    )  # fmt: skip
    for message, word in zip(messages(checks.augment, mistakes), words, strict=True):
        assert word in message


def test_a_search_that_returns_nothing_where_it_is_stuck_is_not_a_stub():
    with pytest.raises(Wrong, match="costs in tenths: .* rounding"):
        checks.augment(nothing_where_stuck)


# 3: the matching cost


def in_tensors(logits, boxes, labels, true):
    p = logits.softmax(-1)[:, labels]
    overlap = giou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(true))
    return -p + 5 * torch.cdist(boxes, true, p=1) - 2 * overlap


def in_loops(logits, boxes, labels, true):
    table = np.zeros((len(boxes), len(true)))
    for q in range(len(boxes)):
        p = np.exp(logits[q].numpy()) / np.exp(logits[q].numpy()).sum()
        for t in range(len(true)):
            overlap = giou(cxcywh_to_xyxy(boxes[q : q + 1]), cxcywh_to_xyxy(true[t : t + 1])).item()
            table[q, t] = -p[labels[t]] + 5 * np.abs(boxes[q].numpy() - true[t].numpy()).sum() - 2 * overlap
    return table


@pytest.mark.parametrize("right", [in_tensors, in_loops])
def test_the_cost_in_tensors_or_in_loops(right, capsys):
    checks.cost_matrix(right)
    assert capsys.readouterr().out.startswith("exercise 3 is right.")


def cost_with(
    p=lambda logits: logits.softmax(-1),
    distance=lambda a, b: (a[:, None] - b).abs().sum(-1),
    overlap=lambda a, b: giou(cxcywh_to_xyxy(a), cxcywh_to_xyxy(b)),
    weights=(-1, 5, -2),
):
    def mistaken(logits, boxes, labels, true):
        return (
            weights[0] * p(logits)[:, labels] + weights[1] * distance(boxes, true) + weights[2] * overlap(boxes, true)
        )

    return mistaken


COST_MISTAKES = {
    "transposed": lambda *given: in_tensors(*given).T,
    "log-probability": cost_with(p=lambda logits: F.log_softmax(logits, -1)),
    "leaves": cost_with(p=lambda logits: F.softmax(logits[:, :-1], dim=-1)),
    "logits": cost_with(p=lambda logits: logits),
    "over the queries": cost_with(p=lambda logits: logits.softmax(0)),
    "largest probability": cost_with(p=lambda logits: logits.softmax(-1).amax(-1, True).expand(logits.shape)),
    "sigmoid": cost_with(p=torch.sigmoid),
    "sure query must cost less": cost_with(weights=(1, 5, -2)),
    "IoU instead of GIoU": cost_with(overlap=lambda a, b: iou(cxcywh_to_xyxy(a), cxcywh_to_xyxy(b))),
    "as if these were corners": cost_with(overlap=giou),
    "overlap must cost less": cost_with(weights=(-1, 5, 2)),
    "between corners": cost_with(distance=lambda a, b: torch.cdist(cxcywh_to_xyxy(a), cxcywh_to_xyxy(b), p=1)),
    "not their mean": cost_with(distance=lambda a, b: (a[:, None] - b).abs().mean(-1)),
    "not squared": cost_with(distance=lambda a, b: ((a[:, None] - b) ** 2).sum(-1)),
    "p=1": cost_with(distance=torch.cdist),
    "missing": cost_with(weights=(-1, 1, -1)),
    "exchanged": cost_with(weights=(-1, 2, -5)),
    "too high by 2": cost_with(overlap=lambda a, b: giou(cxcywh_to_xyxy(a), cxcywh_to_xyxy(b)) - 1),
    "too high by 1": cost_with(p=lambda logits: logits.softmax(-1) - 1),
}


def test_mistakes_with_the_cost():
    said = messages(checks.cost_matrix, COST_MISTAKES.values())
    for message, word in zip(said, COST_MISTAKES, strict=True):
        assert word in message


def test_any_other_cost_is_told_what_came_and_what_was_wanted():
    swapped = cost_with(overlap=lambda a, b: giou(xyxy_to_cxcywh(a), xyxy_to_cxcywh(b)))
    with pytest.raises(Wrong, match=r"(?s)got .* wanted"):
        checks.cost_matrix(swapped)


# 4: the class term flips a match


@pytest.mark.parametrize("right", [CROSSED, torch.tensor([[0, 0.7, 0.3], [0.8, 0.0, 0.2]])])
def test_two_sure_queries_flip_the_match(right, capsys):
    checks.class_flips(right)
    assert capsys.readouterr().out.startswith("exercise 4 is right.")


def test_mistakes_with_the_probabilities():
    mistakes = {
        "nothing first": [[0.05, 0.05, 0.9], [0.05, 0.9, 0.05]],
        "straight": [[0.9, 0.05, 0.05], [0.05, 0.9, 0.05]],
        "one query alone": [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
        "too shy": [[0.2, 0.6, 0.2], [0.6, 0.2, 0.2]],
        "logits": [[-2.0, 3.0, -1.0], [3.0, -2.0, -1.0]],
        "log-probabilities": np.log(CROSSED),
        "per cent": 100 * np.array(CROSSED),
        "columns add up": [[0.05, 0.95, 0.5], [0.95, 0.05, 0.5]],
        "rows do not add up": [[0.0, 1.0, 0.3], [1.0, 0.0, 0.3]],
        "a column for each query": np.array(CROSSED).T,
    }
    words = (
        "first column", "side with geometry", "only one query", "not sure enough", "outside 0..1",
        "log-probabilities", "per cent", "columns add up", "rows add up to", "(3, 2)",
    )  # fmt: skip
    for message, word in zip(messages(checks.class_flips, mistakes.values()), words, strict=True):
        assert word in message


def test_geometry_is_against_it_by_more_than_one_query_can_say():
    assert 1 < checks.against_crossing() < 2
