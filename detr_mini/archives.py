"""Archives of unknown origin (.zip, .tar, .tar.gz), unpacked whole into a folder of their own, or not at all."""

import copy
import errno
import os
import shutil
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

UNPACKED_LIMIT = 4 * 2**30  # bytes of all members together
LEAST_BYTES = 4096  # what a member counts at least, as on a disk: a million empty files are a bomb too
BLOCK = 2**20  # bytes copied at once
DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, struct.error, EOFError)


class Refused(ValueError):
    """An archive that is whole but must not be unpacked."""


@dataclass(frozen=True)
class Entry:
    """What `zipfile` and `tarfile` say of a member, in the same words."""

    name: str  # as the archive has it
    kind: str  # "file", "folder", or what else it is
    size: int  # bytes, as announced
    open: Callable[[], BinaryIO]


def extract(
    archive: str | Path, folder: str | Path, members: Callable[[str], object] | None = None, limit: int = UNPACKED_LIMIT
) -> Path:
    """Unpacks the members whose names `members` accepts (all, if None) into the new `folder`, and returns it.

    Bytes collect in FOLDER.partial, which takes its name when all is there; after an error nothing is left. Before a
    byte is written, ValueError refuses paths that lead elsewhere (absolute, "..", drive letters, backslashes), links,
    device files, two members for one file (letter case aside) and more than `limit` bytes; then, members with more or
    fewer bytes than they announce, and archives cut short or damaged. FileExistsError if `folder` exists.
    """
    archive, folder = Path(archive), Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} exists: archives are unpacked into a new folder")
    partial = folder.with_name(folder.name + ".partial")
    if partial.exists():
        shutil.rmtree(partial)  # of a process that was killed
    try:
        partial.mkdir(parents=True)
        _unpack(archive, partial, members, limit)
        os.rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _unpack(archive: Path, folder: Path, members: Callable[[str], object] | None, limit: int) -> None:
    try:
        with _opened(archive) as opened:
            entries = _zip_entries(opened) if isinstance(opened, zipfile.ZipFile) else _tar_entries(opened, folder)
            wanted = [entry for entry in entries if members is None or members(entry.name)]
            for entry, parts in _checked(archive, wanted, limit):
                _write(archive, entry, folder.joinpath(*parts))
    except Refused:
        raise
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # these two are gzip's complaint and a seek to nowhere
            if error.filename == str(archive):
                raise
            raise OSError(f"{archive} cannot be unpacked: {error}") from error
        raise _damaged(archive, error) from error
    # zipfile and tarfile say so in many ways; encrypted members are RuntimeErrors, odd names UnicodeErrors
    except (*DAMAGE, RuntimeError, ValueError, LookupError, OverflowError, MemoryError) as error:
        raise _damaged(archive, error) from error


def _damaged(archive: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{archive} is not a whole {archive.suffix} archive ({error}): cut short ({archive.stat().st_size:,} bytes) "
        "or damaged? Delete it to fetch it again"
    )


def _opened(archive: Path) -> zipfile.ZipFile | tarfile.TarFile:
    if archive.name.endswith(".zip"):
        return zipfile.ZipFile(archive)
    if archive.name.endswith((".tar.gz", ".tgz")):
        return tarfile.open(archive, "r:gz")
    if archive.name.endswith(".tar"):
        return tarfile.open(archive, "r:")
    raise Refused(f"{archive}: its name ends in neither .zip nor .tar nor .tar.gz")


def _zip_entries(opened: zipfile.ZipFile) -> Iterator[Entry]:
    kinds = {0: "file", stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "a symbolic link"}
    for info in opened.infolist():
        kind = kinds.get(stat.S_IFMT(info.external_attr >> 16), "a device or another special file")
        if kind == "file" and info.is_dir():
            kind = "folder"
        if kind == "file" and info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            kind = f"compressed by the unusual method {info.compress_type}"
        # zipfile stops reading at the announced size; without it we see what is really there, block by block
        longer = copy.copy(info)
        longer.file_size = 2**62
        yield Entry(info.orig_filename, kind, info.file_size, lambda member=longer: opened.open(member))


def _tar_entries(opened: tarfile.TarFile, folder: Path) -> Iterator[Entry]:
    for info in opened:
        kind = "folder" if info.isdir() else "file" if info.isreg() and not info.issparse() else _special(info)
        yield Entry(info.name, kind, info.size, lambda member=info: _tar_open(opened, member, folder))
    opened.fileobj.seek(opened.offset)
    if len(opened.fileobj.read(512)) < 512:  # tarfile takes an archive cut between two members for a whole one
        raise EOFError("its end mark is missing")
    while opened.fileobj.read(BLOCK):  # gzip's checksum comes last
        continue


def _special(info: tarfile.TarInfo) -> str:
    kinds = {"a symbolic link": info.issym(), "a hard link": info.islnk(), "a sparse file": info.issparse()}
    return next((kind for kind, holds in kinds.items() if holds), "a device or another special file")


def _tar_open(opened: tarfile.TarFile, info: tarfile.TarInfo, folder: Path) -> BinaryIO:
    if hasattr(tarfile, "data_filter"):  # a second opinion, of Python 3.11.4 and newer
        tarfile.data_filter(info, str(folder))
    return opened.extractfile(info)


def _checked(archive: Path, entries: list[Entry], limit: int) -> list[tuple[Entry, list[str]]]:
    """The files among the entries with the parts of their paths; Refused names the first that must not be written."""
    seen, files, total = {}, [], 0
    for entry in entries:
        parts = [part for part in entry.name.split("/") if part not in ("", ".")]
        total += max(entry.size, LEAST_BYTES)
        fault = _fault(entry, parts) or _collision(entry, parts, seen)
        if not fault and total > limit:
            fault = f"with it, more than {limit:,} bytes would be unpacked, the limit here"
        if fault:
            raise Refused(f"{archive}: member {entry.name!r} is refused: {fault}")
        if entry.kind == "file":
            files.append((entry, parts))
    return files


def _fault(entry: Entry, parts: list[str]) -> str:
    name = entry.name
    if name.startswith("/"):
        return "an absolute path"
    if ".." in parts:
        return '".." leads out of the folder'
    if "\\" in name:
        return "a backslash, which is a folder's border on Windows"
    if ":" in name or any(part != part.rstrip(". ") for part in parts) or not name.isprintable():
        return "a drive letter, or a name that not every system can hold"
    if entry.kind not in ("file", "folder"):
        return entry.kind
    return "a file without a name" if entry.kind == "file" and not parts else ""


def _collision(entry: Entry, parts: list[str], seen: dict[str, tuple[str, bool]]) -> str:
    """Whether the member, or a folder that it lies in, is another member's file once letter case does not count."""
    for depth in range(1, len(parts) + 1):
        path, is_file = "/".join(parts[:depth]), depth == len(parts) and entry.kind == "file"
        key = unicodedata.normalize("NFC", path).casefold()
        before = seen.get(key)
        if before and (is_file or before != (path, False)):
            return f"a member {before[0]!r} came before, and many disks hold one of them only"
        seen[key] = (path, is_file)
    return ""


def _write(archive: Path, entry: Entry, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with entry.open() as source, path.open("xb") as target:
        while block := source.read(BLOCK):
            written += len(block)
            if written > entry.size:
                break
            target.write(block)
    if written != entry.size:
        more = "more" if written > entry.size else f"{written:,}"
        raise Refused(
            f"{archive}: member {entry.name!r} is refused: it announces {entry.size:,} bytes and holds {more}"
        )
