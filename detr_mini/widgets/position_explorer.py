"""PositionExplorer: choose a cell and see how much the codes of all other cells are like its own."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor, nn

from detr_mini.plots import attention as plots
from detr_mini.widgets.indices import place
from detr_mini.widgets.lab import Lab, finite, module

KINDS = ("sine", "learned", "none")
WAYS = ("rows and columns", "one sequence")
MOST_CELLS = 256  # of the grid: learned codes travel as the products of all pairs


class PositionExplorer(Lab):
    """Similarity of position codes on an unpadded grid of `size` (H, W) cells.

    `kind` ("sine", "learned", "none"), `way` (DETR's "rows and columns", or "one sequence" in reading order),
    `temperature` and `cell` (row, column) can be read and set; `similarity` is Python's answer. `encoding` puts a
    trained `positions.LearnedEncoding` in the place of the untrained one. Raises ValueError for what is not there, and
    for an encoding of which a code has length 0: it has no angle.
    """

    _esm = module("core", "heat", "positionexplorer")

    def __init__(
        self,
        kind: str = "sine",
        cell: tuple[int, int] = (4, 6),
        temperature: float = 10_000.0,
        way: str = WAYS[0],
        *,
        size: tuple[int, int] = (10, 14),
        width: int = 256,
        encoding: nn.Module | None = None,
    ):
        if not (1 <= size[0] * size[1] <= MOST_CELLS and min(size) >= 1):
            raise ValueError(f"a grid of {size[0]} x {size[1]} cells, wanted 1 to {MOST_CELLS}")
        self.codes = {way: plots.learned_codes(size, width, line=way == WAYS[1], encoding=encoding) for way in WAYS}
        grid, cells = self.codes[WAYS[0]], self.codes[WAYS[1]].flatten(0, 1)
        lengths = grid.norm(dim=-1)
        finite("the learned codes' lengths", lengths.tolist())
        if lengths.min() == 0:
            cell_without = divmod(int(lengths.argmin()), size[1])
            raise ValueError(f"the learned code of cell {cell_without} has length 0: it has no angle to compare")
        half = grid.shape[-1] // 2
        learned = {"rows": grid[:, 0, half:], "columns": grid[0, :, :half], "cells": cells}
        given = {"size": list(size), "width": width, "learned": {name: _products(c) for name, c in learned.items()}}
        given["trained"] = encoding is not None
        state = {"kind": kind, "way": way, "temperature": float(temperature), "cell": place("cell", cell)}
        super().__init__(state, given)

    @property
    def size(self) -> tuple[int, int]:
        return tuple(self._given["size"])

    @property
    def kind(self) -> str:
        return self._good["kind"]

    @kind.setter
    def kind(self, kind: str) -> None:
        self.change(kind=kind)

    @property
    def way(self) -> str:
        return self._good["way"]

    @way.setter
    def way(self, way: str) -> None:
        self.change(way=way)

    @property
    def temperature(self) -> float:
        return self._good["temperature"]

    @temperature.setter
    def temperature(self, temperature: float) -> None:
        self.change(temperature=float(temperature))

    @property
    def cell(self) -> tuple[int, int]:
        return tuple(self._good["cell"])

    @cell.setter
    def cell(self, cell: Sequence[int]) -> None:
        self.change(cell=place("cell", cell))

    @property
    def similarity(self) -> plots.Similarity:
        """The map of cosines, its lowest value and its standard deviation (`spread`)."""
        if self.kind == "learned":
            return plots.compare_codes(self.codes[self.way], self.cell)
        settings = self.temperature, self._given["width"], self.way == WAYS[1]
        return plots.similarity(self.kind, self.cell, self.size, *settings)

    def check(self, state: Mapping) -> None:
        """Raises ValueError for an unknown kind or way, a cell outside the grid, a temperature of at most 1."""
        for name, known in (("kind", KINDS), ("way", WAYS)):
            if state[name] not in known:
                raise ValueError(f"{name} {state[name]!r}, wanted one of {', '.join(known)}")
        finite("the temperature", [state["temperature"]])
        if state["temperature"] <= 1:
            raise ValueError(f"temperature {state['temperature']}, wanted more than 1")
        rows, columns = self._given["size"]
        row, column = place("cell", state["cell"])
        if not (0 <= row < rows and 0 <= column < columns):
            raise ValueError(f"cell {(row, column)} outside the grid of {rows} rows and {columns} columns")

    def figure(self) -> Figure:
        """The map as it is now."""
        name = f"{self.kind}, T = {self.temperature:,.0f}" if self.kind == "sine" else self.kind
        return plots.similarity_figure({f"{name}, {self.way}": self.similarity})

    def says(self) -> str:
        return "choose a cell, see which cells have codes like its own"


def _products(codes: Tensor) -> dict:
    """The upper half of the matrix of products of codes (N, C), row by row."""
    codes = codes.detach().double()
    products = (codes @ codes.T).numpy()
    upper = products[np.triu_indices(len(products))]
    return {"size": len(products), "upper": [float(f"{value:.9g}") for value in upper]}
