"""Public data sets: fetched once, checked file by file, converted to COCO's layout, with a card of their own."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from detr_mini import archives, download
from detr_mini.datasets import voc

PUBLISHED = Path(__file__).parent / "manifests"  # for each set its card, and SHA-256 of the files as published
MANIFEST = "MANIFEST.sha256"  # of every file in a finished folder but the card


@dataclass(frozen=True)
class Archive:
    """One file to fetch, and what of it is wanted."""

    url: str
    size: int  # bytes, about
    unpacked: int  # bytes, at most; what holds more is refused
    members: str  # a regular expression; whole names that match are unpacked
    sha256: str = ""  # where the server promises the same bytes every time


@dataclass(frozen=True)
class Source:
    """A public data set and what a finished folder of it holds; its card is `manifests/NAME.md`."""

    name: str
    archives: tuple[Archive, ...]
    convert: Callable[[list[Path], Path], None]  # (unpacked archives, new folder)
    counts: dict[str, tuple[int, int]]  # split: images, boxes
    digests: dict[str, str]  # split: `digest` of its annotations, where they are made here
    next: str  # what to do with it, {folder} standing for its place


def get(name: str, out: str | Path | None = None, progress: bool = True) -> Path:
    """The folder of a public data set: as `find` finds it, else fetched, checked and put there in one move.

    A folder that lacks some of the set's files gets those. Archives wait in FOLDER.download until all is done, so the
    same call goes on where one was stopped. Raises OSError for network and disk, ValueError for files that are not
    the published ones, FileExistsError where `out` holds something else.
    """
    source, folder = SOURCES[name], place(name, out)
    work = folder.with_name(folder.name + ".download")
    if found := find(name, out):
        shutil.rmtree(work, ignore_errors=True)  # of a run that was stopped at its very end
        return found
    check_disk(source, work)
    work.mkdir(parents=True, exist_ok=True)
    try:
        build = _build(source, work, progress)
    except (ValueError, FileNotFoundError) as error:
        for archive in source.archives:
            if not archive.sha256:
                _path(source, archive, work).unlink(missing_ok=True)
        raise ValueError(f"{error} (it is not kept: the same command fetches it again)") from error
    _put(build, folder)
    shutil.rmtree(work)
    if _missing(source, folder):
        raise ValueError(f"{folder} is still incomplete: it was not made by this command; name another folder")
    return folder


def find(name: str, out: str | Path | None = None) -> Path | None:
    """Where the whole set is already, every file checked: in DETR_MINI_DATA unless `out` is given, then in its place.

    Raises ValueError where a file there was altered, FileExistsError where the place holds something else.
    """
    folder, shared = place(name, out), os.environ.get("DETR_MINI_DATA")
    if out is None and shared and _holds(Path(shared).expanduser() / name, SOURCES[name]):
        return Path(shared).expanduser() / name
    return folder if _missing(SOURCES[name], folder) == [] else None


def place(name: str, out: str | Path | None = None) -> Path:
    """The folder that a set goes to: `out`, else `data/NAME` of the checkout, else a cache folder."""
    return Path(out).expanduser() if out else download.folder(name)


def _holds(folder: Path, source: Source) -> bool:
    manifest = folder / MANIFEST
    return manifest.is_file() and not any(compare(folder, manifest)) and not _unlike(source, folder)


def _missing(source: Source, folder: Path) -> list[str] | None:
    """Files of the set that its folder lacks; None where nothing is there."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    if not (folder / MANIFEST).is_file():
        raise FileExistsError(f"{folder} holds other things (it has no {MANIFEST}): name a new or empty folder")
    missing, altered = compare(folder, folder / MANIFEST)
    if altered:
        raise ValueError(
            f"{folder / altered[0]} is not the file that {MANIFEST} beside it names ({len(altered)} such files): "
            "edited or damaged? Delete it and run this again to get the published one, or name another folder"
        )
    if not missing and (fault := _unlike(source, folder)):
        raise FileExistsError(f"{folder} holds another data set than {source.name} ({fault}): name another folder")
    return missing


def compare(folder: Path, manifest: Path) -> tuple[list[str], list[str]]:
    """Files that a manifest (lines of `sha256sum`) names: those missing in the folder, and those with other bytes."""
    missing, altered = [], []
    for line in manifest.read_text(encoding="utf-8").splitlines():
        wanted, _, name = line.partition("  ")
        if not name:
            raise ValueError(f"{manifest}: the line {line!r} is not SHA-256, two blanks, file name: damaged?")
        if not (folder / name).is_file():
            missing.append(name)
        elif download.sha256(folder / name) != wanted:
            altered.append(name)
    return missing, altered


def digest(content: dict) -> str:
    """SHA-256 of what counts in COCO annotations: ids, names, sizes, boxes; not their order, nor notes beside them."""
    images = sorted([i["id"], i["file_name"], i["width"], i["height"]] for i in content["images"])
    boxes = sorted([a["id"], a["image_id"], a["category_id"], *map(float, a["bbox"])] for a in content["annotations"])
    categories = sorted([c["id"], c["name"]] for c in content["categories"])
    return hashlib.sha256(json.dumps([images, boxes, categories]).encode()).hexdigest()


def check_disk(source: Source, work: Path) -> None:
    """OSError, with what is needed, if the disk has no room for the archives and what is in them."""
    disk = next(parent for parent in work.absolute().parents if parent.exists())
    here = sum(path.stat().st_size for path in work.glob("*.zip*") if path.is_file())
    fetch, unpacked = (sum(getattr(archive, part) for archive in source.archives) for part in ("size", "unpacked"))
    free, wanted = shutil.disk_usage(disk).free, max(0, fetch - here) + unpacked
    if free < wanted:
        raise OSError(
            f"{source.name} needs {wanted / 1e9:.2f} GB in {disk}: {fetch / 1e9:.2f} to fetch, up to "
            f"{unpacked / 1e9:.2f} unpacked; {free / 1e9:.2f} GB are free. Name another folder with --out"
        )


def _build(source: Source, work: Path, progress: bool) -> Path:
    """A finished folder of the set, below `work`."""
    build = work / "build"
    shutil.rmtree(build, ignore_errors=True)  # of a run that was stopped
    source.convert([_unpacked(source, archive, work, progress) for archive in source.archives], build)
    if fault := _unlike(source, build):
        raise ValueError(f"{source.archives[0].url}: its annotations are not as published: {fault}")
    shutil.copyfile(PUBLISHED / f"{source.name}.md", build / "README.md")
    files = sorted(path.relative_to(build).as_posix() for path in build.rglob("*") if path.is_file())
    lines = [f"{download.sha256(build / file)}  {file}\n" for file in files if file != "README.md"]
    (build / MANIFEST).write_text("".join(lines), encoding="utf-8")
    return build


def _path(source: Source, archive: Archive, work: Path) -> Path:
    """Where an archive waits, under a name to be read in the progress bar."""
    return work / (archive.url.rsplit("/", 1)[1] if archive.sha256 else f"{source.name}.zip")


def _unpacked(source: Source, archive: Archive, work: Path, progress: bool) -> Path:
    """The folder of an archive's files; ValueError if one is not as published."""
    path = _path(source, archive, work)
    folder = path.with_suffix(".unpacked")
    download.fetch(archive.url, path, archive.sha256, progress)
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was stopped
    archives.extract(path, folder, re.compile(archive.members).fullmatch, archive.unpacked)
    if archive.sha256:
        return folder  # its own hash has said all
    root, manifest = next(folder.iterdir(), folder), PUBLISHED / f"{source.name}.sha256"
    missing, altered = compare(root, manifest)
    if bad := len(missing) + len(altered):
        total = len(manifest.read_text(encoding="utf-8").splitlines())
        first = f"{missing[0]} is missing" if missing else f"{altered[0]} has other bytes"
        raise ValueError(f"{archive.url}: {first}; {bad} of its {total} files are not as published")
    return root


def _unlike(source: Source, folder: Path) -> str:
    """How the folder's annotations differ from those of the set, or nothing."""
    for split, (images, boxes) in source.counts.items():
        path = next(folder.glob(f"annotations/instances_{split}*.json"), None)
        if not path:
            return f"no annotations of the split {split}"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            found, held = (len(content["images"]), len(content["annotations"])), digest(content)
        except (ValueError, LookupError, TypeError) as error:
            return f"{path.name} is not COCO ({error!r})"
        if found != (images, boxes):
            return f"{path.name} has {found[0]} images and {found[1]} boxes, not {images} and {boxes}"
        if source.digests and held != source.digests[split]:
            return f"ids, sizes or boxes in {path.name} are others"
    return ""


def _put(build: Path, folder: Path) -> None:
    """Moves the finished folder into its place, or what a folder there lacks into that."""
    if (folder / MANIFEST).is_file():
        for path in (path for path in build.rglob("*") if path.is_file()):
            target = folder / path.relative_to(build)
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, target)
        return
    if folder.exists():
        folder.rmdir()  # empty, as `find` has seen; Windows renames onto no folder
    os.rename(build, folder)


def _bccd(unpacked: list[Path], folder: Path) -> None:
    """The repository's own lists are the splits; an image's id is the number in its name + 1, never 0."""
    (root,), splits = unpacked, {}
    for split in ("train", "val", "test"):
        stems = sorted((root / f"BCCD/ImageSets/Main/{split}.txt").read_text(encoding="utf-8").split())
        splits[split] = [(root / f"BCCD/Annotations/{s}.xml", root / f"BCCD/JPEGImages/{s}.jpg") for s in stems]
    contents = voc.to_coco(splits, ("RBC", "WBC", "Platelets"), lambda stem, _: int(stem[-5:]) + 1)
    _write(root, folder, splits, contents, dict.fromkeys(splits, "images"))


def _cards(unpacked: list[Path], folder: Path) -> None:
    """The repository's own folders are the splits; photographs end in .jpg and .JPG there, in .jpg here."""
    (root,), splits = unpacked, {}
    for split in ("train", "test"):
        found = sorted((root / "images" / split).iterdir(), key=lambda path: path.name)
        photos = {path.stem: path for path in found if path.suffix.lower() == ".jpg"}
        splits[split] = [(path, photos[path.stem]) for path in found if path.suffix == ".xml"]
    contents = voc.to_coco(splits, ("nine", "ten", "jack", "queen", "king", "ace"))
    _write(root, folder, splits, contents, {split: split for split in splits})


def _write(root: Path, folder: Path, splits: dict, contents: dict, photos: dict[str, str]) -> None:
    """Annotations, photographs (moved, into the folder that `photos` names for their split) and licence."""
    (folder / "annotations").mkdir(parents=True)
    for split, pairs in splits.items():
        (folder / f"annotations/instances_{split}.json").write_text(json.dumps(contents[split]), encoding="utf-8")
        (folder / photos[split]).mkdir(exist_ok=True)
        for xml, photo in pairs:
            os.replace(photo, folder / photos[split] / f"{xml.stem}.jpg")
    os.replace(root / "LICENSE", folder / "LICENSE")


def _coco(unpacked: list[Path], folder: Path) -> None:
    """Nothing to convert; every photograph of the annotations must be there."""
    folder.mkdir(parents=True)
    for part in (part for root in unpacked for part in root.iterdir()):
        os.replace(part, folder / part.name)
    content = json.loads((folder / "annotations/instances_val2017.json").read_text(encoding="utf-8"))
    missing = [i["file_name"] for i in content["images"] if not (folder / "val2017" / i["file_name"]).is_file()]
    if missing:
        raise ValueError(f"{missing[0]} is not among the photographs ({len(missing)} of {len(content['images'])})")


def _github(repository: str, commit: str, size: int, unpacked: int, members: str) -> tuple[Archive]:
    """GitHub's archive of a commit; its bytes may change from day to day, the files in it do not."""
    return (Archive(f"https://github.com/{repository}/archive/{commit}.zip", size, unpacked, f"[^/]+/({members})"),)


SOURCES = {
    "bccd": Source(
        name="bccd",
        archives=_github(
            "Shenggan/BCCD_Dataset",
            "d272fb14cdff6e473fafeeeba32aba5f560e9e43",
            size=8_000_000,
            unpacked=40_000_000,
            members=r"LICENSE|BCCD/(Annotations/[^/]+\.xml|JPEGImages/[^/]+\.jpg|ImageSets/Main/(train|val|test)\.txt)",
        ),
        convert=_bccd,
        counts={"train": (205, 2804), "val": (87, 1137), "test": (72, 945)},
        digests={
            "train": "d1c1da17ee255322a0d09f7da7a9f56a06752b329915b19c4932a2d4b310d33d",
            "val": "13cdb01e23f4afc8c8a73ccd48e4e44588ca1a942cd2122d2694b41b205c53d8",
            "test": "a40e589bd5d614d869d41372069d79c906d4f078ed0b3ce2697e3bb6c3bfac69",
        },
        next="detr-mini train --data {folder} --config photos --start-from toybox-mini --out runs/bccd --minutes 30",
    ),
    "cards": Source(
        name="cards",
        archives=_github(
            "EdjeElectronics/TensorFlow-Object-Detection-API-Tutorial-Train-Multiple-Objects-Windows-10",
            "c1645825822622fc75919b6be253779d49678f55",
            size=60_000_000,
            unpacked=100_000_000,
            members=r"LICENSE|images/(train|test)/[^/]+\.(xml|jpg|JPG)",
        ),
        convert=_cards,
        counts={"train": (296, 527), "test": (67, 143)},
        digests={
            "train": "211e195c444d835ffccc82f75a1ae14e510779f3db33b519c543c374e3e17881",
            "test": "63deef1192cc73fa87089049edd1ca4bd5d1a02d6300009b10b84b8a95d19eaa",
        },
        next="detr-mini train --data {folder} --config photos --start-from toybox-mini --out runs/cards --minutes 25",
    ),
    "coco-val2017": Source(
        name="coco-val2017",
        archives=(
            Archive(
                "http://images.cocodataset.org/zips/val2017.zip",  # the host has no https; the hash protects
                size=815_585_330,
                unpacked=1_000_000_000,
                members=r"val2017/\d+\.jpg",
                sha256="4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
            ),
            Archive(
                "http://images.cocodataset.org/annotations/annotations_trainval2017.zip",
                size=252_907_541,
                unpacked=100_000_000,
                members=r"annotations/instances_val2017\.json",
                sha256="113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
            ),
        ),
        convert=_coco,
        counts={"val": (5000, 36781)},
        digests={},
        next="detr-mini eval --checkpoint detr_resnet50 --data {folder}",
    ),
}
