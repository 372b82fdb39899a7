"""Runs a widget's ES module in node: what the browser computes, without a browser."""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest


def run_module(widget: type, expression: str, cases: list, change: tuple[str, str] | None = None):
    """The value of a JavaScript expression in which `module` is the widget's module and `cases` the given ones.

    `change` replaces one piece of the source by another before that, to see whether a test notices. Infinity comes
    back as a float. Where node is not installed the test is skipped, except in CI, where that is a failure.
    """
    node = shutil.which("node")
    if node is None:
        if os.environ.get("CI"):
            pytest.fail("node is not installed, and CI must have it")
        pytest.skip("node is not installed: apt-get install nodejs")
    source = str(widget._esm)
    if change is not None:
        right, wrong = change
        assert source.count(right) >= 1, f"{right!r} does not stand in the module"
        source = source.replace(right, wrong)
    driver = (
        'import * as module from "./module.mjs";\n'
        'import { readFileSync } from "node:fs";\n'
        'const cases = JSON.parse(readFileSync(0, "utf8"));\n'
        'const plain = (_, value) => (value === Infinity ? "inf" : value);\n'
        f"process.stdout.write(JSON.stringify({expression}, plain));\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "module.mjs").write_text(source, encoding="utf-8")
        (Path(folder) / "driver.mjs").write_text(driver, encoding="utf-8")
        command = [node, str(Path(folder) / "driver.mjs")]
        done = subprocess.run(command, input=json.dumps(cases), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
