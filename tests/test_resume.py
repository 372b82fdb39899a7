"""A run that is killed, interrupted or cannot write goes on from its last save as if nothing had been.

Run as a script this file is the nursery of the killed runs: it imports torch once and forks a run for each kill.
"""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from detr_mini import checkpoints, runs, training
from detr_mini.datasets.toybox import Toybox, ToyboxConfig
from detr_mini.detr import DETRConfig
from detr_mini.training import TrainConfig, Trainer

KILLS, STEPS = 20, 140
MODEL = DETRConfig.mini(width=16, feedforward=16, encoder_layers=1, decoder_layers=2, heads=2, dropout=0.1, queries=5)
CONFIG = TrainConfig.mini(steps=STEPS, batch_size=2, save_every=4, eval_every=0.1, warmup=5)

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="signals and fork are POSIX's")


def trainer(out: Path, config: TrainConfig = CONFIG, **options) -> Trainer:
    scenes = ToyboxConfig(size=32, objects=(0, 2))
    data, validation = Toybox(scenes, 7), Toybox(scenes, 2, split="val")
    return Trainer(MODEL, config, data, validation, out, device="cpu", progress=False, **options)


def dies_at(operation: int) -> None:
    """From now on the process kills itself in its n-th file operation: before it, or with half of a file written."""
    done, save, replace, sync, write = 0, torch.save, os.replace, os.fsync, Path.write_bytes

    def counted(original):
        def call(*args, **kwargs):
            nonlocal done
            done += 1
            if done == operation:
                if original is save:
                    save(*args)
                    os.truncate(args[1], args[1].stat().st_size // 2)
                if original is write:
                    write(args[0], args[1][: len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        return call

    torch.save, os.replace, os.fsync = counted(save), counted(replace), counted(sync)
    Path.write_bytes = counted(write)


def forked(work) -> int:
    """The process id of a child that does the work and ends."""
    if pid := os.fork():
        return pid
    try:
        work()
        os._exit(0)
    finally:  # an exception: its traceback stands on stderr
        sys.excepthook(*sys.exc_info())
        os._exit(1)


def wait_for_step(log: Path, step: int) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if not step or log.exists() and any(record["step"] >= step for record in runs.read_records(log)):
            return
        time.sleep(0.01)


def nursery(folder: Path) -> None:
    """An uninterrupted run, and one that is killed again and again; writes what was seen to facts.json."""
    judge = training.evaluate

    def judged(model, *data, **options):  # so short a training finds nothing: another number that grows
        return replace(judge(model, *data, **options), ap=model.class_embed.bias[-1].item())

    training.evaluate = judged
    assert os.waitpid(forked(lambda: trainer(folder / "whole").run()), 0)[1] == 0
    cut, chance, facts = folder / "cut", random.Random(0), []

    def goes_on(operation: int = 0) -> None:
        if operation:
            dies_at(operation)
        run = trainer(cut, resume=True)
        (folder / "resumed").write_text(str(run.step))
        run.run()

    for kill in range(KILLS):
        operation = chance.randint(1, 24) if kill % 2 else 0
        saved = torch.load(cut / "state.pt")["progress"]["step"] if (cut / "state.pt").exists() else 0
        (folder / "resumed").unlink(missing_ok=True)
        child = forked(lambda operation=operation: goes_on(operation))
        if not operation:
            wait_for_step(cut / "log.jsonl", saved + chance.randint(0, 8))
            time.sleep(chance.uniform(0.0, 0.05))
            os.kill(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        resumed = int((folder / "resumed").read_text() or -1) if (folder / "resumed").exists() else -1
        left = sorted(file.name for file in cut.glob("*.partial"))
        facts.append({"status": status, "operation": operation, "saved": saved, "resumed": resumed, "left": left})
    assert os.waitpid(forked(goes_on), 0)[1] == 0
    (folder / "facts.json").write_text(json.dumps(facts))


def weights(file: Path) -> dict:
    return checkpoints.load(file).model.state_dict()


@posix
def test_killed_at_twenty_moments_it_ends_as_the_uninterrupted_run(tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    subprocess.run([sys.executable, __file__, str(tmp_path)], check=True, env=environment, timeout=300)
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert [fact["status"] for fact in facts] == [-signal.SIGKILL] * KILLS, facts
    assert all(fact["resumed"] in (fact["saved"], -1) for fact in facts), "it goes on from the last save"
    assert len({fact["saved"] for fact in facts}) > 4, "the kills are spread over the run"
    left = {name for fact in facts for name in fact["left"]}
    assert "state.pt.partial" in left, "some kills hit a save"

    (steps, evaluations), (whole, whole_evaluations) = (training.read_log(tmp_path / n) for n in ("cut", "whole"))
    assert [r["step"] for r in steps] == list(range(1, STEPS + 1))
    assert [r["loss"] for r in steps] == [r["loss"] for r in whole]
    for mine, true in zip(evaluations, whole_evaluations, strict=True):
        assert (mine["step"], mine["eval"]["ap"], mine["matches"]) == (
            true["step"],
            true["eval"]["ap"],
            true["matches"],
        )
    aps = [r["eval"]["ap"] for r in whole_evaluations]
    assert max(aps) > aps[0], "there must be more than one best model"
    for name in ("last.safetensors", "best.safetensors"):
        mine, true = (weights(tmp_path / run / name) for run in ("cut", "whole"))
        assert all(torch.equal(mine[key], true[key]) for key in true), name
    assert sorted(p.name for p in (tmp_path / "cut").iterdir()) == sorted(
        p.name for p in (tmp_path / "whole").iterdir()
    )


def test_a_best_model_that_no_saved_state_knows_is_not_the_best(tmp_path, monkeypatch):
    """Killed between the two files: the older best stays, and the evaluation is made again."""
    aps, config = iter([0.3, 0.6, 0.6]), replace(CONFIG, steps=18, eval_every=0.5)
    judge = training.evaluate
    monkeypatch.setattr(training, "evaluate", lambda *a, **k: replace(judge(*a, **k), ap=next(aps)))
    run = trainer(tmp_path, config)
    save = run.save_state

    def dies():
        if run.step == 18:
            raise SystemExit("killed")
        save()

    monkeypatch.setattr(run, "save_state", dies)
    with pytest.raises(SystemExit):
        run.run()
    assert runs.best_of_step(tmp_path, 18).exists() and checkpoints.load(tmp_path).info["step"] == 9
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])["step"] == 18
    again = trainer(tmp_path, config, resume=True)
    assert (again.step, again.best_ap) == (16, 0.3) and checkpoints.load(tmp_path).info["step"] == 9
    again.run()
    assert checkpoints.load(tmp_path).info["ap"] == 0.6 and not list(tmp_path.glob("*.partial"))


def test_the_best_model_gets_its_name_when_the_kill_came_after_the_state(tmp_path, monkeypatch):
    run = trainer(tmp_path, replace(CONFIG, steps=9, eval_every=1.0))
    with monkeypatch.context() as patch:
        patch.setattr(runs, "settle", lambda *a: (_ for _ in ()).throw(SystemExit("killed")))
        with pytest.raises(SystemExit):
            run.run()  # in its first save, of step 4
    run = trainer(tmp_path, replace(CONFIG, steps=9, eval_every=1.0), resume=True)
    settle = runs.settle
    with monkeypatch.context() as patch:
        patch.setattr(runs, "settle", lambda f, step: (_ for _ in ()).throw(SystemExit()) if step else settle(f, step))
        with pytest.raises(SystemExit):
            run.run()
    assert not (tmp_path / "best.safetensors").exists()
    assert trainer(tmp_path, replace(CONFIG, steps=9, eval_every=1.0), resume=True).step == 9
    assert checkpoints.load(tmp_path / "best.safetensors").info["step"] == 9
    assert checkpoints.load(tmp_path / "last.safetensors").info["step"] == 9


@pytest.mark.parametrize("failing", ["state.pt", "last.safetensors", "log.jsonl", "config.json"])
def test_a_write_that_fails_half_way_leaves_the_last_good_file(failing, tmp_path, monkeypatch):
    trainer(tmp_path, replace(CONFIG, steps=4)).run()
    before = (tmp_path / failing).read_bytes()
    longer = replace(CONFIG, steps=8)
    real_save, real_write, real_bytes = torch.save, Path.write_text, Path.write_bytes

    def half(path, content: bytes) -> None:
        real_bytes(path, content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    def save(state, path):
        real_save(state, path)
        half(path, path.read_bytes())

    def write(path, text, **options):
        return half(path, text.encode()) if failing in path.name else real_write(path, text, **options)

    def write_bytes(path, content):
        return half(path, content) if failing in path.name else real_bytes(path, content)

    with monkeypatch.context() as patch:
        if failing == "state.pt":
            patch.setattr(torch, "save", save)
        patch.setattr(Path, "write_text", write)
        patch.setattr(Path, "write_bytes", write_bytes)
        with pytest.raises(OSError, match="No space left") as error:
            trainer(tmp_path, longer, resume=True).run()
    assert failing == "last.safetensors" or f"{failing} could not be written" in str(error.value)
    assert (tmp_path / failing).read_bytes() == before
    assert trainer(tmp_path, longer, resume=True).run() == tmp_path
    steps, _ = training.read_log(tmp_path)
    assert [r["step"] for r in steps] == list(range(1, 9)) and not list(tmp_path.glob("*.partial"))


def test_a_log_line_cut_by_a_kill_is_taken_off_and_another_broken_line_is_named(tmp_path):
    trainer(tmp_path, replace(CONFIG, steps=8)).run()
    log = tmp_path / "log.jsonl"
    whole = log.read_text()
    log.write_text(whole + '{"step": 9, "lo')
    assert len(training.read_log(tmp_path)[0]) == 8, "a run that is still going may be read"
    trainer(tmp_path, replace(CONFIG, steps=10), resume=True).run()
    steps, _ = training.read_log(tmp_path)
    assert [r["step"] for r in steps] == list(range(1, 11))
    log.write_text(whole.replace('{"step": 3,', '{"step": 3', 1))  # behind the evaluations of steps 1 and 2
    with pytest.raises(ValueError, match=r"log.jsonl, line 5 is not JSON .*: was the file edited"):
        trainer(tmp_path, replace(CONFIG, steps=12), resume=True)


def test_killed_before_the_first_save_it_starts_anew(tmp_path):
    run = trainer(tmp_path)
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 3.0}\n{"st')
    (tmp_path / "state.pt.partial").write_bytes(b"PK")
    assert run.step == 0
    again = trainer(tmp_path, resume=True)
    assert again.step == 0 and (tmp_path / "log.jsonl").read_text() == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "log.jsonl"]


@pytest.mark.parametrize("broken", ["cut", "empty", "text", "pickle", "other model", "not ours"])
def test_a_state_that_cannot_be_read_is_named_with_a_way_out(broken, tmp_path):
    trainer(tmp_path, replace(CONFIG, steps=2)).run()
    state = tmp_path / "state.pt"
    if broken == "cut":
        state.write_bytes(state.read_bytes()[:3000])
    elif broken == "empty":
        state.write_bytes(b"")
    elif broken == "text":
        state.write_text("no state at all")
    elif broken == "pickle":
        torch.save({"model": Path("home")}, state)  # an object that weights_only refuses
    elif broken == "not ours":
        torch.save({"step": 3}, state)
    else:
        stored = torch.load(state)
        stored["model"]["query_embed.weight"] = torch.zeros(3, 16)
        torch.save(stored, state)
    before = sorted(p.name for p in tmp_path.iterdir())
    reason = "of another model or version" if broken in ("other model", "not ours") else "cannot be read"
    with pytest.raises(ValueError, match=f"state.pt (is )?{reason}") as error:
        trainer(tmp_path, resume=True)
    assert "--start-from" in str(error.value) or "own settings" in str(error.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_a_second_run_into_an_existing_folder_refuses_and_touches_nothing(tmp_path):
    trainer(tmp_path, replace(CONFIG, steps=2)).run()
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(FileExistsError, match="add --resume"):
        trainer(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(FileExistsError, match="add --resume"):
        trainer(tmp_path)
    del before["config.json"]
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_longer_run_killed_before_its_first_save_is_still_the_longer_one(tmp_path):
    trainer(tmp_path, replace(CONFIG, steps=2)).run()
    longer = replace(CONFIG, steps=5)
    assert trainer(tmp_path, longer, resume=True).steps == 5  # and is killed here
    trainer(tmp_path, longer, resume=True).run()
    assert training.read_log(tmp_path)[0][-1]["step"] == 5


def test_a_resumed_run_takes_another_rate_and_says_so(tmp_path):
    trainer(tmp_path, replace(CONFIG, steps=4)).run()
    trainer(tmp_path, replace(CONFIG, steps=8, lr=1e-5, schedule="drop"), resume=True).run()
    steps, _ = training.read_log(tmp_path)
    assert steps[-1]["lr"] == pytest.approx(1e-6)
    assert torch.load(tmp_path / "state.pt")["optimizer"]["param_groups"][0]["lr"] == pytest.approx(1e-6)
    assert json.loads((tmp_path / "config.json").read_text())["train"]["lr"] == 1e-5


@posix
def test_a_timed_run_stopped_before_its_length_was_known_goes_on_with_or_without_minutes(tmp_path, monkeypatch):
    run = trainer(tmp_path, minutes=1)
    step = run.train_step
    monkeypatch.setattr(run, "train_step", lambda b: (run.step == 6 and os.kill(os.getpid(), signal.SIGINT), step(b)))
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert trainer(tmp_path, minutes=1, resume=True).steps is None
    assert trainer(tmp_path, resume=True).steps == STEPS


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_saves_and_says_how_to_go_on(number, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/bin/detr-mini", "train", "--data", "my photos", "--out", str(tmp_path)])
    before = signal.getsignal(number)
    run = trainer(tmp_path, replace(CONFIG, eval_every=1.0, save_every=50))
    step = run.train_step

    def interrupted(batch):
        if run.step == 6:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)  # torchrun hands on what the terminal has sent already: still one wish
        step(batch)

    monkeypatch.setattr(run, "train_step", interrupted)
    with pytest.raises(KeyboardInterrupt) as stopped:
        run.run()
    command = f"detr-mini train --data 'my photos' --out {tmp_path} --resume"
    assert str(stopped.value) == f"stopped after step 7, saved in {tmp_path}; to go on: {command}"
    assert signal.getsignal(number) is before
    assert trainer(tmp_path, resume=True).step == 7
    assert [r["step"] for r in training.read_log(tmp_path)[0]] == list(range(1, 8))


@posix
def test_a_second_signal_is_obeyed_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(runs.StopWish, "GRACE", -1.0)
    run = trainer(tmp_path, replace(CONFIG, save_every=50))

    def hangs(batch):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the second one was not heard")

    monkeypatch.setattr(run, "train_step", hangs)
    with pytest.raises(KeyboardInterrupt, match="stopped at once; to go on from the last save: the same call"):
        run.run()


class SlowScenes(Toybox):
    def __getitem__(self, index: int):
        time.sleep(0.1)
        return super().__getitem__(index)


@posix
def test_a_loader_worker_finishes_its_samples_after_ctrl_c(tmp_path):
    run = trainer(tmp_path, replace(CONFIG, workers=1))
    run.train_data = SlowScenes(ToyboxConfig(size=32), 7)
    batches = run.batches()
    next(batches)
    workers = multiprocessing.active_children()
    for worker in workers:
        os.kill(worker.pid, signal.SIGINT)
    assert workers and all(len(next(batches).targets) == 2 for _ in range(5))


@posix
def test_ctrl_c_in_a_terminal_reaches_loader_workers_too_and_does_no_harm(tmp_path):
    """The command as a process group of its own; the group gets SIGINT, as a terminal sends it."""
    tiny = "width=16 feedforward=16 encoder_layers=1 decoder_layers=1 heads=2 batch_size=2 workers=2 save_every=500"
    command = [sys.executable, "-m", "detr_mini.cli", "train", "--data", "toybox", "--config", "mini"]
    command += ["--out", str(tmp_path / "run"), "--steps", "3000"]
    command += [part for setting in tiny.split() for part in ("--set", setting)]
    log = tmp_path / "run" / "log.jsonl"
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            until = time.monotonic() + 120
            while not (log.exists() and log.stat().st_size) and time.monotonic() < until:
                time.sleep(0.05)
            os.killpg(process.pid, signal.SIGINT)
            _, said = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 130 and "--resume" in said and "Traceback" not in said, said
    steps, _ = training.read_log(tmp_path / "run")
    saved = torch.load(tmp_path / "run" / "state.pt")["progress"]["step"]
    assert saved == steps[-1]["step"] >= 20 and [r["step"] for r in steps] == list(range(1, saved + 1))


if __name__ == "__main__":
    nursery(Path(sys.argv[1]))
