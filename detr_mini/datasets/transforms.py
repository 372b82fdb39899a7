"""What happens to an image and its boxes between the file and the batch.

A transform takes (image, target) as `CocoFolder.read` gives them: a uint8 `tv_tensors.Image`, and a dict
whose "boxes" are `tv_tensors.BoundingBoxes` (xyxy, px). The last step, `Finish`, makes the target that the
model is trained on. All randomness is torch's, so seeding torch fixes a sample.
"""

import torch
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.ops import box_area, box_convert
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

PAPER_SHORT_SIDES = tuple(range(480, 801, 32))
LEAST_VISIBLE_SHARE = 0.1  # a box of which a crop leaves less is dropped: nobody could name what is left
LEAST_SIDE_PX = 1.0


def resized(height: int, width: int, short_side: int, long_side: int) -> tuple[int, int]:
    """(H, W) in px with the short side at `short_side`, or less where the long side would exceed `long_side`.

    The authors' rounding (640 x 480 becomes 1066 x 800), except that the long side is never exceeded.
    """
    short, long = sorted((height, width))
    if long * short_side > long_side * short:
        short_side = max(1, round(long_side * short / long))
    new_long = min(long_side, max(short_side, short_side * long // short))
    return (short_side, new_long) if height <= width else (new_long, short_side)


class Resize(nn.Module):
    """Resizes to a short side drawn from `short_sides` px, the long side at most `long_side` px."""

    def __init__(self, short_sides: tuple[int, ...], long_side: int):
        super().__init__()
        self.short_sides, self.long_side = short_sides, long_side

    def forward(self, image: Tensor, target: dict) -> tuple[Tensor, dict]:
        short_side = self.short_sides[_draw(0, len(self.short_sides) - 1)]
        size = list(resized(*image.shape[-2:], short_side, self.long_side))
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


def evaluation(short_side: int = 800, long_side: int = 1333) -> v2.Compose:
    """Resizes without chance, as validation and detection do; sides in px."""
    return v2.Compose([Resize((short_side,), long_side), Finish()])


def _draw(low: int, high: int) -> int:
    return int(torch.randint(low, high + 1, ()))
