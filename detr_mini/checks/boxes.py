"""Checks of notebook 01: GIoU of all pairs, a box with a wanted GIoU, and boxes at the border of an image."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from detr_mini import boxes
from detr_mini.checks.verdict import Open, Wrong, ask, compare, exercise

# N, M boxes · K kept boxes

GIVEN = (0.1, 0.2, 0.4, 0.6)  # the box of exercise 2, xyxy in 0..1
CLOSE = 0.005  # how near exercise 2 must come to -0.5
CORNERS = ("xyxy", "cxcywh", "xywh")


@exercise(1, "You have the function that two of DETR's three prices are made of.")
def giou(answer: Callable) -> None:
    """`answer(a_xyxy (N, 4), b_xyxy (M, 4))` is the GIoU (N, M) of every box of a with every box of b."""
    a = torch.tensor([[0.0, 0.0, 2.0, 2.0], [1.0, 1.0, 4.0, 3.0], [0.0, 0.0, 6.0, 4.0]])
    b = torch.tensor([[1.0, 1.0, 3.0, 3.0], [3.0, 0.0, 4.0, 1.0], [5.0, 4.0, 7.0, 5.0], [1.0, 1.0, 4.0, 3.0]])
    got = ask(answer, a.clone(), b.clone())
    mistakes = {text: _giou(a, b, **how) for text, how in _SLIPS.items()}
    centres = boxes.giou(boxes.cxcywh_to_xyxy(a), boxes.cxcywh_to_xyxy(b))
    mistakes |= {
        "this is 1 - GIoU, the loss; asked is GIoU itself": 1 - boxes.giou(a, b),
        "this is the table turned round: a's boxes belong in the rows, b's in the columns": boxes.giou(b, a),
        "the boxes come as corners already; converting them as if they were centres and sizes moves them": centres,
    }
    compare("three boxes against four", got, boxes.giou(a, b), mistakes)
    a, b = a[:2] / 8 + 0.01, b[:3] / 8
    compare("the same, as fractions of an image", ask(answer, a, b), boxes.giou(a, b), {})


def _giou(
    a: Tensor,
    b: Tensor,
    clamp: str = "sides",
    shared_once: bool = True,
    divisor: str = "hull",
    empty_sign: int = -1,
    outer: str = "hull",
    hull_from: str = "smaller",
) -> Tensor:
    """GIoU (N, M) with one thing done differently."""
    a, b = a[:, None], b[None]  # (N, 1, 4) and (1, M, 4)
    sides = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    first = {"smaller": torch.minimum, "larger": torch.maximum}[hull_from](a[..., :2], b[..., :2])
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - first).prod(-1)
    if clamp == "sides":
        sides = sides.clamp(min=0)
    shared = sides.prod(-1)
    if clamp == "product":
        shared = shared.clamp(min=0)
    union = boxes.area(a) + boxes.area(b) - shared_once * shared
    if outer == "none":
        return shared / union
    empty = hull - (union if outer == "hull" else shared)
    return shared / union + empty_sign * empty / {"hull": hull, "union": union}[divisor]


_SLIPS = {
    "this is IoU: the empty share of the hull is still to be subtracted": {"outer": "none"},
    "two boxes that are apart share nothing, but with both sides negative their product is positive, "
    "and with one it is below 0: clamp the sides at 0": {"clamp": "nothing"},
    "clamp width and height at 0 before you multiply them: two negative sides have a positive product": {
        "clamp": "product"
    },
    "the shared part is counted twice in your union: subtract it once": {"shared_once": False},
    "the empty part is a share of the hull: divide it by the hull's area, not by the union's": {"divisor": "union"},
    "what is empty in the hull makes it worse: subtract it": {"empty_sign": 1},
    "empty is the hull without the union; you took the hull without the shared part": {"outer": "shared"},
    "your hull begins where the shared part does: its upper left corner is the smaller of both, in x and in y": {
        "hull_from": "larger"
    },
}


@exercise(2, "You can read a GIoU backwards, from the number to the picture.")
def box_with_giou(answer: Sequence[float]) -> None:
    """`answer` is a box xyxy in 0..1 whose GIoU with (0.1, 0.2, 0.4, 0.6) is -0.5 (within 0.005)."""
    where = "your box"
    box = torch.as_tensor(answer, dtype=torch.float64)
    if box.shape != (4,):
        raise Wrong(f"{where}: wanted are four numbers x1, y1, x2, y2; yours has shape {tuple(box.shape)}")
    x1, y1, x2, y2 = box.tolist()
    as_format = {"xyxy": box, "cxcywh": boxes.cxcywh_to_xyxy(box), "xywh": torch.cat([box[:2], box[:2] + box[2:]])}
    reached = {name: _with_given(corners) for name, corners in as_format.items()}
    for name, story in (("cxcywh", "centre and size"), ("xywh", "left, top and size, as COCO files do")):
        if abs(reached[name] + 0.5) < CLOSE and not abs(reached["xyxy"] + 0.5) < CLOSE:
            raise Wrong(f"{where}: it would be right if the numbers meant {story}; here they are two corners")
    if not (x1 < x2 and y1 < y2):
        raise Wrong(
            f"{where}: {box.tolist()} has x2 <= x1 or y2 <= y1: first the upper left corner, then the lower right"
        )
    if box.min() < 0 or box.max() > 1:
        raise Wrong(f"{where}: {box.tolist()} reaches out of the image, which ends at 0 and 1: try a smaller box")
    giou, iou = reached["xyxy"], boxes.paired_iou(box, torch.tensor(GIVEN).double()).item()
    empty = iou - giou
    if abs(giou + 0.5) < CLOSE:
        return
    if abs(giou - 0.5) < CLOSE:
        raise Wrong(f"{where}: its GIoU is +0.5, so 1 - GIoU is 0.5; wanted is a GIoU of -0.5, a box that is apart")
    if abs(empty - 0.5) < CLOSE:
        raise Wrong(f"{where}: half of the hull is empty, but the boxes overlap (IoU {iou:.2f}): GIoU is {giou:.2f}")
    if abs(empty / (1 - empty) - 0.5) < CLOSE:
        raise Wrong(f"{where}: what is empty is half of the union; it has to be half of the hull. GIoU is {giou:.2f}")
    hint = "too near, or too large" if giou > -0.5 else "too far away, or too small"
    raise Wrong(f"{where}: its GIoU is {giou:.3f}, wanted is -0.5: it is {hint}")


def _with_given(box_xyxy: Tensor) -> float:
    return boxes.paired_giou(box_xyxy, torch.tensor(GIVEN).double()).item()


BORDER_SIZE = (60, 100)  # (H, W) px
BORDER_BOXES = torch.tensor(
    [
        [10.0, 10.0, 30.0, 40.0],  # inside
        [80.0, 20.0, 118.0, 40.0],  # about half left
        [-30.0, 30.0, 10.0, 50.0],  # a quarter left
        [89.0, 49.0, 113.0, 73.0],  # 21 % left, although 46 % of each side
        [20.0, 45.0, 40.0, 65.0],  # three quarters left
        [105.0, 5.0, 125.0, 25.0],  # outside
        [50.0, 30.0, 50.0, 40.0],  # no width to begin with
        [-10.0, -10.0, 18.0, 18.0],  # about 41 % left, centre inside
        [62.0, 4.0, 66.0, 12.0],  # inside, small
    ]
)


@exercise(3, "Crops and borders can no longer leave boxes that are empty or that nobody could name.")
def clip_and_drop(answer: Callable) -> None:
    """`answer(boxes_xyxy_px (N, 4), size (H, W), least)` is (boxes (K, 4) clipped, keep (N,) bool)."""
    for least in (0.45, 0.3):
        got = ask(answer, BORDER_BOXES.clone(), BORDER_SIZE, least)
        if not (isinstance(got, tuple | list) and len(got) == 2):
            raise Wrong(
                "two results are wanted, (boxes, keep): without keep, the labels cannot be dropped with the boxes"
            )
        if any(part is None or part is ... for part in got):
            raise Open
        boxes_left, keep = (np.asarray(part) for part in got)
        if keep.dtype != bool or keep.shape != (len(BORDER_BOXES),):
            raise Wrong(
                f"keep, the second result, is one True or False for each of the {len(BORDER_BOXES)} boxes given; "
                f"yours has shape {keep.shape} and holds {keep.dtype}"
            )
        where = f"an image of 60 x 100 px, least {least}"
        _compare_keep(where, keep, least)
        _compare_boxes(where, boxes_left, keep)


def _compare_keep(where: str, keep: np.ndarray, least: float) -> None:
    mistakes = {text: _clip(BORDER_BOXES, least, **how)[1] for text, how in _DROPS.items()}
    compare(f"{where}, keep", keep, _clip(BORDER_BOXES, least)[1], mistakes)


def _compare_boxes(where: str, got: np.ndarray, keep: np.ndarray) -> None:
    clipped = _clip(BORDER_BOXES, 0)[0]
    mistakes = {
        "keep is right, but the boxes were not clipped": BORDER_BOXES[keep],
        "keep is right, and the boxes are clipped, but those to be dropped are still among them": clipped,
        "the boxes that are dropped came back, those that are kept did not": clipped[~keep],
    }
    compare(f"{where}, boxes", got, clipped[keep], mistakes)


def _clip(
    boxes_px: Tensor,
    least: float,
    swapped: bool = False,
    rule: str = "area",
    empty_too: bool = False,
) -> tuple[Tensor, np.ndarray]:
    """Clipped boxes (N, 4) and which to keep (N,), with one thing done differently."""
    height, width = BORDER_SIZE[::-1] if swapped else BORDER_SIZE
    x1, y1, x2, y2 = boxes_px.unbind(-1)
    clipped = torch.stack([x1.clamp(0, width), y1.clamp(0, height), x2.clamp(0, width), y2.clamp(0, height)], dim=-1)
    before, after = boxes.area(boxes_px), boxes.area(clipped)
    sides, cut = boxes_px[:, 2:] - boxes_px[:, :2], clipped[:, 2:] - clipped[:, :2]
    centre = (boxes_px[:, :2] + boxes_px[:, 2:]) / 2
    keep = {
        "area": after >= least * before,
        "nothing": after >= 0,
        "lost": before - after <= least * before,
        "sides": (cut >= least * sides).all(-1),
        "centre": ((centre >= 0) & (centre <= torch.tensor([width, height]))).all(-1),
        "inside": (clipped == boxes_px).all(-1),
    }[rule]
    return clipped, (keep & (empty_too | (after > 0))).numpy()


_DROPS = {
    "size is (height, width), and x ends at the width: the two are swapped": {"swapped": True},
    "the box without width is still there: 0 is at least 0.3 times 0, so ask for an area above 0 as well": {
        "empty_too": True
    },
    "only empty boxes are dropped: measure the area before you clip, or the share left is always 1": {
        "rule": "nothing"
    },
    "`least` is the share that must be left, not the share that may be lost": {"rule": "lost"},
    "half of the width and half of the height are a quarter of the area: compare areas, not sides": {"rule": "sides"},
    "where the centre lies does not tell how much is left: compare areas": {"rule": "centre"},
    "boxes that lost a little are kept, clipped; yours drops all that reach over the border": {"rule": "inside"},
}
