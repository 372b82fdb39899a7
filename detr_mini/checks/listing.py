"""Checks of notebook 07: shapes read before running, the listing for a batch, parameters counted on paper."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from detr_mini import listing
from detr_mini.checks.verdict import Wrong, ask, compare, exercise

# B images · H, W feature map · Q queries · K classes · D width

HEIGHT_PX, WIDTH_PX, CLASSES, WIDTH = 500, 701, 20, 128  # of exercise 1
H, W = 16, 22  # halved five times, rounded up each time
CUT = ((15, 21), (15, 22), (16, 21))  # where one side or both were rounded down


@exercise(1, "You can now find the line that a shape error comes from without running it.")
def shapes(answer: Mapping[str, tuple[int, ...]]) -> None:
    """A dict of the shapes of one image of 500 x 701 px, 20 classes, hidden_dim 128."""
    wanted = {
        "features": (1, 2048, H, W),
        "h": (1, WIDTH, H, W),
        "pos": (H * W, WIDTH),
        "tokens": (1, H * W, WIDTH),
        "states": (1, listing.QUERIES, WIDTH),
        "logits": (1, listing.QUERIES, CLASSES + 1),
        "boxes": (1, listing.QUERIES, 4),
    }
    if not isinstance(answer, Mapping) or set(answer) != set(wanted):
        raise Wrong(f"wanted a dict with the names {', '.join(wanted)}, each with a tuple of numbers")
    for name, right in wanted.items():
        if not isinstance(answer[name], Sequence):
            raise Wrong(f"{name} {answer[name]}: wanted a tuple of numbers")
        got = tuple(answer[name])
        if got != right:
            raise Wrong(f"{name} {got}: {_shape_mistake(name, got, right)}")


@exercise(2, "One forward pass now serves as many images as fit into memory.")
def batch(answer: Callable) -> None:
    """`batch(model, images (B, 3, height, width))`: logits (B, Q, K+1) and boxes (B, Q, 4), each image's own."""
    model = _small_listing()
    images = torch.randn(3, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for count in (3, 1):
            got = ask(answer, model, images[:count].clone())
            where = f"{count} image{'s' if count > 1 else ''}"
            if not isinstance(got, tuple | list) or len(got) != 2:
                raise Wrong(f"{where}: wanted two things back, the logits and the boxes")
            for part, values, right in zip(("logits", "boxes"), got, model(images[:count]), strict=True):
                _same_size(f"{where}, {part}", tuple(values.shape), tuple(right.shape))
            logits, boxes = model(images[:count])
            compare(f"{where}, logits", got[0], logits, _batch_mistakes(model, images[:count], 0), 1e-4)
            compare(f"{where}, boxes", got[1], boxes, _batch_mistakes(model, images[:count], 1), 1e-4)


@exercise(3, "You can now say what a change of width or classes costs before building anything.")
def parameters(answer: Callable) -> None:
    """`parameters(hidden_dim, num_classes)`: a dict of the number of parameters by part, one encoder layer among them.

    Heads 8, feed-forward width 2,048, 100 queries and 50 cells are the listing's.
    """
    for width, classes in ((256, 91), (64, 20)):
        got, wanted = ask(answer, width, classes), _parameters(width, classes)
        if not isinstance(got, Mapping) or set(got) != set(wanted):
            raise Wrong(f"wanted a dict with the names {', '.join(wanted)}")
        for part, right in wanted.items():
            where = f"D = {width}, K = {classes}: {part}"
            compare(where, got[part], right, _parameter_mistakes(part, width, classes), tolerance=0)


def _shape_mistake(name: str, got: tuple[int, ...], right: tuple[int, ...]) -> str:
    """What a wrong shape looks like, likeliest first."""
    maps = {  # features and h
        **dict.fromkeys(CUT, "each halving rounds up, so 500 px leave 16 rows and 701 px 22 columns"),
        (W, H): "height stands before width: rows first, then columns",
        (32, 44): "five halvings, not four: stem, max-pool, and the first blocks of layer2, layer3 and layer4",
        (HEIGHT_PX, WIDTH_PX): "the backbone leaves a coarse map, not one vector a pixel",
    }
    if name in ("features", "h"):
        if len(got) == 4 and got[1] == right[1] and got[2:] in maps:
            return maps[got[2:]]
        if len(got) == 4 and got[-1] == right[1]:
            return "channels come before rows and columns in a convolution's answer"
        if name == "features" and len(got) == 4 and got[1] in (512, 1000):
            return "ResNet-50's last part has 2,048 channels; 512 are ResNet-18's, 1,000 the classes that are cut off"
        if name == "h" and len(got) == 4 and got[1] == 2048:
            return "the 1 x 1 convolution makes D channels of the 2,048"
    if got == right[1:] and name != "pos":
        return "the first axis is missing: one image is a batch of one"
    if name in ("pos", "tokens") and len(got) == len(right) and got[-2] in {rows * columns for rows, columns in CUT}:
        return "height x width cells, each side rounded up: 16 * 22"
    if name == "pos" and got == (1, WIDTH, H, W):
        return "the code of a cell stands in one row, as a token does; channels come last"
    if name == "pos" and got == (H, W, WIDTH):
        return "rows and columns are laid into one axis, so that codes can be added to tokens"
    if name == "pos" and got[-1:] == (WIDTH // 2,):
        return "half of the channels tell the column, half the row; together they are D"
    if name == "pos" and got == (50 * 50, WIDTH):
        return "only as many rows of the tables are read as the image has cells"
    if name == "pos" and got == (1, H * W, WIDTH):
        return "there is one code a cell, whatever the batch; the axis of images comes from broadcasting"
    if name == "tokens" and got == (1, WIDTH, H * W):
        return "after the transpose the channels stand last: one row a token"
    if name == "tokens" and got == (H * W, 1, WIDTH):
        return "that is the paper's order, tokens first; with batch_first=True images come first"
    if name == "states" and got == (1, H * W, WIDTH):
        return "the decoder answers once for each query, not for each token"
    if name in ("states", "logits", "boxes") and got == (1, right[2], listing.QUERIES):
        return "one row a query; what is said of it stands last"
    if name in ("states", "logits", "boxes") and got[:1] == (listing.QUERIES,):
        return "that is the paper's order, queries first; with batch_first=True images come first"
    if name == "logits" and got[-1:] == (CLASSES,):
        return '"no object" is a class too: K + 1'
    if name == "logits" and got[-1:] in ((91,), (92,)):
        return "this listing is for 20 classes, not for COCO's"
    if name in ("logits", "boxes") and len(got) == 3 and got[1] == H * W:
        return "there is one answer for each query, not for each token"
    if 256 in got and WIDTH in right:
        return "hidden_dim is 128 here"
    return f"wanted {len(right)} numbers; read the line once more" if len(got) != len(right) else "read it once more"


def _small_listing() -> listing.DETR:
    """The listing with little inside and no number at its initial value, so that every mix-up shows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        with torch.device("meta"):  # its ResNet is never filled
            model = listing.DETR(5, hidden_dim=32, nheads=4, num_encoder_layers=1, num_decoder_layers=1)
        model.backbone = nn.Conv2d(3, 2048, 32, stride=32)
        model.conv = nn.Conv2d(2048, 32, 1)
        model.transformer = nn.Transformer(32, 4, 1, 1, 64, batch_first=True)
        model.linear_class, model.linear_bbox = nn.Linear(32, 6), nn.Linear(32, 4)
        model.query_pos = nn.Parameter(torch.randn(listing.QUERIES, 32))
        model.row_embed = nn.Parameter(torch.randn(listing.CELLS, 16))
        model.col_embed = nn.Parameter(torch.randn(listing.CELLS, 16))
        nn.init.normal_(model.conv.weight, std=0.05)
    return model.eval()


def _same_size(where: str, got: tuple[int, ...], right: tuple[int, ...]) -> None:
    if got == right:
        return
    if got[:1] == (1,) and right[0] > 1:
        raise Wrong(f"{where}: one image's answers {got} for {right[0]} images: did all tokens go into one sequence?")
    if len(got) == 3 and got[:2] == (right[1], right[0]):
        raise Wrong(f"{where}: queries stand before images {got}; with batch_first=True images come first")
    if got[0] == right[0] * right[1]:
        raise Wrong(f"{where}: images and queries lie in one axis {got}, wanted {right}")
    raise Wrong(f"{where}: your answer has shape {got}, wanted {right}")


def _run(model: listing.DETR, tokens: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    states = model.transformer(tokens, queries)
    return model.linear_class(states), model.linear_bbox(states).sigmoid()


def _batch_mistakes(model: listing.DETR, images: Tensor, part: int) -> dict[str, Tensor]:
    """Messages and what these mistakes give: of the logits (part 0) or of the boxes (1)."""
    h = model.conv(model.backbone(images))  # (B, D, H, W)
    count, width, rows, columns = h.shape
    x = model.col_embed[:columns].expand(rows, -1, -1)
    y = model.row_embed[:rows, None].expand(-1, columns, -1)
    grid = torch.cat([x, y], dim=-1)  # (H, W, D)
    pos, tokens = grid.flatten(0, 1), h.flatten(2).transpose(1, 2)
    queries = model.query_pos.expand(count, -1, -1)
    swapped = torch.cat([y, x], dim=-1).flatten(0, 1)
    by_columns = grid.transpose(0, 1).flatten(0, 1)
    together = (pos + tokens).reshape(1, -1, width).expand(count, -1, -1)
    first = (pos + tokens[:1]).expand(count, -1, -1)
    mixed = model.query_pos.repeat(count, 1).reshape(-1, count, width).transpose(0, 1)
    right = _run(model, pos + tokens, queries)
    scrambled = h.reshape(count, -1, width)
    mistakes = {
        "the codes of rows and columns are exchanged: columns fill the first half": _run(
            model, swapped + tokens, queries
        )[part],
        "the codes are laid out column by column, the tokens row by row": _run(model, by_columns + tokens, queries)[
            part
        ],
        "reshape or view is no transpose: it cuts the channels of several cells into one token": _run(
            model, pos + scrambled, queries
        )[part],
        "the decoder's input is zeros in the full model; the listing puts the queries there": _run(
            model, pos + tokens, torch.zeros_like(queries)
        )[part],
        "the codes of position are missing": _run(model, tokens, queries)[part],
        "the position codes went in twice": _run(model, 2 * pos + tokens, queries)[part],
    }
    if count > 1:
        mistakes |= {
            "each image's queries look at the tokens of all images": _run(model, together, queries)[part],
            "every image got the first one's answers": _run(model, first, queries)[part],
            "the queries of the images are mixed: each image wants all 100 in their order": _run(
                model, pos + tokens, mixed
            )[part],
        }
    if part == 0:
        return mistakes | {
            "these are probabilities; the listing returns logits": right[0].softmax(-1),
            "the sigmoid belongs to the boxes alone": right[0].sigmoid(),
        }
    bare = torch.logit(right[1])
    return mistakes | {
        "the sigmoid that brings boxes into 0..1 is missing": bare,
        "a softmax makes the four numbers add up to 1; boxes want a sigmoid each": bare.softmax(-1),
    }


def _parameters(width: int, classes: int) -> dict[str, int]:
    encoder = nn.TransformerEncoderLayer(width, 8, 2048, device="meta")
    return {
        "conv": 2048 * width + width,
        "linear_class": width * (classes + 1) + classes + 1,
        "linear_bbox": width * 4 + 4,
        "query_pos": listing.QUERIES * width,
        "row_embed": listing.CELLS * width // 2,
        "col_embed": listing.CELLS * width // 2,
        "encoder layer": sum(parameter.numel() for parameter in encoder.parameters()),
    }


def _parameter_mistakes(part: str, width: int, classes: int) -> dict[str, int]:
    attention, wide = 4 * (width * width + width), 2 * width * 2048 + 2048 + width
    norms = 2 * 2 * width
    decoder = 2 * attention + wide + 3 * 2 * width
    return {
        "conv": {
            "the biases are missing, one for each channel that comes out": 2048 * width,
            "the kernel is 1 x 1, not 3 x 3": 9 * 2048 * width + width,
            "a bias belongs to a channel that comes out, not to one that goes in": 2048 * width + 2048,
        },
        "linear_class": {
            '"no object" is a class too: K + 1 rows': width * classes + classes,
            '"no object" is a class too, and the biases are missing': width * classes,
            "the biases are missing, one for each class": width * (classes + 1),
            "every query uses the same head: it is there once, not 100 times": 100 * (width + 1) * (classes + 1),
        },
        "linear_bbox": {
            "the biases are missing, one for each of the four numbers": width * 4,
            "every query uses the same head: it is there once, not 100 times": 100 * (width * 4 + 4),
        },
        "query_pos": {"a table has no biases": 100 * width + 100, "each query has D numbers": 100},
        "row_embed": _table_mistakes(width),
        "col_embed": _table_mistakes(width),
        "encoder layer": {
            "heads split the width, they do not multiply it": 8 * attention + wide + norms,
            "the attention has four matrices: queries, keys, values, and the last that mixes the heads": (
                3 * (width * width + width) + wide + norms
            ),
            "4 D are missing: the biases of the attention's four matrices, or the two norms": 4 * width * width
            + wide
            + norms,
            "the biases of the two linear layers are missing": attention + 2 * width * 2048 + norms,
            "all biases are missing": 4 * width * width + 2 * width * 2048 + norms,
            "all biases and the two norms are missing": 4 * width * width + 2 * width * 2048,
            "two norms, each with a factor and a shift a channel, have 4 D together": attention + wide + 2 * width,
            "this is a decoder layer, with two attentions and three norms": decoder,
            "these are all six layers; wanted is one": 6 * (attention + wide + norms),
        },
    }[part]


def _table_mistakes(width: int) -> dict[str, int]:
    return {
        "a table is D/2 wide: half of the channels tell the row, half the column": listing.CELLS * width,
        "one row for each of the 50 cells of a side, not for each cell of the grid": listing.CELLS**2 * width // 2,
    }
