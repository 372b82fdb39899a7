"""What the benchmarks share: interleaved rounds, peak memory, the header line, and random answers with targets.

L decoder layers · B images · Q queries · T true boxes · K classes
"""

import argparse
import gc
import multiprocessing
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

Function = Callable[[], object]


def arguments(description: str, threads: int | None) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes: --device, --threads (None: all), --quick."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=threads or os.cpu_count(), help="of torch, on the CPU")
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds: does it run?")
    return parser


def header(device: str) -> str:
    """One line: versions, threads, processor, on CUDA the card and its float32 mode, the day (UTC)."""
    parts = [f"torch {torch.__version__}"]
    if "transformers" in sys.modules:
        parts.append(f"transformers {sys.modules['transformers'].__version__}")
    parts.append(f"{torch.get_num_threads()} threads of {processor()}")
    if device == "cuda":
        parts.append(torch.cuda.get_device_name())
        parts.append(f"TF32 in convolutions {torch.backends.cudnn.allow_tf32}")
        parts.append(f"in matrix products {torch.backends.cuda.matmul.allow_tf32}")
    return ", ".join([*parts, f"{datetime.now(UTC):%Y-%m-%d}"])


def processor() -> str:
    """The processor's name as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def seconds(function: Function, device: str) -> float:
    """Wall time of one call, with all work that it put on the card."""
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def interleaved(
    functions: dict[str, Function], rounds: int, device: str, warmup: int = 2, settle: bool = False
) -> dict[str, list[float]]:
    """Seconds of every call, by name: a, b, a, b, ..., so that a slow minute of the machine meets all alike.

    `settle`: each timed call follows an untimed one, where functions differ so much in size that the one before
    would leave caches and allocator in another state.
    """
    times = {name: [] for name in functions}
    gc.collect()
    # Linux's malloc gives freed blocks back to the system, page by page to be asked for again, above a size that
    # grows with the blocks freed so far, to 32 MiB at most. Training reaches that in its first step; so do we here.
    torch.empty(31 * 2**20, dtype=torch.uint8)
    for i in range(warmup + rounds):
        for name, function in functions.items():
            if settle:
                function()
            took = seconds(function, device)
            if i >= warmup:
                times[name].append(took)
    return times


def spread(times: list[float]) -> str:
    """Median and range of some seconds, in ms."""
    return f"{median(times) * 1e3:.1f} ({min(times) * 1e3:.1f} to {max(times) * 1e3:.1f})"


def peak_memory(build: Callable[..., Function], *args, device: str, calls: int = 2) -> float:
    """MiB that calls of `build(*args)` need at most, above what is held once it is built.

    On the CPU each measurement has a fresh process, so that no peer's peak or cache hides another's; on CUDA it is
    the allocator's count. Two calls, since an optimizer's state comes with the first step.
    """
    if device == "cuda":
        return _peak_on_cuda(build(*args), calls)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak_of_process, build, args, calls, torch.get_num_threads()).result()


def _peak_on_cuda(function: Function, calls: int) -> float:
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    for _ in range(calls):
        function()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def _peak_of_process(build: Callable[..., Function], args: tuple, calls: int, threads: int) -> float:
    torch.set_num_threads(threads)
    function = build(*args)
    gc.collect()
    before = _resident("VmRSS")
    for _ in range(calls):
        function()
    return _resident("VmHWM") - before


def _resident(field: str) -> float:
    """MiB of this process: VmRSS now, VmHWM at most so far; where there is no /proc, the most so far for both."""
    try:
        # Linux's ru_maxrss would also count the parent's memory, which a child has until its exec.
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        unit = 2**20 if sys.platform == "darwin" else 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


def random_answers(
    counts: list[int], queries: int, layers: int, classes: int, device: str, seed: int = 0
) -> tuple[Tensor, Tensor, list[dict]]:
    """Logits (L, B, Q, K+1) and boxes (L, B, Q, 4), both with gradient, and a target with `counts[b]` objects each."""
    generator = torch.Generator().manual_seed(seed)

    def boxes(*shape: int) -> Tensor:
        """Centres in the middle of the image, sizes of 0.05 to 0.45: (..., 4) inside 0..1."""
        unit = torch.rand(*shape, 4, generator=generator)
        return unit * torch.tensor([0.5, 0.5, 0.4, 0.4]) + torch.tensor([0.25, 0.25, 0.05, 0.05])

    shape = (layers, len(counts), queries)
    logits = torch.randn(*shape, classes + 1, generator=generator).to(device).requires_grad_()
    answers = boxes(*shape).to(device).requires_grad_()
    targets = [
        {"boxes": boxes(n).to(device), "labels": torch.randint(0, classes, (n,), generator=generator).to(device)}
        for n in counts
    ]
    return logits, answers, targets


def drawn_counts(images: int, mean: float, most: int, seed: int = 0) -> list[int]:
    """How many objects each image has: Poisson around `mean`, at least 1 and at most `most`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.poisson(torch.full((images,), float(mean)), generator=generator).clamp(1, most).int().tolist()
