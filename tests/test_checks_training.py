"""The checks of notebook 09: right answers in two styles pass, and each mistake is told by its own name."""

import math

import numpy as np
import pytest

from detr_mini.checkpoints import SHIPPED
from detr_mini.checks import training as checks
from detr_mini.checks.verdict import Wrong
from detr_mini.plots import training as plots


def says_right(capsys, number):
    assert capsys.readouterr().out.startswith(f"exercise {number} is right. ")


# 1: parameter groups


def by_loop(model, lr, backbone_lr):
    backbone, rest = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (backbone if name.startswith("backbone.") else rest).append(parameter)
    return [{"params": rest, "lr": lr}, {"params": backbone, "lr": backbone_lr}]


def by_identity(model, lr, backbone_lr):
    inside = {id(parameter) for parameter in model.backbone.parameters()}
    kept = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return (
        {"params": (p for p in kept if id(p) in inside), "lr": backbone_lr, "name": "backbone"},
        {"params": (p for p in kept if id(p) not in inside), "lr": lr},
    )


def one_group_each(model, lr, backbone_lr):
    return [
        {"params": [parameter], "lr": backbone_lr if name.split(".")[0] == "backbone" else lr}
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    ]


@pytest.mark.parametrize("right", [by_loop, by_identity, one_group_each])
def test_parameter_groups_right(right, capsys):
    checks.parameter_groups(right)
    says_right(capsys, 1)


def split(model, backbone, trained=True):
    """Parameters that `backbone` names, and the others."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad or not trained]
    return [p for n, p in named if backbone(n)], [p for n, p in named if not backbone(n)]


def with_frozen(model, lr, backbone_lr):
    slow, fast = split(model, lambda n: n.startswith("backbone."), trained=False)
    return [{"params": fast, "lr": lr}, {"params": slow, "lr": backbone_lr}]


def word_anywhere(model, lr, backbone_lr):
    slow, fast = split(model, lambda n: "backbone" in n)
    return [{"params": fast, "lr": lr}, {"params": slow, "lr": backbone_lr}]


def exchanged(model, lr, backbone_lr):
    return by_loop(model, backbone_lr, lr)


def all_and_backbone(model, lr, backbone_lr):
    everything = [p for p in model.parameters() if p.requires_grad]
    backbone = [p for p in model.backbone.parameters() if p.requires_grad]
    return [{"params": everything, "lr": lr}, {"params": backbone, "lr": backbone_lr}]


def parts_by_hand(model, lr, backbone_lr):
    rest = [*model.transformer.parameters(), *model.input_proj.parameters(), *model.class_embed.parameters()]
    backbone = [p for p in model.backbone.parameters() if p.requires_grad]
    return [{"params": rest, "lr": lr}, {"params": backbone, "lr": backbone_lr}]


def projection_too(model, lr, backbone_lr):
    slow, fast = split(model, lambda n: n.startswith(("backbone.", "input_proj")))
    return [{"params": fast, "lr": lr}, {"params": slow, "lr": backbone_lr}]


def backbone_forgotten(model, lr, backbone_lr):
    return by_loop(model, lr, backbone_lr)[:1]


def default_rate(model, lr, backbone_lr):
    rest, backbone = by_loop(model, lr, backbone_lr)
    return [{"params": rest["params"]}, backbone]


def one_rate(model, lr, backbone_lr):
    return [{"params": [p for p in model.parameters() if p.requires_grad], "lr": lr}]


def names_only(model, lr, backbone_lr):
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    return [
        {"params": [n for n in names if not n.startswith("backbone.")], "lr": lr},
        {"params": [n for n in names if n.startswith("backbone.")], "lr": backbone_lr},
    ]


def named_pairs(model, lr, backbone_lr):
    return [{"params": list(model.named_parameters()), "lr": lr}]


def copies(model, lr, backbone_lr):
    rest, backbone = by_loop(model, lr, backbone_lr)
    return [{**group, "params": [p.data for p in group["params"]]} for group in (rest, backbone)]


def dict_of_lists(model, lr, backbone_lr):
    rest, backbone = by_loop(model, lr, backbone_lr)
    return {"rest": rest["params"], "backbone": backbone["params"]}


def ten_times_too_slow(model, lr, backbone_lr):
    return by_loop(model, lr, backbone_lr / 10)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (with_frozen, "is frozen and stands in a group"),
        (word_anywhere, "ask for names that begin with"),
        (exchanged, "the two rates are exchanged"),
        (all_and_backbone, "is in two groups"),
        (parts_by_hand, "query_embed and scale are in no group"),
        (projection_too, "input_proj has the backbone's rate"),
        (backbone_forgotten, "the trained part of the backbone has its own"),
        (default_rate, "without 'lr' AdamW takes its default"),
        (one_rate, "all have one rate"),
        (names_only, "'params' holds names"),
        (named_pairs, "or pairs with names"),
        (copies, "a copy or a view of a parameter"),
        (dict_of_lists, "wanted a list of dicts"),
        (ten_times_too_slow, "rate 1e-05"),
    ],
)
def test_parameter_groups_wrong(wrong, said):
    with pytest.raises(Wrong, match=said):
        checks.parameter_groups(wrong)


# 2: the rate over time


def by_branch(step, steps, warmup):
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def by_numpy(step, steps, warmup):
    rise = (np.arange(warmup) + 1) / max(warmup, 1)
    fall = np.cos(np.linspace(0, np.pi, steps - warmup, endpoint=False)) / 2 + 0.5
    return np.concatenate([rise, fall])[step]


@pytest.mark.parametrize("right", [by_branch, by_numpy])
def test_rate_factor_right(right, capsys):
    checks.rate_factor(right)
    says_right(capsys, 2)


def cosine(share):
    return 0.5 * (1 + math.cos(math.pi * share))


def from_zero(step, steps, warmup):
    return step / warmup if step < warmup else by_branch(step, steps, warmup)


def counted_from_the_start(step, steps, warmup):
    return by_branch(step, steps, warmup) if step < warmup else cosine(step / steps)


def too_long(step, steps, warmup):
    return by_branch(step, steps, warmup) if step < warmup else cosine((step - warmup) / steps)


def without_warmup(step, steps, warmup):
    return cosine(step / steps)


def product(step, steps, warmup):
    return min(1.0, (step + 1) / max(warmup, 1)) * cosine(step / steps)


def bare_cosine(step, steps, warmup):
    return by_branch(step, steps, warmup) if step < warmup else math.cos(math.pi * (step - warmup) / (steps - warmup))


def degrees(step, steps, warmup):
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(180 * (step - warmup) / (steps - warmup)))


def linear(step, steps, warmup):
    return by_branch(step, steps, warmup) if step < warmup else 1 - (step - warmup) / (steps - warmup)


def drop(step, steps, warmup):
    return by_branch(step, steps, warmup) if step < warmup else (1.0 if step < steps * 2 / 3 else 0.1)


def quarter(step, steps, warmup):
    return by_branch(step, steps, warmup) if step < warmup else cosine((step - warmup) / (steps - warmup) / 2)


def turned_over(step, steps, warmup):
    return by_branch(step, steps, warmup) if step < warmup else 1 - by_branch(step, steps, warmup)


def the_rate(step, steps, warmup):
    return 1e-3 * by_branch(step, steps, warmup)


def doubled(step, steps, warmup):
    return by_branch(step, steps, warmup) if step < warmup else 2 * by_branch(step, steps, warmup)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (from_zero, "first step's rate is zero"),
        (counted_from_the_start, "counted from step 0"),
        (too_long, "takes `steps` more"),
        (without_warmup, "there is no warm-up"),
        (product, "are multiplied"),
        (bare_cosine, "a negative rate climbs"),
        (degrees, "takes radians"),
        (linear, "along a straight line"),
        (drop, "the paper's drop"),
        (quarter, "a quarter turn"),
        (turned_over, "turned over"),
        (the_rate, "but the factor on it"),
        (doubled, "the half is missing"),
    ],
)
def test_rate_factor_wrong(wrong, said):
    with pytest.raises(Wrong, match=said):
        checks.rate_factor(wrong)


# 3: three runs without a name


@pytest.fixture(scope="module")
def truth():
    cases = plots.unlabelled(plots.gallery(SHIPPED.parent / "results" / "gallery"))
    return {letter: log.name.replace("-", " ") for letter, log in cases.items()}


def test_diagnosis_right(truth, capsys):
    checks.diagnosis(truth)
    says_right(capsys, 3)
    checks.diagnosis({letter.lower(): f" {fault.replace(' ', '-').capitalize()} " for letter, fault in truth.items()})
    says_right(capsys, 3)


@pytest.mark.parametrize(("said", "is_really"), list(checks.CONTRADICTED))
def test_each_confusion_has_its_own_evidence(said, is_really, truth):
    letter = next(letter for letter, fault in truth.items() if fault == is_really)
    with pytest.raises(Wrong, match=f"{letter} is not {said}") as caught:
        checks.diagnosis(truth | {letter: said})
    assert checks.CONTRADICTED[said, is_really] in str(caught.value)
    assert len(set(checks.CONTRADICTED.values())) == len(checks.CONTRADICTED)


def test_other_wrong_diagnoses(truth):
    with pytest.raises(Wrong, match="its L1 part ends at 0"):
        checks.diagnosis(truth | {"B": "boxes in pixels"})
    with pytest.raises(Wrong, match="C has no answer"):
        checks.diagnosis({"A": truth["A"], "B": truth["B"]})
    with pytest.raises(Wrong, match="is none of labels off by one"):
        checks.diagnosis(truth | {"A": "overfitting"})
    with pytest.raises(Wrong, match="wanted a dict"):
        checks.diagnosis("ABC")


# 4: bytes

P, N = checks.TRAINED, checks.FIXED


@pytest.mark.parametrize("right", [4 * (4 * P + N), float(16 * P + 4 * N), 661_727_488])
def test_fixed_bytes_right(right, capsys):
    checks.fixed_bytes(right)
    says_right(capsys, 4)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (4 * (P + N), "the weights alone"),
        (16 * P, "kept but not trained are missing"),
        (16 * (P + N), "it counts once"),
        (12 * P + 4 * N, "three numbers for each parameter"),
        (8 * P + 4 * N, "plain SGD"),
        (2 * (4 * P + N), "2 bytes a number"),
        (8 * (4 * P + N), "8 bytes a number"),
        (32 * (4 * P + N), "these are bits"),
        (4 * P + N, "each takes 4 bytes"),
        (20 * P + 4 * N, "five numbers"),
        ((16 * P + 4 * N) / 2**20, "in MiB"),
        (0.66, "in GB"),
        ("660 MB", "wanted one number, got str"),
    ],
)
def test_fixed_bytes_wrong(wrong, said):
    with pytest.raises(Wrong, match=said):
        checks.fixed_bytes(wrong)


# open


def stub_of_three(a, b, c): ...


@pytest.mark.parametrize(
    ("check", "stub", "number"),
    [
        (checks.parameter_groups, stub_of_three, 1),
        (checks.rate_factor, stub_of_three, 2),
        (checks.diagnosis, ..., 3),
        (checks.fixed_bytes, ..., 4),
    ],
)
def test_a_stub_is_open(check, stub, number, capsys):
    check(stub)
    assert capsys.readouterr().out == f"exercise {number} is open\n"
