"""Multi-head attention: the fused kernel by default, the explicit softmax when the weights are wanted."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Shapes: B images · N queries of the attention · S keys · h heads · d width of a head · D = h d


class MultiheadAttention(nn.Module):
    """Scaled dot-product attention in several heads; parameter names are those of `nn.MultiheadAttention`.

    `forward` takes query (B, N, D), key and value (B, S, D), key_padding (B, S) bool, True where a key must not
    be looked at, and returns the output (B, N, D) and the weights (B, h, N, S), or None unless asked for.
    An image whose keys are all masked gets zeros. Raises ValueError if the heads do not divide the width.
    Source: Vaswani et al. 2017, section 3.2.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0):
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not divisible by {heads} heads")
        self.heads, self.dropout = heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, N, D) -> (B, h, N, d)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding: Tensor | None = None,
        return_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        weights_qkv, biases_qkv = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (
            self.split_heads(F.linear(x, weight, bias))  # (B, h, N or S, d)
            for x, weight, bias in zip((query, key, value), weights_qkv, biases_qkv, strict=True)
        )
        allowed, nothing = None, None
        if key_padding is not None:
            nothing = key_padding.all(dim=1)  # (B,)
            # softmax over no key at all is 0/0: open such a row here, zero its result below
            allowed = (~key_padding | nothing[:, None])[:, None, None, :]  # (B, 1, 1, S)
        attend = explicit_attention if return_weights else fused_attention
        x, weights = attend(q, k, v, allowed, self.dropout if self.training else 0.0)
        if nothing is not None:
            x = x.masked_fill(nothing[:, None, None, None], 0)
            weights = weights if weights is None else weights.masked_fill(nothing[:, None, None, None], 0)
        return self.out_proj(x.transpose(1, 2).flatten(2)), weights  # (B, h, N, d) -> (B, N, D)


def fused_attention(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, dropout: float) -> tuple[Tensor, None]:
    """Attention of q (B, h, N, d) over k, v (B, h, S, d) without ever storing the (N, S) weights."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, dropout_p=dropout), None


def explicit_attention(
    q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, dropout: float
) -> tuple[Tensor, Tensor]:
    """The same as `fused_attention`, step by step; returns also the weights (B, h, N, S), before dropout."""
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (B, h, N, S)
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    weights = scores.softmax(dim=-1)
    return F.dropout(weights, dropout) @ v, weights
