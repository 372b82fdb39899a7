"""Checks of notebook 05: an encoder layer, passes for N objects, parameters without gradient, where attention costs."""

from collections.abc import Callable, Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detr_mini.checks.verdict import Wrong, ask, compare, exercise
from detr_mini.transformer import EncoderLayer

# B images · S tokens · D width · F inner width · N objects

ATTENTIONS = (
    *(f"encoder.layers.{layer}.self_attn" for layer in range(6)),
    *(f"decoder.layers.{layer}.{kind}" for layer in range(6) for kind in ("self_attn", "multihead_attn")),
)
FIRST = "decoder.layers.0.self_attn"
KEY_BIASES = frozenset(f"{attention}.b_k" for attention in ATTENTIONS)


@exercise(1, "Six of these, one after the other, are DETR's encoder.")
def encoder_layer(answer: Callable) -> None:
    """`encoder_layer(parts, tokens (B, S, D), positions (B, S, D), padding (B, S))`: post-norm, the tokens (B, S, D).

    `parts` holds self_attn, linear1, linear2, norm1 and norm2.
    """
    parts = _random_parts()
    g = torch.Generator().manual_seed(1)
    tokens, positions = torch.randn(2, 2, 6, 16, generator=g)  # (B, S, D) each
    for where, padding in (("no padding", torch.zeros(2, 6).bool()), ("2 of 6 tokens padded", _padded())):
        given = tokens.clone(), positions.clone(), padding.clone()
        got = ask(answer, parts, *given)
        if isinstance(got, tuple):
            raise Wrong(f"{where}: {len(got)} things came back; only the tokens (B, S, D) are wanted")
        if not torch.equal(given[0], tokens):
            raise Wrong(f"{where}: your function changes its input tokens in place (+= does); make a new tensor")
        with torch.no_grad():
            wanted, _ = parts(tokens, positions, padding)
            mistakes = _layer_mistakes(parts, tokens, positions, padding)
        compare(where, got, wanted, mistakes, tolerance=1e-4)


@exercise(2, "This is what decoding in parallel saves, at the price of a number of slots that is fixed beforehand.")
def passes(answer: Callable) -> None:
    """`passes(objects)`: runs through the decoder one by one, one by one in training, and all at once."""
    for objects in (4, 0, 1, 100):
        got = ask(answer, objects)
        where = f"{objects} objects"
        try:
            one_by_one, training, at_once = got
        except (TypeError, ValueError):
            raise Wrong(f"{where}: three numbers are wanted: one by one, one by one in training, all at once") from None
        compare(f"{where}, one by one", one_by_one, objects + 1, _emission_mistakes(objects))
        compare(f"{where}, one by one in training", training, 1, _training_mistakes(objects))
        compare(f"{where}, all at once", at_once, 1, _at_once_mistakes(objects))


@exercise(3, "Two reasons, 22 pieces; the next cells measure both.")
def dead_pieces(answer: Collection[str]) -> None:
    """Names of the pieces without gradient: R50's transformer, post-norm, dropout off, random biases."""
    if isinstance(answer, str) or not isinstance(answer, Collection):
        raise Wrong("a set of names is wanted, such as {'encoder.layers.0.norm1.weight'}")
    given = set(answer)
    if unknown := sorted(name for name in given if name not in _all_pieces()):
        raise Wrong(f"there is no piece {unknown[0]!r}; all names are in `names`")
    right = KEY_BIASES | {f"{FIRST}.{part}" for part in ("W_q", "W_k", "W_v", "b_q")}
    for test, message in _DEAD_MISTAKES:
        if test(given):
            raise Wrong(message)
    if too_many := sorted(given - right):
        raise Wrong(f"{too_many[0]} does get a gradient (such names in your set: {len(too_many)})")
    if missing := sorted(right - given):
        raise Wrong(
            f"{missing[0]} is missing: W_q, b_q and W_k of decoder layer 0's self-attention do nothing but make "
            "weights, and there the weights do not matter"
        )


@exercise(4, "At DETR's usual 850 tokens most of a layer is not attention; with DC5 it is.")
def break_even(answer: Callable) -> None:
    """`break_even(width, feedforward)`: the tokens at which all pairs cost as much as the rest of an encoder layer."""
    for width, inner in ((256, 2048), (96, 384)):
        got = ask(answer, width, inner)
        mistakes = {
            "the feed-forward network has two matrices of D x F": 2 * width + inner / 2,
            "the answers are projected as well: four matrices of D x D, not three": 1.5 * width + inner,
            "one projection of D x D; there are four": width / 2 + inner,
            "this compares with the feed-forward network alone: the four projections are missing": inner,
            "this compares with the four projections alone: the feed-forward network is missing": 2 * width,
            "two products for each pair of tokens: scores and mixing the values": 4 * width + 2 * inner,
            "heads share the width: 8 heads of D/8 cost what one of D does": (2 * width + inner) / 8,
            "this is the cost of the rest for one token; divide by that of one pair": 4 * width**2 + 2 * width * inner,
        }
        compare(f"D = {width}, F = {inner}", got, 2 * width + inner, mistakes)


def _random_parts() -> EncoderLayer:
    """A layer whose every parameter is drawn, so that a forgotten bias or norm shows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts = EncoderLayer(16, 4, 32, 0.0, pre_norm=False).eval()
        for parameter in parts.parameters():
            nn.init.normal_(parameter, std=0.4)
    return parts


def _padded() -> Tensor:
    padding = torch.zeros(2, 6, dtype=torch.bool)
    padding[1, 4:] = True
    return padding


def _layer_mistakes(parts: EncoderLayer, tokens: Tensor, positions: Tensor, padding: Tensor) -> dict[str, Tensor]:
    placed, norm1, norm2 = tokens + positions, parts.norm1, parts.norm2

    def attend(query=placed, key=placed, value=tokens, mask=padding):
        return parts.self_attn(query, key, value, mask)[0]

    def think(x, activation=F.relu):
        return parts.linear2(activation(parts.linear1(x)))

    def finish(x):
        return norm2(x + think(x))

    x = norm1(tokens + attend())
    before = tokens + attend(norm1(tokens) + positions, norm1(tokens) + positions, norm1(tokens))
    placed_before = tokens + attend(norm1(placed), norm1(placed), norm1(tokens))
    return {
        "the positions went into the values too; there content alone is handed over": finish(
            norm1(tokens + attend(value=placed))
        ),
        "the positions are added to the tokens for good: the sum behind the attention wants the bare tokens": finish(
            norm1(placed + attend(value=placed))
        ),
        "the positions are added to the tokens for good, though not to the values": finish(norm1(placed + attend())),
        "the positions were not used": finish(norm1(tokens + attend(tokens, tokens))),
        "the positions went to the queries only, the keys want them too": finish(norm1(tokens + attend(key=tokens))),
        "the positions went to the keys only, the queries want them too": finish(norm1(tokens + attend(query=tokens))),
        "the padding was not handed to the attention": finish(norm1(tokens + attend(mask=None))),
        "the padding was negated: True already means that there is no image": finish(
            norm1(tokens + attend(mask=~padding))
        ),
        "the padded tokens were set to zero; leave them, nobody looks at them": finish(x).masked_fill(
            padding[..., None], 0
        ),
        "the attention's answer is not added to the tokens": finish(norm1(attend())),
        "the feed-forward answer is not added to what went in": norm2(think(x)),
        "both sums are missing": norm2(think(norm1(attend()))),
        "this is pre-norm: here each norm stands behind its sum": before + think(norm2(before)),
        "this is pre-norm, with the positions normed as well": placed_before + think(norm2(placed_before)),
        "the norms are missing": tokens + attend() + think(tokens + attend()),
        "norm2 is missing": x + think(x),
        "norm1 is missing": finish(tokens + attend()),
        "norm1 was used twice; the second sum has norm2": norm1(x + think(x)),
        "norm1 and norm2 are exchanged": norm1(norm2(tokens + attend()) + think(norm2(tokens + attend()))),
        "the answers were normed before the sum; the sum is to be normed": tokens
        + norm1(attend())
        + norm2(think(tokens + norm1(attend()))),
        "the feed-forward answer was normed before the sum; the sum is to be normed": x + norm2(think(x)),
        "the positions went into the feed-forward network too; it reads the tokens alone": norm2(
            x + think(x + positions)
        ),
        "the ReLU between the two linear layers is missing": norm2(x + think(x, lambda inner: inner)),
        "GELU stands between the linear layers; DETR has ReLU": norm2(x + think(x, F.gelu)),
        "a ReLU too many: there is none behind linear2": norm2(x + F.relu(think(x))),
        "the feed-forward network reads the first tokens, not what the attention made of them": norm2(
            x + think(tokens)
        ),
        "the second sum starts from the first tokens; it wants what norm1 gave": norm2(tokens + think(x)),
        "this is the half with the attention: the feed-forward network is missing": x,
        "this is the half with the network: the attention is missing": finish(tokens),
    }


def _emission_mistakes(objects: int) -> dict[str, int]:
    return {
        "one run for each object finds them; how does it know that there are no more? One more says so": objects,
        "the start is given and needs no run; one for each object and one for the stop": objects + 2,
        "a run emits a whole object, class and box, not five numbers one by one": 5 * objects + 1,
        "this counts the places computed anew in all runs; asked are the runs": (objects + 1) * (objects + 2) // 2,
        "it cannot be one: each run has to know what the run before has said": 1,
    }


def _training_mistakes(objects: int) -> dict[str, int]:
    return {
        "in training the true objects are known and go in together; the mask hides from each place what "
        "comes after it": objects + 1,
        "in training the true objects are known, no run waits for another": objects,
        "without any run nothing is learned": 0,
    }


def _at_once_mistakes(objects: int) -> dict[str, int]:
    return {
        "an image without objects needs its run too: that it is empty is found out by it": 0,
        "one run for all layers together: a run goes through the whole decoder": 3,
        "one run for all 6 layers of the paper's decoder together: a run goes through the whole decoder": 6,
        "all queries run together: that is what at once means": objects,
        "no stop has to be said: the other queries answer no object in the same run": objects + 1,
        "all 100 queries are rows of one tensor, and run together": 100,
    }


def _all_pieces() -> frozenset[str]:
    """Names of all pieces: parameters, with the fused projections cut into W and b of q, k, v."""
    names = set()
    for stack, norms in (("encoder", 2), ("decoder", 3)):
        for layer in range(6):
            parts = [f"norm{number}" for number in range(1, norms + 1)] + ["linear1", "linear2"]
            names |= {f"{stack}.layers.{layer}.{part}.{kind}" for part in parts for kind in ("weight", "bias")}
    names |= {"decoder.norm.weight", "decoder.norm.bias"}
    for attention in ATTENTIONS:
        names |= {f"{attention}.{kind}_{part}" for kind in "Wb" for part in "qkv"}
        names |= {f"{attention}.out_proj.{kind}" for kind in ("weight", "bias")}
    return frozenset(names)


def _of_first(given: set[str]) -> set[str]:
    return {name.rpartition(".")[2] for name in given if name.startswith(f"{FIRST}.")}


_DEAD_MISTAKES = (
    (
        lambda given: any(name.endswith("W_k") and name.startswith("encoder") for name in given),
        "W_k makes keys that differ from token to token, so the weights change with it; only the bias b_k adds the "
        "same to all scores of a query",
    ),
    (
        lambda given: f"{FIRST}.b_v" in given,
        "b_v of decoder layer 0's self-attention does get a gradient: where the input is zero, only it comes out",
    ),
    (
        lambda given: {f"{FIRST}.out_proj.weight", "decoder.layers.0.norm1.weight"} & given,
        "out_proj and norm1 of decoder layer 0 are silent only while b_v is zero, as at plain initialisation; "
        "here the biases are random",
    ),
    (
        lambda given: any(name.startswith("decoder.layers.0.multihead_attn.W") for name in given),
        "the cross-attention of decoder layer 0 looks at tokens that differ: where a query looks does matter",
    ),
    (
        lambda given: any(name.startswith("decoder.layers.1.self_attn.W") for name in given),
        "after one layer the states are no longer all alike: the self-attention of layer 1 matters",
    ),
    (
        lambda given: any(name.endswith("b_q") for name in given - {f"{FIRST}.b_q"}),
        "b_q is not like b_k: it meets every key, b_q . k, and these products differ from key to key",
    ),
    (
        lambda given: any(name.endswith("b_v") for name in given),
        "b_v is handed over whatever the weights are: it reaches every answer",
    ),
    (
        lambda given: not any(name.endswith("b_k") for name in given - {f"{FIRST}.b_k"}),
        "nothing of the key biases: b_k adds q . b_k to all scores of a query, and what does the softmax do then?",
    ),
    (
        lambda given: KEY_BIASES - given and KEY_BIASES & given,
        "some attentions' key biases are missing: the reason holds for all 18 alike",
    ),
    (
        lambda given: _of_first(given) <= {"b_k"},
        "the key biases are one reason; the other is in decoder layer 0, where the states are zeros",
    ),
    (
        lambda given: "W_v" not in _of_first(given),
        "W_v of decoder layer 0's self-attention is multiplied with states that are zero: what is its gradient?",
    ),
    (
        lambda given: not {"W_q", "W_k"} & _of_first(given),
        "in decoder layer 0 all values are the same vector: does it matter with which weights they are mixed?",
    ),
)
