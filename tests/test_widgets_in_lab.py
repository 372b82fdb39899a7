"""The widgets in a real JupyterLab and a real Notebook 7: the committed notebooks, run and played with by mouse."""

import shutil
from functools import partial
from pathlib import Path

import browser
import jupyter
import nbformat
import pytest
from jupyter import ask_python

from detr_mini.widgets import MatchingLab

ROOT = Path(__file__).resolve().parent.parent
SHOWN_MS = 20_000


@pytest.fixture(scope="module", params=jupyter.PATHS)
def front(request, tmp_path_factory):
    """JupyterLab, and Notebook 7, which shares its code."""
    browser.executable()
    with jupyter.served(request.param, tmp_path_factory.mktemp(request.param)) as running:
        yield running


@pytest.fixture
def page(front, chromium):
    context = chromium.new_context(viewport={"width": 1300, "height": 1000})
    yield context.new_page()
    context.close()
    front.stop_kernels()


def small_notebook(folder: Path, source: str) -> str:
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    cells = [nbformat.v4.new_code_cell(source)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "small.ipynb")
    return "small.ipynb"


def drag(page, start, end) -> None:
    browser.drag(page, start, end)
    page.wait_for_timeout(800)  # the last position is on its way


def stage_of(page, lab: str):
    stage = page.locator(f".detr-mini.{lab}[data-theme] svg.stage").first
    stage.wait_for(timeout=SHOWN_MS)
    stage.scroll_into_view_if_needed()
    return stage


def marked(page) -> list[list[int]]:
    """The pairs that the table shows, as JSON has Python's."""
    return [list(pair) for pair in browser.shown_pairs(page)]


def flip_by_hand(page, query: int = 0) -> None:
    """Drags a prediction onto an object that it lacks; picture, table and Python must agree that the pairs change."""
    stage = stage_of(page, "MatchingLab")
    before = ask_python(page, "lab.assignment.optimal")
    other = 1 - dict(map(tuple, before)).get(query, 0)
    ends = f"[lab.predictions[{query}, :2].tolist(), lab.target['boxes'][{other}, :2].tolist()]"
    drag(page, *ask_python(page, ends))
    after = ask_python(page, "lab.assignment.optimal")
    assert after != before, "Python saw the drag"
    assert marked(page) == after, "the table shows what Python has"
    edge = stage.locator(".box.query").nth(query).locator(".edge")
    drawn = edge.evaluate("edge => ['x', 'y'].map((name) => +edge.getAttribute(name))")
    there = ask_python(page, f"(lab.predictions[{query}, :2] - lab.predictions[{query}, 2:] / 2).tolist()")
    assert drawn == pytest.approx(there, abs=1e-6), "the box is where Python has it"


def move_a_box(page) -> None:
    stage_of(page, "BoxLab")
    ask_python(page, "[setattr(lab, 'a', (0.1, 0.1, 0.4, 0.5)), setattr(lab, 'b', (0.6, 0.5, 0.9, 0.9))][0]")
    page.wait_for_timeout(300)
    drag(page, (0.25, 0.3), (0.65, 0.6))
    assert ask_python(page, "lab.a") == pytest.approx([0.5, 0.4, 0.8, 0.8], abs=0.01)
    shown = page.locator(".detr-mini.BoxLab .measures td:nth-child(2)").all_inner_texts()
    assert [float(text.replace("−", "-")) for text in shown] == pytest.approx(
        ask_python(page, "[lab.measures.iou, lab.measures.giou, lab.measures.l1]"), abs=6e-4
    )


def point_at_a_cell(page) -> None:
    stage_of(page, "PositionExplorer")
    rows, columns = ask_python(page, "list(explorer.size)")
    page.mouse.click(*browser.on_screen(page, 2.5 / columns, 8.5 / columns))
    page.wait_for_timeout(500)
    assert ask_python(page, "list(explorer.cell)") == [8, 2]
    lowest, spread = ask_python(page, "[explorer.similarity.lowest, explorer.similarity.spread]")
    assert page.locator(".PositionExplorer .totals").inner_text() == (
        f"row 8, column 2: lowest cosine {lowest:.2f}, standard deviation {spread:.3f}".replace("-", "−")
    )


def click_a_detection(page) -> None:
    stage_of(page, "AttentionExplorer")
    last = ask_python(page, "len(explorer.found) - 1")
    page.locator(".AttentionExplorer g.box").last.focus()
    page.keyboard.press("Enter")
    page.wait_for_timeout(500)
    assert last > 0 and ask_python(page, "explorer.pick") == last
    bits, share = ask_python(page, "[explorer.view.entropy_bits, explorer.view.share_in_box]")
    told = page.locator(".AttentionExplorer .totals").inner_text()
    assert f"{bits:.1f} bits" in told and f"{round(100 * share)} % in its box" in told


def scrub(page) -> None:
    stage_of(page, "AssignmentTimeline")
    step = page.locator(".AssignmentTimeline input[type=range]")
    step.press("Home")
    step.press("ArrowRight")
    page.wait_for_timeout(500)
    assert ask_python(page, "run.index") == 1
    step, query = ask_python(page, "[run.frame.step, run.frame.query.tolist()]")
    told = page.locator(".AssignmentTimeline .totals").inner_text()
    assert told.startswith(f"step {step}: {sum(q >= 0 for q in query)} of {len(query)} objects")


COMMITTED = {
    "00_start_here": ("AttentionExplorer(", click_a_detection),
    "01_boxes_and_overlap": ("lab = BoxLab(", move_a_box),
    "02_hungarian_matching": ("lab = MatchingLab(", flip_by_hand),
    "03_set_prediction_loss": ("lab = MatchingLab(", partial(flip_by_hand, query=1)),
    "04_attention_and_positions": ("explorer = PositionExplorer(", point_at_a_cell),
    "11_attention_maps": ("AttentionExplorer(", click_a_detection),
    "12_queries_and_assignments": ("run = AssignmentTimeline(", scrub),
}


def test_a_drag_reaches_python_and_back(front, page):
    source = "from detr_mini.widgets import MatchingLab\nlab = MatchingLab('greedy fails')\nlab"
    front.run_all(page, small_notebook(front.work, source))
    flip_by_hand(page)
    ask_python(page, "[setattr(lab, 'preset', 'a tie'), lab.preset][1]")
    page.wait_for_function("document.querySelector('.detr-mini select').value === 'a tie'", timeout=5000)
    refused = "[lab.on_change(lambda: 1 / 0), setattr(lab, 'preset', 'greedy fails'), lab.trouble][2]"
    assert "ZeroDivisionError" in ask_python(page, refused)
    page.wait_for_selector(".detr-mini .trouble:not([hidden])", timeout=5000)


def test_a_busy_kernel_loses_nothing_and_a_dead_one_stops_nothing(front, page):
    source = "from detr_mini.widgets import MatchingLab\nlab = MatchingLab('greedy fails')\nlab"
    front.run_all(page, small_notebook(front.work, source))
    stage_of(page, "MatchingLab")
    page.evaluate(
        """() => {
          const kernel = window.jupyterapp.shell.currentWidget.context.sessionContext.session.kernel;
          kernel.requestExecute({ code: "import time\\ntime.sleep(3)\\nlab.lines = 'both'" });
        }"""
    )
    drag(page, MatchingLab().predictions[0, :2].tolist(), (0.2, 0.9))
    assert marked(page) == [[0, 1], [1, 0]], "the picture does not wait for the kernel"
    ask_python(page, "0")  # the kernel is back, and the page sends what was held back
    page.wait_for_timeout(1500)
    there, lines, pairs = ask_python(page, "[lab.predictions[0, :2].tolist(), lab.lines, lab.assignment.optimal]")
    assert there == pytest.approx([0.2, 0.9], abs=0.01) and lines == "both" and pairs == marked(page)
    page.wait_for_function("document.querySelectorAll('.stage .lines .greedy').length === 2", timeout=5000)
    front.stop_kernels()
    drag(page, (0.2, 0.9), MatchingLab().predictions[0, :2].tolist())
    assert marked(page) == [[0, 0], [1, 1]], "without a kernel the page goes on"
    assert page.locator(".detr-mini .trouble").is_hidden()


def test_the_identity_is_noticed(front, page):
    planted = (
        "from detr_mini.widgets import MatchingLab\n"
        "class Wrong(MatchingLab):\n"
        "    _esm = MatchingLab._esm.replace('steps.at(-1).matching', "
        "'cost.slice(0, cost[0].length).map((_, i) => [i, i])')\n"
        "lab = Wrong('greedy fails')\nlab"
    )
    front.run_all(page, small_notebook(front.work, planted))
    with pytest.raises(AssertionError, match="the table shows what Python has"):
        flip_by_hand(page)


@pytest.mark.parametrize(
    "front, name",
    [*(("jupyterlab", name) for name in COMMITTED), ("notebook", "02_hungarian_matching")],
    indirect=["front"],
)
def test_the_committed_notebook_is_run_and_played_with(front, page, name):
    shutil.copy(ROOT / "notebooks" / f"{name}.ipynb", front.work)
    cell, play = COMMITTED[name]
    front.run_all(page, f"{name}.ipynb")
    jupyter.scroll_to_cell(page, cell)
    play(page)
