import copy
import json
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from detr_mini.datasets import transforms
from detr_mini.datasets.batches import check_target
from detr_mini.datasets.coco import CocoFolder, available_splits, open_split

CONTENT = {
    "images": [
        {"id": 70, "file_name": "a.png", "width": 20, "height": 10},
        {"id": 3, "file_name": "b.png", "width": 8, "height": 8},
    ],
    "annotations": [
        {"id": 0, "image_id": 70, "category_id": 90, "bbox": [2, 1, 10, 5], "area": 40, "iscrowd": 0},
        {"id": 5, "image_id": 70, "category_id": 4, "bbox": [15, 5, 9, 9], "iscrowd": 0},
        {"id": 6, "image_id": 70, "category_id": 4, "bbox": [0, 0, 20, 10], "area": 200, "iscrowd": 1},
        {"id": 7, "image_id": 70, "category_id": 4, "bbox": [3, 3, 0, 4], "area": 0, "iscrowd": 0},
    ],
    "categories": [{"id": 90, "name": "tooth brush"}, {"id": 4, "name": "plane"}],
}


def write(root, content=CONTENT, split="train", folder="train", json_name=None):
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "annotations" / (json_name or f"instances_{split}.json")).write_text(json.dumps(content))
    (root / folder).mkdir(parents=True, exist_ok=True)
    for image in content["images"]:
        Image.new("RGB", (image["width"], image["height"]), (250, 100, 0)).save(root / folder / image["file_name"])
    return root


def changed(part, position, **fields):
    content = copy.deepcopy(CONTENT)
    content[part][position].update(fields)
    return content


def test_labels_are_contiguous_and_crowds_and_empty_boxes_no_targets(tmp_path):
    data = CocoFolder(write(tmp_path), "train")
    assert len(data) == 2
    assert (data.category_ids, data.names) == ((4, 90), ("plane", "tooth brush"))
    image, target = data[0]
    assert image.shape == (3, 10, 20) and image.dtype == torch.uint8 and image[:, 0, 0].tolist() == [250, 100, 0]
    assert target["labels"].tolist() == [1, 0]
    # (2, 1, 10, 5) of 20 x 10 px; the second box is cut to (15, 5, 20, 10)
    torch.testing.assert_close(target["boxes"], torch.tensor([[0.35, 0.35, 0.5, 0.5], [0.875, 0.75, 0.25, 0.5]]))
    assert (target["image_id"], target["size"], target["original_size"]) == (70, (10, 20), (10, 20))
    _, empty = data[1]
    assert empty["boxes"].shape == (0, 4) and empty["labels"].shape == (0,) and empty["image_id"] == 3
    check_target(target, 2), check_target(empty, 2)


def test_read_shows_the_sample_before_its_transform(tmp_path):
    data = CocoFolder(write(tmp_path), "train", transforms.evaluation(40, 60))
    image, target = data.read(0)
    assert image.shape == (3, 10, 20) and target["boxes"].tolist() == [[2, 1, 12, 6], [15, 5, 20, 10]]
    assert data[0][0].shape == (3, 30, 60) and data[0][1]["size"] == (30, 60)
    assert data.file_name(1) == tmp_path / "train" / "b.png"


def test_ground_truth_is_what_pycocotools_wants(tmp_path):
    data = CocoFolder(write(tmp_path), "train")
    truth = data.ground_truth()
    coco = COCO()
    coco.dataset = json.loads(json.dumps(truth))
    coco.createIndex()
    assert coco.getImgIds() == [70, 3] and sorted(coco.getCatIds()) == [4, 90]
    boxes = coco.loadAnns(coco.getAnnIds(imgIds=[70]))
    assert [(a["bbox"], a["area"], a["iscrowd"], a["category_id"]) for a in boxes] == [
        ([2, 1, 10, 5], 40, 0, 90),
        ([15, 5, 9, 9], 81, 0, 4),
        ([0, 0, 20, 10], 200, 1, 4),
    ]
    assert min(coco.anns) == 1, "pycocotools takes a match with id 0 for none"


@pytest.mark.parametrize(
    ("split", "json_name", "folder"),
    [
        ("val", "instances_val.json", "val"),
        ("val", "instances_val2017.json", "val2017"),
        ("val", "instances_val.json", "images"),
        ("val", "instances_val2017.json", "images/val"),
        ("val2017", "instances_val2017.json", "val2017"),
    ],
)
def test_layouts(tmp_path, split, json_name, folder):
    data = CocoFolder(write(tmp_path, folder=folder, json_name=json_name), split)
    assert data.folder == tmp_path / folder and data[1][0].shape == (3, 8, 8)
    assert available_splits(tmp_path) == ("val",)


def test_what_is_not_there_is_listed(tmp_path):
    write(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"instances_val\.json.*instances_val2017\.json.*there: train"):
        CocoFolder(tmp_path, "val")
    with pytest.raises(FileNotFoundError, match="splits there: none"):
        open_split(tmp_path / "nowhere", "train")
    (tmp_path / "train" / "b.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"b\.png is missing \(1 of 2"):
        CocoFolder(tmp_path, "train")
    (tmp_path / "train" / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.png .*train2017, .*images, .*images.train"):
        CocoFolder(tmp_path, "train")


BAD = {
    "unknown category": (
        changed("annotations", 1, category_id=5),
        "annotation 5: category_id 5 is not among",
    ),
    "unknown image": (changed("annotations", 1, image_id=71), "annotation 5: image_id 71 is not among"),
    "three numbers": (
        changed("annotations", 0, bbox=[1, 2, 3]),
        r"annotation 0: bbox \[1, 2, 3\] is not four",
    ),
    "NaN": (changed("annotations", 0, bbox=[1, 2, float("nan"), 3]), "annotation 0: .*four finite"),
    "text": (changed("annotations", 0, bbox=["1", 2, 3, 4]), "annotation 0: .*four finite"),
    "corners": (changed("annotations", 1, bbox=[9, 9, -3, 4]), "annotation 5: .*negative size: corners"),
    "outside": (
        changed("annotations", 2, bbox=[20, 0, 5, 5]),
        "annotation 6: .*outside its image of 20 x 10",
    ),
    "two images": (changed("images", 1, id=70), "images id 70 occurs twice"),
    "two categories": (changed("categories", 1, id=90), "categories id 90 occurs twice"),
    "text as id": (changed("images", 1, id="b"), "'b'; wanted a whole number"),
    "no width": (
        {**CONTENT, "images": [{"id": 70, "file_name": "a.png", "height": 2}]},
        r"images\[0\] lacks width",
    ),
    "no categories": ({key: CONTENT[key] for key in ("images", "annotations")}, "no list 'categories'"),
    "a list": ([1, 2], "no list 'images'"),
}


@pytest.mark.parametrize("fault", BAD)
def test_contradictions_name_file_and_annotation(tmp_path, fault):
    content, message = BAD[fault]
    write(tmp_path)
    (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"instances_train\.json.*{message}"):
        CocoFolder(tmp_path, "train")


def test_relative_boxes_are_recognised_over_the_whole_file(tmp_path):
    content = changed("annotations", 0, bbox=[0.5, 0.4, 0.2, 0.1])
    assert len(CocoFolder(write(tmp_path, content), "train")[0][1]["boxes"]) == 2  # one small box is no proof
    content["annotations"] = content["annotations"][:1]
    with pytest.raises(ValueError, match="annotation 0: bbox .*relative boxes"):
        CocoFolder(write(tmp_path, content), "train")


def test_a_cut_off_json_file_is_named(tmp_path):
    path = write(tmp_path) / "annotations" / "instances_train.json"
    path.write_text(path.read_text()[:50])
    with pytest.raises(ValueError, match=r"instances_train\.json is not JSON"):
        CocoFolder(tmp_path, "train")


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK", "I;16"])
def test_every_kind_of_pixel_becomes_rgb(tmp_path, mode):
    data = CocoFolder(write(tmp_path), "train")
    path = tmp_path / "train" / "a.png"
    picture = Image.new("L", (20, 10), 128)
    if mode == "I;16":
        picture = Image.fromarray(np.full((10, 20), 128 << 8, dtype=np.uint16))
    elif mode == "CMYK":
        path.unlink()
        path = path.with_suffix(".jpg")
        data._images[0]["file_name"] = path.name
    picture.convert(mode).save(path)
    image, _ = data.read(0)
    assert image.shape == (3, 10, 20) and image.dtype == torch.uint8
    values = set(image.unique().tolist())
    assert values <= {0, 255} if mode == "1" else values <= {127, 128, 129}


@pytest.mark.parametrize("stored", [(20, 10), (10, 20)])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_exif_turns_an_image_only_towards_its_annotations(tmp_path, stored, orientation):
    """Annotations speak of 20 x 10 px; an image is turned if that gives this size."""
    content = changed("images", 0, file_name="a.jpg")
    data = CocoFolder(write(tmp_path, content), "train")
    pixels = np.zeros((stored[1], stored[0], 3), dtype=np.uint8)
    pixels[: stored[1] // 2, : stored[0] // 2] = 255  # the top left quarter is white
    exif = Image.Exif()
    exif[0x0112] = orientation  # 3: upside down; 6: to be turned by 90 degrees clockwise
    Image.fromarray(pixels).save(tmp_path / "train" / "a.jpg", exif=exif, quality=95)
    if stored == (10, 20) and orientation != 6:
        with pytest.raises(ValueError, match=r"a\.jpg is 10 x 20 px, its annotations say 20 x 10"):
            data.read(0)
        return
    image, _ = data.read(0)
    bright = {(y, x) for y in (0, 1) for x in (0, 1) if image[0, 2 + 6 * y, 4 + 11 * x] > 128}
    turned = {((20, 10), 3): {(1, 1)}, ((10, 20), 6): {(0, 1)}}
    assert bright == turned.get((stored, orientation), {(0, 0)})


def test_images_that_cannot_be_used_are_named(tmp_path):
    data = CocoFolder(write(tmp_path), "train")
    path = tmp_path / "train" / "a.png"
    Image.new("RGB", (10, 10)).save(path)
    with pytest.raises(ValueError, match=r"a\.png is 10 x 10 px, its annotations say 20 x 10"):
        data[0]
    noise = np.random.default_rng(0).integers(0, 256, (10, 20, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(OSError, match=r"a\.png cannot be read as an image"):
        data[0]
    path.write_text("not an image")
    with pytest.raises(OSError, match=r"a\.png cannot be read as an image"):
        data[0]


def many(count):
    images = [{"id": i + 1, "file_name": f"{i}.png", "width": 4, "height": 4} for i in range(count)]
    return {"images": images, "annotations": [], "categories": [{"id": 1, "name": "thing"}]}


def test_without_val_a_seeded_share_of_train_serves(tmp_path):
    write(tmp_path, many(20))
    train, val = open_split(tmp_path, "train"), open_split(tmp_path, "val", transforms.evaluation(8, 8))
    ids = [{data[i][1]["image_id"] for i in range(len(data))} for data in (train, val)]
    assert (len(train), len(val)) == (17, 3) and ids[0] | ids[1] == set(range(1, 21))
    assert train.note == val.note and "3 of its 20 training images (seed 0)" in val.note
    assert {image["id"] for image in val.ground_truth()["images"]} == ids[1]
    assert val[0][0].shape == (3, 8, 8)
    others = [open_split(tmp_path, "val", seed=seed)._images for seed in range(5)]
    assert others[0] == val._images and any(images != others[0] for images in others)
    assert len(open_split(tmp_path, "val", share=0.5)) == 10
    write(tmp_path, many(5), split="val", folder="val")
    assert len(open_split(tmp_path, "train")) == 20 and open_split(tmp_path, "val").note == ""


def test_one_image_cannot_be_divided(tmp_path):
    write(tmp_path, many(1))
    with pytest.raises(ValueError, match=r"1 training image\(s\) cannot be divided"):
        open_split(tmp_path, "val")


REAL = [  # as the sets' README files say: images, boxes, crowds
    ("bccd", "train", 205, 2804, 0),
    ("bccd", "val", 87, 1137, 0),
    ("bccd", "test", 72, 945, 0),
    ("cards", "test", 67, 143, 0),
    ("coco_mini", "train", 78, 744, 9),
    ("coco_mini", "val", 47, 469, 7),
]


@pytest.mark.parametrize(("name", "split", "images", "boxes", "crowds"), REAL)
def test_real_sets_have_the_counts_of_their_readme(photos, name, split, images, boxes, crowds):
    data = open_split(photos(name), split, transforms.evaluation(128, 200))
    truth = data.ground_truth()
    assert (len(data), len(truth["annotations"]), data.note) == (images, boxes, "")
    assert sum(annotation["iscrowd"] for annotation in truth["annotations"]) == crowds
    assert len(data.names) == {"bccd": 3, "cards": 6, "coco_mini": 80}[name]
    seen = Counter()
    for index in range(0, len(data), 9):
        image, target = data[index]
        check_target(target, len(data.names))
        assert image.shape[1:] == target["size"] and min(target["size"]) <= 128
        seen.update(target["labels"].tolist())
    assert len(seen) > 1


def test_cards_lend_their_validation_images_from_train(photos):
    train, val = (open_split(photos("cards"), split) for split in ("train", "val"))
    assert (len(train), len(val)) == (252, 44) and "44 of its 296" in train.note
    assert sum(len(data.ground_truth()["annotations"]) for data in (train, val)) == 527
    assert train.names == ("nine", "ten", "jack", "queen", "king", "ace")


def test_coco_ids_have_gaps_and_labels_none(photos):
    data = CocoFolder(photos("coco_mini"), "val")
    assert data.category_ids[:12] == (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13) and data.category_ids[-1] == 90
    assert data.names[11] == "stop sign"
