"""The scripts behind notebooks 09, 10 and 13: small runs of each write what the notebooks read."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from detr_mini import checkpoints
from detr_mini.datasets.toybox import Toybox, ToyboxConfig
from detr_mini.detection import detect
from detr_mini.evaluation import evaluate, grade
from detr_mini.training import read_log

DATA = Path(__file__).resolve().parent.parent / "data"


@pytest.fixture
def script(monkeypatch):
    """Loads a script of data/ by name, afresh each time."""

    def load(name: str):
        spec = importlib.util.spec_from_file_location(f"script_{name}", DATA / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look themselves up
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def gallery(script, monkeypatch, tmp_path):
    module = script("gallery")
    monkeypatch.setattr(module, "WATCHED", 6)
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    return module


def test_what_is_spoilt(gallery):
    target = {"boxes": torch.tensor([[0.5, 0.25, 0.2, 0.1]]), "labels": torch.tensor([19]), "size": (64, 128)}
    assert gallery.off_by_one(target)["labels"].tolist() == [0]
    torch.testing.assert_close(gallery.in_pixels(target)["boxes"], torch.tensor([[64.0, 16.0, 25.6, 6.4]]))
    torch.testing.assert_close(gallery.corners(target)["boxes"], torch.tensor([[0.4, 0.2, 0.6, 0.3]]))
    assert target["labels"].tolist() == [19] and target["boxes"][0, 0] == 0.5


def test_every_fault_of_the_gallery_is_another_run(gallery):
    kinds = {(run.settings, run.spoil, run.scratch) for run in gallery.RUNS.values()}
    assert len(kinds) == len(gallery.RUNS) == 9
    assert sum(bool(run.settings or run.spoil) for run in gallery.RUNS.values()) == 7
    assert gallery.order()[0][1] == 0 and gallery.order()[-1][1] == 2


def test_a_short_gallery_run_is_spoilt_logged_and_shipped(gallery, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        gallery.Trainer,
        "train_step",
        lambda self, batch, step=gallery.Trainer.train_step: (
            seen.append(max(float(t["boxes"].max()) for t in batch.targets)),
            step(self, batch),
        )[1],
    )
    monkeypatch.setattr(gallery, "RUNS", {"boxes-in-pixels": gallery.Run(spoil="boxes in pixels", steps=20)})
    gallery.main(["--out", str(tmp_path / "runs"), "--only", "boxes-in-pixels"])
    assert len(seen) == 20 and min(seen) > 2, "targets came in pixels"
    gallery.main(["--out", str(tmp_path / "runs")])
    assert len(seen) == 20, "a finished run is not repeated"
    gallery.main(["--out", str(tmp_path / "runs"), "--ship"])
    records = [json.loads(line) for line in (gallery.RESULTS / "boxes-in-pixels-0.jsonl").read_text().splitlines()]
    said = [record["said"] for record in records if "said" in record]
    assert len(said) == 10 and len(said[-1]["scenes"]) == gallery.DRAWN and said[0]["a_scene"] >= 0
    assert [record["step"] for record in records if "loss" in record] == [20]
    facts = json.loads((gallery.RESULTS / "runs.json").read_text())["runs"]["boxes-in-pixels-0"]
    assert facts["start"] == "toybox-mini" and facts["spoil"] == "boxes in pixels" and facts["steps"] == 20


def test_an_unfinished_gallery_is_not_shipped(gallery, tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "RUNS", {"tuned": gallery.Run(steps=500)})
    gallery.main(["--out", str(tmp_path / "runs"), "--steps", "3"])
    with pytest.raises(RuntimeError, match="tuned-0 is not finished"):
        gallery.main(["--out", str(tmp_path / "runs"), "--ship"])


def test_a_short_race_writes_both_curves(script, tmp_path, monkeypatch):
    race = script("race")
    for name, value in {"WATCHED": 4, "TESTED": 6, "BATCH": 4, "RATES": (1e-3,), "RESULTS": tmp_path / "race"}.items():
        monkeypatch.setattr(race, name, value)
    threads = torch.get_num_threads()
    race.main(["--minutes", "0.03", "--out", str(tmp_path / "runs")])
    torch.set_num_threads(threads)
    written = json.loads((tmp_path / "race" / "race.json").read_text())
    for label in ("DETR", "Faster R-CNN"):
        assert len(written[label]["curve"]) >= 1 and set(written[label]["test"]) == {"with NMS", "without NMS"}
        assert written[label]["curve"][-1]["seconds"] >= 1.8 and written[label]["parameters"] > 1e6
    kept = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert len(kept) == 4  # a try and a full run for each


def test_faster_rcnn_gets_boxes_in_pixels_and_gives_classes_from_zero(script):
    race = script("race")
    side = race.contender("Faster R-CNN", 0, ToyboxConfig())
    batch = next(race.batches(ToyboxConfig(), 0))
    given = []
    side.model.forward = lambda images, targets: given.append((images, targets)) or {"loss": torch.zeros(())}
    side.loss(batch)
    images, targets = given[0]
    assert targets[0]["labels"].min() >= 1 and targets[0]["boxes"].max() > 1.5
    x1, y1, x2, y2 = targets[0]["boxes"].unbind(1)
    assert (x2 > x1).all() and (y2 > y1).all() and targets[0]["boxes"].max() <= 64.01
    found = {"boxes": torch.tensor([[0, 0, 9, 9], [0, 0, 9, 8.9], [30, 30, 40, 40.0]])}
    found |= {"scores": torch.tensor([0.2, 0.9, 0.5]), "labels": torch.tensor([3, 3, 1])}
    assert race.best(found, None).labels.tolist() == [2, 0, 2]
    assert race.best(found, 0.5).scores.tolist() == pytest.approx([0.9, 0.5])


def test_labels_go_missing_the_same_way_every_time_in_samples_and_truth(script):
    module = script("missing_labels")
    scenes, kept = Toybox(ToyboxConfig(), 150, 0, "val"), {}
    for share in (0.0, 0.2, 0.4, 1.0):
        partly = module.PartlyLabelled(scenes, "bus", share)
        in_truth = [(a["image_id"], a["category_id"]) for a in partly.ground_truth()["annotations"]]
        in_samples = [
            (target["image_id"], partly.category_ids[label])
            for _, target in (partly[i] for i in range(150))
            for label in target["labels"].tolist()
        ]
        assert in_truth == in_samples
        kept[share] = len(in_truth)
    buses = kept[0.0] - kept[1.0]
    assert buses > 5 and kept[0.0] > kept[0.2] > kept[0.4] > kept[1.0]


def test_a_short_run_with_missing_labels_is_graded_in_all_ways(script, tmp_path, monkeypatch):
    gallery, module = script("gallery"), script("missing_labels")
    monkeypatch.setattr(gallery, "WATCHED", 4)
    gallery.train("healthy", 0, tmp_path / "gallery", steps=2)
    for name, value in {"SHARES": (0.0, 0.4), "SEEDS": (0,), "TESTED": 40, "RESULTS": tmp_path / "results"}.items():
        monkeypatch.setattr(module, name, value)
    module.main(["--gallery", str(tmp_path / "gallery"), "--out", str(tmp_path / "runs"), "--steps", "2"])
    written = json.loads((tmp_path / "results" / "missing_labels.json").read_text())
    assert set(written["ap"]) == {"0", "0.4"} and set(written["ap"]["0.4"][0]) == {"0", "0.4"}
    assert read_log(tmp_path / "runs" / "40-0")[0][-1]["step"] == 2
    with pytest.raises(RuntimeError, match=r"run data/gallery\.py first"):
        module.main(["--gallery", str(tmp_path / "gallery"), "--out", str(tmp_path / "runs"), "--steps", "3"])


def test_any_detectors_answers_are_graded_as_a_models_are():
    loaded = checkpoints.load("toybox-mini")
    scenes = Toybox(ToyboxConfig(), 20, 0, "val")
    answers = detect(loaded, [scenes[i][0] for i in range(20)], threshold=0)
    graded, wanted = grade(scenes, answers), evaluate(loaded.model, scenes, progress=False)
    assert graded.ap == pytest.approx(wanted.ap, abs=1e-6) and wanted.ap > 0.3
    assert graded.per_class == pytest.approx(wanted.per_class, abs=1e-6)
    with pytest.raises(ValueError, match="19 answers for 20 images"):
        grade(scenes, answers[1:])
