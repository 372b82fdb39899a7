"""Boxes: the two formats, IoU and generalised IoU.

DETR predicts (cx, cy, w, h) relative to the image; overlap is computed on corners (x1, y1, x2, y2).
x grows to the right, y downwards. Everything here is differentiable and never reads the device, so boxes
are not checked here but where a batch is made (`datasets.batches.check_target`).
"""

import torch
from torch import Tensor

# N, M boxes · ... any leading dimensions

# A union or hull with less area counts as empty. Near the middle of the image the smallest box that float32
# can hold in 0..1 has 1e-15, and 1 / 1e-20 is still far from overflow in a gradient.
EMPTY_AREA = 1e-20


def cxcywh_to_xyxy(boxes_cxcywh: Tensor) -> Tensor:
    """Turn centre and size into corners; (..., 4) to (..., 4), in the unit that came in."""
    cx, cy, w, h = boxes_cxcywh.unbind(-1)
    # The shape of stack(..., dim=-1), but in memory all x1 lie together, then all y1, ...: overlaps of many boxes,
    # which take one coordinate at a time, are then about twice as fast.
    return torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]).movedim(0, -1)


def xyxy_to_cxcywh(boxes_xyxy: Tensor) -> Tensor:
    """Turn corners into centre and size; (..., 4) to (..., 4), in the unit that came in."""
    x1, y1, x2, y2 = boxes_xyxy.unbind(-1)
    return torch.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], dim=-1)


def area(boxes_xyxy: Tensor) -> Tensor:
    """Area of each box; (..., 4) to (...), in the squared unit that came in."""
    x1, y1, x2, y2 = boxes_xyxy.unbind(-1)
    return (x2 - x1) * (y2 - y1)


def paired_iou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """IoU of box i of `a` with box i of `b`; (..., 4) and (..., 4) broadcast to (...), values 0..1.

    Two boxes without any area have IoU 0, whether they coincide or not.
    """
    intersection, union = _intersection_and_union(a_xyxy, b_xyxy)
    return _ratio(intersection, union)


def paired_giou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """Generalised IoU of box i of `a` with box i of `b`; (..., 4) and (..., 4) broadcast to (...), -1..1.

    IoU minus the empty share of the hull, the smallest box around both (Rezatofighi et al., 1902.09630). A
    hull without area has no empty share, so two equal points have GIoU 0, their IoU. (No value would be
    continuous: two equal boxes that shrink keep 1, two points that approach each other keep -1.)
    """
    intersection, union = _intersection_and_union(a_xyxy, b_xyxy)
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = a_xyxy.unbind(-1), b_xyxy.unbind(-1)
    width = torch.maximum(ax2, bx2) - torch.minimum(ax1, bx1)
    height = torch.maximum(ay2, by2) - torch.minimum(ay1, by1)
    hull = width * height
    return _ratio(intersection, union) - _ratio(hull - union, hull)


def iou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """IoU of every box of `a` with every box of `b`; (..., N, 4) and (..., M, 4) to (..., N, M)."""
    return paired_iou(a_xyxy[..., :, None, :], b_xyxy[..., None, :, :])


def giou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """GIoU of every box of `a` with every box of `b`; (..., N, 4) and (..., M, 4) to (..., N, M)."""
    return paired_giou(a_xyxy[..., :, None, :], b_xyxy[..., None, :, :])


def _intersection_and_union(a_xyxy: Tensor, b_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    # One coordinate at a time: operations on the last axis of (..., 2) are several times slower.
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = a_xyxy.unbind(-1), b_xyxy.unbind(-1)
    width = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp(min=0)  # negative where they are apart
    height = (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp(min=0)
    intersection = width * height
    return intersection, area(a_xyxy) + area(b_xyxy) - intersection


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    # Not clamp(min=EMPTY_AREA): the gradient of `part` would then be multiplied by 1e20 where both are zero.
    return part / torch.where(whole > EMPTY_AREA, whole, 1)
