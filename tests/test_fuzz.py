"""A slice of `make fuzz`, and what the fuzzer itself must be able to see."""

import io
import os
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
import fuzz


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> fuzz.Ground:
    return fuzz.Ground(tmp_path_factory.mktemp("fuzz").resolve())


@pytest.mark.parametrize("number", range(70))
def test_a_broken_file_ends_in_success_or_in_one_line(ground, number):
    kind, finding, _ = fuzz.run_case(number, 0, ground)
    assert not finding, f"{kind}: {finding}; python tests/fuzz.py --case {number}"


def test_all_kinds_are_drawn_and_some_cases_succeed(ground):
    ends = [fuzz.run_case(number, 1, ground) for number in range(70)]
    assert {kind for kind, *_ in ends} == {"annotations", "image", "safetensors", "pth", "archive"}
    assert {bool(message) for *_, message in ends} == {True, False}


def test_a_case_depends_on_seed_and_number_alone(ground):
    def end(number, seed):
        # the folder's name is chance, what is said about what lies in it is not
        return [part for part in fuzz.run_case(number, seed, ground)[2].split() if "case" not in part]

    assert [end(number, 5) for number in range(14)] == [end(number, 5) for number in range(14)]
    assert [end(number, 5) for number in range(14)] != [end(number, 6) for number in range(14)]


class Pathological:
    """A kind of case whose run does what no code under test may do."""

    def __init__(self, act):
        self.act, self.__name__ = act, "pathological"

    def __call__(self, rng, ground, case):
        return ["a.png"], lambda: self.act(ground.root)


def refuse(error: Exception):
    raise error


def loop() -> None:
    while True:
        pass


ACTS = {
    "TypeError": (lambda root: refuse(TypeError("a.png")), "TypeError"),
    "RecursionError": (lambda root: refuse(RecursionError("a.png")), "RecursionError"),
    "SystemExit": (lambda root: sys.exit("a.png"), "SystemExit"),
    "no name": (lambda root: refuse(ValueError("something is wrong")), "without the file's name"),
    "two lines": (lambda root: refuse(ValueError("a.png\nis broken")), "several lines"),
    "a file elsewhere": (lambda root: (root / "elsewhere").write_text("x"), "written outside"),
    "hang": (lambda root: loop(), "Hang"),
}


@pytest.mark.parametrize("act", ACTS)
def test_what_must_not_happen_is_a_finding(ground, monkeypatch, act):
    if act == "hang" and os.name == "nt":
        pytest.skip("no alarm on this system")
    run, finding = ACTS[act]
    monkeypatch.setattr(fuzz, "KINDS", [Pathological(run)])
    monkeypatch.setattr(fuzz, "SECONDS", 0.2)
    try:
        assert finding in fuzz.run_case(0, 0, ground)[1]
    finally:
        (ground.root / "elsewhere").unlink(missing_ok=True)


def test_a_good_error_is_none(ground, monkeypatch):
    monkeypatch.setattr(fuzz, "KINDS", [Pathological(lambda root: refuse(OSError("a.png is broken")))])
    assert fuzz.run_case(0, 0, ground) == ("pathological", "", "a.png is broken")


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_too_much_memory_is_a_finding_and_the_limit_ends_with_the_case(ground, monkeypatch):
    monkeypatch.setattr(fuzz, "MEMORY", 50 * 2**20)
    monkeypatch.setattr(fuzz, "KINDS", [Pathological(lambda root: bytearray(2**28))])
    assert "MemoryError" in fuzz.run_case(0, 0, ground)[1]
    assert len(bytearray(2**28)) == 2**28


def test_a_single_case_prints_its_traceback(monkeypatch, capsys):
    monkeypatch.setattr(fuzz, "KINDS", [Pathological(lambda root: refuse(KeyError("a.png")))])
    assert fuzz.main(["--case", "3"]) == 1
    shown = capsys.readouterr()
    assert "seed 0, case 3 (pathological): KeyError" in shown.out and "Traceback" in shown.err
    monkeypatch.setattr(fuzz, "KINDS", [Pathological(lambda root: None)])
    assert fuzz.main(["--cases", "2"]) == 0
    assert "0 findings" in capsys.readouterr().out


def test_sound_files_pass(ground):
    for path in ground.images:
        with Image.open(path) as image:
            image.load()
    assert {path.suffix for path in ground.images} >= {".png", ".jpg", ".gif", ".tif"}
    assert fuzz.checkpoints.load(ground.sound).names == ("cat", "dog")
    assert torch.load(ground.root / "zip.pth", weights_only=True)["model"]
    assert zipfile.ZipFile(io.BytesIO(fuzz.make_zip(fuzz.random.Random(3)))).namelist()
