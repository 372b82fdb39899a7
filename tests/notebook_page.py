"""One HTML file of an executed notebook that needs no network: pictures, equations and the widgets are inside.

The widgets' ES modules stay as they are; a stand-in takes the place of the kernel (`detr_mini.widgets.lab.embedded`),
so what is computed in the page goes on working. Equations become MathML.
"""

import copy
import re
from html import escape

from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbformat import NotebookNode

from detr_mini.widgets.lab import embedded

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
CODE = re.compile(r"```.*?```|~~~.*?~~~|`[^`\n]*`", re.DOTALL)
MATH = re.compile(r"\$\$(.+?)\$\$|(?<![\\$])\$(?![\s$])((?:[^$\n]|\n(?!\s*\n))+?)(?<![\s\\])\$(?!\d)", re.DOTALL)
REMOTE = re.compile(r"<script[^>]*\bsrc=[\"']https?://[^>]*>\s*</script>|<link[^>]*\bhref=[\"']https?://[^>]*>", re.I)
REQUIRE = re.compile(r"<script>\s*\(function\(\) \{\s*function addWidgetsRenderer.*?</script>", re.DOTALL)
MERMAID = re.compile(r"<script type=\"module\">(?:(?!</script>).)*mermaid.*?</script>", re.DOTALL)
MATHJAX = re.compile(r"<!-- Load mathjax -->.*?<!-- End of mathjax configuration -->", re.DOTALL)


def page(notebook: NotebookNode, title: str) -> str:
    """The page of a notebook that was executed with its widgets' state kept."""
    notebook = copy.deepcopy(notebook)
    states = notebook.metadata.get("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    formulas: list[str] = []
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            cell.source = _without_math(cell.source, formulas)
        for place, output in enumerate(cell.get("outputs", [])):
            view = output.get("data", {}).pop(WIDGET_VIEW, None)
            values = states.get(view["model_id"], {}).get("state", {}) if view else {}
            if "_esm" in values:
                traits = {name: values[name] for name in ("state", "given", "heard", "trouble") if name in values}
                line = f"<noscript>{escape(output.data.get('text/plain', ''))}</noscript>\n"
                output.data = {"text/html": line + embedded(values["_esm"], traits, f"widget-{number}-{place}")}
    notebook.metadata.pop("widgets", None)
    exporter = HTMLExporter(embed_images=True)
    html, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": title}})
    for pattern in (MATHJAX, MERMAID, REQUIRE, REMOTE):
        html = pattern.sub("", html)
    return re.sub(r"xxmath(\d+)xx", lambda found: formulas[int(found[1])], html)


def _without_math(text: str, formulas: list[str]) -> str:
    """Markdown with a word in the place of each equation, whose MathML is appended to `formulas`."""

    def word(found: re.Match) -> str:
        formula = (found[1] or found[2]).replace(r"\arg\min", r"\operatorname*{argmin}")  # which convert does not know
        formulas.append(convert(formula, display="block" if found[1] else "inline"))
        return f"xxmath{len(formulas) - 1}xx"

    pieces, start = [], 0
    for code in CODE.finditer(text):
        pieces += [MATH.sub(word, text[start : code.start()]), code[0]]
        start = code.end()
    return "".join([*pieces, MATH.sub(word, text[start:])])
