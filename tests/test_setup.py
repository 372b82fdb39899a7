"""The files of the set-up agree with each other: ranges, pins, conda, package data, Makefile and CI."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from detr_mini import doctor

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CORE = [Requirement(line) for line in PROJECT["project"]["dependencies"]]
EXTRAS = PROJECT["project"]["optional-dependencies"]
WANTED = CORE + [Requirement(line) for lines in EXTRAS.values() for line in lines]
PINS = {
    canonicalize_name(pin.name): Version(str(pin.specifier).removeprefix("=="))
    for pin in map(Requirement, re.findall(r"^[^#\s].*$", (ROOT / "constraints.txt").read_text(), re.M))
}
CONDA_NAMES = {"pytorch": "torch"}
CHECKOUT = (ROOT / ".git").exists()


def ranges(requirements) -> dict[str, frozenset]:
    return {canonicalize_name(r.name): frozenset(map(str, r.specifier)) for r in requirements}


def test_every_range_is_bounded_on_both_sides():
    open_ended = [str(r) for r in WANTED if {s.operator for s in r.specifier} != {">=", "<"}]
    assert not open_ended


def test_the_pins_lie_inside_the_ranges():
    missing = [r.name for r in WANTED if canonicalize_name(r.name) not in PINS]
    assert not missing, "constraints.txt lacks these"
    assert not [str(r) for r in WANTED if PINS[canonicalize_name(r.name)] not in r.specifier]


def test_conda_asks_for_the_same_packages_and_ranges():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *conda, by_pip = environment["dependencies"]
    names = [Requirement(line) for line in conda]
    for requirement in names:
        requirement.name = CONDA_NAMES.get(requirement.name, requirement.name)
    asked = ranges(names)
    assert asked.pop("python") == {PROJECT["project"]["requires-python"]}
    asked.pop("pip")
    assert "-e ." in by_pip["pip"]
    asked |= ranges(Requirement(line) for line in by_pip["pip"] if line != "-e .")
    assert asked == ranges(WANTED)


def test_doctor_and_metadata_agree_on_python():
    assert PROJECT["project"]["requires-python"] == ">=" + ".".join(map(str, doctor.OLDEST_PYTHON))


def test_what_the_metadata_names_is_there():
    for name in [PROJECT["project"]["readme"], *PROJECT["project"]["license-files"]]:
        assert (ROOT / name).is_file(), name
    module, function = PROJECT["project"]["scripts"]["detr-mini"].split(":")
    assert f"def {function}(" in (ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
    sprites = list((ROOT / "detr_mini" / "datasets").glob("sprites/*.webp"))
    assert len(sprites) == 20 and (sprites[0].parent / "LICENSE").is_file()
    assert "sprites/*" in PROJECT["tool"]["setuptools"]["package-data"]["detr_mini.datasets"]


def test_ci_tests_the_oldest_torch_of_the_range():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))
    matrix = workflow["jobs"]["lanes"]["strategy"]["matrix"]
    assert {name.split("-")[0] for name in matrix["os"]} == {"ubuntu", "macos", "windows"}
    oldest = next(lane for lane in matrix["include"] if lane["torch"] == "oldest")
    lower = {r.name: next(s.version for s in r.specifier if s.operator == ">=") for r in CORE}
    for pin in map(Requirement, oldest["versions"].split()):
        assert str(pin.specifier) == f"=={lower[pin.name]}.0"
    uses = re.findall(r"uses: (\S+)", (ROOT / ".github" / "workflows" / "test.yml").read_text())
    assert uses and all(re.fullmatch(r"[\w-]+/[\w-]+@v\d+", action) for action in uses)


@pytest.mark.skipif(not CHECKOUT, reason="counts what git tracks")
def test_tracked_files_stay_below_40_mib():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    paths = [ROOT / name for name in listed.decode().split("\0") if name]
    assert sum(path.stat().st_size for path in paths if path.is_file()) < 40 * 2**20


# The Makefile, run in a scratch folder with a python3 that makes an empty environment of recording stand-ins.
FAKE_PYTHON = """#!/bin/sh
echo "python $*" >> {log}
case "$*" in
  *version_info*) exit {old} ;;
  *ensurepip*) exit {no_venv} ;;
  "-m venv "*)
    mkdir -p "$3/bin"
    for tool in python pip jupyter ruff codespell detr-mini; do
      {{
        echo '#!/bin/sh'
        echo 'settings="OMP=$OMP_NUM_THREADS QUICK=$DETR_MINI_QUICK DATA=$DETR_MINI_DATA"'
        echo "echo \\"$tool \\$* \\$settings\\" >> {log}"
      }} > "$3/bin/$tool"
      chmod +x "$3/bin/$tool"
    done ;;
esac
"""


@pytest.fixture
def scratch(tmp_path):
    """run(*arguments, old=0, no_venv=0, **environment) -> the result of make, the commands it ran."""
    if not shutil.which("make"):
        pytest.skip("no make here, as on Windows")
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "notebooks").mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    log, fake = tmp_path / "log", tmp_path / "fake-python"

    def run(*arguments, old=0, no_venv=0, **environment):
        fake.write_text(FAKE_PYTHON.format(log=log, old=old, no_venv=no_venv))
        fake.chmod(0o755)
        log.write_text("")
        inherited = {"PATH": os.environ["PATH"]}
        command = ["make", f"PYTHON={fake}", *arguments]
        done = subprocess.run(command, cwd=folder, env=inherited | environment, capture_output=True, text=True)
        return done, log.read_text().splitlines()

    run.folder = folder
    return run


def test_make_lab_sets_up_once_and_opens_the_first_notebook(scratch):
    done, ran = scratch("lab", "LAB_ARGS=--no-browser")
    assert done.returncode == 0, done.stderr
    assert any(line.startswith("python -m venv .venv") for line in ran)
    assert any("pip install" in line and "-e .[lab,photos]" in line for line in ran)
    assert ran[-1].startswith("jupyter lab --no-browser notebooks/00_start_here.ipynb")

    _, again = scratch("lab")
    assert len(again) == 1 and again[0].startswith("jupyter lab"), "the second time nothing is installed"

    later = (scratch.folder / ".venv" / "lab-ready").stat().st_mtime + 5
    os.utime(scratch.folder / "pyproject.toml", (later, later))
    _, changed = scratch("lab")
    assert sum("pip install" in line for line in changed) == 1, "a changed pyproject.toml installs again"
    assert not any("-m venv" in line for line in changed)


def test_an_installation_that_failed_is_tried_again(scratch):
    scratch("lab")
    (scratch.folder / ".venv" / "lab-ready").unlink()
    pip = scratch.folder / ".venv" / "bin" / "python"
    working = pip.read_text()
    pip.write_text("#!/bin/sh\nexit 1\n")
    assert scratch("lab")[0].returncode != 0
    pip.write_text(working)
    done, ran = scratch("lab")
    assert done.returncode == 0 and any("pip install" in line for line in ran)


@pytest.mark.parametrize("pinned", [True, False])
def test_pins_are_used_when_asked_for(scratch, pinned):
    _, ran = scratch("lab", *(["PINNED=1"] if pinned else []))
    (install,) = [line for line in ran if "pip install" in line]
    assert ("-c constraints.txt" in install) == pinned


def test_make_test_runs_all_that_ci_runs(scratch):
    done, ran = scratch("test", "PINNED=1")
    assert done.returncode == 0, done.stderr
    start = next(n for n, line in enumerate(ran) if "pip install" in line)
    assert "-e .[lab,photos,test]" in ran[start]
    check, form, spelling, tests, notebooks = ran[start + 1 :]
    assert check.startswith("ruff check .") and form.startswith("ruff format --check .")
    assert spelling.startswith("codespell")
    assert tests.startswith("python -m pytest -n 2 --dist loadscope") and "OMP=1 QUICK= " in tests
    assert "--nbval-lax --nbval-current-env" in notebooks and "notebooks OMP=1 QUICK=1 " in notebooks


def test_the_folder_of_photographs_is_found_and_made_absolute(scratch):
    assert scratch("lab")[1][-1].endswith("DATA=")
    shared = scratch.folder.parent / "shared" / "data"
    shared.mkdir(parents=True)
    assert scratch("lab")[1][-1].endswith(f"DATA={shared}")
    (scratch.folder / "mine").mkdir()
    assert scratch("lab", DETR_MINI_DATA="mine")[1][-1].endswith(f"DATA={scratch.folder / 'mine'}")


@pytest.mark.parametrize("lack, said", [({"no_venv": 1}, "python3-venv"), ({"old": 1}, "Python 3.11")])
def test_what_is_missing_is_said(scratch, lack, said):
    done, ran = scratch("test", **lack)
    assert done.returncode != 0 and said in done.stdout
    assert not any("-m venv" in line or "install" in line for line in ran)


def test_make_clean_keeps_what_was_trained(scratch):
    scratch("lab")
    for name in ("runs/mini", "data/checkpoints", "detr_mini/__pycache__", ".pytest_cache"):
        (scratch.folder / name).mkdir(parents=True)
    assert scratch("clean")[0].returncode == 0
    left = {str(path.relative_to(scratch.folder)) for path in scratch.folder.rglob("*") if path.is_dir()}
    assert left == {"notebooks", "runs", "runs/mini", "data", "data/checkpoints", "detr_mini"}
