import pytest
import torch
from torch import nn

from detr_mini.attention import MultiheadAttention


def attention(width=16, heads=4, dropout=0.0) -> MultiheadAttention:
    torch.manual_seed(0)
    module = MultiheadAttention(width, heads, dropout)
    nn.init.normal_(module.in_proj_bias)
    nn.init.normal_(module.out_proj.bias)
    return module.eval()


def padded_inputs():
    torch.manual_seed(1)
    query, key, value = torch.randn(3, 5, 16), torch.randn(3, 7, 16), torch.randn(3, 7, 16)
    padding = torch.zeros(3, 7, dtype=torch.bool)
    padding[1, 4:] = True
    return query, key, value, padding


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("weights", [False, True])
def test_equals_torch(masked, weights):
    query, key, value, padding = padded_inputs()
    ours = attention()
    theirs = nn.MultiheadAttention(16, 4, batch_first=True)
    theirs.load_state_dict(ours.state_dict())  # also says that the parameter names are the same
    mask = padding if masked else None
    out, seen = ours(query, key, value, mask, return_weights=weights)
    wanted, wanted_weights = theirs(
        query, key, value, key_padding_mask=mask, need_weights=weights, average_attn_weights=False
    )
    torch.testing.assert_close(out, wanted, atol=1e-5, rtol=1e-5)
    assert (seen is None) == (not weights)
    if weights:
        torch.testing.assert_close(seen, wanted_weights, atol=1e-5, rtol=1e-5)


def test_fused_and_explicit_agree_with_padding():
    *inputs, padding = padded_inputs()
    module = attention()
    fused, _ = module(*inputs, padding)
    explicit, weights = module(*inputs, padding, return_weights=True)
    torch.testing.assert_close(fused, explicit, atol=1e-5, rtol=1e-5)
    assert weights.shape == (3, 4, 5, 7)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 4, 5))
    assert (weights[1, :, :, 4:] == 0).all()


def test_an_image_without_any_key_gives_zeros_on_both_paths():
    *inputs, padding = padded_inputs()
    padding[2] = True
    module = attention()
    for return_weights in (False, True):
        out, weights = module(*inputs, padding, return_weights=return_weights)
        torch.testing.assert_close(out[2], module.out_proj.bias.expand(5, -1))
        assert out.isfinite().all()
    assert (weights[2] == 0).all()


def test_no_gradient_is_nan_where_everything_is_masked():
    *inputs, padding = padded_inputs()
    padding[2] = True
    module = attention()
    for return_weights in (False, True):
        module.zero_grad()
        module(*inputs, padding, return_weights=return_weights)[0].sum().backward()
        assert all(p.grad.isfinite().all() for p in module.parameters())


def test_masked_keys_change_nothing():
    query, key, value, padding = padded_inputs()
    module = attention()
    before, _ = module(query, key, value, padding)
    key[1, 4:], value[1, 4:] = 100.0, -100.0
    torch.testing.assert_close(module(query, key, value, padding)[0], before)


@pytest.mark.parametrize("return_weights", [False, True])
def test_dropout_only_in_training(return_weights):
    *inputs, padding = padded_inputs()
    module = attention(dropout=0.5)
    still = [module(*inputs, padding, return_weights)[0] for _ in range(2)]
    assert torch.equal(*still)
    module.train()
    moving = [module(*inputs, padding, return_weights)[0] for _ in range(2)]
    assert not torch.allclose(*moving)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="10 is not divisible by 4"):
        MultiheadAttention(10, 4)
