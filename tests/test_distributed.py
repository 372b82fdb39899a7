"""Two and three processes with gloo on the CPU compute what one computes, and end together.

Run as a script this file is a training of several processes: forked, with torch imported once, or under torchrun.
"""

import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from detr_mini import checkpoints, losses, runs, training
from detr_mini.backbones import normalization
from detr_mini.datasets.batches import Batch, collate
from detr_mini.datasets.toybox import Toybox, ToyboxConfig
from detr_mini.detr import DETR, DETRConfig
from detr_mini.training import TrainConfig, Trainer

MODEL = DETRConfig.mini(width=32, feedforward=32, encoder_layers=1, decoder_layers=2, heads=2)
# Objects of six images: unequal shares, a process without any, and fewer objects than processes.
COUNTS = {"unequal": [3, 1, 0, 2, 4, 1], "one has none": [0, 0, 0, 0, 4, 2], "two in all": [1, 0, 0, 0, 0, 1]}
CONFIG = TrainConfig.mini(steps=4, batch_size=6, lr=1e-4, backbone_lr=1e-4, warmup=2, eval_every=0.5, save_every=2)
CONFIGS = {"plain": {}, "without auxiliary losses": {"auxiliary": False}}

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="fork and process groups are POSIX's")


def batch_of(counts: list[int], share: slice) -> Batch:
    pictures = [Toybox(ToyboxConfig(size=32, objects=(n, n), scale=(0.2, 0.4)), 1, seed=n)[0] for n in counts]
    return collate(pictures[share], *normalization("tiny"), 20)


def without_batch_statistics(model: nn.Module) -> nn.Module:
    """Batch-norm in evaluation mode for good: with statistics of its own share a process computes something else."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
            module.train = lambda mode=True, module=module: module
    return model


def gradients(counts: list[int], weights: losses.Weights, rank: int = 0, size: int = 1) -> dict:
    """Gradients by name, and the numbers of the log, of one process's share of the batch."""
    torch.manual_seed(0)
    # float64, since the order of a sum alone moves some gradients of float32 by 2e-5 of their size
    model = without_batch_statistics(DETR(MODEL)).train().double()
    share = len(counts) // size
    batch = batch_of(counts, slice(rank * share, (rank + 1) * share))
    parallel = model if size == 1 else DistributedDataParallel(model)
    output = parallel(batch.images.double(), batch.padding)
    loss = losses.set_loss(output.logits, output.boxes, batch.targets, weights)
    loss.total.backward()
    error = losses.class_error(output.logits, loss.targets, loss.match)
    cardinality = losses.cardinality_error(output.logits, loss.targets)
    scalars = torch.stack([loss.total.detach(), error, cardinality])
    numbers = torch.cat([scalars, loss.label, loss.l1, loss.giou])
    if size > 1:
        dist.all_reduce(numbers)
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    return found | {"numbers": numbers / size}


def all_gradients(rank: int = 0, size: int = 1) -> dict:
    return {
        (case, name): gradients(counts, losses.Weights(**changes), rank, size)
        for case, counts in COUNTS.items()
        for name, changes in CONFIGS.items()
    }


def trainer(out: Path, config: TrainConfig = CONFIG, model: DETRConfig = MODEL, **options) -> Trainer:
    scenes = ToyboxConfig(size=32, objects=(0, 2))
    data, validation = Toybox(scenes, 20), Toybox(scenes, 2, split="val")
    run = Trainer(model, config, data, validation, out, device="cpu", progress=False, **options)
    without_batch_statistics(run.model)
    return run


def only_the_first_writes() -> None:
    def refuse(*args, **kwargs):
        raise AssertionError("another process than the first writes or evaluates")

    runs.write_atomically = runs.settle = checkpoints.save = training.evaluate = Trainer.evaluate = refuse
    training.json.dumps = refuse  # of a log record


def member(folder: Path, rank: int, size: int) -> None:
    """What each process of a forked group computes."""
    found = all_gradients(rank, size)
    torch.save(found, folder / f"gradients{rank}.pt")
    if rank:
        only_the_first_writes()
    trainer(folder / "run").run()
    dropping, config = replace(MODEL, dropout=0.2), replace(CONFIG, schedule="drop")
    trainer(folder / "whole", config, dropping).run()
    trainer(folder / "part", replace(config, steps=2), dropping).run()
    trainer(folder / "part", config, dropping, resume=True).run()
    stopped = trainer(folder / "stopped", replace(config, eval_every=1.0, save_every=50))
    step = stopped.train_step

    def interrupted(batch):
        if rank == 1 and stopped.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        step(batch)

    stopped.train_step = interrupted
    try:
        stopped.run()
    except KeyboardInterrupt as stop:
        (folder / f"stop{rank}").write_text(str(stop))
    try:
        trainer(folder / "odd", replace(CONFIG, batch_size=7))
    except ValueError as error:
        (folder / f"odd{rank}").write_text(str(error))


def forked_group(work, folder: Path, size: int) -> list[int]:
    """The exit status of each of `size` processes that do the work; one that was killed has minus its signal."""
    folder.mkdir()
    children = []
    for rank in range(size):
        if pid := os.fork():
            children.append(pid)
            continue
        signal.alarm(150)  # whatever hangs, no process is left behind
        try:
            dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
            work(folder, rank, size)
            os._exit(0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        os._exit(1)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]


def fails_in_step_3(run: Trainer, fault: str) -> None:
    """Trains; process 1 raises an error or is killed in the third step."""
    step = run.train_step

    def fails(batch):
        if run.step == 2 and run.processes.rank == 1:
            if fault == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("scene 1234 of process 1 is broken")
        step(batch)

    run.train_step = fails
    (run.out / f"pid{os.getpid()}").touch()
    run.run()


def endless(out: Path) -> Trainer:
    return trainer(out, replace(CONFIG, steps=100_000, save_every=1))


def environment() -> dict:
    return os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def torchrun(*arguments: str, processes: int = 2) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return subprocess.Popen(
        [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env=environment(),
    )  # fmt: skip


def finished(process: subprocess.Popen, seconds: float = 240) -> str:
    """What the processes said; whatever is left of them is ended, by their group."""
    try:
        return process.communicate(timeout=seconds)[0]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def close(mine: torch.Tensor, true: torch.Tensor) -> bool:
    return (mine - true).abs().max() <= 1e-5 * true.abs().max()


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    """The folder of what groups of two and three processes computed, and of a run by one process."""
    folder = tmp_path_factory.mktemp("groups")
    trainer(folder / "alone").run()
    subprocess.run([sys.executable, __file__, "groups", str(folder)], check=True, env=environment(), timeout=300)
    return folder


@posix
@pytest.mark.parametrize("size", [2, 3])
def test_a_group_computes_what_one_process_computes(size, groups):
    tmp_path, single, expected = groups / str(size), groups / "alone", all_gradients()
    for rank in range(size):
        found = torch.load(tmp_path / f"gradients{rank}.pt")
        assert found.keys() == expected.keys()
        for case, tensors in expected.items():
            for name, true in tensors.items():
                assert found[case][name] is not None and true is not None, (case, name)
                assert close(found[case][name], true), (case, name, found[case][name], true)

    (steps, evaluations), (true_steps, true_evaluations) = (
        training.read_log(tmp_path / "run"),
        training.read_log(single),
    )
    assert [r["step"] for r in steps] == [1, 2, 3, 4] and [r["step"] for r in evaluations] == [2, 4]
    assert [r["images"] for r in steps] == [6] * 4
    for mine, true in zip(steps, true_steps, strict=True):
        for key in ("loss", "grad_norm", "class_error", "cardinality", "label", "l1", "giou"):
            assert mine[key] == pytest.approx(true[key], rel=1e-5, abs=1e-6), (mine["step"], key)
    for mine, true in zip(evaluations, true_evaluations, strict=True):
        assert mine["matches"] == true["matches"]
    mine, true = (checkpoints.load(folder / "last.safetensors").model for folder in (tmp_path / "run", single))
    assert mine.state_dict().keys() == true.state_dict().keys()
    for key, value in true.state_dict().items():
        torch.testing.assert_close(mine.state_dict()[key], value, rtol=1e-5, atol=1e-5, msg=key)

    whole, part = ([r["loss"] for r in training.read_log(tmp_path / name)[0]] for name in ("whole", "part"))
    # DDP orders its buckets anew after the first step; from three processes on that shows in the last digit
    assert whole == (part if size == 2 else pytest.approx(part, rel=1e-6)) and whole != [r["loss"] for r in steps]

    for rank in range(size):  # process 1 alone was interrupted
        assert (tmp_path / f"stop{rank}").read_text().startswith("stopped after step 3, saved in ")
    assert torch.load(tmp_path / "stopped" / "state.pt")["progress"]["step"] == 3

    wanted = f"batch_size 7 cannot be shared evenly by {size} processes: set a multiple of {size}"
    assert [(tmp_path / f"odd{rank}").read_text() for rank in range(size)] == [wanted] * size


@posix
def test_a_killed_process_ends_the_others_even_without_torchrun(groups):
    statuses = (groups / "statuses").read_text()
    assert statuses == "[1, -9, 1]"
    assert torch.load(groups / "killed" / "run" / "state.pt")["progress"]["step"] == 2, "what was saved before stays"


@posix
def test_an_error_in_one_process_is_told_and_ends_the_others(tmp_path):
    process = torchrun(__file__, "faulty", str(tmp_path / "run"))
    said = finished(process)
    assert process.returncode == 1 and "ValueError: scene 1234 of process 1 is broken" in said, said
    pids = [int(file.name[3:]) for file in (tmp_path / "run").glob("pid*")]
    assert len(pids) == 2 and not any(map(alive, pids))
    assert torch.load(tmp_path / "run" / "state.pt")["progress"]["step"] == 2


@posix
def test_the_command_under_torchrun_stops_at_ctrl_c_and_goes_on(tmp_path):
    """As a terminal does, SIGINT goes to torchrun and to its processes, which torchrun then signals once more."""
    out = tmp_path / "run"
    tiny = "width=16 feedforward=16 encoder_layers=1 decoder_layers=1 heads=2 batch_size=4 eval_every=1 save_every=500"
    command = ["-m", "detr_mini.cli", "train", "--data", "toybox", "--config", "mini", "--out", str(out)]
    command += ["--device", "cpu", *(part for setting in tiny.split() for part in ("--set", setting))]
    process = torchrun(*command, "--steps", "100000")
    until = time.monotonic() + 120
    while not ((out / "log.jsonl").exists() and (out / "log.jsonl").stat().st_size) and time.monotonic() < until:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    said = finished(process)
    assert process.returncode and "--resume" in said, said
    steps, _ = training.read_log(out)
    saved = torch.load(out / "state.pt")["progress"]["step"]
    assert [r["step"] for r in steps] == list(range(1, saved + 1)) and saved >= 20

    process = torchrun(*command, "--steps", str(saved + 3), "--resume", "--set", "toybox.size=32")
    said = finished(process)
    assert process.returncode == 0, said
    steps, evaluations = training.read_log(out)
    assert [r["step"] for r in steps] == list(range(1, saved + 4)) and len(evaluations) == 1
    assert {r["images"] for r in steps} == {4}
    assert checkpoints.load(out / "best.safetensors").info["step"] == saved + 3


def test_every_parameter_that_is_trained_gets_a_gradient():
    """DDP waits for each; so none may be unused, whatever the configuration."""
    changes = [{}, {"position": "learned"}, {"encoder_layers": 0}, {"decoder_layers": 1}, {"pre_norm": False}]
    for change in changes:
        for weights in (losses.Weights(), losses.Weights(auxiliary=False)):
            model = DETR(replace(MODEL, **change)).train()
            batch = batch_of([0, 0], slice(None))
            output = model(batch.images, batch.padding)
            losses.set_loss(output.logits, output.boxes, batch.targets, weights).total.backward()
            missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
            assert not missing, (change, asdict(weights), missing)


def test_more_processes_than_gpus_say_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert training.pick_device("cuda") == torch.device("cuda", 1) == training.pick_device()
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(
        ValueError, match="process 2 of this machine has no GPU of its own, there are 2: .*--device cpu"
    ):
        training.pick_device("cuda")


if __name__ == "__main__":
    mode, folder = sys.argv[1], Path(sys.argv[2])
    if mode == "faulty":
        fails_in_step_3(endless(folder), "error")
    else:
        for count in (2, 3):
            assert forked_group(member, folder / str(count), count) == [0] * count
        deadly = forked_group(lambda at, *_: fails_in_step_3(endless(at / "run"), "killed"), folder / "killed", 3)
        (folder / "statuses").write_text(str(deadly))
