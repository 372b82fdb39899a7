"""What this computer has for the course, and what to do about the rest; also `python -m detr_mini.doctor`."""

import importlib
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

OLDEST_PYTHON = (3, 11)
PROJECT = Path(__file__).resolve().parent.parent
PHOTOGRAPHS = ("bccd", "cards", "coco_mini")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
TORCH_PAGE = "https://pytorch.org/get-started/locally"
FREE_DISK_GB = 2.0


@dataclass(frozen=True)
class Check:
    """One line of the report; `ok` is None for a note, False only where the course cannot run."""

    name: str
    ok: bool | None
    text: str
    fix: str = ""

    def __str__(self) -> str:
        mark = {True: "ok", None: "note", False: "FAIL"}[self.ok]
        return f"{mark:<5} {self.name}: {self.text}" + (f"  -> {self.fix}" if self.fix else "")


def run() -> list[Check]:
    """All checks, in the order in which they are printed; reads and imports, changes nothing."""
    python = _python()
    if not python.ok:
        return [python]  # an older one cannot import what the other checks need
    return [
        python,
        *_packages(),
        *_torch(),
        _photographs(),
        _checkpoints(),
        _widgets(),
        _browser(),
        _disk(),
    ]


def main() -> int:
    """Print the report; 1 where something is missing without which the course cannot run, else 0."""
    checks = run()
    for check in checks:
        print(check)
    return int(any(check.ok is False for check in checks))


def _python() -> Check:
    if sys.version_info[:2] >= OLDEST_PYTHON:
        return Check("Python", True, platform.python_version())
    wanted = ".".join(map(str, OLDEST_PYTHON))
    text = f"{platform.python_version()}, wanted {wanted} or newer"
    return Check("Python", False, text, f"install it, then make lab PYTHON=python{wanted}")


def _project() -> dict:
    """The [project] table of the checkout's pyproject.toml, empty where there is no checkout."""
    import tomllib  # of Python 3.11: here, so that an older one still reaches its own check

    path = PROJECT / "pyproject.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))["project"] if path.is_file() else {}


def _requirements() -> tuple[list[str], bool]:
    """The requirement strings, extras marked as in a wheel's metadata, and whether detr-mini is installed."""
    try:
        return metadata.requires("detr-mini") or [], True
    except metadata.PackageNotFoundError:
        project = _project()
        extras = project.get("optional-dependencies", {})
        marked = [f'{line}; extra == "{extra}"' for extra, lines in extras.items() for line in lines]
        return [*project.get("dependencies", []), *marked], False


def _packages() -> Iterator[Check]:
    """The installed versions against the ranges: a line for each package of the core, one for each extra."""
    lines, installed = _requirements()
    if installed:
        yield Check("detr-mini", True, metadata.version("detr-mini"))
    else:
        yield Check("detr-mini", None, "not installed, so it runs in this folder only", "pip install -e .")
    try:
        from packaging.requirements import Requirement
    except ImportError:
        yield Check("packaging", False, "missing, so no version can be checked", "pip install -e .")
        return
    extras: dict[str, list[tuple[str, str]]] = {}
    for requirement in map(Requirement, lines):
        extra = re.search(r"extra == [\"'](\w+)", str(requirement.marker))
        text, fits = _installed(requirement)
        if extra:
            extras.setdefault(extra[1], []).append((requirement.name, "" if fits else text))
        else:
            yield Check(requirement.name, fits, text, "" if fits else "pip install -e .")
    for extra, found in extras.items():
        wrong = ", ".join(f"{name} {text}" for name, text in found if text)
        if wrong:
            yield Check(f"extra {extra}", None, wrong, f'pip install -e ".[{extra}]"')
        else:
            yield Check(f"extra {extra}", True, ", ".join(name for name, _ in found))


def _installed(requirement) -> tuple[str, bool]:
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"missing, wanted {requirement.specifier}", False
    if requirement.specifier.contains(version, prereleases=True):
        return version, True
    return f"{version} is outside {requirement.specifier}", False


def _torch() -> Iterator[Check]:
    """Whether torch works, and the device and the number format that training would choose."""
    try:
        torch = importlib.import_module("torch")
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError, OSError) as error:
        # a torchvision built for another torch: RuntimeError on its first operator; on Windows OSError
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        fix = "install the two together: pip install --force-reinstall torch torchvision"
        yield Check("torch import", False, f"torch and torchvision do not import ({reason})", fix)
        return
    yield _gpu(torch)
    try:
        training = importlib.import_module("detr_mini.training")
    except ImportError as error:
        yield Check("precision", None, f"unknown, detr_mini.training does not import ({error})", "see above")
        return
    kind = str(training.precision_of(training.TrainConfig(), training.pick_device())).removeprefix("torch.")
    more = {"float32": "", "float16": " with a gradient scaler; matching and loss float32"}
    yield Check("precision", True, kind + more.get(kind, "; matching and loss float32"))


def _gpu(torch) -> Check:
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        more = f", first of {torch.cuda.device_count()}" if torch.cuda.device_count() > 1 else ""
        return Check("GPU", True, f"CUDA, {torch.cuda.get_device_name(0)}, {memory:.0f} GiB{more}")
    if torch.backends.mps.is_available():
        return Check("GPU", True, "Apple's, through MPS")
    return _no_gpu(torch)


def _no_gpu(torch) -> Check:
    threads = torch.get_num_threads()
    cpu = f"none, so the CPU: {threads} thread{'s' if threads > 1 else ''}"
    name = _nvidia_name()
    if not name:
        return Check("GPU", True, cpu)
    if torch.version.cuda:
        text = f"{cpu}; {name} is there but CUDA does not start"
        return Check("GPU", None, text, "update the NVIDIA driver")
    why = " (on Windows the torch of PyPI has none)" if sys.platform == "win32" else ""
    text = f"{cpu}; {name} is there but this torch has no CUDA{why}"
    return Check("GPU", None, text, f"choose CUDA at {TORCH_PAGE}")


def _nvidia_name() -> str:
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip().split("\n")[0] if answer.returncode == 0 else ""


def _photographs() -> Check:
    """The folders of photographs, said by the place they are in so that no absolute path is printed."""
    places = {"data": PROJECT / "data"}
    if os.environ.get("DETR_MINI_DATA"):
        places = {"DETR_MINI_DATA": Path(os.environ["DETR_MINI_DATA"]), **places}
    found = []
    for label, folder in places.items():
        names = [name for name in PHOTOGRAPHS if (folder / name / "annotations").is_dir()]
        if names:
            found.append(f"{', '.join(names)} in {label}")
    if found:
        return Check("photographs", True, "; ".join(found))
    text = f"no {', '.join(PHOTOGRAPHS)}; drawn scenes need none"
    return Check(
        "photographs", None, text, "detr-mini download bccd (or cards), or name their folder in DETR_MINI_DATA"
    )


def _checkpoints() -> Check:
    folder = PROJECT / "data" / "checkpoints"
    files = sorted(path.relative_to(PROJECT).as_posix() for path in folder.glob("*.safetensors"))
    if files:
        return Check("checkpoints", True, ", ".join(files))
    return Check(
        "checkpoints",
        None,
        "none in data/checkpoints",
        "use a git clone of the project, or train: make train",
    )


def _widgets() -> Check:
    missing = []
    for name in ("ipywidgets", "anywidget"):
        try:
            importlib.import_module(name)
        except ImportError:
            missing.append(name)
    if missing:
        return Check("widgets", None, f"{' and '.join(missing)} missing", 'pip install -e ".[lab]"')
    return Check("widgets", True, "ipywidgets and anywidget import")


def _browser() -> Check:
    found = next((name for name in BROWSERS if shutil.which(name)), None)
    if found:
        return Check("browser", True, f"{found}, for tests of the widgets")
    return Check("browser", None, "no Chromium on the PATH, wanted only by tests of the widgets", "install chromium")


def _disk() -> Check:
    free = shutil.disk_usage(PROJECT).free / 1e9
    if free < FREE_DISK_GB:
        return Check("disk", None, f"{free:.1f} GB free", f"training and data may want {FREE_DISK_GB:.0f} GB")
    return Check("disk", True, f"more than {FREE_DISK_GB:.0f} GB free")


if __name__ == "__main__":
    raise SystemExit(main())
