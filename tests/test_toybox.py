import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from torch.utils.data import DataLoader

from detr_mini.datasets import sprites, toybox
from detr_mini.datasets.toybox import CATEGORY_IDS, NAMES, Toybox, ToyboxConfig, scene, split_seed, write_coco

MIXED = ToyboxConfig()
GIRAFFES = ToyboxConfig(size=128, objects=(24, 24), mode="crowd", classes=("giraffe",))
GRID = ToyboxConfig(size=128, objects=(20, 60), mode="grid")
CONFIGS = {
    "mixed": MIXED,
    "large": ToyboxConfig(size=128, objects=(0, 8), rotation_degrees=180),
    "small": ToyboxConfig(size=32, objects=(2, 5)),
    "crowd": GIRAFFES,
    "grid": GRID,
}


def digest(drawn):
    parts = (drawn.image, drawn.boxes_xyxy_px, drawn.labels, drawn.masks)
    return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()


def sides(drawn):
    return drawn.boxes_xyxy_px[:, 2:] - drawn.boxes_xyxy_px[:, :2]


@pytest.fixture(scope="module")
def scenes():
    return {name: [scene(i, config, seed=3) for i in range(60)] for name, config in CONFIGS.items()}


@pytest.mark.parametrize("name", CONFIGS)
def test_boxes_masks_and_labels_agree(scenes, name):
    config = CONFIGS[name]
    for drawn in scenes[name]:
        count = len(drawn.labels)
        assert config.objects[0] <= count <= config.objects[1]
        assert drawn.image.shape == (config.size, config.size, 3) and drawn.image.dtype == np.uint8
        assert drawn.masks.shape == (count, config.size, config.size) and drawn.masks.dtype == bool
        assert drawn.boxes_xyxy_px.shape == (count, 4) and drawn.boxes_xyxy_px.dtype == np.float32
        assert {NAMES[label] for label in drawn.labels} <= set(config.classes)
        assert drawn.masks.sum(0).max(initial=0) <= 1, "two objects claim one pixel"
        for box, mask in zip(drawn.boxes_xyxy_px, drawn.masks, strict=True):
            ys, xs = np.nonzero(mask)
            assert box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            assert mask.sum() >= toybox.MIN_AREA and (box[2:] - box[:2]).min() >= toybox.MIN_SIDE


def test_all_that_is_drawn_is_annotated():
    plain = replace(MIXED, hue_degrees=0, light=0, tint=0, objects=(1, 3))
    for index in range(30):
        rng = np.random.default_rng(index)
        canvas = toybox._scatter(rng, plain, [index % 20, 3], 1.0)
        state = rng.bit_generator.state
        drawn = canvas.paint(rng)
        rng.bit_generator.state = state
        empty = toybox._background(rng, plain.size).transpose(1, 2, 0)
        difference = np.abs(drawn.image.astype(int) - empty).max(-1)
        changed = difference > 24  # of 255: fainter traces of a soft edge may lie further out
        rim = np.pad(drawn.masks.any(0), 1)  # the soft edge itself blends into the background within 1 px
        near = np.lib.stride_tricks.sliding_window_view(rim, (3, 3)).any((2, 3))
        assert not (changed & ~near).any()
        assert (difference > 0)[drawn.masks.any(0)].mean() > 0.95


def test_same_scene_cold_warm_in_any_order_and_process(monkeypatch):
    indices = [5, 0, 17]
    first = [digest(scene(i, MIXED, 9)) for i in indices]
    assert len(set(first)) == len(indices)
    for cold in (False, True):
        if cold:
            monkeypatch.setattr(toybox, "_cache", sprites.SpriteCache())
        assert [digest(scene(i, MIXED, 9)) for i in reversed(indices)] == first[::-1]
    monkeypatch.setattr(sprites, "CACHE_BYTES", 3000)  # emptied at nearly every sprite
    assert [digest(scene(i, MIXED, 9)) for i in indices] == first
    assert toybox._cache.bytes == sum(sprite.nbytes for sprite in toybox._cache.sprites.values())
    assert digest(scene(5, MIXED, 10)) != first[0]
    code = f"from tests.test_toybox import *; print(*(digest(scene(i, MIXED, 9)) for i in {indices}))"
    root = Path(__file__).parents[1]
    again = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert again.stdout.split() == first


def test_cache_stays_within_its_bytes(monkeypatch):
    monkeypatch.setattr(sprites, "CACHE_BYTES", 40_000)
    kept = sprites.SpriteCache()
    for side in range(10, 60):
        kept.get(3, side, 0)
        assert kept.bytes == sum(sprite.nbytes for sprite in kept.sprites.values()) <= 40_000


def test_overlap_and_cut_stay_within_their_limits(monkeypatch):
    canvases = []
    paint = toybox._Canvas.paint
    monkeypatch.setattr(toybox._Canvas, "paint", lambda self, rng: canvases.append(self) or paint(self, rng))
    for overlap in (0.0, 0.3, 0.6):
        config = replace(MIXED, objects=(3, 6), scale=(0.2, 0.6), max_overlap=overlap)
        hidden = []
        for index in range(40):
            drawn = scene(index, config, 1)
            visible = drawn.masks.sum((1, 2))
            assert visible.tolist() == canvases[-1].seen
            hidden += (1 - visible / np.array(canvases[-1].framed)).tolist()
        assert max(hidden) <= overlap + 1e-9
        assert max(hidden) > 0.5 * overlap or overlap == 0, "the limit is never approached"


@pytest.mark.parametrize("cut", [0.0, 0.3])
def test_border_cuts_objects_up_to_the_limit(cut):
    config = ToyboxConfig(objects=(1, 1), scale=(0.4, 0.4), max_cut=cut, rotation_degrees=0, flip=False)
    shares = []
    for index in range(80):
        drawn = scene(index, config, 2)
        whole = toybox._cache.get(int(drawn.labels[0]), 24, 0)[3] > sprites.SEEN  # 25.6 px in steps of 5 % is 24
        shares.append(1 - drawn.masks.sum() / whole.sum())
    assert max(shares) <= cut + 1e-9
    assert sum(share > 0.02 for share in shares) >= (10 if cut else 0)


def test_sizes_run_from_tiny_to_over_half(scenes):
    longest = np.concatenate([sides(drawn).max(1) for drawn in scenes["mixed"]]) / MIXED.size
    assert longest.min() < 0.2 and longest.max() > 0.5
    assert 0.15 < np.mean(longest < 0.25) < 0.6, "log-uniform sizes are small ones in good part"


def test_every_sprite_is_big_enough_at_the_smallest_side():
    for label in range(20):
        for angle in range(-180, 181, toybox.ANGLE_STEP):
            mask = sprites.SpriteCache().get(label, sprites.MIN_SPRITE, angle)[3] > sprites.SEEN
            assert toybox._big_enough(mask, int(mask.sum())), (NAMES[label], angle)


def test_only_the_chosen_classes_and_labels_stay_positions_in_names():
    config = replace(MIXED, classes=("zebra", "cat"))
    labels = np.concatenate([scene(i, config, 0).labels for i in range(40)])
    assert set(labels.tolist()) == {NAMES.index("cat"), NAMES.index("zebra")}


def test_all_classes_come_equally_often():
    labels = np.concatenate([scene(i, MIXED, 0).labels for i in range(400)])
    share = np.bincount(labels, minlength=20) / len(labels)
    assert share.min() > 0.025 and share.max() < 0.08


def test_crowds_and_grids_hold_one_class(scenes):
    for name in ("crowd", "grid"):
        assert all(len(set(drawn.labels.tolist())) == 1 for drawn in scenes[name])
    assert all(drawn.labels.tolist() == [NAMES.index("giraffe")] * 24 for drawn in scenes["crowd"])


def test_grid_holds_one_object_a_cell(scenes):
    cell, used = GRID.size / GRID.grid, np.zeros(100, int)
    for drawn in scenes["grid"]:
        centres = (drawn.boxes_xyxy_px[:, :2] + drawn.boxes_xyxy_px[:, 2:]) / 2
        columns, rows = (centres // cell).astype(int).T
        assert len(set(zip(columns, rows, strict=True))) == len(drawn.labels)
        corners = np.stack([columns, rows, columns + 1, rows + 1], 1) * cell
        assert (np.abs(drawn.boxes_xyxy_px[:, :2] - centres) <= cell / 2 + 0.5).all()
        assert (drawn.boxes_xyxy_px[:, :2] >= corners[:, :2] - 1).all()
        assert (drawn.boxes_xyxy_px[:, 2:] <= corners[:, 2:] + 1).all()
        np.add.at(used, rows * 10 + columns, 1)
    assert used.min() > 0 and used.max() < len(scenes["grid"]), "the same cells are empty in every scene"
    full = scene(0, replace(GRID, objects=(100, 100), rotation_degrees=180), 0)
    assert len(full.labels) == 100


def nearest_colour_accuracy(config):
    """Share of objects named correctly by the mean colour of their class in other scenes."""
    colours, labels = [], []
    for index in range(400):
        drawn = scene(index, replace(config, objects=(1, 1), scale=(0.3, 0.6)), 4)
        colours.append(drawn.image[drawn.masks[0]].mean(0))
        labels.append(int(drawn.labels[0]))
    colours, labels = np.array(colours), np.array(labels)
    means = np.stack([colours[:300][labels[:300] == label].mean(0) for label in range(20)])
    guess = np.linalg.norm(colours[300:, None] - means, axis=-1).argmin(1)
    return float((guess == labels[300:]).mean())


def test_colour_alone_does_not_give_the_class_away():
    assert nearest_colour_accuracy(replace(MIXED, hue_degrees=0, light=0, tint=0)) > 0.8
    assert nearest_colour_accuracy(MIXED) < 0.5


def test_hue_turn_keeps_greys_and_luminance():
    grey = np.full((3, 2, 2), 120, np.uint8)
    assert np.abs(sprites.recolour(grey, 120.0, np.ones(3)).astype(int) - 120).max() <= 1
    rgb = np.array([120, 110, 90], np.uint8)[:, None, None]
    turned = sprites.recolour(rgb, 40.0, np.ones(3))
    luma = np.array([0.213, 0.715, 0.072])
    assert abs(float(luma @ (turned.astype(float) - rgb)[:, 0, 0])) < 1.5
    assert turned[:, 0, 0].tolist() != rgb[:, 0, 0].tolist()


def test_dataset_contract():
    toys = Toybox(length=6, seed=1)
    samples = list(toys)
    assert len(samples) == len(toys) == 6
    for index, (image, target) in enumerate(samples):
        drawn = toys.scene(index)
        assert image.shape == (3, 64, 64) and image.dtype == torch.uint8 and image.is_contiguous()
        assert torch.equal(image.permute(1, 2, 0), torch.from_numpy(drawn.image))
        assert target["image_id"] == index + 1
        assert target["size"] == target["original_size"] == (64, 64)
        assert target["labels"].dtype == torch.int64
        cx, cy, w, h = target["boxes"].unbind(1)
        corners = torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], 1) * 64
        torch.testing.assert_close(corners, torch.from_numpy(drawn.boxes_xyxy_px))
    assert toys.names == NAMES and len(toys.names) == 20
    assert list(CATEGORY_IDS) == sorted(CATEGORY_IDS), "labels must count as those of any COCO folder do"
    assert toys.category_ids == CATEGORY_IDS and toys.size_edges_px == pytest.approx((12.8, 25.6))
    empty = Toybox(ToyboxConfig(objects=(0, 0)), length=1)[0][1]
    assert empty["boxes"].shape == (0, 4) and empty["labels"].shape == (0,)


def test_endless_stream_and_workers():
    stream = Toybox(length=None, seed=1)
    assert torch.equal(stream[4][0], Toybox(length=6, seed=1)[4][0])
    assert stream[10**9][1]["image_id"] == 10**9 + 1
    with pytest.raises(TypeError, match="endless"):
        len(stream)
    loaded = [image for image, _ in DataLoader(Toybox(length=4), batch_size=None, num_workers=2)]
    assert all(torch.equal(image, Toybox()[i][0]) for i, image in enumerate(loaded)) and len(loaded) == 4


def test_splits_and_seeds_share_no_scene():
    found = [
        digest(Toybox(length=20, seed=seed, split=split).scene(i))
        for seed in (0, 1)
        for split in toybox.SPLITS
        for i in range(20)
    ]
    assert len(set(found)) == len(found)
    assert len({split_seed(seed, split) for seed in range(100) for split in toybox.SPLITS}) == 300


# pycocotools' compiled decoder has no "copy" keyword yet
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_written_folder_holds_what_memory_holds(tmp_path):
    config = replace(MIXED, objects=(0, 4))
    folder = tmp_path / "toys"
    write_coco(folder, {"train": 5, "val": 4}, config, seed=2, progress=False)
    for split, count in (("train", 5), ("val", 4)):
        toys = Toybox(config, count, 2, split)
        coco = COCO(str(folder / "annotations" / f"instances_{split}.json"))
        truth = toys.ground_truth()
        assert truth["images"] == coco.dataset["images"] and truth["categories"] == coco.dataset["categories"]
        assert [{**a, "segmentation": 0} for a in truth["annotations"]] == [
            {**a, "segmentation": 0} for a in coco.dataset["annotations"]
        ]
        assert [a["id"] for a in truth["annotations"]] == list(range(1, len(truth["annotations"]) + 1))
        for index in range(count):
            drawn = toys.scene(index)
            record = coco.loadImgs([index + 1])[0]
            with Image.open(folder / split / record["file_name"]) as image:
                assert np.array_equal(np.asarray(image), drawn.image)
            kept = coco.loadAnns(coco.getAnnIds(imgIds=[index + 1]))
            assert len(kept) == len(drawn.labels)
            for a, box, label, mask in zip(kept, drawn.boxes_xyxy_px, drawn.labels, drawn.masks, strict=True):
                x, y, w, h = a["bbox"]
                assert [x, y, x + w, y + h] == box.tolist() and a["area"] == mask.sum()
                assert coco.cats[a["category_id"]]["name"] == NAMES[label]
                assert np.array_equal(coco.annToMask(a), mask)
    card = (folder / "README.md").read_text()
    assert "detr-mini data toybox --out DIR --train 5 --val 4 --size 64 --seed 2" in card and "MIT" in card
    with pytest.raises(ValueError, match="not an empty folder"):
        write_coco(folder, {"train": 1}, config, seed=2, progress=False)
    info = json.loads((folder / "annotations" / "instances_val.json").read_text())["info"]
    assert ToyboxConfig(**info["config"]) == config and info["split"] == "val"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 16}, "size 16 px outside"),
        ({"objects": (3, 2)}, "fewest"),
        ({"scale": (0.5, 1.5)}, "fractions of the image"),
        ({"max_overlap": 1.0}, "max_overlap 1.0 outside"),
        ({"light": -0.1}, "light -0.1 outside"),
        ({"classes": ("cat", "unicorn")}, "unicorn"),
        ({"classes": ()}, "one or more"),
        ({"mode": "pile"}, "'pile'"),
        ({"mode": "grid", "size": 64}, "cells too small"),
        ({"mode": "grid", "size": 128, "objects": (1, 101)}, "only 100 cells"),
    ],
)
def test_config_refuses(fields, message):
    with pytest.raises(ValueError, match=message):
        ToyboxConfig(**fields)


def test_other_errors_say_what_was_wanted():
    with pytest.raises(ValueError, match="train, val, test"):
        Toybox(split="validation")
    with pytest.raises(ValueError, match="length -1"):
        Toybox(length=-1)
    with pytest.raises(IndexError, match="outside"):
        Toybox(length=3)[3]
    with pytest.raises(IndexError, match="outside"):
        Toybox(length=None)[-1]
    with pytest.raises(ValueError, match="count from 0"):
        scene(0, MIXED, -1)
    with pytest.raises(ValueError, match="80 objects found no place"):
        scene(0, ToyboxConfig(size=32, objects=(80, 80), max_overlap=0), 0)
