"""Every answer of the FAQ names a place that exists."""

import ast
import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
ENTRY = re.compile(r"^### (\d+)\. (.+?)$(.*?)(?=^### |\Z)", re.MULTILINE | re.DOTALL)
ENTRIES = ENTRY.findall((ROOT / "FAQ.md").read_text(encoding="utf-8"))
TEST = re.compile(r"`(tests/\w+\.py)(?:::(\w+))?`")
SECTION = re.compile(r"\]\((notebooks/\w+\.ipynb)\), \*([^*]+)\*")


def missing(answer: str) -> list[str]:
    """Tests and notebook sections that an answer names and that are not there."""
    lost = []
    for file, name in TEST.findall(answer):
        path = ROOT / file
        defined = {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}
        lost += [f"{file}::{name}"] if name and name not in defined else []
    for file, title in SECTION.findall(answer):
        cells = nbformat.read(ROOT / file, as_version=4).cells
        text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        lost += [] if re.search(rf"^##+ {re.escape(title)}$", text, re.MULTILINE) else [f"{file}: {title}"]
    return lost


def test_the_23_questions_are_numbered():
    assert [int(number) for number, _, _ in ENTRIES] == list(range(1, 24))


@pytest.mark.parametrize(("number", "question", "answer"), ENTRIES, ids=[entry[0] for entry in ENTRIES])
def test_an_answer_names_places_that_exist(number, question, answer):
    where = answer.partition("Where: ")[2]
    assert TEST.search(where) or SECTION.search(where), question
    assert not missing(answer)


def test_a_place_that_is_not_there_is_found():
    answer = "`tests/test_faq.py::test_nothing` and [02](notebooks/02_hungarian_matching.ipynb), *No such section*"
    assert missing(answer) == [
        "tests/test_faq.py::test_nothing",
        "notebooks/02_hungarian_matching.ipynb: No such section",
    ]
    with pytest.raises(FileNotFoundError):
        missing("`tests/test_no_such_file.py`")


def test_notebook_00_leads_here():
    cells = nbformat.read(ROOT / "notebooks" / "00_start_here.ipynb", as_version=4).cells
    assert any("](../FAQ.md)" in cell.source for cell in cells if cell.cell_type == "markdown")
