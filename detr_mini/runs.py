"""The folder of a run: files that are whole or not there, a log that a kill may cut, and the wish to stop."""

import json
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` fill a file of another name and renames it: at any moment `path` is the old file or the new one.

    Raises OSError that names the file where the disk is full or the folder cannot be written.
    """
    unfinished = path.with_name(path.name + ".partial")
    try:
        write(unfinished)
        with unfinished.open("rb+") as file:
            os.fsync(file.fileno())  # otherwise a power cut can leave the new name on an empty file
        os.replace(unfinished, path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        unfinished.unlink(missing_ok=True)
        raise OSError(
            f"{path} could not be written ({error}): is the disk full, or the folder read-only? "
            "What was saved before is untouched; --resume goes on from there"
        ) from error


def best_of_step(folder: Path, step: int) -> Path:
    """Where the best model waits until the state that knows of it is saved; `settle` gives it its name."""
    return folder / f"best.{step}.partial"


def settle(folder: Path, best_step: int) -> None:
    """Makes best.safetensors the model that the saved state calls the best, and removes what a kill left unfinished.

    So a kill between the two files does no harm: a best model that no saved state knows of is found again anyway.
    """
    chosen = best_of_step(folder, best_step)
    if chosen.exists():
        os.replace(chosen, folder / "best.safetensors")
    for unfinished in folder.glob("*.partial"):
        unfinished.unlink()


def load_state(path: Path, device: torch.device) -> dict:
    """The state of a run as it was saved; ValueError where the file cannot be read."""
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch.load raises whatever it runs into among broken bytes
        raise ValueError(
            f"{path} cannot be read ({str(error).splitlines()[0] if str(error) else 'empty'}): cut short, or not "
            "written by detr-mini. Its run cannot go on; a new one can begin with its weights: "
            f"--out ANOTHER_FOLDER --start-from {path.with_name('last.safetensors')}"
        ) from error


def read_records(log: Path) -> list[dict]:
    """The records of a log; a last line that a kill cut is left out, one in the middle is a ValueError."""
    lines, records = log.read_text(encoding="utf-8").splitlines(), []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise ValueError(f"{log}, line {number} is not JSON ({error}): was the file edited?") from error
    return records


def read_log(run: str | Path) -> tuple[list[dict], list[dict]]:
    """The records of a run's log: those of the steps, and those of the evaluations."""
    records = read_records(Path(run) / "log.jsonl")
    return [r for r in records if "loss" in r], [r for r in records if "eval" in r]


class StopWish:
    """Inside, Ctrl-C or SIGTERM only sets `asked`, for the training to stop after its step; a second one is obeyed."""

    GRACE = 2.0  # s; torchrun hands on a Ctrl-C that its processes have seen already

    def __init__(self):
        self.asked, self.since, self.before = False, 0.0, {}

    def __enter__(self) -> "StopWish":
        if threading.current_thread() is threading.main_thread():  # Python hears signals nowhere else
            self.before = {number: signal.signal(number, self.hear) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def hear(self, number: int, frame) -> None:
        now = time.monotonic()
        if self.asked and now - self.since > self.GRACE:
            raise KeyboardInterrupt(f"stopped at once; to go on from the last save: {resume_command()}")
        if not self.asked:
            self.asked, self.since = True, now


def ignore_interrupts(worker: int) -> None:
    """For loader workers: a terminal sends Ctrl-C to them as well, and the step that is to finish needs them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def resume_command() -> str:
    """What goes on with the run of this process."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return "the same torchrun command, with --resume"
    if Path(sys.argv[0]).stem not in ("detr-mini", "cli"):
        return "the same call, with resume=True"
    resume = [] if "--resume" in sys.argv else ["--resume"]
    return shlex.join(["detr-mini", *sys.argv[1:], *resume])
