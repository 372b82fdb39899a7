"""What all checks share: open, right or wrong, and which mistake a wrong answer looks like."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

LONG = 20  # numbers of an answer up to which it is shown in full


class Open(Exception):
    """The stub has not been filled yet."""


class Wrong(AssertionError):
    """An answer that is not right; the message names the likely mistake."""


def exercise(number: int, gain: str) -> Callable:
    """Turns a check into one that prints "exercise N is open", or "exercise N is right" and what was gained.

    The check calls its answers through `ask` and raises `Wrong`; an exception of the reader's own code passes through.
    """

    def decorate(check: Callable) -> Callable:
        @functools.wraps(check)
        def run(*answers: Any) -> None:
            try:
                if any(answer is None or answer is ... for answer in answers):
                    raise Open
                check(*answers)
            except Open:
                print(f"exercise {number} is open")
                return
            print(f"exercise {number} is right. {gain}")

        return run

    return decorate


def ask(answer: Callable, *arguments: Any) -> Any:
    """What the reader's function returns; `Open` where it is still a stub."""
    result = answer(*arguments)
    if result is None or result is ...:
        raise Open
    return result


def compare(where: str, got: Any, wanted: Any, mistakes: Mapping[str, Any], tolerance: float = 1e-5) -> None:
    """Raises `Wrong` unless `got` equals `wanted` within `tolerance`; numbers, lists, arrays, tensors.

    `mistakes` maps a message to what that mistake would give here, likeliest first; where none fits, the message says
    what came and what was wanted. A mistake that gives the right answer here is passed over.
    """
    if _equal(got, wanted, tolerance):
        return
    for message, value in mistakes.items():
        if _equal(got, value, tolerance):
            raise Wrong(f"{where}: {message}")
    shapes = np.shape(_array(got)), np.shape(_array(wanted))
    if shapes[0] != shapes[1]:
        raise Wrong(f"{where}: your answer has shape {shapes[0]}, wanted {shapes[1]}")
    raise Wrong(f"{where}: {_difference(_array(got), _array(wanted), tolerance)}")


def _array(value: Any) -> np.ndarray:
    return np.asarray(value.detach() if hasattr(value, "detach") else value)


def _equal(got: Any, wanted: Any, tolerance: float) -> bool:
    got, wanted = _array(got), _array(wanted)
    if got.shape != wanted.shape or got.dtype.kind not in "biuf":
        return False
    return bool(np.allclose(got, wanted, rtol=tolerance, atol=tolerance, equal_nan=True))


def _difference(got: np.ndarray, wanted: np.ndarray, tolerance: float) -> str:
    """Both in full, or of long answers how many numbers differ, and the first of them."""
    if wanted.size <= LONG or got.dtype.kind not in "biuf":
        return f"got {_shown(got)}, wanted {_shown(wanted)}"
    wrong = np.argwhere(~np.isclose(got, wanted, rtol=tolerance, atol=tolerance, equal_nan=True))
    first = tuple(wrong[0].tolist())
    place = ", ".join(map(str, first))
    count = f"{len(wrong)} of {wanted.size} numbers differ"
    return f"{count}, the first at [{place}]: got {_shown(got[first])}, wanted {_shown(wanted[first])}"


def _shown(value: np.ndarray) -> str:
    return np.array2string(value, precision=4, separator=", ", threshold=LONG)
