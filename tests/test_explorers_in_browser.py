"""PositionExplorer, AttentionExplorer and AssignmentTimeline on pages of their own, in a real browser."""

import json
from pathlib import Path

import pytest
import torch
from browser import state

from detr_mini import checkpoints
from detr_mini.boxes import area
from detr_mini.datasets.toybox import Toybox, ToyboxConfig
from detr_mini.detection import Detections, detect
from detr_mini.detr import Attention
from detr_mini.widgets import AssignmentTimeline, AttentionExplorer, PositionExplorer, attention_explorer

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def toybox_scene():
    """A scene with detections and attention maps of the shipped toybox model."""
    model = checkpoints.load("toybox")
    image = Toybox(ToyboxConfig(size=96, objects=(3, 6)), 10, 0, "test")[3][0]
    [(found, attention)] = detect(model, image, 0.5, return_attention=True)
    return image, found, attention


@pytest.fixture(scope="module")
def training_run():
    """The logged run of notebook 12, one of its scenes and the scene's target."""
    stored = json.loads((ROOT / "data" / "results" / "queries" / "timeline.json").read_text(encoding="utf-8"))
    return stored["points"], *Toybox(split="val")[1]


def brightest(page) -> tuple[int, int]:
    """Row and column of the least transparent, brightest cell."""
    return tuple(
        page.evaluate(
            """() => {
              const cells = [...document.querySelectorAll('svg.map > g:first-of-type > rect')];
              const y = cells.map((c) => c.getAttribute('y')), columns = y.filter((one) => one === y[0]).length;
              const light = (c) => c.getAttribute('fill').match(/\\d+/g).reduce((sum, one) => sum + Number(one), 0);
              const best = cells.reduce((a, b, i) => (light(b) > light(cells[a]) ? i : a), 0);
              return [Math.floor(best / columns), best % columns];
            }""".replace("\\\\\\\\", "\\\\")
        )
    )


def point_at(page, x: float, y: float, click: bool = False) -> None:
    """Moves the mouse to a place of the map, in shares of its width and height."""
    frame = page.locator("svg.map").bounding_box()
    move = page.mouse.click if click else page.mouse.move
    move(frame["x"] + x * frame["width"], frame["y"] + y * frame["height"])


def test_the_position_explorer_follows_mouse_and_keys(open_lab):
    lab = PositionExplorer(temperature=20.0, size=(10, 14))
    page = open_lab(lab)
    point_at(page, 2.5 / 14, 7.5 / 10)
    assert state(page)["cell"] == [7, 2] and brightest(page) == (7, 2)
    page.focus("svg.map")
    for key in ("ArrowRight", "ArrowUp", "ArrowUp"):
        page.keyboard.press(key)
    assert state(page)["cell"] == [5, 3] and brightest(page) == (5, 3)
    for kind, way in (("sine", "one sequence"), ("learned", "one sequence"), ("learned", "rows and columns")):
        page.get_by_label("encoding").select_option(kind)
        page.get_by_label("of", exact=True).select_option(way)
        lab.change(**{key: state(page)[key] for key in ("kind", "way", "cell", "temperature")})
        similarity = lab.similarity
        assert f"lowest {similarity.lowest:.2f}, spread {similarity.spread:.3f}" in page.inner_text(".totals")
    assert page.locator(".slider").is_hidden(), "learned codes have no temperature"


def test_the_attention_explorer_shows_detections_points_layers_and_heads(open_lab, toybox_scene):
    image, found, attention = toybox_scene
    lab = AttentionExplorer(image, found, attention)
    page = open_lab(lab)
    smallest = int(area(found.boxes_xyxy_px).argmin())
    x1, y1, x2, y2 = found.boxes_xyxy_px[smallest].tolist()
    point_at(page, (x1 + x2) / 2 / 96, (y1 + y2) / 2 / 96, click=True)
    assert state(page)["pick"] == smallest, "the smallest box under the mouse"

    def same() -> None:
        lab.change(**{key: state(page)[key] for key in ("pick", "token", "layer", "head", "strength")})
        text = page.inner_text(".totals")
        assert f"{lab.view.entropy_bits:.1f} bits" in text and f"({lab.view.peak[0]}, {lab.view.peak[1]})" in text
        assert brightest(page) == lab.view.peak

    same()
    page.get_by_label("layer 3").fill("0")
    page.get_by_label("head", exact=True).select_option("head 2")
    same()
    page.focus("svg.map .box >> nth=1")
    page.keyboard.press("Enter")
    assert state(page)["pick"] == 1
    same()
    page.get_by_label("click on").select_option("points")
    point_at(page, 3.5 / 12, 8.5 / 12, click=True)
    assert state(page)["token"] == [8, 3]
    same()
    page.focus("svg.map")
    page.keyboard.press("ArrowLeft")
    assert state(page)["token"] == [8, 2]
    same()


def test_an_image_without_detections_one_head_and_one_layer(open_lab):
    weights = torch.full((1, 1, 1, 12, 12), 1 / 12)
    nothing = Detections(
        torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), [], torch.zeros(0, dtype=torch.int64)
    )
    attention = Attention(weights, torch.full((1, 1, 1, 5, 12), 1 / 12), (3, 4))
    page = open_lab(AttentionExplorer(torch.zeros(3, 24, 32, dtype=torch.uint8), nothing, attention))
    assert "Nothing was detected" in page.inner_text(".notes")
    page.get_by_label("click on").select_option("points")
    assert "3.6 bits" in page.inner_text(".totals")
    assert page.get_by_label("head", exact=True).is_hidden() and page.locator(".slider").first.is_hidden()


def test_an_encoder_too_large_for_a_page_is_left_out_with_a_word(open_lab, toybox_scene, monkeypatch):
    image, found, attention = toybox_scene
    monkeypatch.setattr(attention_explorer, "MOST_MB", 0.1)
    lab = AttentionExplorer(image, found, attention)
    page = open_lab(lab)
    page.get_by_label("click on").select_option("points")
    assert state(page)["token"] is None and "too large" in page.inner_text(".notes")
    with pytest.raises(ValueError, match=r"more than 0\.1 MB"):
        lab.token = (0, 0)


def test_the_timeline_scrubs_and_plays(open_lab, training_run):
    points, image, truth = training_run
    lab = AssignmentTimeline(points, 2, image, truth, Toybox.names)
    page = open_lab(lab)
    for index in (0, 5, len(lab.frames) - 1):
        page.locator("input[type=range]").fill(str(index))
        assert state(page)["index"] == index
        lab.index = index
        frame = lab.frame
        matched = [
            f"o{t} {Toybox.names[label]}: q{q}"
            for t, (label, q) in enumerate(zip(truth["labels"], frame.query, strict=True))
        ]
        text = page.locator(".aside .small").last.inner_text()
        assert all(pair in text for pair in matched) and text.count("(new)") == frame.changed.sum()
        assert page.locator(".lines .matched").count() == (frame.query >= 0).sum()
        assert page.locator(".lines .new").count() == frame.changed.sum()
    page.get_by_label("play the training").click()
    page.wait_for_timeout(900)
    page.get_by_label("play the training").click()
    assert 1 <= state(page)["index"] <= 6, "from the end it begins anew"
    page.locator("input[type=range]").focus()
    before = state(page)["index"]
    page.keyboard.press("ArrowRight")
    assert state(page)["index"] == before + 1
    page.get_by_label("show").select_option("all queries")
    assert page.locator(".stage .box.query").count() == 10


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_explorers_in_both_themes_on_a_small_screen(scheme, open_lab, toybox_scene, training_run):
    points, image, truth = training_run
    for lab in (
        PositionExplorer(),
        AttentionExplorer(*toybox_scene),
        AssignmentTimeline(points, 2, image, truth, Toybox.names),
    ):
        page = open_lab(lab, viewport={"width": 400, "height": 800}, color_scheme=scheme)
        assert page.get_attribute(".detr-mini", "data-theme") == scheme
        assert page.evaluate("document.scrollingElement.scrollWidth") <= 400
        for role in ("button", "slider", "combobox"):
            assert all(node.get_attribute("aria-label") for node in page.get_by_role(role).all())
