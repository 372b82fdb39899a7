"""The map of the course: which piece of the picture each notebook builds, and which are there."""

from pathlib import Path
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from detr_mini.plots import style

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
COURSE = (  # number, title, what it adds
    (0, "Start here", "the finished detector, and this map"),
    (1, "Boxes and overlap", "how far a box is from another"),
    (2, "Hungarian matching", "which query answers for which object"),
    (3, "The set prediction loss", "how wrong the whole set of answers is"),
    (4, "Attention and positions", "tokens that look at each other and know where they are"),
    (5, "The transformer", "encoder and decoder: from tokens to answers"),
    (6, "Images, data and the backbone", "from files to pixels to features"),
    (7, "DETR in fifty lines", "the whole detector on one page"),
    (8, "The full model", "all pieces together, equal to the paper's"),
    (9, "Training", "a loop that learns, and how broken runs look"),
    (10, "Evaluation", "AP by hand, and layer by layer"),
    (11, "Attention maps", "where it looked, and whether that explains"),
    (12, "Queries and assignments", "what each query specialises in"),
    (13, "Your own photographs", "cards, blood cells, your folder"),
    (14, "The paper's ablations in miniature", "which piece is worth what"),
)

COLUMN_IN, WIDTH_IN, HEIGHT_IN = 1.5, 9.0, 5.15
BOX_IN = (1.36, 0.96)  # width, height
ROWS = (  # bottom in inches, title, what it is about, (column, notebook) in the order of the arrows
    (
        3.52,
        "The detector",
        "an image goes in,\na set of answers\ncomes out",
        ((1, 6), (2, 4), (3, 5), (4, 8), (5, 0)),
    ),
    (
        1.96,
        "Learning",
        "answers are held\nagainst the true\nobjects, and the\nweights improve",
        ((4, 1), (3, 2), (2, 3), (1, 9)),
    ),
    (
        0.4,
        "Looking, using",
        "what it learned,\nand what it does\nfor you",
        ((1, 10), (2, 11), (3, 12), (4, 13), (5, 14)),
    ),
)


def there(folder: Path = FOLDER) -> set[int]:
    """The numbers of the notebooks that the folder holds."""
    return {int(path.name[:2]) for path in folder.glob("[0-9][0-9]_*.ipynb")}


def course_map(folder: Path = FOLDER) -> Figure:
    """Draw the course's pieces and what passes between them; notebooks not yet in the folder are dashed."""
    figure, found = style.new_figure(WIDTH_IN, HEIGHT_IN), there(folder)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH_IN), ylim=(0, HEIGHT_IN))
    axes.axis("off")
    for bottom, title, about, places in ROWS:
        axes.text(0.12, bottom + BOX_IN[1], title, fontsize=10, color=style.INK, weight="bold", va="top")
        axes.text(0.12, bottom + BOX_IN[1] - 0.25, about, fontsize=8, color=style.INK, va="top")
        for column, number in places:
            _notebook(axes, column * COLUMN_IN, bottom, BOX_IN, number, number in found)
    _notebook(axes, COLUMN_IN, 4.66, (3 * COLUMN_IN + BOX_IN[0], 0.36), 7, 7 in found)
    (top, *_, detector), (low, *_, learning), _ = ROWS
    for places, bottom, way in ((detector, top, 1), (learning, low, -1)):
        for column, _number in places[:-1]:
            middle = column * COLUMN_IN + BOX_IN[0] / 2
            edge, y = way * BOX_IN[0] / 2, bottom + BOX_IN[1] / 2
            _arrow(axes, (middle + edge, y), (middle + way * COLUMN_IN - edge, y))
    right, left = 4 * COLUMN_IN + BOX_IN[0] / 2, COLUMN_IN + BOX_IN[0] / 2
    _arrow(axes, (right, top), (right, low + BOX_IN[1]), "answers")
    _arrow(axes, (left, low + BOX_IN[1]), (left, top), "better weights")
    truth = 5 * COLUMN_IN
    axes.text(truth + 0.12, low + BOX_IN[1] / 2, "true objects", fontsize=8.5, color=style.INK, va="center")
    _arrow(axes, (truth + 0.1, low + BOX_IN[1] / 2), (4 * COLUMN_IN + BOX_IN[0], low + BOX_IN[1] / 2))
    axes.text(0.12, 0.12, "filled: here to be run    dashed: coming", fontsize=8, color=style.UNMATCHED)
    return figure


def _notebook(axes: Axes, left: float, bottom: float, size: tuple[float, float], number: int, here: bool) -> None:
    """A notebook's box: its number and title, and below, or behind where it is flat, what it adds."""
    _, title, adds = COURSE[number]
    paper = {"facecolor": style.INK} if here else {"facecolor": "white", "linestyle": (0, (3, 2))}
    shape = FancyBboxPatch((left, bottom), *size, boxstyle="round,pad=0,rounding_size=0.06", **paper)
    shape.set(edgecolor=style.INK if here else style.UNMATCHED, linewidth=1.2)
    axes.add_patch(shape)
    letters, wide = int(size[0] * 13.5), size[0] > 2
    head, body = fill(f"{number:02d} {title}", letters), fill(adds, letters + 3)
    ink = {"color": "white" if here else style.INK, "va": "center" if wide else "top"}
    y = bottom + size[1] / 2 if wide else bottom + size[1] - 0.08
    axes.text(left + 0.08, y, head, fontsize=8, weight="bold", **ink)
    if wide:
        axes.text(left + size[0] - 0.08, y, body, fontsize=7.5, ha="right", **ink)
    else:
        axes.text(left + 0.08, y - 0.15 * (1 + head.count("\n")), body, fontsize=7.5, **ink)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], text: str = "") -> None:
    arrow = {"arrowstyle": "-|>", "color": style.INK, "shrinkA": 1, "shrinkB": 1}
    axes.annotate("", xy=end, xytext=start, arrowprops=arrow)
    if text:
        axes.text(end[0] + 0.08, (start[1] + end[1]) / 2, text, fontsize=8, color=style.INK, va="center")
