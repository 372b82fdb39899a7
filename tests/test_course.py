"""The notebooks lead to one another, and explain each term before they use it."""

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
TITLE = re.compile(r"^# (\d\d) (.+)$", re.MULTILINE)
LINK = re.compile(r"\[([^]]*)\]\((\d\d_\w+\.ipynb)\)")

# A term: how it shows in prose, the notebook that explains it, and words of the explanation.
TERMS = {
    "query": (r"\bquer(y|ies)\b", "00", r"ten \*queries\*, vectors that it learned"),
    "score": (r"\bscores?\b", "00", r"probability that the model gives it \(the \*score\*\)"),
    "AP": (r"\bAP\b", "00", r"AP, average precision, is the usual grade"),
    "NMS": (r"\bNMS\b|non-maximum suppression", "00", r"\*non-maximum suppression\* \(NMS\): of two boxes"),
    "decoder": (r"\bdecoder", "00", r"\*decoder\*, the part of the network that turns"),
    "backbone": (r"\bbackbone", "00", r"\*backbone\*, a small convolutional network"),
    "token": (r"\btokens?\b", "00", r"grid of \*tokens\*, each standing for a patch"),
    "slot": (r"\bslots?\b", "00", r"\*\*slot\*\* \| the row of the output"),
    "no object": (r"no object\b", "00", r"\*\*no object\*\* \| the class"),
    "match": (r"\bmatch(ed|es|ing)?\b", "00", r"\*\*match\*\* \| the pairing"),
    "IoU": (r"\bIoU\b", "00", r"IoU \| overlap of two boxes"),
    "feature map": (r"feature maps?\b", "00", r"feature map, \*\*token\*\* \| what the backbone makes"),
    "L1": (r"\bL1\b", "01", r"L1, the sum of the absolute differences"),
    "hull": (r"\bhulls?\b", "01", r"smallest rectangle around both boxes, the \*hull\*"),
    "cxcywh": (r"\bcxcywh\b", "01", r"`cxcywh` \| centre x, centre y, width, height"),
    "assignment": (r"\bassignments?\b", "02", r"That is the \*assignment problem\*"),
    "brute force": (r"brute force", "02", r"Trying all ways is called \*brute force\*"),
    "potential": (r"\bpotentials?\b", "02", r"the \*\*potentials\*\* \(dual variables, prices\)"),
    "reduced cost": (r"reduced costs?\b", "02", r"the \*\*reduced cost\*\*; a cell"),
    "slack": (r"\bslacks?\b", "02", r"the \*\*slack\*\* is the smallest reduced cost"),
    "alternating path": (r"alternating paths?\b", "02", r"form an \*\*alternating path\*\*"),
    "logits": (r"\blogits?\b", "02", r"`logits` are a query's K \+ 1 numbers before the softmax"),
    "auxiliary loss": (r"auxiliary loss", "03", r"one loss for each layer, and without auxiliary losses"),
    "class error": (r"class.error\b", "03", r"matched\* queries whose likeliest class is wrong"),
    "self-attention": (r"self-attention", "04", r"it is \*\*self-attention\*\* \(N = S\)"),
    "cross-attention": (r"cross-attention", "04", r"it is \*\*cross-attention\*\*"),
    "padding": (r"\b[Pp]adding\b", "04", r"the rest is \*\*padding\*\*"),
    "saturated": (r"\bsaturat", "04", r"the softmax is \*\*saturated\*\*"),
    "temperature": (r"\btemperature", "04", r"is called the \*\*temperature\*\*"),
    "learned encoding": (r"learned encoding", "04", r"The other kind is a table of parameters, one row for each place"),
    "stride": (r"\bstrides?\b", "04", r"\*stride\* of 32, one cell for 32 x 32 pixels"),
    "DC5": (r"\bDC5\b", "04", r"that of DC5, the paper's variant with a finer grid"),
    "residual sum": (r"\bresidual", "05", r"The \*\*residual sum\*\*: what the sub-layer answers"),
    "layer norm": (r"layer norm", "05", r"The \*\*norm\*\* \(layer norm\)"),
    "feed-forward network": (r"feed-forward", "05", r"\*\*feed-forward network\*\* does not look around"),
    "pre-norm": (r"\bpre-norm", "05", r"and \*\*pre-norm\*\*, explained"),
    "autoregressive": (r"autoregressive", "05", r"Its decoder is \*\*autoregressive\*\*"),
    "annotation": (r"\bannotations?\b", "06", r"each \*\*annotation\*\*, one box, points to both"),
    "receptive field": (r"receptive fields?\b", "06", r"is its \*\*receptive field\*\*"),
    "frozen batch-norm": (r"frozen (batch-)?norm", "06", r"The authors therefore \*\*freeze\*\* batch-norm"),
    "multiply-add": (r"multiply-add", "05", r"\*multiply-adds\* \(a product, added to a sum\)"),
    "R50": (r"\bR50\b", "04", r"R50, its model with a ResNet-50 as backbone"),
    "PCA": (r"\bPCA\b", "06", r"\*\*PCA\*\* finds the three directions"),
    "buffer": (r"\bbuffers?\b", "07", r"as buffers, tensors that are saved with a module but are no parameters"),
    "overfit": (r"\b[Oo]verfit", "08", r"\*overfit one image\*: a model that cannot learn one scene by heart"),
    "key map": (r"key maps?\b", "08", r"the \*\*key map\*\*, from their names to ours"),
    "warm-up": (r"warm-up", "08", r"the \*\*warm-up\*\*, in which the learning rate grows"),
    "gradient norm": (r"gradient norm", "09", r"If its length, the \*\*gradient norm\*\*"),
    "parameter group": (r"parameter groups?\b", "09", r"two \*\*parameter groups\*\*"),
    "scaler": (r"\bscaler", "09", r"So a \*\*scaler\*\* multiplies the loss"),
    "activations": (r"\bactivations\b", "09", r"the \*\*activations\*\*: whatever the forward pass must keep"),
    "band": (r"\*\*band\*\*", "09", r"made with a \*\*band\*\*: runs of the same settings"),
    "envelope": (r"\benvelope\b", "10", r"is called the \*\*envelope\*\*"),
    "anchor": (r"\banchors\b", "10", r"of fixed sizes and shapes, the \*\*anchors\*\*"),
}


def prose(path: Path) -> list[str]:
    """The notebook's markdown by cell, without links and without the opening list of what it promises."""
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"]
    kept = re.sub(r"^- \*\*(Time|Before|Afterwards).*?(?=^\S|\Z)", "", cells[0], flags=re.DOTALL | re.MULTILINE)
    return [" ".join(LINK.sub("", text).split()) for text in [TITLE.sub("", kept), *cells[1:]]]


PROSE = {path.name[:2]: prose(path) for path in NOTEBOOKS}


def place(number: str, pattern: str) -> tuple | None:
    """Notebook, cell and character of the first match in reading order."""
    for notebook, cells in PROSE.items():
        for position, text in enumerate(cells):
            found = re.search(pattern, text)
            if found and number in ("", notebook):
                return notebook, position, found.start()
    return None


def too_early(terms: dict) -> list[str]:
    """What is wrong: terms without their explanation, or used in a sentence before it."""
    wrong = []
    for term, (use, notebook, explanation) in terms.items():
        explained, used = place(notebook, explanation), place("", use)
        if explained is None:
            wrong.append(f"{term}: no explanation in notebook {notebook}")
        elif used is None:
            wrong.append(f"{term}: {use} occurs nowhere")
        elif used[:2] < explained[:2]:
            wrong.append(f"{term}: used in {used[0]}, text cell {used[1]}, explained in {explained[0]}, {explained[1]}")
    return wrong


def test_terms_are_explained_before_they_are_used():
    assert not too_early(TERMS)


def test_a_term_too_early_never_explained_or_never_used_is_found():
    early = {"stride": (r"\bstrides?\b", "06", r"receptive field")}
    never = {"query": (r"\bquer", "00", r"words that stand nowhere")}
    unused = {"query": (r"a word that stands nowhere", "00", r"query")}
    assert len(too_early(unused)) == 1 and "nowhere" in too_early(unused)[0]
    assert len(too_early(early)) == 1 and "used in" in too_early(early)[0]
    assert len(too_early(never)) == 1 and "no explanation" in too_early(never)[0]


def test_each_number_is_there_or_announced():
    table = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d\d) \| (\[?)([^|\]]+).*\| (yes|coming) \|$", table, re.MULTILINE)
    assert [number for number, *_ in rows] == [f"{i:02d}" for i in range(15)]
    there = {path.name[:2] for path in NOTEBOOKS}
    assert {number for number, link, _, state in rows if link and state == "yes"} == there
    assert all(not link and state == "coming" for number, link, _, state in rows if number not in there)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_ends_with_a_link_to_the_next(path):
    texts = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"]
    number, _ = TITLE.search(texts[0]).groups()
    assert path.name.startswith(number)
    following = [other for other in NOTEBOOKS if int(other.name[:2]) == int(number) + 1]
    linked = LINK.findall(texts[-1])
    if following:
        title = TITLE.search(nbformat.read(following[0], as_version=4).cells[0].source)
        assert linked[-1:] == [(f"{title[1]} {title[2]}", following[0].name)]
    else:
        assert "../README.md" in texts[-1]


@pytest.mark.parametrize("path", NOTEBOOKS[1:], ids=lambda path: path.stem)
def test_what_a_notebook_wants_read_before_comes_before_it(path):
    opening = nbformat.read(path, as_version=4).cells[0].source
    before = re.search(r"\*\*Before:\*\*(.*?)(?=^- \*\*|\Z)", opening, re.DOTALL | re.MULTILINE)
    wanted = {name for _, name in LINK.findall(before[1])}
    assert wanted and all((ROOT / "notebooks" / name).exists() and name < path.name for name in wanted)


def test_the_table_of_notebooks_links_them_all():
    table = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not [path.name for path in NOTEBOOKS if f"](notebooks/{path.name})" not in table]
