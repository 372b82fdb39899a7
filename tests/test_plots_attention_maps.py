"""Notebook 11's maps lie at the right pixels, their numbers are right, and the figures draw what they are given."""

import math

import numpy as np
import pytest
import torch

from detr_mini.datasets.batches import collate
from detr_mini.detection import Detections
from detr_mini.detr import DETR, Attention, DETRConfig
from detr_mini.plots import attention_maps as plots
from detr_mini.plots import detections, style

pytestmark = pytest.mark.usefixtures("no_figure_is_left_in_pyplot")

GREY = torch.full((3, 96, 96), 128, dtype=torch.uint8)


def planted(feature_size, row, column, layers=2, heads=4, queries=3) -> Attention:
    """All attention of every query and token on one token."""
    gh, gw = feature_size
    decoder = torch.zeros(layers, 1, heads, queries, gh * gw)
    encoder = torch.zeros(layers, 1, heads, gh * gw, gh * gw)
    decoder[..., row * gw + column] = encoder[..., row * gw + column] = 1
    return Attention(encoder, decoder, (gh, gw))


def bright_px(axes) -> tuple[int, int, int, int]:
    """(x1, y1, x2, y2) of what is bright in the axes as it is rendered, in px of the image."""
    figure = axes.figure
    figure.canvas.draw()
    dots = np.asarray(figure.canvas.buffer_rgba())[::-1, :, :3].astype(int)  # dots count from below, as the axes do
    frame = axes.get_window_extent()
    y, x = np.mgrid[: dots.shape[0], : dots.shape[1]] + 0.5
    inside = (x > frame.x0 + 3) & (x < frame.x1 - 3) & (y > frame.y0 + 3) & (y < frame.y1 - 3)
    yellow = (dots[..., 0] > 200) & (dots[..., 2] < 190) & inside
    assert yellow.any(), "nothing bright in the picture"
    corners = axes.transData.inverted().transform(np.argwhere(yellow)[:, ::-1] + 0.5)
    (x1, y1), (x2, y2) = corners.min(0), corners.max(0)
    return tuple(round(side) for side in (x1, y1, x2, y2))


# feature size, stride, size of the image as seen, of the file, token, and where it must be drawn
PLACES = {
    "square": ((12, 12), 8, (96, 96), (96, 96), (4, 6), (48, 32, 56, 40)),
    "no multiple of the stride": ((13, 8), 8, (100, 60), (100, 60), (4, 6), (48, 32, 56, 40)),
    "its last token, cut": ((13, 8), 8, (100, 60), (100, 60), (12, 7), (56, 96, 60, 100)),
    "padded in a batch": ((8, 12), 8, (40, 60), (40, 60), (4, 6), (48, 32, 56, 40)),
    "wide": ((4, 12), 8, (32, 96), (32, 96), (1, 10), (80, 8, 88, 16)),
    "resized": ((8, 10), 32, (256, 320), (512, 640), (2, 7), (448, 128, 512, 192)),
    "resized, padded, no multiple": ((11, 10), 32, (240, 300), (480, 600), (3, 8), (512, 192, 576, 256)),
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_a_planted_token_is_found_at_its_pixels(place):
    features, stride, size, original, (row, column), wanted = place
    weights = detections.query_map(planted(features, row, column), 1)
    grid = detections.token_grid_px(features, stride, size, original)
    image = torch.full((3, *original), 128, dtype=torch.uint8)
    (axes,) = plots.planted_figure([image], [weights], [grid], ["planted"]).axes
    off = max(original) / 60  # some dots of the figure
    assert np.abs(np.array(bright_px(axes)) - wanted).max() <= off
    got = plots.patch_px((row, column), features, grid, original)
    assert got == pytest.approx(wanted)
    x, y = (wanted[0] + wanted[2]) / 2, (wanted[1] + wanted[3]) / 2
    assert plots.token_at(x, y, features, grid) == (row, column)


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_every_picture_of_detections_draws_it_there_too(place):
    features, stride, size, original, (row, column), wanted = place
    attention = planted(features, row, column)
    grid = detections.token_grid_px(features, stride, size, original)
    image = torch.full((3, *original), 128, dtype=torch.uint8)
    nowhere = torch.tensor([[-50.0, -50, -49, -49]])
    found = Detections(nowhere, torch.ones(1), torch.zeros(1, dtype=int), ["cat"], torch.tensor([2]))
    one = detections.attention_picture(image, detections.query_map(attention, 2), nowhere[0], "cat", grid).axes[0]
    assert np.abs(np.array(bright_px(one)) - wanted).max() <= max(original) / 60
    _, panel = detections.picture(image, found, attention, grid).axes
    height, width = original
    assert panel.get_xlim() == (0, width) and panel.get_ylim() == (height, 0), "cut at the image"
    assert panel.images[1].get_extent() == [0, grid[1], grid[0], 0]


def test_in_a_real_padded_batch_the_padding_gets_no_attention_and_is_cut():
    torch.manual_seed(0)
    model = DETR(DETRConfig.mini(width=32, feedforward=32, queries=4)).eval()
    samples = []
    for number, (height, width) in enumerate(((64, 88), (37, 50))):
        target = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "image_id": number}
        samples.append((torch.randint(0, 256, (3, height, width), dtype=torch.uint8), target))
    batch = collate(samples, (0.5,) * 3, (0.25,) * 3, num_classes=20)
    with torch.no_grad():
        attention = model(batch.images, batch.padding, return_attention=True).attention
    weights = detections.query_map(attention, 1, image=1)
    assert weights.shape == (8, 11) and weights[5:].sum() == 0 and weights[:, 7:].sum() == 0
    assert weights[:5, :7].sum() == pytest.approx(1, abs=1e-5) and (weights[:5, :7] > 0).all()
    grid = detections.token_grid_px((8, 11), model.backbone.stride, (37, 50))
    assert grid == (64, 88)
    view = plots.explore(attention, query=1, image=1, box_xyxy_px=(0, 0, 56, 40), grid_px=grid)
    assert view.share_in_box == pytest.approx(1, abs=1e-5), "the image's own 5 x 7 tokens"


def test_without_a_grid_the_map_covers_the_image_as_before():
    figure = style.new_figure(2, 2)
    axes = figure.add_axes((0, 0, 1, 1))
    detections.draw_attention(axes, np.full((96, 96, 3), 128), torch.rand(12, 12))
    assert [image.get_extent() for image in axes.images] == [[0, 96, 96, 0]] * 2


def test_explore_gives_the_chosen_row_and_its_numbers():
    g = torch.Generator().manual_seed(0)
    decoder = torch.rand(3, 2, 4, 5, 6, generator=g).softmax(-1)
    encoder = torch.rand(2, 2, 4, 6, 6, generator=g).softmax(-1)
    attention = Attention(encoder, decoder, (2, 3))
    view = plots.explore(attention, query=4, layer=1, image=1, box_xyxy_px=(8, 0, 16, 16), grid_px=(16, 24))
    wanted = decoder[1, 1, :, 4].mean(0)
    assert torch.equal(view.weights, wanted.reshape(2, 3))
    assert view.entropy_bits == pytest.approx(-(wanted * wanted.log2()).sum().item(), rel=1e-5)
    assert view.weights[view.peak] == view.peak_share == wanted.max()
    assert view.share_in_box == pytest.approx((wanted[1] + wanted[4]).item())
    one = plots.explore(attention, token=(1, 2), layer=0, head=3)
    assert torch.equal(one.weights.flatten(), encoder[0, 0, 3, 5]) and one.share_in_box is None


def test_explore_refuses_what_is_ambiguous_or_outside():
    attention = planted((2, 3), 0, 0)
    with pytest.raises(ValueError, match="give one of the two"):
        plots.explore(attention)
    with pytest.raises(ValueError, match="give one of the two"):
        plots.explore(attention, query=0, token=(0, 0))
    with pytest.raises(ValueError, match=r"token \(2, 0\) outside a feature map of 2 x 3"):
        plots.explore(attention, token=(2, 0))
    with pytest.raises(ValueError, match="token_grid_px"):
        plots.explore(attention, query=0, box_xyxy_px=(0, 0, 1, 1))


def test_entropy_of_known_weights():
    rows = torch.tensor([[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25] * 4])
    assert plots.entropy_bits(rows).tolist() == pytest.approx([0, 1, 2])


def test_coverage_is_the_share_of_each_patch_that_lies_in_the_image():
    region = np.zeros((12, 20), dtype=bool)  # stride 8: two rows and three columns, the last ones 4 px
    region[:4, :8] = region[8:, 16:] = True
    wanted = torch.tensor([[0.5, 0, 0], [0, 0, 1]])
    assert torch.equal(plots.coverage(region, 8), wanted)
    assert torch.equal(plots.coverage(np.stack([region, ~region]), 8), torch.stack([wanted, 1 - wanted]))


def test_a_box_covers_its_part_of_each_patch():
    share = plots.box_coverage(torch.tensor([4.0, 8, 16, 12]), (2, 3), (16, 24))
    assert torch.allclose(share, torch.tensor([[0, 0, 0], [0.25, 0.5, 0]]))


def test_in_the_frame_of_a_box_chance_is_one_and_outside_the_image_is_nothing():
    even = torch.full((2, 12, 12), 1 / 144)
    seen = plots.in_box_frame(even, (32, 32, 64, 64), 8, cells=4)
    assert seen.shape == (2, 4, 4) and torch.allclose(seen, torch.ones(2, 4, 4))
    corner = plots.in_box_frame(even, (0, 0, 40, 40), 8, cells=4)
    assert corner[0, 0].isnan().all() and not corner[0, 1:, 1:].isnan().any()
    spot = torch.zeros(12, 12)
    spot[4, 6] = 1  # x 48 to 56, y 32 to 40: upper row, second column of a box's 4 x 4 within 40..72, 30..62
    seen = plots.in_box_frame(spot, (40, 30, 72, 62), 8, cells=8)
    row, column = divmod(int(seen.argmax()), 8)
    assert (row, column) == (2, 3)


def test_table_has_a_row_a_layer_a_column_a_head_and_the_mean():
    attention = planted((12, 12), 4, 6)
    figure = plots.table_figure(GREY, attention, 0, torch.tensor([40.0, 30, 60, 50]), "one")
    assert len(figure.axes) == 2 * 5
    assert figure.axes[0].get_title() == "head 0\n0.0 bits, 100%" and figure.axes[-1].get_title() == "0.0 bits, 100%"
    assert [axes.get_ylabel() for axes in figure.axes[::5]] == ["layer 0", "layer 1"]


def test_riddle_shows_letters_and_maps_without_boxes():
    boxes = torch.tensor([[0.0, 0, 20, 20], [50, 50, 90, 90]])
    found = Detections(boxes, torch.ones(2), torch.zeros(2, dtype=int), ["cat", "dog"], torch.arange(2))
    scene, *maps = plots.riddle_figure(GREY, found, [torch.rand(12, 12)] * 3, "AB").axes
    assert [text.get_text() for text in scene.texts] == ["A cat", "B dog"] and len(scene.patches) == 2
    assert len(maps) == 3 and not any(axes.patches or axes.texts for axes in maps)


def test_regions_are_drawn_relative_to_chance():
    figure = plots.regions_figure({"a": [0.2, 0.4], "b": [0.8, 0.6]}, {"a": 0.1, "b": 0.9}, "title")
    lines = figure.axes[0].lines
    assert np.allclose(lines[0].get_ydata(), [2, 4]) and np.allclose(lines[1].get_ydata(), [8 / 9, 2 / 3])
    assert lines[0].get_linestyle() != lines[1].get_linestyle()


def test_frames_share_one_scale():
    frames = torch.rand(2, 3, 4, 4)
    *maps, scale = plots.frame_figure(frames, "title").axes
    assert len(maps) == 6 and {axes.images[0].get_clim() for axes in maps} == {(0, frames.max().item())}
    assert scale.get_title() == "times\nchance"


def test_entropy_figure_marks_each_head_and_the_most_that_there_can_be():
    left, right = plots.entropy_figure(torch.rand(3, 4), torch.rand(2, 4), math.log2(144)).axes
    assert len(left.lines) == len(right.lines) == 4 + 2
    assert len({line.get_marker() for line in left.lines[:4]}) == 4
    assert left.lines[-1].get_ydata()[0] == pytest.approx(math.log2(144))


def test_points_are_drawn_where_they_are():
    masks = np.zeros((1, 96, 96), dtype=bool)
    masks[0, 20:60, 20:60] = True
    figure = plots.points_figure(GREY, masks, planted((12, 12), 4, 6), [(2, 3), (9, 1)], 8, "title")
    scene, *maps = figure.axes
    assert [text.get_position() for text in scene.texts] == [(28, 20), (12, 76)]
    assert len(maps) == 4 and maps[0].patches[0].get_xy() == (24, 16)


def test_the_other_figures_draw_what_they_are_given():
    lines = {"own": [3.0, 2.0], "other": [2.0, 1.0], "background": [1.0, 1.0]}
    left, _ = plots.distance_figure([lines, lines], [1.0, 2.0]).axes
    assert [list(line.get_ydata()) for line in left.lines[:3]] == list(lines.values())
    results = {kind: {"most attended": (0.5, 0.4, 0.6), "random": (0.2, 0.1, 0.3)} for kind in "ab"}
    left, right = plots.drops_figure(results, ("A", "B"), "drop").axes
    assert list(left.lines[0].get_xdata()) == [0.4, 0.6] and left.get_xlim() == right.get_xlim()
    assert left.lines[1].get_marker() != left.lines[3].get_marker()
    box = torch.tensor([10.0, 10, 50, 50])
    assert len(plots.covers_figure([GREY / 255] * 3, box, ["a", "b", "c"]).axes) == 3
    figure = plots.sweep_figure(GREY, torch.rand(12, 12), torch.rand(12, 12) - 0.5, box, ("a", "b", "c"))
    assert [axes.get_title() for axes in figure.axes] == ["a", "b", "c"]
    seen = torch.zeros(96, 96)
    seen[40, 48] = 1
    axes = plots.eye_figure(seen, (5, 6), 8).axes[0]
    assert axes.lines[0].get_xydata().tolist() == [[48.5, 40.5]] and axes.patches[0].get_xy() == (48, 40)
