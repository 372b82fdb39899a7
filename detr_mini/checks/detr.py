"""Checks of notebook 08: a decoder layer's parameters, a cross-attention's multiply-adds, other classes."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from detr_mini.checks.verdict import Wrong, ask, compare, exercise
from detr_mini.detr import DETR, DETRConfig
from detr_mini.transformer import DecoderLayer

# D width · F inner width · S tokens · Q queries · K classes

WIDTH, INNER = 256, 2048  # D and F of exercise 1
KEEP = (4, 0, 3)  # classes kept of six, not in order: old labels, at the place of their new ones


@exercise(1, "Six of them and one norm are the decoder's 9,473,024 parameters.")
def decoder_layer(answer: int) -> None:
    """The number of parameters of one decoder layer with D = 256 and F = 2,048."""
    if isinstance(answer, bool) or not isinstance(answer, int | float):
        raise Wrong(f"wanted one number, got {type(answer).__name__}")
    layer = DecoderLayer(WIDTH, 8, INNER, 0.0, False)
    right = sum(parameter.numel() for parameter in layer.parameters())
    compare("one decoder layer", answer, right, _layer_mistakes(WIDTH, INNER), tolerance=0)


@exercise(2, "Most of it is keys and values made of tokens, anew in each decoder layer.")
def cross_attention_work(answer: Callable) -> None:
    """`cross_attention_work(queries, tokens, width)`: multiply-adds of one cross-attention, projections included."""
    for queries, tokens, width in ((100, 850, 256), (10, 64, 96), (7, 5, 12)):
        got = ask(answer, queries, tokens, width)
        right = 2 * (queries + tokens) * width**2 + 2 * queries * tokens * width
        where = f"{queries} queries, {tokens} tokens, width {width}"
        compare(where, got, right, _work_mistakes(queries, tokens, width), tolerance=0)


@exercise(3, "The rest of the model never knew how many classes there are.")
def change_classes(answer: Callable) -> None:
    """`change_classes(model, keep)`: a new DETR of the classes `keep`, in that order, "no object" last."""
    model = _random_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = torch.randn(1, 3, 32, 40, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        old = model(images)
        changed = ask(answer, model, list(KEEP))
        _same_model(model, before)
        _built_for(changed)
        new = changed.eval()(images)
        _rest_is_kept(changed, before)
        _head_is_not_new(changed, before)
        mistakes = _head_mistakes(old.logits, model)
        compare("logits", new.logits, old.logits[..., [*KEEP, -1]], mistakes, tolerance=1e-4)
        compare("boxes", new.boxes, old.boxes, {}, tolerance=1e-4)


def _layer_mistakes(width: int, inner: int) -> dict[str, int]:
    """What a count that leaves something out, or has something twice, comes to."""
    attention, norm = 4 * (width * width + width), 2 * width
    linear = (width * inner + inner) + (inner * width + width)
    right = 2 * attention + linear + 3 * norm
    bare = 2 * 4 * width * width + 2 * width * inner
    return {
        "this is an encoder layer; a decoder layer has a second attention, and a third norm with it": (
            attention + linear + 2 * norm
        ),
        "one attention is missing, or in_proj was taken for one matrix in both: there are two attentions, and in each "
        "in_proj holds three matrices, one below the other, (3 D, D)": right - attention,
        "the third norm is missing: there is one for each of the three sub-layers": right - norm,
        "the three norms are missing, each with a factor and a shift a channel": right - 3 * norm,
        "a norm has two numbers a channel, a factor and a shift": right - 3 * width,
        "all biases are missing, those of the norms too": bare + 3 * width,
        "the biases of all linear layers are missing": bare + 3 * norm,
        "all biases and the norms are missing": bare,
        "the biases of the attentions are missing, four of D in each": right - 2 * 4 * width,
        "the biases of the feed-forward network are missing, F and D": right - inner - width,
        "in_proj's weight is (3 D, D): you counted its three biases, but one matrix": right - 2 * 2 * width * width,
        "out_proj is missing, the last matrix of each attention": right - 2 * (width * width + width),
        "the heads share the D channels out: eight heads have no more parameters than one": (
            right + 7 * 2 * 3 * (width * width + width)
        ),
        "the feed-forward network has two layers, to F and back to D": right - (inner * width + width),
        "the feed-forward network is missing": right - linear,
        "a layer has one feed-forward network, behind its two attentions": right + linear,
        "the norm behind the last layer belongs to the stack of six, not to a layer": right + norm,
        "these are all six layers; wanted is one": 6 * right,
        "these are all six layers and the last norm; wanted is one layer": 6 * right + norm,
    }


def _work_mistakes(queries: int, tokens: int, width: int) -> dict[str, int]:
    once, products = width**2, 2 * queries * tokens * width  # a projection of one vector; both products
    right = 2 * (queries + tokens) * once + products
    return {
        "these are operations, a multiplication and an addition each; wanted are multiply-adds": 2 * right,
        "this is a self-attention among the tokens; here queries ask, and only they get an answer": (
            4 * tokens * once + 2 * tokens**2 * width
        ),
        "this is a self-attention among the queries; keys and values come from the tokens": (
            4 * queries * once + 2 * queries**2 * width
        ),
        "only queries are projected to queries, only answers go through out_proj: two projections are of Q vectors": (
            4 * tokens * once + products
        ),
        "keys and values are made of the tokens: two of the four projections are of S vectors": (
            4 * queries * once + products
        ),
        "the four projections are missing, D x D for each vector": products,
        "the two products are missing: queries by keys, and weights by values": right - products,
        "the product of the weights with the values is missing; it costs as much as queries by keys": (
            right - products // 2
        ),
        "the last projection, out_proj, is missing; it works on the Q answers": right - queries * once,
        "the values are missing; they are projected from the tokens as the keys are": right - tokens * once,
        "heads share the width out, Q x S scores of D/h each: eight of them cost no more than one": (
            right + 7 * products
        ),
        "each of the Q x S scores costs D multiply-adds, not one": right - products + 2 * queries * tokens,
        "out_proj works on the answers, of which there is one for each query": (queries + 3 * tokens) * once + products,
        "two of the four projections are of Q vectors and two of S, none of both": (
            4 * (queries + tokens) * once + products
        ),
        "this is a self-attention of queries and tokens together; here queries ask, and tokens are asked": (
            4 * (queries + tokens) * once + 2 * (queries + tokens) ** 2 * width
        ),
        "a projection is done for each vector, times Q or S": 4 * once + products,
        "the feed-forward network is another part; wanted is the attention alone": (
            right + 2 * queries * width * INNER
        ),
    }


def _random_model() -> DETR:
    """A small model of six classes in which no number has its initial value, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = DETRConfig.mini(num_classes=6, queries=5, width=16, encoder_layers=1, decoder_layers=2, feedforward=16)
        model = DETR(config)
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
        for name, statistics in model.backbone.named_buffers():
            if name.endswith(("mean", "var")):
                nn.init.uniform_(statistics, 0.5, 1.5)
    return model.eval()


def _same_model(model: DETR, before: dict[str, Tensor]) -> None:
    now = model.state_dict()
    if any(now[name].shape != tensor.shape for name, tensor in before.items()):
        raise Wrong("the model that you were given has another head now: build a new one, others may hold the old")
    if any(not torch.equal(now[name], tensor) for name, tensor in before.items()):
        raise Wrong("the weights of the model that you were given have changed: copy before you write into them")


def _built_for(changed: DETR) -> None:
    """The new model's head and configuration agree on the number of classes."""
    if not isinstance(changed, DETR):
        raise Wrong(f"wanted a DETR, got {type(changed).__name__}")
    rows, said, wanted = len(changed.class_embed.weight), changed.config.num_classes, len(KEEP)
    if rows == wanted:
        raise Wrong(f'the head has {rows} rows for {wanted} classes: "no object" needs one too')
    if rows == 7:
        raise Wrong("the head still has all seven rows of the old model")
    if rows != wanted + 1:
        raise Wrong(f'the head has {rows} rows, {wanted} classes and "no object" make {wanted + 1}')
    if said == wanted + 1:
        raise Wrong(f'config.num_classes is {said}: it counts the classes, and "no object" is not one of them')
    if said != wanted:
        raise Wrong(f"the head is new, but config.num_classes is still {said}: a checkpoint would not load again")


def _rest_is_kept(changed: DETR, before: dict[str, Tensor]) -> None:
    now = changed.state_dict()
    lost = [name for name, tensor in before.items() if "class_embed" not in name and not torch.equal(now[name], tensor)]
    if not lost:
        return
    parameters = {name for name, _ in changed.named_parameters()}
    if parameters.isdisjoint(lost):
        raise Wrong(f"{lost[0]} is not the old model's: batch-norm's statistics are buffers; copy the state dict")
    parts = sorted({name.split(".")[0] for name in lost})
    raise Wrong(f"new random weights in {', '.join(parts)}: all but the class head is to be kept")


def _head_is_not_new(changed: DETR, before: dict[str, Tensor]) -> None:
    now = changed.class_embed
    old = [before["class_embed.weight"], before["class_embed.bias"]]
    if not any(torch.isin(new, numbers).any() for new, numbers in zip((now.weight, now.bias), old, strict=True)):
        raise Wrong("the class head is new and random: it wants the rows of the old one that keep names")


def _head_mistakes(logits: Tensor, model: DETR) -> dict[str, Tensor]:
    """Messages, and the logits (L, B, Q, 4) that these mistakes give."""
    keep, bias = list(KEEP), model.class_embed.bias
    rows = [*keep, -1]
    without_bias = logits - bias
    return {
        "the rows are in the order of the old labels; new label i is class keep[i]": logits[..., [*sorted(keep), -1]],
        "these are the first rows of the old head, whatever keep says": logits[..., [0, 1, 2, -1]],
        "these are the first rows of the old head: its first classes, and one more class as no object": (
            logits[..., [0, 1, 2, 3]]
        ),
        '"no object" is the last row, not the first': logits[..., [-1, *keep]],
        'the last row is to be the old "no object"; row 3 of the old head is a class': logits[..., [*keep, 3]],
        "the weights are right, the biases are missing": without_bias[..., rows],
        "the biases are the first four of the old head": without_bias[..., rows] + bias[: len(rows)],
        "the biases are right, the weights are not": bias[rows].expand_as(logits[..., rows]),
        "keep counts from 0, as labels do": logits[..., [k - 1 for k in keep] + [-1]],
    }
