"""The checks of notebook 04: right answers in two styles pass, and each mistake is told by its own name."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from detr_mini.checks import attention as checks
from detr_mini.checks.verdict import Wrong


def says_right(capsys, number):
    assert capsys.readouterr().out.startswith(f"exercise {number} is right. ")


def weights_of(q, k, scale=None):
    return torch.softmax(q @ k.T / (scale or math.sqrt(q.shape[-1])), dim=-1)


# 1: one head


def loop_attention(q, k, v):
    rows = []
    for query in q.tolist():
        scores = [sum(a * b for a, b in zip(query, key, strict=True)) / len(query) ** 0.5 for key in k.tolist()]
        share = [math.exp(score - max(scores)) for score in scores]
        rows.append([sum(w * x for w, x in zip(share, column, strict=True)) / sum(share) for column in v.T.tolist()])
    return rows


def numpy_attention(q, k, v):
    scores = np.asarray(q) @ np.asarray(k).T / np.sqrt(q.shape[1])
    share = np.exp(scores - scores.max(axis=1, keepdims=True))
    return share / share.sum(axis=1, keepdims=True) @ np.asarray(v)


@pytest.mark.parametrize("right", [F.scaled_dot_product_attention, loop_attention, numpy_attention])
def test_attention_right(right, capsys):
    checks.attention(right)
    says_right(capsys, 1)


def exp_over_sum(q, k, v):
    e = torch.exp(q @ k.T / q.shape[1] ** 0.5)
    return e / e.sum(dim=1, keepdim=True) @ v


ATTENTION = [
    (lambda q, k, v: weights_of(q, k, 1) @ v, "not divided by the root"),
    (lambda q, k, v: weights_of(q, k, q.shape[1]) @ v, "divided by d, not by its root"),
    (lambda q, k, v: weights_of(q, k, len(k) ** 0.5) @ v, "number of keys"),
    (lambda q, k, v: (q @ k.T * q.shape[1] ** 0.5).softmax(1) @ v, "multiplied by the root"),
    (lambda q, k, v: weights_of(q, k, 1) / q.shape[1] ** 0.5 @ v, "after the softmax"),
    (lambda q, k, v: (q @ k.T / q.shape[1] ** 0.5).softmax(0) @ v, "over the queries"),
    (lambda q, k, v: weights_of(q, k), "these are the weights"),
    (lambda q, k, v: q @ k.T / q.shape[1] ** 0.5 @ v, "the softmax is missing"),
    (lambda q, k, v: (q @ k.T / q.shape[1] ** 0.5).exp() @ v, "without the division by the sum"),
    (lambda q, k, v: weights_of(q, k) @ k, "it is the values"),
    (lambda q, k, v: weights_of(q, k, len(q) ** 0.5) @ v, "number of queries"),
    (lambda q, k, v: weights_of(q, k, v.shape[1] ** 0.5) @ v, "the values' width e"),
    (lambda q, k, v: (weights_of(q, k) @ v, weights_of(q, k)), "without the weights"),
    (exp_over_sum, "overflows"),
]


# 2: padding


def cut_off(q, k, v, padding):
    return F.scaled_dot_product_attention(q, k[~padding], v[~padding])


def filled(q, k, v, padding):
    scores = q @ k.T / math.sqrt(q.shape[1])
    return torch.softmax(scores.masked_fill(padding, -math.inf), dim=1) @ v


def renormalised(q, k, v, padding):
    weights = weights_of(q, k) * ~padding
    return (weights / weights.sum(1, keepdim=True) @ v).numpy()


@pytest.mark.parametrize("right", [cut_off, filled, renormalised])
def test_padded_attention_right(right, capsys):
    checks.padded_attention(right)
    says_right(capsys, 2)


def rows_masked(q, k, v, padding):
    scores = q @ k.T / math.sqrt(q.shape[1])
    return (
        (scores.masked_fill(padding[: len(q), None], -math.inf)).softmax(1) @ v
        if len(q) == len(k)
        else filled(q, k, v, padding)
    )


def zero_keys(q, k, v, padding):
    return weights_of(q, k * ~padding[:, None]) @ v


PADDED = [
    (lambda q, k, v, padding: weights_of(q, k) @ v, "as if it were image"),
    (lambda q, k, v, padding: filled(q, k, v, ~padding), "only the padding is looked at"),
    (zero_keys, "a score \\(or a key\\) of 0 is no mask"),
    (lambda q, k, v, padding: weights_of(q, k) @ (v * ~padding[:, None]), "no longer adds up to 1"),
    (lambda q, k, v, padding: (q @ k.T / 2).masked_fill(padding, -1).softmax(1) @ v, "a score of -1"),
    (lambda q, k, v, padding: (q @ k.T / 2).masked_fill(padding, -10).softmax(1) @ v, "a score of -10"),
    (lambda q, k, v, padding: filled(2 * q, k, v, padding), "as in exercise 1"),
    (lambda q, k, v, padding: (q @ k.T / 2 - 1.0 * padding).softmax(1) @ v, "1 taken off"),
    (rows_masked, "only keys, never queries"),
]


# 3: sines


def loop_sines(angle, channels, temperature):
    rows = []
    for a in angle.tolist():
        row = []
        for hand in range(channels // 2):
            frequency = temperature ** (-hand / (channels // 2))
            row += [math.sin(a * frequency), math.cos(a * frequency)]
        rows.append(row)
    return rows


def tensor_sines(angle, channels, temperature):
    divisor = temperature ** (2 * (torch.arange(channels) // 2) / channels)  # as the authors write it
    turned = angle[:, None] / divisor
    return torch.stack([turned[:, 0::2].sin(), turned[:, 1::2].cos()], dim=2).flatten(1)


@pytest.mark.parametrize("right", [loop_sines, tensor_sines])
def test_sine_right(right, capsys):
    checks.sine_1d(right)
    says_right(capsys, 3)


def sines_at(exponent, times=1.0):
    """A solution whose hand i of n has frequency T ** exponent(i, n)."""

    def solution(angle, channels, temperature):
        hand = torch.arange(channels // 2)
        turned = times * angle[:, None] * temperature ** exponent(hand, channels // 2)
        return torch.stack([turned.sin(), turned.cos()], dim=-1).flatten(-2)

    return solution


def blocks(angle, channels, temperature):
    right = tensor_sines(angle, channels, temperature)
    return torch.cat([right[:, 0::2], right[:, 1::2]], dim=1)


def cos_first(angle, channels, temperature):
    return tensor_sines(angle, channels, temperature)[:, [i ^ 1 for i in range(channels)]]


def evenly(angle, channels, temperature):
    frequency = torch.linspace(1, 1 / temperature, channels // 2 + 1)[:-1]
    turned = angle[:, None] * frequency
    return torch.stack([turned.sin(), turned.cos()], dim=-1).flatten(-2)


def evenly_to_the_end(angle, channels, temperature):
    turned = angle[:, None] * torch.linspace(1, 1 / temperature, channels // 2)
    return torch.stack([turned.sin(), turned.cos()], dim=-1).flatten(-2)


def own_frequencies(angle, channels, temperature):
    turned = angle[:, None] / temperature ** (torch.arange(channels) / channels)
    codes = turned.sin()
    codes[:, 1::2] = turned[:, 1::2].cos()
    return codes


SINES = [
    (blocks, "all sines, then all cosines"),
    (cos_first, "the cosine stands before"),
    (sines_at(lambda i, n: -i / (2 * n)), "half as many hands"),
    (sines_at(lambda i, n: i / n), "wants a minus"),
    (sines_at(lambda i, n: -2 * i / n), "counts channels"),
    (sines_at(lambda i, n: -(i + 1) / n), "counted from 1"),
    (sines_at(lambda i, n: -i / (n - 1)), "one hand too few"),
    (sines_at(lambda i, n: -i / n, 2 * math.pi), "2 pi once more"),
    (evenly, "fall evenly; they"),
    (evenly_to_the_end, "fall evenly, and to 1/T"),
    (sines_at(lambda i, n: -i.float()), "T times slower"),
    (own_frequencies, "share one"),
]


# 4: the shift matrix


def loop_shift(shift, channels, temperature, sign=1):
    matrix = [[0.0] * channels for _ in range(channels)]
    for hand in range(channels // 2):
        a, i = shift * temperature ** (-hand / (channels // 2)), 2 * hand
        matrix[i][i] = matrix[i + 1][i + 1] = math.cos(a)
        matrix[i][i + 1], matrix[i + 1][i] = sign * math.sin(a), -sign * math.sin(a)
    return matrix


def solved_shift(shift, channels, temperature):
    places = np.linspace(0, 40, 200)
    before, after = (np.array(loop_sines(torch.tensor(places + s), channels, temperature)) for s in (0, shift))
    return np.linalg.lstsq(before, after, rcond=None)[0].T


@pytest.mark.parametrize("right", [loop_shift, solved_shift])
def test_shift_right(right, capsys):
    checks.shift_matrix(right)
    says_right(capsys, 4)


def shift_blocks(shift, channels, temperature):
    a = shift * temperature ** (-torch.arange(channels // 2) / (channels // 2))
    cos, sin = a.cos().diag(), a.sin().diag()
    return torch.cat([torch.cat([cos, sin], 1), torch.cat([-sin, cos], 1)])


def reflected(shift, channels, temperature):
    right = torch.tensor(loop_shift(shift, channels, temperature))
    below = torch.ones(channels, channels).tril(-1).bool()
    return torch.where(below, -right, right)


def code_of(shift, channels, temperature):
    return tensor_sines(torch.tensor([shift]), channels, temperature)[0]


SHIFTS = [
    (lambda shift, channels, t: loop_shift(-shift, channels, t), "moves back"),
    (lambda shift, channels, t: torch.tensor(loop_shift(shift, channels, t)).T, "transposed"),
    (shift_blocks, "made for all sines, then all cosines"),
    (lambda shift, channels, t: loop_shift(shift, channels, 1.0), "the same angle"),
    (lambda shift, channels, t: loop_shift(math.radians(shift), channels, t), "degrees"),
    (code_of, "the code of k itself"),
    (lambda *arguments: code_of(*arguments).diag(), "scales each channel"),
    (lambda shift, channels, t: loop_shift(2 * math.pi * shift, channels, t), "2 pi once more"),
    (lambda shift, channels, t: loop_shift(shift, channels, t**0.5), "half as many hands"),
    (reflected, "one of the two sines"),
]


# 5: the padded grid


def cumulated(padding):
    y, x = ((~padding).cumsum(dim) for dim in (0, 1))
    return 2 * math.pi * torch.stack([y / y.max(), x / x.max()])


def by_sides(padding):
    height, width = int((~padding).any(1).sum()), int((~padding).any(0).sum())
    y, x = np.mgrid[1:7, 1:8]
    return 2 * np.pi * y / height, 2 * np.pi * x / width


@pytest.mark.parametrize("right", [cumulated, by_sides])
def test_grid_right(right, capsys):
    checks.padded_grid(right)
    says_right(capsys, 5)


def sides(padding):
    return (~padding).any(1).sum(), (~padding).any(0).sum()


def spread(y, x):
    return 2 * math.pi * torch.stack(torch.meshgrid(y, x, indexing="ij"))


def count_padding(padding):
    y, x = (padding.cumsum(dim) for dim in (0, 1))
    return 2 * math.pi * torch.stack([y / y.max(), x / x.max()]) * ~padding[:, :]


def ends_at_two_pi(padding):
    height, width = sides(padding)
    return spread(torch.arange(6) / (height - 1), torch.arange(7) / (width - 1))


def middles(padding):
    height, width = sides(padding)
    return spread((torch.arange(6) + 0.5) / height, (torch.arange(7) + 0.5) / width)


def longer_side(padding):
    return spread(torch.arange(1, 7) / max(sides(padding)), torch.arange(1, 8) / max(sides(padding)))


def by_area(padding):
    counts = torch.stack([(~padding).cumsum(dim) for dim in (0, 1)])
    return 2 * math.pi * counts / (~padding).sum()


def from_zero(padding):
    height, width = sides(padding)
    return spread(torch.arange(6) / height, torch.arange(7) / width)


GRIDS = [
    (lambda padding: spread(torch.arange(1, 7) / 6, torch.arange(1, 8) / 7), "the batch's height and width"),
    (lambda padding: cumulated(padding).flip(0), "x first"),
    (from_zero, "counted from 0"),
    (ends_at_two_pi, "from 0 to 2 pi"),
    (middles, "middles"),
    (lambda padding: cumulated(padding) / (2 * math.pi), "the 2 pi is missing"),
    (lambda padding: torch.stack([(~padding).cumsum(dim) for dim in (0, 1)]), "these are the counts"),
    (count_padding, "the padding is counted"),
    (longer_side, "longer side"),
    (lambda padding: cumulated(padding) / 2, "half a turn"),
    (by_area, "all cells"),
    (lambda padding: cumulated(padding).permute(1, 2, 0), "y, then x, for each cell"),
]

MISTAKES = [
    pytest.param(check, answer, message, id=f"{check.__name__}: {message}")
    for check, cases in (
        (checks.attention, ATTENTION),
        (checks.padded_attention, PADDED),
        (checks.sine_1d, SINES),
        (checks.shift_matrix, SHIFTS),
        (checks.padded_grid, GRIDS),
    )
    for answer, message in cases
]


@pytest.mark.parametrize("check, answer, message", MISTAKES)
def test_each_mistake_is_named(check, answer, message):
    with pytest.raises(Wrong, match=message):
        check(answer)


CHECKS = [checks.attention, checks.padded_attention, checks.sine_1d, checks.shift_matrix, checks.padded_grid]


@pytest.mark.parametrize("number", range(1, 6))
def test_a_stub_is_open(number, capsys):
    CHECKS[number - 1](lambda *arguments: ...)
    assert capsys.readouterr().out == f"exercise {number} is open\n"
