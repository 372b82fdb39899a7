"""Pascal VOC files into COCO: boxes, ids, and what is refused."""

import pytest
from PIL import Image

from detr_mini.datasets import voc

BOX = "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>"


def written(path, *objects: tuple) -> tuple:
    """A VOC file and its photograph of 40 x 30 px."""
    found = "".join(f"<object><name>{name}</name>{BOX.format(*corners)}</object>" for name, *corners in objects)
    path.write_text(f"<annotation><size><width>999</width></size>{found}</annotation>")
    photo = path.with_suffix(".png")
    Image.new("L", (40, 30)).save(photo)
    return path, photo


def test_boxes_and_ids(tmp_path):
    first = written(tmp_path / "a.xml", ("cat", 1, 2, 11, 22), (" dog\n", "0.5", "1e1", 40, 30))
    second = written(tmp_path / "b.xml")
    third = written(tmp_path / "c.xml", ("dog", -5, -5, 10, 10), ("cat", 30, 20, 99, 99))
    contents = voc.to_coco({"train": [first, second], "val": [third]}, ("cat", "dog"))
    train, val = contents["train"], contents["val"]
    assert [(i["id"], i["file_name"], i["width"], i["height"]) for i in train["images"] + val["images"]] == [
        (1, "a.jpg", 40, 30),
        (2, "b.jpg", 40, 30),
        (3, "c.jpg", 40, 30),
    ]
    found = [(a["id"], a["image_id"], a["category_id"], a["bbox"]) for a in train["annotations"] + val["annotations"]]
    assert found == [
        (1, 1, 1, [1, 2, 10, 20]),
        (2, 1, 2, [0.5, 10, 39.5, 20]),
        (3, 3, 2, [0, 0, 10, 10]),
        (4, 3, 1, [30, 20, 10, 10]),
    ]
    assert all(a["area"] == a["bbox"][2] * a["bbox"][3] and a["iscrowd"] == 0 for a in train["annotations"])
    assert train["categories"] == val["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]


@pytest.mark.parametrize("corners", [(5, 5, 5, 9), (5, 5, 9, 5), (9, 9, 5, 5), (40, 0, 50, 9), (-9, 0, 0, 9)])
def test_boxes_without_area_are_dropped_and_take_no_id(corners, tmp_path):
    pair = written(tmp_path / "a.xml", ("cat", *corners), ("cat", 1, 1, 2, 2))
    (kept,) = voc.to_coco({"train": [pair]}, ("cat",))["train"]["annotations"]
    assert kept["id"] == 1 and kept["bbox"] == [1, 1, 1, 1]


def test_an_id_from_the_name(tmp_path):
    pairs = [written(tmp_path / "img_41.xml"), written(tmp_path / "img_7.xml")]
    content = voc.to_coco({"train": pairs}, (), lambda stem, number: 100 * number + int(stem[4:]))["train"]
    assert [image["id"] for image in content["images"]] == [141, 207]


LAUGHS = '<!DOCTYPE a [<!ENTITY l "ha"><!ENTITY m "&l;&l;&l;&l;">]><a><object><name>&m;</name></object></a>'


@pytest.mark.parametrize(
    "data, message",
    [
        (LAUGHS.encode(), "it has a DOCTYPE"),
        (LAUGHS.encode("utf-16"), "it has a DOCTYPE"),
        (b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>', "it has a DOCTYPE"),
        (b"<annotation><object>", "is not a VOC annotation"),
        (b"", "is not a VOC annotation"),
        (b'<?xml version="1.0" encoding="klingon"?><a/>', "is not a VOC annotation"),
        (b"\xff\xd8\xff\xe0 a photograph", "is not a VOC annotation"),
        (b"<a><object><bndbox/></object></a>", r"object 1 has name None.*\[None, None, None, None\]"),
        (b"<a><object><name>cat</name></object></a>", "object 1 has name 'cat'"),
        (f"<a><object><name>cat</name>{BOX.format(1, 2, 'nan', 9)}</object></a>".encode(), "'nan', '9'.*four numbers"),
        (f"<a><object><name>cat</name>{BOX.format(1, 2, 9, '1e999')}</object></a>".encode(), "four numbers"),
    ],
)
def test_files_that_are_refused(data, message, tmp_path):
    (tmp_path / "a.xml").write_bytes(data)
    with pytest.raises(ValueError, match=message) as error:
        voc.read(tmp_path / "a.xml")
    assert str(tmp_path / "a.xml") in str(error.value)


def test_a_class_of_another_set(tmp_path):
    pair = written(tmp_path / "a.xml", ("cow", 1, 1, 2, 2))
    with pytest.raises(ValueError, match="a.xml: class 'cow' is none of cat, dog"):
        voc.to_coco({"train": [pair]}, ("cat", "dog"))
