"""Position encodings of a feature map: sines that count valid cells, and learned tables."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Shapes: B images · H, W feature map · D width


class SineEncoding(nn.Module):
    """Fixed sines and cosines: the first D/2 channels tell y, the rest x, counted from the padding mask.

    `forward` takes padding (B, H, W) bool, True where there is no image, and returns (B, H, W, D). Counts run
    from 1 to the image's own height and width, scaled to 2 pi, so equal places in an image get equal codes
    whatever the batch pads. Raises ValueError if D is not a multiple of 4.
    Source: DETR, appendix A.4, with the authors' constants.
    """

    def __init__(self, width: int, temperature: float = 10_000.0):
        super().__init__()
        if width % 4:
            raise ValueError(f"width {width} is not a multiple of 4: sin and cos for each of y and x")
        channels = torch.arange(width // 4)
        frequencies = temperature ** (-channels / (width // 4))  # (D/4,)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, padding: Tensor) -> Tensor:
        valid = (~padding).to(self.frequencies.dtype)
        return torch.cat([self.axis(valid.cumsum(dim)) for dim in (1, 2)], dim=-1)  # (B, H, W, D)

    def axis(self, count: Tensor) -> Tensor:
        """Codes of one axis: count (B, H, W) of valid cells so far, to (B, H, W, D/2)."""
        last = count.amax(dim=(1, 2), keepdim=True)
        angle = count / (last + 1e-6) * 2 * math.pi
        angle = angle[..., None] * self.frequencies  # (B, H, W, D/4)
        return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)  # sin, cos interleaved


class LearnedEncoding(nn.Module):
    """Two tables of learned codes, one for columns and one for rows, stretched for maps larger than the table.

    `forward` takes padding (B, H, W) and returns (B, H, W, D): D/2 channels of x, then D/2 of y. Up to `cells`
    cells a side the table is read; above, it is interpolated to the side's length (the authors' code crashes).
    Raises ValueError if D is odd.
    """

    def __init__(self, width: int, cells: int = 50):
        super().__init__()
        if width % 2:
            raise ValueError(f"width {width} is odd: half of the channels tell x, half y")
        self.col_embed = nn.Parameter(torch.rand(cells, width // 2))
        self.row_embed = nn.Parameter(torch.rand(cells, width // 2))

    def forward(self, padding: Tensor) -> Tensor:
        batch, height, width = padding.shape
        x = codes(self.col_embed, width)[None, :].expand(height, -1, -1)  # (H, W, D/2)
        y = codes(self.row_embed, height)[:, None].expand(-1, width, -1)
        return torch.cat([x, y], dim=-1).expand(batch, -1, -1, -1)


def codes(table: Tensor, length: int) -> Tensor:
    """The first `length` rows of a table (cells, D), or the whole table stretched linearly to more rows."""
    if length <= len(table):
        return table[:length]
    return F.interpolate(table.T[None], size=length, mode="linear", align_corners=True)[0].T


class NoEncoding(nn.Module):
    """Zeros in the place of an encoding, for the experiment that takes positions away; same shapes as above."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width

    def forward(self, padding: Tensor) -> Tensor:
        return torch.zeros(*padding.shape, self.width, device=padding.device)


def build(kind: str, width: int, temperature: float) -> nn.Module:
    """The encoding called "sine", "learned" or "none"; raises ValueError on another name."""
    if kind == "sine":
        return SineEncoding(width, temperature)
    if kind == "learned":
        return LearnedEncoding(width)
    if kind == "none":
        return NoEncoding(width)
    raise ValueError(f"position {kind!r} is none of 'sine', 'learned', 'none'")
