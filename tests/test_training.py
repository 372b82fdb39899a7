"""The loop: the sanity ladder (one image, then a hundred), resume, rates, the log and the fixed number of steps."""

import json
import math
from dataclasses import replace

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


@pytest.fixture
def often(monkeypatch):
    """The log is written every 5 steps, so that a short run has steps whose record waits."""
    monkeypatch.setattr(training, "FLUSH_STEPS", 5)


def broken_run(tmp_path, plant, at=5, save_every=4):
    """A run whose callback plants a fault once the record of step `at` is written, and what its end said."""

    def callback(record):
        if record.get("step") == at and "loss" in record:
            plant(run.model)

    config = TrainConfig.mini(steps=9, batch_size=2, save_every=save_every, eval_every=1.0, warmup=1)
    run = trainer(tmp_path / "run", config, callback=callback)
    with pytest.raises(ValueError) as stopped:
        run.run()
    return run, str(stopped.value)


def planted(name: str, value: float):
    def plant(model):
        with torch.no_grad():
            model.get_parameter(name)[0] = value

    return plant


PLANTS = [
    ("backbone.stem.0.weight", "inf", "the weights of the backbone (backbone.stem.0.weight)"),
    ("transformer.decoder.layers.1.linear1.weight", "inf", "the weights of decoder layer 1 (transformer.decoder.la"),
    (
        "transformer.encoder.layers.0.linear1.weight",
        "3e38",
        "the output of encoder layer 0 (transformer.encoder.layers",
    ),
    ("transformer.decoder.layers.1.multihead_attn.in_proj_weight", "3e38", "the output of decoder layer 1 ("),
    ("class_embed.weight", "3e38", "the output of the class head (class_embed)"),
    ("bbox_embed.layers.2.bias", "nan", "the weights of the box head (bbox_embed.layers.2.bias)"),
]


@pytest.mark.parametrize("name, value, place", PLANTS, ids=[f"{name} {value}" for name, value, _ in PLANTS])
def test_nan_or_inf_is_told_by_layer_and_step_and_the_last_good_save_stays(name, value, place, tmp_path, often):
    run, said = broken_run(tmp_path, planted(name, float(value)))
    assert said.startswith("step 6: NaN or inf") and place in said, said
    good = tmp_path / "run" / "last.safetensors"
    assert f"{good} of step 4 is good: go on with --resume and a lower rate" in said
    kept = checkpoints.load(good)
    assert kept.info["step"] == 4 and all(v.isfinite().all() for v in kept.model.state_dict().values())
    run = trainer(tmp_path / "run", replace(run.config, lr=1e-4), resume=True)
    assert run.step == 4
    run.run()
    assert training.read_log(tmp_path / "run")[0][-1]["step"] == 9


def test_a_broken_weight_is_never_saved(tmp_path, often):
    """Planted after the last step before a save, where no forward pass would meet it."""
    _, said = broken_run(tmp_path, planted("transformer.encoder.layers.0.norm1.weight", math.inf), at=8)
    assert said.startswith("step 8: NaN or inf in the weights of encoder layer 0 (transformer.encoder.layers.0.norm1")
    assert "last.safetensors of step 4 is good" in said
    assert torch.load(tmp_path / "run" / "state.pt")["progress"]["step"] == 4


def test_a_gradient_that_is_not_finite_moves_no_weight_and_is_told_by_part(tmp_path, often):
    before = {}

    def plant(model):
        before.update({name: value.clone() for name, value in model.named_parameters()})
        model.get_parameter("transformer.decoder.layers.0.linear1.weight").register_hook(lambda g: g * math.nan)

    run, said = broken_run(tmp_path, plant)
    assert said.startswith("step 6: the outputs are finite, NaN or inf first in the gradient of decoder layer 0 (")
    assert "grad_norm is nan" in said and run.step == 8, "found when the log was written next"
    for name, value in run.model.named_parameters():
        assert torch.equal(value, before[name]), name


def test_broken_pixels_name_their_image(tmp_path):
    run = trainer(tmp_path / "run")
    step = run.train_step

    def breaks(batch):
        if run.step == 3:
            batch.images[1, 0, 5, 5] = math.nan
        step(batch)

    run.train_step = breaks
    with pytest.raises(ValueError, match=r"step 4: NaN or inf in the pixels of image \d+ \(the matching cost is nan"):
        run.run()
    assert checkpoints.load(tmp_path / "run" / "last.safetensors").info["step"] == 2


def test_a_step_whose_loss_alone_was_broken_is_made_again_for_the_diagnosis(tmp_path, often):
    """Without an object nothing is matched: the loss is the first to know, and the log the first to read it."""
    config = TrainConfig.mini(steps=9, batch_size=2, save_every=50, eval_every=1.0)
    data = Toybox(ToyboxConfig(objects=(0, 0)))
    run = Trainer(SMALL, config, data, None, tmp_path / "run", device="cpu", progress=False)
    step = run.train_step

    def breaks(batch):
        if run.step == 2:
            planted("class_embed.bias", math.inf)(run.model)
        step(batch)

    run.train_step = breaks
    with pytest.raises(
        ValueError, match=r"step 3: NaN or inf in the weights of the class head .*loss is (nan|inf).*nothing was saved"
    ):
        run.run()


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
