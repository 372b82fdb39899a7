"""Notebook 08's figures draw what they are given; shapes, counts, work and settings are those of the model."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from detr_mini.detr import DETR, DETRConfig, multiply_adds
from detr_mini.plots import detr as plots
from detr_mini.plots import style
from detr_mini.training import TrainConfig

pytestmark = pytest.mark.usefixtures("no_figure_is_left_in_pyplot")

SMALL = DETRConfig.mini(num_classes=3, queries=5, width=16, encoder_layers=1, decoder_layers=2, feedforward=16)


def texts(figure) -> str:
    found = [text.get_text() for axes in figure.axes for text in (*axes.texts, axes.title)]
    return "\n".join([*found, *(text.get_text() for text in figure.texts)])


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return DETR(SMALL).eval()


def test_shapes_are_those_of_the_run(model):
    images, padding = torch.randn(2, 3, 32, 48), torch.zeros(2, 32, 48).bool()
    shapes = plots.shapes_of(model, images, padding)
    assert shapes == {
        "images": (2, 3, 32, 48),
        "padding": (2, 32, 48),
        "features": (2, 128, 4, 6),
        "codes": (2, 4, 6, 16),
        "tokens": (2, 24, 16),
        "memory": (2, 24, 16),
        "states": (2, 2, 5, 16),
        "queries": (5, 16),
        "logits": (2, 2, 5, 4),
        "boxes": (2, 2, 5, 4),
    }
    assert not any(module._forward_hooks for module in model.modules()), "hooks are taken off"
    figure = plots.architecture_figure({"a": shapes, "b": shapes | {"memory": (1, 2, 3)}})
    assert "a: 2 x 24 x 16" in texts(figure) and "b: 1 x 2 x 3" in texts(figure)


def test_hooks_are_taken_off_when_the_run_fails(model):
    with pytest.raises(RuntimeError):
        plots.shapes_of(model, torch.randn(1, 4, 32, 32))
    assert not any(module._forward_hooks for module in model.modules())


def test_parameters_by_part_and_piece():
    with torch.device("meta"):
        paper = DETR(DETRConfig())
    counts = plots.parameters_by_part(paper)
    assert set(counts) == set(plots.PARTS)
    assert sum(sum(pieces.values()) for pieces in counts.values()) == 41_524_768
    frozen = sum(count for name, count in counts["backbone"].items() if name.endswith("(frozen)"))
    assert frozen == 222_400
    assert counts["encoder"]["feed-forward"] == 6 * 1_050_880 and counts["decoder"]["cross-attention"] == 6 * 263_168
    assert counts["rest"]["query_embed"] == 25_600
    figure = plots.treemap_figure(counts, "areas")
    assert "layer4\n14.94 M" in texts(figure) and "query_embed 25,600" in texts(figure)
    assert style.png(figure, 256)


def test_the_minis_parameters_have_parts_too(model):
    counts = plots.parameters_by_part(model)
    assert sum(sum(pieces.values()) for pieces in counts.values()) == sum(p.numel() for p in model.parameters())
    assert style.png(plots.treemap_figure(counts, "areas"), 256)


def test_tiles_fill_the_rectangle_in_proportion():
    values = {"a": 6.0, "b": 3.0, "c": 2.0, "d": 1.0, "none": 0.0}
    found = plots.tiles(values, 1, 2, 4, 3)
    assert {tile.name: pytest.approx(tile.width * tile.height) for tile in found} == {"a": 6, "b": 3, "c": 2, "d": 1}
    for tile in found:
        assert tile.x >= 1 and tile.x + tile.width <= 5 + 1e-9 and tile.y >= 2 and tile.y + tile.height <= 5 + 1e-9
    for i, one in enumerate(found):
        for other in found[i + 1 :]:
            wide = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
            high = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
            assert wide < 1e-9 or high < 1e-9, "no two tiles overlap"


def test_work_by_part_is_the_whole_work():
    with torch.device("meta"):
        empty = DETR(SMALL).eval()
    parts = plots.work_by_part(empty, 64, 48)
    assert list(parts) == list(plots.PARTS)
    assert sum(parts.values()) == multiply_adds(empty, 64, 48)
    S, D, inner = 8 * 6, SMALL.width, SMALL.feedforward
    assert parts["encoder"] == 4 * S * D**2 + 2 * S**2 * D + 2 * S * D * inner
    figure = plots.work_figure({"small": parts, "twice": {k: 2 * v for k, v in parts.items()}}, {"small": 0.02}, "work")
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["small: 0.0 G", "twice: 0.0 G"]
    widths = [bar.get_width() for bar in axes.patches]
    assert sum(widths) == pytest.approx(3 * sum(parts.values()) / 1e9)


@dataclass(frozen=True)
class Inner:
    weight: float = 1.0


@dataclass(frozen=True)
class Outer:
    same: str = "sine"
    size: int = 1000
    norm: bool = False
    side: int | None = 800
    inner: Inner = field(default_factory=Inner)


def test_settings_that_differ_stand_in_a_table_with_their_reasons():
    rows = plots.settings(Outer(), Outer(size=20, norm=True, side=None, inner=Inner(4.0)))
    assert [row.field for row in rows] == ["same", "size", "norm", "side", "inner.weight"]
    assert [row.differs for row in rows] == [False, True, True, True, True]
    reasons = {"size": "small", "norm": "fast", "side": "as drawn", "inner.weight": "more"}
    table = plots.settings_table(rows, reasons).splitlines()
    assert table[2:] == [
        "| `size` | 1,000 | 20 | small |",
        "| `norm` | no | yes | fast |",
        "| `side` | 800 | none | as drawn |",
        "| `inner.weight` | 1 | 4 | more |",
    ]


def test_a_difference_without_reason_and_a_reason_without_difference_are_errors():
    rows = plots.settings(Outer(), Outer(size=20))
    with pytest.raises(ValueError, match=r"without a reason: \['size'\]"):
        plots.settings_table(rows, {})
    with pytest.raises(ValueError, match=r"no difference: \['norm'\]"):
        plots.settings_table(rows, {"size": "small", "norm": "fast"})


def test_every_field_of_both_configurations_is_compared():
    model = {row.field for row in plots.settings(DETRConfig(), DETRConfig.mini())}
    training = {row.field for row in plots.settings(TrainConfig(), TrainConfig.mini())}
    assert model == set(DETRConfig.__dataclass_fields__)
    assert {name.split(".")[0] for name in training} == set(TrainConfig.__dataclass_fields__)
    assert {"loss_weights.no_object", "loss_weights.auxiliary", "matching_weights.giou"} <= training


def moment(step, queries=3):
    boxes = np.full((queries, 4), 0.5, np.float32)
    return plots.Moment(step, boxes, np.full(queries, 0.1), np.array([0, 2]), np.array([0.25, 0.75]))


def test_film_and_faults_show_each_moment():
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    true = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.3, 0.3, 0.4, 0.4]])
    film = plots.film_figure(image, true, [moment(0), moment(40)], [9.0, 3.0, 1.0], "film")
    *pictures, curve = film.axes
    assert [axes.get_title() for axes in pictures] == ["step 0: worst IoU 0.25", "step 40: worst IoU 0.25"]
    assert curve.lines[0].get_ydata().tolist() == [9.0, 3.0, 1.0]
    faults = plots.faults_figure(image, true, {"a": moment(1), "b": moment(1)}, {"a": [2, 1], "b": [3, 1]}, "faults")
    assert [text.get_text() for text in faults.axes[-1].get_legend().texts] == ["a", "b"]
    colours = {patch.get_edgecolor() for patch in pictures[0].patches}
    assert len(colours) == 3, "true, matched, and the query that has no object"
    assert style.png(film, 256) and style.png(faults, 256)
