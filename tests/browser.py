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
