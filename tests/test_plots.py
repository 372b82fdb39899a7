"""Figures show what they were given, the right pixels, boxes, words and weights, and can be read."""

import io
import itertools

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.patches import FancyBboxPatch
from PIL import Image

from detr_mini.checkpoints import Checkpoint
from detr_mini.datasets.toybox import Toybox
from detr_mini.detection import Detections
from detr_mini.detr import DETR, Attention, DETRConfig
from detr_mini.plots import course_map, detections, style

pytestmark = pytest.mark.usefixtures("no_figure_is_left_in_pyplot")

SCENE = (torch.arange(3 * 48 * 64) % 251).to(torch.uint8).reshape(3, 48, 64)
ROLES = (style.QUERY, style.OBJECT, style.MATCHED, style.UNMATCHED)


def found(count: int, width: int = 64, height: int = 48) -> Detections:
    """Detections in a row from left to right; number i has score 1 - i / 100 and came from query 2 i."""
    left = torch.arange(count) * width / max(1, count)
    one = torch.ones(count)
    boxes = torch.stack([left, 0.5 * height * one, left + 5, 0.75 * height * one], dim=1)
    labels, scores = torch.arange(count), 1 - torch.arange(count) / 100
    return Detections(boxes, scores, labels, [f"thing{i}" for i in range(count)], 2 * labels)


def attention(queries: int, gh: int = 6, gw: int = 8) -> Attention:
    decoder = torch.rand(3, 1, 4, queries, gh * gw, generator=torch.Generator().manual_seed(0)).softmax(-1)
    return Attention(torch.zeros(3, 1, 4, gh * gw, gh * gw), decoder, (gh, gw))


def texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def luminance(colour: str) -> float:
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


@pytest.mark.parametrize("kind", ["tensor", "PIL", "file"])
def test_every_kind_of_image_is_drawn_with_its_boxes_and_labels(kind, tmp_path):
    pil = Image.fromarray(SCENE.permute(1, 2, 0).numpy())
    pil.save(tmp_path / "scene.png")
    image = {"tensor": SCENE, "PIL": pil, "file": tmp_path / "scene.png"}[kind]
    (axes,) = detections.picture(image, found(2)).axes
    assert np.array_equal(axes.images[0].get_array(), np.asarray(pil))
    assert axes.images[0].get_extent() == [0, 64, 48, 0] and axes.get_title() == "2 detections"
    assert texts(axes) == ["thing0 1.00  q0", "thing1 0.99  q2"]
    drawn = {(*patch.get_xy(), patch.get_width(), patch.get_height()) for patch in axes.patches}
    assert drawn == {(0, 24, 5, 12), (32, 24, 5, 12)}


def test_a_camera_that_was_turned():
    upright = Image.fromarray(SCENE.permute(1, 2, 0).numpy())
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    turned.getexif()[0x0112] = 6  # turn by 270 degrees to see it as it was
    assert np.array_equal(detections.pixels_of(turned), np.asarray(upright))


@pytest.mark.parametrize("wrong", [SCENE.float(), SCENE[None], SCENE.permute(1, 2, 0)])
def test_a_tensor_of_another_kind_is_an_error_that_says_what_was_wanted(wrong):
    with pytest.raises(ValueError, match=r"uint8 \(3, H, W\)"):
        detections.picture(wrong, found(1))


@pytest.mark.parametrize("count, panels", [(0, 0), (1, 1), (4, 4), (5, 5), (12, 9)])
def test_a_panel_shows_the_last_layers_mean_over_heads_of_its_own_query(count, panels):
    looked = attention(queries=30)
    _, *drawn = detections.picture(SCENE, found(count), looked).axes
    assert len(drawn) == panels
    for index, axes in enumerate(drawn):
        assert axes.get_title() == f"q{2 * index} thing{index}"
        wanted = 100 * looked.decoder[-1, 0, :, 2 * index].mean(0).reshape(6, 8)
        assert np.allclose(axes.images[1].get_array(), wanted)
        assert axes.images[1].get_extent() == axes.images[0].get_extent() == [0, 64, 48, 0]
        assert axes.patches[0].get_xy() == (found(count).boxes_xyxy_px[index, 0].item(), 24)


def test_a_map_is_a_share_of_attention_and_layer_and_image_can_be_chosen():
    looked = attention(queries=3)
    whole = detections.query_map(looked, 1)
    assert whole.shape == (6, 8) and torch.isclose(whole.sum(), torch.tensor(1.0))
    first = detections.query_map(looked, 1, layer=0)
    assert torch.equal(first.flatten(), looked.decoder[0, 0, :, 1].mean(0)) and not torch.equal(first, whole)


@pytest.mark.parametrize("width, height", [(64, 48), (48, 64), (1600, 1200), (64, 640)])
def test_panels_lie_inside_the_figure_and_apart_and_keep_the_images_shape(width, height):
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    figure = detections.picture(image, found(5, width, height), attention(queries=30))
    places = [axes.get_window_extent() for axes in figure.axes]
    for place in places:
        assert place.width / place.height == pytest.approx(width / height, rel=0.01)
        assert place.x0 >= 0 and place.y0 >= 0 and place.x1 <= figure.bbox.width and place.y1 <= figure.bbox.height
    assert not [pair for pair in itertools.combinations(places, 2) if pair[0].overlaps(pair[1])]
    smooth = {axes.images[0].get_interpolation() for axes in figure.axes}
    assert smooth == ({"nearest"} if max(width, height) < 200 else {"antialiased", "auto"} & smooth)


def test_labels_of_boxes_at_one_place_and_at_the_borders_stay_readable():
    boxes = torch.tensor([[0.0, 0, 20, 20], [2, 1, 22, 20], [1, 2, 21, 22], [54, 36, 64, 48]])
    crowded = Detections(boxes, torch.full((4,), 0.9), torch.zeros(4, dtype=int), ["cat"] * 4, torch.arange(4))
    figure = detections.picture(SCENE, crowded)
    (axes,) = figure.axes
    frame, renderer = axes.get_window_extent(), figure.canvas.get_renderer()
    places = [text.get_window_extent(renderer) for text in axes.texts]
    assert not [pair for pair in itertools.combinations(places, 2) if pair[0].overlaps(pair[1])]
    for place in places:
        assert frame.x0 <= place.x0 and place.x1 <= frame.x1 and frame.y0 <= place.y0 and place.y1 <= frame.y1


def test_a_sheet_holds_found_and_true_boxes_in_the_colours_of_their_roles():
    target = {"boxes": torch.tensor([[0.5, 0.5, 0.25, 0.5]])}
    first, second = detections.sheet([SCENE, SCENE], [found(1), found(0)], [target, target]).axes
    prediction, truth = first.patches
    assert prediction.get_edgecolor()[:3] == to_rgb(style.QUERY)
    assert truth.get_edgecolor()[:3] == to_rgb(style.OBJECT)
    assert (*truth.get_xy(), truth.get_width(), truth.get_height()) == (24, 12, 16, 24)
    assert texts(first) == ["thing0"] and len(second.patches) == 1 and not texts(second)


def test_one_querys_picture_says_how_much_in_per_cent():
    weights = detections.query_map(attention(queries=3), 1)
    image, scale = detections.attention_picture(SCENE, weights, torch.tensor([1.0, 2, 3, 4]), "cat").axes
    assert np.isclose(image.images[1].get_array().sum(), 100)
    assert image.images[1].get_clim() == (0, pytest.approx(100 * weights.max().item()))
    assert image.get_title() == "cat" and scale.get_title() == "%"


def test_a_picture_is_stored_as_opaque_white_png_in_a_folder_made_for_it(tmp_path):
    detections.save_picture(detections.picture(SCENE, found(1)), tmp_path / "new" / "found.png")
    stored = np.asarray(Image.open(tmp_path / "new" / "found.png").convert("RGBA"))
    assert (stored[..., 3] == 255).all() and (stored[0, 0] == 255).all()


def test_in_a_notebook_the_png_is_shown_with_words_for_who_cannot_see_it(monkeypatch):
    display = pytest.importorskip("IPython.display")
    shown = []
    monkeypatch.setattr(display, "display", shown.append)
    figure = style.new_figure(1, 1)
    style.show(figure, "nothing at all")
    assert shown[0].data == style.png(figure, 256) and shown[0].alt == "nothing at all"


def test_few_colours_make_a_smaller_file_of_nearly_the_same_picture():
    figure = detections.picture(SCENE, found(3))
    whole, small = style.png(figure), style.png(figure, 256)
    assert len(small) < 0.7 * len(whole)
    before, after = (np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), float) for data in (whole, small))
    assert before.shape == after.shape and np.abs(before - after).mean() < 4


def test_the_readmes_picture_is_drawn_by_its_command(monkeypatch, tmp_path):
    torch.manual_seed(0)
    untrained = Checkpoint(DETR(DETRConfig.mini()).eval(), Toybox.names, Toybox.category_ids)
    monkeypatch.setattr(detections, "load", {"toybox-mini": untrained}.__getitem__)
    monkeypatch.setattr(detections, "README_PICTURE", tmp_path / "readme.png")
    detections.main()
    assert 2_000 < (tmp_path / "readme.png").stat().st_size < 300_000


def test_roles_differ_for_any_colour_vision_and_white_words_read_on_the_querys_colour():
    # Machado, Oliveira, Fernandes 2009: full protanopia and deuteranopia
    protan = [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]
    deutan = [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]
    for sight in (np.eye(3), np.array(protan), np.array(deutan)):
        seen = [sight @ to_rgb(colour) for colour in ROLES]
        apart = [np.linalg.norm(one - other) for one, other in itertools.combinations(seen, 2)]
        assert min(apart) > 0.2
    assert 1.05 / (luminance(style.QUERY) + 0.05) > 4.5


@pytest.fixture
def folder(tmp_path):
    for name in ("00_start_here", "02_hungarian_matching"):
        (tmp_path / f"{name}.ipynb").touch()
    (tmp_path / "notes.ipynb").touch()
    return tmp_path


def test_the_map_has_every_notebook_once_and_tells_those_there_from_those_coming(folder):
    (axes,) = course_map.course_map(folder).axes
    boxes = [patch for patch in axes.patches if isinstance(patch, FancyBboxPatch)]
    heads = [text.get_text() for text in axes.texts if text.get_text()[:2].isdigit()]
    assert sorted(head[:2] for head in heads) == [f"{number:02d}" for number in range(15)]
    filled = [head[:2] for box, head in zip(boxes, heads, strict=True) if box.get_linestyle() in ("-", "solid")]
    assert sorted(filled) == ["00", "02"]


def test_words_on_the_map_stay_in_their_boxes(folder):
    figure = course_map.course_map(folder)
    (axes,) = figure.axes
    renderer = figure.canvas.get_renderer()
    boxes = [patch.get_window_extent(renderer) for patch in axes.patches if isinstance(patch, FancyBboxPatch)]
    for text in axes.texts:
        place = text.get_window_extent(renderer)
        touched = [box for box in boxes if box.overlaps(place)] if text.get_text() else []
        for box in touched:
            assert box.x0 < place.x0 and place.x1 < box.x1 and box.y0 < place.y0 and place.y1 < box.y1, text


def test_stored_notebooks_bear_the_names_of_the_course():
    titles = {number: title for number, title, _ in course_map.COURSE}
    assert course_map.there() <= set(titles)
    for path in course_map.FOLDER.glob("[0-9][0-9]_*.ipynb"):
        assert titles[int(path.name[:2])].lower() in path.read_text(encoding="utf-8").lower()
