"""Checks of notebook 12: the instability, a self-attention that sees only itself, and fewer queries than objects."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from detr_mini.checks.verdict import Wrong, ask, compare, exercise

# Q queries · h heads · d width of a head

Matches = dict[int, list[list[int]]]  # image id: decoder layer: the query of each object
QUERIES, MOST = 10, 20  # of exercise 3: ten queries, 1 to 20 objects a scene


@exercise(1, "You can now read from a log when a training has decided who answers for what.")
def instability(answer: Callable) -> None:
    """`instability(before, after, layer)`: the share of all objects whose query in that layer is another one."""
    for where, (before, after, layer) in _logs().items():
        given = {image: [list(row) for row in match] for image, match in before.items()}
        got = ask(answer, given, {image: [list(row) for row in match] for image, match in after.items()}, layer)
        wanted = _share(_changed(before, after, layer))
        mistakes = {message: mistake(before, after, layer) for message, mistake in _LOG_MISTAKES.items()}
        compare(where, got, wanted, mistakes)


@exercise(2, "Alone, a query hears its own value and nothing else; that is what the rest of the section uses.")
def attend_alone(answer: Callable) -> None:
    """`attend_alone(q, k, v)`, each (h, Q, d): what attention gives if each query may look at itself only."""
    for where, (heads, queries, width) in {"2 heads, 4 queries": (2, 4, 8), "1 head, 7 queries": (1, 7, 3)}.items():
        g = torch.Generator().manual_seed(queries)
        q, k, v = torch.randn(3, heads, queries, width, generator=g)
        got = ask(answer, q.clone(), k.clone(), v.clone())
        mistakes = {message: mistake(q, k, v) for message, mistake in _ALONE_MISTAKES.items()}
        compare(where, got, v, mistakes)


@exercise(3, "A ceiling can be computed before the first step of training, and no training lifts it.")
def too_few(best_recall: float, left_over: str) -> None:
    """The best recall of ten queries where scenes show 1 to 20 objects, each number equally often; and a letter."""
    shown = sum(range(1, MOST + 1))
    mistakes = {
        "the mean of the scenes' recalls counts an object in a crowd less than one that is alone; add up the objects "
        "that can be found, and divide by all objects": sum(min(1, QUERIES / t) for t in range(1, MOST + 1)) / MOST,
        "this is the fullest scene's (by accident also the share of scenes that lose nothing); the others lose fewer "
        "objects, or none, and asked is the share of objects": QUERIES / MOST,
        "this is the number of objects that can be found; divide it by all objects": _ceiling() * shown,
        "this takes every scene for the average one; a scene with few objects cannot lend its spare queries to a "
        "crowded one": QUERIES * MOST / shown,
        "this is the share that is lost (by accident also that of scenes with up to ten objects): the ceiling is what "
        "is left, and a scene with more than ten gives ten": 1 - _ceiling(),
    }
    if isinstance(best_recall, (int, float)) and math.isclose(best_recall, 100 * _ceiling(), abs_tol=0.5):
        raise Wrong("best_recall: a share between 0 and 1 is wanted, not per cent")
    if best_recall == 1:
        raise Wrong("best_recall: a query gives one box, so of 20 objects ten queries find at most ten")
    compare("best_recall", float(best_recall), _ceiling(), mistakes, tolerance=1e-3)
    letters = {
        "a": "A: a match is one to one, so an object cannot share a query with another",
        "c": "C: no object takes a second query, and no query a second object; that was the rule that made "
        "duplicates in 03",
        "d": "D: the loss has a value, and gradient; ten of the twelve objects are learned from",
    }
    letter = str(left_over).strip().lower()
    if letter in letters:
        raise Wrong(f"left_over, {letters[letter]}")
    if letter != "b":
        raise Wrong(f"left_over: one of the letters A, B, C, D is wanted, got {left_over!r}")


def _logs() -> dict[str, tuple[Matches, Matches, int]]:
    before = {3: [[1, 9, 4], [4, 3, 8]], 7: [[3], [0]], 9: [[5, 8, 3, 4], [6, 2, 3, 4]], 12: [[6, 0, 1], [6, 3, 1]]}
    after = {3: [[9, 1, 4], [3, 4, 8]], 7: [[3], [8]], 9: [[5, 8, 3, 1], [6, 2, 3, 9]], 12: [[0, 6, 1], [6, 3, 1]]}
    reordered = {image: after[image] for image in (12, 7, 9, 3)}
    late = {image: [*match, match[1]] for image, match in before.items()}
    later = {image: [*match, [query + 1 for query in match[1]]] for image, match in reordered.items()}
    return {
        "the second layer of four images": (before, after, 1),
        "its first layer": (before, after, 0),
        "the images in another order": (before, reordered, 0),
        "three layers, the first": (late, later, 0),
        "three layers, the last": (late, later, -1),
    }


def _changed(before: Matches, after: Matches, layer: int) -> list[list[bool]]:
    """For each image, whether each object has another query."""
    return [
        [old != new for old, new in zip(before[image][layer], after[image][layer], strict=True)] for image in before
    ]


def _share(changed: list[list[bool]]) -> float:
    flat = [each for image in changed for each in image]
    return sum(flat) / len(flat)


def _sets(before: Matches, after: Matches, layer: int) -> float:
    """Queries that left, of all objects: an exchange within an image goes unseen."""
    left = sum(len(set(before[image][layer]) - set(after[image][layer])) for image in before)
    return left / sum(len(match[layer]) for match in before.values())


def _sorted(before: Matches, after: Matches, layer: int) -> float:
    ranked = [{image: [sorted(row) for row in match] for image, match in each.items()} for each in (before, after)]
    return _share(_changed(*ranked, layer))


def _pairs(before: Matches, after: Matches, layer: int) -> float:
    """Pairs (query, object) that are in one point only, of all pairs of both."""
    old, new = (
        {(image, number, query) for image, match in each.items() for number, query in enumerate(match[layer])}
        for each in (before, after)
    )
    return len(old ^ new) / len(old | new)


def _in_order(before: Matches, after: Matches, layer: int) -> float:
    """Images by their place in the log, not by their number."""
    old, new = ([query for match in each.values() for query in match[layer]] for each in (before, after))
    return sum(a != b for a, b in zip(old, new, strict=True)) / len(old)


def _all_layers(before: Matches, after: Matches, layer: int) -> float:
    each = [_share(_changed(before, after, index)) for index in range(len(next(iter(before.values()))))]
    return sum(each) / len(each)


def _mean_of_images(before: Matches, after: Matches, layer: int) -> float:
    shares = [sum(image) / len(image) for image in _changed(before, after, layer)]
    return sum(shares) / len(shares)


def _between_layers(before: Matches, after: Matches, layer: int) -> float:
    """The layer asked for against the one after it, at the later point."""
    other = (layer + 1) % len(next(iter(after.values())))
    return _share([[a != b for a, b in zip(m[layer], m[other], strict=True)] for m in after.values()])


def _count(before: Matches, after: Matches, layer: int) -> int:
    return sum(map(sum, _changed(before, after, layer)))


def _another_layer(before: Matches, after: Matches, layer: int) -> float:
    return _share(_changed(before, after, 0 if layer else -1))


def _stayed(before: Matches, after: Matches, layer: int) -> float:
    return 1 - _share(_changed(before, after, layer))


def _images(before: Matches, after: Matches, layer: int) -> float:
    return _share([[any(image)] for image in _changed(before, after, layer)])


def _sets_of_images(before: Matches, after: Matches, layer: int) -> float:
    """Images whose set of queries in use is another one."""
    return _share([[set(before[image][layer]) != set(after[image][layer])] for image in before])


def _per_cent(before: Matches, after: Matches, layer: int) -> float:
    return 100 * _share(_changed(before, after, layer))


def _of_queries(before: Matches, after: Matches, layer: int) -> float:
    return _count(before, after, layer) / QUERIES


_LOG_MISTAKES: dict[str, Callable] = {
    "these are the sets of queries in use: where two objects exchange their queries, both have changed": _sets,
    "the queries were sorted; the first number belongs to the first object and must stay there": _sorted,
    "these are the images in the order of the log: look an image up by its number, `after[image]`": _in_order,
    "this counts pairs: a change takes one pair away and brings another, and is one object": _pairs,
    "this is another layer's: take the one that is asked for": _another_layer,
    "these are all layers together: take the one that is asked for": _all_layers,
    "this compares two layers at one point; wanted is one layer at two points": _between_layers,
    "the mean of the images' shares lets a lonely object count more: all changes by all objects": _mean_of_images,
    "this is a number of objects; divide it by all objects": _count,
    "this is the share that stayed": _stayed,
    "this is the share of images in which anything changed; asked is the share of objects": _images,
    "this is the share of images whose set of queries is another one; asked is the share of objects": _sets_of_images,
    "this is per cent; a share between 0 and 1 is wanted": _per_cent,
    "this was divided by the number of queries: most of them have no object to lose": _of_queries,
}


def _weights(q: Tensor, k: Tensor) -> Tensor:
    return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1)


def _eye(q: Tensor) -> Tensor:
    return torch.eye(q.shape[-2], dtype=torch.bool)


def _others(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    return scores.masked_fill(_eye(q), -math.inf).softmax(-1) @ v


def _scores_at_zero(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT / math.sqrt(q.shape[-1]) * _eye(q)).softmax(-1) @ v


_ALONE_MISTAKES: dict[str, Callable] = {
    "this is attention as usual: every query still sees all the others": lambda q, k, v: _weights(q, k) @ v,
    "the weights of the others were set to zero after the softmax, so what is left adds up to less than 1: mask the "
    "scores before it": lambda q, k, v: (_weights(q, k) * _eye(q)) @ v,
    "the others' scores were set to 0, and softmax gives 0 a weight: minus infinity is needed": _scores_at_zero,
    "the mask is the wrong way round: each query sees all but itself": _others,
    "the sub-layer answers nothing at all: a query must still hear itself, as it would if it were the only one": (
        lambda q, k, v: torch.zeros_like(v)
    ),
    "each query hears the mean of all: equal weights are still company": lambda q, k, v: v.mean(
        -2, keepdim=True
    ).expand_as(v),
    "this is the query, not its value": lambda q, k, v: q,
}


def _ceiling() -> float:
    return sum(min(QUERIES, t) for t in range(1, MOST + 1)) / sum(range(1, MOST + 1))
