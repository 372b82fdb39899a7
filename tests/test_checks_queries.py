"""The checks of notebook 12: right answers in two styles pass, and each mistake is told by its own name."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from detr_mini.checks import queries as checks
from detr_mini.checks.verdict import Wrong


def says_right(capsys, number):
    assert capsys.readouterr().out.startswith(f"exercise {number} is right. ")


# 1: the instability


def by_loop(before, after, layer):
    changed, objects = 0, 0
    for image in before:
        for old, new in zip(before[image][layer], after[image][layer], strict=True):
            changed += old != new
            objects += 1
    return changed / objects


def by_array(before, after, layer):
    old, new = (np.concatenate([each[image][layer] for image in sorted(before)]) for each in (before, after))
    return (old != new).mean()


def by_tensor(before, after, layer):
    old, new = (torch.tensor(sum((each[image][layer] for image in before), [])) for each in (before, after))
    return (old != new).float().mean()


@pytest.mark.parametrize("right", [by_loop, by_array, by_tensor])
def test_instability_right(right, capsys):
    checks.instability(right)
    says_right(capsys, 1)


def sets_of_queries(before, after, layer):
    gone = sum(len(set(before[i][layer]) - set(after[i][layer])) for i in before)
    return gone / sum(len(before[i][layer]) for i in before)


def sorted_rows(before, after, layer):
    changed = [a != b for i in before for a, b in zip(sorted(before[i][layer]), sorted(after[i][layer]), strict=True)]
    return np.mean(changed)


def zipped_logs(before, after, layer):
    pairs = zip(before.values(), after.values(), strict=True)
    return np.mean([a != b for old, new in pairs for a, b in zip(old[layer], new[layer], strict=False)])


def symmetric_difference(before, after, layer):
    old, new = ({(i, n, q) for i, m in e.items() for n, q in enumerate(m[layer])} for e in (before, after))
    return len(old ^ new) / len(old | new)


def always_last(before, after, layer):
    return by_loop(before, after, -1)


def always_first(before, after, layer):
    return by_loop(before, after, 0)


def over_layers(before, after, layer):
    layers = range(len(next(iter(before.values()))))
    return np.mean([by_loop(before, after, each) for each in layers])


def over_images(before, after, layer):
    return np.mean([by_loop({i: before[i]}, {i: after[i]}, layer) for i in before])


def count(before, after, layer):
    return sum(a != b for i in before for a, b in zip(before[i][layer], after[i][layer], strict=True))


def any_change(before, after, layer):
    return np.mean([before[i][layer] != after[i][layer] for i in before])


def any_other_set(before, after, layer):
    return np.mean([set(before[i][layer]) != set(after[i][layer]) for i in before])


def per_cent(before, after, layer):
    return 100 * by_loop(before, after, layer)


def a_query(before, after, layer):
    return count(before, after, layer) / 10


def stayed(before, after, layer):
    return 1 - by_loop(before, after, layer)


def layer_to_layer(before, after, layer):
    other = (layer + 1) % len(next(iter(after.values())))
    return by_loop({i: [m[layer]] for i, m in after.items()}, {i: [m[other]] for i, m in after.items()}, 0)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (sets_of_queries, "sets of queries"),
        (sorted_rows, "were sorted"),
        (zipped_logs, "order of the log"),
        (symmetric_difference, "counts pairs"),
        (always_last, "another layer's"),
        (always_first, "another layer's"),
        (over_layers, "all layers together"),
        (over_images, "mean of the images"),
        (count, "a number of objects"),
        (any_change, "share of images in which"),
        (any_other_set, "share of images whose set"),
        (per_cent, "per cent"),
        (a_query, "number of queries"),
        (stayed, "share that stayed"),
        (layer_to_layer, "two layers at one point"),
    ],
)
def test_instability_wrong(wrong, said):
    with pytest.raises(Wrong, match=said):
        checks.instability(wrong)


# 2: a self-attention that sees only itself


def by_mask(q, k, v):
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    others = ~torch.eye(q.shape[-2], dtype=torch.bool)
    return scores.masked_fill(others, -torch.inf).softmax(-1) @ v


def by_library(q, k, v):
    allowed = torch.eye(q.shape[-2], dtype=torch.bool)
    return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=allowed)


def one_by_one(q, k, v):
    each = [
        nn.functional.scaled_dot_product_attention(*(x[:, i : i + 1] for x in (q, k, v))) for i in range(q.shape[1])
    ]
    return torch.cat(each, dim=1).numpy()


def its_value(q, k, v):
    return v


@pytest.mark.parametrize("right", [by_mask, by_library, one_by_one, its_value])
def test_alone_right(right, capsys):
    checks.attend_alone(right)
    says_right(capsys, 2)


def usual(q, k, v):
    return nn.functional.scaled_dot_product_attention(q, k, v)


def masked_after(q, k, v):
    weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
    return weights * torch.eye(q.shape[1]) @ v


def masked_with_zero(q, k, v):
    scores = q @ k.mT / q.shape[-1] ** 0.5
    return scores.masked_fill(~torch.eye(q.shape[1]).bool(), 0.0).softmax(-1) @ v


def inverted(q, k, v):
    return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=~torch.eye(q.shape[1]).bool())


def nothing(q, k, v):
    return 0 * v


def mean_of_all(q, k, v):
    return torch.full((q.shape[1], q.shape[1]), 1 / q.shape[1]) @ v


def the_query(q, k, v):
    return q


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (usual, "as usual"),
        (masked_after, "after the softmax"),
        (masked_with_zero, "set to 0"),
        (inverted, "wrong way round"),
        (nothing, "still hear itself"),
        (mean_of_all, "the mean of all"),
        (the_query, "not its value"),
    ],
)
def test_alone_wrong(wrong, said):
    with pytest.raises(Wrong, match=said):
        checks.attend_alone(wrong)


# 3: fewer queries than objects

RIGHT = 155 / 210


@pytest.mark.parametrize("answer", [(RIGHT, "B"), (0.738, " b "), (np.float64(RIGHT), "b"), (torch.tensor(RIGHT), "B")])
def test_too_few_right(answer, capsys):
    checks.too_few(*answer)
    says_right(capsys, 3)


@pytest.mark.parametrize(
    ("ceiling", "letter", "said"),
    [
        (sum(min(1, 10 / t) for t in range(1, 21)) / 20, "B", "mean of the scenes"),
        (0.5, "B", "fullest scene"),
        (10 / 10.5, "B", "every scene for the average one"),
        (1 - RIGHT, "B", "share that is lost"),
        (sum(range(1, 11)) / 210, "B", "gives ten"),
        (100 * RIGHT, "B", "not per cent"),
        (155, "B", "number of objects that can be found"),
        (1, "B", "one box"),
        (RIGHT, "A", "A: a match is one to one"),
        (RIGHT, "c", "C: no object takes a second"),
        (RIGHT, "D", "D: the loss has a value"),
        (RIGHT, "E", "one of the letters"),
    ],
)
def test_too_few_wrong(ceiling, letter, said):
    with pytest.raises(Wrong, match=said):
        checks.too_few(ceiling, letter)


def test_the_ceiling_is_that_of_a_count():
    """Of one scene with each number of objects, what ten queries can find at most."""
    found, shown = 0, 0
    for objects in range(1, 21):
        found += len(list(zip(range(10), range(objects), strict=False)))
        shown += objects
    assert found / shown == RIGHT


@pytest.mark.parametrize("check", [checks.instability, checks.attend_alone])
@pytest.mark.parametrize("stub", [lambda *_: None, lambda *_: ...])
def test_a_stub_is_open(check, stub, capsys):
    check(stub)
    assert " is open" in capsys.readouterr().out


def test_an_answer_left_out_is_open(capsys):
    checks.too_few(..., "B")
    checks.too_few(0.7, ...)
    assert capsys.readouterr().out == "exercise 3 is open\n" * 2
