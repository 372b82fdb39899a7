"""Checks of notebook 11: from a token to its pixels, one map out of the model, which object a map belongs to."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from detr_mini import checkpoints
from detr_mini.checks.verdict import Wrong, ask, compare, exercise
from detr_mini.datasets.toybox import Toybox, ToyboxConfig
from detr_mini.detection import Detections, detect
from detr_mini.detr import DETR, Attention, DETRConfig
from detr_mini.plots.attention_maps import box_coverage
from detr_mini.plots.detections import query_map

# B images · L layers · h heads · Q queries · HW tokens · gh, gw feature map

RIDDLE_SCENE, RIDDLE_MAPS, LETTERS = 137, ("sheep", "clock", "bear"), "ABCDEF"
RIDDLE_SCENES = ToyboxConfig(size=96, objects=(5, 6), scale=(0.2, 0.4), max_overlap=0.1)


@exercise(1, "With this any token can be pointed at, in a photograph of any shape and size.")
def patch_px(answer: Callable) -> None:
    """`patch_px(token, columns, stride, size, original_size)`: (x1, y1, x2, y2) in px of the original image, cut.

    `token` is a number in 0..HW-1, `size` the image's (H, W) px as the model saw it, `original_size` the file's.
    """
    cases = (
        (17, 6, 8, (96, 48), (96, 48)),
        (6, 4, 16, (32, 64), (32, 64)),
        (19, 8, 8, (40, 60), (40, 60)),
        (15, 8, 8, (40, 60), (40, 60)),
        (21, 10, 32, (256, 320), (480, 600)),
        (27, 10, 32, (256, 304), (512, 456)),
    )
    for case in cases:
        token, columns, stride, size, original = case
        where = f"token {token}, {columns} columns, stride {stride}, image {size} of {original} (H, W)"
        compare(where, ask(answer, *case), _patch(*case), _patch_mistakes(*case))


@exercise(2, "This is what every overlay of DETR's attention begins with.")
def one_map(answer: Callable) -> None:
    """`one_map(model, images, padding, image, query, layer)`: mean of the heads, (rows, columns) of the image alone."""
    model, images, padding = _batch()
    with torch.no_grad():
        attention = model(images, padding, return_attention=True).attention
        unmasked = model(images, return_attention=True).attention
    for image, query, layer in ((0, 3, 2), (1, 0, 0), (1, 5, 1), (2, 2, 1)):
        where = f"image {image}, query {query}, layer {layer}"
        got = ask(answer, model, images.clone(), padding.clone(), image, query, layer)
        real = ~padding[image, ::8, ::8]
        rows, columns = int(real.any(1).sum()), int(real.any(0).sum())
        whole = attention.decoder[layer, image, :, query].mean(0).reshape(attention.feature_size)
        compare(
            where, got, whole[:rows, :columns], _map_mistakes(attention, unmasked, image, query, layer, rows, columns)
        )


@exercise(3, "Rows down, columns across, zero in the upper left corner: so every map of the course is to be read.")
def which_object(answer: str) -> None:
    """A letter of `riddle()`'s boxes for each of the three maps, in their order, as one word."""
    _, found, maps = riddle()
    letters = LETTERS[: len(found)]
    if not isinstance(answer, str):
        raise Wrong(f"{type(answer).__name__} came; wanted a word of three letters, such as 'ABC'")
    given = answer.strip().upper()
    if len(given) != len(maps) or set(given) - set(letters):
        raise Wrong(f"{answer!r}: wanted {len(maps)} of the letters {letters}, one for each map, such as 'ABC'")
    if len(set(given)) < len(given):
        twice = next(letter for letter in given if given.count(letter) > 1)
        raise Wrong(f"{twice} stands for two maps; here each map belongs to another object")
    cover = torch.stack([box_coverage(box, maps[0].shape, (96, 96)) for box in found.boxes_xyxy_px])  # (N, gh, gw)
    readings = {
        "with rows and columns exchanged": lambda weights: weights.T,
        "if rows counted from below": lambda weights: weights.flip(0),
        "in a mirror, with columns counted from the right": lambda weights: weights.flip(1),
    }
    for number, (letter, weights, name) in enumerate(zip(given, maps, RIDDLE_MAPS, strict=True), start=1):
        if found.names[letters.index(letter)] == name:
            continue
        said = letters.index(letter)
        for how, turned in readings.items():
            if int((turned(weights) * cover).sum((1, 2)).argmax()) == said:
                raise Wrong(f"map {number}: {letter} is where the attention would lie {how}")
        share = (weights * cover[said]).sum()
        raise Wrong(f"map {number}: only {share:.0%} of this attention falls into box {letter}")


def riddle() -> tuple[Tensor, Detections, list[Tensor]]:
    """A scene, its detections from left to right, and the last layer's maps (gh, gw) of three of them."""
    scenes = Toybox(RIDDLE_SCENES, 1000, seed=0, split="val")
    image, _ = scenes[RIDDLE_SCENE]
    [(found, attention)] = detect(checkpoints.load("toybox"), image, return_attention=True)
    order = found.boxes_xyxy_px[:, 0].argsort()
    names = [found.names[index] for index in order]
    tensors = (found.boxes_xyxy_px, found.scores, found.labels, found.queries)
    boxes_xyxy_px, scores, labels, queries = (each[order] for each in tensors)
    found = Detections(boxes_xyxy_px, scores, labels, names, queries)
    return image, found, [query_map(attention, int(queries[names.index(name)])) for name in RIDDLE_MAPS]


def _patch(
    token: int, columns: int, stride: int, size: tuple[int, int], original: tuple[int, int], first: int = 0
) -> tuple[float, float, float, float]:
    row, column = divmod(token - first, columns)
    high, wide = stride * original[0] / size[0], stride * original[1] / size[1]
    x2, y2 = min((column + 1) * wide, original[1]), min((row + 1) * high, original[0])
    return column * wide, row * high, x2, y2


def _patch_mistakes(token: int, columns: int, stride: int, size: tuple, original: tuple) -> dict:
    x1, y1, x2, y2 = _patch(token, columns, stride, size, original)
    row, column = divmod(token, columns)
    rows = -(-size[0] // stride)
    across, down = original[1] / columns, original[0] / rows
    (swapped_column, swapped_row), swapped = divmod(token, rows), (original[0] / size[0], original[1] / size[1])
    flat = _patch(token, columns, stride, size, size)
    return {
        "this is (y1, x1, y2, x2): x comes first, and x goes with the column": (y1, x1, y2, x2),
        "the patch is cut to (x, y, width, height); wanted are two corners": (x1, y1, x2 - x1, y2 - y1),
        "the patches are squeezed so that they just fill the image; each is one stride wide, and the last is cut": (
            column * across,
            row * down,
            (column + 1) * across,
            (row + 1) * down,
        ),
        "these are px of the image as the model saw it; wanted are px of the original": flat,
        "the patch reaches beyond the image: cut it at the border": (
            column * stride * swapped[1],
            row * stride * swapped[0],
            (column + 1) * stride * swapped[1],
            (row + 1) * stride * swapped[0],
        ),
        "x is scaled by the heights and y by the widths: sizes are (H, W)": (
            column * stride * swapped[0],
            row * stride * swapped[1],
            min((column + 1) * stride * swapped[0], original[1]),
            min((row + 1) * stride * swapped[1], original[0]),
        ),
        "the token is counted down the columns; they are numbered along the rows": (
            swapped_column * stride * swapped[1],
            swapped_row * stride * swapped[0],
            min((swapped_column + 1) * stride * swapped[1], original[1]),
            min((swapped_row + 1) * stride * swapped[0], original[0]),
        ),
        "tokens count from 0": _patch(token, columns, stride, size, original, first=1),
        "x2 and y2 are where the patch ends, not its last pixel: take nothing off": (x1, y1, x2 - 1, y2 - 1),
        "x is cut at the height and y at the width: sizes are (H, W)": (
            column * stride * swapped[1],
            row * stride * swapped[0],
            min((column + 1) * stride * swapped[1], original[0]),
            min((row + 1) * stride * swapped[0], original[1]),
        ),
        "one scale for both sides: height and width may be resized by different factors": (
            column * stride * swapped[0],
            row * stride * swapped[0],
            min((column + 1) * stride * swapped[0], original[1]),
            min((row + 1) * stride * swapped[0], original[0]),
        ),
        "scaled the wrong way: multiply by original / size": (
            column * stride / swapped[1],
            row * stride / swapped[0],
            min((column + 1) * stride / swapped[1], original[1]),
            min((row + 1) * stride / swapped[0], original[0]),
        ),
    }


def _batch() -> tuple[nn.Module, Tensor, Tensor]:
    """A small model with random weights, and three images of different shapes in one batch."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = DETR(DETRConfig.mini(encoder_layers=3, width=32, feedforward=32, queries=6)).eval()
        for parameter in model.transformer.parameters():
            nn.init.normal_(parameter, std=0.4)
        images, padding = torch.zeros(3, 3, 64, 80), torch.ones(3, 64, 80, dtype=torch.bool)
        for row, (height, width) in enumerate(((64, 50), (37, 80), (30, 41))):
            images[row, :, :height, :width] = torch.randn(3, height, width)
            padding[row, :height, :width] = False
    return model, images, padding


def _map_mistakes(
    attention: Attention, unmasked: Attention, image: int, query: int, layer: int, rows: int, columns: int
) -> dict:
    heads = attention.decoder[layer, image, :, query]  # (h, HW)
    flat, (height, width) = heads.mean(0), attention.feature_size
    whole = flat.reshape(height, width)
    right = whole[:rows, :columns]

    def cut(weights: Tensor) -> Tensor:
        return weights.reshape(height, width)[:rows, :columns]

    return {
        "the map is not cut: its last rows or columns are padding, not image": whole,
        "reshaped to (columns, rows): the feature size is (rows, columns)": flat.reshape(width, height)[
            :columns, :rows
        ],
        "reshaped to (columns, rows), then turned: tokens are numbered along the rows": flat.reshape(width, height).T[
            :rows, :columns
        ],
        "rows and columns are exchanged": right.T,
        "softmax once more: these are weights already, they sum to 1": cut(flat.softmax(0)),
        "this is the encoder: where token number `query` looks": cut(attention.encoder[layer, image, :, query].mean(0)),
        "one head alone; wanted is the mean of all": cut(heads[0]),
        "the sum of the heads; wanted is their mean": cut(heads.sum(0)),
        "the largest of the heads; wanted is their mean": cut(heads.amax(0)),
        "the list of the image's tokens; fold it into (rows, columns)": right.flatten(),
        "always the last layer: `layer` is not used": cut(attention.decoder[-1, image, :, query].mean(0)),
        "always the first image: `image` is not used": cut(attention.decoder[layer, 0, :, query].mean(0)),
        "the model was not told of the padding, and looks at it": cut(unmasked.decoder[layer, image, :, query].mean(0)),
        "divided by its largest weight: a share of the attention is wanted, as it is": right / right.max(),
        "cut before the rows were made: the first tokens are not the first columns": flat[: rows * columns].reshape(
            rows, columns
        ),
    }
