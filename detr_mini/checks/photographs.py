"""Checks of notebook 13: objects without a query, missing labels, a bad folder, what a new class head keeps."""

import copy
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from detr_mini.checks.verdict import Wrong, ask, compare, exercise
from detr_mini.datasets.coco import CocoFolder
from detr_mini.datasets.toybox import Toybox, ToyboxConfig

COUNTS, QUERIES = [4, 12, 10, 17, 0, 11], 10


@exercise(1, "Objects without a query teach nothing and cannot be found, so this number should be 0.")
def dropped(answer: Callable) -> None:
    """`answer(counts, queries)` is (images with more objects than queries, objects that get no query)."""
    got = ask(answer, list(COUNTS), QUERIES)
    if not isinstance(got, tuple | list) or len(got) != 2:
        raise Wrong("two numbers are wanted: (images, objects)")
    if any(part is None or part is ... for part in got):
        raise Wrong("two numbers are wanted: (images, objects)")
    over = [count for count in COUNTS if count > QUERIES]
    surplus = sum(count - QUERIES for count in over)
    mistakes = {
        "an image with exactly as many objects as queries loses nothing: use >, not >=": (len(over) + 1, surplus),
        "an image with fewer objects than queries cannot lend its queries to another image: leave it out of the sum": (
            len(over),
            sum(COUNTS) - QUERIES * len(COUNTS),
        ),
        "an image with fewer objects than queries cannot lend its queries to another: never add a negative number": (
            len(over),
            sum(count - QUERIES for count in COUNTS),
        ),
        "that counts all objects of the crowded images; ten of each still get a query": (len(over), sum(over)),
        "that counts the objects that do get a query; asked are the others": (
            len(over),
            sum(min(count, QUERIES) for count in COUNTS),
        ),
        "the order is (images, objects)": (surplus, len(over)),
        "the second number is one image's, the worst one's; asked is the sum over all images": (
            len(over),
            max(COUNTS) - QUERIES,
        ),
        "shares are not asked: give two counts": (len(over) / len(COUNTS), surplus / sum(COUNTS)),
    }
    compare(f"counts {COUNTS}, {QUERIES} queries", got, (len(over), surplus), mistakes)
    compare("counts [3, 2], 5 queries", ask(answer, [3, 2], 5), (0, 0), {})


@exercise(2, "So a measured AP of 0.55 on such labels may be the work of a nearly perfect detector.")
def ceiling(answer: float) -> None:
    """The AP of a detector that finds every bus, graded on a test set in which 40 % of the buses have no label."""
    if isinstance(answer, bool) or not isinstance(answer, int | float | np.number):
        raise Wrong("a number between 0 and 1 is wanted")
    if 1 < answer <= 100:
        raise Wrong("AP is a fraction here, between 0 and 1, not a percentage")
    mistakes = {
        "a perfect detector is not graded as perfect: what it finds beyond the labels counts as false": 1.0,
        "that is the share of the labels that are gone; which share of its detections finds a label?": 0.4,
        "that would be precision times recall. All labels that are left are found: the recall reaches 1": 0.36,
        "that is averaged between 1 and 0.6, as if precision began at 1 and fell; the buses without a label are spread "
        "over all scores": 0.8,
        "that is true over false detections, 0.6 / 0.4; precision is true over all": 1.5,
        "that is 1 / 1.4, as if wrong boxes had been added to a whole set; here labels are taken away": 1 / 1.4,
    }
    for message, value in mistakes.items():
        if abs(answer - value) < 0.006:
            raise Wrong(message)
    if abs(answer - 0.6) > 0.006:
        raise Wrong(f"{answer} it is not: of 100 detections, how many find a label, at any threshold?")


# Exercise 3

SCENES, SIZES = (48, 64, 80), (96, 64)  # sides of the scenes that are cut, and (width, height) px they are cut to


def bad_folder() -> tuple[dict, dict[str, tuple[int, int]], list]:
    """A COCO file with five kinds of faults, the true (height, width) px of its images, and the images (PIL).

    The images are toybox scenes of 96 px cut to 96 x 64. The annotations' boxes are corners; two files were merged
    without new annotation ids; width and height are exchanged; one annotation belongs to an image that is not there,
    and one has no area. One image has no object, and category ids have gaps: neither is a fault.
    """
    truth, images, sizes = _sound()
    content = copy.deepcopy(truth)
    for image in content["images"]:
        image["width"], image["height"] = image["height"], image["width"]
    annotations = content["annotations"]
    for annotation in annotations:
        x, y, w, h = annotation["bbox"]
        annotation["bbox"] = [x, y, x + w, y + h]
    half = len(annotations) // 2
    for number, annotation in enumerate(annotations[half:]):
        annotation["id"] = annotations[number % half]["id"]  # the second file counted from the same number
    lost = {**annotations[0], "id": 901, "image_id": 999}
    flat = {**annotations[1], "id": 902, "bbox": [30, 12, 30, 40]}
    content["annotations"] = [lost, *annotations[:half], flat, *annotations[half:]]
    return content, sizes, images


def _sound() -> tuple[dict, list, dict[str, tuple[int, int]]]:
    """The same file without faults: content, images (PIL), sizes (height, width) by file name."""
    width, height = SIZES
    scenes = Toybox(ToyboxConfig(size=width, objects=(3, 4)), 10, seed=13)
    used = scenes.category_ids
    listed, annotations, images, sizes = [], [], [], {}
    for number in range(4):
        scene = scenes.scene(number)
        pixels = Image.fromarray(scene.image).crop((0, 0, width, height))
        image_id, name = 10 * number + 7, f"photo_{number}.png"
        listed.append({"id": image_id, "file_name": name, "width": width, "height": height})
        images.append(pixels)
        sizes[name] = (height, width)
        if number == 2:
            images[-1] = Image.new("RGB", (width, height), (120, 130, 140))
            continue  # an image with nothing stays
        for box, label in zip(scene.boxes_xyxy_px.tolist(), scene.labels.tolist(), strict=True):
            x1, y1, x2, y2 = (round(side) for side in box)
            y2 = min(y2, height)
            if y2 - y1 < 8:
                continue
            annotation = {"id": 40 + len(annotations), "image_id": image_id, "category_id": used[label]}
            annotations.append({**annotation, "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0})
    labels = sorted({annotation["category_id"] for annotation in annotations})
    names = dict(zip(scenes.category_ids, scenes.names, strict=True))
    categories = [{"id": number, "name": names[number]} for number in labels]
    return {"images": listed, "annotations": annotations, "categories": categories}, images, sizes


def write_folder(root: Path, content: dict, images: list) -> Path:
    """Writes a COCO folder with a split "train", its images (PIL) in the order of the content's; returns its path."""
    (root / "annotations").mkdir(parents=True)
    (root / "train").mkdir()
    (root / "annotations" / "instances_train.json").write_text(json.dumps(content), encoding="utf-8")
    for number, image in enumerate(images):
        image.save(root / "train" / f"photo_{number}.png")
    return root


@exercise(3, "The folder opens, every image can be read, and its boxes lie where the objects are.")
def repair(answer: Callable) -> None:
    """`answer(content, sizes)` is the content without its faults; sizes is {file name: (height, width)}."""
    content, sizes, images = bad_folder()
    truth, _, _ = _sound()
    given = copy.deepcopy(content)
    got = ask(answer, given, dict(sizes))
    if not isinstance(got, dict) or set(got) < {"images", "annotations", "categories"}:
        raise Wrong("a dictionary with the lists images, annotations and categories is wanted")
    if given != content:
        raise Wrong("your function changed the content it was given; make a copy first (copy.deepcopy)")
    _images(got, truth)
    if [category["id"] for category in got["categories"]] != [category["id"] for category in truth["categories"]]:
        raise Wrong(
            "the categories have changed: ids with gaps are no fault, whoever reads the file makes labels of them"
        )
    _annotations(got["annotations"], truth["annotations"])
    with tempfile.TemporaryDirectory() as folder:
        try:
            opened = CocoFolder(write_folder(Path(folder) / "mine", got, images), "train")
            for index in range(len(opened)):
                opened.read(index)
        except (ValueError, OSError) as error:
            raise Wrong(f"the package refuses the result: {str(error).replace(folder, '')}") from None
        if opened.without_area:
            raise Wrong("a box without area is left; the package would skip it, and it should not be in the file")


def _images(got: dict, truth: dict) -> None:
    ids = [image["id"] for image in got["images"]]
    wanted = [image["id"] for image in truth["images"]]
    if ids == [number for number in wanted if number != 27]:
        raise Wrong("the image without annotation is gone: it is no fault, an image with nothing is worth learning")
    if ids == list(range(len(wanted))) or ids == list(range(1, len(wanted) + 1)):
        raise Wrong("the images have new ids: gaps are no fault, and the annotations point to the old ones")
    if sorted(ids) != wanted:
        raise Wrong(f"images {ids}, wanted {wanted}")
    for image in got["images"]:
        if (image["width"], image["height"]) == SIZES[::-1]:
            raise Wrong("width and height of the images are still exchanged: sizes holds (height, width)")
        if (image["width"], image["height"]) != SIZES:
            raise Wrong(
                f"image {image['id']} is {image['width']} x {image['height']} px, its file {SIZES[0]} x {SIZES[1]}"
            )


def _annotations(got: list[dict], truth: list[dict]) -> None:
    known = {annotation["image_id"] for annotation in truth}
    if any(annotation["image_id"] not in known for annotation in got):
        raise Wrong("an annotation belongs to an image that is not in the file (image_id 999): leave it out")
    ids = [annotation.get("id") for annotation in got]
    if len(set(ids)) < len(ids):
        raise Wrong("annotation ids still occur twice: give all of them new ones")
    boxes = [list(annotation["bbox"]) for annotation in got]
    corners = [[x, y, x + w, y + h] for x, y, w, h in (annotation["bbox"] for annotation in truth)]
    if sum(box in corners for box in boxes) > len(boxes) / 2:
        raise Wrong("the boxes are still corners: [x, y, width, height] is wanted")
    if any(box[2] == 0 or box[3] == 0 for box in boxes):
        raise Wrong("a box without area is left: x2 equals x1, there is nothing in it")
    if len(got) < len(truth):
        raise Wrong(
            f"{len(got)} annotations, wanted {len(truth)}: of two with the same id both are real, "
            "they come from two files; only one image is unknown and one box empty"
        )
    if len(got) > len(truth):
        raise Wrong(f"{len(got)} annotations, wanted {len(truth)}")
    places = [(annotation["image_id"], annotation["category_id"]) for annotation in truth]
    if sorted((a["image_id"], a["category_id"]) for a in got) != sorted(places):
        raise Wrong("categories or images of the annotations have changed; only boxes and ids were wrong")
    order = sorted(range(len(got)), key=lambda i: (got[i]["image_id"], got[i]["category_id"], boxes[i]))
    mine = np.array([boxes[i] for i in order], dtype=float)
    ways = {
        "these are centres and sizes; COCO wants left, top, width, height": lambda x, y, w, h: [
            x + w / 2,
            y + h / 2,
            w,
            h,
        ],
        "the boxes are relative to the image; COCO wants pixels": lambda x, y, w, h: [x / 96, y / 64, w / 96, h / 64],
        "width and height of the boxes are exchanged": lambda x, y, w, h: [x, y, h, w],
        "one pixel too much: corners lie between pixels, the width is x2 - x1": lambda x, y, w, h: [x, y, w + 1, h + 1],
        "width and height are negative: subtract the first corner from the second": lambda x, y, w, h: [x, y, -w, -h],
    }
    keys = [(annotation["image_id"], annotation["category_id"]) for annotation in truth]

    def arranged(way: Callable) -> np.ndarray:
        rows = [(*key, [float(v) for v in way(*a["bbox"])]) for key, a in zip(keys, truth, strict=True)]
        return np.array([row[2] for row in sorted(rows)])

    mistakes = {message: arranged(way) for message, way in ways.items()}
    compare("the boxes", mine, arranged(lambda *box: box), mistakes, tolerance=1e-6)


KEPT = {"class_embed.weight", "class_embed.bias", "query_embed.weight"}


@exercise(4, "Everything else, backbone, projection, transformer and box head, comes along as it is.")
def new_names(answer: set[str]) -> None:
    """The entries of the state dict that start anew when R50 for COCO becomes a model of 3 classes and 60 queries."""
    if isinstance(answer, str):
        raise Wrong("a set of names is wanted, several in braces")
    named = set(answer)
    if named == {name.rsplit(".", 1)[0] for name in KEPT}:
        raise Wrong("these are modules; the names in the state dict end in .weight or .bias")
    if "query_embed.bias" in named:
        raise Wrong("query_embed is a table (nn.Embedding): it has a weight and no bias")
    if named == KEPT - {"query_embed.weight"}:
        raise Wrong("the number of queries changes too, from 100 to 60: whose shape is (queries, 256)?")
    if named == KEPT - {"class_embed.bias"}:
        raise Wrong("the class head's bias has one number a class, so its shape changes as well")
    if any(name.startswith("bbox_embed") for name in named):
        raise Wrong("the box head gives four numbers whatever the classes: its shapes stay")
    if any(name.startswith("input_proj") for name in named):
        raise Wrong("the projection's shape depends on backbone and width, and neither has changed here")
    if any(name.startswith(("backbone", "transformer")) for name in named):
        raise Wrong("backbone and transformer know neither the number of classes nor that of queries")
    if named != KEPT:
        missing, extra = sorted(KEPT - named), sorted(named - KEPT)
        raise Wrong(f"missing: {', '.join(missing) or 'nothing'}; too many: {', '.join(extra) or 'nothing'}")
