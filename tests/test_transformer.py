import pytest
import torch
from torch import nn

from detr_mini.transformer import DecoderLayer, EncoderLayer, Transformer

WIDTH, HEADS, INNER = 16, 4, 32


def randomised(module: nn.Module) -> nn.Module:
    """Every parameter a random value, so that a forgotten norm or bias shows."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.eval()


def padding_of(batch: int, length: int) -> torch.Tensor:
    padding = torch.zeros(batch, length, dtype=torch.bool)
    padding[-1, length // 2 :] = True
    return padding


@pytest.mark.parametrize("pre_norm", [False, True])
def test_encoder_layer_without_positions_is_torchs(pre_norm):
    ours = randomised(EncoderLayer(WIDTH, HEADS, INNER, 0.0, pre_norm))
    theirs = nn.TransformerEncoderLayer(WIDTH, HEADS, INNER, 0.0, batch_first=True, norm_first=pre_norm).eval()
    theirs.load_state_dict(ours.state_dict())
    tokens, padding = torch.randn(2, 6, WIDTH), padding_of(2, 6)
    answer, _ = ours(tokens, torch.zeros_like(tokens), padding)
    wanted = theirs(tokens, src_key_padding_mask=padding)
    torch.testing.assert_close(answer[~padding], wanted[~padding], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_decoder_layer_without_positions_is_torchs(pre_norm):
    ours = randomised(DecoderLayer(WIDTH, HEADS, INNER, 0.0, pre_norm))
    theirs = nn.TransformerDecoderLayer(WIDTH, HEADS, INNER, 0.0, batch_first=True, norm_first=pre_norm).eval()
    theirs.load_state_dict(ours.state_dict())
    states, memory, padding = torch.randn(2, 5, WIDTH), torch.randn(2, 6, WIDTH), padding_of(2, 6)
    answer, _ = ours(states, torch.zeros_like(states), memory, torch.zeros_like(memory), padding)
    wanted = theirs(states, memory, memory_key_padding_mask=padding)
    torch.testing.assert_close(answer, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_padding_changes_no_query(pre_norm):
    model = randomised(Transformer(WIDTH, HEADS, 2, 2, INNER, 0.0, pre_norm))
    tokens, codes, queries = torch.randn(1, 6, WIDTH), torch.randn(1, 6, WIDTH), torch.randn(5, WIDTH)
    alone, _, _ = model(tokens, codes, None, queries)
    junk = torch.full((1, 4, WIDTH), 7.0)
    padding = torch.tensor([[False] * 6 + [True] * 4])
    padded, _, _ = model(torch.cat([tokens, junk], 1), torch.cat([codes, junk], 1), padding, queries)
    torch.testing.assert_close(padded, alone, atol=1e-5, rtol=1e-5)


def test_attention_on_request_has_every_layer_and_head_and_changes_nothing():
    model = randomised(Transformer(WIDTH, HEADS, 3, 2, INNER, 0.0))
    tokens, codes, queries = torch.randn(2, 6, WIDTH), torch.randn(2, 6, WIDTH), torch.randn(5, WIDTH)
    silent, encoder, decoder = model(tokens, codes, None, queries)
    assert encoder is None and decoder is None
    states, encoder, decoder = model(tokens, codes, None, queries, return_attention=True)
    torch.testing.assert_close(states, silent, atol=1e-5, rtol=1e-5)
    assert encoder.shape == (3, 2, HEADS, 6, 6) and decoder.shape == (2, 2, HEADS, 5, 6)


def test_positions_enter_queries_and_keys_but_never_values():
    layer = randomised(EncoderLayer(WIDTH, HEADS, INNER, 0.0, False))
    with torch.no_grad():  # equal weights for every key: positions can act through values alone
        layer.self_attn.in_proj_weight[: 2 * WIDTH] = 0
    tokens = torch.randn(1, 6, WIDTH)
    with_positions, _ = layer(tokens, torch.randn(1, 6, WIDTH), None)
    without, _ = layer(tokens, torch.zeros(1, 6, WIDTH), None)
    torch.testing.assert_close(with_positions, without)


def test_xavier_over_the_fused_projection():
    width = 256
    weight = Transformer(width, 8, 1, 1, 64).encoder.layers[0].self_attn.in_proj_weight
    bound = (6 / (4 * width)) ** 0.5
    assert 0.99 * bound < weight.abs().max() <= bound


@pytest.mark.parametrize(("pre_norm", "norms"), [(False, 0), (True, 1)])
def test_the_encoder_has_a_final_norm_only_before_norm(pre_norm, norms):
    keys = Transformer(WIDTH, HEADS, 1, 1, INNER, pre_norm=pre_norm).state_dict()
    assert sum(key == "encoder.norm.weight" for key in keys) == norms
    assert "decoder.norm.weight" in keys
