import json
import os
from pathlib import Path

import browser
import matplotlib.pyplot as plt
import pytest


@pytest.fixture(scope="session")
def photos():
    """photos("cards") is the folder of that data set; without it the test skips; in CI it fails."""

    def folder(name: str) -> Path:
        root = os.environ.get("DETR_MINI_DATA")
        if root and (Path(root) / name).is_dir():
            return Path(root) / name
        reason = "set DETR_MINI_DATA to a folder holding bccd/, cards/, coco_mini/"
        if os.environ.get("CI") == "true" and root and Path(root).is_dir():
            pytest.fail(f"{reason}: {name} is not there")
        pytest.skip(reason)

    return folder


@pytest.fixture
def no_figure_is_left_in_pyplot():
    """Fails a test that leaves a figure in pyplot's list: the package's figures are objects of their own."""
    yield
    assert not plt.get_fignums()


@pytest.fixture(scope="module")
def chromium():
    """A running browser; skips where there is none, in CI it fails."""
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
