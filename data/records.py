"""What the scripts of this folder share: the cells of a notebook that they run, and how a result is written down."""

import hashlib
import platform
from collections.abc import Callable
from pathlib import Path

import nbformat
import torch


def tagged_code(notebook: Path, tag: str) -> str:
    """The code of a notebook's cells with a tag, in order; raises RuntimeError where there is none."""
    cells = nbformat.read(notebook, as_version=4).cells
    tagged = [cell.source for cell in cells if cell.cell_type == "code" and tag in cell.metadata.get("tags", [])]
    if not tagged:
        raise RuntimeError(f"{notebook.name} has no code cell tagged {tag!r}")
    return "\n\n".join(tagged)


def fingerprint(code: str) -> str:
    """What tells one version of the cells from another."""
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def device() -> str:
    """Processor, threads and torch, for those who compare times."""
    return f"CPU ({platform.machine()}), {torch.get_num_threads()} thread(s), torch {torch.__version__}"


def shortened(value, shorten: Callable[[float], float]):
    """A JSON value with every float in it shortened."""
    if isinstance(value, float):
        return shorten(value)
    if isinstance(value, list):
        return [shortened(item, shorten) for item in value]
    return {key: shortened(item, shorten) for key, item in value.items()} if isinstance(value, dict) else value


def rounded(value, digits: int):
    """A JSON value with its floats rounded to so many decimals."""
    return shortened(value, lambda number: round(number, digits))
