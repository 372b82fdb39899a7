"""The stored notebooks are as style wants them, and the tool that makes them so does its work."""

import os
import re
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import normalise_notebooks as tool
import notebook_page
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PICTURE = {"image/png": "aGVsbG8=", "text/plain": "<Figure size 640x480 with 1 Axes>"}
VIEW = {tool.WIDGET_VIEW: {"model_id": "1"}, "text/plain": "Lab(scene=3)"}
BAR = {tool.WIDGET_VIEW: {"model_id": "2"}, "text/plain": "  0%|          | 0/500 [00:00<?, ?it/s]"}


def test_there_are_notebooks():
    assert (ROOT / "notebooks" / "00_start_here.ipynb") in NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_stored_notebook_is_in_order(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert any(cell.get("outputs") for cell in notebook.cells)
    assert path.stat().st_size <= tool.MAX_BYTES
    assert not list(tool.faults(notebook, path.parent))


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("data/*.md")), ids=lambda p: p.stem)
def test_links_in_texts_resolve(path):
    assert not tool.broken_links(path.read_text(encoding="utf-8"), path.parent)


def shown(data) -> nbformat.NotebookNode:
    return new_output("display_data", data=dict(data))


def good() -> nbformat.NotebookNode:
    """A notebook without faults."""
    printed = new_output("stream", name="stdout", text="two\n")
    cells = [
        new_markdown_cell("[the next one](01_boxes.ipynb#iou) and https://example.org"),
        new_code_cell("print('two')", execution_count=1, outputs=[printed]),
        new_code_cell("plt.show()", execution_count=2, outputs=[shown(PICTURE)]),
    ]
    notebook = new_notebook(cells=cells)
    notebook.metadata["detr_mini"] = {tool.FULL_LENGTH: tool.fingerprint(notebook)}
    return notebook


def spoil(cell: int, **changes):
    def apply(notebook):
        notebook.cells[cell].update(changes)

    return apply


def outputs(*items):
    return spoil(1, outputs=list(items))


def stream(text, name="stdout"):
    return new_output("stream", name=name, text=text)


@pytest.mark.parametrize(
    "spoil, said",
    [
        (spoil(2, execution_count=3), "1..n"),
        (spoil(2, execution_count=None), "1..n"),
        (spoil(1, source="print('three')"), "full length"),
        (lambda notebook: notebook.metadata.pop("detr_mini"), "full length"),
        (lambda notebook: notebook.metadata.update(widgets={"state": {}}), "widget state"),
        (spoil(2, outputs=[]), "no output"),
        (outputs(shown(VIEW)), "widget's view"),
        (outputs(stream("read /home/me/cards")), "absolute path"),
        (outputs(stream(r"read C:\Users\me")), "absolute path"),
        (spoil(0, source="look into `/tmp/runs`"), "absolute path"),
        (outputs(stream("UserWarning: slow")), "a warning"),
        (outputs(stream("anything", "stderr")), "stderr"),
        (outputs(stream("<Thing at 0x7f3a2b1c>")), "memory address"),
        (outputs(new_output("error", ename="ValueError", evalue="", traceback=[])), "ValueError"),
        (spoil(0, source="![cat](https://example.org/cat.png)"), "remote image"),
        (spoil(0, source='<img width=3 src="//example.org/cat.png">'), "remote image"),
        (outputs(shown({"text/html": "<img src='https://example.org/a.png'>"})), "remote image"),
        (spoil(0, source="[gone](02_gone.ipynb)"), "02_gone.ipynb"),
        (spoil(0, source="<a href='gone.md'>x</a>"), "gone.md"),
        (spoil(1, source="!pip install torch"), "installs"),
        (spoil(1, source="%pip install torch"), "installs"),
        (spoil(1, source="run([sys.executable, '-m', 'pip', 'install', 'x'])"), "installs"),
        (spoil(2, metadata=nbformat.from_dict({"tags": ["photos"]})), "photographs stored"),
    ],
)
def test_each_fault_is_found(tmp_path, spoil, said):
    (tmp_path / "01_boxes.ipynb").touch()
    notebook = good()
    assert not list(tool.faults(notebook, tmp_path))
    spoil(notebook)
    assert [fault for fault in tool.faults(notebook, tmp_path) if said in fault]


def test_normalising_keeps_facts_and_removes_noise():
    notebook = good()
    cell = notebook.cells[1]
    cell.outputs += [shown(VIEW), shown(BAR)]
    cell.metadata.update(tags=["hint"], collapsed=False, execution={"iopub.status.busy": "2020"})
    notebook.metadata.update(widgets={"state": {}}, language_info={"name": "python", "version": "3.11.7"})
    tool.normalise(notebook)
    assert [output.get("text") or output.data["text/plain"] for output in cell.outputs] == [
        "two\n",
        VIEW["text/plain"],
    ]
    assert cell.metadata == {"tags": ["hint"]}
    assert notebook.metadata.language_info == {"name": "python"} and "widgets" not in notebook.metadata
    assert notebook.cells[2].outputs[0].data == PICTURE, "drawn scenes stay"
    once = nbformat.writes(notebook)
    tool.normalise(notebook)
    assert nbformat.writes(notebook) == once


def test_what_a_picture_says_to_those_who_do_not_see_it_stays():
    notebook = good()
    said = {"image/png": {"alt": "two boxes", "width": 300}, "collapsed": True}
    notebook.cells[2].outputs = [new_output("display_data", data=dict(PICTURE), metadata=said)]
    tool.normalise(notebook)
    assert notebook.cells[2].outputs[0].metadata == {"image/png": {"alt": "two boxes"}}


def test_photographs_are_left_out_and_what_is_said_of_them_stays():
    notebook = good()
    table = {"text/html": "<table><tr><td>0.61</td></tr></table>", "text/plain": "0.61"}
    inline = {"text/html": "<img src='data:image/png;base64,aGk='>", "text/plain": "<HTML>"}
    notebook.cells[2].metadata["tags"] = ["photos"]
    notebook.cells[2].outputs += [stream("3 cards\n"), shown(table), shown(inline)]
    tool.normalise(notebook)
    first, second, said = notebook.cells[2].outputs
    assert first.text == "3 cards\n" and second.data == table
    assert said.text == tool.PHOTOS_LEFT_OUT


def test_a_notebook_is_run_in_its_folder_and_stored(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv(tool.QUICK, raising=False)
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    (tmp_path / "here.txt").write_text("found")
    path = tmp_path / "00.ipynb"
    cells = [
        new_code_cell("text = open('here.txt').read()"),
        new_code_cell("for c in text:\n    print(c)\ntext"),
    ]
    nbformat.write(new_notebook(cells=cells), path)
    assert tool.main([str(path)]) == 0
    stored = nbformat.read(path, as_version=4)
    assert not list(tool.faults(stored, tmp_path))
    text, value = stored.cells[1].outputs
    assert text.text == "f\no\nu\nn\nd\n" and value.data["text/plain"] == "'found'"

    stored.cells[0].source = "1 / 0"
    nbformat.write(stored, path)
    before = path.read_bytes()
    assert tool.main([str(path)]) == 1 and "ZeroDivisionError" in capsys.readouterr().err
    assert path.read_bytes() == before, "a notebook that fails is not stored"


def test_notebooks_are_not_stored_from_a_shortened_run(monkeypatch, tmp_path):
    monkeypatch.setenv(tool.QUICK, "1")
    with pytest.raises(RuntimeError, match="full length"):
        tool.execute(good(), tmp_path)
    assert os.environ[tool.QUICK] == "1"


class Prose(HTMLParser):
    """The text of a page that stands outside code."""

    def __init__(self):
        super().__init__()
        self.inside, self.text = 0, ""

    def handle_starttag(self, tag, attributes):
        self.inside += tag in ("pre", "code", "script", "style")

    def handle_endtag(self, tag):
        self.inside -= tag in ("pre", "code", "script", "style")

    def handle_data(self, data):
        self.text += "" if self.inside else data


def prose_of(notebook: nbformat.NotebookNode) -> str:
    parser = Prose()
    parser.feed(notebook_page.page(notebook, "a page"))
    return parser.text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_page_of_a_notebook_leaves_no_equation_as_source(path):
    text = prose_of(nbformat.read(path, as_version=4))
    assert len(text) > 1000 and not re.findall(r".{0,40}\$.{0,40}", text)


def test_equations_on_a_page_may_break_a_line_and_prices_are_none():
    cell = "Let $y =\n(c, b)$, then $$\\frac12\n\n= z$$ and `$PATH`. It costs $5 or\n\nless than 6$, or \\$7."
    html = notebook_page.page(new_notebook(cells=[new_markdown_cell(cell)]), "small")
    assert html.count("<math") == 2 and "$PATH" in html and "$5" in html and "6$" in html


def test_a_widget_on_a_page_without_scripts_is_the_line_that_is_stored():
    view = new_output("display_data", data={tool.WIDGET_VIEW: {"model_id": "1"}, "text/plain": "Lab: <a scene>"})
    notebook = new_notebook(cells=[new_code_cell("lab", outputs=[view])])
    values = {"_esm": "export default {}", "state": {}, "given": {}}
    notebook.metadata["widgets"] = {notebook_page.WIDGET_STATE: {"state": {"1": {"state": values}}}}
    assert "<noscript>Lab: &lt;a scene&gt;</noscript>" in notebook_page.page(notebook, "small")
