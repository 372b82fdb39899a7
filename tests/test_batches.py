import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from detr_mini.datasets.batches import Batch, SampleStream, check_target, collate, seeded


def target(boxes, labels, image_id=7):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    labels = torch.tensor(labels, dtype=torch.int64)
    return {"boxes": boxes, "labels": labels, "image_id": image_id, "size": (4, 4), "original_size": (4, 4)}


ONE = target([[0.5, 0.5, 0.2, 0.4]], [1])


def test_collate_normalises_and_pads_right_and_below():
    wide = torch.full((3, 2, 3), 255, dtype=torch.uint8)
    tall = torch.zeros(3, 4, 1, dtype=torch.uint8)
    empty = target([], [])
    batch = collate([(wide, ONE), (tall, empty)], mean=(0.5, 0.0, 1.0), std=(0.25, 1.0, 0.5), num_classes=2)
    assert batch.images.shape == (2, 3, 4, 3) and batch.images.dtype == torch.float32
    assert batch.images[0, :, :2].unique(dim=1).unique(dim=2).flatten().tolist() == [2.0, 1.0, 0.0]
    assert batch.images[1, :, :, 0].unique(dim=1).flatten().tolist() == [-2.0, 0.0, -2.0]
    assert batch.images[0, :, 2:].eq(0).all() and batch.images[1, :, :, 1:].eq(0).all()
    assert batch.padding[0].tolist() == [[False] * 3] * 2 + [[True] * 3] * 2
    assert batch.padding[1].tolist() == [[False, True, True]] * 4
    assert batch.targets[0] is ONE and batch.targets[1] is empty


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (target([[0.5, 0.5, 0.2, 0.4]] * 2, [0, 2]), r"image 7, box 1: label 2 outside 0\.\.1.*gaps"),
        (target([[0.5, 0.5, 0.2, 0.4]], [-1]), r"box 0: label -1 outside 0\.\.1"),
        (target([[0.5, 0.5, 0.2, 0.4], [50, 60, 20, 10]], [0, 0]), r"image 7, box 1: .*pixels\?"),
        (target([[0.5, float("nan"), 0.2, 0.4]], [0]), r"box 0: .*NaN"),
        (target([[0.5, 0.5, float("inf"), 0.4]], [0]), r"box 0"),
        (target([[0.5, 1.01, 0.2, 0.4]], [0]), r"box 0: .*corners"),
        (target([[0.5, 0.5, 0.2, 0.0]], [0]), r"box 0: .*w, h > 0"),
        (target([[0.5, 0.5, -0.2, 0.1]], [0]), r"box 0: .*w, h > 0"),
        (target([[0.5, 0.5, 0.2, 0.4]], [0, 0]), r"image 7: boxes \(1, 4\) with labels \(2,\)"),
    ],
)
def test_bad_targets_are_named(bad, message):
    image = torch.zeros(3, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match=message):
        collate([(image, ONE), (image, bad)], (0.5,) * 3, (0.5,) * 3, num_classes=2)


def test_rounding_at_the_border_and_no_boxes_pass():
    check_target(target([[0.5, 0.5, 1.00005, 1.0]], [0]), 1)
    check_target(target([], []), 1)


def test_float_labels_are_refused():
    with pytest.raises(ValueError, match="torch.float32"):
        check_target({**ONE, "labels": torch.tensor([1.0])}, 2)


def test_to_moves_every_tensor_and_leaves_the_original(monkeypatch):
    batch = collate([(torch.zeros(3, 4, 4, dtype=torch.uint8), ONE)], (0.5,) * 3, (0.5,) * 3, 2)
    moved = batch.to("meta")
    tensors = [moved.images, moved.padding, moved.targets[0]["boxes"], moved.targets[0]["labels"]]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert moved.targets[0]["image_id"] == 7
    assert batch.targets[0]["boxes"].device.type == "cpu" and isinstance(moved, Batch)
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor.shape) or tensor)
    batch.pin_memory()
    assert len(pinned) == 4


class Noisy(Dataset):
    """Six images whose augmentation uses all three generators."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return index, torch.rand(()).item(), float(np.random.rand()), random.random()


def test_each_epoch_is_another_permutation():
    stream = SampleStream(Noisy(), seed=3, infinite=False)
    epochs = [[stream[epoch * 6 + i][0] for i in range(6)] for epoch in range(4)]
    assert all(sorted(epoch) == list(range(6)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_a_sample_depends_on_seed_and_index_alone():
    forward = [SampleStream(Noisy(), 3, False)[i] for i in range(20)]
    stream = SampleStream(Noisy(), 3, False)
    assert [stream[i] for i in reversed(range(20))] == forward[::-1]
    assert forward[0][1:] != forward[1][1:] and len({sample[1] for sample in forward}) == 20
    other = SampleStream(Noisy(), 4, False)
    assert all(other[i][1:] != forward[i][1:] for i in range(20))
    assert SampleStream(Noisy(), 2, False)[1][1:] != forward[0][1:]  # seed + index would make these two equal


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_do_not_change_the_samples(workers):
    stream = SampleStream(Noisy(), 3, False)
    loader = DataLoader(stream, sampler=range(5, 13), batch_size=4, num_workers=workers, collate_fn=list)
    assert [sample for batch in loader for sample in batch] == [stream[i] for i in range(5, 13)]


def test_the_outer_generators_go_on_as_if_nothing_happened():
    def draw():
        return torch.rand(()).item(), float(np.random.rand()), random.random()

    with seeded(1, 2):
        draw()
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    undisturbed = [draw(), draw()]
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    first = draw()
    with pytest.raises(RuntimeError, match="inside"), seeded(1, 2):
        draw()
        raise RuntimeError("inside")
    assert [first, draw()] == undisturbed


def test_fresh_scenes_get_the_index_itself():
    class Scenes(Dataset):
        def __getitem__(self, index):
            return index

    assert SampleStream(Scenes(), seed=0, infinite=True)[10**9] == 10**9


def test_an_empty_data_set_is_refused():
    with pytest.raises(ValueError, match="no images"):
        SampleStream([], seed=0, infinite=False)
