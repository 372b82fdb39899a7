"""Each widget on a page of its own, in a real browser: mouse, touch, keys, themes, small screens, odd input."""

import browser
import nbformat
import normalise_notebooks
import numpy as np
import pytest
import torch
import widget_picture
from browser import drag, on_screen, shown_pairs, state, touch_drag
from PIL import Image

from detr_mini import matching
from detr_mini.widgets import BoxLab, MatchingLab

IDENTITY = ("steps.at(-1).matching", "cost.slice(0, cost[0].length).map((_, i) => [i, i])")


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


def test_a_slider_stays_under_the_hand_whatever_becomes_of_its_class(open_lab):
    page = open_lab(MatchingLab("greedy fails"))
    page.get_by_role("button", name="add: one more prediction").click()
    assert "the other 18 classes together: 0.86" in page.inner_text(".turn"), "of equal classes none is the surest"
    page.get_by_label("car", exact=True).focus()
    before = page.evaluate("document.activeElement.value")
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    assert float(page.evaluate("document.activeElement.value")) == pytest.approx(float(before) + 0.05)
    own = torch.tensor([[0.5, 0.48, 0.01, 0.01]])
    target = {"boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2]]), "labels": [2]}
    lab = MatchingLab(target=target, predictions=target["boxes"], probabilities=own, names=["bus", "boat", "car"])
    page = open_lab(lab)
    slider = page.get_by_label("bus", exact=True)
    for p in ("0.4", "0.3", "0.2"):
        slider.fill(p)
        assert state(page)["probabilities"][0][0] == float(p)
    assert page.locator(".turn .slider span").all_inner_texts() == ["bus", "car", "no object", "boat"]


def test_a_slider_at_its_end_and_back_gives_the_other_classes_back(open_lab):
    lab = MatchingLab("greedy fails")
    page = open_lab(lab)
    slider = page.get_by_label("car", exact=True)
    for p in ("0.7", "1", "0.4"):
        slider.fill(p)
    np.testing.assert_allclose(state(page)["probabilities"][0], lab.probabilities[0], atol=1e-9)
    page = open_lab(MatchingLab("greedy fails", weights=matching.Weights(1, 50, 2)))
    weight = page.get_by_label("L1 weight")
    for value in ("49", "30", "20"):
        weight.fill(value)
        assert weight.get_attribute("max") == "50", "the range does not shrink under the hand"
    page.get_by_role("button", name="reset").click()
    assert state(page)["weights"]["l1"] == 50


def test_the_steppers_buttons_stay_under_the_pointer(open_lab):
    for width in (400, 1000):
        page = open_lab(MatchingLab("a chain"), viewport={"width": width, "height": 900})
        forward = page.get_by_label("one step forward")
        place = forward.bounding_box()
        for _ in range(11):
            forward.click()
            assert forward.bounding_box() == place
        page.get_by_role("button", name="back to costs").click()
        assert forward.bounding_box() == place
        assert page.evaluate("document.activeElement.textContent") == "▶", "the focus is not lost"


def test_a_drag_moves_nothing_but_the_box(open_lab):
    for name in ("greedy fails", "more objects than queries"):
        page = open_lab(MatchingLab(name), viewport={"width": 400, "height": 900})
        before = page.locator("svg.stage").bounding_box()
        x, y = on_screen(page, *state(page)["boxes"][1][:2])
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 2, y, steps=2)
        assert page.locator("svg.stage").bounding_box() == before
        page.mouse.up()


def test_what_went_wrong_is_said_until_it_is_right_again(chromium):
    context = chromium.new_context()
    page = context.new_page()
    page.set_content(BoxLab().page())
    page.wait_for_selector(".detr-mini[data-theme]")
    change = "(a) => { const { model } = document.getElementById('widget');"
    change += " model.set('state', { ...model.get('state'), a, by: 'python' }); }"
    page.evaluate(change, None)
    x, y = on_screen(page, 0.5, 0.5)
    page.mouse.move(x, y, steps=3)
    assert "BoxLab stopped" in page.inner_text(".trouble")
    page.evaluate(change, [0.1, 0.1, 0.2, 0.2])
    assert page.locator(".trouble").is_hidden()
    context.close()


def test_probabilities_that_python_sets_survive_a_drag(open_lab):
    page = open_lab(MatchingLab("greedy fails"))
    page.focus(".stage .box.query")
    page.keyboard.press("ArrowRight")
    assert state(page)["touched"] == ["boxes", "step"]


def test_a_removed_prediction_leaves_the_hand_and_the_last_hands_the_focus_on(open_lab):
    page = open_lab(MatchingLab("greedy fails"))
    page.mouse.move(*on_screen(page, *state(page)["boxes"][0][:2]))
    page.mouse.down()
    page.keyboard.press("Delete")
    kept = state(page)["boxes"]
    page.mouse.move(*on_screen(page, 0.2, 0.2), steps=4)
    page.mouse.up()
    assert state(page)["boxes"] == kept and page.locator(".trouble").is_hidden()
    page.focus(".stage .box.query")
    page.keyboard.press("Delete")
    assert page.evaluate("document.activeElement.textContent") == "add"
    page.keyboard.press("Enter")
    assert len(state(page)["boxes"]) == 1
    remove = page.get_by_role("button", name="remove: the selected prediction")
    remove.click()
    assert state(page)["boxes"] == [] and remove.is_disabled()


def touches(page, kind: str, *places) -> None:
    points = [{"x": x, "y": y, "id": index} for index, (x, y) in enumerate(places)]
    page.touch_session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})


def test_a_second_finger_does_not_end_the_drag(open_lab):
    page = open_lab(MatchingLab("greedy fails"), has_touch=True)
    page.touch_session = page.context.new_cdp_session(page)
    first, empty, end = (on_screen(page, *at) for at in (state(page)["boxes"][0][:2], (0.1, 0.1), (0.5, 0.5)))
    touches(page, "touchStart", first)
    touches(page, "touchStart", first, empty)
    touches(page, "touchMove", first)  # the second one is lifted
    touches(page, "touchMove", end)
    touches(page, "touchEnd")
    np.testing.assert_allclose(state(page)["boxes"][0][:2], [0.5, 0.5], atol=0.01)


def test_a_finger_beside_the_boxes_scrolls_the_page(open_lab):
    page = open_lab(MatchingLab("greedy fails"), has_touch=True, is_mobile=True, viewport={"width": 400, "height": 500})
    before = state(page)["boxes"]
    page.touch_session = page.context.new_cdp_session(page)
    x, y = on_screen(page, 0.08, 0.45)
    touches(page, "touchStart", (x, y))
    for moved in range(15, 165, 15):
        touches(page, "touchMove", (x, y - moved))
        page.wait_for_timeout(16)
    touches(page, "touchEnd")
    page.wait_for_timeout(300)
    assert page.evaluate("document.scrollingElement.scrollTop") > 80 and state(page)["boxes"] == before
    touch_drag(page, before[1][:2], (0.4, 0.5))
    np.testing.assert_allclose(state(page)["boxes"][1][:2], [0.4, 0.5], atol=0.02)


def test_small_boxes_can_be_moved_and_coincident_ones_told_apart(open_lab):
    page = open_lab(lab_with([[0.3, 0.3, 0.03, 0.03], [0.6, 0.6, 0.2, 0.2], [0.6, 0.6, 0.2, 0.2]]))
    page.focus(".stage .box.query >> nth=0")
    drag(page, (0.3, 0.3), (0.4, 0.35))
    np.testing.assert_allclose(state(page)["boxes"][0], [0.4, 0.35, 0.03, 0.03], atol=0.005)
    page.focus(".stage .box.query >> nth=2")
    drag(page, (0.6, 0.6), (0.5, 0.8))
    now = state(page)["boxes"]
    assert now[1] == [0.6, 0.6, 0.2, 0.2] and now[2][1] == pytest.approx(0.8, abs=0.005)


def test_keys_and_corners_of_boxes_beyond_the_edge(open_lab):
    page = open_lab(lab_with([[1.4, 0.5, 3.0, 2.0], [0.0, 0.5, 0.4, 0.2]]))
    page.focus(".stage .box.query >> nth=0")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Shift+ArrowLeft")
    assert state(page)["boxes"][0] == [1.4, 0.5 - 1 / 64, 3.0 - 1 / 64, 2.0], "only the side that was asked for"
    page.keyboard.press("ArrowRight")
    assert state(page)["boxes"][0][0] == 1.4, "not further out"
    page.keyboard.press("Alt+ArrowLeft")
    assert state(page)["boxes"][0][0] == 1.4, "left to the browser"
    page.focus(".stage .box.query >> nth=1")
    drag(page, (0.2, 0.6), (0.25, 0.6))
    np.testing.assert_allclose(state(page)["boxes"][1], [0.025, 0.5, 0.45, 0.2], atol=0.005)


def test_escape_takes_a_drag_back(open_lab):
    page = open_lab(MatchingLab("greedy fails"))
    before = state(page)["boxes"]
    page.mouse.move(*on_screen(page, *before[0][:2]))
    page.mouse.down()
    page.mouse.move(*on_screen(page, 0.2, 0.2), steps=4)
    assert state(page)["boxes"] != before
    page.keyboard.press("Escape")
    page.mouse.move(*on_screen(page, 0.3, 0.3))
    page.mouse.up()
    assert state(page)["boxes"] == before


def test_a_changed_scene_says_so_and_can_be_reset(open_lab):
    lab = MatchingLab("a tie")
    page = open_lab(lab)
    reset = page.get_by_role("button", name="reset")
    assert "either may be taken" in page.inner_text(".says") and "A tie" in page.inner_text(".notes")
    assert reset.is_disabled()
    page.focus(".stage .box.query")
    page.keyboard.press("ArrowLeft")
    assert "changed" in page.inner_text(".says") and "either" not in page.inner_text(".says")
    assert "A tie" not in page.inner_text(".notes")
    reset.click()
    assert state(page)["boxes"] == lab.predictions.tolist() and reset.is_disabled()
    own = lab_with([[0.5, 0.5, 0.2, 0.2]])
    page = open_lab(own)
    page.get_by_label("scene", exact=True).select_option("a chain")
    assert len(state(page)["boxes"]) == 3
    page.get_by_label("scene", exact=True).select_option("own scene")
    assert state(page)["boxes"] == own.predictions.tolist() and state(page)["preset"] is None


def test_playing_stops_when_the_scene_is_changed(open_lab):
    page = open_lab(MatchingLab("a chain"))
    play = page.get_by_label(": the algorithm")
    play.click()
    assert play.inner_text() == "pause" and state(page)["step"] == 0
    page.focus(".stage .box.query")
    page.keyboard.press("ArrowLeft")
    assert play.inner_text() == "play" and state(page)["step"] is None
    page.get_by_label("scene", exact=True).select_option("no objects")
    assert play.is_disabled() and "no cost" in page.inner_text(".totals")


def test_steps_are_marked_in_the_table_and_on_the_scene(open_lab):
    """The longest path of "a chain": three pairs enter, two leave."""
    lab = MatchingLab("a chain")
    lab.step = next(index for index, step in enumerate(lab.steps) if len(step.path) == 5)
    step = lab.steps[lab.step]
    page = open_lab(lab)
    signs = page.eval_on_selector_all(
        ".costs tbody tr",
        "rows => rows.map((row) => [...row.querySelectorAll('.cost i')].map((node) => node.textContent))",
    )
    path = {cell: "+" if place % 2 == 0 else "−" for place, cell in enumerate(step.path)}
    assert {(q, t): text for q, row in enumerate(signs) for t, text in enumerate(row) if text} == path
    found = page.locator(".costs tbody .name.in-search")
    assert [node.get_attribute("aria-label") for node in found.all()] == [f"q{q}, in the search" for q in range(3)]
    assert all("▸" in text for text in found.all_inner_texts()), "not by colour alone"
    assert page.locator(".stage .lines .new").count() == 3 and page.locator(".stage .lines .leaving").count() == 2
    assert page.locator(".stage .lines .greedy").count() == 0
    reduced = lab.assignment.cost - step.row_potentials[:, None] - step.column_potentials
    cell = page.locator(".costs tbody tr").nth(1).locator(".cost").nth(2)
    said = cell.get_attribute("aria-label").replace("−", "-")
    assert said.startswith(f"reduced cost {reduced[1, 2]:.2f}, cost {lab.assignment.cost[1, 2]:.2f}")
    page.get_by_label("last step").click()
    assert "in" not in page.locator(".costs tfoot td").all_inner_texts(), "the search is over"
    page.get_by_role("button", name="back to costs").click()
    assert "in the search" not in page.locator("table.costs").evaluate("node => node.outerHTML")
    page.get_by_label("last step").click()
    assert "matched so far: 3 of 3, cost 1.97" in page.inner_text(".totals")


def test_what_a_cost_is_made_of_is_told_for_the_selected_prediction(open_lab):
    lab = MatchingLab("class beats geometry")
    page = open_lab(lab)
    terms = lab.assignment.terms
    first = page.locator(".parts div").first.inner_text().replace("−", "-")
    sides = " + ".join(f"{name} {terms[name][0, 1]:.2f}" for name in terms)
    assert first == f"● q0 for o1: {sides} = {lab.assignment.cost[0, 1]:.2f}"
    assert f"second-best assignment costs {lab.assignment.margin:.2f} more" in page.inner_text(".notes")


@pytest.mark.filterwarnings("ignore:1 image")
def test_losses_stand_beside_the_costs_and_are_seen(open_lab):
    lab = MatchingLab("more objects than queries", show_losses=True)
    for width in (1000, 400):
        page = open_lab(lab, viewport={"width": width, "height": 800})
        frame = page.locator(".scroll").bounding_box()
        last = page.locator(".costs tbody tr").first.locator(".sum").bounding_box()
        assert width == 400 or last["x"] + last["width"] <= frame["x"] + frame["width"]
        sums = [float(text) for text in page.locator(".costs .sum").all_inner_texts()]
        assert sum(sums) == pytest.approx(lab.losses.total, abs=0.02)
    page.get_by_label("scene", exact=True).select_option("no objects")
    lab.preset = "no objects"
    assert f"loss {lab.losses.total:.2f}" in page.inner_text(".totals")


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


def test_what_python_sets_meanwhile_and_what_the_hand_does_both_stay(open_lab):
    page = open_lab(BoxLab((0.1, 0.1, 0.4, 0.4), (0.6, 0.6, 0.9, 0.9)))
    page.evaluate(
        """() => {
          const model = document.getElementById('widget').model;
          window.sent = []; model.save_changes = () => window.sent.push(structuredClone(model.get('state')));
        }"""
    )
    page.focus(".stage .box.query")
    page.keyboard.press("ArrowRight")
    assert state(page)["touched"] == ["a"]
    page.evaluate(
        """() => {
          const { model } = document.getElementById('widget');
          const state = { ...window.sent[0], a: [0.1, 0.1, 0.4, 0.4], b: [0.5, 0.5, 0.9, 0.9], by: 'python' };
          model.set('state', { ...state, touched: [] });
        }"""
    )
    place = ".stage .box.{} .edge"
    assert float(page.get_attribute(place.format("query"), "x")) == pytest.approx(0.1 + 1 / 64), "not undone"
    assert float(page.get_attribute(place.format("object"), "x")) == pytest.approx(0.5)
    page.keyboard.press("ArrowRight")
    page.evaluate(
        """() => {
          const { model } = document.getElementById('widget'), { by, number } = window.sent.at(-1);
          model.set('heard', `${by} ${number}`);
        }"""
    )
    state(page)
    last = page.evaluate("window.sent.at(-1)")
    assert last["a"][0] == pytest.approx(0.1 + 2 / 64) and last["b"] == [0.5, 0.5, 0.9, 0.9]


def test_a_view_that_is_opened_later_knows_which_of_pythons_states_it_shows(open_lab):
    lab = BoxLab()
    lab.a = (0.1, 0.1, 0.4, 0.4)
    page = open_lab(lab)
    page.focus(".stage .box.query")
    page.keyboard.press("ArrowRight")
    assert state(page)["seen"] == lab.state["number"] == 1
    page.evaluate(
        """async () => {
          const held = document.getElementById('widget'), second = document.createElement('div');
          document.body.append(second);
          held.module.render({ model: held.model, el: second });
        }"""
    )
    page.focus("body > div:last-child .stage .box.query")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
        state(page)
    now = state(page)
    assert now["seen"] == 1 and now["a"][0] == pytest.approx(0.1 + 4 / 64), "the second view goes on from the first"
    places = page.locator(".stage .box.query .edge").evaluate_all("all => all.map((one) => one.getAttribute('x'))")
    assert len(places) == 2 and places[0] == places[1]


def test_a_refused_change_is_taken_back_and_a_closed_view_sends_its_last(open_lab):
    page = open_lab(BoxLab())
    page.evaluate(
        """() => {
          const { model } = document.getElementById('widget'), good = model.get('state');
          model.save_changes = () => {
            const { by, number } = model.get('state');
            model.set('state', { ...good, by: 'python' });
            model.set('trouble', 'Python refuses this: planted');
            model.set('heard', `${by} ${number}`);
          };
        }"""
    )
    page.focus(".stage .box.query")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(".trouble:not([hidden])")
    assert float(page.get_attribute(".stage .box.query .edge", "x")) == pytest.approx(BoxLab().a[0])
    page = open_lab(BoxLab())
    page.evaluate("document.getElementById('widget').model.save_changes = () => {}")
    page.focus(".stage .box.query")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
        state(page)
    page.evaluate("document.getElementById('widget').close()")
    assert state(page)["a"][0] == pytest.approx(BoxLab().a[0] + 3 / 64)


def test_the_tab_key_stops_at_every_control_and_box_and_nowhere_else(open_lab):
    page = open_lab(MatchingLab("greedy fails"))
    stops = []
    for _ in range(40):
        page.keyboard.press("Tab")
        stops.append(
            page.evaluate("document.activeElement.getAttribute('aria-label') ?? document.activeElement.tagName")
        )
        if stops[-1] == "BODY":
            break
    enabled = page.locator(".detr-mini :is(button, select, input):enabled")
    wanted = [node.get_attribute("aria-label") for node in enabled.all() if node.is_visible()]
    boxes = [node.get_attribute("aria-label") for node in page.locator(".stage .box.query").all()]
    assert sorted(stops[:-1]) == sorted(wanted + boxes) and len(boxes) == 2


def test_plain_keys_stay_in_the_widget(open_lab):
    page = open_lab(MatchingLab())
    page.evaluate("window.heard = []; addEventListener('keydown', ({ key }) => window.heard.push(key))")
    for place in (".stage .box.query", "input[type=range]", "select"):
        page.focus(place)
        for key in ("x", "j", "ArrowDown", "ArrowLeft"):
            page.keyboard.press(key)
    page.focus("input[type=range]")
    for key in ("Shift+Enter", "Control+s", "Tab"):
        page.keyboard.press(key)
    heard = [key for key in page.evaluate("window.heard") if key not in ("Shift", "Control")]
    assert heard == ["Enter", "s", "Tab"]


def lab_with(boxes: list) -> MatchingLab:
    """The first preset's objects with other predictions, as an own scene."""
    even = np.full((len(boxes), 21), 1 / 21)
    return MatchingLab(target=MatchingLab().target, predictions=boxes, probabilities=even)


MANY = np.random.default_rng(0).uniform(0.1, 0.9, (60, 4))
ODD = {
    "no boxes": (np.zeros((0, 4)), np.zeros((0, 21)), "No predictions"),
    "one box": (
        [[0.5, 0.5, 0.2, 0.2]],
        np.full((1, 21), 1 / 21),
        "2 objects, 1 prediction: nobody answers for 1 object",
    ),
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


def test_the_readmes_picture_can_be_taken_again(chromium, tmp_path):
    for name, options in {"rest": {}, "step": {"step": 9, "scheme": "dark"}}.items():
        widget_picture.draw(chromium, tmp_path / f"{name}.png", **options)
    rest, step = (np.asarray(Image.open(tmp_path / f"{name}.png").convert("L")) for name in ("rest", "step"))
    with Image.open(widget_picture.PICTURE) as stored:
        assert stored.width == rest.shape[1] and abs(stored.height - rest.shape[0]) < 60
    assert rest.mean() > 180 and step.mean() < 90, "light and dark"


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
