"""The twenty sprites: their names, COCO's ids, and drawing one at any size, angle and colour."""

import math
from functools import cache
from importlib.resources import files

import numpy as np
from PIL import Image

COCO_IDS = {  # in the order of the ids, as any COCO folder numbers its labels
    "bicycle": 2, "car": 3, "airplane": 5, "bus": 6, "boat": 9, "bird": 16, "cat": 17, "dog": 18,
    "horse": 19, "sheep": 20, "cow": 21, "elephant": 22, "bear": 23, "zebra": 24, "giraffe": 25,
    "umbrella": 28, "banana": 52, "apple": 53, "chair": 62, "clock": 85,
}  # fmt: skip
NAMES = tuple(COCO_IDS)
CATEGORY_IDS = tuple(COCO_IDS.values())
SEEN = 63  # 0..255, alpha above which a pixel belongs to the mask: all that can be seen lies within 1 px of it
MIN_SPRITE = 8  # px: the smallest side at which every sprite is 3 px wide and high and has 12 px
CACHE_BYTES = 160 << 20


@cache
def _pyramid(label: int) -> list[Image.Image]:
    """The sprite without its 16 px margin at 224, 112, 56 and 28 px."""
    path = files("detr_mini.datasets") / "sprites" / f"{NAMES[label]}.webp"
    with path.open("rb") as file:
        base = Image.open(file).convert("RGBA").crop((16, 16, 240, 240))
    return [base] + [base.resize((side, side), Image.Resampling.BOX) for side in (112, 56, 28)]


class SpriteCache:
    """Rendered sprites of this process; emptied when full, which costs time and changes no byte."""

    def __init__(self) -> None:
        self.sprites: dict[tuple[int, int, int], np.ndarray] = {}
        self.bytes = 0

    def get(self, label: int, side: int, angle: int) -> np.ndarray:
        """Return the sprite (4, h, w) uint8 RGBA for a side in px and an angle in degrees."""
        sprite = self.sprites.get((label, side, angle))
        if sprite is None:
            sprite = _render(label, side, angle)
            if self.bytes + sprite.nbytes > CACHE_BYTES:
                self.sprites, self.bytes = {}, 0
            self.sprites[label, side, angle] = sprite
            self.bytes += sprite.nbytes
        return sprite


def _render(label: int, side: int, angle: int) -> np.ndarray:
    pyramid = _pyramid(label)
    source = next((level for level in reversed(pyramid) if level.width >= 1.5 * side), pyramid[0])
    turned = source.rotate(angle, Image.Resampling.BILINEAR, expand=True) if angle else source
    to_px = side / source.width
    shape = (max(1, round(turned.width * to_px)), max(1, round(turned.height * to_px)))
    rgba = np.asarray(turned.resize(shape, Image.Resampling.BILINEAR))
    drawn = rgba[..., 3] > 7  # the rest is too faint to be seen
    rows, columns = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
    rgba = rgba * drawn[..., None]
    tight = rgba[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.ascontiguousarray(tight.transpose(2, 0, 1))  # (h, w, 4) -> (4, h, w)


def recolour(rgb: np.ndarray, hue_degrees: float, gains: np.ndarray) -> np.ndarray:
    """Turn the hue of (3, h, w) uint8 pixels, then multiply each channel by its gain (3,)."""
    turn = math.radians(hue_degrees)
    # Rotation about the grey axis, as the SVG filter hueRotate: keeps the luminance (0.213, 0.715, 0.072).
    luma = np.array([0.213, 0.715, 0.072])
    skew = np.array([[-0.213, -0.715, 0.928], [0.143, 0.140, -0.283], [-0.787, 0.715, 0.072]])
    matrix = luma + math.cos(turn) * (np.eye(3) - luma) + math.sin(turn) * skew
    matrix = (gains[:, None] * matrix).astype(np.float32)[..., None, None]
    # Element by element and no matrix product: BLAS rounds differently from machine to machine.
    mixed = matrix[:, 0] * rgb[0] + matrix[:, 1] * rgb[1] + matrix[:, 2] * rgb[2]
    return np.clip(mixed, 0, 255).astype(np.uint8)
