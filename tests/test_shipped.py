"""What ships: checkpoints small enough, as good as their cards say, and steady under padding."""

import json
import runpy
import sys

import pytest
import torch

from detr_mini import checkpoints, commands
from detr_mini.backbones import normalization
from detr_mini.datasets.batches import collate
from detr_mini.datasets.toybox import Toybox, ToyboxConfig
from detr_mini.evaluation import evaluate

RESULTS = checkpoints.SHIPPED.parent / "results"
NAMES = sorted(file.stem for file in checkpoints.SHIPPED.glob("*.safetensors"))


def test_the_shipped_checkpoints_are_there():
    assert set(NAMES) >= {"toybox-mini", "toybox", "cards"}


@pytest.mark.parametrize("name", NAMES)
def test_each_is_small_and_has_its_evaluation_and_log(name):
    assert checkpoints.find(name).stat().st_size < 8_000_000
    stored = json.loads((RESULTS / name / "eval.json").read_text())
    assert stored[0]["images"] > 0 and stored[0]["ap50"] > 0
    log = [json.loads(line) for line in (RESULTS / name / "log.jsonl").read_text().splitlines()]
    assert any("eval" in record for record in log) and any("loss" in record for record in log)


@pytest.mark.parametrize(("name", "scenes"), [("toybox-mini", 200), ("toybox", 100)])
def test_a_toybox_model_is_as_good_as_its_card_says(name, scenes):
    """On the first scenes of those that the card's number comes from; fewer images, so a margin."""
    loaded = checkpoints.load(name)
    (stored,) = json.loads((RESULTS / name / "eval.json").read_text())
    held_out = commands.evaluation_data("toybox", "test", loaded)
    report = evaluate(loaded.model, Toybox(held_out.config, scenes, split="test"), progress=False)
    assert abs(report.ap - stored["ap"]) < 0.08
    assert stored["images"] == 1000


@pytest.mark.parametrize("shape", [(96, 80), (64, 128)])
def test_padding_does_not_move_the_answers_of_the_whole_model(shape):
    """The tiny backbone keeps padded places at zero, so this holds for the whole model and not its transformer only."""
    loaded = checkpoints.load("toybox-mini")
    samples = [Toybox(ToyboxConfig(), 40, split="test")[i] for i in range(40)]
    mean, std = normalization("tiny")
    batch = collate(samples, mean, std, 20)
    images = torch.zeros(40, 3, *shape)
    padding = torch.ones(40, *shape, dtype=torch.bool)
    images[:, :, :64, :64], padding[:, :64, :64] = batch.images, False
    with torch.inference_mode():
        alone, padded = loaded.model(batch.images), loaded.model(images, padding)
    scores = [answer.last_logits.softmax(-1) for answer in (alone, padded)]
    assert (scores[0][..., :-1].amax(-1) > 0.7).sum() > 50
    assert (alone.last_boxes - padded.last_boxes).abs().max() < 0.001
    assert (scores[0] - scores[1]).abs().max() < 0.005


def test_a_run_is_shipped_by_one_command(tmp_path, monkeypatch, capsys):
    small = ["width=32", "feedforward=32", "encoder_layers=1", "decoder_layers=1", "heads=2", "batch_size=2"]
    commands.train("toybox", "mini", tmp_path / "run", steps=20, settings=[*small, "eval_every=1"], progress=False)
    monkeypatch.setattr(checkpoints, "SHIPPED", tmp_path / "data" / "checkpoints")
    monkeypatch.setattr(commands, "VALIDATION_SCENES", 10)
    script = RESULTS.parent / "ship.py"
    monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path / "run"), "trial", "--data", "toybox", "--half"])
    runpy.run_path(str(script), run_name="__main__")
    (stored,) = json.loads((tmp_path / "data" / "results" / "trial" / "eval.json").read_text())
    assert stored["images"] == 10 and "AP50" in capsys.readouterr().out
    assert checkpoints.load("trial").model.config.width == 32
    log = (tmp_path / "data" / "results" / "trial" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == [20, 20], "the 20th step and one evaluation"


def test_the_cards_model_names_the_cards_of_a_test_photograph(photos, tmp_path):
    folder = photos("cards")
    truth = json.loads((folder / "annotations" / "instances_test.json").read_text())
    names = {category["id"]: category["name"] for category in truth["categories"]}
    files = {image["id"]: image["file_name"] for image in truth["images"]}
    right = wanted = 0
    chosen = sorted(files)[:12]
    results = commands.detect_files(
        "cards", [folder / "test" / files[i] for i in chosen], tmp_path, threshold=0.5, device="cpu"
    )
    for image, result in zip(chosen, results, strict=True):
        true = sorted(names[a["category_id"]] for a in truth["annotations"] if a["image_id"] == image)
        said = sorted(found["name"] for found in result["detections"])
        wanted += len(true)
        right += sum(min(true.count(name), said.count(name)) for name in set(true))
    assert right > wanted / 2, (right, wanted)
