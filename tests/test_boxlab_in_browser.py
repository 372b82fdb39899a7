"""BoxLab on a page of its own, in a real browser."""

import pytest
from browser import drag, state

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
    values = [float(text) for text in page.locator(".card output").all_inner_texts()]
    assert values == pytest.approx([wanted.iou, wanted.giou, wanted.l1], abs=6e-4)
    for name, arrows in (("L1", 4), ("GIoU", None), ("IoU", None)):
        page.get_by_label("arrows of").select_option(name)
        count = page.locator(".arrows .pull").count()
        assert count == arrows if arrows else 1 <= count <= 4
    drag(page, (now["a"][0] + 0.02, now["a"][1] + 0.02), (0.05, 0.05))
    page.get_by_label("arrows of").select_option("IoU")
    assert page.locator(".arrows .pull").count() == 0 and "asks for nothing" in page.inner_text(".cards")
