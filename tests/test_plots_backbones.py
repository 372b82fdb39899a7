"""Figures of notebook 06 show what they were given, stay within their frame, and leave nothing in pyplot."""

import numpy as np
import pytest
import torch
from figures import readable
from matplotlib.patches import Rectangle

from detr_mini.plots import backbones as plots

pytestmark = pytest.mark.usefixtures("no_figure_is_left_in_pyplot")

IMAGES = [torch.full((3, 20, 30), 90, dtype=torch.uint8), torch.full((3, 30, 20), 200, dtype=torch.uint8)]
BOXES = [torch.tensor([[2.0, 3.0, 12.0, 15.0]]), torch.zeros(0, 4)]


def test_reach_by_hand():
    assert plots.reach([]) == plots.Reach(1, 1)
    assert plots.reach([(3, 1, 1), (3, 1, 1)]) == plots.Reach(5, 1)
    assert plots.reach([(3, 2, 1), (3, 1, 1)]) == plots.Reach(7, 2)
    assert plots.reach([(3, 2, 1), (3, 1, 2)]) == plots.Reach(11, 2)
    assert plots.reach([(1, 4, 1)]) == plots.Reach(1, 4)


def test_sheet_draws_each_box_and_word():
    figure = plots.sheet(IMAGES, BOXES, [["a cat"], []], ["one", "two"], columns=2, title="both")
    first, second = figure.axes
    [box] = [patch for patch in first.patches if isinstance(patch, Rectangle) and not patch.get_fill()]
    assert (*box.get_xy(), box.get_width(), box.get_height()) == (2, 3, 10, 12)
    assert [text.get_text() for text in first.texts] == ["a cat"] and not second.patches
    assert [axes.get_title() for axes in figure.axes] == ["one", "two"] and readable(figure)
    assert len(plots.sheet(IMAGES, BOXES, columns=3).axes) == 3


def test_hardness_shows_shares():
    recall = {"size": {"small": (1, 4), "large": (3, 3)}, "company": {"alone": (1, 2)}}
    figure = plots.hardness_figure(torch.tensor([4.0, 9.0, 30.0]), (12.8, 25.6), recall)
    assert [text.get_text() for text in figure.axes[1].texts] == ["25%", "100%"]
    assert "under 9 px" in figure.axes[0].get_title() and readable(figure)


def test_batch_marks_the_padding():
    padding = torch.zeros(2, 30, 40, dtype=torch.bool)
    padding[1, 20:] = True
    figure = plots.batch_figure(torch.zeros(2, 3, 30, 40, dtype=torch.uint8), padding, "two")
    assert [axes.get_title() for axes in figure.axes[:2]] == ["30 x 40 px", "20 x 40 px"]
    assert [len(axes.collections) > 0 for axes in figure.axes[2:]] == [False, True] and readable(figure)


def test_leak_places_columns_by_their_middle():
    figure = plots.leak_figure({"a": [0.0, 0.5], "b": [0.0, 0.0, 0.1, 0.9]}, "leaks")
    first, second = figure.axes[0].lines[:2]
    assert first.get_xdata().tolist() == [0.25, 0.75] and second.get_ydata()[-1] == 0.9
    assert first.get_linestyle() != second.get_linestyle() and readable(figure)


def test_the_narrowest_middle():
    gradient = torch.zeros(9, 9)
    gradient[:, 2:7] = torch.tensor([1.0, 10.0, 78.0, 10.0, 1.0])
    assert plots.middle(gradient, 1.0) == (2, 7)
    assert plots.middle(gradient, 0.95) == (3, 6)
    assert plots.middle(gradient, 0.5) == (4, 5)
    figure = plots.field_figure({"a": gradient, "b": gradient.T + gradient}, "fields")
    assert "all, 5 px" in figure.axes[0].get_xlabel() and readable(figure)


def test_spread_has_a_dot_for_each_channel_and_batch():
    figure = plots.spread_figure({"2 images": torch.rand(4, 8) + 0.5, "8 images": torch.ones(1, 8)}, "spread")
    assert len(figure.axes[0].lines[0].get_xdata()) == 32 and readable(figure)


def test_pca_finds_the_two_halves_and_keeps_its_signs():
    features = torch.randn(6, 4, 8, generator=torch.Generator().manual_seed(0)) * 0.01
    features[:, :, 4:] += torch.tensor([1.0, 0, 0, 3.0, 0, 0])[:, None, None]
    colours = plots.pca_rgb(features)
    assert colours.shape == (4, 8, 3) and colours.min() >= 0 and colours.max() <= 1
    assert (colours[:, 4:, 0] > 0.9).all() and (colours[:, :4, 0] < 0.1).all()
    np.testing.assert_array_equal(colours, plots.pca_rgb(features))


def test_likeness_is_a_cosine():
    features = torch.randn(6, 4, 8, generator=torch.Generator().manual_seed(0))
    alike = plots.likeness(features, (1, 2))
    assert alike[1, 2] == pytest.approx(1) and alike.abs().max() <= 1 + 1e-5 and alike.shape == (4, 8)
    torch.testing.assert_close(alike, plots.likeness(3 * features + 5, (1, 2)))


def test_feature_figures():
    maps = {"a": torch.rand(6, 4, 6), "b": torch.rand(6, 4, 6)}
    figure = plots.features_figure(IMAGES[0], maps, "maps")
    assert [axes.get_title() for axes in figure.axes] == ["the image, 20 x 30 px", "a", "b"] and readable(figure)
    figure = plots.likeness_figure(IMAGES[0], maps, (1, 1), "like")
    titles = ["the image", "a", "b", ""]  # the last is the colour scale
    assert [axes.get_title() for axes in figure.axes] == titles and readable(figure)
