"""A real browser for tests: Chromium of the system, driven by playwright, nothing downloaded."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PLACES = (  # outside the search path
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "C:/Program Files/Google/Chrome/Application/chrome.exe",
)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]


def executable() -> str:
    """Chromium's path; where there is none the test is skipped with the reason, and in CI it fails."""
    named = os.environ.get("DETR_MINI_CHROMIUM")
    found = [named] if named else [shutil.which(name) for name in (*NAMES, *PLACES)]
    if any(found):
        return next(filter(None, found))
    reason = "no browser: apt-get install chromium, or name one in DETR_MINI_CHROMIUM"
    if os.environ.get("CI"):
        pytest.fail(f"{reason}; CI must have one")
    pytest.skip(reason)


@contextmanager
def started() -> Iterator:
    """A running browser."""
    path = executable()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def tab(browser, **options) -> Iterator:
    """An empty page without a network in which an error of a script fails the test when it closes."""
    context = browser.new_context(offline=True, **options)
    page, errors = context.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    page.errors = errors
    yield page
    context.close()
    assert not errors, errors


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
