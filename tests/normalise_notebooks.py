"""Run the notebooks at full length and store them as the repository wants them (`make notebooks`).

`python tests/normalise_notebooks.py notebooks/*.ipynb` executes each in place, in its own folder, removes
what differs from run to run or may not be passed on, and names the faults that are left; it exits 1 if any.
With `--pages DIR` it also saves each there as one HTML file that works without a kernel and without a network,
widgets included (`make notebooks PAGES=DIR`); photographs are left out of it as they are of the notebook.
"""

import argparse
import ast
import copy
import hashlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

QUICK = "DETR_MINI_QUICK"  # shortens the training inside notebooks for CI
FULL_LENGTH = "full_length_run_of"  # metadata: the code whose outputs are stored
MAX_BYTES = 1_000_000
CELL_TIMEOUT_S = 3600
PHOTOS = "photos"  # tag of cells that show photographs, which stay out of the stored notebook
PHOTOS_LEFT_OUT = "The photographs appear here when you run this cell; the stored notebook leaves them out.\n"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}

PROGRESS_BAR = re.compile(r"\d+%\|")
ABSOLUTE_PATH = re.compile(
    r"(?<![\w.:/<])/(?:home|root|tmp|var|usr|opt|mnt|srv|work|private|Users|Volumes|workspace|content)/"
    r"|\b[A-Za-z]:\\\w"
)
ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]{6,}")
INSTALLS = re.compile(r"^\s*[!%]+\s*(?:pip|conda|mamba|uv|apt)\b|-m['\", ]+pip\b|\bpip['\", ]+install\b", re.M)
REMOTE_IMAGE = re.compile(r"!\[[^\]]*\]\(\s*<?(?:https?:)?//|<img[^>]+src=[\"']?(?:https?:)?//", re.I)
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)|\b(?:href|src)=[\"']([^\"']+)")


def execute(notebook: NotebookNode, folder: Path, widgets: bool = False) -> None:
    """Run all cells in `folder`, outputs in place, the widgets' state kept if asked for.

    RuntimeError where CI's short training is switched on.
    """
    if os.environ.get(QUICK):
        raise RuntimeError(f"{QUICK} is set: stored notebooks are run at full length, unset it")
    client = NotebookClient(
        notebook,
        kernel_name=KERNEL["name"],
        timeout=CELL_TIMEOUT_S,
        record_timing=False,
        coalesce_streams=True,
        store_widget_state=widgets,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    notebook.metadata["detr_mini"] = {FULL_LENGTH: fingerprint(notebook)}


def fingerprint(notebook: NotebookNode) -> str:
    """Of the code alone: prose may change without a new run."""
    code = "\0".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def normalise(notebook: NotebookNode) -> None:
    """Remove, in place, what differs between runs and machines, and photographs."""
    kept = {key: value for key, value in notebook.metadata.items() if key == "detr_mini"}
    notebook.metadata = nbformat.from_dict(kept | {"kernelspec": KERNEL, "language_info": {"name": "python"}})
    for cell in notebook.cells:
        kept = {key: value for key, value in cell.metadata.items() if key in ("tags", "jupyter")}
        cell.metadata = nbformat.from_dict(kept)
        if cell.cell_type != "code":
            continue
        cell.outputs = [output for output in cell.outputs if _without_widget(output)]
        for output in cell.outputs:
            output.pop("transient", None)
            if "metadata" in output:
                output.metadata = nbformat.from_dict(_alt_text(output.metadata))
        if PHOTOS in cell.metadata.get("tags", []):
            _leave_photographs_out(cell)


def _alt_text(metadata: NotebookNode) -> dict:
    """What a picture says to those who do not see it; all else goes."""
    kept = {kind: values["alt"] for kind, values in metadata.items() if isinstance(values, dict) and "alt" in values}
    return {kind: {"alt": text} for kind, text in kept.items()}


def _without_widget(output: NotebookNode) -> bool:
    """Drop the view, empty without a kernel, and keep its text; False where that is a progress bar."""
    data = output.get("data", {})
    if WIDGET_VIEW not in data:
        return True
    del data[WIDGET_VIEW]
    return bool(data) and not PROGRESS_BAR.search(data.get("text/plain", ""))


def _leave_photographs_out(cell: NotebookNode) -> None:
    kept = []
    for output in cell.outputs:
        data = output.get("data", {})
        pictures = {key for key in data if key.startswith("image/")}
        pictures |= {key for key in data if "data:image" in str(data[key])}
        for key in pictures:
            del data[key]
        if not pictures or set(data) - {"text/plain"}:
            kept.append(output)
    if len(kept) < len(cell.outputs):
        kept.append(nbformat.v4.new_output("stream", name="stdout", text=PHOTOS_LEFT_OUT))
    cell.outputs = kept


def faults(notebook: NotebookNode, folder: Path) -> Iterator[str]:
    """What may not be in a stored notebook that lies in `folder`, with the number of the cell (from 0)."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        yield "cells do not count 1..n: run it from top to bottom"
    if notebook.metadata.get("detr_mini", {}).get(FULL_LENGTH) != fingerprint(notebook):
        yield "the code is not the one that was run at full length: make notebooks"
    if "widgets" in notebook.metadata:
        yield "widget state in the metadata"
    for index, cell in enumerate(notebook.cells):
        for fault in (*_text_faults(cell, folder), *_output_faults(cell)):
            yield f"cell {index}: {fault}"


def _text_faults(cell: NotebookNode, folder: Path) -> Iterator[str]:
    texts = [cell.source, *output_texts(cell)]
    for pattern, fault in ((ABSOLUTE_PATH, "absolute path"), (REMOTE_IMAGE, "remote image")):
        for match in filter(None, map(pattern.search, texts)):
            yield f"{fault} near {match[0]!r}"
    if cell.cell_type == "code" and INSTALLS.search(cell.source):
        yield "installs something"
    if cell.cell_type == "markdown":
        yield from (f"link to {link}, which is not there" for link in broken_links(cell.source, folder))


def _output_faults(cell: NotebookNode) -> Iterator[str]:
    outputs = cell.get("outputs", [])
    if cell.cell_type == "code" and not outputs and shows_something(cell.source):
        yield "shows something, but holds no output"
    for output in outputs:
        if output.output_type == "error":
            yield f"ended with {output.ename}"
        if output.get("name") == "stderr":
            yield f"wrote to stderr (a warning?): {output.text[:80]!r}"
        if WIDGET_VIEW in output.get("data", {}):
            yield "a widget's view"
        if PHOTOS in cell.metadata.get("tags", []) and any(k.startswith("image/") for k in output.get("data", {})):
            yield "photographs stored"
    for text in output_texts(cell):
        if re.search(r"\w*Warning:", text):
            yield "a warning in the output"
        if ADDRESS.search(text):
            yield "a memory address in the output"


def output_texts(cell: NotebookNode) -> list[str]:
    """Everything in a cell's outputs that is text."""
    outputs = cell.get("outputs", [])
    data = [value for output in outputs for key, value in output.get("data", {}).items() if "image/p" not in key]
    return [str(text) for text in [*(output.get("text", "") for output in outputs), *data]]


def shows_something(source: str) -> bool:
    """Whether a cell's own lines print, display or draw."""
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a magic
        return False
    calls = [line.value.func for line in tree.body if isinstance(line, ast.Expr) and isinstance(line.value, ast.Call)]
    names = {call.id if isinstance(call, ast.Name) else getattr(call, "attr", "") for call in calls}
    return bool(names & {"print", "display", "show"})


def broken_links(text: str, folder: Path) -> list[str]:
    """Relative targets of links and pictures in Markdown or HTML that do not exist, seen from `folder`."""
    targets = [first or second for first, second in LINK.findall(text)]
    relative = [target for target in targets if not re.match(r"[a-z]+:|//|#", target, re.I)]
    return [target for target in relative if not (folder / unquote(target.split("#")[0])).exists()]


def save_page(notebook: NotebookNode, path: Path) -> None:
    """The notebook, executed with its widgets' state, as one HTML file."""
    from notebook_page import page

    shown = copy.deepcopy(notebook)
    for cell in shown.cells:
        if cell.cell_type == "code" and PHOTOS in cell.metadata.get("tags", []):
            _leave_photographs_out(cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(shown, path.stem), encoding="utf-8")


def main(paths: list[str], pages: Path | None = None) -> int:
    """Execute, normalise and store each notebook, and its page where asked for; the number of notebooks with faults."""
    wrong = 0
    for path in map(Path, paths):
        print(f"{path} ...", flush=True)
        notebook = nbformat.read(path, as_version=4)
        try:
            execute(notebook, path.parent, widgets=pages is not None)
        except CellExecutionError as error:
            print(f"  not stored, a cell failed:\n{error}", file=sys.stderr)
            wrong += 1
            continue
        if pages is not None:
            save_page(notebook, pages / f"{path.stem}.html")
        normalise(notebook)
        nbformat.write(notebook, path)
        found = list(faults(notebook, path.parent))
        if path.stat().st_size > MAX_BYTES:
            found.append(f"{path.stat().st_size / 1e6:.2f} MB, the limit is {MAX_BYTES / 1e6:.0f}")
        for fault in found:
            print(f"  {fault}", file=sys.stderr)
        wrong += bool(found)
    return wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="+")
    parser.add_argument("--pages", type=Path, metavar="DIR", help="save each as one HTML file, too")
    options = parser.parse_args()
    sys.exit(min(main(options.notebooks, options.pages), 1))
