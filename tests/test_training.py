"""The loop: the sanity ladder (one image, then a hundred), resume, rates, the log and the fixed number of steps."""

import json
import math

import pytest
import torch

from detr_mini import checkpoints, losses, training
from detr_mini.backbones import normalization
from detr_mini.boxes import cxcywh_to_xyxy, paired_iou
from detr_mini.datasets.batches import collate
from detr_mini.datasets.toybox import Toybox, ToyboxConfig
from detr_mini.detr import DETR, DETRConfig
from detr_mini.evaluation import evaluate
from detr_mini.training import TrainConfig, Trainer, learning_rate

SMALL = DETRConfig.mini(width=32, feedforward=64, encoder_layers=1, decoder_layers=2, heads=2)


def trainer(out, config=None, model=SMALL, length=None, **options) -> Trainer:
    config = config or TrainConfig.mini(steps=6, batch_size=2, save_every=2, eval_every=1.0)
    data, validation = Toybox(ToyboxConfig(), length), Toybox(ToyboxConfig(), 4, split="val")
    return Trainer(model, config, data, validation, out, device="cpu", progress=False, **options)


def test_one_image_is_learned_by_heart():
    """The first rung: 4 objects, 500 steps with warm-up and cosine, every IoU above 0.9 in evaluation mode."""
    torch.manual_seed(0)
    data = Toybox(ToyboxConfig(objects=(4, 4)), 1, seed=3)
    batch = collate([data[0]], *normalization("tiny"), 20)
    model = DETR(DETRConfig.mini())
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    recipe = TrainConfig.mini(lr=3e-4, warmup=50)
    for step in range(500):
        optimizer.param_groups[0]["lr"] = recipe.lr * learning_rate(step, recipe, 500)
        output = model(batch.images, batch.padding)
        loss = losses.set_loss(output.logits, output.boxes, batch.targets)
        optimizer.zero_grad()
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()
    with torch.no_grad():
        output = model(batch.images, batch.padding)
    match = losses.set_loss(output.logits, output.boxes, batch.targets).match
    query, true = match.pairs(-1, 0)
    overlap = paired_iou(cxcywh_to_xyxy(output.last_boxes[0, query]), cxcywh_to_xyxy(batch.targets[0]["boxes"][true]))
    assert len(query) == 4 and overlap.min() > 0.9, overlap
    said = output.last_logits[0].argmax(-1)
    assert torch.equal(said[query], batch.targets[0]["labels"][true])
    others = [q for q in range(10) if q not in query.tolist()]
    assert (said[others] == 20).all(), "the six queries without an object must say so"


def test_a_hundred_scenes_are_learned(tmp_path):
    """The second rung: a finite set, shuffled; what is learned is those scenes and not yet the world."""
    config = TrainConfig.mini(steps=500, batch_size=16, save_every=500, eval_every=1.0)
    run = trainer(tmp_path / "run", config, DETRConfig.mini(), length=100)
    run.run()
    report = evaluate(run.model, Toybox(ToyboxConfig(), 100), progress=False)
    steps, _ = training.read_log(tmp_path / "run")
    assert steps[-1]["loss"] < 0.4 * steps[0]["loss"]
    assert report.ap50 > 0.5, report


def test_a_run_cut_off_goes_on_with_the_losses_of_the_uninterrupted_one(tmp_path, monkeypatch):
    trainer(tmp_path / "whole").run()
    interrupted = trainer(tmp_path / "cut")
    step = interrupted.train_step

    def stops_at_five(batch):
        if interrupted.step == 5:
            raise KeyboardInterrupt
        step(batch)

    monkeypatch.setattr(interrupted, "train_step", stops_at_five)
    with pytest.raises(KeyboardInterrupt):
        interrupted.run()
    resumed = trainer(tmp_path / "cut", resume=True)
    assert resumed.step == 4, "the last save"
    resumed.run()
    whole, cut = (training.read_log(tmp_path / name)[0] for name in ("whole", "cut"))
    assert [r["step"] for r in cut] == [1, 2, 3, 4, 5, 6]
    assert [r["loss"] for r in cut] == [r["loss"] for r in whole]
    first, second = (checkpoints.load(tmp_path / name / "last.safetensors") for name in ("whole", "cut"))
    for key, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[key]), key


def test_a_resumed_run_can_be_made_longer(tmp_path):
    trainer(tmp_path / "run").run()
    longer = trainer(tmp_path / "run", TrainConfig.mini(steps=9, batch_size=2, eval_every=1.0), resume=True)
    longer.run()
    steps, _ = training.read_log(tmp_path / "run")
    assert [r["step"] for r in steps] == list(range(1, 10))
    assert json.loads((tmp_path / "run" / "config.json").read_text())["train"]["steps"] == 9


def test_workers_do_not_change_what_is_trained_on(tmp_path):
    for workers in (0, 2):
        config = TrainConfig.mini(steps=3, batch_size=2, workers=workers, eval_every=1.0)
        trainer(tmp_path / str(workers), config, length=5).run()
    alone, helped = (training.read_log(tmp_path / name)[0] for name in ("0", "2"))
    assert [r["loss"] for r in alone] == [r["loss"] for r in helped]


def test_a_second_run_into_the_same_folder_refuses(tmp_path):
    trainer(tmp_path / "run").run()
    with pytest.raises(FileExistsError, match="add --resume"):
        trainer(tmp_path / "run")


def test_the_log_holds_parts_by_layer_rates_speed_and_matches(tmp_path):
    seen = []
    folder = trainer(tmp_path / "run", callback=seen.append).run()
    steps, evaluations = training.read_log(folder)
    assert {"config.json", "log.jsonl", "last.safetensors", "best.safetensors", "state.pt"} <= {
        file.name for file in folder.iterdir()
    }
    assert json.loads(json.dumps(seen)) == steps + evaluations
    for record in steps:
        weighted = 4 * sum(record["label"]) + 5 * sum(record["l1"]) + 2 * sum(record["giou"])
        assert math.isclose(record["loss"], weighted, rel_tol=1e-4)
        assert record["grad_norm"] > 0 and record["images_per_second"] > 0 and record["lr"] > 0
        assert len(record["giou"]) == 2
    matches = evaluations[-1]["matches"]
    validation = Toybox(ToyboxConfig(), 4, split="val")
    assert list(matches) == ["1", "2", "3", "4"]
    for index, layers in enumerate(matches.values()):
        objects = len(validation[index][1]["labels"])
        assert [len(set(layer)) for layer in layers] == [objects] * 2


def test_minutes_fix_the_number_of_steps(tmp_path):
    config = TrainConfig.mini(batch_size=1, eval_every=1.0)
    run = trainer(tmp_path / "run", config, minutes=0.05)
    run.run()
    assert run.step == run.steps > training.PROBE_STEPS
    assert run.steps != config.steps


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_model(tmp_path):
    run = trainer(tmp_path / "run", TrainConfig.mini(steps=40, batch_size=2, save_every=2, eval_every=1.0))
    step = run.train_step

    def breaks(batch):
        if run.step == 3:
            batch.images[:] = float("nan")
        step(batch)

    run.train_step = breaks
    with pytest.raises(ValueError, match=r"decoder layer 0, image 0 of the batch"):
        run.run()
    good = checkpoints.load(tmp_path / "run" / "last.safetensors")
    assert all(value.isfinite().all() for value in good.model.state_dict().values())


def test_rates():
    config = TrainConfig.mini(steps=1000, warmup=10)
    assert learning_rate(0, config, 1000) == 0.1 and learning_rate(9, config, 1000) == 1.0
    assert learning_rate(505, config, 1000) == pytest.approx(0.5) and learning_rate(1000, config, 1000) < 1e-6
    paper = TrainConfig(steps=300)
    assert [learning_rate(step, paper, 300) for step in (0, 199, 200, 299)] == [1.0, 1.0, 0.1, 0.1]


def test_the_backbone_has_a_rate_of_its_own_and_frozen_parameters_none():
    model = DETR(DETRConfig())
    transformer, backbone = training.parameter_groups(model, TrainConfig())
    assert (transformer["lr"], backbone["lr"]) == (1e-4, 1e-5)
    counted = sum(p.numel() for group in (transformer, backbone) for p in group["params"])
    assert counted == 41_302_368
    assert {id(p) for p in backbone["params"]} <= {id(p) for p in model.backbone.parameters()}


def test_a_resnet_without_pretrained_weights_refuses():
    with pytest.raises(ValueError, match="its batch-norm is frozen and would have no statistics"):
        training.build_model(DETRConfig(), TrainConfig(pretrained=False), None)


def test_a_device_that_is_not_there():
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA: nothing to refuse")
    with pytest.raises(ValueError, match="sees no CUDA device"):
        training.pick_device("cuda")


def test_mixed_precision_keeps_answers_and_loss_in_float32(tmp_path):
    config = TrainConfig.mini(steps=3, batch_size=2, eval_every=1.0, precision="bfloat16")
    run = trainer(tmp_path / "run", config)
    seen = []
    run.model.register_forward_hook(lambda module, inputs, output: seen.append((module.training, output)))
    run.run()
    trained = [output for training, output in seen if training]
    assert trained and all(o.logits.dtype == o.boxes.dtype == torch.float32 for o in trained)
    steps, _ = training.read_log(tmp_path / "run")
    assert all(math.isfinite(r["loss"]) for r in steps)
