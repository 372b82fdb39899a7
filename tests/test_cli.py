"""The command line from end to end on a small set, and its plain errors."""

import json
import subprocess
import sys

import pytest
from PIL import Image

from detr_mini import checkpoints, cli, commands
from detr_mini.datasets.toybox import Toybox
from detr_mini.evaluation import evaluate

TINY = "width=32 feedforward=64 encoder_layers=1 decoder_layers=2 heads=2 batch_size=4 save_every=5 eval_every=1"
COMMANDS = ("doctor", "download", "data", "train", "eval", "detect")


def tiny() -> list[str]:
    return [part for setting in TINY.split() for part in ("--set", setting)]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toybox") / "scenes"
    assert cli.main(["data", "toybox", "--out", str(folder), "--train", "12", "--val", "6", "--seed", "1"]) == 0
    return folder


@pytest.fixture(scope="module")
def run(scenes):
    out = scenes.parent / "run"
    assert (
        cli.main(["train", "--data", str(scenes), "--config", "mini", "--out", str(out), "--steps", "10", *tiny()]) == 0
    )
    return out


def test_data_train_eval_detect(scenes, run, tmp_path, capsys):
    checkpoint = checkpoints.load(run)
    assert checkpoint.names == Toybox.names and checkpoint.category_ids == Toybox.category_ids
    report = tmp_path / "report.json"
    assert cli.main(["eval", "--checkpoint", str(run), "--data", str(scenes), "--json", str(report)]) == 0
    (stored,) = json.loads(report.read_text())
    data = commands.evaluation_data(str(scenes), "val", checkpoint)
    assert stored["ap"] == evaluate(checkpoint.model, data, progress=False).ap and stored["images"] == 6
    assert "AP50" in capsys.readouterr().out

    image = scenes / "val" / "000001.png"
    out = tmp_path / "found"
    command = ["detect", "--checkpoint", str(run), str(image), "--out", str(out), "--threshold", "0", "--attention"]
    assert cli.main(command) == 0
    found = json.loads((out / "000001.json").read_text())
    assert len(found["detections"]) == 10, "at threshold 0 every query speaks"
    assert {"name", "score", "box_xyxy_px", "query"} == set(found["detections"][0])
    assert all(0 <= v <= 64 for d in found["detections"] for v in d["box_xyxy_px"])
    with Image.open(out / "000001.png") as drawn:
        assert min(drawn.size) > 100


def test_every_layer_with_and_without_nms(run, scenes, tmp_path):
    report = tmp_path / "layers.json"
    command = [
        "eval",
        "--checkpoint",
        str(run),
        "--data",
        str(scenes),
        "--layers",
        "--nms",
        "0.6",
        "--json",
        str(report),
    ]
    assert cli.main(command) == 0
    ways = [(r["layer"], r["nms_iou"]) for r in json.loads(report.read_text())]
    assert sorted(ways, key=str) == sorted([(0, None), (0, 0.6), (1, None), (1, 0.6)], key=str)


def test_train_resumes_with_the_settings_of_the_run(scenes, tmp_path, capsys):
    command = ["train", "--data", str(scenes), "--config", "mini", "--out", str(tmp_path / "run"), *tiny()]
    assert cli.main([*command, "--steps", "5"]) == 0
    assert cli.main([*command, "--steps", "5"]) == 2
    assert "--resume" in capsys.readouterr().err
    files = [tmp_path / "run" / name for name in ("best.safetensors", "log.jsonl", "state.pt")]
    before = [path.read_bytes() for path in files]
    again = ["train", "--data", str(scenes), "--config", "mini", "--out", str(tmp_path / "run"), "--resume"]
    assert cli.main(again) == 0
    assert "trained 5 steps" in capsys.readouterr().out
    assert [path.read_bytes() for path in files] == before, "a finished run has nothing left to do"


def test_a_run_is_judged_on_drawn_scenes_of_its_own_kind(tmp_path):
    out = tmp_path / "run"
    settings = [*tiny(), "--set", "toybox.size=96", "--set", "toybox.objects=2,3"]
    assert (
        cli.main(["train", "--data", "toybox", "--config", "mini", "--out", str(out), "--steps", "2", *settings]) == 0
    )
    data = commands.evaluation_data("toybox", "val", checkpoints.load(out))
    assert data.config.size == 96 and data.config.objects == (2, 3) and len(data) == 1000


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    assert f"detr-mini {command}" in capsys.readouterr().out.split("example:")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval", "--checkpoint", "nothing", "--data", "toybox"], "no file nothing"),
        (["train", "--data", "nowhere", "--config", "mini", "--out", "RUN"], "nowhere"),
        (["train", "--data", "toybox", "--config", "nano", "--out", "RUN"], "neither 'mini', 'photos' nor 'r50'"),
        (["train", "--data", "toybox", "--config", "mini", "--out", "RUN", "--set", "colour=3"], "no field colour"),
        (["train", "--data", "toybox", "--config", "mini", "--out", "RUN", "--set", "width=yes"], "of another kind"),
        (["train", "--data", "toybox", "--config", "mini", "--out", "RUN", "--set", "num_classes=7"], "has 20 classes"),
        (["data", "toybox", "--out", "RUN", "--size", "8"], "size"),
        (["detect", "--checkpoint", "RUN", "absent.png", "--out", "RUN", "--threshold", "2"], "threshold 2.0"),
    ],
)
def test_errors_are_one_plain_line(arguments, message, tmp_path, capsys):
    arguments = [str(tmp_path / "run") if argument == "RUN" else argument for argument in arguments]
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_a_folder_of_other_classes_is_not_compared(run, tmp_path, capsys):
    folder = tmp_path / "cats"
    (folder / "annotations").mkdir(parents=True)
    (folder / "val").mkdir()
    Image.new("RGB", (64, 64)).save(folder / "val" / "a.png")
    coco = {
        "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 64}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 4, 20, 20], "area": 400, "iscrowd": 0}],
    }
    (folder / "annotations" / "instances_val.json").write_text(json.dumps(coco))
    assert cli.main(["eval", "--checkpoint", str(run), "--data", str(folder)]) == 2
    assert "AP would compare different things" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "said", "heard"),
    [
        (
            "train",
            "stopped after step 7; to go on: detr-mini train",
            "stopped after step 7; to go on: detr-mini train\n",
        ),
        ("train", "", "stopped; a run that saved goes on with --resume\n"),
        ("eval", "", "stopped\n"),
        ("download", "", "stopped; the same command goes on where it stopped\n"),
    ],
)
def test_ctrl_c_ends_with_130_and_a_line(command, said, heard, monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt(*filter(None, [said]))

    arguments = {
        "train": ["train", "--data", "toybox", "--config", "mini", "--out", "RUN"],
        "eval": ["eval", "--checkpoint", "toybox-mini", "--data", "toybox"],
        "download": ["download", "bccd"],
    }
    monkeypatch.setattr(cli, f"run_{command}", stop)
    assert cli.main(arguments[command]) == 130
    assert capsys.readouterr().err == heard


def test_the_program_itself_starts():
    done = subprocess.run(
        [sys.executable, "-m", "detr_mini.cli", "--help"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and all(command in done.stdout for command in COMMANDS)
