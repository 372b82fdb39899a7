"""A real JupyterLab or Notebook 7 on loopback, driven by a real browser: notebooks opened and run, kernels asked."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
START_S, RUN_S = 60, 240
PATHS = {"jupyterlab": "lab/tree", "notebook": "notebooks"}  # by the module that serves

READY = """() => {
  const panel = window.jupyterapp?.shell?.currentWidget, context = panel?.context?.sessionContext;
  if (!context?.isReady || !panel.context.isReady) return false;
  const kernel = context.session?.kernel;
  return kernel?.connectionStatus === 'connected' && kernel?.status === 'idle';
}"""
DONE = """() => {
  const { content, context } = window.jupyterapp.shell.currentWidget;
  const code = content.widgets.map(({ model }) => model).filter(({ type }) => type === 'code');
  const asked = code.filter(({ sharedModel }) => sharedModel.getSource().trim());
  for (const { outputs, metadata } of code) {
    const error = outputs.toJSON().find(({ output_type }) => output_type === 'error');
    if (error && !metadata.tags?.includes('raises-exception')) throw new Error(`${error.ename}: ${error.evalue}`);
  }
  const idle = context.sessionContext.session.kernel.status === 'idle';
  return idle && asked.every(({ executionCount }) => executionCount);
}"""
ASK = """async (code) => {
  const kernel = window.jupyterapp.shell.currentWidget.context.sessionContext.session.kernel;
  let text = '';
  const future = kernel.requestExecute({ code, store_history: false });
  future.onIOPub = (message) => {
    text += message.content.text ?? '';
    if (message.header.msg_type === 'error') text += message.content.evalue;
  };
  await future.done;
  return text;
}"""


@dataclass(frozen=True)
class Front:
    """A running front end: `work` is the folder of the notebooks that it serves."""

    app: str
    address: str
    work: Path

    def run_all(self, page, name: str) -> None:
        """Opens a notebook of the folder and runs its cells, as a reader does."""
        page.goto(f"{self.address}/{PATHS[self.app]}/notebooks/{name}{'?reset' if self.app == 'jupyterlab' else ''}")
        page.wait_for_function(READY, timeout=1000 * START_S)
        # Not awaited: the commands' promises have no time limit of their own.
        for command in ("clear-all-cell-outputs", "run-all-cells"):
            page.evaluate(f"() => {{ window.jupyterapp.commands.execute('notebook:{command}'); }}")
            page.wait_for_timeout(300)
        page.wait_for_function(DONE, timeout=1000 * RUN_S)

    def stop_kernels(self) -> None:
        """Frees what the notebooks that were run hold."""
        with urllib.request.urlopen(f"{self.address}/api/sessions", timeout=20) as answer:
            sessions = json.load(answer)
        for session in sessions:
            asked = urllib.request.Request(f"{self.address}/api/sessions/{session['id']}", method="DELETE")
            urllib.request.urlopen(asked, timeout=20).close()


@contextmanager
def served(app: str, home: Path) -> Iterator[Front]:
    """The front end `app` over an empty folder of notebooks, beside the course's data, with settings of its own."""
    work = home / "course" / "notebooks"
    work.mkdir(parents=True)
    (work.parent / "data").symlink_to(ROOT / "data")
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
    flags += ["--ServerApp.disable_check_xsrf=True", "--expose-app-in-browser"]
    # The environment's own kernels and extensions lie beside its Python; the reader's settings stay out.
    environment = {**os.environ, **folders, "JUPYTER_CONFIG_DIR": str(home / "config"), "DETR_MINI_QUICK": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with (home / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", app, *flags], env=environment, stdout=log, stderr=subprocess.STDOUT
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
        yield Front(app, address, work)
    finally:
        server.terminate()
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def ask_python(page, expression: str):
    """What the kernel of the notebook on the page answers to an expression."""
    answer = page.evaluate(ASK, f"import json as _j; print('<<' + _j.dumps({expression}) + '>>')")
    assert "<<" in answer, answer
    return json.loads(answer.split("<<")[1].split(">>")[0])


def scroll_to_cell(page, text: str) -> None:
    """Brings the first cell whose source holds `text` onto the screen, which attaches its outputs."""
    page.evaluate(
        """(text) => {
          const { content } = window.jupyterapp.shell.currentWidget;
          const sources = content.widgets.map(({ model }) => model.sharedModel.getSource());
          const at = sources.findIndex((source) => source.includes(text));
          content.activeCellIndex = at;
          return content.scrollToItem(at);
        }""",
        text,
    )
