"""PositionExplorer, AttentionExplorer and AssignmentTimeline on pages of their own, in a real browser."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import state
from PIL import Image

from detr_mini import checkpoints
from detr_mini.boxes import area
from detr_mini.datasets.toybox import Toybox, ToyboxConfig
from detr_mini.detection import Detections, detect
from detr_mini.detr import Attention
from detr_mini.positions import LearnedEncoding
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


def nothing() -> Detections:
    none = torch.zeros(0, dtype=torch.int64)
    return Detections(torch.zeros(0, 4), torch.zeros(0), none, [], none)


def cells(page) -> list[list[list[int]]]:
    """Red, green, blue and alpha of each cell of the map, as the picture on the page has them."""
    return page.evaluate(
        """async () => {
          const image = new Image();
          image.src = document.querySelector('svg.map image.heat').getAttribute('href');
          await image.decode();
          const canvas = Object.assign(document.createElement('canvas'), { width: image.width, height: image.height });
          const pen = canvas.getContext('2d');
          pen.drawImage(image, 0, 0);
          const { data } = pen.getImageData(0, 0, image.width, image.height);
          const cell = (r, c) => [...data.slice(4 * (r * image.width + c), 4 * (r * image.width + c) + 4)];
          const row = (_, r) => Array.from({ length: image.width }, (_, c) => cell(r, c));
          return Array.from({ length: image.height }, row);
        }"""
    )


def brightest(page) -> tuple[int, int]:
    """Row and column of the brightest cell."""
    light = np.array(cells(page))[..., :3].sum(-1)
    return divmod(int(light.argmax()), light.shape[1])


def framed(page, mark: str) -> list[float]:
    return page.locator(mark).evaluate("rect => ['x', 'y', 'width', 'height'].map((name) => +rect.getAttribute(name))")


def point_at(page, x: float, y: float, click: bool = False) -> None:
    """Moves the mouse to a place of the map, in shares of its width and height."""
    frame = page.locator("svg.map").bounding_box()
    move = page.mouse.click if click else page.mouse.move
    move(frame["x"] + x * frame["width"], frame["y"] + y * frame["height"])


def test_the_position_explorer_chooses_by_click_drag_and_keys(open_lab):
    lab = PositionExplorer(temperature=20.0, size=(10, 14))
    page = open_lab(lab)
    point_at(page, 2.5 / 14, 7.5 / 10, click=True)
    assert state(page)["cell"] == [7, 2] and brightest(page) == (7, 2)
    page.mouse.down()
    point_at(page, 3.5 / 14, 7.5 / 10)
    page.mouse.up()
    assert state(page)["cell"] == [7, 3], "a drag"
    for key in ("ArrowUp", "ArrowUp", "Control+ArrowUp", "Shift+ArrowLeft"):
        page.keyboard.press(key)
    assert state(page)["cell"] == [5, 3] and brightest(page) == (5, 3), "a click gives the keys to the map"
    for kind, way in (("sine", "one sequence"), ("learned", "one sequence"), ("learned", "rows and columns")):
        page.get_by_label("encoding").select_option(kind)
        page.get_by_label("counted in", exact=True).select_option(way)
        lab.change(**{key: state(page)[key] for key in ("kind", "way", "cell", "temperature")})
        similarity = lab.similarity
        assert page.inner_text(".totals") == (
            f"row 5, column 3: lowest cosine {similarity.lowest:.2f}, standard deviation {similarity.spread:.3f}"
        ).replace("-", "−")
    assert page.locator(".slider").is_hidden() and page.locator(".slider input").is_disabled(), "no temperature"


def test_pointing_reads_a_cosine_and_leaves_the_map(open_lab):
    lab = PositionExplorer(temperature=20.0, size=(10, 14))
    page = open_lab(lab)
    cosine = lab.similarity.map
    assert page.inner_text(".reading") == "cosine of its neighbours: above 0.98, below 0.98, left 0.99, right 0.99"
    before = cells(page)
    for row, column in ((3, 6), (9, 13)):
        point_at(page, (column + 0.5) / 14, (row + 0.5) / 10)
        page.wait_for_timeout(50)
        assert page.inner_text(".reading") == f"row {row}, column {column}: cosine {cosine[row, column]:.2f}"
    frame = page.locator("svg.map").bounding_box()
    page.mouse.click(frame["x"] + 5, frame["y"] + 5, button="right")
    assert state(page)["cell"] == [4, 6] and cells(page) == before
    page.mouse.move(frame["x"] - 10, frame["y"] - 10)
    assert "neighbours" in page.inner_text(".reading"), "the mouse has left"
    page.get_by_label("T", exact=True).fill("0.5")
    assert page.locator(".slider output").inner_text() == "3.2"
    assert page.get_by_label("T", exact=True).get_attribute("aria-valuetext") == "3.2"


def test_the_layout_stands_still_where_there_is_no_temperature(open_lab):
    page = open_lab(PositionExplorer())
    before = page.locator(".scale").bounding_box()
    page.get_by_label("encoding").select_option("none")
    assert page.locator(".scale").bounding_box() == before
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.tagName") == "SELECT"
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.tagName") != "INPUT", "no stop of the tab key"


def test_a_trained_encoding_is_not_called_untrained(open_lab):
    torch.manual_seed(0)
    page = open_lab(PositionExplorer("learned", encoding=LearnedEncoding(256)))
    assert "Before training" not in page.inner_text(".notes") and "Learned" in page.inner_text(".notes")
    page.get_by_label("counted in").select_option("one sequence")
    assert "Drawn at random" in page.inner_text(".notes")


@pytest.mark.parametrize("size", [(1, 1), (1, 256), (256, 1), (2, 100)])
def test_extreme_grids_stay_on_the_screen(size, open_lab):
    page = open_lab(PositionExplorer(cell=(0, 0), size=size))
    frame = page.locator("svg.map").bounding_box()
    assert 80 < frame["height"] <= 0.7 * 800 + 2
    rows, columns = size
    drawn = cells(page)
    assert (len(drawn), len(drawn[0])) == size
    point_at(page, 0.501, 0.501, click=True)
    assert state(page)["cell"] == [rows // 2, columns // 2]


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
        text, view = page.inner_text(".totals"), lab.view
        assert f"about {2**view.entropy_bits:.0f} tokens ({view.entropy_bits:.1f} bits)" in text
        assert f"most, {view.peak_share:.0%}".replace("%", " %") in text
        assert f"in row {view.peak[0]}, column {view.peak[1]}" in text
        assert (view.share_in_box is None) == ("in its box" not in text)
        assert brightest(page) == view.peak

    same()
    page.get_by_label("decoder layer").fill("0")
    page.get_by_label("head", exact=True).select_option("head 2")
    same()
    page.focus("svg.map .box >> nth=1")
    page.keyboard.press("Enter")
    assert state(page)["pick"] == 1
    same()
    page.get_by_label("ask", exact=True).select_option("points")
    point_at(page, 3.5 / 12, 8.5 / 12, click=True)
    assert state(page)["token"] == [8, 3]
    same()
    page.focus("svg.map")
    page.keyboard.press("ArrowLeft")
    assert state(page)["token"] == [8, 2]
    same()


def test_the_chosen_detection_is_pressed_lies_on_top_and_keeps_its_place_in_the_tab_order(open_lab, toybox_scene):
    image, found, attention = toybox_scene
    page = open_lab(AttentionExplorer(image, found, attention))
    page.focus("svg.map .box >> nth=2")
    page.keyboard.press("Enter")
    pressed = page.eval_on_selector_all("svg.map .box", "all => all.map((one) => one.getAttribute('aria-pressed'))")
    assert pressed == [str(i == 2).lower() for i in range(len(found))]
    assert page.evaluate("[...document.querySelectorAll('svg.map .box')].indexOf(document.activeElement)") == 2
    x1, y1, x2, y2 = (found.boxes_xyxy_px[2] / 96).tolist()
    assert framed(page, ".chosen .edge") == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=1e-5)
    order = "[...document.querySelectorAll('svg.map .box, svg.map .chosen, svg.map .mark')].map((n) => n.classList[0])"
    assert page.evaluate(order) == ["box"] * len(found) + ["chosen", "mark", "mark"]
    page.get_by_label("ask", exact=True).select_option("points")
    assert page.locator("svg.map [aria-pressed=true]").count() == 0 and framed(page, ".chosen .edge")[2:] == [0, 0]


def test_names_stay_inside_a_narrow_picture(open_lab):
    corners = [[0.0, 2, 10, 12], [20, 10, 32, 30], [25, 50, 32, 60], [30, 60, 40, 80]]
    names = ["traffic light", "teddy bear", "bicycle", "fire hydrant"]
    found = Detections(torch.tensor(corners), torch.full((4,), 0.9), torch.arange(4), names, torch.arange(4))
    weights = torch.full((1, 1, 1, 12, 12), 1 / 12)
    attention = Attention(weights, torch.full((1, 1, 1, 5, 12), 1 / 12), (4, 3))
    page = open_lab(AttentionExplorer(torch.zeros(3, 64, 32, dtype=torch.uint8), found, attention))
    ends = page.eval_on_selector_all(
        "svg.map .names text",
        "all => all.map((n) => n.getBBox()).map((b) => [b.x, b.x + b.width, b.y, b.y + b.height])",
    )
    for left, right, above, below in ends:
        assert left >= -0.001 and right <= 0.501 and above >= -0.01 and below <= 1.001


def test_each_mode_goes_back_to_its_layer(open_lab, toybox_scene):
    page = open_lab(AttentionExplorer(*toybox_scene))
    layer = page.get_by_label("decoder layer", exact=True)
    assert layer.get_attribute("aria-valuetext") == "3 (last)"
    layer.fill("1")
    ask = page.get_by_label("ask", exact=True)
    ask.select_option("points")
    page.get_by_label("encoder layer", exact=True).fill("0")
    ask.select_option("detections")
    assert state(page)["layer"] == 1
    ask.select_option("points")
    assert state(page)["layer"] == 0
    page.focus("svg.map .box >> nth=1")
    page.keyboard.press("Enter")
    assert (state(page)["pick"], state(page)["token"], state(page)["layer"]) == (1, None, 1)


def test_keys_and_buttons_that_are_not_the_maps_are_left_alone(open_lab, toybox_scene):
    page = open_lab(AttentionExplorer(*toybox_scene), viewport={"width": 1000, "height": 200})
    page.focus("svg.map")
    page.keyboard.press("ArrowDown")
    page.wait_for_function("scrollY > 0", timeout=2000)
    page.evaluate("scrollTo(0, 0)")
    page.get_by_label("ask", exact=True).select_option("points")
    before = state(page)["token"]
    frame = page.locator("svg.map").bounding_box()
    page.mouse.click(frame["x"] + 5, frame["y"] + 5, button="right")
    page.focus("svg.map")
    page.keyboard.press("Control+ArrowLeft")
    assert state(page)["token"] == before


def test_a_map_has_no_seams(open_lab):
    """Equal weights are one colour from edge to edge, at a width that is no multiple of the cells."""
    weights = torch.full((1, 1, 1, 121, 121), 1 / 121)
    attention = Attention(weights, torch.zeros(1, 1, 1, 5, 121), (11, 11))
    page = open_lab(AttentionExplorer(torch.zeros(3, 88, 88, dtype=torch.uint8), nothing(), attention))
    page.get_by_label("ask", exact=True).select_option("points")
    page.evaluate("document.querySelectorAll('.mark').forEach((one) => one.remove())")
    shot = page.locator("svg.map").screenshot()
    inside = np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)[4:-4, 4:-4]
    assert (inside.max((0, 1)) - inside.min((0, 1))).max() <= 1


def test_an_image_without_detections_one_head_and_one_layer(open_lab):
    weights = torch.full((1, 1, 1, 12, 12), 1 / 12)
    attention = Attention(weights, torch.full((1, 1, 1, 5, 12), 1 / 12), (3, 4))
    page = open_lab(AttentionExplorer(torch.zeros(3, 24, 32, dtype=torch.uint8), nothing(), attention))
    assert "Nothing was detected" in page.inner_text(".notes") and "ask points" in page.inner_text(".notes")
    page.get_by_label("ask", exact=True).select_option("points")
    assert "about 12 tokens (3.6 bits)" in page.inner_text(".totals")
    assert page.get_by_label("head", exact=True).is_hidden() and page.locator(".slider").first.is_hidden()


def test_an_encoder_too_large_for_a_page_is_left_out_with_a_word(open_lab, toybox_scene, monkeypatch):
    image, found, attention = toybox_scene
    monkeypatch.setattr(attention_explorer, "MOST_MB", 0.1)
    lab = AttentionExplorer(image, found, attention)
    page = open_lab(lab)
    page.get_by_label("ask", exact=True).select_option("points")
    assert state(page)["token"] is None and "too large" in page.inner_text(".notes")
    assert page.get_by_label("ask", exact=True).input_value() == "detections"
    with pytest.raises(ValueError, match=r"more than 0\.1 MB"):
        lab.token = (0, 0)
    page = open_lab(AttentionExplorer(image, nothing(), attention))
    assert "there is nothing to show" in page.inner_text(".notes") and "too large" in page.inner_text(".notes")
    page.get_by_label("ask", exact=True).select_option("points")
    assert "ask points" not in page.inner_text(".notes")


def run_in(open_lab, training_run, **options):
    points, image, truth = training_run
    lab = AssignmentTimeline(points, 2, image, truth, Toybox.names)
    return lab, open_lab(lab, **options)


def player(page):
    return page.locator("button")


def test_the_timeline_scrubs_and_plays(open_lab, training_run):
    truth = training_run[2]
    lab, page = run_in(open_lab, training_run)
    for index in (0, 5, len(lab.frames) - 1):
        page.locator("input[type=range]").fill(str(index))
        assert state(page)["index"] == index
        lab.index = index
        frame = lab.frame
        matched = [
            f"o{t} {Toybox.names[label]}: q{q}"
            for t, (label, q) in enumerate(zip(truth["labels"], frame.query, strict=True))
        ]
        text = page.inner_text(".pairs").replace("\u00a0", " ")
        assert all(pair in text for pair in matched) and text.count("(new)") == frame.changed.sum()
        assert all(f"q{q} {100 * frame.scores[q]:.0f} %" in text for q in frame.query)
        assert page.locator(".stage .name.object").all_text_contents() == matched, "each object's owner beside it"
        assert f"{frame.changed.sum()} changed hands" in page.inner_text(".totals")
        assert page.locator(".lines .matched").count() == (frame.query >= 0).sum()
        assert page.locator(".lines .new").count() == frame.changed.sum()
    player(page).click()
    page.wait_for_timeout(900)
    player(page).click()
    assert 1 <= state(page)["index"] <= 6, "from the end it begins anew"
    page.locator("input[type=range]").focus()
    before = state(page)["index"]
    page.keyboard.press("ArrowRight")
    assert state(page)["index"] == before + 1
    page.get_by_label("show").select_option("all queries")
    assert page.locator(".stage .box.query").count() == 10 and "without an object: q" in page.inner_text(".pairs")
    assert page.get_attribute(".stage", "role") == "group", "nothing in it can be moved"
    curve = page.get_attribute("svg.curve", "aria-label")
    assert "goes from" in curve and "falls" not in curve


def test_a_hand_stops_the_player_and_the_button_says_so(open_lab, training_run):
    _, page = run_in(open_lab, training_run)
    said = [player(page).get_attribute("aria-label"), player(page).get_attribute("title")]
    assert said == ["play: the training", "play the training"]
    assert page.get_attribute(".totals", "aria-live") == "polite"
    player(page).click()
    said = [player(page).get_attribute("aria-label"), player(page).get_attribute("title")]
    assert said == ["pause: the training", "pause the training"] and page.get_attribute(".totals", "aria-live") == "off"
    page.locator("input[type=range]").fill("20")
    page.wait_for_timeout(900)
    assert state(page)["index"] == 20 and player(page).inner_text() == "play"
    player(page).click()
    page.get_by_label("show").select_option("all queries")
    page.wait_for_timeout(500)
    assert state(page)["index"] > 20, "what is shown does not stop it"
    curve = page.locator("svg.curve").bounding_box()
    page.mouse.click(curve["x"] + 50, curve["y"] + 20)
    at = state(page)["index"]
    page.wait_for_timeout(900)
    assert state(page)["index"] == at < 10


def test_a_player_stops_when_somebody_else_sets_the_point(open_lab, training_run):
    _, page = run_in(open_lab, training_run)
    player(page).click()
    state(page)  # on its way
    page.evaluate(
        """() => {
          const { model } = document.getElementById('widget');
          model.set('state', { ...model.get('state'), index: 30, by: 'python', touched: [] });
        }"""
    )
    page.wait_for_timeout(900)
    assert page.evaluate("document.querySelector('input').value") == "30" and player(page).inner_text() == "play"


def test_of_two_views_a_hand_in_the_one_stops_the_player_of_the_other(open_lab, training_run):
    lab, page = run_in(open_lab, training_run)
    page.evaluate(
        """async (source) => {
          const address = URL.createObjectURL(new Blob([source], { type: 'text/javascript' }));
          const { default: widget } = await import(address);
          const el = document.body.appendChild(document.createElement('div'));
          widget.render({ model: document.getElementById('widget').model, el });
        }""",
        str(lab._esm),
    )
    player(page).first.click()
    page.wait_for_timeout(900)
    assert 1 <= int(page.locator("input").last.input_value()) <= 4, "the other follows"
    page.locator("input").last.fill("30")
    page.wait_for_timeout(900)
    assert state(page)["index"] == 30 and player(page).all_inner_texts() == ["play", "play"]
    player(page).first.click()
    player(page).last.click()
    page.wait_for_timeout(900)
    assert sorted(player(page).all_inner_texts()) == ["pause", "play"], "one of two players goes on"


def test_the_rows_below_the_curve_tell_every_owner_and_move_the_point(open_lab, training_run):
    lab, page = run_in(open_lab, training_run)
    owners = np.array([frame.query for frame in lab.frames])
    spans = 1 + (owners[1:] != owners[:-1]).sum(0)
    assert page.locator("svg.curve rect.owner").count() == spans.sum()
    written = page.locator("svg.curve text.number").all_text_contents()
    assert written.count("7") >= 3 and {int(text) for text in written} <= set(owners.ravel().tolist())
    widths = page.eval_on_selector_all("svg.curve rect.owner", "all => all.map((one) => +one.getAttribute('width'))")
    assert sum(widths) == pytest.approx(3 * 300, abs=1e-6), "three rows without gaps"

    def at(index: int, y: float) -> tuple[float, float]:
        place = "(svg, [x, y]) => { const m = svg.getScreenCTM(); return [x * m.a + m.e, y * m.d + m.f]; }"
        return tuple(page.locator("svg.curve").evaluate(place, [300 * index / (len(lab.frames) - 1), y]))

    page.mouse.click(*at(30, 130))
    assert state(page)["index"] == 30
    page.mouse.click(*at(10, 130), button="right")
    page.mouse.move(*at(12, 130))
    assert state(page)["index"] == 30, "only the main button"
    page.mouse.down()
    page.mouse.move(*at(40, 50), steps=4)
    page.mouse.move(*at(60, 50), steps=4)
    page.mouse.up()
    assert state(page)["index"] == len(lab.frames) - 1, "a drag goes on outside"


def test_a_picture_that_is_not_square_keeps_its_shape(open_lab):
    box = [0.25, 0.5, 0.5, 1.0]
    record = {"step": 0, "matches": {"2": [[0]]}, "answers": {"2": {"boxes": [box], "object": [0.9]}}}
    target = {"boxes": torch.tensor([box]), "labels": [0]}
    for high, wide in ((20, 40), (40, 20)):
        pixels = torch.zeros(3, high, wide, dtype=torch.uint8)
        page = open_lab(AssignmentTimeline([record], 2, pixels, target, ["cat"]))
        frame = page.locator(".stage image").bounding_box()
        assert frame["height"] / frame["width"] == pytest.approx(high / wide, rel=0.01)
        assert framed(page, ".stage .box.query .edge") == pytest.approx([0, 0, 0.5, high / wide])


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


def test_the_scale_keeps_its_colours_where_a_reader_has_colours_of_their_own(open_lab):
    page = open_lab(PositionExplorer(), forced_colors="active")
    assert "gradient" in page.eval_on_selector(".scale i", "bar => getComputedStyle(bar).backgroundImage")


@pytest.mark.parametrize("width", [1000, 400])
def test_the_curve_stands_still_while_the_training_plays(width, open_lab, training_run):
    lab, page = run_in(open_lab, training_run, viewport={"width": width, "height": 800})
    places = set()
    for index in range(0, len(lab.frames), 3):
        page.locator("input[type=range]").fill(str(index))
        places.add(page.locator("svg.curve").bounding_box()["y"])
    assert len(places) == 1


def test_a_finger_that_scrolls_the_page_changes_nothing(open_lab, toybox_scene, training_run):
    points, image, truth = training_run
    labs = {
        "svg.map": (PositionExplorer(), "cell"),
        "svg.stage": (AttentionExplorer(*toybox_scene), "pick"),
        "svg.curve": (AssignmentTimeline(points, 2, image, truth, Toybox.names), "index"),
    }
    for place, (lab, name) in labs.items():
        page = open_lab(lab, has_touch=True, is_mobile=True, viewport={"width": 400, "height": 300})
        page.locator(place).scroll_into_view_if_needed()
        touch, before, start = page.context.new_cdp_session(page), state(page)[name], page.evaluate("scrollY")
        frame = page.locator(place).bounding_box()
        x, y = frame["x"] + 0.7 * frame["width"], frame["y"] + 0.4 * frame["height"]
        towards = -1 if start < 60 else 1
        touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
        for moved in range(10, 110, 10):
            point = {"x": x, "y": y + towards * moved}
            touch.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [point]})
            page.wait_for_timeout(16)
        touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        page.wait_for_timeout(300)
        assert state(page)[name] == before and page.evaluate("scrollY") != start
        frame = page.locator(place).bounding_box()
        page.touchscreen.tap(frame["x"] + 0.7 * frame["width"], max(frame["y"], 0) + 10)
        if name != "pick":
            assert state(page)[name] != before, "a tap points"
