"""The doctor: what it says of versions, missing modules and devices, and when it fails."""

import subprocess
import sys
import types
from collections import namedtuple
from importlib import metadata

import pytest

from detr_mini import doctor

REQUIRES = [
    "torch>=2.6,<3",
    "numpy>=1.26,<3",
    'anywidget>=0.9,<1; extra == "lab"',
    'timm>=1,<2; extra == "photos"',
]
VERSIONS = {
    "detr-mini": "0.1.0",
    "torch": "2.7.0+cpu",
    "numpy": "2.1.0",
    "anywidget": "0.9.13",
    "timm": "1.0.9",
}


def by_name(checks):
    return {check.name: check for check in checks}


@pytest.fixture
def versions(monkeypatch):
    installed = dict(VERSIONS)

    def version(name):
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(metadata, "requires", lambda name: REQUIRES)
    return installed


@pytest.fixture
def modules(monkeypatch):
    """Modules by name that importing gives, an exception where importing raises it; others as they are."""
    faked, real = {}, doctor.importlib.import_module

    def import_module(name):
        found = faked.get(name) or real(name)
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(doctor, "importlib", types.SimpleNamespace(import_module=import_module))
    return faked


def fake_torch(cuda=False, mps=False, built_for_cuda=None):
    properties = types.SimpleNamespace(total_memory=8 * 2**30)
    return types.SimpleNamespace(
        cuda=types.SimpleNamespace(
            is_available=lambda: cuda,
            device_count=lambda: 1,
            get_device_name=lambda index: "GPU 4080",
            get_device_properties=lambda index: properties,
        ),
        backends=types.SimpleNamespace(mps=types.SimpleNamespace(is_available=lambda: mps)),
        version=types.SimpleNamespace(cuda=built_for_cuda),
        get_num_threads=lambda: 4,
    )


def fake_training(precision):
    return types.SimpleNamespace(
        TrainConfig=lambda: "config",
        pick_device=lambda: "device",
        precision_of=lambda config, device: {("config", "device"): f"torch.{precision}"}[config, device],
    )


def smi(monkeypatch, answer):
    """nvidia-smi that names a card, or, where `answer` is an exception, one that is not there or hangs."""

    def run(command, **_):
        assert command[0] == "nvidia-smi"
        if isinstance(answer, Exception):
            raise answer
        return subprocess.CompletedProcess(command, 0, stdout=answer, stderr="")

    monkeypatch.setattr(doctor.subprocess, "run", run)


def test_lines_say_the_verdict_and_what_to_do():
    assert str(doctor.Check("disk", True, "fine")) == "ok    disk: fine"
    assert str(doctor.Check("disk", None, "small", "clean")) == "note  disk: small  -> clean"
    assert str(doctor.Check("disk", False, "full", "clean")) == "FAIL  disk: full  -> clean"


def test_versions_inside_the_ranges_pass(versions):
    found = by_name(doctor._packages())
    assert list(found) == ["detr-mini", "torch", "numpy", "extra lab", "extra photos"]
    assert all(check.ok is True and not check.fix for check in found.values())
    assert found["torch"].text == "2.7.0+cpu" and found["extra photos"].text == "timm"


@pytest.mark.parametrize("version", ["2.5.1", "3.0.0"])
def test_a_core_version_outside_its_range_fails(versions, version):
    versions["torch"] = version
    check = by_name(doctor._packages())["torch"]
    assert check.ok is False and version in check.text and "pip install" in check.fix
    assert ">=2.6" in check.text and "<3" in check.text


def test_a_missing_core_package_fails_and_a_missing_extra_is_a_note(versions):
    del versions["numpy"], versions["timm"]
    versions["anywidget"] = "1.2"
    found = by_name(doctor._packages())
    assert found["numpy"].ok is False and "missing" in found["numpy"].text
    assert found["extra photos"].ok is None and "timm missing" in found["extra photos"].text
    assert found["extra lab"].ok is None and "1.2 is outside" in found["extra lab"].text
    assert found["extra photos"].fix == 'pip install -e ".[photos]"'


def test_without_installation_the_ranges_come_from_the_checkout(versions, monkeypatch):
    def requires(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", requires)
    found = by_name(doctor._packages())
    assert found["detr-mini"].ok is None and "not installed" in found["detr-mini"].text
    assert found["torch"].ok is True and found["numpy"].ok is True
    assert found["scipy"].ok is False, "pyproject.toml asks for it and the faked machine lacks it"
    assert {"extra lab", "extra photos", "extra test"} <= set(found)


def test_an_old_python_fails_and_ends_the_report(monkeypatch):
    Version = namedtuple("Version", "major minor micro")
    monkeypatch.setattr(doctor, "sys", types.SimpleNamespace(version_info=Version(3, 10, 9)))
    (check,) = doctor.run()
    assert check.name == "Python" and check.ok is False and "3.11" in check.text


@pytest.mark.parametrize(
    "error", [ImportError("no torchvision"), RuntimeError("operator torchvision::nms does not exist\nmore")]
)
def test_a_torchvision_that_does_not_fit_fails_in_one_line(modules, error):
    modules["torchvision"] = error
    (check,) = doctor._torch()
    assert check.ok is False and str(error).splitlines()[0] in check.text
    assert "\n" not in str(check) and "torch torchvision" in check.fix


@pytest.mark.parametrize("precision, said", [("bfloat16", "bfloat16;"), ("float16", "gradient scaler")])
def test_a_cuda_gpu_is_named_with_memory_and_precision(modules, precision, said):
    modules |= {"torch": fake_torch(cuda=True), "detr_mini.training": fake_training(precision)}
    gpu, number = doctor._torch()
    assert gpu == doctor.Check("GPU", True, "CUDA, GPU 4080, 8 GiB")
    assert number.ok is True and number.text.startswith(precision) and said in number.text


def test_apples_gpu(modules):
    modules |= {"torch": fake_torch(mps=True), "detr_mini.training": fake_training("float32")}
    gpu, number = doctor._torch()
    assert gpu.ok is True and "MPS" in gpu.text
    assert number.text == "float32"


@pytest.mark.parametrize("answer", [FileNotFoundError(), subprocess.TimeoutExpired("nvidia-smi", 20), ""])
def test_no_gpu_is_no_fault(monkeypatch, answer):
    smi(monkeypatch, answer)
    check = doctor._no_gpu(fake_torch())
    assert check.ok is True and "CPU: 4 threads" in check.text


@pytest.mark.parametrize("platform, windows", [("win32", True), ("linux", False)])
def test_a_card_that_torch_was_not_built_for_is_a_note(monkeypatch, platform, windows):
    smi(monkeypatch, "GeForce 9000\n")
    monkeypatch.setattr(doctor.sys, "platform", platform)
    check = doctor._no_gpu(fake_torch())
    assert check.ok is None and "GeForce 9000" in check.text and "torch has no CUDA" in check.text
    assert ("Windows" in check.text) == windows
    assert doctor.TORCH_PAGE in check.fix


def test_a_card_whose_driver_does_not_start_is_a_note(monkeypatch):
    smi(monkeypatch, "GeForce 9000\n")
    check = doctor._no_gpu(fake_torch(built_for_cuda="13.0"))
    assert check.ok is None and "driver" in check.fix


def test_precision_is_unknown_where_training_does_not_import(modules):
    modules["detr_mini.training"] = ImportError("No module named 'scipy'")
    check = list(doctor._torch())[-1]
    assert check.name == "precision" and check.ok is None and "scipy" in check.text


def test_photographs_and_checkpoints_are_said_without_absolute_paths(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "PROJECT", tmp_path)
    monkeypatch.setenv("DETR_MINI_DATA", "")
    assert doctor._photographs().ok is None and doctor._checkpoints().ok is None

    (tmp_path / "data" / "cards" / "annotations").mkdir(parents=True)
    (tmp_path / "elsewhere" / "bccd" / "annotations").mkdir(parents=True)
    (tmp_path / "data" / "checkpoints").mkdir()
    (tmp_path / "data" / "checkpoints" / "toybox-mini.safetensors").touch()
    assert doctor._photographs().text == "cards in data"
    monkeypatch.setenv("DETR_MINI_DATA", str(tmp_path / "elsewhere"))
    assert doctor._photographs().text == "bccd in DETR_MINI_DATA; cards in data"
    assert doctor._checkpoints().text == "data/checkpoints/toybox-mini.safetensors"


def test_missing_widgets_are_named(modules):
    assert doctor._widgets().ok is True
    modules["anywidget"] = ImportError("no anywidget")
    check = doctor._widgets()
    assert check.ok is None and "anywidget missing" in check.text and "ipywidgets" not in check.text


@pytest.mark.parametrize("name", ["chromium", "google-chrome"])
def test_a_browser_on_the_path(monkeypatch, name):
    monkeypatch.setattr(doctor.shutil, "which", lambda wanted: wanted if wanted == name else None)
    assert doctor._browser().ok is True and name in doctor._browser().text
    monkeypatch.setattr(doctor.shutil, "which", lambda wanted: None)
    assert doctor._browser().ok is None


def test_little_disk_is_a_note(monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage(10e9, 9.5e9, 0.5e9))
    assert doctor._disk().ok is None and "0.5 GB" in doctor._disk().text


@pytest.mark.parametrize("worst, status", [(True, 0), (None, 0), (False, 1)])
def test_only_a_failure_makes_the_exit_status_1(monkeypatch, capsys, worst, status):
    monkeypatch.setattr(doctor, "run", lambda: [doctor.Check("a", True, "x"), doctor.Check("b", worst, "y")])
    assert doctor.main() == status
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_the_report_on_this_machine():
    """What notebook 00 shows: it passes wherever the tests run, a line a check, no path from the root."""
    checks = doctor.run()
    assert not [str(check) for check in checks if check.ok is False]
    assert {"Python", "torch", "GPU", "precision", "photographs", "checkpoints", "widgets"} <= set(by_name(checks))
    assert not [str(check) for check in checks if str(doctor.PROJECT) in str(check)]


def test_it_reports_where_torch_is_missing():
    """The doctor is for broken installations: neither it nor the package may need torch to be imported."""
    code = "import sys; sys.modules['torch'] = None; from detr_mini import doctor; sys.exit(doctor.main())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=doctor.PROJECT)
    assert done.returncode == 1 and done.stderr == ""
    assert "FAIL  torch import" in done.stdout
