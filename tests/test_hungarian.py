"""The readable Hungarian algorithm against scipy and brute force, and the certificate its potentials give."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linear_sum_assignment

from detr_mini import hungarian

SHAPES = st.tuples(st.integers(0, 9), st.integers(0, 9))
ENTRIES = (
    st.integers(0, 2).map(float),  # ties everywhere, rows and columns of zeros
    st.integers(-1000, 1000).map(float),
    st.floats(-1, 1),
    st.floats(-1e12, 1e12),
)
COSTS = st.one_of(*(arrays(np.float64, SHAPES, elements=kind) for kind in ENTRIES))
SIDE = st.integers(1, 5)
SMALL = arrays(np.float64, st.tuples(SIDE, SIDE), elements=st.integers(-3, 3).map(float))


def tolerance(cost: np.ndarray) -> float:
    return 1e-12 * max(1.0, float(np.abs(cost).max(initial=0))) * max(cost.shape)


def cheapest_by_trying_all(cost: np.ndarray) -> float:
    cost = cost if cost.shape[0] <= cost.shape[1] else cost.T
    rows, columns = map(range, cost.shape)
    return min(cost[rows, list(choice)].sum() for choice in itertools.permutations(columns, len(rows)))


def assert_certified(cost: np.ndarray, step: hungarian.Step) -> None:
    """The proof of optimality that a reader checks, over the lines added so far."""
    shorter, longer = step.row_potentials, step.column_potentials
    matching = step.matching
    if step.adds == "columns":
        cost, shorter, longer = cost.T, longer, shorter
        matching = {column: row for row, column in matching.items()}
    known, close = step.added + 1, tolerance(cost)
    reduced = cost[:known] - shorter[:known, None] - longer
    assert (reduced >= -close).all()
    assert all(abs(reduced[pair]) <= close for pair in matching.items())
    unmatched = np.ones(len(longer), dtype=bool)
    unmatched[list(matching.values())] = False
    assert (longer <= 0).all() and (longer[unmatched] == 0).all() and (shorter[known:] == 0).all()
    if step.kind == "augment":
        total = sum(cost[pair] for pair in matching.items())
        assert len(matching) == known and abs(shorter.sum() + longer.sum() - total) <= close


@given(COSTS)
def test_the_total_equals_scipys_and_the_indices_are_a_matching_sorted_by_row(cost):
    rows, columns = hungarian.solve(cost)
    assert len(rows) == len(columns) == min(cost.shape)
    assert rows.dtype.kind == columns.dtype.kind == "i"
    assert (np.diff(rows) > 0).all() and len(set(columns.tolist())) == len(columns)
    best = cost[linear_sum_assignment(cost)].sum()
    assert abs(cost[rows, columns].sum() - best) <= tolerance(cost)


@given(SMALL)
def test_the_total_equals_brute_force(cost):
    assert cost[hungarian.solve(cost)].sum() == cheapest_by_trying_all(cost)


@pytest.mark.parametrize("shape", [(60, 60), (100, 7), (7, 100), (1, 50), (50, 1)])
def test_random_matrices_give_the_very_pairs_of_scipy(shape):
    cost = np.random.default_rng(0).normal(size=shape)  # without ties the optimum is unique
    for ours, theirs in zip(hungarian.solve(cost), linear_sum_assignment(cost), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@given(COSTS)
@settings(max_examples=60)
def test_every_step_holds_the_certificate_and_every_augmentation_is_optimal_so_far(cost):
    for step in hungarian.trace(cost):
        assert_certified(cost, step)
        if step.kind == "augment":
            known = cost[: step.added + 1] if step.adds == "rows" else cost[:, : step.added + 1]
            total = sum(cost[pair] for pair in step.matching.items())
            assert abs(total - known[linear_sum_assignment(known)].sum()) <= tolerance(cost)


def test_rounding_makes_no_potential_positive():
    for seed in range(100):  # tenths do not add up in binary
        cost = np.random.default_rng(seed).integers(0, 10, (12, 12)) / 10
        *_, last = hungarian.trace(cost)
        assert_certified(cost, last)


@given(COSTS)
def test_the_last_step_of_the_trace_is_the_solution(cost):
    steps = list(hungarian.trace(cost))
    rows, columns = hungarian.solve(cost)
    assert (steps[-1].matching if steps else {}) == dict(zip(rows.tolist(), columns.tolist(), strict=True))
    assert [step.added for step in steps if step.kind == "augment"] == list(range(min(cost.shape)))


@given(COSTS)
@settings(max_examples=60)
def test_the_path_alternates_and_is_free(cost):
    matching = {}
    for step in hungarian.trace(cost):
        enters, leaves = set(step.path[::2]), set(step.path[1::2])
        assert bool(step.path) == (step.kind != "start")
        if step.kind == "visit":
            assert leaves <= set(matching.items()) and not enters & set(matching.items())
            reduced = cost - step.row_potentials[:, None] - step.column_potentials
            assert all(abs(reduced[edge]) <= tolerance(cost) for edge in step.path)
            side = 0 if step.adds == "rows" else 1
            assert step.path[0][side] == step.added and step.path[-1][1 - side] == step.reached
            assert step.visited[step.reached] and step.slack[step.reached] == 0
        if step.kind == "augment":
            assert set(step.matching.items()) == (set(matching.items()) - leaves) | enters
        matching = step.matching


def test_the_steps_of_two_rows_that_want_one_column():
    # Greedy gives row 0 its favourite and pays 1 + 9; the second row's search makes row 0 move over.
    steps = list(hungarian.trace(np.array([[1.0, 2.0], [3.0, 9.0]])))
    assert [(step.kind, step.added, step.reached) for step in steps] == [
        ("start", 0, None),
        ("visit", 0, 0),
        ("augment", 0, 0),
        ("start", 1, None),
        ("visit", 1, 0),
        ("visit", 1, 1),
        ("augment", 1, 1),
    ]
    assert steps[2].matching == {0: 0}
    last = steps[-1]
    assert last.path == [(1, 0), (0, 0), (0, 1)] and last.matching == {0: 1, 1: 0}
    assert last.row_potentials.tolist() == [2, 4] and last.column_potentials.tolist() == [-1, 0]


def test_with_more_rows_than_columns_the_columns_are_added_one_by_one():
    cost = np.array([[7.0, 3.0, 9.0], [2.0, 8.0, 6.0], [1.0, 1.0, 5.0], [4.0, 6.0, 2.0], [9.0, 9.0, 1.0]])
    *_, last = hungarian.trace(cost)
    assert last.adds == "columns" and last.added == 2 and last.slack.shape == last.visited.shape == (5,)
    assert last.row_potentials.shape == (5,) and last.column_potentials.shape == (3,)
    assert last.matching == {1: 0, 2: 1, 4: 2}


def test_steps_are_copies_that_later_steps_do_not_change():
    cost = np.random.default_rng(1).integers(0, 5, (6, 6))
    kept = list(hungarian.trace(cost))
    for old, fresh in zip(kept, hungarian.trace(cost), strict=True):
        for field in ("row_potentials", "column_potentials", "slack", "visited"):
            np.testing.assert_array_equal(getattr(old, field), getattr(fresh, field))
        assert old.matching == fresh.matching and old.path == fresh.path


def test_the_given_cost_is_left_alone_and_tensors_are_taken():
    cost = torch.tensor([[4, 1], [2, 9], [3, 3]])
    for given_cost in (cost, cost.float().requires_grad_(), cost.bfloat16(), cost.numpy(), cost.tolist()):
        rows, columns = hungarian.solve(given_cost)
        assert rows.tolist() == [0, 1] and columns.tolist() == [1, 0]
    assert cost.tolist() == [[4, 1], [2, 9], [3, 3]]


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0)])
def test_nothing_to_match(shape):
    rows, columns = hungarian.solve(np.empty(shape))
    assert rows.shape == columns.shape == (0,) and rows.dtype.kind == columns.dtype.kind == "i"
    assert list(hungarian.trace(np.empty(shape))) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("function", [hungarian.solve, hungarian.trace])
def test_an_entry_that_is_not_finite_is_named(function, value):
    cost = np.ones((4, 3))
    cost[2, 1] = value
    with pytest.raises(ValueError, match=rf"{value} at row 2, column 1 .*learning rate"):
        function(cost)


def test_a_cost_that_is_not_a_matrix_is_refused():
    with pytest.raises(ValueError, match=r"shape \(2, 3, 4\)"):
        hungarian.solve(np.zeros((2, 3, 4)))
