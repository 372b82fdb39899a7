"""Public data sets from archives like the real ones, served on this machine: what arrives is what is published.

The archives' XML files are made from COCO annotations here, the inverse of what the package does with them.
"""

import io
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
import tomllib
import zipfile
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
from PIL import Image
from test_download import serving

from detr_mini import cli, download, published
from detr_mini.datasets import coco, sources

BCCD_ROOT, CARDS_ROOT = "BCCD_Dataset-d272fb14", "TensorFlow-c1645825"


@pytest.fixture
def server():
    with serving() as running:
        yield running


SHARED = os.environ.get("DETR_MINI_DATA", "")


@pytest.fixture(autouse=True)
def nothing_at_hand(monkeypatch, tmp_path):
    """No set in DETR_MINI_DATA and none of the checkout, unless a test puts it there."""
    monkeypatch.delenv("DETR_MINI_DATA", raising=False)
    monkeypatch.setattr(download, "DATA", tmp_path / "data")
    (tmp_path / "data" / "checkpoints").mkdir(parents=True)


@pytest.fixture
def shared(photos, monkeypatch):
    """shared("cards") is the folder of that set; the package does not learn of it."""

    def folder(name: str) -> Path:
        with monkeypatch.context() as patch:
            patch.setenv("DETR_MINI_DATA", SHARED)
            return photos(name)

    return folder


def labelled(photo: str, width: int, height: int, objects: list[tuple[str, list[float]]], folder="images") -> str:
    """A VOC file as labelImg writes it; boxes are COCO's."""
    lines = [f"<annotation>\n\t<folder>{folder}</folder>\n\t<filename>{photo}</filename>"]
    lines += [f"\t<path>C:\\tensorflow_cards\\{folder}\\{photo}</path>"]
    lines += ["\t<source>\n\t\t<database>Unknown</database>\n\t</source>\n\t<size>"]
    lines += [f"\t\t<width>{width}</width>\n\t\t<height>{height}</height>\n\t\t<depth>3</depth>\n\t</size>"]
    lines += ["\t<segmented>0</segmented>"]
    for name, (x, y, w, h) in objects:
        lines += [f"\t<object>\n\t\t<name>{escape(name)}</name>\n\t\t<pose>Unspecified</pose>"]
        lines += ["\t\t<truncated>0</truncated>\n\t\t<difficult>0</difficult>\n\t\t<bndbox>"]
        corners = {"xmin": x, "ymin": y, "xmax": x + w, "ymax": y + h}
        lines += [f"\t\t\t<{key}>{value:g}</{key}>" for key, value in corners.items()]
        lines += ["\t\t</bndbox>\n\t</object>"]
    return "\n".join([*lines, "</annotation>\n"])


def labelled_all(content: dict, folder: str, extra: dict[str, list] | None = None) -> dict[str, str]:
    """The VOC file of each photograph of COCO annotations, by stem; `extra` puts boxes in front."""
    names = {c["id"]: c["name"] for c in content["categories"]}
    objects = {i["id"]: list((extra or {}).get(Path(i["file_name"]).stem, [])) for i in content["images"]}
    for a in content["annotations"]:
        objects[a["image_id"]].append((names[a["category_id"]], a["bbox"]))
    return {
        Path(i["file_name"]).stem: labelled(original(i["file_name"]), i["width"], i["height"], objects[i["id"]], folder)
        for i in content["images"]
    }


def original(photo: str) -> str:
    """The name of a photograph in the source: those of cards that begin with IMG end in .JPG there."""
    return photo.replace(".jpg", ".JPG") if photo.startswith("IMG") else photo


def zipped(files: dict[str, bytes | str], root: str = "", links: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        if root:
            archive.writestr(f"{root}/", b"")
        for name, content in files.items():
            archive.writestr(f"{root}/{name}" if root else name, content)
        for name, target in (links or {}).items():
            info = zipfile.ZipInfo(f"{root}/{name}")
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, target)
    return buffer.getvalue()


def serve(server, monkeypatch, name: str, archives: list[bytes], **changes) -> None:
    """Lets the set come from the server, with the real addresses' file names."""
    source, kept = sources.SOURCES[name], []
    for number, (archive, content) in enumerate(zip(source.archives, archives, strict=True)):
        path = f"/{number}/{archive.url.rsplit('/', 1)[1]}"
        server.files[path] = content
        digits = {"sha256": changes.get("sha256", [""] * 9)[number]} if archive.sha256 else {}
        kept.append(replace(archive, url=server.url.replace("/file.bin", path), size=len(content), **digits))
    changes.pop("sha256", None)
    monkeypatch.setitem(sources.SOURCES, name, replace(source, archives=tuple(kept), **changes))


def annotations(folder: Path, split: str) -> dict:
    """What training and evaluation read of a split's annotations."""
    content = json.loads((folder / "annotations" / f"instances_{split}.json").read_text())
    keys = {
        "images": ("id", "file_name", "width", "height"),
        "annotations": ("id", "image_id", "category_id", "bbox", "area", "iscrowd"),
        "categories": ("id", "name"),
    }
    return {part: [{key: entry[key] for key in wanted} for entry in content[part]] for part, wanted in keys.items()}


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# ---- the whole sets, where their photographs are


def test_bccd_whole(server, shared, tmp_path, monkeypatch):
    shared = shared("bccd")
    extra = {"BloodImage_00338": [("RBC", [30, 40, 0, 20])], "BloodImage_00343": [("RBC", [640, 100, 0, 0])]}
    files = {"LICENSE": (shared / "LICENSE").read_bytes(), "README.md": b"# BCCD", ".DS_Store": b"\0"}
    for split in ("train", "val", "test"):
        content = json.loads((shared / "annotations" / f"instances_{split}.json").read_text())
        files |= {
            f"BCCD/Annotations/{stem}.xml": xml for stem, xml in labelled_all(content, "JPEGImages", extra).items()
        }
        stems = [i["file_name"].removesuffix(".jpg") for i in content["images"]]
        files[f"BCCD/ImageSets/Main/{split}.txt"] = "\n".join(reversed(stems)) + "\n"
        files |= {f"BCCD/JPEGImages/{s}.jpg": (shared / "images" / f"{s}.jpg").read_bytes() for s in stems}
    serve(server, monkeypatch, "bccd", [zipped(files, BCCD_ROOT, {"BCCD/link": "/etc"})])
    folder = sources.get("bccd", progress=False)
    assert folder == tmp_path / "data" / "bccd"
    for split in ("train", "val", "test"):
        assert annotations(folder, split) == annotations(shared, split)
    assert len(list((folder / "images").iterdir())) == 364
    assert files_of(folder / "images") == files_of(shared / "images")
    assert len(coco.open_split(folder, "val")) == 87
    assert [path.name for path in folder.parent.iterdir() if path.name != "checkpoints"] == ["bccd"], "nothing else"


def test_cards_whole(server, shared, tmp_path, monkeypatch):
    shared = shared("cards")
    files = {"LICENSE": (shared / "LICENSE").read_bytes(), "test.mov": bytes(1000), "images/test_labels.csv": b"a,b"}
    for split in ("train", "test"):
        content = json.loads((shared / "annotations" / f"instances_{split}.json").read_text())
        files |= {f"images/{split}/{stem}.xml": xml for stem, xml in labelled_all(content, split).items()}
        for image in content["images"]:
            name = image["file_name"]
            files[f"images/{split}/{original(name)}"] = (shared / split / name).read_bytes()
    published = dict(reversed(line.split("  ")) for line in (shared / "ORIGINALS.sha256").read_text().splitlines())
    same = [p for p, c in files.items() if p.endswith(".xml") and hash_of(c.encode(), tmp_path) == published[p]]
    assert len(same) == 342, "of 363 made here, byte for byte the published ones"
    published_as(files, "cards", "images/t.*/", tmp_path, monkeypatch)
    serve(server, monkeypatch, "cards", [zipped(files, CARDS_ROOT)])
    folder = sources.get("cards", progress=False)
    for split, count in (("train", 296), ("test", 67)):
        assert annotations(folder, split) == annotations(shared, split)
        assert files_of(folder / split) == files_of(shared / split) and len(files_of(folder / split)) == count


def hash_of(content: bytes, tmp_path: Path) -> str:
    (tmp_path / "hashed").write_bytes(content)
    return download.sha256(tmp_path / "hashed")


def published_as(files: dict, name: str, beginning: str, tmp_path: Path, monkeypatch) -> None:
    """Makes these files the published ones, for sets made by a test."""
    manifests = tmp_path / "manifests"
    shutil.copytree(sources.PUBLISHED, manifests, dirs_exist_ok=True)
    named = {path: content for path, content in files.items() if re.match(beginning, path)}
    encoded = {path: content if isinstance(content, bytes) else content.encode() for path, content in named.items()}
    lines = [f"{hash_of(content, tmp_path)}  {path}\n" for path, content in encoded.items()]
    (manifests / f"{name}.sha256").write_text("".join(lines))
    monkeypatch.setattr(sources, "PUBLISHED", manifests)


def test_the_shared_sets_are_the_ones_described(shared):
    for name in ("bccd", "cards"):
        folder, source = shared(name), sources.SOURCES[name]
        for split, digest in source.digests.items():
            content = json.loads((folder / "annotations" / f"instances_{split}.json").read_text())
            assert sources.digest(content) == digest


# ---- a small set, anywhere


def photo(number: int, size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (number * 40, 90, 200)).save(buffer, "jpeg")
    return buffer.getvalue()


def small_bccd() -> dict[str, bytes | str]:
    """Four photographs of 64 x 48 px in the layout of the real archive."""
    box = ("RBC", [4, 6, 20, 10])
    objects = [[box, ("WBC", [0, 0, 64, 48])], [], [("Platelets", [50, 40, 30, 30]), ("RBC", [5, 5, 0, 9])], [box]]
    stems = [f"BloodImage_0000{number}" for number in range(4)]
    files = {"LICENSE": "MIT", "README.md": "not wanted"}
    for number, stem in enumerate(stems):
        files[f"BCCD/JPEGImages/{stem}.jpg"] = photo(number, (64, 48))
        files[f"BCCD/Annotations/{stem}.xml"] = labelled(f"{stem}.jpg", 64, 48, objects[number])
    for split, chosen in {"train": stems[:2], "val": stems[2:3], "test": stems[3:]}.items():
        files[f"BCCD/ImageSets/Main/{split}.txt"] = "\n".join(chosen)
    return files


SMALL = {"counts": {"train": (2, 2), "val": (1, 1), "test": (1, 1)}, "digests": {}}


@pytest.fixture
def small(server, tmp_path, monkeypatch):
    """A function that serves the small set, or what is given in its place; its files are the published ones."""
    files = small_bccd()
    published_as(files, "bccd", "BCCD/JPEGImages", tmp_path, monkeypatch)

    def give(archive: bytes | None = None) -> None:
        serve(server, monkeypatch, "bccd", [archive or zipped(files, BCCD_ROOT)], **SMALL)

    give()
    return give


def get(out=None) -> Path:
    return sources.get("bccd", out, progress=False)


def test_a_small_set(small, server, tmp_path):
    folder = get(tmp_path / "new" / "cells")
    found = files_of(folder)
    assert set(found) == {
        *(f"images/BloodImage_0000{n}.jpg" for n in range(4)),
        *(f"annotations/instances_{split}.json" for split in ("train", "val", "test")),
        *("LICENSE", "README.md", "MANIFEST.sha256"),
    }
    train, val, test = (annotations(folder, split) for split in ("train", "val", "test"))
    assert [i["id"] for i in train["images"] + val["images"] + test["images"]] == [1, 2, 3, 4]
    assert [a["id"] for a in train["annotations"] + val["annotations"] + test["annotations"]] == [1, 2, 3, 4]
    assert train["annotations"][1]["bbox"] == [0, 0, 64, 48] and train["annotations"][1]["category_id"] == 2
    assert val["annotations"][0]["bbox"] == [50, 40, 14, 8], "clipped; the box without area is gone"
    assert found["LICENSE"] == b"MIT" and b"commit d272fb14" in found["README.md"]
    assert "BloodImage_00000.jpg" in found["MANIFEST.sha256"].decode()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["cells"]
    assert coco.open_split(folder, "train")[0][1]["labels"].tolist() == [0, 1]


def test_a_complete_folder_is_left_alone(small, server):
    folder = get()
    before, times = files_of(folder), [path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))]
    assert get() == folder and sources.find("bccd") == folder
    assert len(server.requests) == 1
    assert files_of(folder) == before and [p.stat().st_mtime_ns for p in sorted(folder.rglob("*"))] == times


def test_an_incomplete_folder_is_finished(small, server):
    folder = get()
    before = files_of(folder)
    (folder / "images" / "BloodImage_00001.jpg").unlink()
    shutil.rmtree(folder / "annotations")
    (folder / "README.md").write_text("my notes")
    (folder / "mine.txt").write_text("mine")
    assert sources.find("bccd") is None
    assert get() == folder and sources.find("bccd") == folder
    assert files_of(folder) == before | {"README.md": b"my notes", "mine.txt": b"mine"}, "only what lacked came"


def test_a_folder_that_names_files_of_no_published_set(small):
    manifest = get() / "MANIFEST.sha256"
    manifest.write_text(manifest.read_text() + f"{'0' * 64}  images/more.jpg\n")
    with pytest.raises(ValueError, match="bccd is still incomplete"):
        get()


def test_an_empty_folder_is_filled(small, tmp_path):
    (tmp_path / "empty").mkdir()
    assert (get(tmp_path / "empty") / "MANIFEST.sha256").is_file()


def test_files_edited_by_hand_are_not_overwritten(small, server):
    path = get() / "annotations" / "instances_val.json"
    path.write_text(path.read_text().replace("14.0", "13.0"))
    with pytest.raises(ValueError, match=r"instances_val.json is not the file that .*\(1 such files\).*Delete it"):
        get()
    assert "13.0" in path.read_text() and len(server.requests) == 1
    path.unlink()
    assert annotations(get(), "val")["annotations"][0]["bbox"] == [50, 40, 14, 8]


def test_a_folder_of_other_things_is_left_alone(small, server, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="mine holds other things"):
        get(tmp_path / "mine")
    assert files_of(tmp_path / "mine") == {"thesis.txt": b"years of work"} and not server.requests


def test_a_folder_of_another_set_is_left_alone(small, server, monkeypatch):
    folder = get()
    monkeypatch.setitem(sources.SOURCES, "cards", replace(sources.SOURCES["cards"], digests={}))
    with pytest.raises(FileExistsError, match=r"holds another data set than cards \(instances_train.json has 2 images"):
        sources.get("cards", folder, progress=False)
    (folder / "MANIFEST.sha256").write_text("???\n")
    with pytest.raises(ValueError, match=r"MANIFEST.sha256: the line '\?\?\?' is not SHA-256"):
        get()


def test_a_set_in_the_shared_folder_is_used_and_not_written_to(small, server, tmp_path, monkeypatch):
    shared = tmp_path / "shared"
    before = files_of(get(shared / "bccd"))
    monkeypatch.setenv("DETR_MINI_DATA", str(shared))
    assert get() == sources.find("bccd") == shared / "bccd" and len(server.requests) == 1
    assert get(tmp_path / "own") == tmp_path / "own", "asked for by name, a copy of one's own comes"
    (shared / "bccd" / "images" / "BloodImage_00001.jpg").unlink()
    del before["images/BloodImage_00001.jpg"]
    assert get() == tmp_path / "data" / "bccd", "what is not whole there does not count"
    assert files_of(shared / "bccd") == before


# ---- archives that are not what was published


def test_wrong_files_are_named_and_fetched_again(small, server, tmp_path):
    files = small_bccd()
    for number in (1, 3):
        files[f"BCCD/JPEGImages/BloodImage_0000{number}.jpg"] = photo(6, (64, 48))
    small(zipped(files, BCCD_ROOT))
    with pytest.raises(ValueError, match=r"BloodImage_00001.jpg has other bytes; 2 of its 4 files are not as publi"):
        get()
    del files["BCCD/JPEGImages/BloodImage_00002.jpg"]
    small(zipped(files, BCCD_ROOT))
    with pytest.raises(ValueError, match=r"BloodImage_00002.jpg is missing; 3 of its 4 files.*is not kept"):
        get()
    assert not (tmp_path / "data" / "bccd").exists() and len(server.requests) == 2
    small()
    assert get() == tmp_path / "data" / "bccd"


@pytest.mark.parametrize(
    "change, message",
    [
        (("<xmin>4</xmin>", "<xmin>5</xmin>"), "ids, sizes or boxes in instances_train.json are others"),
        (("<name>WBC</name>", "<name>RBC</name>"), "ids, sizes or boxes in instances_train.json are others"),
        (("<ymax>16</ymax>", "<ymax>6</ymax>"), "instances_train.json has 2 images and 1 boxes, not 2 and 2"),
        (("<name>WBC</name>", "<name>cat</name>"), "BloodImage_00000.xml: class 'cat' is none of RBC, WBC, Plat"),
        (("<xmin>4</xmin>", ""), r"BloodImage_00000.xml: object 1 has .*wanted a name and four numbers"),
        (("<ymax>16</ymax>", "<ymax>low</ymax>"), r"BloodImage_00000.xml: object 1 has .*'low'"),
        (("</annotation>", ""), "BloodImage_00000.xml is not a VOC annotation .*cut short"),
    ],
)
def test_other_annotations_than_the_published_ones(small, server, monkeypatch, tmp_path, change, message):
    whole = get(tmp_path / "first")
    digests = {s: sources.digest(annotations(whole, s)) for s in ("train", "val", "test")}
    files = small_bccd()
    name = "BCCD/Annotations/BloodImage_00000.xml"
    assert change[0] in files[name]
    files[name] = files[name].replace(*change)
    serve(server, monkeypatch, "bccd", [zipped(files, BCCD_ROOT)], **SMALL | {"digests": digests})
    with pytest.raises(ValueError, match=message):
        get()
    assert not (tmp_path / "data" / "bccd").exists()
    serve(server, monkeypatch, "bccd", [zipped(small_bccd(), BCCD_ROOT)], **SMALL | {"digests": digests})
    assert get() == tmp_path / "data" / "bccd", "the wrong archive was not kept"


@pytest.mark.parametrize("name", ["LICENSE", "BCCD/ImageSets/Main/val.txt", "BCCD/Annotations/BloodImage_00002.xml"])
def test_an_archive_that_lacks_other_files(small, name, tmp_path):
    small(zipped({path: content for path, content in small_bccd().items() if path != name}, BCCD_ROOT))
    with pytest.raises(ValueError, match=f"{name}.*it is not kept"):
        get()
    small()
    assert get() == tmp_path / "data" / "bccd"


def test_evil_archives(small, server, tmp_path):
    files = small_bccd()
    link = {"BCCD/JPEGImages/evil.jpg": "/etc/passwd"}
    for archive, message in (
        (zipped(files, BCCD_ROOT, link), "evil.jpg' is refused: a symbolic link"),
        (zipped(files | {"BCCD/JPEGImages/..jpg\\..\\up.jpg": b""}, BCCD_ROOT), "is refused: a backslash"),
        (zipped(files | {"BCCD/JPEGImages/zeros.jpg": bytes(41_000_000)}, BCCD_ROOT), "more than 40,000,000 bytes"),
        (zipped(files, "C:"), "is refused: a drive letter"),
        (zipped(files, ".."), r'is refused: "\.\." leads out'),
    ):
        small(archive)
        with pytest.raises(ValueError, match=message):
            get()
        assert sorted(path.name for path in (tmp_path / "data").rglob("*")) == ["bccd.download", "checkpoints"]


def test_an_archive_that_ends_too_early(small, server, tmp_path):
    server.lengths = [5000]
    with pytest.raises(ValueError, match=r"not a whole .zip archive .*cut short \(5,000 bytes\).*same command"):
        get()
    assert get() == tmp_path / "data" / "bccd", "no whole file, so it was not kept"


def test_a_broken_connection_is_taken_up_again(small, server, tmp_path):
    server.breaks = [3000, 2000]
    get()
    assert server.requests == [None, "bytes=3000-", "bytes=5000-"]


def test_what_a_stopped_run_left_is_used_or_swept_away(small, server, tmp_path):
    work = tmp_path / "data" / "bccd.download"
    for folder in ("build/annotations", "bccd.unpacked/old", "bccd.unpacked.partial"):
        (work / folder).mkdir(parents=True)
    (work / "build" / "stray.txt").write_text("of a run that was killed")
    (work / "bccd.zip.partial").write_bytes(server.files[next(iter(server.files))][:4000])
    folder = get()
    assert server.requests == ["bytes=4000-"] and not work.exists() and "stray.txt" not in files_of(folder)
    work.mkdir()
    (work / "bccd.zip").write_text("of a run that was stopped at its very end")
    assert get() == folder and not work.exists()


def test_a_disk_without_room(small, server, monkeypatch, tmp_path):
    usage = namedtuple("usage", "total used free")
    asked = []
    monkeypatch.setattr(sources.shutil, "disk_usage", lambda path: asked.append(path) or usage(0, 0, 30_000_000))
    with pytest.raises(OSError, match=r"bccd needs 0.04 GB in .*0.00 to fetch, up to 0.04 unpacked; 0.03 GB are free"):
        get(tmp_path / "far" / "away")
    assert asked == [tmp_path] and not server.requests and not (tmp_path / "far").exists()


def test_what_is_fetched_already_needs_no_room_again(monkeypatch, tmp_path):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(sources.shutil, "disk_usage", lambda _: usage(0, 0, 30_000_000))
    source = sources.SOURCES["bccd"]
    source = replace(source, archives=(replace(source.archives[0], size=50_000_000, unpacked=10_000_000),))
    with pytest.raises(OSError, match=r"bccd needs 0.06 GB in .*0.05 to fetch"):
        sources.check_disk(source, tmp_path / "work")
    (tmp_path / "work").mkdir()
    with (tmp_path / "work" / "bccd.zip.partial").open("wb") as partial:
        partial.truncate(35_000_000)
    sources.check_disk(source, tmp_path / "work")


# ---- COCO


def small_coco() -> tuple[dict, bytes, bytes]:
    content = {
        "images": [{"id": n, "file_name": f"{n:012}.jpg", "width": 64, "height": 48} for n in (139, 285)],
        "annotations": [
            {"id": 9, "image_id": 285, "category_id": 90, "bbox": [1.5, 2, 30, 20], "area": 5, "iscrowd": 0}
        ],
        "categories": [{"id": 1, "name": "person"}, {"id": 90, "name": "toothbrush"}],
    }
    images = zipped({f"val2017/{n:012}.jpg": photo(n % 5, (64, 48)) for n in (139, 285)})
    text = json.dumps(content)
    files = {
        f"annotations/{kind}_{split}2017.json": text for kind in ("instances", "captions") for split in ("train", "val")
    }
    return content, images, zipped(files)


def test_coco(server, tmp_path, monkeypatch):
    content, *zips = small_coco()
    hashes = [hash_of(z, tmp_path) for z in zips]
    serve(server, monkeypatch, "coco-val2017", zips, sha256=hashes, counts={"val": (2, 1)})
    folder = sources.get("coco-val2017", progress=False)
    assert set(files_of(folder)) == {
        *("val2017/000000000139.jpg", "val2017/000000000285.jpg", "annotations/instances_val2017.json"),
        *("README.md", "MANIFEST.sha256"),
    }
    assert json.loads((folder / "annotations" / "instances_val2017.json").read_text()) == content
    assert len(coco.open_split(folder, "val")) == 2 and sources.find("coco-val2017") == folder


def test_coco_that_is_not_the_published_one(server, tmp_path, monkeypatch):
    _, *zips = small_coco()
    serve(server, monkeypatch, "coco-val2017", zips, sha256=["0" * 64] * 2, counts={"val": (2, 1)})
    with pytest.raises(ValueError, match=r"val2017.zip gave another file than expected .*wanted 0{64}"):
        sources.get("coco-val2017", progress=False)
    few = zipped({"val2017/000000000285.jpg": photo(0, (64, 48))})
    hashes = [hash_of(z, tmp_path) for z in (few, zips[1])]
    serve(server, monkeypatch, "coco-val2017", [few, zips[1]], sha256=hashes, counts={"val": (2, 1)})
    with pytest.raises(ValueError, match=r"000000000139.jpg is not among the photographs \(1 of 2\)"):
        sources.get("coco-val2017", progress=False)


# ---- what the package says of the sets


def test_cards_and_manifests_agree_with_the_code():
    assert set(sources.SOURCES) == set(cli.DATA_SETS) and set(published.MODELS) == set(cli.WEIGHTS)
    for name, source in sources.SOURCES.items():
        card = (sources.PUBLISHED / f"{name}.md").read_text(encoding="utf-8")
        assert source.name == name and f"`detr-mini download {name}`" in card and "Licence: " in card
        for split, (images, boxes) in source.counts.items():
            assert f"| {split} | {images} | {boxes} |" in card
        for archive in source.archives:
            if archive.sha256:
                assert archive.url in card and re.fullmatch("[0-9a-f]{64}", archive.sha256)
                continue
            assert re.search("[0-9a-f]{40}", archive.url)[0] in card, "a commit, not a branch"
            names = [line.split("  ")[1] for line in (sources.PUBLISHED / f"{name}.sha256").read_text().splitlines()]
            assert all(re.fullmatch(archive.members, f"root/{file}") for file in names), (
                "all that is checked is unpacked"
            )
            photographs = [file for file in names if file.lower().endswith(".jpg")]
            assert len(photographs) == len(set(names) & set(photographs)) == sum(n for n, _ in source.counts.values())


def test_what_stands_beside_the_code_is_packaged():
    project = tomllib.loads((Path(__file__).resolve().parent.parent / "pyproject.toml").read_text(encoding="utf-8"))
    assert "manifests/*" in project["tool"]["setuptools"]["package-data"]["detr_mini.datasets"]


@pytest.mark.parametrize("name", cli.DATA_SETS)
def test_the_next_command_can_be_run(name):
    command = sources.SOURCES[name].next.format(folder="data/x").split()
    assert command[0] == "detr-mini"
    options = cli.parser().parse_args(command[1:])
    assert options.data == "data/x"


# ---- the command


def test_the_command(small, capsys, tmp_path):
    out = tmp_path / "my data" / "bccd"
    assert cli.main(["download", "bccd", "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        f"bccd is in {out}",
        f'next: detr-mini train --data "{out}" --config photos --start-from toybox-mini --out runs/bccd --minutes 30',
    ]
    assert "bccd.zip: 100%" in said.err, "progress"
    assert cli.main(["download", "bccd", "--out", str(out)]) == 0
    assert capsys.readouterr().out.startswith(f"bccd was there already, complete: it is in {out}\n")


def test_weights(server, monkeypatch, tmp_path, capsys):
    content = b"weights" * 1000
    digits = hash_of(content, tmp_path)[:8]
    file = f"detr_demo-{digits}.pth"
    server.files[f"/detr/{file}"] = content
    monkeypatch.setattr(published, "ADDRESS", server.url.replace("file.bin", "detr/"))
    monkeypatch.setitem(published.MODELS, "detr_demo", replace(published.MODELS["detr_demo"], file=file))
    monkeypatch.setattr(download.torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    assert cli.main(["download", "detr_demo"]) == 0
    path = tmp_path / "data" / "weights" / file
    assert path.read_bytes() == content
    said = capsys.readouterr().out
    assert f"detr_demo is {path}\n" in said and "next: detr-mini detect --checkpoint detr_demo IMAGE" in said
    assert cli.main(["download", "detr_demo", "--out", str(tmp_path / "own")]) == 0
    assert (tmp_path / "own" / file).read_bytes() == content
    assert f"--checkpoint {tmp_path / 'own' / file} IMAGE" in capsys.readouterr().out


def test_errors_of_the_command_are_one_line(small, server, capsys, tmp_path):
    (tmp_path / "file").write_text("a file, no folder")
    for out in ("file", "file/below"):
        assert cli.main(["download", "bccd", "--out", str(tmp_path / out)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("detr-mini download: ") and error.count("\n") == 1, error
    server.codes = [404]
    assert cli.main(["download", "bccd"]) == 2
    assert "404" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        cli.main(["download", "mnist"])
    assert stop.value.code == 2 and "detr_resnet101_dc5" in capsys.readouterr().err, "the choices are listed"


STOPPED = """
import sys
from dataclasses import replace
from pathlib import Path
from detr_mini import cli
from detr_mini.datasets import sources

source = sources.SOURCES["bccd"]
archive = replace(source.archives[0], url=sys.argv[1])
sources.SOURCES["bccd"] = replace(source, archives=(archive,), counts={}, digests={})
sources.PUBLISHED = Path(sys.argv[2])
sys.exit(cli.main(["download", "bccd", "--out", sys.argv[3]]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_ctrl_c_and_the_same_command_again(small, server, tmp_path):
    (url,) = (server.url.replace("/file.bin", path) for path in server.files)
    command = [sys.executable, "-c", STOPPED, url, str(sources.PUBLISHED), str(tmp_path / "cells")]
    server.stalls = [4000]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    partial = tmp_path / "cells.download" / "bccd.zip.partial"
    deadline = time.monotonic() + 100  # the server's stall is longer
    while not (partial.exists() and partial.stat().st_size == 4000):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=100)[1]
    assert process.returncode == 130
    assert "stopped; the same command goes on where it stopped" in error and "Traceback" not in error
    folder = get(tmp_path / "cells")
    assert server.requests == [None, "bytes=4000-"] and len(files_of(folder)) == 10
