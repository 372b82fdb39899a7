"""AssignmentTimeline: scrub or play through a training run and watch the lines from queries to objects change."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from detr_mini.plots import queries as plots
from detr_mini.widgets.indices import index as whole
from detr_mini.widgets.lab import Lab, finite, module, picture, pixels

SHOWN = ("matched queries", "all queries")


class AssignmentTimeline(Lab):
    """One scene of a run's log: `records` with `matches` and `answers` (as `data/queries.py timeline` keeps them).

    `image` is the scene's id in the log, `pixels` (3, H, W) or (H, W, 3) uint8 its picture, `target` its boxes (T, 4)
    cxcywh and labels, `names` the classes. `index` (the point) and `shown` can be read and set; `frame` is Python's
    answer. Raises ValueError for an image that was not logged, a target of another length, a label without a name, and
    for numbers of a run that diverged.
    """

    _esm = module("core", "stage", "assignmenttimeline")

    def __init__(
        self, records: Iterable[Mapping], image: int, pixels: np.ndarray | Tensor, target: Mapping, names: Sequence[str]
    ):
        records = list(records)
        self.frames, self.target = plots.film(records, image), target
        if len(target["labels"]) != len(self.frames[0].query):
            raise ValueError(f"{len(target['labels'])} objects in the target, {len(self.frames[0].query)} in the log")
        for frame in self.frames:
            if not (np.isfinite(frame.boxes_cxcywh).all() and np.isfinite(frame.scores).all()):
                raise ValueError(f"step {frame.step} has boxes or scores that are not finite: this run diverged")
        logged = [record for record in records if str(image) in record.get("answers", {})]
        changed = plots.timeline(logged).changed[:, -1] if len(logged) > 1 else np.zeros((0, 1))  # (P - 1, M)
        instability = changed.mean(1) if changed.shape[1] else np.zeros(len(changed))
        truth = {"boxes": np.asarray(target["boxes"], dtype=float).reshape(-1, 4).tolist()}
        finite("the target's boxes", truth["boxes"])
        labels = np.asarray(target["labels"]).tolist()
        unnamed = [label for label in labels if not 0 <= label < len(names)]
        if unnamed:
            raise ValueError(f"label {unnamed[0]} has no name: {len(names)} names were given")
        truth["names"] = [names[label] for label in labels]
        frames = [
            {
                "step": frame.step,
                "boxes": frame.boxes_cxcywh.tolist(),
                "scores": frame.scores.tolist(),
                "query": frame.query.tolist(),
            }
            for frame in self.frames
        ]
        given = {"image": picture(pixels), "truth": truth, "frames": frames, "instability": instability.tolist()}
        given["aspect"] = _aspect(given["image"])
        super().__init__({"index": 0, "shown": SHOWN[0]}, given)

    @property
    def index(self) -> int:
        """Which logged point, from 0."""
        return self._good["index"]

    @index.setter
    def index(self, index: int) -> None:
        self.change(index=whole("index", index))

    @property
    def shown(self) -> str:
        return self._good["shown"]

    @shown.setter
    def shown(self, shown: str) -> None:
        self.change(shown=shown)

    @property
    def frame(self) -> plots.Frame:
        return self.frames[self.index]

    @property
    def instability(self) -> np.ndarray:
        """(P - 1,): the share of this scene's objects whose query changed since the point before."""
        return np.array([frame.changed.mean() if len(frame.changed) else 0.0 for frame in self.frames[1:]])

    def check(self, state: Mapping) -> None:
        """Raises ValueError for a point that was not logged."""
        index = whole("index", state["index"])
        if not 0 <= index < len(self._given["frames"]):
            raise ValueError(f"index {index}, wanted 0..{len(self._given['frames']) - 1}")
        if state["shown"] not in SHOWN:
            raise ValueError(f"shown {state['shown']!r}, wanted one of {', '.join(SHOWN)}")

    def figure(self) -> Figure:
        """The first frame, the one that is shown, and the last."""
        chosen = sorted({0, self.index, len(self.frames) - 1})
        frames = [self.frames[index] for index in chosen]
        return plots.film_figure(frames, pixels(self._given["image"]), self.target["boxes"])

    def says(self) -> str:
        return "scrub through a training run, watch who takes which object"


def _aspect(address: str) -> float:
    """Height over width of the picture behind an address, 1 without one."""
    shown = pixels(address)
    return 1.0 if shown is None else shown.shape[0] / shown.shape[1]
