"""Training: one loop for CPU, GPU or torchrun that logs what happens, saves itself and goes on where it stopped."""

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from detr_mini import backbones, checkpoints, faults, losses, matching, runs
from detr_mini.datasets.batches import Batch, SampleStream, collate
from detr_mini.detr import DETRConfig, DETROutput
from detr_mini.evaluation import Report, evaluate
from detr_mini.processes import Processes
from detr_mini.recipes import TrainConfig, build_model, learning_rate, parameter_groups, pick_device, precision_of
from detr_mini.runs import read_log as read_log

PROBE_STEPS = 30  # of --minutes: timed, then the number of steps is fixed
FLUSH_STEPS = 20  # the log is copied from the device once in so many steps
PROGRESS = ("step", "steps", "seconds", "best_ap", "best_step")  # of a Trainer, in state.pt


class Trainer:
    """A run in a folder: config.json, log.jsonl, last.safetensors, best.safetensors, state.pt.

    `train_data` gives (image uint8, target) as `datasets` describes; with length None it is an endless stream.
    `minutes` fixes the number of steps after timing the first of them. `callback` gets each log record.
    Under torchrun each process takes its share of every batch, and process 0 alone evaluates, logs (numbers of
    the whole batch) and writes; all must see the folder. Batch-norm that is trained (the tiny backbone's) sees its
    process's share only, and the statistics of process 0 are kept; SyncBatchNorm, which needs CUDA, is not offered.
    Raises FileExistsError where the folder holds a run and `resume` is False, ValueError where its state cannot be
    read, or the processes cannot share a batch evenly.
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
        self.processes = Processes(self.device.type)
        if config.batch_size % self.processes.size:
            raise ValueError(
                f"batch_size {config.batch_size} cannot be shared evenly by {self.processes.size} processes: "
                f"set a multiple of {self.processes.size}"
            )
        self.dtype = precision_of(config, self.device)
        held = (self.out / "config.json").exists() or (self.out / "state.pt").exists()
        if self.processes.main and held and not resume:
            raise FileExistsError(f"{self.out} holds a run already: add --resume to go on, or name another folder")
        torch.manual_seed(config.seed)
        with self.processes.first_of_machine_first():
            self.model = build_model(model_config, config, start_from).to(self.device)
        self.fused = self.device.type in ("cpu", "cuda")
        groups = parameter_groups(self.model, config)
        self.optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=self.fused)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.step, self.steps, self.seconds = 0, None if minutes else config.steps, 0.0
        self.best_ap, self.best_step, self.saved_step = -1.0, 0, 0
        self.pending: list[tuple[dict, Tensor]] = []
        self.open_folder({"model": asdict(model_config), "train": asdict(config), "device": str(self.device)}, resume)
        self.parallel = self.model
        if self.processes.size > 1:  # in the layout in which the convolutions' gradients come
            self.parallel = DistributedDataParallel(self.model.to(memory_format=torch.channels_last))

    def open_folder(self, settings: dict, resume: bool) -> None:
        """Makes the folder, or goes on from what it holds; a run that was never saved starts anew."""
        if resume and (self.out / "state.pt").exists():
            self.load_state()
        if self.processes.from_main(self.step) != self.step:
            raise ValueError(f"{self.out} holds step {self.step} here, but not for process 0: all must see one folder")
        if not self.processes.main:
            return
        self.out.mkdir(parents=True, exist_ok=True)
        runs.settle(self.out, self.best_step)
        log = self.out / "log.jsonl"
        kept = [record for record in runs.read_records(log) if record["step"] <= self.step] if self.step else []
        runs.write_atomically(log, lambda path: path.write_text("".join(json.dumps(r) + "\n" for r in kept)))
        settings |= {"toybox": asdict(self.train_data.config)} if hasattr(self.train_data, "config") else {}
        text = json.dumps(settings, indent=1)
        runs.write_atomically(self.out / "config.json", lambda path: path.write_text(text))
        state, last = self.out / "state.pt", self.out / "last.safetensors"
        if self.step and not (last.exists() and last.stat().st_mtime_ns >= state.stat().st_mtime_ns):
            self.save_model(last)  # the kill came between the two

    def run(self) -> Path:
        """Trains to the last step, evaluating and saving on the way; returns the folder.

        Ctrl-C and SIGTERM end it after the step (and the evaluation) it is in, with a save and a KeyboardInterrupt
        whose message says how to go on. NaN or inf end it with a ValueError that says where, and which save is good.
        """
        if self.step == self.steps:
            return self.out
        main = self.processes.main
        bar = tqdm(total=self.steps, initial=self.step, disable=not (self.progress and main), desc="train", unit="step")
        log = self.out / "log.jsonl" if main else Path(os.devnull)
        started, probe = time.perf_counter() - self.seconds, []
        with bar, log.open("a") as self.log_file, runs.StopWish() as wish:
            for batch in self.batches():
                before = time.perf_counter()
                self.train_step(batch)
                self.step += 1
                self.seconds = time.perf_counter() - started
                bar.update()
                if self.steps is None:
                    probe.append(time.perf_counter() - before + self.waited)
                    if len(probe) == PROBE_STEPS:
                        more = self.steps_in(self.minutes * 60 - self.seconds, median(probe[5:]))
                        self.steps = bar.total = self.processes.from_main(self.step + more)
                last, stop = self.step == self.steps, self.processes.any(wish.asked)
                evaluates = self.val_data is not None and self.steps is not None
                evaluates = evaluates and (last or self.step % self.eval_interval == 0)
                saves = evaluates or last or stop or self.step % self.config.save_every == 0
                if saves or self.step % FLUSH_STEPS == 0:
                    bar.set_postfix(loss=f"{self.flush()['loss']:.2f}", refresh=False)
                if evaluates:
                    if main:
                        bar.set_postfix(AP50=f"{self.evaluate().ap50:.3f}", refresh=False)
                    self.processes.wait()
                if saves and main:
                    self.save_state()
                if last:
                    break
                if stop:
                    self.processes.wait()  # torchrun ends the others as soon as one ends
                    raise KeyboardInterrupt(
                        f"stopped after step {self.step}, saved in {self.out}; to go on: {runs.resume_command()}"
                    )
        self.processes.wait()
        self.processes.leave()
        return self.out

    @property
    def eval_interval(self) -> int:
        return max(1, round(self.steps * self.config.eval_every))

    def steps_in(self, seconds: float, seconds_a_step: float) -> int:
        """How many steps fit, when an evaluated image costs half of a trained one."""
        evaluated = 0 if self.val_data is None else len(self.val_data) / self.config.eval_every
        seconds -= 0.5 * evaluated * seconds_a_step / self.config.batch_size
        return max(1, int(seconds / seconds_a_step))

    def share_of(self, step: int) -> range:
        """The numbers of this process's samples in a step: all processes' together are step * batch_size + i."""
        share = self.config.batch_size // self.processes.size
        first = step * self.config.batch_size + self.processes.rank * share
        return range(first, first + share)

    def batches(self, only: int | None = None) -> Iterator[Batch]:
        """Batches from the present step on, with the seconds waited for each in `self.waited`; or of one step only."""
        steps = range(self.step, 2**40 if self.steps is None else self.steps) if only is None else [only]
        infinite = getattr(self.train_data, "length", 0) is None
        stream = SampleStream(self.train_data, self.config.seed, infinite=infinite)
        mean, std = backbones.normalization(self.model.config.backbone)
        workers = self.config.workers if only is None else 0
        loader = DataLoader(
            stream,
            batch_sampler=(self.share_of(step) for step in steps),
            num_workers=workers,
            collate_fn=partial(collate, mean=mean, std=std, num_classes=self.model.config.num_classes),
            pin_memory=self.device.type == "cuda",
            persistent_workers=workers > 0,
            worker_init_fn=runs.ignore_interrupts,
        )
        iterator = iter(loader)
        for _ in steps:
            before = time.perf_counter()
            batch = next(iterator)
            self.waited = time.perf_counter() - before
            yield batch

    def forward(self, model: nn.Module, batch: Batch) -> DETROutput:
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return model(batch.images, batch.padding)

    def loss(self, output: DETROutput, batch: Batch) -> losses.SetLoss:
        weights = self.config.loss_weights, self.config.matching_weights
        return losses.set_loss(output.logits, output.boxes, batch.targets, *weights)

    def seed_dropout(self, step: int) -> None:
        # By step and process, so that neither a stop nor the other processes change what a step drops.
        torch.manual_seed((self.config.seed * 1_000_003 + step) * 1_009 + self.processes.rank)

    def train_step(self, batch: Batch) -> None:
        """One optimizer step; what it measured stays on the device until `flush`."""
        before = time.perf_counter()
        factor = learning_rate(self.step, self.config, self.steps or self.config.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial"] * factor
        self.model.train()
        self.seed_dropout(self.step)
        batch = batch.to(self.device, non_blocking=True)
        output = self.forward(self.parallel, batch)
        try:
            loss = self.loss(output, batch)
        except ValueError as error:  # the matching met NaN or inf
            raise ValueError(self.diagnosis(self.step, str(error), batch)) from error
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss.total).backward()
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        if self.fused and not self.scaler.is_enabled():
            # As GradScaler does: the fused step skips itself where the gradient is not finite, and nobody waits to
            # know. So the weights stay good until `flush` finds out, and tell where it began.
            self.optimizer.found_inf = (~norm.isfinite()).float()
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
            "images": self.config.batch_size,
        }
        self.pending.append((facts, values))

    def flush(self) -> dict:
        """Writes the pending log records with one copy from the device; returns the last; stops on NaN or inf."""
        record = getattr(self, "last_record", {"loss": math.nan})
        if self.pending:
            rows = self.processes.mean(torch.stack([values for _, values in self.pending])).cpu().tolist()
            for (facts, _), row in zip(self.pending, rows, strict=True):
                record = facts | named_values(row)
                record["images_per_second"] = round(facts["images"] / (facts["seconds"] + facts["waited"]), 1)
                # float16's scaler tries too large a factor now and then, and skips such a step itself
                broken = ("loss",) if self.scaler.is_enabled() else ("loss", "grad_norm")
                for name in broken:
                    if not math.isfinite(record[name]):
                        raise ValueError(self.diagnosis(facts["step"] - 1, f"{name} is {record[name]}"))
                self.write(record)
            self.pending.clear()
        self.last_record = record
        return record

    def diagnosis(self, step: int, symptom: str, batch: Batch | None = None) -> str:
        """What to tell when step number `step` (from 0) was not finite: where it began, and what is still good."""
        batch = next(self.batches(only=step)).to(self.device) if batch is None else batch

        def again() -> Tensor | None:
            self.seed_dropout(step)
            output = self.forward(self.model, batch)
            # with several processes the loss would wait for the others, who may have met nothing
            return self.loss(output, batch).total if self.processes.size == 1 else None

        where = faults.find(self.model, batch, again)
        return f"step {step + 1}: {where} ({symptom}); {self.advice()}"

    def advice(self) -> str:
        if not self.saved_step:
            return "nothing was saved yet: start again with a lower rate (--set lr=...)"
        good = self.out / "last.safetensors"
        return f"{good} of step {self.saved_step} is good: go on with --resume and a lower rate (--set lr=...)"

    def write(self, record: dict) -> None:
        if self.processes.main:
            self.log_file.write(json.dumps(record) + "\n")
            self.log_file.flush()
            if self.callback:
                self.callback(record)

    def evaluate(self) -> Report:
        """AP on the validation data, and which query took which object in its first 16 images; keeps the best."""
        self.check_weights()
        batch_size = min(self.config.batch_size, 64)
        report = evaluate(self.model, self.val_data, batch_size=batch_size, device=self.device, progress=False)
        record = {"step": self.step, "seconds_in_all": round(self.seconds, 1), "eval": report.to_dict()}
        self.write(record | {"matches": self.matches_of_fixed_images()})
        if report.ap > self.best_ap:
            self.best_ap, self.best_step = report.ap, self.step
            self.save_model(runs.best_of_step(self.out, self.step), report)
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

    def save_model(self, path: Path, report: Report | None = None) -> None:
        info = {"step": self.step, "short_side": self.config.short_side, "long_side": self.config.long_side}
        info |= {} if report is None else {"ap": report.ap, "ap50": report.ap50}
        data = self.train_data
        drawn = getattr(data, "config", None)
        info |= {} if drawn is None else {"toybox": asdict(drawn)}
        checkpoints.save(path, self.model, data.names, data.category_ids, info)

    def check_weights(self) -> None:
        if broken := faults.broken_weight(self.model):
            raise ValueError(f"step {self.step}: NaN or inf in the weights of {broken}; {self.advice()}")

    def save_state(self) -> None:
        """Saves the run: state.pt is the truth, and from it `open_folder` sets the other files right after a kill."""
        self.check_weights()
        os.fsync(self.log_file.fileno())
        progress = {name: getattr(self, name) for name in PROGRESS}
        parts = {"model": self.model, "optimizer": self.optimizer, "scaler": self.scaler}
        state = {name: part.state_dict() for name, part in parts.items()}
        state |= {"progress": progress, "planned": self.config.steps}
        runs.write_atomically(self.out / "state.pt", partial(torch.save, state))
        self.saved_step = self.step
        runs.settle(self.out, self.best_step)
        self.save_model(self.out / "last.safetensors")

    def load_state(self) -> None:
        path = self.out / "state.pt"
        state = runs.load_state(path, self.device)
        rates = [group["initial"] for group in self.optimizer.param_groups]
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            planned, progress = state["planned"], state["progress"]
        except (RuntimeError, ValueError, KeyError) as error:
            raise ValueError(f"{path} is of another model or version: resume with the run's own settings") from error
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["initial"] = rate  # of the configuration, so that a resumed run can be given another
        for name in PROGRESS:
            setattr(self, name, progress[name])
        self.saved_step = self.step
        unknown = self.steps is None and not self.minutes  # saved before the number was fixed
        if self.config.steps != planned or unknown:  # another length was asked for: the rate follows it
            self.steps = self.config.steps


def named_values(row: list[float]) -> dict:
    """The numbers of a step by name: loss, grad_norm, class_error, cardinality, and each part of each layer."""
    layers = (len(row) - 4) // 3
    record = dict(zip(("loss", "grad_norm", "class_error", "cardinality"), row[:4], strict=True))
    for i, part in enumerate(("label", "l1", "giou")):
        record[part] = row[4 + i * layers : 4 + (i + 1) * layers]
    return record
