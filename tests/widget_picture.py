"""Draws the README's picture of MatchingLab from a real browser: python tests/widget_picture.py."""

from pathlib import Path

import browser

from detr_mini.widgets import MatchingLab

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "data" / "results" / "matching-lab.png"


def draw(running, out: Path, step: int | None = None, scheme: str = "light") -> None:
    """The widget with its first scene, or at a step of the chain, 960 px wide."""
    lab = MatchingLab("greedy fails" if step is None else "a chain", lines="both")
    lab.step = step
    with browser.tab(running, viewport={"width": 976, "height": 700}, color_scheme=scheme) as page:
        page.set_content(lab.page())
        page.locator(".detr-mini[data-theme]").screenshot(path=out)


if __name__ == "__main__":
    with browser.started() as running:
        draw(running, PICTURE)
    print(f"drawn: {PICTURE.relative_to(ROOT)}")
