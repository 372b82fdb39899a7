"""Pascal VOC annotations, one XML file a photograph as labelImg writes them, into COCO's format."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.etree import ElementTree
from xml.parsers import expat

from PIL import Image

CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read(path: Path) -> list[tuple[str, tuple[float, float, float, float]]]:
    """Class name and corners [px] of each object in a VOC file, as written there.

    Raises ValueError naming file and object where it is no XML, declares entities, or lacks a name or a corner.
    """
    try:
        root = _parse(path.read_bytes())
    except (expat.ExpatError, ElementTree.ParseError, LookupError, ValueError) as error:
        raise ValueError(f"{path} is not a VOC annotation ({error}): cut short, or another file?") from error
    objects = []
    for number, element in enumerate(root.iter("object"), start=1):
        name, corners = element.findtext("name"), [element.findtext(f"bndbox/{key}") for key in CORNERS]
        try:
            objects.append((name.strip(), tuple(map(float, corners))))
            if not all(map(math.isfinite, objects[-1][1])):
                raise ValueError("NaN or infinite")
        except (AttributeError, TypeError, ValueError) as error:
            found = f"name {name!r}, {', '.join(CORNERS)} {corners}"
            raise ValueError(f"{path}: object {number} has {found}; wanted a name and four numbers [px]") from error
    return objects


def _parse(data: bytes) -> ElementTree.Element:
    """The root element; a DOCTYPE is refused, for the entities it declares may grow to any size."""

    def refuse(*_):
        raise ValueError("it has a DOCTYPE, which may declare entities without end, and no VOC file needs one")

    guard = expat.ParserCreate()
    guard.StartDoctypeDeclHandler = refuse
    guard.Parse(data, True)
    return ElementTree.fromstring(data)


def to_coco(
    splits: dict[str, list[tuple[Path, Path]]],
    names: Sequence[str],
    image_id: Callable[[str, int], int] = lambda stem, number: number,
    info: dict | None = None,
) -> dict[str, dict]:
    """COCO content of each split, from its (VOC file, photograph) pairs.

    labelImg's corners are pixel edges, so width is xmax - xmin, without "+1". Boxes are clipped to the photograph;
    those without area are dropped. Category ids follow `names` from 1; annotation ids, and the number that `image_id`
    gets beside the file's stem, run from 1 through all splits. Raises ValueError as `read`, and for other names.
    """
    category_of = {name: number for number, name in enumerate(names, start=1)}
    categories = [{"id": number, "name": name} for name, number in category_of.items()]
    contents, image_count, box_count = {}, 0, 0
    for split, pairs in splits.items():
        images, annotations = [], []
        for xml, photo in pairs:
            image_count += 1
            with Image.open(photo) as file:
                width, height = file.size
            entry = {"id": image_id(xml.stem, image_count), "file_name": f"{xml.stem}.jpg"}
            images.append(entry | {"width": width, "height": height})
            for name, corners in read(xml):
                if name not in category_of:
                    raise ValueError(f"{xml}: class {name!r} is none of {', '.join(names)}")
                if not (bbox := clipped(corners, width, height)):
                    continue
                box_count += 1
                keys = {"id": box_count, "image_id": entry["id"], "category_id": category_of[name]}
                annotations.append(keys | {"bbox": bbox, "area": bbox[2] * bbox[3], "iscrowd": 0, "segmentation": []})
        contents[split] = {
            "info": info or {},
            "images": images,
            "annotations": annotations,
            "categories": categories,
        }
    return contents


def clipped(corners: Sequence[float], width: int, height: int) -> list[float]:
    """[x, y, width, height] px of the part inside the image, empty where that has no area."""
    left, top = max(0.0, corners[0]), max(0.0, corners[1])
    right, bottom = min(float(width), corners[2]), min(float(height), corners[3])
    return [left, top, right - left, bottom - top] if right > left and bottom > top else []
