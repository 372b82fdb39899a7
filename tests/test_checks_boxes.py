"""Checks of notebook 01: right answers in two styles pass, stubs are open, each misconception is named."""

import numpy as np
import pytest
import torch
import torchvision

from detr_mini.boxes import area, cxcywh_to_xyxy, paired_giou
from detr_mini.checks import boxes as checks
from detr_mini.checks.verdict import Wrong


def verdict(check, answer, capsys) -> str:
    check(answer)
    return capsys.readouterr().out


# Exercise 1


def giou_by_loop(a, b):
    rows = []
    for p in a.tolist():
        row = []
        for q in b.tolist():
            width = max(0, min(p[2], q[2]) - max(p[0], q[0]))
            height = max(0, min(p[3], q[3]) - max(p[1], q[1]))
            union = (p[2] - p[0]) * (p[3] - p[1]) + (q[2] - q[0]) * (q[3] - q[1]) - width * height
            hull = (max(p[2], q[2]) - min(p[0], q[0])) * (max(p[3], q[3]) - min(p[1], q[1]))
            row.append(width * height / union - (hull - union) / hull)
        rows.append(row)
    return rows


def giou_with_numpy(a, b):
    a, b = a.numpy()[:, None], b.numpy()[None]
    sides = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None)
    outer = np.maximum(a[..., 2:], b[..., 2:]) - np.minimum(a[..., :2], b[..., :2])
    shared, hull = sides.prod(-1), outer.prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - shared
    return shared / union - (hull - union) / hull


def giou_with_torch(a, b, slip=""):
    """As a learner writes it, with one slip."""
    if slip == "converted":
        a, b = cxcywh_to_xyxy(a), cxcywh_to_xyxy(b)
    a, b = a[:, None, :], b[None, :, :]
    left_top = torch.max(a[..., :2], b[..., :2])
    right_bottom = torch.min(a[..., 2:], b[..., 2:])
    size = right_bottom - left_top
    if slip != "no clamp" and slip != "clamped product":
        size = size.clamp(min=0)
    shared = size[..., 0] * size[..., 1]
    if slip == "clamped product":
        shared = shared.clamp(min=0)
    union = area(a) + area(b)
    if slip != "counted twice":
        union = union - shared
    outer = torch.max(a[..., 2:], b[..., 2:]) - torch.min(a[..., :2], b[..., :2])
    if slip == "half a hull":
        outer = torch.max(a[..., 2:], b[..., 2:]) - left_top
    hull = outer[..., 0] * outer[..., 1]
    iou = shared / union
    if slip == "IoU":
        return iou
    if slip == "share of union":
        return iou - (hull - union) / union
    if slip == "plus":
        return iou + (hull - union) / hull
    if slip == "without shared":
        return iou - (hull - shared) / hull
    giou = iou - (hull - union) / hull
    return {"loss": 1 - giou, "transposed": giou.T}.get(slip, giou)


@pytest.mark.parametrize(
    "answer", [giou_by_loop, giou_with_numpy, giou_with_torch, torchvision.ops.generalized_box_iou]
)
def test_giou_right(answer, capsys):
    assert verdict(checks.giou, answer, capsys).startswith("exercise 1 is right")


@pytest.mark.parametrize(
    "slip, said",
    [
        ("IoU", "this is IoU"),
        ("loss", "this is 1 - GIoU"),
        ("transposed", "turned round"),
        ("converted", "corners already"),
        ("no clamp", "clamp the sides at 0"),
        ("clamped product", "before you multiply"),
        ("counted twice", "counted twice"),
        ("share of union", "divide it by the hull"),
        ("plus", "subtract it"),
        ("without shared", "the hull without the union"),
        ("half a hull", "begins where the shared part does"),
    ],
)
def test_giou_wrong(slip, said):
    with pytest.raises(Wrong, match=said):
        checks.giou(lambda a, b: giou_with_torch(a, b, slip))


# Exercise 2


@pytest.mark.parametrize(
    "answer",
    [(0.8, 0.2, 0.9, 0.6), [0.85, 0.2, 1.0, 0.6], np.array([0.8, 0.2, 0.9, 0.6]), torch.tensor([0.82, 0.2, 0.94, 0.6])],
)
def test_box_right(answer, capsys):
    assert verdict(checks.box_with_giou, answer, capsys).startswith("exercise 2 is right")


@pytest.mark.parametrize(
    "answer, said",
    [
        ((0.85, 0.4, 0.1, 0.4), "meant centre and size"),
        ((0.8, 0.2, 0.1, 0.4), "meant left, top and size"),
        ((0.9, 0.6, 0.8, 0.2), "x2 <= x1"),
        ((1.0, 0.2, 1.3, 0.6), "reaches out of the image"),
        ((0.1, 0.2, 0.25, 0.6), r"GIoU is \+0.5"),
        ((0.0, 0.35, 1.0, 0.4643), "boxes overlap"),
        ((0.6, 0.2, 0.7, 0.6), "half of the union"),
        ((0.45, 0.2, 0.5, 0.6), "too near"),
        ((0.9, 0.9, 1.0, 1.0), "too far away"),
        ((0.1, 0.2, 0.4), "four numbers"),
    ],
)
def test_box_wrong(answer, said):
    with pytest.raises(Wrong, match=said):
        checks.box_with_giou(answer)


def test_the_numbers_of_the_misconceptions_are_what_they_claim():
    given = torch.tensor(checks.GIVEN)
    assert paired_giou(torch.tensor([0.1, 0.2, 0.25, 0.6]), given).item() == pytest.approx(0.5, abs=1e-5)
    assert paired_giou(torch.tensor([0.6, 0.2, 0.7, 0.6]), given).item() == pytest.approx(-1 / 3, abs=1e-5)


# Exercise 3


def clip_and_drop(boxes_xyxy_px, size, least, slip=""):
    """As a learner writes it, with one slip."""
    height, width = size[::-1] if slip == "swapped" else size
    before = area(boxes_xyxy_px)
    clipped = boxes_xyxy_px.clone()
    clipped[:, 0::2] = clipped[:, 0::2].clamp(0, width)
    clipped[:, 1::2] = clipped[:, 1::2].clamp(0, height)
    if slip == "clipped first":
        before = area(clipped)
    left = area(clipped)
    keep = (left >= least * before) & (left > 0)
    if slip == "empty":
        keep = left >= least * before
    if slip == "may be lost":
        keep = (before - left <= least * before) & (left > 0)
    if slip == "sides":
        share = (clipped[:, 2:] - clipped[:, :2]) / (boxes_xyxy_px[:, 2:] - boxes_xyxy_px[:, :2])
        keep = (share >= least).all(1)
    if slip == "centre":
        centre = (boxes_xyxy_px[:, :2] + boxes_xyxy_px[:, 2:]) / 2
        keep = (centre >= 0).all(1) & (centre[:, 0] < width) & (centre[:, 1] < height) & (before > 0)
    if slip == "inside":
        keep = (clipped == boxes_xyxy_px).all(1) & (left > 0)
    if slip == "not clipped":
        return boxes_xyxy_px[keep], keep
    if slip == "not dropped":
        return clipped, keep
    if slip == "the other ones":
        return clipped[~keep], keep
    if slip == "only boxes":
        return clipped[keep]
    if slip == "indices":
        return clipped[keep], keep.nonzero()[:, 0]
    return clipped[keep], keep


def clip_and_drop_by_loop(boxes_xyxy_px, size, least):
    height, width = size
    left, keep = [], []
    for x1, y1, x2, y2 in boxes_xyxy_px.tolist():
        box = [min(max(x1, 0), width), min(max(y1, 0), height), min(max(x2, 0), width), min(max(y2, 0), height)]
        part = (box[2] - box[0]) * (box[3] - box[1])
        keep.append(part > 0 and part / ((x2 - x1) * (y2 - y1)) >= least)
        if keep[-1]:
            left.append(box)
    return left, keep


@pytest.mark.parametrize("answer", [clip_and_drop, clip_and_drop_by_loop])
def test_clip_right(answer, capsys):
    assert verdict(checks.clip_and_drop, answer, capsys).startswith("exercise 3 is right")


@pytest.mark.parametrize(
    "slip, said",
    [
        ("swapped", r"\(height, width\)"),
        ("clipped first", "before you clip"),
        ("empty", "without width is still there"),
        ("may be lost", "must be left"),
        ("sides", "compare areas, not sides"),
        ("centre", "where the centre lies"),
        ("inside", "lost a little are kept"),
        ("not clipped", "were not clipped"),
        ("not dropped", "still among them"),
        ("the other ones", "those that are kept did not"),
        ("only boxes", "two results"),
        ("indices", "one True or False"),
    ],
)
def test_clip_wrong(slip, said):
    with pytest.raises(Wrong, match=said):
        checks.clip_and_drop(lambda *arguments: clip_and_drop(*arguments, slip=slip))


@pytest.mark.parametrize("check, number", [(checks.giou, 1), (checks.clip_and_drop, 3)])
def test_a_stub_is_open(check, number, capsys):
    def stub(*arguments): ...

    assert verdict(check, stub, capsys) == f"exercise {number} is open\n"


def test_an_answer_that_was_not_given_is_open(capsys):
    assert verdict(checks.box_with_giou, ..., capsys) == "exercise 2 is open\n"
    assert verdict(checks.clip_and_drop, lambda *arguments: (..., ...), capsys) == "exercise 3 is open\n"


def test_messages_are_distinct():
    told = [*checks._SLIPS, *checks._DROPS]
    assert len(set(told)) == len(told)
