"""Boxes: conversions, IoU and GIoU by hand, by loop and by torchvision; boxes without area stay finite."""

from collections.abc import Callable

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from detr_mini import boxes


@st.composite
def boxes_xyxy(draw: st.DrawFn, count: int, min_side: float = 0.0) -> Tensor:
    place = st.floats(0, 1, width=32)
    rows = []
    for _ in range(count):
        x, y = draw(place), draw(place)
        w, h = draw(st.floats(min_side, 1, width=32)), draw(st.floats(min_side, 1, width=32))
        rows.append([x, y, x + w, y + h])
    return torch.tensor(rows).reshape(count, 4)


def slow_giou(a: list[float], b: list[float]) -> tuple[float, float]:
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    iou = width * height / union
    return iou, iou - (hull - union) / hull


@pytest.mark.parametrize(
    ("a", "b", "iou", "giou"),
    [
        ((0, 0, 2, 2), (0, 0, 2, 2), 1, 1),  # equal
        ((0, 0, 2, 2), (1, 1, 3, 3), 1 / 7, 1 / 7 - 2 / 9),  # overlap 1, union 7, hull 9
        ((0, 0, 4, 4), (1, 1, 3, 3), 1 / 4, 1 / 4),  # contained: the hull is the larger box
        ((0, 0, 1, 1), (1, 0, 2, 1), 0, 0),  # side by side: nothing of the hull is empty
        ((0, 0, 1, 1), (3, 0, 4, 1), 0, -1 / 2),  # two of the hull's four cells are empty
        ((0, 0, 1, 1), (9, 9, 10, 10), 0, -98 / 100),
        ((1, 1, 1, 1), (0, 0, 2, 2), 0, 0),  # a point inside a box
        ((1, 1, 1, 1), (2, 2, 2, 2), 0, -1),  # two points: the hull is all empty
        ((1, 1, 1, 1), (1, 1, 1, 1), 0, 0),  # the same point twice
        ((1, 0, 1, 2), (1, 0, 1, 2), 0, 0),  # the same line twice
    ],
)
def test_numbers_checked_by_hand(a, b, iou, giou):
    a, b = torch.tensor([a]).float(), torch.tensor([b]).float()
    for first, second in ((a, b), (b, a)):
        assert boxes.iou(first, second).item() == pytest.approx(iou, abs=1e-6)
        assert boxes.giou(first, second).item() == pytest.approx(giou, abs=1e-6)


def test_conversion_by_hand_keeps_x_and_width_apart_from_y_and_height():
    wide = torch.tensor([[0.5, 0.25, 0.4, 0.1]])
    assert_close(boxes.cxcywh_to_xyxy(wide), torch.tensor([[0.3, 0.2, 0.7, 0.3]]))
    assert_close(boxes.area(boxes.cxcywh_to_xyxy(wide)), torch.tensor([0.04]))


@given(boxes_xyxy(count=5))
def test_conversions_undo_each_other_and_equal_torchvision(corners):
    centres = boxes.xyxy_to_cxcywh(corners)
    assert_close(boxes.cxcywh_to_xyxy(centres), corners)
    assert_close(centres, torchvision.ops.box_convert(corners, "xyxy", "cxcywh"))
    assert boxes.cxcywh_to_xyxy(centres.reshape(5, 1, 4)).shape == (5, 1, 4)


@given(boxes_xyxy(count=4, min_side=2**-7), boxes_xyxy(count=3, min_side=2**-7))
def test_loop_tensor_and_library_agree(a, b):
    slow = torch.tensor([[slow_giou(p, q) for q in b.tolist()] for p in a.tolist()])
    assert_close(boxes.iou(a, b), slow[..., 0], atol=1e-5, rtol=1e-4)
    assert_close(boxes.giou(a, b), slow[..., 1], atol=1e-5, rtol=1e-4)
    assert_close(boxes.iou(a, b), torchvision.ops.box_iou(a, b), atol=1e-6, rtol=1e-6)
    assert_close(boxes.giou(a, b), torchvision.ops.generalized_box_iou(a, b), atol=1e-5, rtol=1e-5)


@given(boxes_xyxy(count=4), boxes_xyxy(count=4))
def test_ranges_symmetry_and_pairs(a, b):
    iou, giou = boxes.iou(a, b), boxes.giou(a, b)
    assert ((iou >= 0) & (iou <= 1 + 1e-5)).all() and ((giou >= -1 - 1e-5) & (giou <= iou + 1e-5)).all()
    assert_close(giou, boxes.giou(b, a).T, atol=1e-5, rtol=1e-5)
    assert_close(boxes.paired_iou(a, b), iou.diagonal())
    assert_close(boxes.paired_giou(a, b), giou.diagonal())


def test_leading_dimensions_are_batches_and_no_boxes_are_fine():
    a, b = torch.rand(2, 3, 5, 4).sort(dim=-1).values, torch.rand(2, 3, 6, 4).sort(dim=-1).values
    batched = boxes.giou(a, b)
    assert batched.shape == boxes.iou(a, b).shape == (2, 3, 5, 6)
    assert_close(batched[1, 2], boxes.giou(a[1, 2], b[1, 2]))
    assert boxes.giou(a[0, 0], b[0, 0, :0]).shape == (5, 0)
    assert boxes.paired_giou(a[:0], a[:0]).shape == (0, 3, 5)


TINY = st.sampled_from([0.0, 1e-38, 1e-30, 1e-20, 1e-12, 1e-10, 1e-7, 0.3])


@settings(max_examples=200)
@given(st.lists(TINY, min_size=8, max_size=8), st.booleans())
def test_values_and_gradients_are_finite_however_small_the_boxes(numbers, coincide):
    numbers = torch.tensor(numbers).reshape(2, 4)
    corners = torch.cat([numbers[:, :2], numbers[:, :2] + numbers[:, 2:]], dim=1)
    a = corners[:1].clone().requires_grad_()
    b = (corners[:1] if coincide else corners[1:]).clone().requires_grad_()
    for function in (boxes.paired_iou, boxes.paired_giou, boxes.iou, boxes.giou):
        value = function(a, b)
        gradients = torch.autograd.grad(value.sum(), (a, b))
        assert all(tensor.isfinite().all() for tensor in (value, *gradients))


def test_the_gradient_of_iou_ends_where_boxes_part_and_that_of_giou_does_not():
    distant = torch.tensor([[0.7, 0.7, 0.8, 0.8]], requires_grad=True)
    truth = torch.tensor([[0.1, 0.1, 0.2, 0.2]])
    (of_iou,) = torch.autograd.grad(boxes.paired_iou(distant, truth).sum(), distant)
    (of_giou,) = torch.autograd.grad(boxes.paired_giou(distant, truth).sum(), distant)
    assert not of_iou.any()
    assert (of_giou[0, :2] < 0).all()  # the near corner should come nearer


@pytest.mark.parametrize("function", [boxes.iou, boxes.giou, boxes.paired_iou, boxes.paired_giou])
def test_gradients_equal_finite_differences(function):
    a = torch.tensor([[0.1, 0.2, 0.5, 0.6], [0.12, 0.15, 0.35, 0.25]]).double().requires_grad_()
    b = torch.tensor([[0.3, 0.1, 0.8, 0.4], [0.66, 0.5, 0.9, 0.8]]).double().requires_grad_()
    assert torch.autograd.gradcheck(function, (a, b))


def device_reads(run: Callable[[], object]) -> list[str]:
    # The profiler, not a dispatch mode: under a mode, backward takes ways that read nothing.
    with torch.autograd.profiler.profile() as profile:
        run()
    names = [event.name for event in profile.function_events]
    return [name for name in names if name in ("aten::_local_scalar_dense", "aten::nonzero")]


def test_neither_values_nor_gradients_read_the_device():
    a = torch.zeros(3, 4, requires_grad=True)

    def run() -> None:
        value = boxes.giou(boxes.cxcywh_to_xyxy(a), boxes.xyxy_to_cxcywh(a)).sum() + boxes.paired_iou(a, a).sum()
        torch.autograd.grad(value, a)

    assert device_reads(run) == []
    assert device_reads(lambda: a.sum().item()) == ["aten::_local_scalar_dense"]


def test_nan_is_passed_on_rather_than_hidden():
    broken = torch.tensor([[0.0, 0.0, float("nan"), 1.0]])
    assert boxes.paired_giou(broken, torch.tensor([[0.0, 0.0, 1.0, 1.0]])).isnan().all()
