"""The paper's R50 against Hugging Face's: a forward pass and a training step; time, memory and arithmetic.

python benchmarks/r50_against_hf.py [--precision float32|bf16] [--compile] [--device cuda] [--peak-tflops 989]
[--threads 2] [--rounds 9] [--size 256] [--quick]
"""

import argparse
from collections.abc import Callable
from statistics import median

import hf
import timing
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from detr_mini import losses, matching
from detr_mini.training import TrainConfig

SHAPES = {"forward": (1, 800, 1066), "step": (2, 512, 512)}  # images, height, width
OBJECTS = 7  # mean of an image
SETTINGS = TrainConfig()  # the authors': AdamW 1e-4, clipping at 0.1
NOTES = """Same weights, dropout 0.1 everywhere when training, no padding. ratio: Hugging Face's median time / ours.
forward: eval, no_grad; Hugging Face's own call, whose heads answer for the last layer, ours for all six.
step: all layers' losses (each by its own code), backward, clipping, fused AdamW (the same for both). Its heads
  read its decoder_hidden_states, through its layernorm: auxiliary_loss=True would make it another network.
memory: peak of two calls above what is held before them (model and images)"""


class Runs:
    """What is timed, of one side ("ours" or "hf"): `forward` and `step`, methods without arguments."""

    def __init__(self, side: str, model: nn.Module, options: argparse.Namespace, compiled: bool):
        self.side, self.device, self.bf16 = side, options.device, options.precision == "bf16"
        self.model = self.predict = self.all_layers = model.to(self.device)
        if side == "hf":
            self.all_layers = hf.AllLayers(model)
        if compiled:
            self.predict, self.all_layers = torch.compile(self.predict), torch.compile(self.all_layers)
        self.loss = our_loss if side == "ours" else hf.loss(91, losses.Weights(), matching.Weights())
        trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, SETTINGS.lr, weight_decay=SETTINGS.weight_decay, fused=True)
        generator = torch.Generator().manual_seed(0)
        self.images = {
            run: torch.randn(images, 3, height, width, generator=generator).to(self.device)
            for run, (images, height, width) in shapes(options).items()
        }
        counts = timing.drawn_counts(len(self.images["step"]), OBJECTS, most=100)
        _, _, self.targets = timing.random_answers(counts, 1, 1, 91, self.device)

    def mixed(self) -> torch.autocast:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.bf16)

    @torch.no_grad()
    def forward(self) -> None:
        self.model.eval()
        with self.mixed():
            self.predict(self.images["forward"])

    def step(self) -> None:
        self.model.train()
        with self.mixed():
            answer = self.all_layers(self.images["step"])
        logits, boxes = answer if self.side == "hf" else (answer.logits, answer.boxes)
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(logits, boxes, self.targets).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), SETTINGS.clip)
        self.optimizer.step()


def our_loss(logits: Tensor, boxes: Tensor, targets: list[dict]) -> Tensor:
    return losses.set_loss(logits, boxes, targets).total


def shapes(options: argparse.Namespace) -> dict[str, tuple[int, int, int]]:
    """Images, height and width of each run."""
    size = options.size or (64 if options.quick else None)
    return {run: (shape[0], size, size) if size else shape for run, shape in SHAPES.items()}


def build(side: str, run: str, options: argparse.Namespace) -> Callable[[], None]:
    """One run alone, for a process of its own."""
    torch.manual_seed(0)
    model = dict(zip(("ours", "hf"), hf.pair(), strict=True))[side]
    return getattr(Runs(side, model, options, options.compile), run)


def operations(peer: Runs, run: str) -> int:
    """Floating-point operations of a run, two to a multiply-add; counted in the peer, whose attention is explicit."""
    with FlopCounterMode(display=False) as counter:
        getattr(peer, run)()
    return counter.get_total_flops()


def rate(flops: int, seconds: float, peak: float | None) -> str:
    """Achieved TFLOP/s, and its share of the card's peak where that was given."""
    achieved = flops / seconds / 1e12
    return f"{achieved:.2f}" + (f" ({achieved / peak:.0%})" if peak else "")


def main() -> None:
    parser = timing.arguments(__doc__.split("\n")[0], threads=None)
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32", help="bf16: by autocast")
    parser.add_argument("--compile", action="store_true", help="torch.compile both networks")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--size", type=int, help="px of all images, down and across, for a quick try")
    parser.add_argument("--peak-tflops", type=float, help="of the card in this precision, for the share achieved")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    ours, peer = hf.pair()
    print(timing.header(options.device), f"{options.precision}{', compiled' if options.compile else ''}", sep=", ")
    print(hf.check_counts(ours, peer))
    hf.check_answers(ours, peer)
    print(NOTES)
    flops = {run: operations(Runs("hf", peer, options, compiled=False), run) for run in SHAPES}
    sides = {"hf": Runs("hf", peer, options, options.compile), "ours": Runs("ours", ours, options, options.compile)}
    print(f"{'':<20} {'side':>5} {'ms: median (range)':>30} {'ratio':>6} {'peak MiB':>9} {'TFLOP/s':>12}")
    for run, shape in shapes(options).items():
        functions = {side: getattr(runs, run) for side, runs in sides.items()}
        rounds, warmup = (1, 0) if options.quick else (options.rounds, 2)
        times = timing.interleaved(functions, rounds, options.device, warmup)
        for side in sides:
            ratio = median(times["hf"]) / median(times[side])
            left_out = options.quick and (side, run) != ("ours", "forward")  # a fresh process takes seconds to start
            memory = 0.0 if left_out else timing.peak_memory(build, side, run, options, device=options.device)
            label = f"{run} {'x'.join(map(str, shape))}"
            done = rate(flops[run], median(times[side]), options.peak_tflops)
            print(f"{label:<20} {side:>5} {timing.spread(times[side]):>30} {ratio:6.2f} {memory:9.0f} {done:>12}")


if __name__ == "__main__":
    main()
