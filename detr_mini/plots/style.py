"""What all figures share: one colour for each role, text that reads on any picture, PNG on white."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from PIL import Image

# Okabe and Ito's palette, told apart with any colour vision; a role keeps its colour in every notebook.
QUERY = "#0072B2"  # blue: what a query predicts
OBJECT = "#E69F00"  # orange: what is truly there
MATCHED = "#009E73"  # green: a query and the object it was matched with
UNMATCHED = "#444444"  # dark grey: a query that has none, "no object"
INK = "#222222"
HEAT = "inferno"  # attention and other amounts from nothing to much
DPI = 120
PAGE_IN = 9.0  # width of a figure that fills the page
SEAM = [withStroke(linewidth=4, foreground="white")]  # keeps a line or a word visible on a dark picture


def new_figure(width_in: float, height_in: float) -> Figure:
    """An empty white figure of that size in inches, with a canvas of its own and no window."""
    figure = Figure(figsize=(width_in, height_in), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def row(
    count: int,
    height_in: float,
    bottom: float,
    top: float,
    left: float = 0.5,
    gap: float = 0.35,
    right: float = 0.2,
) -> tuple[Figure, list[Axes]]:
    """A figure of page width with axes side by side; all margins in inches."""
    figure = new_figure(PAGE_IN, height_in)
    wide = (PAGE_IN - left - right - (count - 1) * gap) / count
    lefts = [left + index * (wide + gap) for index in range(count)]
    places = [(x / PAGE_IN, bottom / height_in, wide / PAGE_IN, 1 - (bottom + top) / height_in) for x in lefts]
    return figure, [figure.add_axes(place) for place in places]


def running_mean(values: Sequence | np.ndarray, width: int) -> np.ndarray:
    """The mean of each row (N, ...) with the `width` - 1 before it, over fewer at the beginning."""
    values = np.asarray(values, dtype=float)
    total = np.cumsum(np.concatenate([np.zeros((1, *values.shape[1:])), values]), axis=0)
    last = np.arange(1, len(values) + 1)
    first = np.maximum(last - width, 0)
    return (total[last] - total[first]) / (last - first).reshape(-1, *[1] * (values.ndim - 1))


def tidy(axes: Axes) -> None:
    """Small tick labels, and a frame only where the axes are."""
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def draw_box(
    axes: Axes, box_xyxy: Sequence[float], colour: str, line: str = "-", width: float = 2.0, seam: bool = True
) -> None:
    """Draw the outline of a box (4,), in the unit of the axes; with a seam it shows on light and dark pictures."""
    x1, y1, x2, y2 = (float(side) for side in box_xyxy)
    look = {"fill": False, "edgecolor": colour, "linewidth": width, "linestyle": line}
    if seam:
        look["path_effects"] = [withStroke(linewidth=width + 2, foreground="white")]
    axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, **look))


def png(figure: Figure, colours: int | None = None) -> bytes:
    """The figure as the bytes of an opaque PNG file, with at most that many colours, 2..256; None keeps all."""
    file = io.BytesIO()
    figure.savefig(file, format="png", facecolor="white")
    if colours:  # a third of the bytes; undithered, since dots do not compress
        picture, file = Image.open(file).convert("RGB").quantize(colours, dither=Image.Dither.NONE), io.BytesIO()
        picture.save(file, format="png", optimize=True)
    return file.getvalue()


def save(figure: Figure, path: str | Path) -> None:
    """Write the figure as PNG; the folder is made where it is missing."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(figure))


def show(figure: Figure, alt: str, colours: int | None = 256) -> None:
    """Show the figure under a notebook's cell; `alt` says in words what is to be seen in it.

    A photograph wants `colours=None`; drawings and scenes do with 256, and stored notebooks stay small.
    """
    from IPython import display  # of the extra `lab`, which every notebook has

    display.display(display.Image(data=png(figure, colours), alt=alt))
