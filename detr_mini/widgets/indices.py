"""Indices as a reader may give them: plain, of NumPy or of PyTorch."""

import operator
from collections.abc import Sequence


def index(name: str, value: object) -> int:
    """A whole number as an int; ValueError for a float, a bool, or anything else that numbers nothing."""
    if not isinstance(value, bool) and "bool" not in str(getattr(value, "dtype", "")):
        try:
            return operator.index(value)
        except (TypeError, ValueError):
            pass
    raise ValueError(f"{name} is {value!r}: a whole number is wanted")


def place(name: str, value: Sequence[int]) -> list[int]:
    """Row and column; ValueError for anything but two whole numbers."""
    try:
        numbers = list(value)
    except TypeError:
        raise ValueError(f"{name} is {value!r}: a row and a column are wanted") from None
    if len(numbers) != 2:
        raise ValueError(f"{name} has {len(numbers)} numbers: a row and a column are wanted")
    return [index(name, number) for number in numbers]
