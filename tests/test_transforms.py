import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors

from detr_mini.datasets import transforms
from detr_mini.datasets.batches import check_target


def sample(height, width, boxes_xyxy_px):
    """White rectangles on black, one a box; label = position of the box."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    for x1, y1, x2, y2 in boxes_xyxy_px:
        image[:, y1:y2, x1:x2] = 255
    corners = torch.tensor(boxes_xyxy_px, dtype=torch.float32).reshape(-1, 4)
    boxes = tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=(height, width))
    labels = torch.arange(len(boxes_xyxy_px))
    target = {"boxes": boxes, "labels": labels, "image_id": 1, "original_size": (height, width)}
    return tv_tensors.Image(image), target


def authors(height, width, size, longest):
    """get_size_with_aspect_ratio of the authors' code, restated."""
    low, high = float(min(height, width)), float(max(height, width))
    if high / low * size > longest:
        size = int(round(longest * low / high))
    return (int(size * height / width), size) if width < height else (size, int(size * width / height))


@pytest.mark.parametrize(
    ("height", "width", "short", "long", "wanted"),
    [
        (480, 640, 800, 1333, (800, 1066)),
        (640, 480, 800, 1333, (1066, 800)),
        (427, 640, 800, 1333, (800, 1199)),
        (500, 500, 800, 1333, (800, 800)),
        (300, 1000, 800, 1333, (400, 1333)),
        (1, 3000, 800, 1333, (1, 1333)),
        (3, 7, 4, 9, (4, 9)),
    ],
)
def test_sizes_by_hand(height, width, short, long, wanted):
    assert transforms.resized(height, width, short, long) == wanted


@settings(deadline=None)
@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 1000), st.integers(0, 1000))
def test_sizes_keep_the_limits_and_follow_the_authors(height, width, short, more):
    new_height, new_width = transforms.resized(height, width, short, short + more)
    assert 1 <= min(new_height, new_width) <= short
    assert max(new_height, new_width) <= short + more
    theirs = authors(height, width, short, short + more)
    if min(theirs) > 0 and max(theirs) <= short + more and height * short % width and width * short % height:
        assert (new_height, new_width) == theirs


RECIPES = {
    "paper": transforms.paper_training(short_sides=(480, 512), long_side=800),
    "photos": transforms.photos_training(short_side=160, long_side=280),
    "evaluation": transforms.evaluation(short_side=200, long_side=333),
}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("size", [(120, 90), (70, 200)])
def test_boxes_stay_on_their_pixels(recipe, size):
    torch.manual_seed(0)
    height, width = size
    box = (width // 3, height // 4, 2 * width // 3, 2 * height // 3)
    seen = set()
    for _ in range(12):
        image, target = RECIPES[recipe](*sample(height, width, [box]))
        if not len(target["boxes"]):
            continue
        h, w = target["size"]
        assert image.shape == (3, h, w) and type(image) is torch.Tensor and image.dtype == torch.uint8
        cx, cy, bw, bh = target["boxes"][0].tolist()
        bright = image.float().mean(0)
        rows, columns = (bright > bright.max() / 2).nonzero(as_tuple=True)
        found = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
        wanted = torch.tensor([(cx - bw / 2) * w, (cy - bh / 2) * h, (cx + bw / 2) * w, (cy + bh / 2) * h])
        torch.testing.assert_close(found, wanted, atol=0.02 * max(h, w), rtol=0)
        seen.add((h, w, round(cx, 3)))
    assert len(seen) == 1 if recipe == "evaluation" else len(seen) > 3


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("size", [(1, 1), (3, 500), (40, 30), (383, 601)])
def test_any_size_survives_and_the_target_is_sound(recipe, size):
    torch.manual_seed(1)
    height, width = size
    for _ in range(6):
        for boxes in ([], [(0, 0, width, height)], [(0, 0, 1, 1), (width - 1, height - 1, width, height)]):
            image, target = RECIPES[recipe](*sample(height, width, boxes))
            check_target(target, num_classes=2)
            assert target["size"] == image.shape[1:] and target["original_size"] == size
            assert target["boxes"].dtype == torch.float32 and type(target["boxes"]) is torch.Tensor


def cropped(boxes, window):
    """`Crop` made to choose `window` = (top, left, height, width)."""
    top, left, height, width = window
    draws = iter([height, width, top, left])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transforms, "_draw", lambda low, high: next(draws))
        return transforms.Crop(10, 50)(*sample(100, 100, boxes))


def test_a_crop_cuts_boxes_and_drops_what_nobody_could_name():
    boxes = [
        (10, 10, 30, 30),
        (0, 0, 90, 90),
        (60, 60, 80, 80),
        (48, 20, 68, 40),
        (49, 20, 69, 40),
        (0, 0, 13, 13),
    ]
    image, target = cropped(boxes, (10, 10, 40, 40))
    assert image.shape == (3, 40, 40)
    # box 1 keeps 1600 of 8100 px, box 3 keeps 40 of 400 (a tenth), box 4 20 of 400, box 5 9 of 169
    assert target["labels"].tolist() == [0, 1, 3]
    assert target["boxes"].tolist() == [[0, 0, 20, 20], [0, 0, 40, 40], [38, 10, 40, 30]]
    assert target["boxes"].canvas_size == (40, 40)


def test_a_crop_may_leave_no_box():
    _, target = cropped([(60, 60, 80, 80)], (0, 0, 50, 50))
    assert target["boxes"].shape == (0, 4) and target["labels"].shape == (0,)


def test_crops_stay_inside_and_vary():
    torch.manual_seed(0)
    sizes = {transforms.Crop(20, 60)(*sample(40, 100, []))[0].shape[1:] for _ in range(200)}
    assert {h for h, _ in sizes} <= set(range(20, 41)) and {w for _, w in sizes} <= set(range(20, 61))
    assert {20, 40} <= {h for h, _ in sizes} and {20, 60} <= {w for _, w in sizes}


def test_the_papers_recipe_uses_its_sizes():
    torch.manual_seed(0)
    short_sides = {min(transforms.paper_training()(*sample(60, 80, []))[1]["size"]) for _ in range(60)}
    assert short_sides <= set(range(480, 801, 32)) and len(short_sides) > 6


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_flip_probability(flip):
    torch.manual_seed(0)
    recipe = transforms.photos_training(short_side=50, long_side=100, flip=flip)
    image, target = sample(100, 100, [(0, 0, 50, 100)])
    lefts = [recipe(image, target)[1]["boxes"][:, 0] < 0.5 for _ in range(10)]
    assert all(bool(left.all()) != bool(flip) for left in lefts if len(left))


def test_seeding_torch_fixes_a_sample():
    def draw():
        torch.manual_seed(5)
        return RECIPES["photos"](*sample(90, 120, [(10, 20, 60, 70)]))

    (first, target), (second, again) = draw(), draw()
    assert torch.equal(first, second) and torch.equal(target["boxes"], again["boxes"])
