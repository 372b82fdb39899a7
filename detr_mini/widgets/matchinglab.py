"""MatchingLab: predictions to drag over a scene, their costs, the assignment, and the algorithm step by step."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from detr_mini import hungarian, losses, matching
from detr_mini.datasets.toybox import Toybox
from detr_mini.plots import hungarian as plots
from detr_mini.plots.losses import PairLosses, pair_losses
from detr_mini.widgets.indices import index
from detr_mini.widgets.lab import Lab, finite, module, picture, pixels

# Q predictions · T true boxes · K classes

LINES = ("optimal", "greedy", "both")


class MatchingLab(Lab):
    """A scene with objects and predictions.

    Begins with one of `plots.hungarian.presets()` by name, or with an own scene: `target` (boxes (T, 4) cxcywh, labels
    (T,)), `predictions` (Q, 4), `probabilities` (Q, K+1) with "no object" last, `names` (K,), and perhaps an image.
    Whatever the mouse changes can be read and set: `predictions`, `probabilities`, `weights`, `target`, `preset`,
    `lines`, `step`; `assignment`, `steps` and `losses` are Python's own answer. Raises ValueError for shapes that do
    not fit, labels outside the classes, and numbers that are not finite.
    """

    _esm = module("core", "geometry", "assignment", "stage", "costtable", "matchinglab")

    def __init__(
        self,
        preset: str | None = "greedy fails",
        *,
        target: Mapping | None = None,
        predictions: Tensor | np.ndarray | None = None,
        probabilities: Tensor | np.ndarray | None = None,
        weights: matching.Weights | None = None,
        names: Sequence[str] = Toybox.names,
        image: np.ndarray | Tensor | None = None,
        show_losses: bool = False,
        lines: str = "optimal",
    ):
        presets = {name: _scene(each) for name, each in plots.presets().items()} if tuple(names) == Toybox.names else {}
        if target is None:
            if preset not in presets:
                raise ValueError(f"no preset {preset!r}: {', '.join(presets) or 'none, with own names'}")
            scene = _changeable(presets[preset])
        else:
            if predictions is None or probabilities is None:
                raise ValueError("an own target wants predictions (Q, 4) and probabilities (Q, K+1) with it")
            scene = {"truth": _truth(target), "weights": asdict(matching.Weights())}
        if predictions is not None:
            scene["boxes"] = _rows(predictions)
        if probabilities is not None:
            scene["probabilities"] = _rows(probabilities)
        if weights is not None:
            scene["weights"] = asdict(weights)
        if target is None:
            presets[preset] = {**presets[preset], **scene}
        given = {"names": list(names), "presets": presets, "image": picture(image), "show_losses": bool(show_losses)}
        given["own"] = None if target is None else {**scene, "says": ""}
        given["loss_weights"] = {key: float(value) for key, value in asdict(losses.Weights()).items()}
        state = {**scene, "preset": preset if target is None else None, "shown": lines, "step": None}
        super().__init__(state, given)

    @property
    def predictions(self) -> Tensor:
        """(Q, 4) cxcywh, float64 as the page has them."""
        return torch.tensor(self._good["boxes"], dtype=torch.float64).reshape(-1, 4)

    @predictions.setter
    def predictions(self, boxes_cxcywh: Tensor | np.ndarray | Sequence) -> None:
        self.change(boxes=_rows(boxes_cxcywh), step=None)

    @property
    def probabilities(self) -> Tensor:
        """(Q, K+1), "no object" last."""
        return torch.tensor(self._good["probabilities"], dtype=torch.float64).reshape(-1, len(self.names) + 1)

    @probabilities.setter
    def probabilities(self, probabilities: Tensor | np.ndarray | Sequence) -> None:
        self.change(probabilities=_rows(probabilities), step=None)

    @property
    def target(self) -> dict:
        """The true boxes (T, 4) cxcywh and labels (T,)."""
        truth = self._good["truth"]
        boxes = torch.tensor(truth["boxes"], dtype=torch.float32).reshape(-1, 4)
        return {"boxes": boxes, "labels": torch.tensor(truth["labels"], dtype=torch.int64)}

    @target.setter
    def target(self, target: Mapping) -> None:
        self.change(truth=_truth(target), preset=None, step=None)

    @property
    def weights(self) -> matching.Weights:
        return matching.Weights(**self._good["weights"])

    @weights.setter
    def weights(self, weights: matching.Weights) -> None:
        self.change(weights=asdict(weights), step=None)

    @property
    def names(self) -> list[str]:
        return list(self._given["names"])

    @property
    def preset(self) -> str | None:
        """The scene's name, None where it is an own one."""
        return self._good["preset"]

    @preset.setter
    def preset(self, name: str) -> None:
        if name not in self._given["presets"]:
            raise ValueError(f"no preset {name!r}: {', '.join(self._given['presets']) or 'none, with own names'}")
        self.change(**_changeable(self._given["presets"][name]), preset=name, step=None)

    @property
    def step(self) -> int | None:
        """Which step of `steps` is shown; None for the costs."""
        return self._good["step"]

    @step.setter
    def step(self, step: int | None) -> None:
        count = len(self.steps)
        if step is not None and not 0 <= index("step", step) < count:
            raise ValueError(f"step {step}, wanted 0..{count - 1} or None")
        self.change(step=None if step is None else index("step", step))

    @property
    def lines(self) -> str:
        """Whose lines are drawn: "optimal", "greedy" or "both"."""
        return self._good["shown"]

    @lines.setter
    def lines(self, shown: str) -> None:
        self.change(shown=shown)

    @property
    def assignment(self) -> plots.AssignmentState:
        """All costs, the optimal pairs and greedy's."""
        return plots.assign(self.predictions, self.probabilities, self.target, self.weights)

    @property
    def steps(self) -> list[hungarian.Step]:
        return list(hungarian.trace(self.assignment.cost))

    @property
    def losses(self) -> PairLosses:
        """What each prediction adds to the loss of the scene."""
        target, weights = self.target, losses.Weights(**self._given["loss_weights"])
        given = self.probabilities, self.predictions, target["labels"], target["boxes"].double()
        return pair_losses(*given, weights, self.weights)

    def check(self, state: Mapping) -> None:
        """Raises ValueError where shapes do not fit together or a number is not finite."""
        truth, classes = state["truth"], len(self.names)
        for name, rows, width in (
            ("predictions", state["boxes"], 4),
            ("probabilities", state["probabilities"], classes + 1),
            ("true boxes", truth["boxes"], 4),
        ):
            finite(name, rows)
            if any(np.shape(row) != (width,) for row in rows):
                raise ValueError(f"{name}: {[np.shape(row) for row in rows]}, wanted rows of {width} numbers")
        if len(state["boxes"]) != len(state["probabilities"]):
            raise ValueError(
                f"{len(state['boxes'])} predictions and {len(state['probabilities'])} rows of probabilities"
            )
        if len(truth["boxes"]) != len(truth["labels"]):
            raise ValueError(f"{len(truth['boxes'])} true boxes and {len(truth['labels'])} labels")
        if any(not 0 <= label < classes for label in truth["labels"]):
            raise ValueError(f"labels {truth['labels']}, wanted 0..{classes - 1}")
        for query, row in enumerate(state["probabilities"]):
            if min(row) < 0 or sum(row) <= 0:
                raise ValueError(f"the probabilities of prediction {query} are negative or all zero")
        finite("the weights", list(state["weights"].values()))
        if min(state["weights"].values()) < 0:
            raise ValueError(f"weights {state['weights']}, wanted none below 0")
        if state["preset"] is not None and state["preset"] not in self._given["presets"]:
            raise ValueError(f"no preset {state['preset']!r}: {', '.join(self._given['presets'])}")
        step = state["step"]
        if step is not None and index("step", step) < 0:
            raise ValueError(f"step {step}, wanted 0 or more, or None for the costs")
        if state["shown"] not in LINES:
            raise ValueError(f"lines {state['shown']!r}, wanted one of {', '.join(LINES)}")

    def figure(self) -> Figure:
        """The optimal pairs, greedy's, and the cost table between them."""
        title = self.preset or "the scene"
        own = self._given["image"] if self.preset is None else self._given["presets"][self.preset]["image"]
        return plots.assignments([(title, pixels(own), self.assignment)])

    def says(self) -> str:
        return "predictions to drag over a scene, costs and assignment live"


def _rows(values: Tensor | np.ndarray | Sequence) -> list[list[float]]:
    if isinstance(values, Tensor):
        values = values.detach().cpu().double().numpy()
    return np.asarray(values, dtype=float).tolist()


def _truth(target: Mapping) -> dict:
    labels = np.asarray(target["labels"]).reshape(-1).tolist()
    if any(label != int(label) for label in labels):
        raise ValueError(f"labels {labels}, wanted whole numbers")
    boxes = torch.as_tensor(target["boxes"], dtype=torch.float32).reshape(-1, 4)  # as the matching takes them
    return {"boxes": boxes.double().tolist(), "labels": [int(label) for label in labels]}


def _changeable(scene: Mapping) -> dict:
    return {key: scene[key] for key in ("truth", "boxes", "probabilities", "weights")}


def _scene(preset: plots.Preset) -> dict:
    return {
        "truth": _truth(preset.target),
        "boxes": _rows(preset.boxes_cxcywh),
        "probabilities": _rows(preset.probabilities),
        "weights": asdict(preset.weights),
        "image": picture(preset.image),
        "says": preset.says,
    }
