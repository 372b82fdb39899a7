"""What a training step of the mini spends: drawing scenes, the model, matching and loss; and its peak memory.

Prints medians over interleaved rounds and their ratios: python benchmarks/mini_step.py [--rounds 15] [--batch 32]
"""

import argparse
import platform
import resource
import sys
import time
from statistics import median

import torch
from torch import nn

from detr_mini import losses
from detr_mini.backbones import normalization
from detr_mini.datasets.batches import collate
from detr_mini.datasets.toybox import Toybox, ToyboxConfig
from detr_mini.detr import DETR, DETRConfig
from detr_mini.training import TrainConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args()
    torch.manual_seed(0)
    scenes, size = Toybox(ToyboxConfig(), None), options.batch
    config, mean_std = TrainConfig.mini(), normalization("tiny")
    model = DETR(DETRConfig.mini()).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, fused=True)

    def draw(start: int):
        return collate([scenes[start + i] for i in range(size)], *mean_std, 20)

    def loss_of(output, batch):
        return losses.set_loss(
            output.logits, output.boxes, batch.targets, config.loss_weights, config.matching_weights
        ).total

    def step(batch) -> None:
        output = model(batch.images, batch.padding)
        optimizer.zero_grad(set_to_none=True)
        loss_of(output, batch).backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()

    def seconds(function, *arguments) -> float:
        started = time.perf_counter()
        function(*arguments)
        return time.perf_counter() - started

    def loss_alone(output, batch) -> None:
        loss_of(output, batch).backward()

    constant = draw(0)
    for i in range(1, 60):  # the sprite cache fills in the first thousand scenes of a run
        draw(i * size)
    times = {"drawing a batch": [], "step on a constant batch": [], "step with drawing": [], "matching and loss": []}
    for i in range(options.rounds + 2):
        row = [seconds(draw, (100 + i) * size), seconds(step, constant)]
        started = time.perf_counter()
        step(draw((1000 + i) * size))
        row.append(time.perf_counter() - started)
        with torch.no_grad():
            output = model(constant.images, constant.padding)
        leaves = type(output)(output.logits.detach().requires_grad_(), output.boxes.detach().requires_grad_())
        row.append(seconds(loss_alone, leaves, constant))
        if i >= 2:  # the first two warm up
            for values, value in zip(times.values(), row, strict=True):
                values.append(value)

    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}, batch {size} of 64 px")
    medians = {name: median(values) for name, values in times.items()}
    for name, value in medians.items():
        low, high = min(times[name]), max(times[name])
        speed = f"{size / value:7.0f} images/s"
        print(f"{name:<26} {value * 1e3:7.1f} ms  ({low * 1e3:.1f} to {high * 1e3:.1f})  {speed}")
    whole, constant_step = medians["step with drawing"], medians["step on a constant batch"]
    print(f"images/s with drawing / on a constant batch: {constant_step / whole:.2f}   (wanted: at least 0.50)")
    print(f"matching and loss / step: {medians['matching and loss'] / constant_step:.3f}   (wanted: below 0.15)")
    unit = 2**20 if sys.platform == "darwin" else 2**10
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit / 1024:.2f} GB   (wanted: below 2)")


if __name__ == "__main__":
    main()
