"""Each widget on a page of its own, in a real browser: mouse, touch, keys, themes, small screens, odd input."""

import json
from pathlib import Path

import browser
import nbformat
import normalise_notebooks
import numpy as np
import pytest
import torch

from detr_mini import checkpoints
from detr_mini.boxes import area
from detr_mini.datasets.toybox import Toybox, ToyboxConfig
from detr_mini.detection import Detections, detect
from detr_mini.detr import Attention
from detr_mini.plots import boxes as box_plots
from detr_mini.widgets import (
    AssignmentTimeline,
    AttentionExplorer,
    BoxLab,
    MatchingLab,
    PositionExplorer,
    attention_explorer,
)

ROOT = Path(__file__).resolve().parent.parent

IDENTITY = ("steps.at(-1).matching", "cost.slice(0, cost[0].length).map((_, i) => [i, i])")


@pytest.fixture(scope="module")
def chromium():
    with browser.started() as running:
        yield running


@pytest.fixture
def open_lab(chromium, tmp_path):
    """Opens a widget's own page; `change` replaces a piece of its module."""
    opened = []

    def open_(lab, change=None, **options):
        html = lab.page()
        if change:
            right, wrong = (json.dumps(text)[1:-1] for text in change)
            assert html.count(right) >= 1, "not in the module"
            html = html.replace(right, wrong)
        path = tmp_path / f"{len(opened)}.html"
        path.write_text(html, encoding="utf-8")
        held = browser.tab(chromium, **{"viewport": {"width": 1000, "height": 800}, **options})
        page = held.__enter__()
        opened.append(held)
        page.goto(path.as_uri())
        page.wait_for_selector(".detr-mini[data-theme]")
        return page

    yield open_
    for held in opened:
        held.__exit__(None, None, None)


def state(page) -> dict:
    """What the page told the model: after two frames every change has been sent."""
    page.evaluate(
        "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))))"
    )
    return page.evaluate("document.getElementById('widget').model.get('state')")


def on_screen(page, x: float, y: float) -> tuple[float, float]:
    """Pixels of the page for a place in the picture, 0..1."""
    return tuple(
        page.evaluate(
            "([x, y]) => { const m = document.querySelector('svg.stage').getScreenCTM();"
            " return [x * m.a + m.e, y * m.d + m.f]; }",
            [x, y],
        )
    )


def drag(page, start, end, steps=8) -> None:
    page.mouse.move(*on_screen(page, *start))
    page.mouse.down()
    page.mouse.move(*on_screen(page, *end), steps=steps)
    page.mouse.up()


def touch_drag(page, start, end) -> None:
    touch = page.context.new_cdp_session(page)
    (x1, y1), (x2, y2) = on_screen(page, *start), on_screen(page, *end)
    touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x1, "y": y1}]})
    for part in (0.25, 0.5, 0.75, 1):
        point = {"x": x1 + part * (x2 - x1), "y": y1 + part * (y2 - y1)}
        touch.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [point]})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def shown_pairs(page) -> list[tuple[int, int]]:
    """The cells that the table frames as optimal."""
    found = page.eval_on_selector_all(
        "table.costs tbody tr",
        "rows => rows.flatMap((row, q) => [...row.querySelectorAll('.cost')]"
        ".flatMap((cell, t) => (cell.classList.contains('optimal') ? [[q, t]] : [])))",
    )
    return [tuple(pair) for pair in found]


def drawn_pairs(page, lab) -> int:
    return page.locator(".stage .lines .matched").count()


def python_lab(page, like: MatchingLab) -> MatchingLab:
    """A lab in Python with the page's state."""
    now = state(page)
    return MatchingLab(
        target={"boxes": torch.tensor(now["truth"]["boxes"]).reshape(-1, 4), "labels": now["truth"]["labels"]},
        predictions=now["boxes"],
        probabilities=now["probabilities"],
        weights=type(like.weights)(**now["weights"]),
    )


def check_the_drag_that_flips(open_lab, change=None, by=drag, **options):
    lab = MatchingLab("greedy fails")
    page = open_lab(lab, change, **options)
    assert shown_pairs(page) == lab.assignment.optimal == [(0, 0), (1, 1)]
    by(page, lab.predictions[0, :2].tolist(), lab.target["boxes"][1, :2].tolist())
    flipped = python_lab(page, lab).assignment
    assert flipped.optimal == [(0, 1), (1, 0)], "the drag flips the assignment"
    assert shown_pairs(page) == flipped.optimal, "the table shows it"
    assert drawn_pairs(page, lab) == 2
    assert f"optimal {flipped.optimal_total:.2f}" in page.inner_text(".totals").replace("−", "-")
    np.testing.assert_allclose(state(page)["boxes"][0][:2], lab.target["boxes"][1, :2], atol=0.01)


def test_a_drag_flips_the_assignment(open_lab):
    check_the_drag_that_flips(open_lab)


def test_a_finger_flips_the_assignment(open_lab):
    check_the_drag_that_flips(open_lab, by=touch_drag, has_touch=True)


def test_the_identity_in_place_of_the_assignment_is_noticed(open_lab):
    with pytest.raises(AssertionError, match="the table shows it"):
        check_the_drag_that_flips(open_lab, change=IDENTITY)


def test_boxes_are_resized_by_their_corners(open_lab):
    lab = MatchingLab("greedy fails")
    page = open_lab(lab)
    cx, cy, w, h = lab.predictions[1].tolist()
    page.mouse.click(*on_screen(page, cx, cy))
    drag(page, (cx + w / 2, cy + h / 2), (cx + w / 2 + 0.1, cy + h / 2 + 0.05))
    np.testing.assert_allclose(state(page)["boxes"][1], [cx + 0.05, cy + 0.025, w + 0.1, h + 0.05], atol=0.01)
    drag(page, (cx - w / 2, cy - h / 2), (0.99, 0.99))
    assert state(page)["boxes"][1][2] >= 0.02, "turned inside out, a box keeps a size"


def test_the_matching_lab_from_the_keyboard(open_lab):
    lab = MatchingLab("greedy fails")
    page = open_lab(lab)
    page.focus(".stage .box.query >> nth=0")
    before = state(page)["boxes"][0]
    for key in ("ArrowLeft", "ArrowDown", "Shift+ArrowRight", "Shift+ArrowDown", "Shift+ArrowDown"):
        page.keyboard.press(key)
    step = 1 / 64
    np.testing.assert_allclose(np.subtract(state(page)["boxes"][0], before), [-step, step, step, 2 * step], atol=1e-9)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("prediction 1")
    page.keyboard.press("Delete")
    assert len(state(page)["boxes"]) == 1 and page.locator(".stage .box.query").count() == 1
    page.keyboard.press("Delete")
    assert state(page)["boxes"] == [] and "add one" in page.inner_text(".detr-mini")
    page.get_by_role("button", name="add a prediction").click()
    assert len(state(page)["boxes"]) == 1 and shown_pairs(page) == python_lab(page, lab).assignment.optimal


def test_sliders_change_probabilities_and_weights(open_lab):
    lab = MatchingLab("class beats geometry")
    page = open_lab(lab)
    assert shown_pairs(page) == [(0, 1), (1, 0)]
    page.get_by_label("class weight").fill("0")
    assert state(page)["weights"]["label"] == 0 and shown_pairs(page) == python_lab(page, lab).assignment.optimal
    assert shown_pairs(page) == [(0, 0), (1, 1)], "without the class term geometry decides"
    page.get_by_label("no object").fill("0.5")
    row = state(page)["probabilities"][0]
    assert row[-1] == 0.5 and sum(row) == pytest.approx(1)
    page.get_by_label("scene", exact=True).select_option("no objects")
    assert "No objects" in page.inner_text(".totals") and state(page)["preset"] == "no objects"


def test_the_stepper_goes_forward_back_and_plays(open_lab):
    lab = MatchingLab("more objects than queries")
    page = open_lab(lab)
    steps = lab.steps
    forward, back = page.get_by_label("one step forward"), page.get_by_label("one step back")
    for index in range(len(steps)):
        forward.click()
        assert page.inner_text(".step").startswith(f"step {index + 1} of {len(steps)}")
        shown = {pair for pair in shown_pairs(page)}
        assert shown == set(steps[index].matching.items())
    forward.click()
    assert state(page)["step"] == len(steps) - 1
    back.click()
    assert state(page)["step"] == len(steps) - 2
    page.get_by_label("first step").click()
    page.get_by_label("play the algorithm").click()
    page.wait_for_function("document.querySelector('.step').textContent.startsWith('step 3')", timeout=8000)
    page.get_by_label("play the algorithm").click()
    page.get_by_label("leave the steps").click()
    assert state(page)["step"] is None and shown_pairs(page) == lab.assignment.optimal


def test_boxlab_drags_and_shows_pythons_numbers(open_lab):
    lab = BoxLab()
    page = open_lab(lab)
    drag(page, (0.25, 0.3), (0.55, 0.45))
    page.focus(".stage .box.object")
    page.keyboard.press("ArrowRight")
    now = state(page)
    assert now["a"][0] == pytest.approx(lab.a[0] + 0.3, abs=0.01) and now["b"][0] == pytest.approx(lab.b[0] + 1 / 64)
    wanted = box_plots.measures(now["a"], now["b"])
    values = [float(text) for text in page.locator(".card output").all_inner_texts()]
    assert values == pytest.approx([wanted.iou, wanted.giou, wanted.l1], abs=6e-4)
    for name, arrows in (("L1", 4), ("GIoU", None), ("IoU", None)):
        page.get_by_label("arrows of").select_option(name)
        count = page.locator(".arrows .pull").count()
        assert count == arrows if arrows else 1 <= count <= 4
    drag(page, (now["a"][0] + 0.02, now["a"][1] + 0.02), (0.05, 0.05))
    page.get_by_label("arrows of").select_option("IoU")
    assert page.locator(".arrows .pull").count() == 0 and "asks for nothing" in page.inner_text(".cards")


def test_at_most_one_message_is_in_flight_and_the_last_arrives(open_lab):
    page = open_lab(MatchingLab("greedy fails"))
    page.evaluate(
        """() => {
          const model = document.getElementById('widget').model;
          window.sent = []; window.answer = () => model.set('heard', model.get('state').number);
          model.save_changes = () => window.sent.push(structuredClone(model.get('state').boxes[0]));
        }"""
    )
    before = page.evaluate("document.querySelector('.stage .query .edge').getAttribute('x')")
    drag(page, (0.8, 0.15), (0.3, 0.7), steps=20)
    page.wait_for_timeout(100)
    assert page.evaluate("window.sent.length") == 1, "Python has not answered yet"
    after = page.evaluate("document.querySelector('.stage .query .edge').getAttribute('x')")
    assert after != before, "the picture does not wait for Python"
    page.evaluate("window.answer()")
    sent = page.evaluate("window.sent")
    assert len(sent) == 2 and sent[-1] != sent[0]
    cx, _, w, _ = sent[-1]
    assert cx - w / 2 == pytest.approx(float(after)), "the last position arrives"
    page.evaluate("window.answer()")
    assert page.evaluate("window.sent.length") == 2
    drag(page, (0.3, 0.7), (0.35, 0.7), steps=2)
    page.wait_for_timeout(3300)
    drag(page, (0.35, 0.7), (0.4, 0.7), steps=2)
    page.wait_for_timeout(100)
    assert page.evaluate("window.sent.length") >= 4, "a kernel that never answers is asked again"


MANY = np.random.default_rng(0).uniform(0.1, 0.9, (60, 4))
ODD = {
    "no boxes": (np.zeros((0, 4)), np.zeros((0, 21)), "No predictions"),
    "one box": ([[0.5, 0.5, 0.2, 0.2]], np.full((1, 21), 1 / 21), "1 predictions: the rest is not trained"),
    "60 boxes": (MANY, np.full((60, 21), 1 / 21), "optimal"),
    "outside": ([[1.6, 0.5, 0.2, 0.2]] * 2, np.full((2, 21), 1 / 21), "q0 lies outside the image"),
    "equal boxes": ([[0.5, 0.5, 0.2, 0.2]] * 3, np.full((3, 21), 1 / 21), "optimal"),
    "no area": ([[0.5, 0.5, 0.0, 0.2]] * 2, np.full((2, 21), 1 / 21), "q0 has no area"),
    "sum of 2.1": ([[0.5, 0.5, 0.3, 0.2]] * 2, np.full((2, 21), 0.1), "q0's probabilities add up to 2.10"),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_input_gets_a_message_and_pythons_answer(name, open_lab):
    boxes, probabilities, message = ODD[name]
    lab = MatchingLab("greedy fails")
    lab.change(boxes=np.asarray(boxes).tolist(), probabilities=np.asarray(probabilities).tolist())
    page = open_lab(lab)
    assert message in page.inner_text(".detr-mini")
    assert len(shown_pairs(page)) == len(lab.assignment.optimal)
    assert page.locator(".stage .box.query").count() == len(boxes)


def test_what_goes_wrong_in_the_module_is_said_in_the_widget(chromium, tmp_path):
    html = (
        BoxLab()
        .page()
        .replace("function sideArrows(a, change) {", "function sideArrows(a, change) { throw new Error('planted');")
    )
    (tmp_path / "broken.html").write_text(html, encoding="utf-8")
    context = chromium.new_context()
    page = context.new_page()
    page.goto((tmp_path / "broken.html").as_uri())
    page.wait_for_selector(".trouble:not([hidden])")
    assert page.inner_text(".trouble") == "BoxLab stopped: planted"
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("lab", [BoxLab, MatchingLab])
def test_both_themes_and_a_small_screen(lab, scheme, open_lab):
    page = open_lab(lab(), viewport={"width": 400, "height": 800}, color_scheme=scheme)
    assert page.get_attribute(".detr-mini", "data-theme") == scheme
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 400, "nothing is cut at the right"
    ink, paper = (
        page.eval_on_selector(
            ".detr-mini", f"node => getComputedStyle(node).{name}.match(/\\d+/g).slice(0, 3).map(Number)"
        )
        for name in ("color", "backgroundColor")
    )
    assert abs(np.mean(ink) - np.mean(paper)) > 150


@pytest.mark.parametrize("lab", [BoxLab, MatchingLab])
def test_every_control_has_a_name_for_screen_readers(lab, open_lab):
    page = open_lab(lab())
    for role in ("button", "slider", "combobox", "img"):
        for node in page.get_by_role(role).all():
            assert node.get_attribute("aria-label") or node.inner_text().strip(), node.evaluate("n => n.outerHTML")


SMALL_NOTEBOOK = (
    ("markdown", r"# Small\n\nThe loss $\mathcal{L}_\text{box}$, and `$PATH` in code."),
    ("code", "from detr_mini.widgets import MatchingLab\nlab = MatchingLab('greedy fails')\nlab"),
    ("code", "lab.step = 3\nprint(lab)"),
)


@pytest.fixture(scope="module")
def saved_page(tmp_path_factory):
    """The page that `make notebooks PAGES=DIR` saves of a small notebook."""
    folder = tmp_path_factory.mktemp("saved")
    make = {"markdown": nbformat.v4.new_markdown_cell, "code": nbformat.v4.new_code_cell}
    notebook = nbformat.v4.new_notebook(cells=[make[kind](source) for kind, source in SMALL_NOTEBOOK])
    nbformat.write(notebook, folder / "small.ipynb")
    assert normalise_notebooks.main([str(folder / "small.ipynb")], pages=folder / "pages") == 0
    stored = nbformat.read(folder / "small.ipynb", as_version=4)
    assert "widgets" not in stored.metadata and stored.cells[1].outputs[0].data.keys() == {"text/plain"}
    return folder / "pages" / "small.html"


def check_the_saved_page(chromium, path) -> None:
    with browser.tab(chromium, viewport={"width": 1100, "height": 1000}) as page:
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector(".MatchingLab[data-theme]")
        assert all(url.startswith(("file:", "data:", "blob:")) for url in asked), asked
        assert page.inner_text(".step").startswith("step 4 of"), "as the notebook's last cell left it"
        assert page.locator("math").count() == 1 and "$PATH" in page.inner_text("body")
        page.get_by_label("leave the steps").click()
        lab = MatchingLab("greedy fails")
        drag(page, lab.predictions[0, :2].tolist(), lab.target["boxes"][1, :2].tolist())
        assert shown_pairs(page) == [(0, 1), (1, 0)], "a drag flips the assignment without a kernel"


def test_a_saved_page_plays_from_a_file_without_a_network(chromium, saved_page):
    check_the_saved_page(chromium, saved_page)


def test_the_identity_in_a_saved_page_is_noticed(chromium, saved_page, tmp_path):
    html, (right, wrong) = saved_page.read_text(encoding="utf-8"), IDENTITY
    assert html.count(right) == 1
    (tmp_path / "wrong.html").write_text(html.replace(right, wrong), encoding="utf-8")
    with pytest.raises(AssertionError, match="without a kernel"):
        check_the_saved_page(chromium, tmp_path / "wrong.html")


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
