"""The paper's sizes: parameters to the last one by hand, multiply-adds within half a percent."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from detr_mini.detr import DETR, DETRConfig, multiply_adds
from detr_mini.transformer import DecoderLayer, EncoderLayer

WIDTH, INNER = 256, 2048


def paper(**changes) -> DETR:
    """The model without its numbers: only shapes count here."""
    with torch.device("meta"):
        return DETR(DETRConfig(**changes))


def count(module: nn.Module, trainable_only: bool = False) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable_only)


def linear(channels_in: int, channels_out: int) -> int:
    return channels_in * channels_out + channels_out  # weights and biases


ATTENTION = 4 * linear(WIDTH, WIDTH)  # queries, keys, values, output
FEED_FORWARD = linear(WIDTH, INNER) + linear(INNER, WIDTH)
NORM = 2 * WIDTH  # a factor and a shift per channel


def test_one_layer_by_hand():
    layer = (WIDTH, 8, INNER, 0.1, False)
    assert count(EncoderLayer(*layer)) == ATTENTION + FEED_FORWARD + 2 * NORM == 1_315_072
    assert count(DecoderLayer(*layer)) == 2 * ATTENTION + FEED_FORWARD + 3 * NORM == 1_578_752


def test_components_of_the_papers_model():
    model = paper()
    parts = {
        "encoder": (model.transformer.encoder, 6 * 1_315_072),
        "decoder": (model.transformer.decoder, 6 * 1_578_752 + NORM),
        "class head": (model.class_embed, linear(WIDTH, 91 + 1)),
        "box head": (model.bbox_embed, 2 * linear(WIDTH, WIDTH) + linear(WIDTH, 4)),
        "queries": (model.query_embed, 100 * WIDTH),
        "input projection": (model.input_proj, linear(2048, WIDTH)),
    }
    counted = {name: count(part, trainable_only=True) for name, (part, _) in parts.items()}
    assert counted == {name: by_hand for name, (_, by_hand) in parts.items()}
    assert counted == {
        "encoder": 7_890_432,
        "decoder": 9_473_024,
        "class head": 23_644,
        "box head": 132_612,
        "queries": 25_600,
        "input projection": 524_544,
    }
    assert sum(counted.values()) + count(model.backbone) == count(model)


def frozen_part_of_resnet() -> int:
    """Parameters of ResNet's stem and first stage: three bottlenecks that widen 64 channels to 256."""
    stem = 3 * 64 * 7 * 7
    bottlenecks = [inputs * 64 + 64 * 64 * 3 * 3 + 64 * 256 for inputs in (64, 256, 256)]
    return stem + sum(bottlenecks) + 64 * 256  # the shortcut of the first


@pytest.mark.parametrize(
    ("backbone", "convolutions", "total"),
    [("resnet50", 23_454_912, 41_524_768), ("resnet101", 42_394_816, 60_464_672)],
)
@pytest.mark.parametrize("dilation", [False, True])
def test_totals(backbone, convolutions, total, dilation):
    """Dilation moves the taps of a kernel apart and adds none."""
    model = paper(backbone=backbone, dilation=dilation)
    assert count(model.backbone) == convolutions
    assert count(model) == total
    assert count(model, trainable_only=True) == total - frozen_part_of_resnet() == total - 222_400


def test_the_trainable_parameters_are_the_papers_41_million():
    assert count(paper(), trainable_only=True) == 41_302_368


def test_table_4_without_feed_forward_networks():
    """The paper's text: without them 41.3 million parameters become 28.7."""
    assert (count(paper(), trainable_only=True) - 12 * FEED_FORWARD) / 1e6 == pytest.approx(28.7, abs=0.05)


@pytest.mark.parametrize(("width", "wanted"), [(1066, 81.25e9), (1333, 101.7e9)])
def test_multiply_adds_of_the_papers_model(width, wanted):
    assert multiply_adds(paper(), 800, width) == pytest.approx(wanted, rel=0.005)


@pytest.mark.parametrize(
    ("changes", "table_1"),
    [({"dilation": True}, 187 / 86), ({"backbone": "resnet101"}, 152 / 86)],
)
def test_variants_cost_what_table_1_says(changes, table_1):
    """Against the plain model, in an image of about the average size."""
    ratio = multiply_adds(paper(**changes), 800, 1066) / multiply_adds(paper(), 800, 1066)
    assert ratio == pytest.approx(table_1, rel=0.05)


def attention_by_hand(config: DETRConfig, tokens: int) -> int:
    """Multiply-adds of QK^T and of the weights times V, without the projections around them."""
    encoder = config.encoder_layers * 2 * tokens * tokens * config.width
    queries = config.decoder_layers * 2 * config.queries * config.queries * config.width
    image = config.decoder_layers * 2 * config.queries * tokens * config.width
    return encoder + queries + image


def test_attention_is_counted_although_the_fused_kernel_hides_it():
    """On a CPU torch's counter passes over the fused kernel: a plain forward pass seems to cost too little."""
    model = DETR(DETRConfig.mini()).eval().requires_grad_(False)  # no_grad trips the counter: queries are a view
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 64, 64))
    hidden = multiply_adds(model, 64, 64) - counter.get_total_flops() // 2
    assert hidden == attention_by_hand(model.config, tokens=8 * 8) > 0


def test_the_mini_costs_less_than_a_thousandth_and_counting_changes_nothing():
    model = DETR(DETRConfig.mini()).train()
    model.backbone.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seed = torch.get_rng_state()
    assert 50e6 < multiply_adds(model, 64, 64) < 54e6
    assert model.training and not model.backbone.training
    assert torch.equal(torch.get_rng_state(), seed)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert multiply_adds(model.eval(), 64, 64) == multiply_adds(model.train(), 64, 64)
