"""Toybox: scenes of twenty sprites, drawn from a seed, with the exact boxes and masks of what is visible."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from PIL import __version__ as pillow_version
from pycocotools.mask import encode as encode_mask
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from detr_mini.datasets.sprites import CATEGORY_IDS, COCO_IDS, MIN_SPRITE, NAMES, SEEN, SpriteCache, recolour

# T objects · H, W image in px · h, w sprite in px
MODES = ("mixed", "crowd", "grid")
SPLITS = ("train", "val", "test")
MIN_AREA, MIN_SIDE = 12, 3  # px that stay visible of every object
SIZE_STEP, ANGLE_STEP = 1.05, 4  # ratio and degrees between cached sprites
RESTARTS, TRIES = 16, 24
_cache = SpriteCache()  # of this process


@dataclass(frozen=True)
class ToyboxConfig:
    """What scenes look like; raises ValueError for a value outside its range."""

    size: int = 64  # px, side of the square image, 32..2048
    objects: tuple[int, int] = (1, 4)  # fewest and most objects in a scene, both included
    scale: tuple[float, float] = (0.15, 0.75)  # sprite side / image side, log-uniform, 0..1, from 8 px up
    max_overlap: float = 0.5  # 0..0.95, most of an object's area inside the frame that others may cover
    max_cut: float = 0.3  # 0..0.9, most of an object's area that may lie outside the frame
    rotation_degrees: float = 20.0  # 0..180, angle uniform in +-this, in steps of 4 degrees
    hue_degrees: float = 25.0  # 0..180, hue turned by uniform +-this
    light: float = 0.35  # 0..0.9, brightness times 1 +- this
    tint: float = 0.15  # 0..0.9, each colour channel times 1 +- this
    flip: bool = True  # mirror half of the objects
    classes: tuple[str, ...] = NAMES  # drawn classes; labels stay positions in NAMES
    mode: str = "mixed"  # mixed; crowd: copies of one class; grid: copies of one class, at most one a cell
    grid: int = 10  # cells along a side in mode grid, where the cell decides the scale

    def __post_init__(self) -> None:
        for name in ("objects", "scale", "classes"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # a JSON file gives lists
        if not 32 <= self.size <= 2048:
            raise ValueError(f"toybox size {self.size} px outside 32..2048")
        if len(self.objects) != 2 or not 0 <= self.objects[0] <= self.objects[1]:
            raise ValueError(f"toybox objects {self.objects}: want (fewest, most) with 0 <= fewest <= most")
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"toybox scale {self.scale}: want 0 < low <= high <= 1, fractions of the image")
        limits = {"max_overlap": 0.95, "max_cut": 0.9, "light": 0.9, "tint": 0.9}
        for name, limit in (limits | {"rotation_degrees": 180, "hue_degrees": 180}).items():
            if not 0 <= getattr(self, name) <= limit:
                raise ValueError(f"toybox {name} {getattr(self, name)} outside 0..{limit}")
        unknown = [name for name in self.classes if name not in COCO_IDS]
        if unknown or not self.classes:
            raise ValueError(f"toybox classes {unknown or '()'}: want one or more of {', '.join(NAMES)}")
        if self.mode not in MODES:
            raise ValueError(f"toybox mode {self.mode!r}: want one of {', '.join(MODES)}")
        if self.mode == "grid" and (self.grid < 1 or self.cell_side < MIN_SPRITE):
            raise ValueError(f"toybox grid {self.grid} at {self.size} px: cells too small, or rotate less")
        if self.mode == "grid" and self.objects[1] > self.grid**2:
            raise ValueError(f"toybox objects {self.objects}: the grid has only {self.grid**2} cells")

    @property
    def cell_side(self) -> float:
        """Side in px of the largest sprite that stays in a grid cell at any angle."""
        turn = math.radians(min(45, self.rotation_degrees))
        return self.size / self.grid / (math.cos(turn) + math.sin(turn))


@dataclass(frozen=True)
class Scene:
    """A drawn scene and the truth about what is visible in it."""

    image: np.ndarray  # (H, W, 3) uint8
    boxes_xyxy_px: np.ndarray  # (T, 4) float32, tight around the mask; x2 = last visible column + 1
    labels: np.ndarray  # (T,) int64, positions in NAMES
    masks: np.ndarray  # (T, H, W) bool, visible pixels; no two masks share one


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    """Sum smoothed noise of falling weight from coarse to fine around a random colour, (3, H, W) uint8."""
    strength, cells = rng.uniform(6, 30), 3
    pixels = np.broadcast_to(rng.integers(40, 216, 3), (cells, cells, 3))
    while True:
        noise = rng.normal(0, strength, pixels.shape) + rng.normal(0, strength, (cells, cells, 1))
        image = Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))
        if cells * 4 > size:
            return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC)).transpose(2, 0, 1).copy()
        cells, strength = cells * 2, strength * 0.6
        pixels = np.asarray(image.resize((cells, cells), Image.Resampling.BICUBIC))


class _Canvas:
    """A scene while it is drawn: later objects lie on top of earlier ones."""

    def __init__(self, config: ToyboxConfig) -> None:
        self.config = config
        self.owner = np.full((config.size, config.size), -1, np.int16)  # object seen at each pixel
        self.framed: list[int] = []  # area of each object inside the frame, px
        self.seen: list[int] = []  # of that, what is not covered, px
        self.drawn: list[tuple] = []  # sprite and position, to be painted once all have their place

    def add(self, sprite: np.ndarray, label: int, x: int, y: int) -> bool:
        """Put the sprite's corner at (x, y) px unless a limit of the configuration forbids it."""
        size, opaque = self.config.size, sprite[3] > SEEN
        crop = np.s_[max(0, -y) : max(0, size - y), max(0, -x) : max(0, size - x)]
        mask = opaque[crop]
        top, left = max(0, y), max(0, x)
        place = np.s_[top : top + mask.shape[0], left : left + mask.shape[1]]
        area = int(np.count_nonzero(mask))
        if area < (1 - self.config.max_cut) * np.count_nonzero(opaque) or not _big_enough(mask, area):
            return False
        owner = self.owner[place]
        hidden = np.bincount(owner[mask] + 1, minlength=len(self.seen) + 1)[1:]
        for other in np.flatnonzero(hidden):
            left_over = self.seen[other] - hidden[other]
            if left_over < (1 - self.config.max_overlap) * self.framed[other]:
                return False
            whole = self.owner == other
            whole[place] &= ~mask
            if not _big_enough(whole, left_over):
                return False
        owner[mask] = len(self.seen)
        self.seen = [seen - int(loss) for seen, loss in zip(self.seen, hidden, strict=True)] + [area]
        self.framed.append(area)
        self.drawn.append((sprite[:, *crop], label, place))
        return True

    def paint(self, rng: np.random.Generator) -> Scene:
        """Blend background and sprites, and measure the boxes on the masks."""
        config, image = self.config, _background(rng, self.config.size)
        for rgba, _, place in self.drawn:
            below, alpha = image[:, *place], rgba[3].astype(np.uint16)
            hue, light, *tint = rng.uniform(-1, 1, 5) * (config.hue_degrees, config.light, *[config.tint] * 3)
            rgb = recolour(rgba[:3], hue, (1 + light) * (1 + np.array(tint)))
            mixed = rgb * alpha + below * (255 - alpha) + np.uint16(128)
            below[:] = (mixed + (mixed >> 8)) >> 8  # exact division by 255
        masks = self.owner == np.arange(len(self.drawn))[:, None, None]
        return Scene(
            np.ascontiguousarray(image.transpose(1, 2, 0)),  # (3, H, W) -> (H, W, 3)
            _tight_boxes(masks),
            np.array([label for _, label, _ in self.drawn], np.int64),
            masks,
        )


def _big_enough(mask: np.ndarray, area: int) -> bool:
    if area < MIN_AREA:
        return False
    x1, y1, x2, y2 = _tight_boxes(mask[None])[0]
    return bool(x2 - x1 >= MIN_SIDE and y2 - y1 >= MIN_SIDE)


def _tight_boxes(masks: np.ndarray) -> np.ndarray:
    """Return boxes_xyxy_px (T, 4) float32 of non-empty masks (T, H, W)."""
    rows, columns = masks.any(2), masks.any(1)  # (T, H), (T, W)
    first = (columns.argmax(1), rows.argmax(1))
    last = (columns.shape[1] - columns[:, ::-1].argmax(1), rows.shape[1] - rows[:, ::-1].argmax(1))
    return np.stack(first + last, axis=1).astype(np.float32)


def _pick(rng: np.random.Generator, config: ToyboxConfig, label: int, side: float) -> np.ndarray:
    """Return a sprite (4, h, w) of at most the side in px, turned, mirrored or not."""
    steps = int(config.rotation_degrees // ANGLE_STEP)
    angle = ANGLE_STEP * int(rng.integers(-steps, steps + 1))
    snapped = SIZE_STEP ** math.floor(math.log(side) / math.log(SIZE_STEP))
    sprite = _cache.get(label, max(MIN_SPRITE, int(snapped)), angle)
    return sprite[:, :, ::-1] if config.flip and rng.random() < 0.5 else sprite


def _scatter(rng: np.random.Generator, config: ToyboxConfig, labels: list[int], shrink: float) -> _Canvas | None:
    """Find a random place for every object, or return None where one has none after TRIES."""
    canvas, (low, high) = _Canvas(config), config.scale
    if config.mode == "crowd":  # together about as large as the image, whatever their number
        high = min(high, 1.1 / math.sqrt(max(1, len(labels))))
        low = min(high, max(low, high / 1.5))
    for label in labels:
        side = config.size * math.exp(rng.uniform(math.log(low), math.log(high)))
        sprite = _pick(rng, config, label, shrink * side)
        extent = np.array(sprite.shape[:0:-1])  # (width, height) px
        spare, reach = config.size - extent, np.ceil(config.max_cut * extent).astype(int)
        for _ in range(TRIES):
            x, y = rng.integers(np.minimum(-reach, spare), np.maximum(0, spare + reach), endpoint=True)
            if canvas.add(sprite, label, int(x), int(y)):
                break
        else:
            return None
    return canvas


def _fill_cells(rng: np.random.Generator, config: ToyboxConfig, labels: list[int]) -> _Canvas:
    canvas, cells = _Canvas(config), rng.permutation(config.grid**2)
    for label, index in zip(labels, cells, strict=False):
        sprite = _pick(rng, config, label, config.cell_side)
        centre = (np.array([index % config.grid, index // config.grid]) + 0.5) * config.size / config.grid
        x, y = np.floor(centre - np.array(sprite.shape[:0:-1]) / 2).astype(int)
        if not canvas.add(sprite, label, int(x), int(y)):
            raise RuntimeError(f"a {NAMES[label]} does not fit its grid cell: take fewer cells or more pixels")
    return canvas


def scene(index: int, config: ToyboxConfig, seed: int) -> Scene:
    """Draw scene number `index` of the stream `seed`: the same bytes whenever and wherever it is drawn.

    Raises ValueError where the objects do not fit the image. A version of Pillow is part of "the same".
    """
    if index < 0 or seed < 0:
        raise ValueError(f"toybox scene {index} of seed {seed}: both count from 0")
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, index])))
    count = int(rng.integers(*config.objects, endpoint=True))
    kinds = rng.choice([NAMES.index(name) for name in config.classes], count if config.mode == "mixed" else 1)
    labels = np.resize(kinds, count).tolist()
    if config.mode == "grid":
        return _fill_cells(rng, config, labels).paint(rng)
    for attempt in range(RESTARTS):
        canvas = _scatter(rng, config, labels, shrink=0.9**attempt)
        if canvas is not None:
            return canvas.paint(rng)
    raise ValueError(
        f"toybox scene {index}: {count} objects found no place at {config.size} px with max_overlap "
        f"{config.max_overlap}: fewer objects, a smaller scale or more pixels"
    )


def split_seed(seed: int, split: str) -> int:
    """Return the seed of a split's own stream, so that train, val and test share no scene."""
    if split not in SPLITS or seed < 0:
        raise ValueError(f"toybox split {split!r}, seed {seed}: want one of {', '.join(SPLITS)} and 0 or more")
    return int(np.random.SeedSequence([seed, SPLITS.index(split)]).generate_state(1, np.uint64)[0])


class Toybox(Dataset):
    """Scenes 0..length-1 of a split, drawn when asked for; length None is an endless stream of fresh scenes.

    `ds[i]` is (image (3, H, W) uint8, target) with image_id i + 1. Raises ValueError for an unknown split.
    """

    names, category_ids = NAMES, CATEGORY_IDS

    def __init__(
        self,
        config: ToyboxConfig = ToyboxConfig(),  # noqa: B008, frozen
        length: int | None = 1000,
        seed: int = 0,
        split: str = "train",
    ) -> None:
        if length is not None and length < 0:
            raise ValueError(f"toybox length {length}: want 0 or more, or None for an endless stream")
        self.config, self.length, self.seed, self.split = config, length, seed, split
        self._stream = split_seed(seed, split)
        self.size_edges_px = (0.2 * config.size, 0.4 * config.size)

    def __len__(self) -> int:
        if self.length is None:
            raise TypeError("an endless Toybox has no length: give length=N, or count the samples yourself")
        return self.length

    def scene(self, index: int) -> Scene:
        """Return scene `index` with its masks; raises IndexError outside 0..length-1."""
        if index < 0 or (self.length is not None and index >= self.length):
            raise IndexError(f"toybox scene {index} outside 0..length-1 with length {self.length}")
        return scene(index, self.config, self._stream)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, dict]:
        drawn, size = self.scene(index), self.config.size
        x1, y1, x2, y2 = torch.from_numpy(drawn.boxes_xyxy_px).unbind(1)  # each (T,)
        boxes_cxcywh = torch.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], dim=1) / size
        target = {
            "boxes": boxes_cxcywh,
            "labels": torch.from_numpy(drawn.labels),
            "image_id": index + 1,
            "size": (size, size),
            "original_size": (size, size),
        }
        return torch.from_numpy(drawn.image).permute(2, 0, 1).contiguous(), target  # (H, W, 3) -> (3, H, W)

    def ground_truth(self) -> dict:
        """Return the split in COCO's format for pycocotools: boxes xywh in px, area = visible mask pixels."""
        coco = _empty_coco(self)
        for index in range(len(self)):
            _annotate(coco, index + 1, self.scene(index))
        return coco


def _empty_coco(toybox: Toybox) -> dict:
    categories = [{"id": i, "name": n} for i, n in zip(CATEGORY_IDS, NAMES, strict=True)]
    info = {
        "description": "toybox",
        "seed": toybox.seed,
        "split": toybox.split,
        "config": asdict(toybox.config),
    }
    return {"info": info, "images": [], "annotations": [], "categories": categories}


def _annotate(coco: dict, image_id: int, drawn: Scene, with_masks: bool = False) -> None:
    """Append an image and its annotations; ids count from 1, since pycocotools takes 0 for "no match"."""
    height, width = drawn.image.shape[:2]
    file_name = f"{image_id:06d}.png"
    coco["images"].append({"id": image_id, "file_name": file_name, "height": height, "width": width})
    for box, label, mask in zip(drawn.boxes_xyxy_px.tolist(), drawn.labels, drawn.masks, strict=True):
        annotation = {
            "id": len(coco["annotations"]) + 1,
            "image_id": image_id,
            "category_id": CATEGORY_IDS[label],
            "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
            "area": int(mask.sum()),
            "iscrowd": 0,
        }
        if with_masks:
            rle = encode_mask(np.asfortranarray(mask, dtype=np.uint8))
            annotation["segmentation"] = {"size": rle["size"], "counts": rle["counts"].decode()}
        coco["annotations"].append(annotation)


def _card(counts: dict[str, int], config: ToyboxConfig, seed: int) -> str:
    """Return the folder's README: what it is, and the command that draws the same bytes again."""
    numbers = " ".join(f"--{split} {count}" for split, count in counts.items())
    return f"""# Toybox scenes, {config.size} px

Drawn by detr-mini from seed {seed}, with Pillow {pillow_version} and NumPy {np.__version__}: {counts} images.
Boxes, areas and masks are of what is visible. Sprites: Fluent Emoji, copyright Microsoft, MIT licence.

    detr-mini data toybox --out DIR {numbers} --size {config.size} --seed {seed}

Settings other than the defaults of that command, if any, are in the `info` of the annotation files.
"""


def write_coco(
    folder: str | Path, counts: dict[str, int], config: ToyboxConfig, seed: int, progress: bool = True
) -> None:
    """Write {split: images} as a COCO folder with masks; raises ValueError for a folder that is not empty."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not an empty folder: toybox overwrites nothing, name a new one")
    streams = {split: Toybox(config, count, seed, split) for split, count in counts.items()}
    (folder / "annotations").mkdir(parents=True)
    for split, toybox in streams.items():
        (folder / split).mkdir()
        coco = _empty_coco(toybox)
        for index in tqdm(range(len(toybox)), desc=f"toybox {split}", disable=not progress):
            drawn = toybox.scene(index)
            _annotate(coco, index + 1, drawn, with_masks=True)
            Image.fromarray(drawn.image).save(folder / split / coco["images"][-1]["file_name"])
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(coco), encoding="utf-8")
    (folder / "README.md").write_text(_card(counts, config, seed), encoding="utf-8")
