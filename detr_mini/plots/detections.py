"""Pictures of detections: boxes with class, score and query number, and where each query looked.

`python -m detr_mini.plots.detections` draws the README's picture again.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.transforms import Bbox
from torch import Tensor

from detr_mini.boxes import cxcywh_to_xyxy
from detr_mini.checkpoints import SHIPPED, load
from detr_mini.datasets.toybox import Toybox, ToyboxConfig
from detr_mini.detection import Detections, Picture, detect, read_picture
from detr_mini.detr import Attention
from detr_mini.plots import style
from detr_mini.plots.style import draw_box
from detr_mini.plots.style import save as save_picture

# L decoder layers · B images · h heads · Q queries · H, W image in px · gh, gw feature map

SIDE_IN, GAP_IN, TITLE_IN = 4.2, 0.1, 0.25  # inches: longer side of the picture, around it, above it
MOST_PANELS = 9
COARSE_PX, PANEL_PX = 200, 600  # smaller pictures show their pixels as squares; larger panels are thinned
README_SCENE, README_PICTURE = 469, SHIPPED.parent / "results" / "readme.png"


def picture(
    image: Picture,
    detections: Detections,
    attention: Attention | None = None,
    grid_px: tuple[float, float] | None = None,
) -> Figure:
    """Draw the detections of one image: a file, PIL, or a uint8 tensor (3, H, W).

    With the `attention` of that image alone, panels beside it show for the nine surest detections where the
    query looked, its tokens over `grid_px`, as `draw_attention` has it. Raises FileNotFoundError, OSError for a
    file that is no image, ValueError for other tensors.
    """
    pixels = pixels_of(image)
    aspect = pixels.shape[0] / pixels.shape[1]
    high = SIDE_IN * min(1, aspect)
    panels = 0 if attention is None else min(len(detections), MOST_PANELS)
    rows = 2 if panels <= 4 else 3
    pitch = (high + TITLE_IN) / rows  # from one panel's top to the next one's; the last ends with the picture
    panel_high = pitch - TITLE_IN
    step = panel_high / aspect + GAP_IN
    width, height = high / aspect + 2 * GAP_IN + -(-panels // rows) * step, high + TITLE_IN + 2 * GAP_IN
    figure = style.new_figure(width, height)
    axes = _place(figure, GAP_IN, GAP_IN + TITLE_IN, high / aspect, high)
    show_pixels(axes, pixels)
    count = f"{len(detections)} detection{'s' if len(detections) != 1 else ''}"
    axes.set_title(count if len(detections) else "nothing found", fontsize=10, color=style.INK, pad=4)
    draw_detections(axes, detections)
    for index in range(panels):
        column, row = divmod(index, rows)
        left, top = 2 * GAP_IN + high / aspect + column * step, GAP_IN + TITLE_IN + row * pitch
        panel = _place(figure, left, top, step - GAP_IN, panel_high)
        query = int(detections.queries[index])
        draw_attention(panel, pixels, query_map(attention, query), grid_px=grid_px)
        draw_box(panel, detections.boxes_xyxy_px[index], style.QUERY)
        panel.set_title(f"q{query} {detections.names[index]}", fontsize=8, color=style.INK, pad=3)
    return figure


def sheet(images: Sequence[Picture], found: Sequence[Detections], targets: Sequence[dict], columns: int = 4) -> Figure:
    """Draw N images in a grid: found boxes blue, named; true ones (cxcywh in 0..1) orange and dashed."""
    rows, step = -(-len(images) // columns), 2.1 + GAP_IN
    figure = style.new_figure(columns * step + GAP_IN, rows * step + GAP_IN)
    for index, (image, detections, target) in enumerate(zip(images, found, targets, strict=True)):
        row, column = divmod(index, columns)
        axes = _place(figure, GAP_IN + column * step, GAP_IN + row * step, step - GAP_IN, step - GAP_IN)
        pixels = pixels_of(image)
        show_pixels(axes, pixels)
        draw_detections(axes, detections, details=False)
        sides = np.tile(pixels.shape[1::-1], 2)  # W, H, W, H
        for box in cxcywh_to_xyxy(target["boxes"]).numpy() * sides:
            draw_box(axes, box, style.OBJECT, "--")
    return figure


def attention_picture(
    image: Picture, weights: Tensor, box_xyxy_px: Tensor, title: str, grid_px: tuple[float, float] | None = None
) -> Figure:
    """Draw where one query looked: its weights (gh, gw) over the image, its box, and a scale in per cent."""
    pixels = pixels_of(image)
    aspect = pixels.shape[0] / pixels.shape[1]
    high = SIDE_IN * min(1, aspect)
    figure = style.new_figure(high / aspect + 1.0, high + TITLE_IN + 2 * GAP_IN)
    axes = _place(figure, GAP_IN, GAP_IN + TITLE_IN, high / aspect, high)
    shown = draw_attention(axes, pixels, weights, smooth=False, grid_px=grid_px)
    draw_box(axes, box_xyxy_px, style.QUERY)
    axes.set_title(title, fontsize=10, color=style.INK, pad=4)
    scale = figure.colorbar(shown, cax=_place(figure, 2 * GAP_IN + high / aspect, GAP_IN + TITLE_IN, 0.15, high))
    scale.ax.set_title("%", fontsize=8, pad=4)
    scale.ax.tick_params(labelsize=8)
    return figure


def query_map(attention: Attention, query: int, layer: int = -1, image: int = 0) -> Tensor:
    """The weights (gh, gw) with which a query looks at the feature map, mean of the heads; they sum to 1."""
    return attention.decoder[layer, image, :, query].float().mean(0).cpu().reshape(attention.feature_size)


def pixels_of(image: Picture) -> np.ndarray:
    """The image as (H, W, 3) uint8, read as `detection.detect` reads it."""
    return read_picture(image).permute(1, 2, 0).cpu().numpy()  # (3, H, W) -> (H, W, 3)


def show_pixels(axes: Axes, pixels: np.ndarray, size: tuple[int, int] | None = None, **options) -> AxesImage:
    """Fill the axes with pixels (H, W, 3) or (H, W), stretched to `size` (H, W) px, so that boxes fit."""
    height, width = size or pixels.shape[:2]
    options = {"interpolation": "nearest" if max(height, width) < COARSE_PX else "antialiased"} | options
    drawn = axes.imshow(pixels, extent=(0, width, height, 0), aspect="auto", **options)
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    return drawn


def token_grid_px(
    feature_size: tuple[int, int], stride: int, size: tuple[int, int], original_size: tuple[int, int] | None = None
) -> tuple[float, float]:
    """(H, W) px that all tokens' patches together cover, in px of the original image.

    `size` is the image itself as the model saw it, without the padding of a batch. The cover is at least the
    image: it reaches beyond where a side is no multiple of the stride, and over the padding.
    """
    seen = zip(feature_size, size, original_size or size, strict=True)
    height, width = (cells * stride * original / side for cells, side, original in seen)
    return height, width


def draw_attention(
    axes: Axes, pixels: np.ndarray, weights: Tensor, smooth: bool = True, grid_px: tuple[float, float] | None = None
) -> AxesImage:
    """Draw weights (gh, gw) in per cent over the image in grey, clearer where they are small.

    Token (0, 0) lies in the upper left corner, and `grid_px` (H, W), of `token_grid_px`, is what all of them cover in
    px of the image; what lies beyond the image is cut off. None: they cover just the image. Not `smooth`, each
    token's patch keeps its edges.
    """
    size = pixels.shape[:2]
    thin = -(-max(size) // PANEL_PX)
    grey = pixels[::thin, ::thin].mean(axis=2)  # (H, W, 3) -> (H / thin, W / thin)
    show_pixels(axes, grey, size, cmap="gray", vmin=0, vmax=255)
    percent = 100 * weights.numpy()
    between = "bilinear" if smooth else "nearest"
    veil = 0.25 + 0.55 * percent / percent.max()
    look = {"cmap": style.HEAT, "vmin": 0, "alpha": veil, "interpolation": between}
    drawn = show_pixels(axes, percent, grid_px or size, **look)
    axes.set(xlim=(0, size[1]), ylim=(size[0], 0))
    return drawn


def draw_detections(axes: Axes, detections: Detections, details: bool = True) -> None:
    """Draw boxes and labels, the surest on top; `details` adds score and query number to the name."""
    for box in detections.boxes_xyxy_px.flip(0):
        draw_box(axes, box, style.QUERY)
    taken: list[Bbox] = []
    size = 8 if len(detections) <= 10 else 6.5
    for index, name in enumerate(detections.names):
        more = f" {detections.scores[index]:.2f}  q{int(detections.queries[index])}" if details else ""
        taken.append(_label(axes, detections.boxes_xyxy_px[index].tolist(), name + more, size, taken))


def _label(axes: Axes, box_xyxy_px: list[float], text: str, size: float, taken: list[Bbox]) -> Bbox:
    """Write at the box's corner where the text stays in the picture and off others; returns its place."""
    renderer = axes.figure.canvas.get_renderer()
    frame, (x1, y1, x2, y2) = axes.get_window_extent(renderer), box_xyxy_px
    paper = {"boxstyle": "square,pad=0.15", "facecolor": style.QUERY, "edgecolor": "white", "linewidth": 0.6}
    label = axes.text(0, 0, text, fontsize=size, color="white", bbox=paper)
    best: tuple = ()
    for x, across in ((x1, "left"), (x2, "right"), (x2, "left"), (x1, "right")):
        for y, up in ((y1, "bottom"), (y2, "top"), (y1, "top"), (y2, "bottom")):
            label.set(position=(x, y), horizontalalignment=across, verticalalignment=up)
            place = label.get_window_extent(renderer).padded(2)
            inside = frame.x0 <= place.x0 and place.x1 <= frame.x1 and frame.y0 <= place.y0 and place.y1 <= frame.y1
            cost = 2 * sum(place.overlaps(other) for other in taken) + (not inside)
            if not best or cost < best[0]:
                best = (cost, place, {"position": (x, y), "ha": across, "va": up})
    label.set(**best[2])
    return best[1]


def _place(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at inches from the figure's upper left corner."""
    whole, tall = figure.get_size_inches()
    return figure.add_axes((left / whole, 1 - (top + height) / tall, width / whole, height / tall))


def main() -> None:
    """Draw what the shipped model finds on an unseen scene, and where it looked, for the README."""
    image, _ = Toybox(ToyboxConfig(), 1000, seed=0, split="test")[README_SCENE]
    [(found, attention)] = detect(load("toybox-mini"), image, return_attention=True)
    save_picture(picture(image, found, attention), README_PICTURE)


if __name__ == "__main__":
    main()
