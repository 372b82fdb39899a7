import math

import pytest
import torch

from detr_mini import positions


def no_padding(height: int, width: int) -> torch.Tensor:
    return torch.zeros(1, height, width, dtype=torch.bool)


def test_sine_by_hand():
    # width 8: two frequencies an axis, 1 and 1/T^(1/2); row 1 of 2 counts 1, so y = 1/2 * 2 pi = pi
    codes = positions.SineEncoding(8, temperature=100.0)(no_padding(2, 4))[0]
    y, x = math.pi, 2 * math.pi / 4
    by_hand = [f(v * s) for v in (y, x) for s in (1.0, 0.1) for f in (math.sin, math.cos)]
    torch.testing.assert_close(codes[0, 0], torch.tensor(by_hand), atol=1e-5, rtol=1e-5)


def test_sine_counts_the_image_and_not_the_batch():
    encoding = positions.SineEncoding(16)
    alone = encoding(no_padding(3, 4))[0]
    padded = torch.ones(1, 6, 9, dtype=torch.bool)
    padded[:, :3, :4] = False
    torch.testing.assert_close(encoding(padded)[0, :3, :4], alone)


def test_dead_channels_of_the_papers_temperature():
    for temperature, dead in ((10_000.0, 136), (20.0, 0)):
        for side in (8, 25):
            codes = positions.SineEncoding(256, temperature)(no_padding(side, side))[0].flatten(0, 1)
            assert (codes.std(dim=0, correction=0) < 0.01).sum() == dead


def test_learned_reads_its_table_and_stretches_above_it():
    encoding = positions.LearnedEncoding(8, cells=5)
    small = encoding(no_padding(5, 3))[0]
    torch.testing.assert_close(small[4, 2], torch.cat([encoding.col_embed[2], encoding.row_embed[4]]))
    large = encoding(no_padding(9, 50))[0]
    assert large.shape == (9, 50, 8)
    torch.testing.assert_close(large[0, 0, :4], encoding.col_embed[0])
    torch.testing.assert_close(large[8, 49, 4:], encoding.row_embed[4])
    torch.testing.assert_close(large[4, 0, 4:], encoding.row_embed[2])  # the middle stays the middle
    large.sum().backward()
    assert encoding.row_embed.grad.abs().sum() > 0


def test_none_is_zero_and_unknown_is_an_error():
    assert positions.build("none", 8, 1.0)(no_padding(2, 3)).abs().sum() == 0
    with pytest.raises(ValueError, match="'cosine' is none of"):
        positions.build("cosine", 8, 1.0)
    with pytest.raises(ValueError, match="multiple of 4"):
        positions.SineEncoding(6)
