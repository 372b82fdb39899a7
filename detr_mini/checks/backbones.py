"""Checks of notebook 06: mirrored boxes, a padded batch, and three errors planted in a file."""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from detr_mini.checks.verdict import Open, Wrong, ask, compare, exercise
from detr_mini.datasets.toybox import NAMES, Toybox, ToyboxConfig

# B images · T boxes · H, W px

WIDTH = 100
BOXES = torch.tensor([[10.0, 20.0, 40.0, 60.0], [0.0, 5.0, 100.0, 25.0], [70.0, 30.0, 95.0, 90.0]])


@exercise(1, "A mirrored image keeps its boxes where its objects are.")
def flip(answer: Callable) -> None:
    """`answer(boxes_xyxy_px (T, 4), width)` is the boxes (T, 4) of the image mirrored left to right."""
    x1, y1, x2, y2 = BOXES.unbind(1)

    def stacked(*sides: Tensor) -> Tensor:
        return torch.stack(sides, dim=1)

    mistakes = {
        "left and right come out exchanged: the old right side becomes the new LEFT one": stacked(
            WIDTH - x1, y1, WIDTH - x2, y2
        ),
        "this mirrors up and down: y has to stay": stacked(x1, WIDTH - y2, x2, WIDTH - y1),
        "a border is no pixel: sides lie between pixels, so x becomes width - x, not width - 1 - x": stacked(
            WIDTH - 1 - x2, y1, WIDTH - 1 - x1, y2
        ),
        "these boxes are corners; 'cx becomes width - cx, the rest stays' is the rule for centre and size": stacked(
            WIDTH - x1, y1, x2, y2
        ),
        "y is mirrored as well: that is a turn by 180 degrees": stacked(WIDTH - x2, WIDTH - y2, WIDTH - x1, WIDTH - y1),
        "the boxes have not moved, or only their sides were exchanged": BOXES,
        "the two x are exchanged but not mirrored: subtract them from the width": stacked(x2, y1, x1, y2),
        "the new left side was written over the old one before the right side was computed from that": stacked(
            WIDTH - x2, y1, x2, y2
        ),
        "the order of the four numbers is reversed: a mirror image needs the width": BOXES.flip(1),
    }
    came = BOXES.clone()
    compare(
        "three boxes, image 100 px wide", ask(answer, came, WIDTH), stacked(WIDTH - x2, y1, WIDTH - x1, y2), mistakes
    )
    if not torch.equal(came, BOXES):
        raise Wrong("the result is right, but your function wrote into the boxes it was given; work on a copy")
    compare("an image without boxes", ask(answer, torch.zeros(0, 4), WIDTH), torch.zeros(0, 4), {})


MEAN, STD = (0.25, 0.5, 0.4), (0.5, 0.25, 0.2)
SIZES = ((4, 6), (5, 3), (2, 4))  # (H, W) px


@exercise(2, "Images of any sizes share one tensor, and the mask says where there is none.")
def collate(answer: Callable) -> None:
    """`answer(images, mean, std)`: B of (3, h, w) uint8 to (images (B, 3, H, W), padding (B, H, W) bool)."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(20, 256, (3, *size), dtype=torch.uint8, generator=generator) for size in SIZES]
    got = ask(answer, [image.clone() for image in images], MEAN, STD)
    if not (isinstance(got, tuple | list) and len(got) == 2):
        raise Wrong("two results are wanted: (images, padding)")
    if any(part is None or part is ... for part in got):
        raise Open
    batch, padding = (np.asarray(part) for part in got)
    wanted, mask = (part.numpy() for part in _collate(images))
    _check_shape(batch)
    if padding.shape == (len(SIZES), 1, 5, 6):
        raise Wrong(
            "padding has an axis too many, (B, 1, H, W): one mask an image serves all three channels, (B, H, W)"
        )
    if padding.dtype != bool:
        raise Wrong(f"padding holds {padding.dtype} numbers; a mask is True or False, dtype=torch.bool")
    mistakes = {
        "the mask is inverted: True is where there is NO image": ~mask,
        "the images lie in another corner: upper left, so that boxes in pixels stay right": _collate(images, "right")[
            1
        ],
        "the image lies in the middle: boxes in pixels would have to move with it": _collate(images, "centre")[1],
        "height and width are exchanged in the mask: axis 1 of (3, h, w) is the height": _swapped_mask(),
        "nothing is marked as padding": np.zeros_like(mask),
    }
    compare("padding", padding.astype(np.float32), mask.astype(np.float32), _floats(mistakes))
    mistakes = {
        "the padding went in before the normalisation, so it is black and not the mean colour 0": _collate(
            images, first="pad"
        )[0],
        "normalised without dividing by 255: mean and std are for images in 0..1": _collate(images, scale=1)[0],
        "not normalised: (image / 255 - mean) / std": _collate(images, norm="none")[0],
        "the mean is subtracted, the division by std is missing": _collate(images, norm="mean")[0],
        "mean and std are exchanged": _collate(images, norm="exchanged")[0],
        "the mask is upper left, the images are not": _collate(images, "right")[0],
        "each image is normalised by its own mean and deviation: take those that the backbone expects": _collate(
            images, norm="own"
        )[0],
    }
    beside = np.broadcast_to(mask[:, None], wanted.shape)
    right = batch.shape == wanted.shape and np.allclose(batch[~beside], wanted[~beside], atol=1e-4)
    if right and not np.allclose(batch, wanted, atol=1e-4) and not _known(batch, mistakes):
        raise Wrong("the images are right, but beside them stand other numbers than 0")
    compare("images", batch, wanted, mistakes, tolerance=1e-4)


def _known(batch: np.ndarray, mistakes: dict) -> bool:
    return any(np.allclose(batch, np.asarray(one), atol=1e-4) for one in mistakes.values())


def _floats(mistakes: dict) -> dict:
    return {text: np.asarray(value).astype(np.float32) for text, value in mistakes.items()}


def _check_shape(batch: np.ndarray) -> None:
    reasons = {
        (3, 3, 6, 5): "height and width are exchanged: an image is (3, height, width)",
        (3, 3, 6, 6): "a square; what is wanted is the largest height and the largest width, nothing more",
        (3, 3, 4, 6): "the size of the first image; the second is higher and would be cut off",
        (3, 3, 2, 3): "the smallest sides: that cuts the larger images off",
        (3, 5, 6, 3): "the channels stand last; wanted is (B, 3, H, W)",
        (3, 3, 32, 32): "rounded up to a multiple of 32; asked is the largest height and width",
    }
    if batch.shape in reasons:
        raise Wrong(f"images {batch.shape}: {reasons[batch.shape]}")


def _collate(
    images: list[Tensor], corner: str = "left", first: str = "norm", scale: float = 255, norm: str = "both"
) -> tuple[Tensor, Tensor]:
    """A batch with one thing done differently."""
    shift, spread = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    if norm == "exchanged":
        shift, spread = spread, shift
    height, width = (max(size[axis] for size in SIZES) for axis in (0, 1))
    batch, padding = (
        torch.zeros(len(images), 3, height, width),
        torch.ones(len(images), height, width, dtype=torch.bool),
    )
    for row, image in enumerate(images):
        _, h, w = image.shape
        top, left = {"left": (0, 0), "right": (height - h, width - w)}.get(
            corner, ((height - h) // 2, (width - w) // 2)
        )
        pixels = image.float() / scale
        if norm == "own":
            pixels = (pixels - pixels.mean((1, 2), keepdim=True)) / pixels.std((1, 2), keepdim=True)
        elif norm != "none" and first == "norm":
            pixels = (pixels - shift) / (spread if norm != "mean" else 1)
        batch[row, :, top : top + h, left : left + w] = pixels
        padding[row, top : top + h, left : left + w] = False
    return ((batch - shift) / spread if first == "pad" else batch), padding


def _swapped_mask() -> np.ndarray:
    mask = np.ones((len(SIZES), 5, 6), bool)
    for row, (h, w) in enumerate(SIZES):
        mask[row, :w, :h] = False
    return mask


# Exercise 3

SCENES = ToyboxConfig(objects=(2, 3), scale=(0.28, 0.5), max_overlap=0.15, max_cut=0.15)
COUNT = 12
LEAST_PLANTED_SIDE_PX = 14
PLANTED_SEED = 5


def planted(seed: int = PLANTED_SEED) -> tuple[Toybox, dict]:
    """Twelve scenes, and their annotations as a COCO file's content, with three errors in it that `seed` decides.

    One box has another class's name, one lies beside its object, and one stands in the wrong image, so that its own
    object has no box. Annotation ids have gaps, as in a real file.
    """
    scenes, content, _ = _planted(seed)
    return scenes, content


def _planted(seed: int) -> tuple[Toybox, dict, dict[str, int]]:
    scenes = Toybox(SCENES, COUNT, seed=seed, split="train")
    content = scenes.ground_truth()
    rng = np.random.default_rng(seed)
    for annotation in content["annotations"]:
        annotation["id"] = 100 + 7 * annotation["id"]
    large = [a for a in content["annotations"] if min(a["bbox"][2:]) >= LEAST_PLANTED_SIDE_PX]
    picked, used = [], set()
    for annotation in (large[i] for i in rng.permutation(len(large))):
        if annotation["image_id"] not in used:
            picked.append(annotation)
            used.add(annotation["image_id"])
    named, moved, astray = picked[:3]
    used = {annotation["image_id"] for annotation in picked[:3]}
    ids = {category["name"]: category["id"] for category in content["categories"]}
    there = {category["id"]: category["name"] for category in content["categories"]}
    named["category_id"] = ids[NAMES[(NAMES.index(there[named["category_id"]]) + 7) % len(NAMES)]]
    x, y, w, h = moved["bbox"]
    side = SCENES.size
    moved["bbox"] = [x + 0.6 * w if x + 1.6 * w <= side else max(0.0, x - 0.6 * w), y, w, h]
    astray["image_id"] = _empty_place(content, astray, used)
    return scenes, content, {"class": named["id"], "place": moved["id"], "image": astray["id"]}


def _empty_place(content: dict, annotation: dict, used: set[int]) -> int:
    """An image in which nothing lies where this box would be, as far as possible."""
    x, y, w, h = annotation["bbox"]

    def shared(image_id: int) -> float:
        boxes = [a["bbox"] for a in content["annotations"] if a["image_id"] == image_id]
        return sum(
            max(0, min(x + w, u + v) - max(x, u)) * max(0, min(y + h, s + t) - max(y, s)) for u, s, v, t in boxes
        )

    return min((image["id"] for image in content["images"] if image["id"] not in used), key=shared)


@exercise(3, "You have audited a data set by eye; on thousands of images a model can only say where to look first.")
def planted_errors(answer: Iterable[int]) -> None:
    """`answer` is the set of the three annotation ids of `planted()` that are wrong."""
    if not isinstance(answer, set | frozenset | list | tuple):
        raise Wrong(f"a set of three annotation ids is wanted, {{101, 102, 103}}, not {answer!r}")
    got = set(answer)
    _, content, errors = _planted(PLANTED_SEED)
    right, annotations = set(errors.values()), {a["id"]: a for a in content["annotations"]}
    if got == right:
        return
    unknown = sorted(got - set(annotations))
    if unknown:
        raise Wrong(_unknown(unknown, content, right))
    wrong_box = annotations[errors["image"]]
    for number in sorted(got - right):
        neighbours = annotations[number]["image_id"]
        if neighbours == wrong_box["image_id"]:
            raise Wrong(f"{number} is right; but another box of that image, {neighbours}, has nothing under it")
        raise Wrong(
            f"{number} is right: boxes are of what is visible, so those of covered or cut objects are smaller than "
            "the object; look for a box whose object is not in it or whose name is another's"
        )
    missing = {
        "class": "one box lies well around its object but has another name: compare names, not only places",
        "place": "one box has slid off its object: it covers half of it and half of nothing",
        "image": "one box lies on nothing, and elsewhere an object has no box: its image_id is wrong. Give the "
        "id of that box",
    }
    found = len(got & right)
    hint = next(text for kind, text in missing.items() if errors[kind] not in got)
    raise Wrong(f"{found} of three found. {hint}")


def _unknown(unknown: list, content: dict, right: set[int]) -> str:
    images = {image["id"] for image in content["images"]}
    ids = [a["id"] for a in content["annotations"]]
    positions = {place for place, number in enumerate(ids) if number in right}
    if set(unknown) == positions:
        return f"{unknown} are positions in the list, counted from 0; wanted are the annotations' own ids"
    if set(unknown) <= images:
        return f"{unknown} look like ids of images (1 to {len(images)}); wanted are the ids written at the boxes"
    if all(isinstance(number, str) for number in unknown):
        return f"{unknown} are texts; wanted are whole numbers, without quotation marks"
    return f"{unknown} are no annotation ids of this file; its ids run from {min(ids)} to {max(ids)}, with gaps"
