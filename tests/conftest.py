import os
from pathlib import Path

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
