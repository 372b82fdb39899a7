"""The checks of notebook 11: right answers in two styles pass, and each mistake is told by its own name."""

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from detr_mini.checks import attention_maps as checks
from detr_mini.checks.verdict import Wrong


def says_right(capsys, number):
    assert capsys.readouterr().out.startswith(f"exercise {number} is right. ")


# 1: from a token to its pixels


def plain_patch(token, columns, stride, size, original_size):
    row, column = divmod(token, columns)
    high, wide = (stride * original / seen for original, seen in zip(original_size, size, strict=True))
    x2, y2 = (column + 1) * wide, (row + 1) * high
    return column * wide, row * high, min(x2, original_size[1]), min(y2, original_size[0])


def tensor_patch(token, columns, stride, size, original_size):
    """In px of what the model saw, cut there, then scaled."""
    corner = torch.tensor([token % columns, token // columns]) * float(stride)
    seen, original = torch.tensor(size[::-1]), torch.tensor(original_size[::-1])
    corners = torch.cat([corner, (corner + stride).minimum(seen)])
    return corners * (original / seen).repeat(2)


def patch_y_first(*case):
    x1, y1, x2, y2 = plain_patch(*case)
    return y1, x1, y2, x2


def patch_width_height(*case):
    x1, y1, x2, y2 = plain_patch(*case)
    return x1, y1, x2 - x1, y2 - y1


def patch_squeezed(token, columns, stride, size, original_size):
    row, column = divmod(token, columns)
    rows = int(np.ceil(size[0] / stride))
    wide, high = original_size[1] / columns, original_size[0] / rows
    return column * wide, row * high, (column + 1) * wide, (row + 1) * high


def patch_not_scaled(token, columns, stride, size, original_size):
    return plain_patch(token, columns, stride, size, size)


def patch_not_cut(token, columns, stride, size, original_size):
    row, column = divmod(token, columns)
    high, wide = stride * original_size[0] / size[0], stride * original_size[1] / size[1]
    return column * wide, row * high, (column + 1) * wide, (row + 1) * high


def patch_scales_exchanged(token, columns, stride, size, original_size):
    row, column = divmod(token, columns)
    wide, high = (stride * original / seen for original, seen in zip(original_size, size, strict=True))
    x2, y2 = min((column + 1) * wide, original_size[1]), min((row + 1) * high, original_size[0])
    return column * wide, row * high, x2, y2


def patch_down_the_columns(token, columns, stride, size, original_size):
    column, row = divmod(token, -(-size[0] // stride))
    return plain_patch(row * columns + column, columns, stride, size, original_size)


def patch_from_one(token, *rest):
    return plain_patch(token - 1, *rest)


def patch_last_pixel(*case):
    x1, y1, x2, y2 = plain_patch(*case)
    return x1, y1, x2 - 1, y2 - 1


def patch_cut_exchanged(token, columns, stride, size, original_size):
    x1, y1, x2, y2 = patch_not_cut(token, columns, stride, size, original_size)
    return x1, y1, min(x2, original_size[0]), min(y2, original_size[1])


def patch_one_scale(token, columns, stride, size, original_size):
    step = stride * original_size[0] / size[0]
    x1, y1 = token % columns * step, token // columns * step
    return x1, y1, min(x1 + step, original_size[1]), min(y1 + step, original_size[0])


def patch_scaled_down(token, columns, stride, size, original_size):
    high, wide = (stride * seen / original for original, seen in zip(original_size, size, strict=True))
    x1, y1 = token % columns * wide, token // columns * high
    return x1, y1, min(x1 + wide, original_size[1]), min(y1 + high, original_size[0])


@pytest.mark.parametrize("answer", [plain_patch, tensor_patch])
def test_the_right_patches(answer, capsys):
    checks.patch_px(answer)
    says_right(capsys, 1)


@pytest.mark.parametrize(
    "answer, said",
    [
        (patch_y_first, r"\(y1, x1, y2, x2\)"),
        (patch_width_height, "wanted are two corners"),
        (patch_squeezed, "squeezed so that they just fill"),
        (patch_not_scaled, "wanted are px of the original"),
        (patch_not_cut, "cut it at the border"),
        (patch_scales_exchanged, r"sizes are \(H, W\)"),
        (patch_down_the_columns, "numbered along the rows"),
        (patch_from_one, "count from 0"),
        (patch_last_pixel, "not its last pixel"),
        (patch_cut_exchanged, "x is cut at the height"),
        (patch_one_scale, "one scale for both sides"),
        (patch_scaled_down, "scaled the wrong way"),
    ],
)
def test_a_wrong_patch_is_named(answer, said):
    with pytest.raises(Wrong, match=said):
        checks.patch_px(answer)


# 2: one map out of the model


def plain_map(model, images, padding, image, query, layer):
    with torch.no_grad():
        attention = model(images, padding, return_attention=True).attention
    weights = attention.decoder[layer, image, :, query].mean(dim=0).reshape(attention.feature_size)
    real = ~padding[image, ::8, ::8]
    return weights[: real.any(dim=1).sum(), : real.any(dim=0).sum()]


def loop_map(model, images, padding, image, query, layer):
    """Token by token in Python, the size of the image from its padding, rounded up."""
    attention = model(images, padding, return_attention=True).attention
    high, wide = (int((~padding[image]).any(axis).sum()) for axis in (1, 0))
    columns = attention.feature_size[1]
    heads = attention.decoder[layer, image, :, query].tolist()
    rows = range(-(-high // 8))
    return [[sum(h[r * columns + c] for h in heads) / len(heads) for c in range(-(-wide // 8))] for r in rows]


def wrong_map(pick=None, cut=True, turn=None, mask=True):
    """A map with one thing done otherwise."""

    def answer(model, images, padding, image, query, layer):
        with torch.no_grad():
            attention = model(images, padding if mask else None, return_attention=True).attention
        usual = attention.decoder[layer, image, :, query].mean(0)
        weights = usual if pick is None else pick(attention, image, query, layer)
        weights = weights.reshape(attention.feature_size) if turn is None else turn(weights, attention.feature_size)
        if not cut:
            return weights
        real = ~interpolate(padding[None, image : image + 1].float(), size=attention.feature_size)[0, 0].bool()
        return weights[: real.any(1).sum(), : real.any(0).sum()]

    return answer


def map_turned(*arguments):
    return plain_map(*arguments).T


def map_rescaled(*arguments):
    weights = plain_map(*arguments)
    return weights / weights.max()


def map_flat(*arguments):
    return plain_map(*arguments).flatten()


@pytest.mark.parametrize("answer", [plain_map, loop_map])
def test_the_right_maps(answer, capsys):
    checks.one_map(answer)
    says_right(capsys, 2)


@pytest.mark.parametrize(
    "answer, said",
    [
        (wrong_map(cut=False), "not cut"),
        (wrong_map(turn=lambda w, size: w.reshape(*size[::-1]).T), "then turned"),
        (map_turned, "rows and columns are exchanged"),
        (wrong_map(lambda a, b, q, l: a.decoder[l, b, :, q].mean(0).softmax(0)), "softmax once more"),
        (wrong_map(lambda a, b, q, l: a.encoder[l, b, :, q].mean(0)), "this is the encoder"),
        (wrong_map(lambda a, b, q, l: a.decoder[l, b, 0, q]), "one head alone"),
        (wrong_map(lambda a, b, q, l: a.decoder[l, b, :, q].sum(0)), "sum of the heads"),
        (wrong_map(lambda a, b, q, l: a.decoder[l, b, :, q].amax(0)), "the largest of the heads"),
        (map_flat, "fold it into"),
        (wrong_map(mask=False), "not told of the padding"),
        (map_rescaled, "divided by its largest weight"),
    ],
)
def test_a_wrong_map_is_named(answer, said):
    with pytest.raises(Wrong, match=said):
        checks.one_map(answer)


@pytest.mark.parametrize("fixed, said", [("layer", "always the last layer"), ("image", "always the first image")])
def test_a_map_that_forgets_an_argument_is_named(fixed, said):
    def answer(model, images, padding, image, query, layer):
        with torch.no_grad():
            attention = model(images, padding, return_attention=True).attention
        chosen = (-1, image) if fixed == "layer" else (layer, 0)
        real = ~padding[image, ::8, ::8]
        weights = attention.decoder[*chosen, :, query].mean(0).reshape(attention.feature_size)
        return weights[: real.any(1).sum(), : real.any(0).sum()]

    with pytest.raises(Wrong, match=said):
        checks.one_map(answer)


def test_a_map_reshaped_the_other_way_is_named():
    def answer(model, images, padding, image, query, layer):
        attention = model(images, padding, return_attention=True).attention
        rows, columns = attention.feature_size
        real = ~padding[image, ::8, ::8]
        weights = attention.decoder[layer, image, :, query].mean(0).reshape(columns, rows)
        return weights[: real.any(0).sum(), : real.any(1).sum()]

    with pytest.raises(Wrong, match=r"reshaped to \(columns, rows\): the feature size"):
        checks.one_map(answer)


# 3: which object a map belongs to


@pytest.mark.parametrize("answer", ["EFA", " efa "])
def test_the_right_objects(answer, capsys):
    checks.which_object(answer)
    says_right(capsys, 3)


@pytest.mark.parametrize(
    "answer, said",
    [
        ("AEF", "map 1: A is where the attention would lie with rows and columns exchanged"),
        ("FEA", "map 1: F is where the attention would lie if rows counted from below"),
        ("BFA", "map 1: B is where the attention would lie in a mirror"),
        ("EFC", r"map 3: only 1\d% of this attention falls into box C"),
        ("EFE", "E stands for two maps"),
        ("EF", "one for each map"),
        ("sheep", "one for each map"),
        (["E", "F", "A"], "list came; wanted a word"),
    ],
)
def test_wrong_objects_are_named(answer, said):
    with pytest.raises(Wrong, match=said):
        checks.which_object(answer)


def test_stubs_are_open(capsys):
    def nothing(*arguments):
        pass

    for number, check, stub in (
        (1, checks.patch_px, nothing),
        (2, checks.one_map, nothing),
        (3, checks.which_object, ...),
    ):
        check(stub)
        assert capsys.readouterr().out == f"exercise {number} is open\n"
