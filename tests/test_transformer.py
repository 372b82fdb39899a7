import pytest
import torch
from torch import nn

from detr_mini.detr import DETR, DETRConfig
from detr_mini.transformer import Decoder, DecoderLayer, Encoder, EncoderLayer, Transformer

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


BOTH_ORDERS = pytest.mark.parametrize("pre_norm", [False, True], ids=["post-norm", "pre-norm"])
PADDED_OR_NOT = pytest.mark.parametrize("padding", [None, padding_of(2, 6)], ids=["whole", "padded"])


def torchs_layer(kind: str, pre_norm: bool) -> nn.Module:
    layer = {"encoder": nn.TransformerEncoderLayer, "decoder": nn.TransformerDecoderLayer}[kind]
    return layer(WIDTH, HEADS, INNER, 0.0, batch_first=True, norm_first=pre_norm)


@BOTH_ORDERS
@PADDED_OR_NOT
def test_encoder_layer_without_positions_is_torchs(pre_norm, padding):
    ours = randomised(EncoderLayer(WIDTH, HEADS, INNER, 0.0, pre_norm))
    theirs = torchs_layer("encoder", pre_norm).eval()
    theirs.load_state_dict(ours.state_dict())
    tokens = torch.randn(2, 6, WIDTH)
    answer, _ = ours(tokens, torch.zeros_like(tokens), padding)
    torch.testing.assert_close(answer, theirs(tokens, src_key_padding_mask=padding), atol=1e-5, rtol=1e-5)


@BOTH_ORDERS
@PADDED_OR_NOT
def test_decoder_layer_without_positions_is_torchs(pre_norm, padding):
    ours = randomised(DecoderLayer(WIDTH, HEADS, INNER, 0.0, pre_norm))
    theirs = torchs_layer("decoder", pre_norm).eval()
    theirs.load_state_dict(ours.state_dict())
    states, memory = torch.randn(2, 5, WIDTH), torch.randn(2, 6, WIDTH)
    answer, _ = ours(states, torch.zeros_like(states), memory, torch.zeros_like(memory), padding)
    wanted = theirs(states, memory, memory_key_padding_mask=padding)
    torch.testing.assert_close(answer, wanted, atol=1e-5, rtol=1e-5)


@BOTH_ORDERS
@PADDED_OR_NOT
def test_stacks_without_positions_are_torchs(pre_norm, padding):
    """Queries without positions are all alike, but still differ from layer to layer and image to image."""
    encoder = randomised(Encoder(3, WIDTH, HEADS, INNER, 0.0, pre_norm))
    decoder = randomised(Decoder(3, WIDTH, HEADS, INNER, 0.0, pre_norm))
    norm = nn.LayerNorm(WIDTH) if pre_norm else None
    their_encoder = nn.TransformerEncoder(torchs_layer("encoder", pre_norm), 3, norm, enable_nested_tensor=False)
    their_decoder = nn.TransformerDecoder(torchs_layer("decoder", pre_norm), 3, nn.LayerNorm(WIDTH))
    their_encoder.eval().load_state_dict(encoder.state_dict())
    their_decoder.eval().load_state_dict(decoder.state_dict())
    tokens, no_queries = torch.randn(2, 6, WIDTH), torch.zeros(2, 5, WIDTH)
    memory, _ = encoder(tokens, torch.zeros_like(tokens), padding)
    torch.testing.assert_close(memory, their_encoder(tokens, src_key_padding_mask=padding), atol=1e-5, rtol=1e-5)
    states, _ = decoder(no_queries, memory, torch.zeros_like(memory), padding)
    wanted = their_decoder(no_queries, memory, memory_key_padding_mask=padding)
    torch.testing.assert_close(states[-1], wanted, atol=1e-5, rtol=1e-5)


@BOTH_ORDERS
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


def reaches(tensor: torch.Tensor, bound: float, share: float) -> bool:
    """Whether a tensor drawn uniformly from -bound..bound would look like this."""
    return share * bound <= tensor.abs().max() <= bound and -share * bound >= tensor.min()


@pytest.fixture(scope="module")
def papers_model() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return DETR(DETRConfig()).state_dict()


def test_the_transformer_starts_as_the_authors(papers_model):
    """Xavier-uniform on every matrix, over the fused projection too (so 6/4D there, not 6/2D); biases as torch's."""
    width, inner = 256, 2048
    seen = {"in_proj_weight": 0, "out_proj.weight": 0, "linear": 0, "zero": 0, "norm": 0}
    for name, value in papers_model.items():
        if not name.startswith("transformer."):
            continue
        if value.dim() == 2:
            kind = next(kind for kind in seen if kind in name)
            fans = {"in_proj_weight": 4 * width, "out_proj.weight": 2 * width, "linear": width + inner}[kind]
            assert reaches(value, (6 / fans) ** 0.5, 0.98), name
        elif "linear" in name:
            kind, fan_in = "linear", width if "linear1" in name else inner
            assert reaches(value, fan_in**-0.5, 0.9), name
        elif "norm" in name:
            kind, wanted = "norm", float(name.endswith("weight"))
            assert (value == wanted).all(), name
        else:
            kind = "zero"
            assert name.endswith(("in_proj_bias", "out_proj.bias")) and (value == 0).all(), name
        seen[kind] += 1
    attentions = 6 + 2 * 6
    assert seen == {
        "in_proj_weight": attentions,
        "out_proj.weight": attentions,
        "linear": 12 * 4,  # two in each layer, weight and bias
        "zero": 2 * attentions,
        "norm": 2 * (6 * 2 + 6 * 3 + 1),
    }


def test_heads_and_queries_start_as_torchs(papers_model):
    for module in ("class_embed", *(f"bbox_embed.layers.{i}" for i in range(3))):
        weight, bias = papers_model[f"{module}.weight"], papers_model[f"{module}.bias"]
        assert reaches(weight, weight.shape[1] ** -0.5, 0.95), module
        assert bias.abs().max() <= weight.shape[1] ** -0.5 and bias.std() > 0, module
    assert reaches(papers_model["input_proj.weight"], 2048**-0.5, 0.98)
    assert 0 < papers_model["input_proj.bias"].abs().max() <= 2048**-0.5
    queries = papers_model["query_embed.weight"]  # (100, 256): the standard error of both is below 0.007
    assert abs(queries.std() - 1) < 0.03 and abs(queries.mean()) < 0.03 and queries.abs().max() > 3


@pytest.mark.parametrize(("pre_norm", "norms"), [(False, 0), (True, 1)])
def test_the_encoder_has_a_final_norm_only_before_norm(pre_norm, norms):
    keys = Transformer(WIDTH, HEADS, 1, 1, INNER, pre_norm=pre_norm).state_dict()
    assert sum(key == "encoder.norm.weight" for key in keys) == norms
    assert "decoder.norm.weight" in keys
