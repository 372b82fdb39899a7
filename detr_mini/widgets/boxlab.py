"""BoxLab: two boxes to drag; IoU, GIoU and L1 of the one with the other, and where their gradients pull it."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from detr_mini.plots import boxes as plots
from detr_mini.widgets.lab import Lab, finite, module, picture

Box = Sequence[float] | np.ndarray | Tensor


class BoxLab(Lab):
    """A predicted box `a` and a true box `b`, both (x1, y1, x2, y2) in 0..1, on an image if there is one.

    `lab.a`, `lab.b` and `lab.measure` ("IoU", "GIoU" or "L1": whose pull is drawn) can be read and set, `lab.measures`
    has the numbers. Raises ValueError for boxes that are not four finite numbers from left to right and top to bottom.
    """

    _esm = module("core", "geometry", "stage", "boxlab")

    def __init__(
        self,
        a: Box = (0.15, 0.2, 0.5, 0.6),
        b: Box = (0.4, 0.35, 0.85, 0.8),
        measure: str = "GIoU",
        image: np.ndarray | Tensor | None = None,
    ):
        super().__init__({"a": _sides(a), "b": _sides(b), "measure": measure}, {"image": picture(image)})

    @property
    def a(self) -> list[float]:
        return list(self._good["a"])

    @a.setter
    def a(self, box_xyxy: Box) -> None:
        self.change(a=_sides(box_xyxy))

    @property
    def b(self) -> list[float]:
        return list(self._good["b"])

    @b.setter
    def b(self, box_xyxy: Box) -> None:
        self.change(b=_sides(box_xyxy))

    @property
    def measure(self) -> str:
        return self._good["measure"]

    @measure.setter
    def measure(self, name: str) -> None:
        self.change(measure=name)

    @property
    def measures(self) -> plots.BoxMeasures:
        """All three numbers of `a` against `b`, with their gradients, as torch computes them."""
        return plots.measures(self.a, self.b)

    def check(self, state: Mapping) -> None:
        """Raises ValueError where a box or the measure cannot be shown."""
        for name in ("a", "b"):
            box = state[name]
            finite(f"box {name}", box)
            if np.shape(box) != (4,):
                raise ValueError(f"box {name} has the shape {np.shape(box)}, wanted x1, y1, x2, y2")
            if box[2] < box[0] or box[3] < box[1]:
                raise ValueError(f"box {name} is {box}: its right lower corner comes first, or it is cx, cy, w, h")
        if state["measure"] not in plots.MEASURES:
            raise ValueError(f"measure {state['measure']!r}, wanted one of {', '.join(plots.MEASURES)}")

    def figure(self) -> Figure:
        """Both boxes, once for each measure."""
        return plots.two_boxes(self.a, self.b)

    def says(self) -> str:
        return "two boxes to drag, IoU, GIoU and L1 live"


def _sides(box: Box) -> list[float]:
    return np.asarray(box, dtype=float).tolist()
