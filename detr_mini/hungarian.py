"""The Hungarian algorithm, written to be read: shortest augmenting paths with potentials, O(n^3).

Each row i gets a potential u[i] and each column j a potential v[j] such that no reduced cost
cost[i, j] - u[i] - v[j] is negative and those of matched pairs are zero. When all rows are matched, this
proves that no assignment is cheaper (Kuhn 1955, Munkres 1957; one row at a time: Jonker and Volgenant 1987).
Training uses scipy's `linear_sum_assignment`, which does the same in C++; the tests hold both equal.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Edge = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Step:
    """One step of the algorithm; rows and columns are those of the matrix that was given.

    The lines of the shorter side are added one by one (`adds` says which side that is), and a place for each
    is searched on the longer side. `start`: line `added` enters with the highest potential that leaves no
    reduced cost negative. `visit`: the nearest line of the longer side, `reached`, joins the search;
    potentials have moved so that every edge of the path to it is free. `augment`: `reached` was unmatched,
    the path is flipped.
    """

    kind: Literal["start", "visit", "augment"]
    adds: Literal["rows", "columns"]
    added: int  # on the shorter side
    reached: int | None  # on the longer side; None at the start
    row_potentials: np.ndarray  # (N,)
    column_potentials: np.ndarray  # (M,)
    slack: np.ndarray  # (longer side,) smallest reduced cost to any line in the search
    visited: np.ndarray  # (longer side,) bool
    path: list[Edge]  # (row, column), `added` to `reached`; the 1st, 3rd, ... edge enters, the others leave
    matching: dict[int, int]  # row -> column, so far


def solve(cost: np.ndarray | Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Match min(N, M) pairs at the least total cost; (N, M) to (rows, columns), two int arrays sorted by row.

    Raises ValueError where the cost is not a matrix or an entry is not finite.
    """
    cost = _checked(cost)
    search = _Search(cost if cost.shape[0] <= cost.shape[1] else cost.T)
    for _ in search.run():
        continue
    if search.cost.shape == cost.shape:
        return np.arange(len(cost)), search.column_of
    rows = np.flatnonzero(search.row_of >= 0)
    return rows, search.row_of[rows]


def trace(cost: np.ndarray | Tensor) -> Iterator[Step]:
    """Yield every step of `solve` on the same (N, M) cost; none where N or M is 0. Raises as `solve` does.

    The last step's matching is the answer and its potentials are the certificate: reduced costs >= 0, zero on
    matched pairs, potentials on the longer side never positive and exactly zero where unmatched, so that all
    potentials add up to the cost of the matching.
    """
    cost = _checked(cost)
    wide = cost.shape[0] <= cost.shape[1]
    return _steps(_Search(cost if wide else cost.T), wide)


class _Search:
    """The state of the algorithm on a matrix with no more rows than columns."""

    def __init__(self, cost: np.ndarray):
        rows, columns = cost.shape
        self.cost = cost
        self.row_potentials, self.column_potentials = np.zeros(rows), np.zeros(columns)
        self.column_of, self.row_of = np.full(rows, -1), np.full(columns, -1)  # the matching, from both sides

    def run(self) -> Iterator[str]:
        """Match the rows one by one; yield the kind of each step after it is done."""
        for row in range(len(self.cost)):
            self._start(row)
            yield "start"
            while True:
                self._visit(int(np.argmin(np.where(self.visited, np.inf, self.slack))))
                yield "visit"
                if self.row_of[self.reached] < 0:
                    break
            for path_row, column in self.path()[::2]:
                self.column_of[path_row], self.row_of[column] = column, path_row
            yield "augment"

    def path(self) -> list[Edge]:
        """The edges from the added row to the reached column: unmatched, matched, unmatched, ..."""
        edges, column = [], self.reached
        while column is not None:
            row = int(self.reached_from[column])
            edges.append((row, column))
            if row == self.added:
                break
            column = int(self.column_of[row])
            edges.append((row, column))
        return edges[::-1]

    def _start(self, row: int) -> None:
        columns = len(self.column_potentials)
        self.added, self.reached = row, None
        self.slack, self.visited = np.full(columns, np.inf), np.zeros(columns, dtype=bool)
        self.reached_from = np.full(columns, row)
        self.row_potentials[row] = (self.cost[row] - self.column_potentials).min()
        self._look_from(row)

    def _visit(self, column: int) -> None:
        # Rows in the search rise and visited columns fall by the same amount: edges between them keep their
        # reduced cost, and the edge to the nearest unvisited column becomes free.
        rise = self.slack[column]
        self.row_potentials[self.added] += rise
        self.row_potentials[self.row_of[self.visited]] += rise
        self.column_potentials[self.visited] -= rise
        self.slack[~self.visited] -= rise
        self.visited[column] = True
        self.reached = column
        if self.row_of[column] >= 0:
            self._look_from(int(self.row_of[column]))

    def _look_from(self, row: int) -> None:
        reduced = self.cost[row] - self.row_potentials[row] - self.column_potentials
        reduced = reduced.clip(min=0)  # rounding may leave -1e-17: a column's potential would turn positive
        nearer = ~self.visited & (reduced < self.slack)
        self.slack[nearer] = reduced[nearer]
        self.reached_from[nearer] = row


def _steps(search: _Search, wide: bool) -> Iterator[Step]:
    for kind in search.run():
        if kind != "augment":
            path = search.path()  # once flipped, the matching no longer leads back along it
        rows, columns = search.row_potentials.copy(), search.column_potentials.copy()
        taken = np.flatnonzero(search.column_of >= 0)
        pairs = zip(taken.tolist(), search.column_of[taken].tolist(), strict=True)
        yield Step(
            kind=kind,
            adds="rows" if wide else "columns",
            added=search.added,
            reached=search.reached,
            row_potentials=rows if wide else columns,
            column_potentials=columns if wide else rows,
            slack=search.slack.copy(),
            visited=search.visited.copy(),
            path=[edge if wide else edge[::-1] for edge in path],
            matching=dict(sorted(pair if wide else pair[::-1] for pair in pairs)),
        )


def _checked(cost: np.ndarray | Tensor) -> np.ndarray:
    if isinstance(cost, Tensor):
        cost = cost.detach().to("cpu", torch.float64).numpy()
    cost = np.asarray(cost, dtype=np.float64)
    if cost.ndim != 2:
        raise ValueError(f"cost has shape {cost.shape}, wanted a matrix: match one image at a time")
    broken = np.argwhere(~np.isfinite(cost))
    if len(broken):
        row, column = map(int, broken[0])
        raise ValueError(
            f"cost is {cost[row, column]} at row {row}, column {column} ({len(broken)} entries not "
            "finite): usually a learning rate too high, or a box of NaN"
        )
    return cost
