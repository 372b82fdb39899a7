"""Archives with every evil that is known: nothing is written outside, nothing half-done is left."""

import gzip
import io
import os
import random
import stat
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest

from detr_mini import archives

GOOD = {"set/a.txt": b"first", "set/deep/b.bin": bytes(range(256)) * 50, "set/empty": b""}


def make_zip(path: Path, files: dict[str, bytes], kinds: dict[str, int] | None = None, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo("x")
            info.filename = info.orig_filename = name  # the constructor would tidy the name
            info.external_attr = ((kinds or {}).get(name, stat.S_IFREG) | 0o644) << 16
            info.compress_type = method
            archive.writestr(info, content)
    return path


def make_tar(path: Path, files: dict[str, bytes], kinds: dict[str, bytes] | None = None):
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.type = (kinds or {}).get(name, tarfile.REGTYPE)
            if info.type in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                info.linkname, content = content.decode(), b""
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def make(path: Path, files: dict[str, bytes]) -> Path:
    return make_zip(path, files) if path.suffix == ".zip" else make_tar(path, files)


def content_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refused(archive: Path, message: str, **options) -> None:
    """Refused with that message, which names the archive; beside the archive lies what lay there before."""
    before = sorted(archive.parent.iterdir())
    with pytest.raises(ValueError, match=message) as error:
        archives.extract(archive, archive.parent / "out", **options)
    assert str(archive) in str(error.value)
    assert sorted(archive.parent.iterdir()) == before


@pytest.fixture(params=["a.zip", "a.tar", "a.tar.gz", "a.tgz"])
def path(request, tmp_path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in" / request.param


def test_a_good_archive(path):
    folder = path.parent / "new" / "out"
    assert archives.extract(make(path, GOOD), folder) == folder
    assert content_of(folder) == GOOD and not folder.with_name("out.partial").exists()


def test_some_members(path):
    make(path, GOOD | {"../outside": b"left where it is"})
    archives.extract(path, path.parent / "out", lambda name: name.endswith(".bin"))
    assert list(content_of(path.parent / "out")) == ["set/deep/b.bin"]


def test_what_a_killed_process_left_is_swept_away(path):
    (path.parent / "out.partial").mkdir()
    (path.parent / "out.partial" / "old").write_text("half")
    archives.extract(make(path, GOOD), path.parent / "out")
    assert content_of(path.parent / "out") == GOOD and not (path.parent / "out.partial").exists()


def test_a_folder_that_exists_is_left_alone(path):
    (path.parent / "out").mkdir()
    with pytest.raises(FileExistsError, match="out exists"):
        archives.extract(make(path, GOOD), path.parent / "out")


NAMES = {
    "/tmp/abs": "an absolute path",
    "../up": r'"\.\." leads out',
    "set/../../up": r'"\.\." leads out',
    "set/..": r'"\.\." leads out',
    "C:/windows": "a drive letter",
    "C:evil": "a drive letter",
    "set\\..\\up": "leads out|a backslash",
    "set/a.txt ": "not every system can hold",
    "set/tab\there": "not every system can hold",
    "set/a.txt": "'set/a.txt' came before",
    "SET/other": "'set' came before",
    "set/A.TXT": "'set/a.txt' came before",
    "set/a.txt/below": "'set/a.txt' came before",
    "set": "'set' came before",
    "./set/./a.txt": "'set/a.txt' came before",
}


@pytest.mark.parametrize("kind", [".zip", ".tar"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_are_refused(kind, name, tmp_path):
    path = tmp_path / f"a{kind}"
    if kind == ".zip":
        make_zip(path, GOOD)
        with zipfile.ZipFile(path, "a") as archive:
            info = zipfile.ZipInfo("x")
            info.filename = info.orig_filename = name
            archive.writestr(info, b"evil")
    else:
        make_tar(path, GOOD)
        with tarfile.open(path, "a") as archive:
            info = tarfile.TarInfo(name)
            info.size = 4
            archive.addfile(info, io.BytesIO(b"evil"))
    refused(path, NAMES[name])


@pytest.mark.parametrize("accents", [("e\u0301.txt", "\u00e9.txt"), ("STRASSE", "straße")])
def test_two_spellings_of_one_name(path, accents):
    refused(make(path, dict.fromkeys(accents, b"")), "came before")


@pytest.mark.parametrize(
    "kind, message",
    [
        (stat.S_IFLNK, "a symbolic link"),
        (stat.S_IFIFO, "a device or another special file"),
        (stat.S_IFCHR, "a device"),
        (stat.S_IFBLK, "a device"),
        (stat.S_IFSOCK, "a device"),
    ],
)
def test_special_files_in_a_zip(kind, message, tmp_path):
    path = make_zip(tmp_path / "a.zip", GOOD | {"set/link": b"/etc/passwd"}, {"set/link": kind})
    refused(path, f"member 'set/link' is refused: {message}")


@pytest.mark.parametrize(
    "kind, message",
    [
        (tarfile.SYMTYPE, "a symbolic link"),
        (tarfile.LNKTYPE, "a hard link"),
        (tarfile.FIFOTYPE, "a device or another special file"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.BLKTYPE, "a device"),
        (b"Z", "a device or another special file"),
    ],
)
@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
@pytest.mark.parametrize("with_filter", [True, False])
def test_special_files_in_a_tar(kind, message, suffix, with_filter, tmp_path, monkeypatch):
    if not with_filter:
        monkeypatch.delattr(tarfile, "data_filter", raising=False)  # as before Python 3.11.4
    content = b"a.txt" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else b""  # even inside the folder
    path = make_tar(tmp_path / f"a.{suffix}", GOOD | {"set/link": content}, {"set/link": kind})
    refused(path, f"member 'set/link' is refused: {message}")


def test_a_link_and_a_member_behind_it(tmp_path):
    files = {"way": b"..", "way/out.txt": b"evil"}
    refused(make_zip(tmp_path / "a.zip", files, {"way": stat.S_IFLNK}), "'way' is refused: a symbolic link")
    refused(make_tar(tmp_path / "a.tar", files, {"way": tarfile.SYMTYPE}), "'way' is refused: a symbolic link")


def test_a_sparse_file(tmp_path):
    info = tarfile.TarInfo("set/holes")
    info.size, info.type = 512, tarfile.REGTYPE
    info.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.name": "set/holes"}
    info.pax_headers |= {"GNU.sparse.map": "0,512", "GNU.sparse.size": str(10**13), "GNU.sparse.numblocks": "1"}
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info, io.BytesIO(bytes(512)))
    refused(tmp_path / "a.tar", "a sparse file")


def test_the_standard_librarys_filter_is_asked_too(tmp_path, monkeypatch):
    def never(member, folder):
        raise tarfile.FilterError(f"no {member.name}")

    if not hasattr(tarfile, "data_filter"):
        pytest.skip("this Python has none")
    monkeypatch.setattr(tarfile, "data_filter", never)
    refused(make_tar(tmp_path / "a.tar", GOOD), "no set/a.txt")


def test_a_bomb(path):
    refused(make(path, {"zeros": bytes(3_000_000)}), "'zeros'.*more than 2,000,000 bytes", limit=2_000_000)
    refused(make(path, {f"{i}": b"" for i in range(30)}), "'24'.*more than 100,000 bytes", limit=100_000)


def patched(data: bytes, size_at: dict[bytes, int], number: int) -> bytes:
    """A zip of one member whose headers announce another uncompressed size."""
    for mark, offset in size_at.items():
        where = data.index(mark) + offset
        data = data[:where] + struct.pack("<I", number) + data[where + 4 :]
    return data


@pytest.mark.parametrize("announced, held", [(100, "more"), (5000, "1,000")])
@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_a_zip_member_that_lies_about_its_size(method, announced, held, tmp_path):
    path = make_zip(tmp_path / "a.zip", {"lie": bytes(1000)}, method=method)
    path.write_bytes(patched(path.read_bytes(), {b"PK\1\2": 24, b"PK\3\4": 22}, announced))
    refused(path, f"'lie' is refused: it announces {announced:,} bytes and holds {held}")


def test_a_tar_member_that_announces_more_than_there_is(tmp_path):
    info = tarfile.TarInfo("lie")
    info.size = 10**6
    (tmp_path / "a.tar").write_bytes(info.tobuf() + bytes(2048))
    refused(tmp_path / "a.tar", "not a whole .tar archive")


def test_archives_cut_anywhere(path):
    whole = make(path, GOOD).read_bytes()
    for end in [0, 1, 30, *range(100, len(whole) - 1, 211), len(whole) // 2]:
        if path.suffix == ".tar" and len(whole[end:].strip(b"\0")) == 0:
            continue  # only padding is gone
        path.write_bytes(whole[:end])
        refused(path, rf"not a whole .* archive .*cut short \({end:,} bytes\).*Delete it")


def test_a_tar_cut_between_two_members(tmp_path):
    path = make_tar(tmp_path / "a.tar", GOOD)
    with tarfile.open(path) as archive:
        second = archive.getmembers()[1].offset
    path.write_bytes(path.read_bytes()[:second])
    refused(path, "end mark is missing")


def test_other_damage(path):
    generator = random.Random(0)
    whole = make(path, GOOD).read_bytes()
    ends = set()
    for number in range(150):
        damaged = bytearray(whole)
        for _ in range(generator.randint(1, 4)):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        path.write_bytes(damaged)
        folder = path.parent / f"out{number}"
        try:
            archives.extract(path, folder)
            ends.add("unpacked")
        except ValueError as error:
            assert str(path) in str(error)
            assert not folder.exists()
            ends.add("refused")
        assert {p.name for p in path.parent.parent.iterdir()} == {"in"}, "nothing outside"
    assert "refused" in ends


def test_encrypted_members_and_odd_methods(tmp_path):
    path = make_zip(tmp_path / "a.zip", {"secret": b"1234"})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    data[data.index(b"PK\3\4") + 6] |= 1
    path.write_bytes(data)
    refused(path, "encrypted")
    refused(make_zip(path, {"b": b"1234"}, method=zipfile.ZIP_BZIP2), "unusual method 12")


def test_a_folder_and_the_root_itself_are_no_files(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, kind in ((".", tarfile.DIRTYPE), ("./set", tarfile.DIRTYPE), ("./set/a", tarfile.REGTYPE)):
            info = tarfile.TarInfo(name)
            info.type = kind
            archive.addfile(info)
    archives.extract(tmp_path / "a.tar", tmp_path / "out")
    assert content_of(tmp_path / "out") == {"set/a": b""}


def test_an_error_of_the_disk_is_passed_on_and_leaves_nothing(path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    make(path, GOOD)
    monkeypatch.setattr(archives, "_write", full)
    with pytest.raises(OSError, match="No space"):
        archives.extract(path, path.parent / "out")
    assert list(path.parent.iterdir()) == [path]


def test_not_an_archive(tmp_path):
    for name, content in (("a.zip", b"<html>"), ("a.tar.gz", b"<html>"), ("a.tar", b"<html>")):
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, "not a whole")
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(b"<html>"))
    refused(tmp_path / "b.tar.gz", "not a whole")
    (tmp_path / "a.rar").write_bytes(b"")
    refused(tmp_path / "a.rar", "ends in neither")
    with pytest.raises(FileNotFoundError):
        archives.extract(tmp_path / "none.zip", tmp_path / "out")


@pytest.mark.skipif(os.name != "posix", reason="other systems have other limits")
def test_a_name_that_the_disk_cannot_hold_is_told_with_the_archive(tmp_path):
    path = tmp_path / "long.zip"
    with zipfile.ZipFile(path, "w") as written:
        written.writestr("x" * 300, b"bytes")
    with pytest.raises(OSError, match=r"long\.zip cannot be unpacked: .*too long"):
        archives.extract(path, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [path]
