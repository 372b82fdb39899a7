"""The checks of notebook 05: right answers in two styles pass, and each mistake is told by its own name."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from detr_mini.checks import transformer as checks
from detr_mini.checks.verdict import Wrong
from detr_mini.transformer import Transformer


def says_right(capsys, number):
    assert capsys.readouterr().out.startswith(f"exercise {number} is right. ")


# 1: an encoder layer


def plain_layer(parts, tokens, positions, padding):
    placed = tokens + positions
    found, _ = parts.self_attn(placed, placed, tokens, padding)
    x = parts.norm1(tokens + found)
    return parts.norm2(x + parts.linear2(parts.linear1(x).relu()))


def library_layer(parts, tokens, positions, padding):
    """With the library's attention, and the network token by token."""
    attention = nn.MultiheadAttention(16, 4, batch_first=True)
    attention.load_state_dict(parts.self_attn.state_dict())
    placed = tokens + positions
    found = attention(placed, placed, tokens, key_padding_mask=padding)[0]
    x = F.layer_norm(tokens + found, (16,), parts.norm1.weight, parts.norm1.bias)
    images = []
    for image in x:
        images.append(torch.stack([parts.norm2(t + parts.linear2(F.relu(parts.linear1(t)))) for t in image]))
    return torch.stack(images).detach().numpy()


@pytest.mark.parametrize("right", [plain_layer, library_layer])
def test_encoder_layer_right(right, capsys):
    checks.encoder_layer(right)
    says_right(capsys, 1)


def ffn(parts, x):
    return parts.linear2(F.relu(parts.linear1(x)))


def layer_with(attend=None, feed=ffn, first=None, last=None):
    """The layer with one step replaced by a learner's."""

    def layer(parts, tokens, positions, padding):
        if attend is None:
            found = parts.self_attn(tokens + positions, tokens + positions, tokens, padding)[0]
        else:
            found = attend(parts, tokens, positions, padding)
        x = parts.norm1(tokens + found) if first is None else first(parts, tokens, positions, found)
        return parts.norm2(x + feed(parts, x)) if last is None else last(parts, tokens, x, feed(parts, x))

    return layer


def in_values(parts, tokens, positions, padding):
    x = tokens + positions
    return parts.self_attn(x, x, x, padding)[0]


def added_for_good(parts, tokens, positions, padding):
    return plain_layer(parts, tokens + positions, torch.zeros_like(positions), padding)


def pre_norm(parts, tokens, positions, padding):
    x = parts.norm1(tokens)
    tokens = tokens + parts.self_attn(x + positions, x + positions, x, padding)[0]
    return tokens + ffn(parts, parts.norm2(tokens))


def pre_norm_of_placed(parts, tokens, positions, padding):
    x = parts.norm1(tokens + positions)
    tokens = tokens + parts.self_attn(x, x, parts.norm1(tokens), padding)[0]
    return tokens + ffn(parts, parts.norm2(tokens))


def with_positions_everywhere(parts, tokens, positions, padding):
    placed = tokens + positions
    x = parts.norm1(tokens + parts.self_attn(placed, placed, tokens, padding)[0])
    return parts.norm2(x + ffn(parts, x + positions))


def in_place(parts, tokens, positions, padding):
    tokens += parts.self_attn(tokens + positions, tokens + positions, tokens, padding)[0]
    tokens = parts.norm1(tokens)
    return parts.norm2(tokens + ffn(parts, tokens))


def with_weights(parts, tokens, positions, padding):
    return plain_layer(parts, tokens, positions, padding), None


LAYERS = [
    (layer_with(in_values), "went into the values too"),
    (added_for_good, "for good: the sum"),
    (
        layer_with(first=lambda parts, tokens, positions, found: parts.norm1(tokens + positions + found)),
        "though not to the values",
    ),
    (layer_with(lambda parts, t, p, padding: parts.self_attn(t, t, t, padding)[0]), "positions were not used"),
    (layer_with(lambda parts, t, p, padding: parts.self_attn(t + p, t, t, padding)[0]), "to the queries only"),
    (layer_with(lambda parts, t, p, padding: parts.self_attn(t, t + p, t, padding)[0]), "to the keys only"),
    (layer_with(lambda parts, t, p, padding: parts.self_attn(t + p, t + p, t)[0]), "padding was not handed"),
    (layer_with(first=lambda parts, t, p, found: parts.norm1(found)), "is not added to the tokens"),
    (layer_with(last=lambda parts, t, x, said: parts.norm2(said)), "feed-forward answer is not added"),
    (
        layer_with(
            first=lambda parts, t, p, found: parts.norm1(found), last=lambda parts, t, x, said: parts.norm2(said)
        ),
        "both sums are missing",
    ),
    (pre_norm, "this is pre-norm"),
    (layer_with(first=lambda parts, t, p, found: t + found, last=lambda parts, t, x, said: x + said), "norms are"),
    (layer_with(last=lambda parts, t, x, said: x + said), "norm2 is missing"),
    (layer_with(first=lambda parts, t, p, found: t + found), "norm1 is missing"),
    (layer_with(last=lambda parts, t, x, said: parts.norm1(x + said)), "norm1 was used twice"),
    (
        layer_with(
            first=lambda parts, t, p, found: parts.norm2(t + found),
            last=lambda parts, t, x, said: parts.norm1(x + said),
        ),
        "exchanged",
    ),
    (
        layer_with(
            first=lambda parts, t, p, found: t + parts.norm1(found),
            last=lambda parts, t, x, said: x + parts.norm2(said),
        ),
        "normed before the sum",
    ),
    (layer_with(last=lambda parts, t, x, said: x + parts.norm2(said)), "feed-forward answer was normed before"),
    (with_positions_everywhere, "into the feed-forward network too"),
    (lambda parts, t, p, padding: plain_layer(parts, t, p, ~padding), "padding was negated"),
    (lambda *given: plain_layer(*given).masked_fill(given[3][..., None], 0), "leave them, nobody looks"),
    (pre_norm_of_placed, "with the positions normed as well"),
    (layer_with(feed=lambda parts, x: parts.linear2(parts.linear1(x))), "ReLU between"),
    (layer_with(feed=lambda parts, x: parts.linear2(F.gelu(parts.linear1(x)))), "GELU"),
    (layer_with(feed=lambda parts, x: F.relu(ffn(parts, x))), "a ReLU too many"),
    (layer_with(last=lambda parts, t, x, said: parts.norm2(x + ffn(parts, t))), "reads the first tokens"),
    (layer_with(last=lambda parts, t, x, said: parts.norm2(t + said)), "second sum starts from the first tokens"),
    (layer_with(last=lambda parts, t, x, said: x), "feed-forward network is missing"),
    (layer_with(first=lambda parts, t, p, found: t), "the attention is missing"),
    (in_place, "changes its input tokens in place"),
    (with_weights, "only the tokens"),
]


# 2: runs through the decoder


def counted(objects):
    """By playing it through."""
    runs, said = 0, 0
    while True:
        runs += 1  # gives the next object, or the stop
        if said == objects:
            return [runs, 1, 1]
        said += 1


@pytest.mark.parametrize("right", [lambda objects: (objects + 1, 1, 1), counted])
def test_passes_right(right, capsys):
    checks.passes(right)
    says_right(capsys, 2)


PASSES = [
    (lambda n: (n, 1, 1), "how does it know that there are no more"),
    (lambda n: (n + 2, 1, 1), "start is given"),
    (lambda n: (5 * n + 1, 1, 1), "class and box, not five numbers"),
    (lambda n: (sum(range(1, n + 2)), 1, 1), "places computed anew"),
    (lambda n: (1, 1, 1), "each run has to know"),
    (lambda n: (n + 1, n + 1, 1), "the mask hides"),
    (lambda n: (n + 1, n, 1), "no run waits for another"),
    (lambda n: (n + 1, 1, 3), "one run for all layers together"),
    (lambda n: (n + 1, 1, 6), "all 6 layers of the paper's decoder"),
    (lambda n: (n + 1, 1, n), "that is what at once means"),
    (lambda n: (n + 1, 1, n + 1), "no stop has to be said"),
    (lambda n: (n + 1, 1, 100), "rows of one tensor"),
    (lambda n: (n + 1, 1, min(n, 1)), "an image without objects needs its run"),
    (lambda n: n + 1, "three numbers are wanted"),
]


# 3: parameters without gradient

DEAD = {f"{name}.b_k" for name in checks.ATTENTIONS} | {
    f"decoder.layers.0.self_attn.{part}" for part in ("W_q", "W_k", "W_v", "b_q")
}
FIRST = "decoder.layers.0.self_attn."


def by_rule():
    """As a reader would, from the list of all names."""
    first = [f"{FIRST}{part}" for part in ("W_q", "W_k", "W_v", "b_q", "b_k")]
    return [name for name in sorted(checks._all_pieces()) if name.endswith("b_k") or name in first]


@pytest.mark.parametrize("right", [DEAD, frozenset(DEAD), by_rule()])
def test_dead_pieces_right(right, capsys):
    checks.dead_pieces(right)
    says_right(capsys, 3)


def test_all_pieces_are_the_transformers():
    names = set()
    for name, _ in Transformer(width=16, feedforward=16).named_parameters():
        if "in_proj" in name:
            stem, _, kind = name.rpartition(".in_proj_")
            names |= {f"{stem}.{'W' if kind == 'weight' else 'b'}_{part}" for part in "qkv"}
        else:
            names.add(name)
    assert names == checks._all_pieces()


def every(ending):
    return {name for name in checks._all_pieces() if name.endswith(ending)}


DEAD_SETS = [
    (DEAD | {FIRST + "b_v"}, "only it comes out"),
    (DEAD | {FIRST + "out_proj.weight", "decoder.layers.0.norm1.weight"}, "only while b_v is zero"),
    (DEAD | {f"decoder.layers.0.multihead_attn.W_{part}" for part in "qk"}, "looks at tokens that differ"),
    (
        DEAD | {f"decoder.layers.{layer}.self_attn.W_{part}" for layer in range(6) for part in "qkv"},
        "after one layer",
    ),
    (DEAD | every("W_k"), "only the bias b_k adds"),
    (DEAD | every("encoder.layers.0.self_attn.W_k"), "only the bias b_k adds"),
    (DEAD | every("b_q"), "b_q is not like b_k"),
    ((DEAD | every("b_v")) - {FIRST + "b_v"}, "whatever the weights are"),
    (DEAD - every("b_k"), "nothing of the key biases"),
    (DEAD - {name for name in every("b_k") if "multihead" in name}, "holds for all 18 alike"),
    (every("b_k"), "the other is in decoder layer 0"),
    (DEAD - {FIRST + "W_v"}, "multiplied with states that are zero"),
    (every("b_k") | {FIRST + "W_v"}, "does it matter with which weights"),
    (DEAD - {FIRST + "b_q"}, r"self_attn\.b_q is missing: .* nothing but make weights"),
    (DEAD - {FIRST + "W_k"}, r"self_attn\.W_k is missing: .* nothing but make weights"),
    (DEAD | {"decoder.layers.0.norm1.bias"}, "does get a gradient"),
    ({"decoder.layers.0.self_attn.in_proj_weight"}, "there is no piece"),
    ("decoder.layers.0.self_attn.W_q", "a set of names is wanted"),
]


# 4: where attention costs as much as the rest


def searched(width, feedforward):
    tokens = 1
    while 2 * tokens * tokens * width < tokens * (4 * width * width + 2 * width * feedforward):
        tokens += 1
    return tokens


@pytest.mark.parametrize("right", [lambda width, inner: 2 * width + inner, searched])
def test_break_even_right(right, capsys):
    checks.break_even(right)
    says_right(capsys, 4)


BREAK_EVEN = [
    (lambda d, f: (4 * d * d + d * f) / (2 * d), "two matrices of D x F"),
    (lambda d, f: (3 * d * d + 2 * d * f) / (2 * d), "four matrices of D x D, not three"),
    (lambda d, f: (d * d + 2 * d * f) / (2 * d), "one projection"),
    (lambda d, f: f, "four projections are missing"),
    (lambda d, f: 2 * d, "feed-forward network is missing"),
    (lambda d, f: (4 * d * d + 2 * d * f) / d, "scores and mixing the values"),
    (lambda d, f: (4 * d * d + 2 * d * f) / (2 * d * 8), "heads share the width"),
    (lambda d, f: 4 * d * d + 2 * d * f, "divide by that of one pair"),
]


MISTAKES = [
    *((checks.encoder_layer, *each) for each in LAYERS),
    *((checks.passes, *each) for each in PASSES),
    *((checks.dead_pieces, *each) for each in DEAD_SETS),
    *((checks.break_even, *each) for each in BREAK_EVEN),
]


@pytest.mark.parametrize(("check", "wrong", "said"), MISTAKES)
def test_each_mistake_is_named(check, wrong, said):
    with pytest.raises(Wrong, match=said):
        check(wrong)


def stub(*arguments): ...


@pytest.mark.parametrize(
    ("check", "answer", "number"),
    [
        (checks.encoder_layer, stub, 1),
        (checks.passes, stub, 2),
        (checks.dead_pieces, ..., 3),
        (checks.break_even, stub, 4),
    ],
)
def test_a_stub_is_open(check, answer, number, capsys):
    check(answer)
    assert capsys.readouterr().out == f"exercise {number} is open\n"
