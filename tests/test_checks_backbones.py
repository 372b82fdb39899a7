"""Checks of notebook 06: right answers in two styles pass, stubs are open, each misconception is named."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional

from detr_mini.checks import backbones as checks
from detr_mini.checks.verdict import Wrong


def verdict(check, answer, capsys) -> str:
    check(answer)
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "check, stub",
    [
        (checks.flip, lambda boxes, width: None),
        (checks.collate, lambda images, mean, std: ...),
        (checks.collate, lambda images, mean, std: (None, ...)),
        (checks.planted_errors, ...),
    ],
)
def test_stubs_are_open(check, stub, capsys):
    assert "is open" in verdict(check, stub, capsys)


# Exercise 1


def flip_by_loop(boxes, width):
    return [[width - x2, y1, width - x1, y2] for x1, y1, x2, y2 in boxes.tolist()] or np.zeros((0, 4))


def flip_with_torch(boxes, width):
    return torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], dim=1)


def flip_with_torchvision(boxes, width):
    known = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(100, width))
    return functional.horizontal_flip(known).as_subclass(torch.Tensor)


@pytest.mark.parametrize("answer", [flip_by_loop, flip_with_torch, flip_with_torchvision])
def test_flip_right(answer, capsys):
    assert verdict(checks.flip, answer, capsys).startswith("exercise 1 is right")


def flip_sides_exchanged(boxes, width):
    boxes = boxes.clone()
    boxes[:, 0::2] = width - boxes[:, 0::2]
    return boxes


def flip_vertically(boxes, width):
    return torch.stack([boxes[:, 0], width - boxes[:, 3], boxes[:, 2], width - boxes[:, 1]], dim=1)


def flip_like_pixels(boxes, width):
    return flip_with_torch(boxes, width - 1)


def flip_like_centres(boxes, width):
    cx, cy, w, h = boxes.unbind(1)
    return torch.stack([width - cx, cy, w, h], dim=1)


def turn_by_180_degrees(boxes, width):
    return width - boxes[:, [2, 3, 0, 1]]


def flip_exchanges_only(boxes, width):
    return boxes[:, [2, 1, 0, 3]]


def flip_in_place(boxes, width):
    boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
    return boxes


def flip_overwritten(boxes, width):
    boxes = boxes.clone()
    boxes[:, 0] = width - boxes[:, 2]
    boxes[:, 2] = width - boxes[:, 0]
    return boxes


def flip_the_numbers(boxes, width):
    return boxes.flip(1)


def flip_forgotten(boxes, width):
    return boxes


@pytest.mark.parametrize(
    "answer, said",
    [
        (flip_sides_exchanged, "left and right come out exchanged"),
        (flip_vertically, "up and down"),
        (flip_like_pixels, "a border is no pixel"),
        (flip_like_centres, "rule for centre and size"),
        (turn_by_180_degrees, "180 degrees"),
        (flip_exchanges_only, "exchanged but not mirrored"),
        (flip_in_place, "wrote into the boxes"),
        (flip_forgotten, "have not moved"),
        (flip_overwritten, "written over the old one"),
        (flip_the_numbers, "four numbers is reversed"),
    ],
)
def test_flip_wrong(answer, said):
    with pytest.raises(Wrong, match=said):
        checks.flip(answer)


# Exercise 2


def collate_with_torch(images, mean, std, slip=""):
    """As a learner writes it, with one slip."""
    shift, scale = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))
    if slip == "mean and std exchanged":
        shift, scale = scale, shift
    height = max(image.shape[1] for image in images)
    width = max(image.shape[2] for image in images)
    if slip == "square":
        height = width = max(height, width)
    if slip == "turned":
        height, width = width, height
        images = [image.transpose(1, 2) for image in images]
    batch = torch.zeros(len(images), 3, height, width)
    padding = torch.ones(len(images), height, width, dtype=torch.bool)
    for row, image in enumerate(images):
        _, h, w = image.shape
        pixels = image.float() if slip == "0..255" else image / 255
        if slip == "own statistics":
            pixels = (pixels - pixels.mean((1, 2), keepdim=True)) / pixels.std((1, 2), keepdim=True)
        elif slip not in ("raw", "pad first"):
            pixels = pixels - shift if slip == "mean only" else (pixels - shift) / scale
        corner = np.s_[height - h :, width - w :] if slip in ("lower right", "images only") else np.s_[:h, :w]
        batch[row, :, *corner] = pixels
        if slip != "no mask":
            padding[row][corner if slip != "images only" else np.s_[:h, :w]] = False
    if slip == "pad first":
        batch = (batch - shift) / scale
    if slip == "no mask":
        padding[:] = False
    if slip == "centre":
        for row, image in enumerate(images):
            padding[row] = True
            top, left = (height - image.shape[1]) // 2, (width - image.shape[2]) // 2
            padding[row, top : top + image.shape[1], left : left + image.shape[2]] = False
    if slip == "inverted":
        padding = ~padding
    if slip == "grey beside":
        batch[padding[:, None].expand_as(batch)] = 0.5
    if slip == "numbers for a mask":
        padding = padding.float()
    if slip == "channels last":
        batch = batch.permute(0, 2, 3, 1)
    if slip == "mask of four axes":
        padding = padding[:, None]
    return batch if slip == "one result" else (batch, padding)


def collate_with_pad(images, mean, std):
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    batch, masks = [], []
    for image in images:
        beside = (0, width - image.shape[2], 0, height - image.shape[1])
        batch.append(F.pad(functional.normalize(image / 255, mean, std), beside))
        masks.append(F.pad(torch.zeros(image.shape[1:]), beside, value=1).bool())
    return torch.stack(batch), torch.stack(masks)


def collate_with_numpy(images, mean, std):
    batch, padding = np.zeros((len(images), 3, 5, 6)), np.ones((len(images), 5, 6), bool)
    for row, image in enumerate(images):
        pixels = (image.numpy().transpose(1, 2, 0) / 255 - mean) / std
        h, w = pixels.shape[:2]
        batch[row, :, :h, :w], padding[row, :h, :w] = pixels.transpose(2, 0, 1), False
    return batch, padding


@pytest.mark.parametrize("answer", [collate_with_torch, collate_with_pad, collate_with_numpy])
def test_collate_right(answer, capsys):
    assert verdict(checks.collate, answer, capsys).startswith("exercise 2 is right")


@pytest.mark.parametrize(
    "slip, said",
    [
        ("inverted", "the mask is inverted"),
        ("lower right", "in another corner"),
        ("centre", "in the middle"),
        ("no mask", "nothing is marked"),
        ("pad first", "before the normalisation"),
        ("0..255", "without dividing by 255"),
        ("raw", "not normalised"),
        ("mean only", "division by std is missing"),
        ("mean and std exchanged", "mean and std are exchanged"),
        ("images only", "the mask is upper left, the images are not"),
        ("square", "a square"),
        ("turned", "height and width are exchanged"),
        ("channels last", "channels stand last"),
        ("mask of four axes", "an axis too many"),
        ("one result", "two results"),
        ("own statistics", "by its own mean"),
        ("grey beside", "other numbers than 0"),
        ("numbers for a mask", "a mask is True or False"),
    ],
)
def test_collate_wrong(slip, said):
    with pytest.raises(Wrong, match=said):
        checks.collate(lambda images, mean, std: collate_with_torch(images, mean, std, slip))


# Exercise 3


def errors() -> dict[str, int]:
    return checks._planted(checks.PLANTED_SEED)[2]


def test_the_three_errors_are_in_the_file_and_nothing_else_is():
    scenes, content = checks.planted()
    truth = scenes.ground_truth()["annotations"]
    assert len(truth) == len(content["annotations"])
    keys = ("image_id", "category_id", "bbox")
    wrong = {a["id"] for a, b in zip(content["annotations"], truth, strict=True) if any(a[k] != b[k] for k in keys)}
    assert wrong == set(errors().values()) and len(wrong) == 3
    assert checks.planted()[1] == content, "the same file each time"


@pytest.mark.parametrize("seed", range(1, 9))
def test_planted_boxes_stay_in_their_images(seed):
    for annotation in checks.planted(seed)[1]["annotations"]:
        x, y, w, h = annotation["bbox"]
        assert x >= 0 and y >= 0 and x + w <= 64 and y + h <= 64


@pytest.mark.parametrize("kind", [set, list, tuple, frozenset])
def test_planted_right(kind, capsys):
    assert verdict(checks.planted_errors, kind(errors().values()), capsys).startswith("exercise 3 is right")


def test_planted_wrong():
    _, content = checks.planted()
    found, ids = errors(), [a["id"] for a in content["annotations"]]
    of_id = {a["id"]: a for a in content["annotations"]}
    where = of_id[found["image"]]["image_id"]
    beside = next(a["id"] for a in content["annotations"] if a["image_id"] == where and a["id"] != found["image"])
    covered = next(a["id"] for a in content["annotations"] if a["id"] not in found.values() and a["image_id"] != where)
    all_three = set(found.values())
    answers = {
        "has another name": all_three - {found["class"]},
        "slid off": all_three - {found["place"]},
        "lies on nothing, and elsewhere": all_three - {found["image"]},
        "positions in the list": {ids.index(number) for number in all_three},
        "ids of images": {of_id[number]["image_id"] for number in all_three},
        "texts": {str(number) for number in all_three},
        "another box of that image": all_three - {found["image"]} | {beside},
        "boxes are of what is visible": all_three | {covered},
        "no annotation ids": all_three | {105},
        "a set of three": found["class"],
    }
    for said, answer in answers.items():
        with pytest.raises(Wrong, match=said):
            checks.planted_errors(answer)
