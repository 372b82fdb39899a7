"""BoxLab on a page of its own, in a real browser."""

import pytest
from browser import drag, on_screen, state

from detr_mini.plots import boxes as box_plots
from detr_mini.widgets import BoxLab


def test_boxlab_drags_and_shows_pythons_numbers(open_lab):
    lab = BoxLab()
    page = open_lab(lab)
    drag(page, (0.25, 0.3), (0.55, 0.45))
    page.focus(".stage .box.object")
    page.keyboard.press("ArrowRight")
    now = state(page)
    assert now["a"][0] == pytest.approx(lab.a[0] + 0.3, abs=0.01) and now["b"][0] == pytest.approx(lab.b[0] + 1 / 64)
    wanted = box_plots.measures(now["a"], now["b"])
    values = [number(text) for text in page.locator(".measures td:nth-child(2)").all_inner_texts()]
    assert values == pytest.approx([wanted.iou, wanted.giou, wanted.l1], abs=6e-4)
    for name, arrows in (("L1", 4), ("GIoU", None), ("IoU", None)):
        page.get_by_label("arrows of").select_option(name)
        assert slopes(page) == pytest.approx(wanted.pull(name).tolist(), abs=6e-3)
        count = page.locator(".arrows .pull").count()
        assert count == arrows if arrows else 1 <= count <= 4
    drag(page, (now["a"][0] + 0.02, now["a"][1] + 0.02), (0.05, 0.05))
    page.get_by_label("arrows of").select_option("IoU")
    assert page.locator(".arrows .pull").count() == 0 and "No slope" in page.inner_text(".notes")


def number(text: str) -> float:
    return float(text.replace("−", "-"))


def slopes(page) -> list[float]:
    """The chosen measure's, by cx, cy, w and h."""
    return [number(text) for text in page.locator(".measures .shown td").all_inner_texts()[1:]]


INSIDE = (0.625, 0.55, 0.825, 0.80)


def test_the_experiments_of_notebook_01_come_out_as_told(open_lab):
    page = open_lab(BoxLab(INSIDE, (0.55, 0.5, 0.9, 0.85)))

    def values() -> list[str]:
        return page.locator(".measures td:nth-child(2)").all_inner_texts()

    assert values() == ["0.408", "0.408", "0.250"] and slopes(page)[:2] == [0, 0]
    page.focus(".stage .box.query")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert values() == ["0.408", "0.408", "0.297"] and slopes(page)[:2] == [0, 0]
    page = open_lab(BoxLab((0.05, 0.4, 0.15, 0.6), (0.25, 0.4, 0.35, 0.6)))
    page.focus(".stage .box.query")
    seen = [slopes(page)]
    for keys in (["ArrowLeft"], ["ArrowRight"] * 2):
        for key in keys:
            page.keyboard.press(key)
        seen.append(slopes(page))
    assert [(cx, w) for cx, _, w, _ in seen] == [(2.22, 2.22), (2.01, 2.16), (2.47, 2.28)]


def test_sides_that_differ_by_rounding_only_are_equal(open_lab):
    """Twenty places of a box as wide as the other: L1's slope by w is 0 at every one of them."""
    page = open_lab(BoxLab((0.1, 0.2, 0.45, 0.5), (0.4, 0.35, 0.75, 0.8), "L1"))
    page.focus(".stage .box.query")
    for _ in range(20):
        page.keyboard.press("ArrowRight")
        assert slopes(page)[2] == 0 and "-0" not in page.inner_text(".measures").replace("−", "-").replace("-0.", "")
        assert box_plots.measures(state(page)["a"], state(page)["b"]).l1_gradient[2] == 0


def test_no_arrow_leaves_the_picture(open_lab):
    frame = "node => { const { left, top, right, bottom } = node.getBoundingClientRect();"
    frame += " return [left, top, right, bottom]; }"
    for box in ((0.8, 0.75, 0.99, 0.995), (0.005, 0.0, 0.1, 0.1), (0.0, 0.0, 1.0, 1.0)):
        for measure in box_plots.MEASURES:
            page = open_lab(BoxLab(box, (0.0, 0.0, 1.0, 1.0) if box[2] < 1 else (0.4, 0.4, 0.6, 0.6), measure))
            left, top, right, bottom = page.locator("svg.stage").evaluate(frame)
            arrows = [node.evaluate(frame) for node in page.locator(".arrows .pull .edge").all()]
            assert arrows and all(
                x1 >= left and y1 >= top and x2 <= right and y2 <= bottom for x1, y1, x2, y2 in arrows
            )


@pytest.mark.parametrize("width", [300, 400, 1000])
def test_nothing_jumps_while_a_box_is_dragged(width, open_lab):
    page = open_lab(BoxLab(), viewport={"width": width, "height": 900})
    places = "[...document.querySelectorAll('svg.stage, .measures, .notes')].map((n) => n.getBoundingClientRect().top)"
    before = page.evaluate(places)
    page.mouse.move(*on_screen(page, 0.3, 0.4))
    page.mouse.down()
    for x, y in ((0.6, 0.55), (0.98, 0.98), (0.1, 0.9), (0.625, 0.575)):
        page.mouse.move(*on_screen(page, x, y), steps=3)
        assert page.evaluate(places) == before
    page.mouse.up()


@pytest.mark.parametrize(
    "a, b, message",
    [
        ((0.5, 0.5, 0.5, 0.7), (0.4, 0.4, 0.9, 0.9), "a has no area: IoU is 0"),
        ((120, 80, 300, 200), (100, 90, 280, 210), "a and b seem to be in pixels: divide by"),
        ((-0.2, 0.1, 0.4, 0.5), (0.4, 0.4, 0.9, 0.9), "a reaches outside the image"),
        ((0.2, 0.1, 0.4, 0.5), (0.2, 0.1, 0.4, 0.5), "The boxes coincide"),
    ],
)
def test_odd_boxes_get_a_message(a, b, message, open_lab):
    page = open_lab(BoxLab(a, b))
    assert message in page.inner_text(".notes")
    assert float(page.get_attribute(".stage .box.query .edge", "width")) > 0, "seen, even without area"
