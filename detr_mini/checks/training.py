"""Checks of notebook 09: parameter groups, the rate over time, three unlabelled runs, what AdamW keeps."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from detr_mini.checkpoints import SHIPPED
from detr_mini.checks.verdict import Wrong, ask, compare, exercise
from detr_mini.plots import training as plots

TRAINED, FIXED = 41_302_368, 222_400  # numbers of R50 that are trained, and that are only kept
SHAPES = ((2_500, 100), (1_000, 0), (60, 20))  # steps, warm-up
FAULTS = ("labels off by one", "boxes in pixels", "corners for centres", "rate times ten")
CONTRADICTED = {  # (what was said, what it is): what in the curves speaks against it
    ("labels off by one", "corners for centres"): "the class error stays where a healthy run has it from the first "
    "step on, and with wrong ids it begins near 100; what jumps at the beginning are the box parts",
    ("labels off by one", "rate times ten"): "both box parts are raised all along; wrong ids do nothing to boxes",
    ("corners for centres", "labels off by one"): "the class error begins near 100, so it is the classes that were "
    "given differently; corners leave them alone",
    ("corners for centres", "rate times ten"): "the class error is raised all along; corners do nothing to classes",
    ("rate times ten", "labels off by one"): "AP50 stays at 0 to the end while all loss parts come to rest where the "
    "healthy ones are: nothing is unstable, something is learned well that is wrong",
    ("rate times ten", "corners for centres"): "the loss ends as low as the healthy one and the class error was never "
    "disturbed: this training is stable, and AP50 is 0",
}


@exercise(2, "The same two lines serve any length of run, since only the share of the steps done goes in.")
def rate_factor(answer: Callable) -> None:
    """`rate_factor(step, steps, warmup)`: linear warm-up, then a cosine to zero; steps from 0."""
    for steps, warmup in SHAPES:
        asked = sorted({0, 1, warmup - 1, warmup, warmup + 1, steps // 2, steps - 1} - {-1})
        got = [float(ask(answer, step, steps, warmup)) for step in asked]
        wanted = [_factor(step, steps, warmup) for step in asked]
        mistakes = {text: [wrong(step, steps, warmup) for step in asked] for text, wrong in _FACTOR_MISTAKES.items()}
        compare(f"{steps} steps, {warmup} of warm-up, steps {asked}", got, wanted, mistakes, tolerance=1e-4)


@exercise(1, "Every optimiser of torch takes groups, so this serves wherever a part is to learn at its own rate.")
def parameter_groups(answer: Callable) -> None:
    """`parameter_groups(model, lr, backbone_lr)`: dicts of params and lr; frozen parameters in none."""
    model = _toy_model()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = ask(answer, model, 1e-3, 1e-4)
    if not isinstance(groups, (list, tuple)) or not all(isinstance(group, Mapping) for group in groups):
        raise Wrong(f"wanted a list of dicts with 'params' and 'lr', got {type(groups).__name__}")
    rates: dict[str, list[float]] = {}
    for group in groups:
        if not {"params", "lr"} <= group.keys():
            raise Wrong(f"a group has the keys {sorted(group)}: without 'lr' AdamW takes its default, 0.001")
        for parameter in list(group["params"]):
            if isinstance(parameter, (str, tuple)):
                raise Wrong("'params' holds names, or pairs with names; the optimiser wants the parameters themselves")
            if id(parameter) not in names:
                raise Wrong(f"{_what(parameter)}: an optimiser changes what it is given, and the model would not learn")
            rates.setdefault(names[id(parameter)], []).append(float(group["lr"]))
    _judge(model, rates)


@exercise(3, "Loss parts say what is learned, AP says whether it was the right thing; neither replaces the other.")
def diagnosis(answer: Mapping[str, str]) -> None:
    """`{"A": fault, "B": fault, "C": fault}` for the three runs of `plots.unlabelled`."""
    cases = plots.unlabelled(plots.gallery(SHIPPED.parent / "results" / "gallery"))
    if not isinstance(answer, Mapping):
        raise Wrong(f"wanted a dict from letter to fault, got {type(answer).__name__}")
    said = {str(letter).strip().upper(): _plain(fault) for letter, fault in answer.items()}
    if missing := sorted(cases.keys() - said.keys()):
        raise Wrong(f"{', '.join(missing)} has no answer")
    for letter, log in cases.items():
        if said[letter] not in FAULTS:
            raise Wrong(f"{letter}: {answer.get(letter)!r} is none of {', '.join(FAULTS)}")
        truth = _plain(log.name)
        if said[letter] == "boxes in pixels":
            raise Wrong(
                f"{letter}: its L1 part ends at {log.end('l1'):.2f}; against boxes in pixels, fractions are off by "
                "tens, and the part would be as large"
            )
        if said[letter] != truth:
            raise Wrong(f"{letter} is not {said[letter]}: {CONTRADICTED[said[letter], truth]}")


@exercise(4, "Two thirds of a gigabyte before the first image: what is left of the card is for activations.")
def fixed_bytes(answer: float) -> None:
    """Bytes of weights, gradients and AdamW's states of R50 in float32, activations left out."""
    if isinstance(answer, bool) or not isinstance(answer, int | float):
        raise Wrong(f"wanted one number, got {type(answer).__name__}")
    right = 4 * (4 * TRAINED + FIXED)
    for unit, size in (("GiB", 2**30), ("GB", 1e9), ("MiB", 2**20), ("MB", 1e6)):
        if math.isclose(answer, right / size, rel_tol=0.02):
            raise Wrong(f"this seems to be the answer in {unit}; wanted are bytes")
    compare("bytes", float(answer), float(right), _byte_mistakes(), tolerance=1e-9)


def _factor(step: int, steps: int, warmup: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def _cosine(done: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * done))


_FACTOR_MISTAKES: dict[str, Callable[[int, int, int], float]] = {
    "the first step's rate is zero, and that step is lost: with steps from 0 the share of the warm-up is "
    "(step + 1) / warmup": lambda s, n, w: s / w if s < w else _cosine((s - w) / (n - w)),
    "the cosine is counted from step 0, so the rate jumps down where the warm-up ends: count from there": (
        lambda s, n, w: (s + 1) / w if s < w else _cosine(s / n)
    ),
    "the cosine begins at the end of the warm-up, but takes `steps` more: it must be over at the last step, "
    "(steps - warmup) later": lambda s, n, w: (s + 1) / w if s < w else _cosine((s - w) / n),
    "there is no warm-up": lambda s, n, w: _cosine(s / n),
    "there is no warm-up: the cosine's share is negative before it begins": lambda s, n, w: _cosine((s - w) / (n - w)),
    "warm-up and cosine are multiplied; the cosine begins when the warm-up is over": (
        lambda s, n, w: min(1.0, (s + 1) / max(w, 1)) * _cosine(s / n)
    ),
    "half of 1 + cosine is wanted: a cosine alone goes to -1, and a negative rate climbs": (
        lambda s, n, w: (s + 1) / w if s < w else math.cos(math.pi * (s - w) / (n - w))
    ),
    "this goes from 1 to 2 or from 2 to 0: the half is missing": (
        lambda s, n, w: (s + 1) / w if s < w else 2 * _cosine((s - w) / (n - w))
    ),
    "this falls along a straight line; a cosine is wanted": (
        lambda s, n, w: (s + 1) / w if s < w else 1 - (s - w) / (n - w)
    ),
    "the cosine takes radians: `math.pi` is a half turn, 180 is not": (
        lambda s, n, w: (s + 1) / w if s < w else 0.5 * (1 + math.cos(180 * (s - w) / (n - w)))
    ),
    "this is a quarter turn, which ends at one half: from 1 to 0 takes half a turn, pi": (
        lambda s, n, w: (s + 1) / w if s < w else _cosine((s - w) / (n - w) / 2)
    ),
    "this is the paper's drop after two thirds; a cosine is wanted": (
        lambda s, n, w: (s + 1) / w if s < w else (1.0 if s < n * 2 / 3 else 0.1)
    ),
    "this is turned over, from 0 up to 1": (lambda s, n, w: (s + 1) / w if s < w else 1 - _cosine((s - w) / (n - w))),
    "the rate itself is not asked for, but the factor on it (1 where it is highest)": (
        lambda s, n, w: 1e-3 * _factor(s, n, w)
    ),
}


def _toy_model() -> nn.Module:
    """A model with DETR's names: a backbone whose first layer is frozen, and a `backbone` in another part's name."""
    model = nn.Module()
    model.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))
    model.backbone[0].requires_grad_(False)
    model.input_proj = nn.Conv2d(4, 8, 1)
    model.transformer = nn.Module()
    model.transformer.after_backbone = nn.LayerNorm(8)
    model.transformer.layer = nn.Linear(8, 8)
    model.query_embed = nn.Embedding(5, 8)
    model.scale = nn.Parameter(torch.ones(()))
    model.class_embed = nn.Linear(8, 3)
    return model


def _what(parameter) -> str:
    if isinstance(parameter, Tensor) and parameter.requires_grad:
        return "a tensor is in a group that is no parameter of the model"
    kind = "a copy or a view of a parameter" if isinstance(parameter, Tensor) else f"a {type(parameter).__name__}"
    return f"{kind} is in a group (`.data`, `.detach()`, a buffer?)"


def _judge(model: nn.Module, rates: Mapping[str, list[float]]) -> None:
    """Raises `Wrong` unless each trained parameter's rates, by name, are the one that it should have."""
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    frozen = sorted(rates.keys() - trained)
    twice = sorted(name for name, found in rates.items() if len(found) > 1)
    missing = sorted(trained - rates.keys())
    if twice:
        raise Wrong(f"{twice[0]} is in two groups: AdamW refuses that, or would move it twice a step")
    if frozen:
        raise Wrong(f"{frozen[0]} is frozen and stands in a group: leave out what has requires_grad False")
    if {"query_embed.weight", "scale"} <= set(missing):
        raise Wrong("query_embed and scale are in no group: go through all of the model's parameters, not some parts")
    if missing and all(name.startswith("backbone.") for name in missing):
        raise Wrong(f"{missing[0]} is in no group: the trained part of the backbone has its own")
    if missing:
        raise Wrong(f"{missing[0]} is in no group: it would keep its first values for ever")
    slow = {name for name, (rate,) in rates.items() if math.isclose(rate, 1e-4)}
    fast = {name for name, (rate,) in rates.items() if math.isclose(rate, 1e-3)}
    backbone = {name for name in trained if name.startswith("backbone.")}
    if slow == backbone and fast == trained - backbone:
        return
    if neither := sorted(trained - slow - fast):
        rate = rates[neither[0]][0]
        raise Wrong(f"{neither[0]} has the rate {rate:g}, which is neither lr (0.001) nor backbone_lr (0.0001)")
    if fast == backbone:
        raise Wrong("the two rates are exchanged: the backbone takes backbone_lr")
    if not slow or not fast:
        raise Wrong("all have one rate: the backbone takes backbone_lr, the rest lr")
    if "transformer.after_backbone.weight" in slow:
        raise Wrong("transformer.after_backbone has the backbone's rate: ask for names that begin with 'backbone.'")
    if "input_proj.weight" in slow:
        raise Wrong("input_proj has the backbone's rate: it is new, and no part of the pretrained network")
    odd = sorted(slow ^ backbone)[0]
    raise Wrong(f"{odd} has the rate {rates[odd][0]:g}, the other part's")


def _plain(fault: str) -> str:
    return str(fault).strip().lower().replace("-", " ").replace("_", " ")


def _byte_mistakes() -> dict[str, float]:
    return {
        "these are numbers; each takes 4 bytes": 4 * TRAINED + FIXED,
        "these are bits; a byte has 8": 32 * (4 * TRAINED + FIXED),
        "these are the weights alone; each trained one has a gradient, and two running means in AdamW": (
            4 * (TRAINED + FIXED)
        ),
        "the numbers that are kept but not trained are missing": 16 * TRAINED,
        "what is not trained has no gradient and no state: it counts once, not four times": 16 * (TRAINED + FIXED),
        "three numbers for each parameter: either the gradient is missing, or one of AdamW's two running means": (
            4 * (3 * TRAINED + FIXED)
        ),
        "two numbers for each parameter: this is plain SGD, AdamW keeps two running means more": (
            4 * (2 * TRAINED + FIXED)
        ),
        "these are 2 bytes a number: with bfloat16 autocast weights, gradients and states stay float32 too": (
            2 * (4 * TRAINED + FIXED)
        ),
        "these are 8 bytes a number: torch's default is float32, 4 bytes": 8 * (4 * TRAINED + FIXED),
        "five numbers for each parameter: weight, gradient and AdamW's two are four": 4 * (5 * TRAINED + FIXED),
    }
