"""What happens to an image and its boxes between the file and the batch; `read_rgb` opens the file.

A transform takes (image, target) as `CocoFolder.read` gives them: a uint8 `tv_tensors.Image`, and a dict
whose "boxes" are `tv_tensors.BoundingBoxes` (xyxy, px). The last step, `Finish`, makes the target that the
model is trained on. All randomness is torch's, so seeding torch fixes a sample.
"""

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.ops import box_area, box_convert
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

PAPER_SHORT_SIDES = tuple(range(480, 801, 32))
LEAST_VISIBLE_SHARE = 0.1  # a box of which a crop leaves less is dropped: nobody could name what is left
LEAST_SIDE_PX = 1.0
LARGEST_SIDE_PX = 1333  # of an image that "keeps its size": attention grows with the fourth power of the side


def read_rgb(path: str | Path, size: tuple[int, int] | None = None) -> Image.Image:
    """The image in RGB, turned as its EXIF says; given `size` (W, H) px, turned only if that gives this size.

    Raises OSError for a file that is no whole image, or larger than Pillow's limit (Image.MAX_IMAGE_PIXELS, twice);
    ValueError where it is not of `size`. Both name the file.
    """
    try:
        # Above half the limit Pillow warns; broken EXIF and odd palettes are no news for who detects objects either.
        with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
            stored = image.size
            if image.format == "EPS":
                raise OSError("EPS is a program, not a picture")
            if size in (None, stored, stored[::-1]):  # else there is no need to decode a pixel
                image.load()
                turned = stored[::-1] if image.getexif().get(0x0112) in (5, 6, 7, 8) else stored
                if size in (None, turned):
                    ImageOps.exif_transpose(image, in_place=True)
                image = as_rgb(image)
    except (FileNotFoundError, PermissionError):
        raise
    except Image.DecompressionBombError as error:
        raise OSError(f"{path} is too large ({error}): cut it into tiles, or make it smaller") from error
    except Exception as error:  # Pillow's readers raise whatever their parsing of a broken file runs into
        said = " ".join(str(error).split()) or type(error).__name__
        raise OSError(f"{path} cannot be read as an image ({said}): {_why_unreadable(Path(path))}") from error
    if size and image.size != size:
        found, wanted = (f"{w} x {h}" for w, h in (stored, size))
        raise ValueError(f"{path} is {found} px, its annotations say {wanted}: resized or replaced after labelling?")
    return image


def _why_unreadable(path: Path) -> str:
    if not path.is_file():
        return "not a file"
    with path.open("rb") as file:
        start = file.read(16)
    if start == b"version https://":
        return "a git-LFS pointer; git lfs pull fetches it"
    return "a broken or incomplete file?" if start else "the file is empty"


def as_rgb(image: Image.Image) -> Image.Image:
    """The image in RGB, a transparent one as it lies under its transparency, 16 bits cut to the upper 8."""
    if image.mode.startswith("I"):  # convert would turn all but the darkest greys white
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")


def resized(height: int, width: int, short_side: int, long_side: int) -> tuple[int, int]:
    """(H, W) in px with the short side at `short_side`, or less where the long side would exceed `long_side`.

    The authors' rounding (640 x 480 becomes 1066 x 800), except that the long side is never exceeded.
    """
    short, long = sorted((height, width))
    if long * short_side > long_side * short:
        short_side = max(1, round(long_side * short / long))
    new_long = min(long_side, max(short_side, short_side * long // short))
    return (short_side, new_long) if height <= width else (new_long, short_side)


def seen_size(height: int, width: int, short_side: int | None, long_side: int | None) -> tuple[int, int]:
    """(H, W) in px in which a model sees an image; without a short side it keeps its own, up to `LARGEST_SIDE_PX`."""
    if short_side is None:
        return resized(height, width, min(height, width), LARGEST_SIDE_PX)
    return resized(height, width, short_side, long_side or max(LARGEST_SIDE_PX, short_side))


class Resize(nn.Module):
    """Resizes to a short side drawn from `short_sides` px, the long side at most `long_side` px."""

    def __init__(self, short_sides: tuple[int, ...], long_side: int):
        super().__init__()
        self.short_sides, self.long_side = short_sides, long_side

    def forward(self, image: Tensor, target: dict) -> tuple[Tensor, dict]:
        short_side = self.short_sides[_draw(0, len(self.short_sides) - 1)]
        size = list(resized(*image.shape[-2:], short_side, self.long_side))
        return functional.resize(image, size), {**target, "boxes": functional.resize(target["boxes"], size)}


class Shrink(nn.Module):
    """Keeps the size of an image unless a side exceeds `LARGEST_SIDE_PX`, which that side then becomes."""

    def forward(self, image: Tensor, target: dict) -> tuple[Tensor, dict]:
        size = list(seen_size(*image.shape[-2:], None, None))
        return functional.resize(image, size), {**target, "boxes": functional.resize(target["boxes"], size)}


class Crop(nn.Module):
    """Cuts out a window whose sides are drawn from `smallest` to `largest` px, never larger than the image.

    Boxes are cut to the window; those with too little left are dropped, which may leave none.
    """

    def __init__(self, smallest: int, largest: int):
        super().__init__()
        self.smallest, self.largest = smallest, largest

    def forward(self, image: Tensor, target: dict) -> tuple[Tensor, dict]:
        h, w = image.shape[-2:]
        height, width = (_draw(min(self.smallest, side), min(self.largest, side)) for side in (h, w))
        window = (_draw(0, h - height), _draw(0, w - width), height, width)  # top, left, height, width
        cut = functional.crop(target["boxes"], *window)
        sides = cut[:, 2:] - cut[:, :2]
        enough = sides.prod(1) >= LEAST_VISIBLE_SHARE * box_area(target["boxes"])
        keep = enough & (sides >= LEAST_SIDE_PX).all(1)
        boxes = tv_tensors.wrap(cut[keep], like=cut)  # indexing alone would forget format and canvas
        return functional.crop(image, *window), {**target, "boxes": boxes, "labels": target["labels"][keep]}


class Finish(nn.Module):
    """The last step: a plain uint8 image (3, H, W) and a target with boxes cxcywh in 0..1 and "size"."""

    def forward(self, image: Tensor, target: dict) -> tuple[Tensor, dict]:
        height, width = image.shape[-2:]
        boxes = box_convert(target["boxes"].as_subclass(Tensor), "xyxy", "cxcywh")
        boxes = (boxes / torch.tensor([width, height, width, height])).float()
        return image.as_subclass(Tensor), {**target, "boxes": boxes, "size": (height, width)}


def paper_training(short_sides: tuple[int, ...] = PAPER_SHORT_SIDES, long_side: int = 1333) -> v2.Compose:
    """The paper's recipe (appendix A.4 and the authors' code), safe on small images; sides in px."""
    crop = [Resize((400, 500, 600), 4 * long_side), Crop(384, 600), Resize(short_sides, long_side)]
    return v2.Compose(
        [
            v2.RandomHorizontalFlip(0.5),
            v2.RandomChoice([Resize(short_sides, long_side), v2.Compose(crop)]),
            Finish(),
        ]
    )


def photos_training(short_side: int = 320, long_side: int = 576, flip: float = 0.5) -> v2.Compose:
    """A recipe for fine-tuning on a few hundred photographs: flip, scale, mild crop, colour; sides in px.

    Sets in which left and right matter (text, traffic signs) want `flip=0`.
    """
    sides = tuple(round(short_side * factor) for factor in (0.75, 0.875, 1.0))
    larger = tuple(round(short_side * factor) for factor in (1.0, 1.2, 1.4))
    crop = [
        Resize(larger, 2 * long_side),
        Crop(round(0.75 * short_side), long_side),
        Resize(sides, long_side),
    ]
    return v2.Compose(
        [
            v2.RandomHorizontalFlip(flip),
            v2.RandomChoice([Resize(sides, long_side), v2.Compose(crop)]),
            v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.03),
            Finish(),
        ]
    )


def evaluation(short_side: int | None = 800, long_side: int | None = 1333) -> v2.Compose:
    """Resizes without chance, as validation and detection do; sides in px, a short side of None keeps the size."""
    if short_side is None:
        return v2.Compose([Shrink(), Finish()])
    return v2.Compose([Resize((short_side,), long_side or max(LARGEST_SIDE_PX, short_side)), Finish()])


def _draw(low: int, high: int) -> int:
    return int(torch.randint(low, high + 1, ()))
