"""Any folder of photographs with boxes in COCO format, checked when it is opened.

T true boxes · K classes · H, W pixels
"""

import json
import random
import re
import reprlib
from collections.abc import Callable
from pathlib import Path, PureWindowsPath

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional

from detr_mini.datasets.batches import Target
from detr_mini.datasets.transforms import Finish, read_rgb

LARGEST_SIDE_PX = 10**9
LEAST_SIDE_PX = 0.01  # a box with less of it inside the image counts as empty
LARGEST_ID = 2**53  # many programs read JSON's numbers as float64, which takes two ids beyond this for one
LARGEST_NUMBER = 1e18  # of px: beyond it, arithmetic with JSON's enormous integers overflows


class CocoFolder(Dataset):
    """One split of a COCO folder; `ds[i]` is (image uint8 (3, H, W), target) after `transform`.

    Labels are positions in the sorted `category_ids`, so ids may have gaps. Crowds and boxes without area
    (`without_area` says which) are no training targets; images without boxes stay. `subset` keeps those positions
    of the images. Raises FileNotFoundError where annotations or images are missing, ValueError where they
    contradict each other.
    """

    size_edges_px = (32.0, 96.0)  # COCO's small / medium / large, as the side of a square box

    def __init__(
        self,
        root: str | Path,
        split: str,
        transform: Callable | None = None,
        subset: list[int] | None = None,
        note: str = "",
    ):
        self.root, self.split, self.transform, self.note = (
            Path(root).expanduser(),
            split,
            transform or Finish(),
            note,
        )
        self.json_path = _annotation_file(self.root, split)
        content = _parse(self.json_path)
        categories = sorted(content["categories"], key=lambda category: category["id"])
        self.category_ids = tuple(category["id"] for category in categories)
        self.names = tuple(category["name"] for category in categories)
        boxes_of, self.without_area = _boxes_by_image(self.json_path, content)
        images = content["images"]
        self.folder = _image_folder(self.root, split, images)
        self._images = images if subset is None else [images[i] for i in subset]
        self._boxes = [boxes_of[image["id"]] for image in self._images]
        self._label = {category_id: label for label, category_id in enumerate(self.category_ids)}

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        return self.transform(*self.read(index))

    def crowded(self, queries: int) -> list[tuple[Path, int]]:
        """The images with more objects than `queries`, most first, each with its number of objects."""
        counts = [sum(not a.get("iscrowd", 0) for a in boxes) for boxes in self._boxes]
        order = sorted(range(len(counts)), key=lambda i: -counts[i])
        return [(self.file_name(i), counts[i]) for i in order if counts[i] > queries]

    def file_name(self, index: int) -> Path:
        """The path of an image."""
        return self.folder / self._images[index]["file_name"]

    def read(self, index: int) -> tuple[tv_tensors.Image, dict]:
        """Before the transform: the image, and a target with `tv_tensors.BoundingBoxes` (T, 4) xyxy in px."""
        image, path = self._images[index], self.file_name(index)
        height, width = size = (image["height"], image["width"])
        annotations = [a for a in self._boxes[index] if not a.get("iscrowd", 0)]
        corners = torch.tensor([_corners(a["bbox"], width, height) for a in annotations]).reshape(-1, 4)
        labels = torch.tensor([self._label[a["category_id"]] for a in annotations], dtype=torch.int64)
        boxes = tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=size)
        pixels = functional.to_image(read_rgb(path, (width, height)))
        return pixels, {"boxes": boxes, "labels": labels, "image_id": image["id"], "original_size": size}

    def ground_truth(self) -> dict:
        """Images, annotations (crowds included, original px, category ids) and categories for pycocotools."""
        images = [{key: image[key] for key in ("id", "file_name", "width", "height")} for image in self._images]
        annotations = [
            {
                "id": number,  # from 1: pycocotools takes a match with annotation 0 for no match
                "image_id": annotation["image_id"],
                "category_id": annotation["category_id"],
                "bbox": list(annotation["bbox"]),
                "area": annotation.get("area", annotation["bbox"][2] * annotation["bbox"][3]),
                "iscrowd": int(annotation.get("iscrowd", 0)),
            }
            for number, annotation in enumerate((a for boxes in self._boxes for a in boxes), start=1)
        ]
        categories = [{"id": i, "name": name} for i, name in zip(self.category_ids, self.names, strict=True)]
        return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def available_splits(root: str | Path) -> tuple[str, ...]:
    """The splits that a folder has annotations for, without COCO's "2017"."""
    found = sorted(Path(root).expanduser().glob("annotations/instances_*.json"))
    return tuple(dict.fromkeys(path.stem.removeprefix("instances_").removesuffix("2017") for path in found))


def open_split(
    root: str | Path, split: str, transform: Callable | None = None, share: float = 0.15, seed: int = 0
) -> CocoFolder:
    """A split; where the folder has no "val", a seeded `share` of train serves and "train" is the rest.

    The attribute `note` says so in a sentence, and is empty otherwise. Raises as `CocoFolder` does.
    """
    splits = available_splits(root)
    if split not in ("train", "val") or "val" in splits or "train" not in splits:
        return CocoFolder(root, split, transform)
    count = len(_parse(_annotation_file(Path(root).expanduser(), "train"))["images"])
    if count < 2:
        raise ValueError(f"{root}: no validation split, and {count} training image(s) cannot be divided")
    held_out = max(1, round(share * count))
    order = random.Random(seed).sample(range(count), count)
    subset = sorted(order[:held_out] if split == "val" else order[held_out:])
    note = (
        f"no validation split in {root}: {held_out} of its {count} training images (seed {seed}) serve, "
        f"{count - held_out} are left to train on"
    )
    return CocoFolder(root, "train", transform, subset, note)


def _annotation_file(root: Path, split: str) -> Path:
    tried = [root / "annotations" / f"instances_{split}{year}.json" for year in ("", "2017")]
    for path in tried:
        if path.is_file():
            return path
    there = ", ".join(available_splits(root)) or "none"
    held = reprlib.repr(sorted(path.name for path in root.iterdir())) if root.is_dir() else "no such folder"
    raise FileNotFoundError(
        f"no annotations for split {split!r}: tried {_listed(tried)}; splits there: {there}; in {root}: {held}"
    )


def _image_folder(root: Path, split: str, images: list[dict]) -> Path:
    tried = [root / split, root / f"{split}2017", root / "images", root / "images" / split]
    folder = next((folder for folder in tried if (folder / images[0]["file_name"]).is_file()), None)
    if folder is None:
        raise FileNotFoundError(f"image {images[0]['file_name']} of split {split!r} not found: tried {_listed(tried)}")
    missing = [image["file_name"] for image in images if not (folder / image["file_name"]).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder / missing[0]} is missing ({len(missing)} of {len(images)} images of split {split!r}): "
            "an incomplete download?"
        )
    return folder


def _listed(paths: list[Path]) -> str:
    return ", ".join(map(str, paths))


def _parse(path: Path) -> dict:
    """The file's content, of which images and categories, and their types, are sound; annotations come later."""
    try:
        content = json.loads(path.read_bytes(), object_pairs_hook=_object)  # bytes: UTF-16 and a BOM are understood
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}): an incomplete download?") from error
    wanted = {
        "images": ("id", "file_name", "width", "height"),
        "annotations": ("image_id", "category_id", "bbox"),
        "categories": ("id", "name"),
    }
    for part, keys in wanted.items():
        entries = content.get(part) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise ValueError(f"{path} has no list {part!r}: not a COCO detection file?")
        if not entries and part != "annotations":
            raise ValueError(f"{path} lists no {part}: an empty export?")
        for position, entry in enumerate(entries):
            lacking = [key for key in keys if not isinstance(entry, dict) or key not in entry]
            if lacking:
                raise ValueError(f"{path}: {part}[{position}] lacks {', '.join(lacking)}")
    for part in wanted:
        _check_ids(path, part, content[part])
    for image in content["images"]:
        _check_image(f"{path}: image {image['id']}", image)
    for category in content["categories"]:
        if not isinstance(category["name"], str) or not category["name"].strip():
            shown = reprlib.repr(category["name"])
            raise ValueError(f"{path}: category {category['id']} has the name {shown}; wanted a text")
    return content


def _object(pairs: list[tuple]) -> dict:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key {reprlib.repr(twice)} occurs twice in one object, and one of the two would be lost")
    return content


def _check_ids(path: Path, part: str, entries: list[dict]) -> None:
    seen = set()
    for position, entry in enumerate(entries):
        if part == "annotations" and "id" not in entry:
            continue  # nothing refers to it
        number = entry["id"]
        if type(number) is not int or abs(number) >= LARGEST_ID:  # True is an int too
            raise ValueError(
                f"{path}: {part}[{position}] has id {reprlib.repr(number)}; wanted a whole number below 2^53"
            )
        if number in seen:
            raise ValueError(f"{path}: {part} id {number} occurs twice: two files merged without new ids?")
        seen.add(number)


def _check_image(where: str, image: dict) -> None:
    for key in ("width", "height"):
        if type(image[key]) is not int or not 0 < image[key] < LARGEST_SIDE_PX:
            raise ValueError(f"{where} has {key} {reprlib.repr(image[key])}; wanted a whole number of px above 0")
    name = image["file_name"]
    if not isinstance(name, str) or not Path(name).name or not name.isprintable() or len(name) > 1000:
        raise ValueError(f"{where} has file_name {reprlib.repr(name)}; wanted a path below the folder of images")
    if ".." in re.split(r"[/\\]", name) or name.startswith(("/", "\\")) or PureWindowsPath(name).drive:
        raise ValueError(
            f"{where} has file_name {name!r}, which leads out of the folder: "
            "made on another machine? Wanted a path below the folder of images"
        )


def _boxes_by_image(path: Path, content: dict) -> tuple[dict[int, list[dict]], list[str]]:
    """The annotations of each image, and the names of those without area; ValueError for any that makes no sense."""
    images = {image["id"]: image for image in content["images"]}
    categories = {category["id"] for category in content["categories"]}
    boxes_of = {image_id: [] for image_id in images}
    without_area, inspected, largest = [], None, 0.0
    for position, annotation in enumerate(content["annotations"]):
        where = f"{path}: annotation {annotation.get('id', f'at position {position}')}"
        for key, known, kind in (("image_id", images, "images"), ("category_id", categories, "categories")):
            if type(annotation[key]) is not int or annotation[key] not in known:
                raise ValueError(f"{where}: {key} {reprlib.repr(annotation[key])} is not among the {kind}")
        image, bbox = images[annotation["image_id"]], annotation["bbox"]
        _check_rest(where, annotation)
        if _has_area(where, bbox, image["width"], image["height"]):
            boxes_of[annotation["image_id"]].append(annotation)
            inspected, largest = inspected or (where, bbox), max(largest, *bbox)
        else:
            without_area.append(where)
    if inspected and largest <= 1:  # over the whole file: a single box may well lie in the first pixel
        raise ValueError(
            f"{inspected[0]}: bbox {inspected[1]}, and no number of any bbox in the file exceeds 1: "
            "relative boxes? COCO wants pixels"
        )
    return boxes_of, without_area


def _check_rest(where: str, annotation: dict) -> None:
    if not _is_number(annotation.get("area", 0)) or annotation.get("area", 0) < 0:
        raise ValueError(f"{where}: area {reprlib.repr(annotation['area'])} is not a number of px from 0 on")
    if annotation.get("iscrowd", 0) not in (0, 1):
        raise ValueError(f"{where}: iscrowd {reprlib.repr(annotation['iscrowd'])} is neither 0 nor 1")


def _is_number(value: object) -> bool:
    """Whether it is a finite number; True and False are none, nor is an integer that no float can hold."""
    return type(value) in (int, float) and abs(value) < LARGEST_NUMBER


def _has_area(where: str, bbox: list[float], width: int, height: int) -> bool:
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(_is_number, bbox)):
        raise ValueError(f"{where}: bbox {reprlib.repr(bbox)} is not four finite numbers [x, y, width, height]")
    x, y, w, h = bbox
    if w < 0 or h < 0:
        raise ValueError(f"{where}: bbox {bbox} has a negative size: corners instead of [x, y, width, height]?")
    if w == 0 or h == 0:
        return False
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        raise ValueError(f"{where}: bbox {bbox} lies outside its image of {width} x {height} px")
    left, top, right, bottom = _corners(bbox, width, height)
    return min(right - left, bottom - top) >= LEAST_SIDE_PX


def _corners(bbox: list[float], width: int, height: int) -> tuple[float, float, float, float]:
    x, y, w, h = bbox
    return max(0.0, x), max(0.0, y), min(float(width), x + w), min(float(height), y + h)
