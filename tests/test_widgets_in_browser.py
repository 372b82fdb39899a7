"""Each widget on a page of its own, in a real browser: mouse, touch, keys, themes, small screens, odd input."""

import browser
import nbformat
import normalise_notebooks
import numpy as np
import pytest
import torch
from browser import drag, on_screen, state, touch_drag

from detr_mini.widgets import BoxLab, MatchingLab

IDENTITY = ("steps.at(-1).matching", "cost.slice(0, cost[0].length).map((_, i) => [i, i])")


def shown_pairs(page) -> list[tuple[int, int]]:
    """The cells that the table frames as optimal."""
    found = page.eval_on_selector_all(
        "table.costs tbody tr",
        "rows => rows.flatMap((row, q) => [...row.querySelectorAll('.cost')]"
        ".flatMap((cell, t) => (cell.classList.contains('optimal') ? [[q, t]] : [])))",
    )
    return [tuple(pair) for pair in found]


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
    assert page.locator(".stage .lines .matched").count() == 2
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
    page.get_by_role("button", name="add: one more prediction").click()
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
    page.get_by_label(": the algorithm").click()
    page.wait_for_function("document.querySelector('.step').textContent.startsWith('step 3')", timeout=8000)
    page.get_by_label(": the algorithm").click()
    page.get_by_label("leave the steps").click()
    assert state(page)["step"] is None and shown_pairs(page) == lab.assignment.optimal


def test_at_most_one_message_is_in_flight_and_the_last_arrives(open_lab):
    page = open_lab(MatchingLab("greedy fails"))
    page.evaluate(
        """() => {
          const model = document.getElementById('widget').model;
          const now = () => model.get('state');
          window.sent = [];
          window.answer = () => model.set('heard', `${now().by} ${now().number}`);
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
    "one box": ([[0.5, 0.5, 0.2, 0.2]], np.full((1, 21), 1 / 21), "2 objects, 1 prediction: nobody answers for 1 object"),
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
