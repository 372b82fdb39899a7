"""Checks of notebook 13: right answers in two styles pass, stubs are open, each misconception is named."""

import copy

import numpy as np
import pytest

from detr_mini.checks import photographs as checks
from detr_mini.checks.verdict import Wrong


def verdict(check, answer, capsys) -> str:
    check(answer)
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "check, stub",
    [
        (checks.dropped, lambda counts, queries: None),
        (checks.dropped, lambda counts, queries: ...),
        (checks.ceiling, ...),
        (checks.repair, lambda content, sizes: ...),
        (checks.new_names, ...),
    ],
)
def test_stubs_are_open(check, stub, capsys):
    assert "is open" in verdict(check, stub, capsys)


def refused(check, answers, said) -> None:
    """Each answer is refused with a message of its own that holds the words."""
    messages = []
    for answer, words in zip(answers, said, strict=True):
        with pytest.raises(Wrong) as error:
            check(answer)
        assert words in str(error.value), error.value
        messages.append(str(error.value))
    assert len(set(messages)) == len(messages)


# Exercise 1


def dropped_by_loop(counts, queries):
    images = objects = 0
    for count in counts:
        if count > queries:
            images += 1
            objects += count - queries
    return images, objects


def dropped_with_numpy(counts, queries):
    over = np.maximum(np.array(counts) - queries, 0)
    return (over > 0).sum(), over.sum()


@pytest.mark.parametrize("answer", [dropped_by_loop, dropped_with_numpy, lambda c, q: list(dropped_by_loop(c, q))])
def test_dropped_right(answer, capsys):
    assert verdict(checks.dropped, answer, capsys).startswith("exercise 1 is right")


def test_dropped_misconceptions():
    answers = [
        lambda counts, q: (sum(c >= q for c in counts), sum(max(c - q, 0) for c in counts)),
        lambda counts, q: (sum(c > q for c in counts), sum(counts) - q * len(counts)),
        lambda counts, q: (sum(c > q for c in counts), sum(c for c in counts if c > q)),
        lambda counts, q: (sum(c > q for c in counts), sum(min(c, q) for c in counts)),
        lambda counts, q: dropped_by_loop(counts, q)[::-1],
        lambda counts, q: (sum(c > q for c in counts), max(counts) - q),
        lambda counts, q: sum(c > q for c in counts),
    ]
    said = [">=", "lend its queries", "all objects of the crowded", "do get a query", "order", "worst", "two numbers"]
    refused(checks.dropped, answers, said)


# Exercise 2


@pytest.mark.parametrize("answer", [0.6, np.float64(1 - 0.4), 60 / 100])
def test_ceiling_right(answer, capsys):
    assert verdict(checks.ceiling, answer, capsys).startswith("exercise 2 is right")


def test_ceiling_misconceptions():
    answers = [1, 0.4, 0.6 * 0.6, (1 + 0.6) / 2, 60, 0.6 / 0.4, 1 / 1.4, "0.6", 0.5]
    said = ["not graded as perfect", "share of the labels that are gone", "precision times recall", "averaged"]
    said += ["percentage", "percentage", "as if wrong boxes", "a number between", "it is not"]
    distinct = [(a, s) for i, (a, s) in enumerate(zip(answers, said, strict=True)) if i != 5]
    refused(checks.ceiling, *zip(*distinct, strict=True))
    refused(checks.ceiling, answers[5:6], said[5:6])


# Exercise 3


def repaired(content, sizes, *, without=(), box=lambda x1, y1, x2, y2: [x1, y1, x2 - x1, y2 - y1]):
    """The right answer, with single steps left out."""
    fixed = copy.deepcopy(content)
    for image in fixed["images"]:
        if "sizes" not in without:
            image["height"], image["width"] = sizes[image["file_name"]]
    known, kept = {image["id"] for image in fixed["images"]}, []
    for annotation in fixed["annotations"]:
        x1, y1, x2, y2 = annotation["bbox"]
        unknown, flat = annotation["image_id"] not in known, x2 <= x1 or y2 <= y1
        if (unknown and "unknown" not in without) or (flat and "flat" not in without):
            continue
        annotation["bbox"] = box(x1, y1, x2, y2)
        kept.append(annotation)
    if "ids" not in without:
        kept = [annotation | {"id": number} for number, annotation in enumerate(kept, start=1)]
    fixed["annotations"] = kept
    return fixed


def repaired_in_one_expression(content, sizes):
    ids = {image["id"] for image in content["images"]}
    boxes = [(a, a["bbox"]) for a in content["annotations"] if a["image_id"] in ids]
    good = [(a, [b[0], b[1], b[2] - b[0], b[3] - b[1]]) for a, b in boxes if b[2] > b[0] and b[3] > b[1]]
    images = [i | {"width": sizes[i["file_name"]][1], "height": sizes[i["file_name"]][0]} for i in content["images"]]
    annotations = [a | {"id": number + 100, "bbox": box} for number, (a, box) in enumerate(good)]
    return content | {"images": images, "annotations": annotations[::-1]}


@pytest.mark.parametrize("answer", [repaired, repaired_in_one_expression])
def test_repair_right(answer, capsys):
    assert verdict(checks.repair, answer, capsys).startswith("exercise 3 is right")


def in_place(content, sizes):
    fixed = repaired(content, sizes)
    content.clear()
    content.update(fixed)
    return content


def without_duplicates(content, sizes):
    seen, kept = set(), []
    fixed = repaired(content, sizes, without=["ids"])
    for annotation in fixed["annotations"]:
        if annotation["id"] not in seen:
            kept.append(annotation)
        seen.add(annotation["id"])
    return fixed | {"annotations": kept}


def without_empty_images(content, sizes):
    fixed = repaired(content, sizes)
    used = {annotation["image_id"] for annotation in fixed["annotations"]}
    return fixed | {"images": [image for image in fixed["images"] if image["id"] in used]}


def new_image_ids(content, sizes):
    fixed = repaired(content, sizes)
    new = {image["id"]: number for number, image in enumerate(fixed["images"])}
    images = [image | {"id": new[image["id"]]} for image in fixed["images"]]
    annotations = [a | {"image_id": new[a["image_id"]]} for a in fixed["annotations"]]
    return fixed | {"images": images, "annotations": annotations}


def new_category_ids(content, sizes):
    fixed = repaired(content, sizes)
    new = {category["id"]: number for number, category in enumerate(fixed["categories"])}
    categories = [category | {"id": new[category["id"]]} for category in fixed["categories"]]
    annotations = [a | {"category_id": new[a["category_id"]]} for a in fixed["annotations"]]
    return fixed | {"categories": categories, "annotations": annotations}


def left_out(step):
    return lambda content, sizes: repaired(content, sizes, without=[step])


def with_boxes(box):
    return lambda content, sizes: repaired(content, sizes, box=box)


def sizes_as_width_height(content, sizes):
    return repaired(content, {name: size[::-1] for name, size in sizes.items()})


REPAIRS = {
    in_place: "changed the content it was given",
    without_duplicates: "both are real",
    without_empty_images: "image without annotation is gone",
    new_image_ids: "images have new ids",
    new_category_ids: "categories have changed",
    sizes_as_width_height: "still exchanged",
    left_out("unknown"): "image_id 999",
    left_out("flat"): "without area",
    left_out("ids"): "occur twice",
    with_boxes(lambda x1, y1, x2, y2: [x1, y1, x2, y2]): "still corners",
    with_boxes(lambda x1, y1, x2, y2: [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]): "centres and sizes",
    with_boxes(lambda x1, y1, x2, y2: [x1 / 96, y1 / 64, (x2 - x1) / 96, (y2 - y1) / 64]): "relative",
    with_boxes(lambda x1, y1, x2, y2: [x1, y1, y2 - y1, x2 - x1]): "exchanged",
    with_boxes(lambda x1, y1, x2, y2: [x1, y1, x2 - x1 + 1, y2 - y1 + 1]): "between pixels",
    with_boxes(lambda x1, y1, x2, y2: [x1, y1, x1 - x2, y1 - y2]): "negative",
}


def test_repair_misconceptions():
    refused(checks.repair, REPAIRS, REPAIRS.values())


def test_the_bad_folder_is_bad_in_five_ways_and_no_more():
    content, sizes, images = checks.bad_folder()
    assert {size for size in sizes.values()} == {(64, 96)} and all(image.size == (96, 64) for image in images)
    assert {(image["height"], image["width"]) for image in content["images"]} == {(96, 64)}
    ids = [annotation["id"] for annotation in content["annotations"]]
    assert len(set(ids)) < len(ids) and 8 <= len(ids) <= 16
    again, _, _ = checks.bad_folder()
    assert again == content


# Exercise 4


@pytest.mark.parametrize(
    "answer",
    [
        {"class_embed.weight", "class_embed.bias", "query_embed.weight"},
        ["query_embed.weight", "class_embed.bias", "class_embed.weight"],
    ],
)
def test_new_names_right(answer, capsys):
    assert verdict(checks.new_names, answer, capsys).startswith("exercise 4 is right")


def test_new_names_misconceptions():
    head = {"class_embed.weight", "class_embed.bias"}
    answers = [
        {"class_embed", "query_embed"},
        head | {"query_embed.weight", "query_embed.bias"},
        head,
        {"class_embed.weight", "query_embed.weight"},
        head | {"query_embed.weight", "bbox_embed.layers.2.weight"},
        head | {"query_embed.weight", "input_proj.weight"},
        head | {"query_embed.weight", "transformer.decoder.norm.weight"},
        "class_embed.weight",
        {"query_embed.weight"},
    ]
    said = ["these are modules", "no bias", "from 100 to 60", "bias has one number", "box head", "projection's shape"]
    refused(checks.new_names, answers, [*said, "know neither", "a set of names", "missing: class_embed"])
