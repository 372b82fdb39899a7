"""The widgets in a real JupyterLab on loopback, in a real browser: the committed notebooks, run and played with."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import browser
import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
START_S, RUN_S = 60, 240

READY = """() => {
  const panel = window.jupyterapp?.shell?.currentWidget, context = panel?.context?.sessionContext;
  if (!context?.isReady || !panel.context.isReady) return false;
  const kernel = context.session?.kernel;
  return kernel?.connectionStatus === 'connected' && kernel?.status === 'idle';
}"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Address of a JupyterLab over a copy of the notebooks, with its settings in a folder of its own."""
    browser.executable()
    home = tmp_path_factory.mktemp("lab")
    work = home / "course" / "notebooks"
    work.mkdir(parents=True)
    settings = home / "config" / "lab" / "user-settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    quiet = {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True}
    (settings / "notification.jupyterlab-settings").write_text(json.dumps(quiet))
    folders = {name: str(home / name.lower()) for name in ("JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = ["--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0"]
    flags += ["--IdentityProvider.token=", "--ServerApp.password=", f"--ServerApp.root_dir={home / 'course'}"]
    flags += ["--expose-app-in-browser"]
    # The environment's own kernels and extensions lie beside its Python; the reader's settings stay out.
    environment = {**os.environ, **folders, "JUPYTER_CONFIG_DIR": str(home / "config"), "DETR_MINI_QUICK": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with (home / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *flags], env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    address, until = f"http://127.0.0.1:{port}", time.monotonic() + START_S
    try:
        while True:
            try:
                urllib.request.urlopen(f"{address}/api", timeout=2).close()
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < until, (home / "log").read_text()[-2000:]
                time.sleep(0.3)
        yield address, work
    finally:
        server.terminate()
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


@pytest.fixture(scope="module")
def chromium():
    with browser.started() as running:
        yield running


def run_all(page, address: str, name: str) -> None:
    """Opens a notebook of the course and runs its cells, as a reader does."""
    page.goto(f"{address}/lab/tree/notebooks/{name}?reset")
    page.wait_for_function(READY, timeout=1000 * START_S)
    # Not awaited: the commands' promises have no time limit of their own.
    for command in ("clear-all-cell-outputs", "run-all-cells"):
        page.evaluate(f"() => {{ window.jupyterapp.commands.execute('notebook:{command}'); }}")
        page.wait_for_timeout(300)
    done = """() => {
      const { content, context } = window.jupyterapp.shell.currentWidget;
      const code = content.widgets.map(({ model }) => model).filter(({ type }) => type === 'code');
      const asked = code.filter(({ sharedModel }) => sharedModel.getSource().trim());
      const idle = context.sessionContext.session.kernel.status === 'idle';
      return idle && asked.every(({ executionCount }) => executionCount);
    }"""
    page.wait_for_function(done, timeout=1000 * RUN_S)


def ask_python(page, expression: str):
    """What the notebook's kernel answers to an expression, through the page."""
    code = f"import json as _j; print('<<' + _j.dumps({expression}) + '>>')"
    answer = page.evaluate(
        """async (code) => {
          const kernel = window.jupyterapp.shell.currentWidget.context.sessionContext.session.kernel;
          let text = '';
          const future = kernel.requestExecute({ code, store_history: false });
          future.onIOPub = (message) => {
            text += message.content.text ?? '';
            if (message.header.msg_type === 'error') text += message.content.evalue;
          };
          await future.done;
          return text;
        }""",
        code,
    )
    assert "<<" in answer, answer
    return json.loads(answer.split("<<")[1].split(">>")[0])


def widget_notebook(folder: Path, *sources: str) -> str:
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "small.ipynb")
    return "small.ipynb"


def flip_by_hand(page, lab_name: str) -> None:
    """Drags the first of two predictions onto the other object; picture, table and Python must agree that it flips."""
    stage = page.locator(f".detr-mini.{lab_name} svg.stage").first
    stage.scroll_into_view_if_needed()

    def on_screen(place):
        return stage.evaluate(
            "(svg, [x, y]) => { const m = svg.getScreenCTM(); return [x * m.a + m.e, y * m.d + m.f]; }", place
        )

    before = ask_python(page, "lab.assignment.optimal")
    other = 1 - dict(map(tuple, before))[0]
    start, end = ask_python(page, f"[lab.predictions[0, :2].tolist(), lab.target['boxes'][{other}, :2].tolist()]")
    page.mouse.move(*on_screen(start))
    page.mouse.down()
    page.mouse.move(*on_screen(end), steps=10)
    page.mouse.up()
    page.wait_for_timeout(800)
    after = ask_python(page, "lab.assignment.optimal")
    assert after != before, "Python saw the drag"
    shown = page.eval_on_selector_all(
        f".detr-mini.{lab_name} table.costs tbody tr",
        "rows => rows.flatMap((row, q) => [...row.querySelectorAll('.cost')]"
        ".flatMap((cell, t) => (cell.classList.contains('optimal') ? [[q, t]] : [])))",
    )
    assert shown == after, "the table shows what Python has"
    drawn = (
        stage.locator(".box.query").first.locator(".edge").evaluate("e => ['x', 'y'].map((k) => +e.getAttribute(k))")
    )
    there = ask_python(page, "[float(c - s / 2) for c, s in zip(lab.predictions[0, :2], lab.predictions[0, 2:])]")
    assert drawn == pytest.approx(there, abs=1e-6), "the box is where Python has it"


START = "from detr_mini.widgets import MatchingLab\nlab = MatchingLab('greedy fails')\nlab"


def test_a_drag_in_jupyterlab_reaches_python_and_back(lab, chromium):
    address, work = lab
    name = widget_notebook(work, START)
    context = chromium.new_context(viewport={"width": 1300, "height": 1000})
    page = context.new_page()
    run_all(page, address, name)
    page.wait_for_selector(".detr-mini.MatchingLab[data-theme]", timeout=20000)
    flip_by_hand(page, "MatchingLab")
    ask_python(page, "[setattr(lab, 'preset', 'a tie'), lab.preset][1]")
    page.wait_for_function("document.querySelector('.detr-mini select').value === 'a tie'", timeout=5000)
    refused = "[lab.on_change(lambda: 1 / 0), setattr(lab, 'preset', 'greedy fails'), lab.trouble][2]"
    assert "ZeroDivisionError" in ask_python(page, refused)
    page.wait_for_selector(".detr-mini .trouble:not([hidden])", timeout=5000)
    context.close()


def test_the_identity_is_noticed_in_jupyterlab(lab, chromium):
    address, work = lab
    planted = (
        "from detr_mini.widgets import MatchingLab\n"
        "class Wrong(MatchingLab):\n"
        "    _esm = MatchingLab._esm.replace('steps.at(-1).matching', "
        "'cost.slice(0, cost[0].length).map((_, i) => [i, i])')\n"
        "lab = Wrong('greedy fails')\nlab"
    )
    context = chromium.new_context(viewport={"width": 1300, "height": 1000})
    page = context.new_page()
    run_all(page, address, widget_notebook(work, planted))
    page.wait_for_selector(".detr-mini.MatchingLab[data-theme]", timeout=20000)
    with pytest.raises(AssertionError, match="the table shows what Python has"):
        flip_by_hand(page, "MatchingLab")
    context.close()


def test_the_committed_notebook_is_run_and_played_with(lab, chromium):
    """Every cell of notebook 02, then a drag in its widget that flips the assignment."""
    address, work = lab
    name = "02_hungarian_matching.ipynb"
    shutil.copy(ROOT / "notebooks" / name, work)
    context = chromium.new_context(viewport={"width": 1300, "height": 1000})
    page = context.new_page()
    run_all(page, address, name)
    page.evaluate(
        """() => {
          const { content } = window.jupyterapp.shell.currentWidget;
          const sources = content.widgets.map(({ model }) => model.sharedModel.getSource());
          const at = sources.findIndex((source) => source.includes('lab = MatchingLab'));
          content.activeCellIndex = at;
          return content.scrollToItem(at);
        }"""
    )
    page.wait_for_selector(".detr-mini.MatchingLab[data-theme]", timeout=20000)
    flip_by_hand(page, "MatchingLab")
    context.close()
