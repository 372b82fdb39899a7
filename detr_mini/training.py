"""Training: one loop for CPU and GPU that logs what happens, saves itself and goes on where it stopped."""

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from detr_mini import backbones, checkpoints, losses, matching
from detr_mini.datasets.batches import Batch, SampleStream, collate
from detr_mini.detr import DETR, DETRConfig
from detr_mini.evaluation import Report, evaluate

PROBE_STEPS = 30  # of --minutes: timed, then the number of steps is fixed
FLUSH_STEPS = 20  # the log is copied from the device once in so many steps


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained; the defaults are the authors' settings for COCO."""

    steps: int = 500_000  # optimizer steps in all
    batch_size: int = 64  # images a step
    lr: float = 1e-4  # AdamW's rate, all but the backbone
    backbone_lr: float = 1e-5  # 0 freezes the backbone
    weight_decay: float = 1e-4
    clip: float = 0.1  # largest norm of the whole gradient
    warmup: int = 0  # steps of linearly growing rate
    schedule: str = "drop"  # drop: a tenth of the rate after 2/3 of the steps · cosine: to zero
    eval_every: float = 0.1  # share of the steps between evaluations
    save_every: int = 500  # steps between saves
    precision: str = "auto"  # auto · float32 · bfloat16 · float16
    workers: int = 0  # processes that make samples
    augmentation: str = "paper"  # of a COCO folder: paper · photos · none
    pretrained: bool = True  # whether a backbone that has ImageNet weights starts from them
    short_side: int | None = 800  # px of an evaluated image, None keeps its size
    long_side: int | None = 1333  # px
    seed: int = 0
    matching_weights: matching.Weights = field(default_factory=matching.Weights)
    loss_weights: losses.Weights = field(default_factory=losses.Weights)

    def __post_init__(self):
        if self.schedule not in ("drop", "cosine"):
            raise ValueError(f"schedule {self.schedule!r} is neither 'drop' nor 'cosine'")
        if self.augmentation not in ("paper", "photos", "none"):
            raise ValueError(f"augmentation {self.augmentation!r} is none of 'paper', 'photos', 'none'")
        if min(self.steps, self.batch_size, self.save_every) < 1 or self.lr <= 0 or self.eval_every <= 0:
            raise ValueError("steps, batch_size, save_every, lr and eval_every must be above zero")

    @classmethod
    def mini(cls, **changes) -> "TrainConfig":
        """The recipe for `DETRConfig.mini()`: a rate ten times the paper's, one for all, cosine to zero.

        The class part weighs 4: from scratch a backbone must learn classes too, and with weight 1 the boxes' parts
        leave them almost no gradient for the first thousand steps.
        """
        mini = cls(
            steps=2_500,
            batch_size=32,
            lr=1e-3,
            backbone_lr=1e-3,
            clip=1.0,
            warmup=100,
            schedule="cosine",
            augmentation="none",
            pretrained=False,
            short_side=None,
            long_side=None,
            loss_weights=losses.Weights(label=4.0),
        )
        return replace(mini, **changes)

    @classmethod
    def photos(cls, **changes) -> "TrainConfig":
        """The recipe for a few hundred photographs and a backbone with ImageNet weights."""
        photos = cls(
            steps=4_000,
            batch_size=8,
            lr=5e-4,
            backbone_lr=1e-4,
            clip=1.0,
            warmup=100,
            schedule="cosine",
            augmentation="photos",
            short_side=256,
            long_side=480,
            loss_weights=losses.Weights(label=4.0),
        )
        return replace(photos, **changes)


def learning_rate(step: int, config: TrainConfig, steps: int) -> float:
    """The factor on both learning rates at a step (from 0) of a run of `steps`."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    if config.schedule == "drop":
        return 1.0 if step < steps * 2 / 3 else 0.1
    done = (step - config.warmup) / max(steps - config.warmup, 1)
    return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def parameter_groups(model: DETR, config: TrainConfig) -> list[dict]:
    """Two groups, transformer with heads, and backbone, each with its rate; what has no gradient is left out."""
    groups = {"transformer": [], "backbone": []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups["backbone" if name.startswith("backbone.") else "transformer"].append(parameter)
    rates = {"transformer": config.lr, "backbone": config.backbone_lr}
    return [{"params": params, "lr": rates[name], "initial": rates[name]} for name, params in groups.items() if params]


def precision_of(config: TrainConfig, device: torch.device) -> torch.dtype:
    """The dtype of the forward pass: float32 off CUDA, else bfloat16 where the card has it, else float16."""
    if config.precision != "auto":
        return getattr(torch, config.precision)
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def pick_device(name: str = "auto") -> torch.device:
    """The device called "auto", "cpu", "cuda" or "mps"; ValueError where the machine lacks it."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda' was asked for, but this torch sees no CUDA device: see detr-mini doctor")
    return device


class Trainer:
    """A run in a folder: config.json, log.jsonl, last.safetensors, best.safetensors, state.pt.

    `train_data` gives (image uint8, target) as `datasets` describes; with length None it is an endless stream.
    `minutes` fixes the number of steps after timing the first of them. `callback` gets each log record.
    Raises FileExistsError where the folder holds a run and `resume` is False.
    """

    def __init__(
        self,
        model_config: DETRConfig,
        config: TrainConfig,
        train_data: Dataset,
        val_data: Dataset | None,
        out: str | Path,
        *,
        device: str = "auto",
        minutes: float | None = None,
        resume: bool = False,
        start_from: checkpoints.Checkpoint | None = None,
        callback: Callable[[dict], None] | None = None,
        progress: bool = True,
    ):
        self.config, self.minutes, self.callback, self.progress = config, minutes, callback, progress
        self.train_data, self.val_data, self.out = train_data, val_data, Path(out)
        self.device = pick_device(device)
        self.dtype = precision_of(config, self.device)
        if (self.out / "config.json").exists() and not resume:
            raise FileExistsError(f"{self.out} holds a run already: add --resume to go on, or name another folder")
        torch.manual_seed(config.seed)
        self.model = build_model(model_config, config, start_from).to(self.device)
        fused = self.device.type in ("cpu", "cuda")
        groups = parameter_groups(self.model, config)
        self.optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=fused)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.step, self.steps, self.best_ap, self.seconds = 0, None if minutes else config.steps, -1.0, 0.0
        self.pending: list[tuple[dict, Tensor]] = []
        self.out.mkdir(parents=True, exist_ok=True)
        if resume and (self.out / "state.pt").exists():
            self.load_state()
        else:
            settings = {"model": asdict(model_config), "train": asdict(config), "device": str(self.device)}
            settings |= {"toybox": asdict(train_data.config)} if hasattr(train_data, "config") else {}
            write_atomically(self.out / "config.json", json.dumps(settings, indent=1).encode())
            (self.out / "log.jsonl").write_text("")

    def run(self) -> Path:
        """Trains to the last step, evaluating and saving on the way; returns the folder."""
        if self.step == self.steps:
            return self.out
        bar = tqdm(total=self.steps, initial=self.step, disable=not self.progress, desc="train", unit="step")
        started, probe = time.perf_counter() - self.seconds, []
        with bar, (self.out / "log.jsonl").open("a") as self.log_file:
            for batch in self.batches():
                before = time.perf_counter()
                self.train_step(batch)
                self.step += 1
                self.seconds = time.perf_counter() - started
                bar.update()
                if self.steps is None:
                    probe.append(time.perf_counter() - before + self.waited)
                    if len(probe) == PROBE_STEPS:
                        self.steps = self.step + self.steps_in(self.minutes * 60 - self.seconds, median(probe[5:]))
                        bar.total = self.steps
                last = self.step == self.steps
                if self.step % FLUSH_STEPS == 0 or last:
                    record = self.flush()
                    bar.set_postfix(loss=f"{record['loss']:.2f}", refresh=False)
                if self.val_data is not None and self.steps and (last or self.step % self.eval_interval == 0):
                    report = self.evaluate()
                    bar.set_postfix(AP50=f"{report.ap50:.3f}", refresh=False)
                if last or self.step % self.config.save_every == 0:
                    self.flush()
                    self.save_state()
                if last:
                    break
        return self.out

    @property
    def eval_interval(self) -> int:
        return max(1, round(self.steps * self.config.eval_every))

    def steps_in(self, seconds: float, seconds_a_step: float) -> int:
        """How many steps fit, when an evaluated image costs half of a trained one."""
        evaluated = 0 if self.val_data is None else len(self.val_data) / self.config.eval_every
        seconds -= 0.5 * evaluated * seconds_a_step / self.config.batch_size
        return max(1, int(seconds / seconds_a_step))

    def batches(self):
        """Batches from sample number step * batch_size on, with the seconds waited for each in `self.waited`."""
        last = 2**40 if self.steps is None else self.steps
        infinite = getattr(self.train_data, "length", 0) is None
        stream = SampleStream(self.train_data, self.config.seed, infinite=infinite)
        size, workers = self.config.batch_size, self.config.workers
        mean, std = backbones.normalization(self.model.config.backbone)
        classes = self.model.config.num_classes
        loader = DataLoader(
            stream,
            batch_size=size,
            sampler=range(self.step * size, last * size),
            num_workers=workers,
            collate_fn=partial(collate, mean=mean, std=std, num_classes=classes),
            pin_memory=self.device.type == "cuda",
            persistent_workers=workers > 0,
        )
        iterator = iter(loader)
        while True:
            before = time.perf_counter()
            batch = next(iterator)
            self.waited = time.perf_counter() - before
            yield batch

    def train_step(self, batch: Batch) -> None:
        """One optimizer step; what it measured stays on the device until `flush`."""
        before = time.perf_counter()
        factor = learning_rate(self.step, self.config, self.steps or self.config.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial"] * factor
        self.model.train()
        batch = batch.to(self.device, non_blocking=True)
        mixed = torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)
        with mixed:
            output = self.model(batch.images, batch.padding)
        loss = losses.set_loss(
            output.logits, output.boxes, batch.targets, self.config.loss_weights, self.config.matching_weights
        )
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss.total).backward()
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        error = losses.class_error(output.logits, loss.targets, loss.match)
        cardinality = losses.cardinality_error(output.logits, loss.targets)
        scalars = torch.stack([loss.total.detach(), norm, error, cardinality])
        values = torch.cat([scalars, loss.label, loss.l1, loss.giou])
        facts = {
            "step": self.step + 1,
            "lr": self.config.lr * factor,
            "seconds": round(time.perf_counter() - before, 4),
            "waited": round(self.waited, 4),
            "images": len(batch.targets),
        }
        self.pending.append((facts, values))

    def flush(self) -> dict:
        """Writes the pending log records with one copy from the device; returns the last; stops on NaN or inf."""
        record = getattr(self, "last_record", {"loss": math.nan})
        if self.pending:
            rows = torch.stack([values for _, values in self.pending]).cpu().tolist()
            for (facts, _), row in zip(self.pending, rows, strict=True):
                record = facts | named_values(row)
                record["images_per_second"] = round(facts["images"] / (facts["seconds"] + facts["waited"]), 1)
                if not math.isfinite(record["loss"]):
                    raise ValueError(
                        f"the loss is {record['loss']} at step {record['step']}: lower the learning rate; "
                        f"the last good model is {self.out / 'last.safetensors'}"
                    )
                self.write(record)
            self.pending.clear()
        self.last_record = record
        return record

    def write(self, record: dict) -> None:
        self.log_file.write(json.dumps(record) + "\n")
        self.log_file.flush()
        if self.callback:
            self.callback(record)

    def evaluate(self) -> Report:
        """AP on the validation data, and which query took which object in its first 16 images; keeps the best."""
        batch_size = min(self.config.batch_size, 64)
        report = evaluate(self.model, self.val_data, batch_size=batch_size, device=self.device, progress=False)
        record = {"step": self.step, "seconds_in_all": round(self.seconds, 1), "eval": report.to_dict()}
        self.write(record | {"matches": self.matches_of_fixed_images()})
        if report.ap > self.best_ap:
            self.best_ap = report.ap
            self.save_model("best.safetensors", report)
        return report

    @torch.inference_mode()
    def matches_of_fixed_images(self, count: int = 16) -> dict:
        """For the first images: the query of each object, by decoder layer (L, T), under the image's id."""
        samples = [self.val_data[i] for i in range(min(count, len(self.val_data)))]
        mean, std = backbones.normalization(self.model.config.backbone)
        self.model.eval()
        found = {}
        for sample in samples:  # one by one, so that no image's padding depends on its neighbours
            batch = collate([sample], mean, std, self.model.config.num_classes).to(self.device)
            output = self.model(batch.images, batch.padding)
            padded = matching.pad_targets(batch.targets, self.device)
            matched = matching.match(output.logits, output.boxes, padded, self.config.matching_weights)
            found[sample[1]["image_id"]] = matched.query_numpy[:, 0].tolist()
        return found

    def save_model(self, name: str, report: Report | None = None) -> None:
        info = {"step": self.step, "short_side": self.config.short_side, "long_side": self.config.long_side}
        info |= {} if report is None else {"ap": report.ap, "ap50": report.ap50}
        data = self.train_data
        drawn = getattr(data, "config", None)
        info |= {} if drawn is None else {"toybox": asdict(drawn)}
        checkpoints.save(self.out / name, self.model, data.names, data.category_ids, info)

    def save_state(self) -> None:
        self.save_model("last.safetensors")
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": torch.get_rng_state(),
            "progress": {"step": self.step, "steps": self.steps, "best_ap": self.best_ap, "seconds": self.seconds},
        }
        unfinished = self.out / "state.pt.partial"
        torch.save(state, unfinished)
        os.replace(unfinished, self.out / "state.pt")

    def load_state(self) -> None:
        state = torch.load(self.out / "state.pt", map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"].cpu())
        for name, value in state["progress"].items():
            setattr(self, name, value)
        settings = json.loads((self.out / "config.json").read_text())
        if self.config.steps != settings["train"]["steps"]:  # another length was asked for: the rate follows it
            self.steps = settings["train"]["steps"] = self.config.steps
            write_atomically(self.out / "config.json", json.dumps(settings, indent=1).encode())
        log = self.out / "log.jsonl"
        kept = [line for line in log.read_text().splitlines() if json.loads(line)["step"] <= self.step]
        write_atomically(log, "".join(line + "\n" for line in kept).encode())


def named_values(row: list[float]) -> dict:
    """The numbers of a step by name: loss, grad_norm, class_error, cardinality, and each part of each layer."""
    layers = (len(row) - 4) // 3
    record = dict(zip(("loss", "grad_norm", "class_error", "cardinality"), row[:4], strict=True))
    for i, part in enumerate(("label", "l1", "giou")):
        record[part] = row[4 + i * layers : 4 + (i + 1) * layers]
    return record


def build_model(config: DETRConfig, train: TrainConfig, start: checkpoints.Checkpoint | None) -> DETR:
    """A new model, with ImageNet weights in the backbone if asked for, or one that goes on from a checkpoint."""
    model = DETR(config)
    # a checkpoint with the same backbone brings its weights: nothing to fetch
    pretrained = train.pretrained and (start is None or start.model.config.backbone != config.backbone)
    if pretrained:
        model.backbone = backbones.build(config.backbone, dilation=config.dilation, pretrained=True)
    if start is not None:
        fresh = checkpoints.transfer(model, start.model)
        fresh = [name for name in fresh if not (pretrained and name.startswith("backbone."))]
        tqdm.write(f"started from a checkpoint; new: {', '.join(fresh) or 'nothing'}")
    if config.backbone.startswith("resnet") and not pretrained and start is None:
        raise ValueError(
            f"{config.backbone} without pretrained weights cannot be trained here: its batch-norm is frozen and "
            "would have no statistics; set pretrained=true, or take --config mini"
        )
    if train.backbone_lr == 0:
        model.backbone.requires_grad_(False)
    return model


def write_atomically(path: Path, content: bytes) -> None:
    unfinished = path.with_name(path.name + ".partial")
    unfinished.write_bytes(content)
    os.replace(unfinished, path)


def read_log(run: str | Path) -> tuple[list[dict], list[dict]]:
    """The records of a run's log: those of the steps, and those of the evaluations."""
    records = [json.loads(line) for line in (Path(run) / "log.jsonl").read_text().splitlines()]
    return [r for r in records if "loss" in r], [r for r in records if "eval" in r]
