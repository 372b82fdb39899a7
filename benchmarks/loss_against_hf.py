"""Matching plus loss of all decoder layers, forward and backward: ours against Hugging Face's.

python benchmarks/loss_against_hf.py [--threads 1] [--device cpu|cuda] [--quick]
Both get the same random answers and targets; total and gradients must agree to 1e-5 before anything is timed.
"""

from statistics import median

import hf
import timing
import torch
from torch import Tensor

from detr_mini import losses, matching

# images, queries, decoder layers, mean objects of an image; speed-up wanted and aimed at
SIZES = [(2, 100, 6, 7, None, None), (16, 100, 6, 7, 4, 10), (64, 100, 6, 7, 15, 30), (16, 300, 6, 30, 8, 15)]
QUICK = [(2, 20, 2, 3, None, None), (4, 20, 2, 3, 1, 2)]
CLASSES = 91
ROUNDS, FEWEST, SECONDS = 21, 5, 15.0  # rounds of a size: as many as fit in so many seconds, within these bounds
TOLERANCE = 1e-5


def ours(logits: Tensor, boxes: Tensor, targets: list[dict]) -> Tensor:
    return losses.set_loss(logits, boxes, targets).total


def check_equal(name: str, mine: Tensor, theirs: Tensor) -> None:
    """Raises ValueError where two tensors differ by more than 1e-5 of the second's norm."""
    gap = ((mine - theirs).norm() / theirs.norm()).item()
    if not gap <= TOLERANCE:
        raise ValueError(f"{name} of ours and the peer's differ by {gap:.1e} of the norm, wanted {TOLERANCE:.0e}")


def measure(images: int, queries: int, layers: int, mean: int, device: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of both, by name, after their results were found equal."""
    counts = timing.drawn_counts(images, mean, queries)
    logits, boxes, targets = timing.random_answers(counts, queries, layers, CLASSES, device)
    theirs = hf.loss(CLASSES, losses.Weights(), matching.Weights())

    def run(loss) -> tuple[Tensor, ...]:
        total = loss(logits, boxes, targets)
        return total.detach(), *torch.autograd.grad(total, (logits, boxes))

    functions = {"hf": lambda: run(theirs), "ours": lambda: run(ours)}
    for name, *both in zip(("total", "gradient of logits", "gradient of boxes"), run(ours), run(theirs), strict=True):
        check_equal(name, *both)
    one = sum(timing.seconds(function, device) for function in functions.values())
    rounds = min(rounds, max(FEWEST, int(SECONDS / one)))
    return timing.interleaved(functions, rounds, device)


def main() -> None:
    parser = timing.arguments(__doc__.split("\n")[0], threads=1)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="at most so many of a size")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(timing.header(options.device))
    print("ms: median (least to most); results equal to 1e-5 at every size")
    columns = f"{'ratio':>6} {'wanted':>6} {'aim':>4} {'rounds':>6}"
    print(f"{'B, Q, L, objects':<20} {'Hugging Face':>32} {'ours':>28} {columns}")
    for *size, wanted, aim in QUICK if options.quick else SIZES:
        times = measure(*size, options.device, 3 if options.quick else options.rounds)
        ratio = median(times["hf"]) / median(times["ours"])
        hf_ms, our_ms = (timing.spread(times[name]) for name in ("hf", "ours"))
        goals = f"{wanted or '-':>6} {aim or '-':>4}"
        print(f"{', '.join(map(str, size)):<20} {hf_ms:>32} {our_ms:>28} {ratio:6.1f} {goals} {len(times['hf']):6}")


if __name__ == "__main__":
    main()
