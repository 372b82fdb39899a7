"""What all widgets share: one plain ES module each, the state that both sides hold, and pages that need no kernel."""

import base64
import io
import json
import math
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path

import anywidget
import numpy as np
import traitlets
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

HERE = Path(__file__).parent
BY_PYTHON = {"number": 0, "by": "python", "touched": []}  # of a state: who made it, and what a page changed in it
STYLE = (HERE / "lab.css").read_text(encoding="utf-8")


def module(*names: str) -> str:
    """The ES module of a widget: the files of js/ joined in this order, the last one with its default export."""
    return "\n".join((HERE / "js" / f"{name}.js").read_text(encoding="utf-8") for name in names)


def picture(image: np.ndarray | Tensor | None) -> str:
    """An image (H, W, 3) or (3, H, W) uint8 as the data address of a PNG file; empty without one."""
    if image is None:
        return ""
    pixels = np.asarray(image)
    if pixels.ndim != 3 or 3 not in (pixels.shape[0], pixels.shape[2]) or pixels.dtype != np.uint8:
        raise ValueError(f"image is {pixels.dtype} {pixels.shape}, wanted uint8 of (H, W, 3) or (3, H, W)")
    if pixels.shape[2] != 3:
        pixels = pixels.transpose(1, 2, 0)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def pixels(address: str) -> np.ndarray | None:
    """The image (H, W, 3) uint8 behind `picture`'s address, None where it is empty."""
    if not address:
        return None
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGB"))


class Lab(anywidget.AnyWidget):
    """A widget whose picture is computed in the page and whose numbers Python computes anew when asked.

    `state` holds all that can be changed, by the mouse or from Python, and travels with every change; `given` what
    stays. A message from the page names the parts that its reader `touched`: only those are taken, so that it cannot
    undo what Python has set meanwhile. The new state is checked by `check(state)` and, where that raises, the page is
    given back the last good one, with the reason in `trouble`, which the widget shows.
    """

    _css = STYLE
    state = traitlets.Dict().tag(sync=True)
    given = traitlets.Dict().tag(sync=True)
    heard = traitlets.Unicode("").tag(sync=True)
    trouble = traitlets.Unicode("").tag(sync=True)

    def __init__(self, state: Mapping, given: Mapping):
        self._given = dict(given)
        self.check(state)
        self._good = {**state, **BY_PYTHON}
        self._asked: list[Callable[[], None]] = []
        self._telling = False
        super().__init__(state=self._good, given=self._given)
        self.observe(self._from_page, "state")

    def check(self, state: Mapping) -> None:
        """Raises ValueError where a state cannot be shown."""
        raise NotImplementedError

    def figure(self) -> Figure:
        """The static figure of what the widget shows now."""
        raise NotImplementedError

    def on_change(self, work: Callable[[], None]) -> None:
        """Calls `work()` after every change, from whichever side; what it raises is shown in the widget.

        What `work` itself changes in the widget is shown, but does not call it again.
        """
        self._asked.append(work)

    def change(self, **part) -> None:
        """Changes the state from Python; raises ValueError, and changes nothing, where the page could not show it."""
        news = {**self._good, **part}
        self.check(news)
        self._good = news
        self._publish()
        self._tell()

    def _publish(self) -> None:
        self._good = {**self._good, **BY_PYTHON, "number": self._good["number"] + 1}
        self.state = self._good

    def _from_page(self, change: Mapping) -> None:
        sent = change["new"]
        if sent is self._good or sent.get("by") == "python":
            return
        try:
            news = {**self._good, **{name: sent[name] for name in sent["touched"] if name in self._good}}
            self.check(news)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            self.trouble = f"Python refuses this: {error}"
            self._publish()
        else:
            self._good = news
            same = all(sent.get(name) == value for name, value in news.items() if name not in BY_PYTHON)
            if not same or sent.get("seen") != news["number"]:
                self._publish()  # the page had not seen all of Python's state
            self._tell()
        self.heard = f"{sent.get('by')} {sent.get('number')}"

    def _tell(self) -> None:
        if self._telling:
            return
        self._telling, said = True, []
        try:
            for work in self._asked:
                try:
                    work()
                except Exception as error:  # the reader's own code: a cell's traceback would go unseen
                    said.append(f"your function raised {type(error).__name__}: {error}")
        finally:
            self._telling = False
        self.trouble = "; ".join(said)

    def __repr__(self) -> str:
        return f"{type(self).__name__}: {self.says()} - run this cell to play"

    def says(self) -> str:
        """What is there to play with, in a few words that do not change while playing."""
        raise NotImplementedError

    def traits_now(self) -> dict:
        """What a page needs to show the widget as it is now."""
        return {"state": self._good, "given": self._given, "heard": "", "trouble": ""}

    def page(self, title: str | None = None) -> str:
        """A page of HTML with this widget in it that works from a file, without a kernel and without a network."""
        title = escape(title or type(self).__name__)
        return (
            f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            "<style>:root { color-scheme: light dark; } body { margin: 8px; }</style>\n</head>\n<body>\n"
            f"{embedded(self._esm, self.traits_now())}\n</body>\n</html>\n"
        )


def embedded(source: str, traits: Mapping, place: str = "widget") -> str:
    """HTML that shows a widget from its module and traits; a stand-in takes the place of the model in Python."""
    # Inside <script>, "</" would end it and "<!--" hide it.
    values, source = (text.replace("<", "\\u003c") for text in (json.dumps(dict(traits)), json.dumps(str(source))))
    return f"""<style>{STYLE}</style>
<div id="{place}"></div>
<script type="module">
const values = {values}, listeners = {{}};
const model = {{
  get: (name) => values[name],
  set: (name, value) => {{ values[name] = value; (listeners["change:" + name] ?? []).forEach((tell) => tell()); }},
  on: (name, tell) => (listeners[name] ??= []).push(tell),
  off: (name, tell) => {{ listeners[name] = (listeners[name] ?? []).filter((one) => one !== tell); }},
  save_changes: () => setTimeout(() => model.set("heard", `${{values.state.by}} ${{values.state.number}}`)),
}};
const address = URL.createObjectURL(new Blob([{source}], {{ type: "text/javascript" }}));
const {{ default: widget }} = await import(address);
const el = document.getElementById("{place}");
Object.assign(el, {{ model, module: widget }});
el.close = widget.render({{ model, el }});
</script>"""


def finite(name: str, values: object) -> None:
    """Raises ValueError where a number of nested lists is none, or is not finite: it would break the page."""
    for value in np.ravel(np.asarray(values, dtype=object)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"{name} holds {value!r}: finite numbers are wanted")
