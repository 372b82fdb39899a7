"""From a data set to batches: which sample comes when, and how samples of several sizes share one tensor.

B images · H, W pixels of the largest image · T true boxes · K classes
"""

import hashlib
import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

Target = dict  # boxes (T, 4) cxcywh in 0..1, labels (T,) int64, image_id int, size and original_size (H, W) px
TOLERANCE = 1e-4  # what rounding may push a centre or a size over the border of 0..1


@dataclass
class Batch:
    """images (B, 3, H, W) float32, normalised; padding (B, H, W) bool, True where no image is; B targets."""

    images: Tensor
    padding: Tensor
    targets: list[Target]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """The batch with images, padding, boxes and labels on `device`."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """The batch in page-locked memory (a DataLoader with pin_memory=True calls this)."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, move) -> "Batch":
        targets = [{**t, "boxes": move(t["boxes"]), "labels": move(t["labels"])} for t in self.targets]
        return replace(self, images=move(self.images), padding=move(self.padding), targets=targets)


def check_target(target: Target, num_classes: int) -> None:
    """Raises ValueError, naming image and box, unless labels lie in 0..K-1 and boxes are cxcywh within 0..1.

    Here, on the CPU, a bad box costs nothing to find; in the loss it would be a NaN or a device assertion.
    """
    boxes, labels, image = target["boxes"], target["labels"], f"image {target['image_id']}"
    if boxes.shape != (len(labels), 4) or labels.dtype != torch.int64:
        raise ValueError(
            f"{image}: boxes {tuple(boxes.shape)} with labels {tuple(labels.shape)} of {labels.dtype}; "
            "wanted (T, 4) and (T,) of torch.int64"
        )
    wrong_label = (labels < 0) | (labels >= num_classes)
    if wrong_label.any():
        item = int(wrong_label.nonzero()[0])
        raise ValueError(
            f"{image}, box {item}: label {int(labels[item])} outside 0..{num_classes - 1}: category ids may "
            "have gaps, the data set's id table (category_ids) makes labels of them"
        )
    inside = (boxes >= -TOLERANCE) & (boxes <= 1 + TOLERANCE)  # NaN and infinity are not inside
    good = inside.all(1) & (boxes[:, 2:] > 0).all(1)
    if not good.all():
        item = int((~good).nonzero()[0])
        box = boxes[item].tolist()
        pixels = 2 < max(box) < math.inf
        cause = "are these pixels?" if pixels else "NaN, an empty box, or corners instead of centre and size?"
        raise ValueError(
            f"{image}, box {item}: {box} is not (cx, cy, w, h) in 0..1 of the image with w, h > 0: {cause}"
        )


def collate(
    samples: list[tuple[Tensor, Target]], mean: tuple[float, ...], std: tuple[float, ...], num_classes: int
) -> Batch:
    """Samples (uint8 (3, h, w), target) as one batch, normalised, and padded with zeros right and below.

    `mean` and `std` are per channel, for images in 0..1. Raises ValueError where `check_target` does.
    """
    for _, target in samples:
        check_target(target, num_classes)
    shift, scale = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))
    height, width = (max(image.shape[axis] for image, _ in samples) for axis in (1, 2))
    images = torch.zeros(len(samples), 3, height, width)
    padding = torch.ones(len(samples), height, width, dtype=torch.bool)
    for row, (image, _) in enumerate(samples):
        _, h, w = image.shape
        # Zero is the mean colour, so the padding goes in after the normalisation.
        images[row, :, :h, :w] = (image.float() / 255 - shift) / scale
        padding[row, :h, :w] = False
    return Batch(images, padding, [target for _, target in samples])


class SampleStream(Dataset):
    """The endless sequence of training samples; sample i, augmentation included, depends on (seed, i) alone.

    So neither the number of workers nor a stop and resume changes what is trained on. An ordinary data set
    is shuffled anew each epoch. With `infinite` the data set itself draws a fresh sample for every i.
    """

    def __init__(self, dataset: Dataset, seed: int, infinite: bool):
        if not infinite and len(dataset) == 0:
            raise ValueError("the data set holds no images, so there is nothing to train on: an empty split?")
        self.dataset, self.seed, self.infinite = dataset, seed, infinite
        self._epoch, self._order = -1, []

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        if self.infinite:
            return self.dataset[index]
        position = self.position(index)
        with seeded(self.seed, index):
            return self.dataset[position]

    def position(self, index: int) -> int:
        """The data set's own index of sample `index`."""
        epoch, offset = divmod(index, len(self.dataset))
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(_mix("order", self.seed, epoch))
            self._order = torch.randperm(len(self.dataset), generator=generator).tolist()
            self._epoch = epoch
        return self._order[offset]


@contextmanager
def seeded(seed: int, index: int) -> Iterator[None]:
    """Inside, the generators of torch (CPU), numpy and Python depend on (seed, index); outside they go on."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    mixed = _mix("sample", seed, index)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(mixed)  # torch.manual_seed would touch every GPU
            random.seed(mixed)
            np.random.seed(mixed % 2**32)
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def _mix(*parts: str | int) -> int:
    # seed + index would give sample 1 of seed 0 and sample 0 of seed 1 the same augmentation.
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
