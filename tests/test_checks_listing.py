"""The checks of notebook 07: right answers in two styles pass, and each mistake is told by its own name."""

import numpy as np
import pytest
import torch
from torch import nn

from detr_mini.checks import listing as checks
from detr_mini.checks.verdict import Wrong


def says_right(capsys, number):
    assert capsys.readouterr().out.startswith(f"exercise {number} is right. ")


# 1: shapes

RIGHT = {
    "features": (1, 2048, 16, 22),
    "h": (1, 128, 16, 22),
    "pos": (352, 128),
    "tokens": (1, 352, 128),
    "states": (1, 100, 128),
    "logits": (1, 100, 21),
    "boxes": (1, 100, 4),
}


@pytest.mark.parametrize("right", [RIGHT, {name: torch.Size(size) for name, size in reversed(RIGHT.items())}])
def test_shapes_right(right, capsys):
    checks.shapes(right)
    says_right(capsys, 1)


def test_shapes_written_as_lists_are_right(capsys):
    checks.shapes({name: list(size) for name, size in RIGHT.items()})
    says_right(capsys, 1)


SHAPES = [
    ("features", (1, 2048, 15, 21), "each halving rounds up"),
    ("features", (1, 2048, 16, 21), "each halving rounds up"),
    ("features", (1, 2048, 22, 16), "height stands before width"),
    ("features", (1, 2048, 32, 44), "five halvings, not four"),
    ("features", (1, 16, 22, 2048), "channels come before rows"),
    ("features", (1, 512, 16, 22), "2,048 channels; 512"),
    ("features", (2048, 16, 22), "the first axis is missing"),
    ("h", (1, 2048, 16, 22), "makes D channels"),
    ("h", (1, 256, 16, 22), "hidden_dim is 128"),
    ("pos", (16, 22, 128), "laid into one axis"),
    ("pos", (1, 128, 16, 22), "channels come last"),
    ("pos", 352, "wanted a tuple"),
    ("pos", (352, 64), "half of the channels"),
    ("pos", (2500, 128), "only as many rows of the tables"),
    ("pos", (1, 352, 128), "whatever the batch"),
    ("tokens", (1, 336, 128), "16 \\* 22"),
    ("tokens", ..., "wanted a tuple"),
    ("tokens", (1, 128, 352), "the channels stand last"),
    ("tokens", (352, 1, 128), "tokens first"),
    ("states", (1, 352, 128), "once for each query, not for each token"),
    ("states", (1, 128, 100), "one row a query"),
    ("states", (100, 1, 128), "queries first"),
    ("logits", (1, 100, 20), "K \\+ 1"),
    ("logits", (1, 100, 92), "20 classes, not for COCO's"),
    ("boxes", (1, 352, 4), "one answer for each query"),
    ("boxes", (100, 4), "the first axis is missing"),
]


@pytest.mark.parametrize(("name", "wrong", "message"), SHAPES)
def test_shapes_mistakes(name, wrong, message):
    with pytest.raises(Wrong, match=f"^{name} .*{message}"):
        checks.shapes(RIGHT | {name: wrong})


def test_a_name_that_is_missing_or_no_dict():
    for answer in ({name: size for name, size in RIGHT.items() if name != "pos"}, list(RIGHT.values())):
        with pytest.raises(Wrong, match="wanted a dict with the names features, h, pos"):
            checks.shapes(answer)


# 2: a batch


def parts(model, images):
    h = model.conv(model.backbone(images))
    H, W = h.shape[-2:]
    columns = model.col_embed[:W].expand(H, -1, -1)
    rows = model.row_embed[:H, None].expand(-1, W, -1)
    return h, columns, rows


def heads(model, tokens, queries):
    states = model.transformer(tokens, queries)
    return model.linear_class(states), model.linear_bbox(states).sigmoid()


def tokens_of(h):
    return h.flatten(2).transpose(1, 2)


def expanded(model, images):
    h, columns, rows = parts(model, images)
    pos = torch.cat([columns, rows], dim=-1).flatten(0, 1)
    return heads(model, pos + tokens_of(h), model.query_pos.expand(len(images), -1, -1))


def one_by_one(model, images):
    found = [expanded(model, image[None]) for image in images]
    return [torch.cat(part).numpy() for part in zip(*found, strict=True)]


def stacked_by_hand(model, images):
    h, _, _ = parts(model, images)
    rows = [
        torch.stack([torch.cat([model.col_embed[x], model.row_embed[y]]) + image[:, y, x] for y, x in np.ndindex(2, 3)])
        for image in h
    ]
    return heads(model, torch.stack(rows), torch.stack([model.query_pos] * len(images)))


@pytest.mark.parametrize("right", [expanded, one_by_one, stacked_by_hand])
def test_batch_right(right, capsys):
    checks.batch(right)
    says_right(capsys, 2)


def exchanged(model, images):
    h, columns, rows = parts(model, images)
    pos = torch.cat([rows, columns], dim=-1).flatten(0, 1)
    return heads(model, pos + tokens_of(h), model.query_pos.repeat(len(images), 1, 1))


def reshaped(model, images):
    h, columns, rows = parts(model, images)
    pos = torch.cat([columns, rows], dim=-1).flatten(0, 1)
    return heads(model, pos + h.reshape(len(images), 6, 32), model.query_pos.repeat(len(images), 1, 1))


def one_sequence(model, images):
    h, columns, rows = parts(model, images)
    tokens = torch.cat([columns, rows], dim=-1).flatten(0, 1) + tokens_of(h)
    return heads(model, tokens.reshape(1, -1, 32), model.query_pos[None])


def looked_at_by_all(model, images):
    h, columns, rows = parts(model, images)
    tokens = torch.cat([columns, rows], dim=-1).flatten(0, 1) + tokens_of(h)
    everything = tokens.reshape(1, -1, 32).repeat(len(images), 1, 1)
    return heads(model, everything, model.query_pos.repeat(len(images), 1, 1))


def the_first_alone(model, images):
    return tuple(part.expand(len(images), -1, -1) for part in expanded(model, images[:1]))


def queries_mixed(model, images):
    h, columns, rows = parts(model, images)
    tokens = torch.cat([columns, rows], dim=-1).flatten(0, 1) + tokens_of(h)
    queries = model.query_pos.repeat(len(images), 1).view(100, len(images), 32).transpose(0, 1)
    return heads(model, tokens, queries)


def positions_forgotten(model, images):
    h, _, _ = parts(model, images)
    return heads(model, tokens_of(h), model.query_pos.expand(len(images), -1, -1))


def zeros_for_queries(model, images):
    h, columns, rows = parts(model, images)
    pos = torch.cat([columns, rows], dim=-1).flatten(0, 1)
    return heads(model, pos + tokens_of(h), torch.zeros(len(images), 100, 32))


def column_by_column(model, images):
    h, columns, rows = parts(model, images)
    pos = torch.cat([columns, rows], dim=-1).transpose(0, 1).flatten(0, 1)
    return heads(model, pos + tokens_of(h), model.query_pos.expand(len(images), -1, -1))


def without_sigmoid(model, images):
    logits, boxes = expanded(model, images)
    return logits, boxes.logit()


def probabilities(model, images):
    logits, boxes = expanded(model, images)
    return logits.softmax(-1), boxes


def queries_before_images(model, images):
    return tuple(part.transpose(0, 1) for part in expanded(model, images))


def flat(model, images):
    return tuple(part.flatten(0, 1) for part in expanded(model, images))


def boxes_alone(model, images):
    return expanded(model, images)[1]


BATCH = [
    (exchanged, "rows and columns are exchanged"),
    (reshaped, "no transpose"),
    (one_sequence, "one sequence"),
    (looked_at_by_all, "tokens of all images"),
    (the_first_alone, "the first one's answers"),
    (queries_mixed, "queries of the images are mixed"),
    (positions_forgotten, "codes of position are missing"),
    (zeros_for_queries, "input is zeros in the full model"),
    (column_by_column, "column by column"),
    (without_sigmoid, "sigmoid that brings boxes into 0..1 is missing"),
    (probabilities, "the listing returns logits"),
    (queries_before_images, "queries stand before images"),
    (flat, "images and queries lie in one axis"),
    (boxes_alone, "wanted two things back"),
]


# 3: parameters


def arithmetic(hidden_dim, num_classes):
    D, K = hidden_dim, num_classes
    return {
        "conv": 2048 * D + D,
        "linear_class": D * (K + 1) + (K + 1),
        "linear_bbox": D * 4 + 4,
        "query_pos": 100 * D,
        "row_embed": 50 * D // 2,
        "col_embed": 50 * D // 2,
        "encoder layer": 4 * (D * D + D) + (2048 * D + 2048) + (2048 * D + D) + 4 * D,
    }


def built(hidden_dim, num_classes):
    modules = {
        "conv": nn.Conv2d(2048, hidden_dim, 1),
        "linear_class": nn.Linear(hidden_dim, num_classes + 1),
        "linear_bbox": nn.Linear(hidden_dim, 4),
        "query_pos": nn.Embedding(100, hidden_dim),
        "row_embed": nn.Embedding(50, hidden_dim // 2),
        "col_embed": nn.Embedding(50, hidden_dim // 2),
        "encoder layer": nn.TransformerEncoderLayer(hidden_dim, 8, 2048),
    }
    return {name: np.int64(sum(p.numel() for p in module.parameters())) for name, module in modules.items()}


@pytest.mark.parametrize("right", [arithmetic, built])
def test_parameters_right(right, capsys):
    checks.parameters(right)
    says_right(capsys, 3)


def but(part, count):
    return lambda D, K: arithmetic(D, K) | {part: count(D, K)}


PARAMETERS = [
    (but("conv", lambda D, K: 2048 * D), "conv: the biases are missing"),
    (but("conv", lambda D, K: 9 * 2048 * D + D), "1 x 1, not 3 x 3"),
    (but("conv", lambda D, K: 2048 * D + 2048), "not to one that goes in"),
    (but("linear_class", lambda D, K: D * K + K), "too: K \\+ 1 rows"),
    (but("linear_class", lambda D, K: D * (K + 1)), "one for each class"),
    (but("linear_class", lambda D, K: D * K), "and the biases are missing"),
    (but("linear_bbox", lambda D, K: D * 4), "the four numbers"),
    (but("linear_bbox", lambda D, K: 100 * (D * 4 + 4)), "once, not 100 times"),
    (but("query_pos", lambda D, K: 100 * D + 100), "no biases"),
    (but("query_pos", lambda D, K: 100), "each query has D numbers"),
    (but("row_embed", lambda D, K: 50 * D), "row_embed: a table is D/2 wide"),
    (but("col_embed", lambda D, K: 50 * 50 * D // 2), "col_embed: one row for each"),
    (but("encoder layer", lambda D, K: arithmetic(D, K)["encoder layer"] + 7 * 4 * (D * D + D)), "heads split"),
    (but("encoder layer", lambda D, K: arithmetic(D, K)["encoder layer"] - D * D - D), "four matrices"),
    (but("encoder layer", lambda D, K: arithmetic(D, K)["encoder layer"] - 4 * D), "4 D are missing"),
    (but("encoder layer", lambda D, K: arithmetic(D, K)["encoder layer"] - 2048 - D), "two linear layers"),
    (but("encoder layer", lambda D, K: 4 * D * D + 2 * 2048 * D), "all biases and the two norms"),
    (but("encoder layer", lambda D, K: 6 * arithmetic(D, K)["encoder layer"]), "all six layers"),
    (lambda D, K: {"conv": 2048 * D + D}, "wanted a dict with the names conv, linear_class"),
]

MISTAKES = [(checks.batch, *case) for case in BATCH] + [(checks.parameters, *case) for case in PARAMETERS]


@pytest.mark.parametrize(("check", "wrong", "message"), MISTAKES)
def test_mistakes(check, wrong, message):
    with pytest.raises(Wrong, match=message):
        check(wrong)


def test_stubs_are_open(capsys):
    checks.shapes(...)
    checks.batch(lambda model, images: None)
    checks.parameters(lambda hidden_dim, num_classes: ...)
    assert capsys.readouterr().out == "".join(f"exercise {number} is open\n" for number in (1, 2, 3))
