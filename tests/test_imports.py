"""The order of the rooms: a module imports only from rows above its own, and the package stays small."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "detr_mini"
# fmt: off
ROWS = [
    "boxes", "hungarian", "matching", "losses", "attention", "positions", "transformer", "backbones", "detr",
    "listing", "download", "archives", "published", "checkpoints",
    "datasets.batches", "datasets.transforms", "datasets.sprites", "datasets.toybox", "datasets.coco",
    "datasets.voc", "datasets.sources", "datasets", "detection", "evaluation", "runs", "faults", "processes",
    "recipes", "training", "plots", "widgets", "checks", "doctor", "commands", "cli",
]
# fmt: on
CORE = ("boxes", "matching", "losses", "attention", "positions", "transformer", "detr")
MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").removesuffix(".")


def row(name: str) -> int:
    """The row of a module or of something in it; -1 for what is no module of the package."""
    for known in sorted(ROWS, key=len, reverse=True):
        if name == known or name.startswith(known + "."):
            return ROWS.index(known)
    return -1


def imported(tree: ast.AST, name: str) -> set[str]:
    """Names below detr_mini that the module `name` imports anywhere, also inside its functions."""
    found = set()
    parents = ["detr_mini", *name.split(".")][:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(parents[: len(parents) + 1 - node.level]) + "." if node.level else ""
            found |= {f"{base}{node.module or ''}.{alias.name}".replace("..", ".") for alias in node.names}
    return {full.removeprefix("detr_mini.") for full in found if full.startswith("detr_mini.")}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_has_a_row_and_imports_only_from_rows_above(path):
    name = name_of(path)
    names = imported(ast.parse(path.read_text(encoding="utf-8")), name)
    if not name:
        assert not names, "detr_mini/__init__.py imports nothing: the doctor must start where torch is missing"
        return
    assert row(name) >= 0, f"{name} has no row in the table of design"
    wrong = {other for other in names if not 0 <= row(other) <= row(name)}
    assert not wrong, f"{name} imports {sorted(wrong)}, which do not stand above it"


@pytest.mark.parametrize(
    "line, name, found",
    [
        ("from detr_mini import boxes, losses", "matching", {"boxes", "losses"}),
        ("import detr_mini.losses as l", "matching", {"losses"}),
        ("from detr_mini.datasets import toybox", "boxes", {"datasets.toybox"}),
        ("def f():\n    from .losses import set_loss", "matching", {"losses.set_loss"}),
        ("from . import transforms\nfrom .. import boxes", "datasets.coco", {"datasets.transforms", "boxes"}),
        ("import torch\nfrom torch import nn", "boxes", set()),
    ],
)
def test_every_way_of_importing_is_seen(line, name, found):
    assert imported(ast.parse(line), name) == found


def test_rows():
    assert row("losses.set_loss") == row("losses") > row("matching")
    assert row("datasets.batches") < row("datasets.toybox") < row("detection")
    assert row("something") == -1


def test_no_module_is_called_utils():
    assert not [path for path in MODULES if {"util", "utils", "helpers", "misc"} & {*path.parts, path.stem}]


def lines(paths) -> int:
    """Lines that hold something: blank ones are no reading."""
    return sum(bool(line.strip()) for path in paths for line in path.read_text(encoding="utf-8").splitlines())


def test_the_detector_reads_in_one_sitting():
    assert {path.stem for path in MODULES} >= set(CORE)
    assert lines(PACKAGE / f"{name}.py" for name in CORE) <= 700


def test_the_package_stays_small():
    """Without the rooms that grow with every notebook: its figures, interactive pieces and exercise checks."""
    course = {"plots", "widgets", "checks"}
    assert lines(path for path in MODULES if not course & {*path.parts}) <= 4700
