"""Every exercise: the stub as it ships is open, and the folded solution, put in its place, is right."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from normalise_notebooks import KERNEL

ROOT = Path(__file__).resolve().parent.parent
EXERCISE = "exercise"  # tag of a cell that holds a stub
SOLUTION = re.compile(r"<details>\s*<summary>Solution[^<]*</summary>\s*```python\n(.*?)```\s*</details>", re.S)
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
WITH_EXERCISES = [path for path in NOTEBOOKS if f'"{EXERCISE}"' in path.read_text(encoding="utf-8")]


def stubs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if EXERCISE in cell.metadata.get("tags", [])]


def solutions(notebook: nbformat.NotebookNode) -> list[str]:
    """The code of the folded solutions, in order."""
    return [code for cell in notebook.cells if cell.cell_type == "markdown" for code in SOLUTION.findall(cell.source)]


def verdicts(notebook: nbformat.NotebookNode) -> list[tuple[str, str]]:
    """(number, "open" or "right") of every line a check printed, in order."""
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    return re.findall(r"^exercise (\d+) is (open|right)", printed, re.M)


@pytest.mark.parametrize("path", WITH_EXERCISES, ids=lambda path: path.stem)
def test_as_it_ships_every_exercise_is_open(path):
    notebook = nbformat.read(path, as_version=4)
    count = len(stubs(notebook))
    assert count >= 3 and len(solutions(notebook)) == count
    assert verdicts(notebook) == [(str(number), "open") for number in range(1, count + 1)]
    assert sum("<summary>Hint" in cell.source for cell in notebook.cells) >= count, "a hint for each"


@pytest.mark.parametrize("path", WITH_EXERCISES, ids=lambda path: path.stem)
def test_the_folded_solutions_are_right(path, tmp_path, monkeypatch):
    monkeypatch.setenv("DETR_MINI_QUICK", "1")
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    notebook = nbformat.read(path, as_version=4)
    for stub, solution in zip(stubs(notebook), solutions(notebook), strict=True):
        stub.source = solution
    resources = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, kernel_name=KERNEL["name"], timeout=300, resources=resources).execute()
    count = len(stubs(notebook))
    assert verdicts(notebook) == [(str(number), "right") for number in range(1, count + 1)]
