"""Files from the network, on request only: with progress, going on where a broken download stopped, checked by hash."""

import errno
import hashlib
import http.client
import os
import re
import urllib.error
import urllib.request
from pathlib import Path

import torch
from tqdm.auto import tqdm

DATA = Path(__file__).resolve().parent.parent / "data"
BLOCK = 2**20  # bytes read at once
ATTEMPTS = 3  # in a row without a new byte
TIMEOUT_S = 30.0  # without an answer


def folder(kind: str) -> Path:
    """Where "weights", or a data set by name, go: `data/` of a checkout, else torch.hub's cache and its neighbour."""
    if (DATA / "checkpoints").is_dir():
        return DATA / kind
    return hub_cache() if kind == "weights" else Path(torch.hub.get_dir()).parent / "detr_mini" / kind


def hub_cache() -> Path:
    """Where torch.hub keeps the files that it has fetched."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check(path: Path, hash_start: str) -> Path:
    """The path, if the file's SHA-256 begins with `hash_start`; else a ValueError that names both."""
    found = sha256(path)
    if not found.startswith(hash_start):
        raise ValueError(
            f"{path}: its SHA-256 begins with {found[: len(hash_start)]}, wanted {hash_start}: "
            f"cut short ({path.stat().st_size:,} bytes), altered, or another file; delete it to fetch it again"
        )
    return path


def fetch(url: str, path: str | Path, hash_start: str = "", progress: bool = True) -> Path:
    """Gets `url` into the file `path` unless it is there, and returns the path.

    Bytes collect in PATH.partial, which the next call goes on with; the file takes its name when it is whole and
    its SHA-256 begins with `hash_start`. Raises OSError where the network or the server fails, ValueError where
    what came is another file.
    """
    path = Path(path)
    if path.is_file():
        return check(path, hash_start)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    _collect(url, partial, path, progress)
    try:
        check(partial, hash_start)
    except ValueError as error:
        partial.unlink()  # going on from wrong bytes would never end well
        raise ValueError(f"{url} gave another file than expected ({error})") from error
    os.replace(partial, path)
    return path


def _collect(url: str, partial: Path, path: Path, progress: bool) -> None:
    """Fills `partial`, asking again where the connection breaks; OSError after ATTEMPTS without a new byte."""
    failures, reason = 0, None
    while failures < ATTEMPTS:
        before = _size(partial)
        try:
            _append(url, partial, path.name, progress)
            return
        except (OSError, http.client.HTTPException) as error:
            reason, code = error, None
            if getattr(error, "errno", None) == errno.ENOSPC:
                raise OSError(f"{partial}: the disk is full at {_size(partial):,} bytes; make room, go on") from error
            if isinstance(error, urllib.error.HTTPError):
                code = error.code
                error.close()  # it holds the connection
            if code == 416:  # the server's file is not longer than what lies here
                if _span(error)[1] == before:
                    return  # it is whole: a run ended between the last byte and the new name
                partial.unlink(missing_ok=True)
            elif code is not None and 400 <= code < 500:
                raise OSError(_advice(url, path, error)) from error
            failures = 0 if _size(partial) > before else failures + 1
    raise OSError(_advice(url, path, reason)) from reason


def _append(url: str, partial: Path, label: str, progress: bool) -> None:
    """Adds what is missing to `partial`; OSError if the connection ends before the announced length."""
    have = _size(partial)
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        if answer.status != 206:  # the server sends the whole file, from its start
            have = 0
        elif _span(answer)[0] not in (None, have):
            raise OSError(f"asked for the bytes from {have:,} on, the server sent {answer.headers['Content-Range']}")
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else None
        options = {"total": total, "initial": have, "desc": label, "disable": not progress}
        with partial.open("ab" if have else "wb") as file, tqdm(unit="B", unit_scale=True, **options) as bar:
            while block := answer.read1(BLOCK):  # what has come: read() would lose it if the rest does not
                file.write(block)
                file.flush()  # whatever ends this process, the next one goes on from here
                bar.update(len(block))
    if total is not None and _size(partial) < total:
        raise OSError(f"the connection ended at {_size(partial):,} of {total:,} bytes")


def _span(answer) -> tuple[int | None, int | None]:
    """The first byte's place and the file's length [bytes] that an answer's Content-Range names; None if unknown."""
    found = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(?:(\d+)|\*)", answer.headers.get("Content-Range", "").strip())
    return tuple(int(number) if number else None for number in found.groups()) if found else (None, None)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _advice(url: str, path: Path, reason: BaseException | None) -> str:
    return f"could not fetch {url} ({reason}): connect to the network and run this again, or put the file at {path}"
