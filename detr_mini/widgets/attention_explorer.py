"""AttentionExplorer: click a detection or a point of an image and see where its query, or its token, looked."""

import base64
from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from detr_mini.detection import Detections, Picture
from detr_mini.detr import Attention
from detr_mini.plots import attention_maps as plots
from detr_mini.plots import style
from detr_mini.plots.detections import draw_attention, pixels_of
from detr_mini.widgets.indices import index, place
from detr_mini.widgets.lab import Lab, finite, module, picture, pixels

MOST_MB = 12  # of the encoder's maps in a page; a larger feature map comes without points


class AttentionExplorer(Lab):
    """The attention maps of one image: `image` as it was given to `detect`, its detections, and its attention.

    `grid_px` (H, W) is what all tokens cover in px of the image (`detection.token_grid_px`); without it they cover just
    the image. `pick` (which detection), `token` (row, column; None for a detection), `layer`, `head` (None: their mean)
    and `strength` can be read and set; `view` is Python's answer. Raises ValueError for what is not there.
    """

    _esm = module("core", "heat", "attentionexplorer")

    def __init__(
        self, image: Picture, found: Detections, attention: Attention, grid_px: tuple[float, float] | None = None
    ):
        shape = pixels_of(image).shape[:2]
        self.found, self.attention = found, attention
        self.grid_px = tuple(map(float, grid_px or shape))
        layers, _, heads = attention.encoder.shape[:3]
        decoder = attention.decoder[:, 0][:, :, found.queries]  # (L, h, N, HW)
        encoder = attention.encoder[:, 0] if 4 * attention.encoder[:, 0].numel() <= MOST_MB * 1e6 else torch.zeros(0)
        shown = zip(found.boxes_xyxy_px, found.names, found.scores, found.queries, strict=True)
        given = {
            "image": picture(pixels_of(image)),
            "image_size": list(shape),
            "grid": list(self.grid_px),
            "feature": list(attention.feature_size),
            "found": [
                {"box": box.tolist(), "name": name, "score": score.item(), "query": query.item()}
                for box, name, score, query in shown
            ],
            "layers": {"decoder": len(attention.decoder), "encoder": layers},
            "heads": heads,
            "decoder": _packed(decoder),
            "encoder": _packed(encoder),
        }
        pick = 0 if len(found) else None
        state = {"pick": pick, "token": None, "layer": len(attention.decoder) - 1, "head": None, "strength": 0.7}
        super().__init__(state, given)

    @property
    def pick(self) -> int | None:
        """Which detection, by falling score; None where there is none."""
        return self._good["pick"]

    @pick.setter
    def pick(self, number: int) -> None:
        layer = min(self.layer, self._given["layers"]["decoder"] - 1)
        self.change(pick=index("detection", number), token=None, layer=layer)

    @property
    def token(self) -> tuple[int, int] | None:
        return None if self._good["token"] is None else tuple(self._good["token"])

    @token.setter
    def token(self, token: Sequence[int] | None) -> None:
        side = "decoder" if token is None else "encoder"
        layer = min(self.layer, self._given["layers"][side] - 1)
        self.change(token=None if token is None else place("token", token), layer=layer)

    @property
    def layer(self) -> int:
        return self._good["layer"]

    @layer.setter
    def layer(self, layer: int) -> None:
        self.change(layer=index("layer", layer))

    @property
    def head(self) -> int | None:
        return self._good["head"]

    @head.setter
    def head(self, head: int | None) -> None:
        self.change(head=None if head is None else index("head", head))

    @property
    def strength(self) -> float:
        return self._good["strength"]

    @strength.setter
    def strength(self, strength: float) -> None:
        self.change(strength=float(strength))

    @property
    def view(self) -> plots.View | None:
        """The map and its numbers; None where nothing is chosen."""
        where = {"layer": self.layer, "head": self.head, "grid_px": self.grid_px}
        if self.token is not None:
            return plots.explore(self.attention, token=self.token, **where)
        if self.pick is None:
            return None
        query, box = int(self.found.queries[self.pick]), self.found.boxes_xyxy_px[self.pick]
        return plots.explore(self.attention, query=query, box_xyxy_px=box, **where)

    def check(self, state: Mapping) -> None:
        """Raises ValueError for a detection, token, layer or head that is not there."""
        rows, columns = self._given["feature"]
        token, pick, head = state["token"], state["pick"], state["head"]
        if token is not None:
            place("token", token)
        layers = self._given["layers"]["decoder" if token is None else "encoder"]
        if token is None:
            _in_range("detection", pick, len(self._given["found"]), none=not self._given["found"])
        elif not (0 <= token[0] < rows and 0 <= token[1] < columns):
            raise ValueError(f"token {tuple(token)} outside a feature map of {rows} x {columns} (rows, columns)")
        elif not self._given["encoder"]:
            raise ValueError(f"the encoder's maps would take more than {MOST_MB} MB in the page: choose detections")
        _in_range("layer", state["layer"], layers)
        _in_range("head", head, self._given["heads"], none=True)
        finite("the strength", [state["strength"]])
        if not 0 <= state["strength"] <= 1:
            raise ValueError(f"strength {state['strength']}, wanted 0..1")

    def figure(self) -> Figure:
        """The image with the map over it, and the box of the chosen detection."""
        figure = style.new_figure(4.2, 4.2)
        axes = figure.add_axes((0.02, 0.02, 0.96, 0.9))
        axes.set(xticks=[], yticks=[])
        if self.view is None:
            axes.set_title("nothing was detected: choose a point", fontsize=9, color=style.INK)
            return figure
        draw_attention(axes, pixels(self._given["image"]), self.view.weights, smooth=False, grid_px=self.grid_px)
        if self.token is None:
            style.draw_box(axes, self.found.boxes_xyxy_px[self.pick], style.QUERY)
            title = f"{self.found.names[self.pick]}, query {int(self.found.queries[self.pick])}"
        else:
            style.draw_box(axes, plots.patch_px(self.token, self.attention.feature_size, self.grid_px), style.QUERY)
            title = f"token {self.token}"
        head = "mean of the heads" if self.head is None else f"head {self.head}"
        axes.set_title(f"{title}, layer {self.layer}, {head}", fontsize=9, color=style.INK)
        return figure

    def says(self) -> str:
        return "click a detection or a point, see where it looked"


def _in_range(name: str, value: int | None, count: int, none: bool = False) -> None:
    if value is None and none:
        return
    if not count:
        raise ValueError(f"{name} {value}, but there is none")
    if value is None or not 0 <= index(name, value) < count:
        raise ValueError(f"{name} {value}, wanted 0..{count - 1}")


def _packed(weights: Tensor) -> str:
    return base64.b64encode(weights.detach().cpu().to(torch.float32).contiguous().numpy().tobytes()).decode()
