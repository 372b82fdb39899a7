"""How the cost grows with batch, queries, objects and image size: four plots, each with a fitted exponent.

python benchmarks/scaling.py [--out runs/bench] [--threads 1] [--device cpu|cuda] [--quick]
Writes scaling.json and scaling.png. An exponent is the slope of log(ms) over log(size), by least squares on the
larger half of the sizes: among the smaller ones the cost that does not grow hides it.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
import timing
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter, ScalarFormatter

from detr_mini import losses, matching
from detr_mini.detr import DETR, DETRConfig
from detr_mini.plots import style

BATCH, QUERIES, OBJECTS, LAYERS, CLASSES = 16, 100, 7, 6, 91  # what is held while one of them grows
SIZES = {
    "images": [1, 2, 4, 8, 16, 32, 64],
    "queries": [25, 50, 100, 200, 400, 800],
    "objects": [1, 3, 6, 12, 24, 48, 96],
    "side": [128, 192, 256, 384, 512, 768, 1024],
}
QUICK = {"images": [1, 2, 4, 8], "queries": [10, 20, 40, 80], "objects": [1, 2, 4, 8], "side": [64, 96, 128]}

LABELS = {
    "images": "images of a batch, B",
    "queries": "queries, Q",
    "objects": "objects of each image, T",
    "side": "side of the image (px)",
}


@dataclass(frozen=True)
class Curve:
    """Median ms at each size of what is called `name`, and the exponent fitted to the larger half."""

    name: str
    sizes: list[int]
    ms: list[float]
    exponent: float


def exponent(sizes: list[int], ms: list[float]) -> float:
    """Slope of log(ms) over log(size) on the larger half of the sizes, the middle one included."""
    half = len(sizes) // 2
    return float(np.polyfit(np.log(sizes[half:]), np.log(ms[half:]), 1)[0])


def curves(
    names: tuple[str, ...], sizes: list[int], functions_of: Callable[[int], tuple], *, rounds: int, device: str
) -> list[Curve]:
    """One curve a name: `functions_of(size)` gives a function for each; all sizes are interleaved."""
    functions = {
        (name, size): function for size in sizes for name, function in zip(names, functions_of(size), strict=True)
    }
    times = timing.interleaved(functions, rounds, device, warmup=1, settle=True)
    found = []
    for name in names:
        ms = [median(times[name, size]) * 1e3 for size in sizes]
        found.append(Curve(name, sizes, ms, exponent(sizes, ms)))
    return found


def loss_and_matching(images: int, queries: int, objects: int, device: str) -> tuple[Callable, Callable]:
    """Two functions on random answers: matching with loss and backward pass, and the matching alone."""
    logits, boxes, targets = timing.random_answers([objects] * images, queries, LAYERS, CLASSES, device)
    padded = matching.pad_targets(targets, logits.device)

    def loss():
        return torch.autograd.grad(losses.set_loss(logits, boxes, targets).total, (logits, boxes))

    return loss, lambda: matching.match(logits, boxes, padded)


def forward_of(model: DETR, side: int, device: str) -> tuple[Callable]:
    """A function that runs the model on one square image."""
    images = torch.randn(1, 3, side, side, device=device)

    def forward():
        with torch.no_grad():
            model(images)

    return (forward,)


def measure(options: argparse.Namespace) -> dict[str, list[Curve]]:
    """All curves, by what grows."""
    sizes, device = QUICK if options.quick else SIZES, options.device
    how = {"rounds": 1 if options.quick else options.rounds, "device": device}
    both = ("matching and loss", "matching alone")
    model = DETR(DETRConfig()).eval().to(device)
    return {
        "images": curves(both, sizes["images"], lambda n: loss_and_matching(n, QUERIES, OBJECTS, device), **how),
        "queries": curves(both, sizes["queries"], lambda n: loss_and_matching(BATCH, n, OBJECTS, device), **how),
        "objects": curves(both, sizes["objects"], lambda n: loss_and_matching(BATCH, QUERIES, n, device), **how),
        "side": curves(("R50 forward",), sizes["side"], lambda n: forward_of(model, n, device), **how),
    }


def draw(axes: Axes, axis: str, found: list[Curve], held: str) -> None:
    """The points of each curve, and its fitted line through the larger half; the title states the exponents."""
    for curve, colour, marker in zip(found, (style.QUERY, style.OBJECT), "os", strict=False):
        axes.plot(curve.sizes, curve.ms, marker, color=colour, label=curve.name)
        large, ms = (np.array(values[len(curve.sizes) // 2 :]) for values in (curve.sizes, curve.ms))
        middle = np.exp(np.log(ms).mean() - curve.exponent * np.log(large).mean())
        axes.plot(large, middle * large**curve.exponent, color=colour)
    axes.set(xscale="log", yscale="log", xlabel=LABELS[axis], ylabel="ms")
    finding = ", ".join(f"{curve.name} ~ {axis}^{curve.exponent:.2f}" for curve in found)
    axes.set_title(f"{finding}\n{held}", fontsize=9)
    axes.xaxis.set_major_locator(FixedLocator(found[0].sizes))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for side in (axes.xaxis, axes.yaxis):
        side.set_major_formatter(ScalarFormatter())
        side.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, frameon=False)


def write(found: dict[str, list[Curve]], header: str, out: Path) -> None:
    """scaling.json and scaling.png in the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    curves_of = {axis: [asdict(curve) for curve in one] for axis, one in found.items()}
    (out / "scaling.json").write_text(json.dumps({"header": header, "curves": curves_of}, indent=1) + "\n")
    fixed = {"images": f"B = {BATCH}", "queries": f"Q = {QUERIES}", "objects": f"T = {OBJECTS}"}
    figure = style.new_figure(10, 7.5)
    panels = figure.subplots(2, 2).flat
    for axes, (axis, one) in zip(panels, found.items(), strict=True):
        held = [text for name, text in fixed.items() if name != axis]
        text = "one square image" if axis == "side" else ", ".join([*held, f"L = {LAYERS}, K = {CLASSES}"])
        draw(axes, axis, one, text)
    figure.text(0.01, 0.005, header, fontsize=7, color=style.INK)
    figure.tight_layout(rect=(0, 0.02, 1, 1))
    style.save(figure, out / "scaling.png")


def main() -> None:
    parser = timing.arguments(__doc__.split("\n")[0], threads=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder of scaling.json, scaling.png")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    header = timing.header(options.device)
    print(header)
    found = measure(options)
    for axis, one in found.items():
        for curve in one:
            points = "  ".join(f"{size}: {ms:.1f}" for size, ms in zip(curve.sizes, curve.ms, strict=True))
            print(f"{curve.name}, ms by {axis}: {points}")
            print(f"{curve.name} ~ {axis}^{curve.exponent:.2f}")
            if axis == "side":
                print(f"{curve.name} ~ pixels^{curve.exponent / 2:.2f}")
    write(found, header, options.out)
    print(f"wrote {options.out / 'scaling.json'} and scaling.png")


if __name__ == "__main__":
    main()
