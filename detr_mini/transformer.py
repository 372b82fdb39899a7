"""DETR's encoder and decoder: positions enter queries and keys of every attention, never the values."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detr_mini.attention import MultiheadAttention

# Shapes: B images · L layers · S = HW tokens · Q queries · h heads · D width


class FeedForward(nn.Module):
    """Base of both layers: holds linear1 and linear2, and applies sub-layers in post-norm or pre-norm order."""

    def __init__(self, width: int, feedforward: int, dropout: float, pre_norm: bool):
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(width, feedforward), nn.Linear(feedforward, width)
        self.dropout, self.pre_norm = nn.Dropout(dropout), pre_norm

    def feed_forward(self, x: Tensor) -> Tensor:
        return self.linear2(self.dropout(F.relu(self.linear1(x))))

    def residual(self, x: Tensor, norm: nn.LayerNorm, sublayer) -> Tensor:
        """x plus the sub-layer's answer, with the norm after the sum (post-norm) or before the sub-layer."""
        if self.pre_norm:
            return x + self.dropout(sublayer(norm(x)))
        return norm(x + self.dropout(sublayer(x)))


class EncoderLayer(FeedForward):
    """Self-attention among image tokens, then the same two-layer network on each token.

    `forward` takes tokens (B, S, D), positions (B, S, D), padding (B, S) and returns tokens and the attention
    weights (B, h, S, S), or None unless asked for.
    """

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float, pre_norm: bool):
        super().__init__(width, feedforward, dropout, pre_norm)
        self.self_attn = MultiheadAttention(width, heads, dropout)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, tokens: Tensor, positions: Tensor, padding: Tensor | None, return_weights: bool = False):
        weights = None

        def attend(x: Tensor) -> Tensor:
            nonlocal weights
            x, weights = self.self_attn(x + positions, x + positions, x, padding, return_weights)
            return x

        tokens = self.residual(tokens, self.norm1, attend)
        return self.residual(tokens, self.norm2, self.feed_forward), weights


class DecoderLayer(FeedForward):
    """Queries look at one another, then at the image, then think alone.

    `forward` takes states (B, Q, D), query_positions (B, Q, D), memory (B, S, D), positions (B, S, D) and padding
    (B, S), and returns states and the cross-attention weights (B, h, Q, S), or None unless asked for.
    """

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float, pre_norm: bool):
        super().__init__(width, feedforward, dropout, pre_norm)
        self.self_attn = MultiheadAttention(width, heads, dropout)
        self.multihead_attn = MultiheadAttention(width, heads, dropout)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def forward(
        self,
        states: Tensor,
        query_positions: Tensor,
        memory: Tensor,
        positions: Tensor,
        padding: Tensor | None,
        return_weights: bool = False,
    ):
        weights = None

        def attend_queries(x: Tensor) -> Tensor:
            return self.self_attn(x + query_positions, x + query_positions, x)[0]

        def attend_image(x: Tensor) -> Tensor:
            nonlocal weights
            x, weights = self.multihead_attn(x + query_positions, memory + positions, memory, padding, return_weights)
            return x

        states = self.residual(states, self.norm1, attend_queries)
        states = self.residual(states, self.norm2, attend_image)
        return self.residual(states, self.norm3, self.feed_forward), weights


class Encoder(nn.Module):
    """A stack of encoder layers; a final norm only in the pre-norm variant, as the authors have it."""

    def __init__(self, layers: int, width: int, heads: int, feedforward: int, dropout: float, pre_norm: bool):
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(width, heads, feedforward, dropout, pre_norm) for _ in range(layers))
        self.norm = nn.LayerNorm(width) if pre_norm else None

    def forward(self, tokens: Tensor, positions: Tensor, padding: Tensor | None, return_weights: bool = False):
        collected = []
        for layer in self.layers:
            tokens, weights = layer(tokens, positions, padding, return_weights)
            collected.append(weights)
        return (tokens if self.norm is None else self.norm(tokens)), collected


class Decoder(nn.Module):
    """A stack of decoder layers; the one final norm is applied to every layer's output on its way out."""

    def __init__(self, layers: int, width: int, heads: int, feedforward: int, dropout: float, pre_norm: bool):
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(width, heads, feedforward, dropout, pre_norm) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, query_positions: Tensor, memory: Tensor, positions: Tensor, padding, return_weights=False):
        states = torch.zeros_like(query_positions)  # a query is a position; its content starts empty
        outputs, collected = [], []
        for layer in self.layers:
            states, weights = layer(states, query_positions, memory, positions, padding, return_weights)
            outputs.append(self.norm(states))  # a copy: the next layer gets the un-normed states
            collected.append(weights)
        return torch.stack(outputs), collected  # (L, B, Q, D)


class Transformer(nn.Module):
    """Encoder and decoder together, every matrix drawn Xavier-uniform.

    `forward` takes tokens (B, S, D), positions (B, S, D), padding (B, S) bool or None and query_positions (Q, D);
    it returns the states of all decoder layers (L, B, Q, D), and, when asked, the attention weights of encoder
    (L, B, h, S, S) and decoder (L, B, h, Q, S).
    """

    def __init__(
        self,
        width: int = 256,
        heads: int = 8,
        encoder_layers: int = 6,
        decoder_layers: int = 6,
        feedforward: int = 2048,
        dropout: float = 0.1,
        pre_norm: bool = False,
    ):
        super().__init__()
        shape = (width, heads, feedforward, dropout, pre_norm)
        self.encoder = Encoder(encoder_layers, *shape)
        self.decoder = Decoder(decoder_layers, *shape)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)  # also over the fused (3D, D) projection, as the authors do

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        padding: Tensor | None,
        query_positions: Tensor,
        return_attention: bool = False,
    ):
        memory, encoder_weights = self.encoder(tokens, positions, padding, return_attention)
        queries = query_positions.expand(tokens.shape[0], -1, -1)  # (Q, D) -> (B, Q, D)
        states, decoder_weights = self.decoder(queries, memory, positions, padding, return_attention)
        if not return_attention:
            return states, None, None
        (batch, length), heads = tokens.shape[:2], self.decoder.layers[0].self_attn.heads
        no_layers = tokens.new_zeros(0, batch, heads, length, length)
        encoder = torch.stack(encoder_weights) if encoder_weights else no_layers
        return states, encoder, torch.stack(decoder_weights)
