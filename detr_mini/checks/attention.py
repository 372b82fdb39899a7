"""Checks of notebook 04: attention of one head, padding, a position as sines, shifting it, the padded grid."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from detr_mini.checks.verdict import Wrong, ask, compare, exercise

# N queries of the attention · S keys · d width of queries and keys · e width of values · C channels · H, W grid


@exercise(1, "Every layer of DETR that looks at something else does it with these lines.")
def attention(answer: Callable) -> None:
    """`attention(q (N, d), k (S, d), v (S, e))`: the (N, e) answers of one head."""
    for where, queries, keys in (("5 queries, 6 keys", 5, 6), ("one query, three keys", 1, 3)):
        q, k, v = _random(queries, keys)
        got = _sound(ask(answer, q.clone(), k.clone(), v.clone()), where)
        compare(where, got, _attend(q, k, v), _attention_mistakes(q, k, v))
    q, k, v = _random(4, 6)
    where = "scores of some hundreds"
    compare(where, _sound(ask(answer, 60 * q, 60 * k, v), where), _attend(60 * q, 60 * k, v), {})


@exercise(2, "Whatever fills the padding, the answer stays the image's own.")
def padded_attention(answer: Callable) -> None:
    """`padded_attention(q, k, v, padding (S,))`: as `attention`, over the keys where padding is False."""
    for where, queries, keys in (("4 queries, 6 keys", 4, 6), ("5 tokens that look at each other", 5, 5)):
        q, k, v = _random(queries, keys)
        k, v = k * 2, v + 3  # what lies in the padding is not harmless
        padding = torch.arange(keys) >= keys - 2
        got = _sound(ask(answer, q.clone(), k.clone(), v.clone(), padding.clone()), where)
        wanted = _attend(q, k[~padding], v[~padding])
        compare(where, got, wanted, _padding_mistakes(q, k, v, padding))


@exercise(3, "A place is now a vector that a network can read.")
def sine_1d(answer: Callable) -> None:
    """`sine_1d(angle (N,), channels, temperature)`: the (N, C) sines and cosines, interleaved."""
    for where, channels, temperature in (("8 channels, T = 100", 8, 100.0), ("12 channels, T = 20", 12, 20.0)):
        angle = torch.tensor([0.0, 0.5, 1.0, 2.0, 6.0])
        got = ask(answer, angle.clone(), channels, temperature)
        compare(where, got, _sines(angle, _hands(channels, temperature)), _sine_mistakes(angle, channels, temperature))


@exercise(4, "So one matrix inside W_q is enough to look k cells to the side.")
def shift_matrix(answer: Callable) -> None:
    """`shift_matrix(shift, channels, temperature)`: M (C, C) with M @ code(p) = code(p + shift) for every p."""
    for where, shift, channels in (("shift 3, 8 channels", 3.0, 8), ("shift 1, 4 channels", 1.0, 4)):
        got = ask(answer, shift, channels, 100.0)
        compare(where, got, _turns(shift * _hands(channels, 100.0)), _shift_mistakes(shift, channels, 100.0))


@exercise(5, "A cell's angles belong to its image, whatever batch the image travels in.")
def padded_grid(answer: Callable) -> None:
    """`padded_grid(padding (H, W))`: angles (2, H, W) of y, then x; only cells of the image are looked at."""
    for where, height, width in (("a 3 x 5 image in a 6 x 7 grid", 3, 5), ("a 6 x 4 image in a 6 x 7 grid", 6, 4)):
        padding = torch.ones(6, 7, dtype=torch.bool)
        padding[:height, :width] = False
        got = ask(answer, padding.clone())
        got = torch.stack([torch.as_tensor(axis) for axis in got])
        if got.shape != (2, 6, 7):
            raise Wrong(
                f"{where}: your answer has shape {tuple(got.shape)}, wanted (2, 6, 7): y, then x, for each cell"
            )
        inside = (slice(None), slice(height), slice(width))
        mistakes = {message: grid[inside] for message, grid in _grid_mistakes(padding, height, width).items()}
        y, x = _cells(6, 7)
        wanted = 2 * math.pi * torch.stack([y / height, x / width])
        compare(where, got[inside], wanted[inside], mistakes, tolerance=1e-4)


def _random(queries: int, keys: int) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return tuple(torch.randn(rows, width, generator=g) for rows, width in ((queries, 4), (keys, 4), (keys, 3)))


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.T / math.sqrt(q.shape[1])).softmax(dim=1) @ v


def _sound(got, where: str):
    """What came, unless it is a tuple or holds NaN or inf."""
    if isinstance(got, tuple):
        raise Wrong(f"{where}: {len(got)} things came back; only the answers (N, e) are wanted, without the weights")
    if not torch.as_tensor(got).isfinite().all():
        raise Wrong(
            f"{where}: the answer holds NaN or inf; exp of a large score overflows, and a row of -inf alone is 0/0: "
            "torch.softmax takes care of the first, and only keys, never queries, are masked"
        )
    return got


def _attention_mistakes(q: Tensor, k: Tensor, v: Tensor) -> dict[str, Tensor]:
    products, root = q @ k.T, math.sqrt(q.shape[1])
    weights, over_queries = (products / root).softmax(dim=1), (products / root).softmax(dim=0)
    return {
        "the products are not divided by the root of d": products.softmax(dim=1) @ v,
        "divided by d, not by its root": (products / q.shape[1]).softmax(dim=1) @ v,
        "divided by the root of the number of keys, not of d": (products / math.sqrt(len(k))).softmax(dim=1) @ v,
        "divided by the root of the number of queries, not of d": (products / math.sqrt(len(q))).softmax(dim=1) @ v,
        "divided by the root of the values' width e, not of d": (products / math.sqrt(v.shape[1])).softmax(dim=1) @ v,
        "multiplied by the root of d, not divided": (products * root).softmax(dim=1) @ v,
        "divided by the root of d after the softmax, not before it": products.softmax(dim=1) / root @ v,
        "the softmax runs over the queries (dim 0), so a query's weights do not add up to 1": over_queries @ v,
        "these are the weights; the answer is the weighted sum of the values": weights,
        "the scores weigh the values as they are: the softmax is missing": products / root @ v,
        "exp without the division by the sum over the keys": (products / root).exp() @ v,
        "the weights sum up the keys; it is the values that are handed over": weights @ k,
    }


def _padding_mistakes(q: Tensor, k: Tensor, v: Tensor, padding: Tensor) -> dict[str, Tensor]:
    scores = q @ k.T / math.sqrt(q.shape[1])
    weights = scores.softmax(dim=1)
    zero, minus_one, minus_ten = (scores.masked_fill(padding, fill).softmax(dim=1) for fill in (0, -1, -10))
    unscaled = (q @ k.T).masked_fill(padding, -torch.inf).softmax(dim=1)
    return {
        "the padding takes part as if it were image": weights @ v,
        "only the padding is looked at: True means nothing is there": _attend(q, k[padding], v[padding]),
        "a score (or a key) of 0 is no mask: exp(0) = 1 still gets weight": zero @ v,
        "weights or values set to 0 after the softmax: the rest no longer adds up to 1": weights * ~padding @ v,
        "a score of -1 is no mask: it must be -inf": minus_one @ v,
        "a score of -10 is no mask: it must be -inf": minus_ten @ v,
        "the products are not divided by the root of d, as in exercise 1": unscaled @ v,
        "1 taken off the score is no mask: it must become -inf": (scores - padding.float()).softmax(1) @ v,
    }


def _hands(channels: int, temperature: float) -> Tensor:
    """Frequencies (C/2,), from 1 down to nearly 1/T."""
    return temperature ** (-torch.arange(channels // 2) / (channels // 2))


def _sines(angle: Tensor, frequencies: Tensor) -> Tensor:
    turned = angle[:, None] * frequencies
    return torch.stack([turned.sin(), turned.cos()], dim=2).flatten(1)  # (N, C/2, 2) -> (N, C)


def _sine_mistakes(angle: Tensor, channels: int, temperature: float) -> dict[str, Tensor]:
    hand, half = torch.arange(channels // 2), channels // 2
    right = _sines(angle, _hands(channels, temperature))
    apart = torch.cat([right[:, ::2], right[:, 1::2]], dim=1)
    turned = angle[:, None] * temperature ** (-torch.arange(channels) / channels)  # (N, C)
    own = torch.where(torch.arange(channels) % 2 == 0, turned.sin(), turned.cos())
    return {
        "all sines, then all cosines; wanted interleaved: sin, cos, sin, cos": apart,
        "the cosine stands before its sine": right.unflatten(1, (half, 2)).flip(2).flatten(1),
        "the exponent is divided by the channels; there are half as many hands": _sines(
            angle, temperature ** (-hand / channels)
        ),
        "the hands get faster: the exponent wants a minus": _sines(angle, temperature ** (hand / half)),
        "the exponent counts channels (0, 2, 4, ...); it counts hands (0, 1, 2, ...)": _sines(
            angle, temperature ** (-2 * hand / half)
        ),
        "the hands are counted from 1; the fastest has frequency 1": _sines(angle, temperature ** (-(hand + 1) / half)),
        "the last hand is at 1/T: divided by one hand too few": _sines(angle, temperature ** (-hand / (half - 1))),
        "times 2 pi once more; the angle comes in radians": _sines(2 * math.pi * angle, _hands(channels, temperature)),
        "each hand is T times slower than the one before: the exponent is to be divided by the number of hands": _sines(
            angle, temperature ** -hand.float()
        ),
        "every channel has a frequency of its own; sine and cosine of a hand share one": own,
        "the frequencies fall evenly, and to 1/T; they fall by the same factor from hand to hand": _sines(
            angle, torch.linspace(1, 1 / temperature, half)
        ),
        "the frequencies fall evenly; they fall by the same factor from hand to hand": _sines(
            angle, 1 - hand / half * (1 - 1 / temperature)
        ),
    }


def _turns(angles: Tensor) -> Tensor:
    """Rotations on the diagonal, (C, C), that turn each pair (sin, cos) on by its angle."""
    blocks = [torch.tensor([[a.cos(), a.sin()], [-a.sin(), a.cos()]]) for a in angles]
    return torch.block_diag(*blocks)


def _shift_mistakes(shift: float, channels: int, temperature: float) -> dict[str, Tensor]:
    angles, half = shift * _hands(channels, temperature), channels // 2
    cos, sin = torch.diag(angles.cos()), torch.diag(angles.sin())
    code = _sines(torch.tensor([shift]), _hands(channels, temperature))[0]
    apart = torch.cat([torch.cat([cos, sin], dim=1), torch.cat([-sin, cos], dim=1)])
    mirrors = [torch.tensor([[a.cos(), a.sin()], [a.sin(), a.cos()]]) for a in angles]
    return {
        "this moves back by k: a sign is wrong, the matrix is transposed, or cos was put first": _turns(-angles),
        "made for all sines, then all cosines; here they are interleaved": apart,
        "every hand turns by the same angle; hand i turns by k times its frequency": _turns(
            torch.full((half,), float(shift))
        ),
        "degrees, not radians": _turns(angles * math.pi / 180),
        "this is the code of k itself; codes do not add up, they are turned": code,
        "the code of k on the diagonal scales each channel; sin(a + b) needs sin and cos of a": torch.diag(code),
        "times 2 pi once more; the shift comes in radians": _turns(2 * math.pi * angles),
        "the exponent is divided by the channels; there are half as many hands": _turns(
            shift * temperature ** (-torch.arange(half) / channels)
        ),
        "rows (cos, sin) and (sin, cos): one of the two sines wants a minus": torch.block_diag(*mirrors),
    }


def _cells(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Row and column (H, W) of every cell, counted from 1."""
    return torch.meshgrid(torch.arange(1.0, height + 1), torch.arange(1.0, width + 1), indexing="ij")


def _grid_mistakes(padding: Tensor, height: int, width: int) -> dict[str, Tensor]:
    y, x = _cells(*padding.shape)
    batch_height, batch_width = padding.shape
    turn = 2 * math.pi
    return {
        "divided by the batch's height and width, not by the image's": turn
        * torch.stack([y / batch_height, x / batch_width]),
        "x first; wanted y, then x": turn * torch.stack([x / width, y / height]),
        "counted from 0; the first cell counts 1": turn * torch.stack([(y - 1) / height, (x - 1) / width]),
        "from 0 to 2 pi; the count goes from 1, so the first cell is not at 0": turn
        * torch.stack([(y - 1) / (height - 1), (x - 1) / (width - 1)]),
        "the middles of the cells; DETR counts whole cells, the last one is at 2 pi": turn
        * torch.stack([(y - 0.5) / height, (x - 0.5) / width]),
        "between 0 and 1: the 2 pi is missing": torch.stack([y / height, x / width]),
        "these are the counts; they are still to be divided by the last and multiplied by 2 pi": torch.stack([y, x]),
        "the padding is counted and not the image: cumsum wants ~padding": torch.zeros(2, *padding.shape),
        "half a turn: the last cell is at 2 pi, not at pi": turn / 2 * torch.stack([y / height, x / width]),
        "divided by the number of all cells; each axis by its own largest count": turn
        * torch.stack([y, x])
        / (height * width),
        "both axes are divided by the longer side": turn * torch.stack([y, x]) / max(height, width),
    }
