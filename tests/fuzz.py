"""Broken files by the hundred: each may end in success or in one line that names the file, and in nothing else.

`python tests/fuzz.py --cases 500 --seed 0` runs them all, `--case 137` one of them again with its traceback. A case
depends on (seed, number) alone.
"""

import argparse
import contextlib
import faulthandler
import io
import json
import os
import pickle
import random
import signal
import struct
import sys
import tarfile
import tempfile
import time
import traceback
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from detr_mini import checkpoints, commands, published
from detr_mini.archives import extract
from detr_mini.datasets import transforms
from detr_mini.datasets.batches import check_target
from detr_mini.datasets.coco import CocoFolder
from detr_mini.detection import detect
from detr_mini.detr import DETR, DETRConfig
from detr_mini.runs import load_state

SECONDS, MEMORY = 20, 3 * 2**30  # what a case may take; bytes beyond those the process holds
SHOWN = 300  # characters of a message
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 12345\n"
VALUES = [
    *(None, True, False, -1, 0, 1, 3, 0.5, -2.5, 1e308, -1e308, 2**31, 2**63, 10**400, float("nan"), float("inf")),
    *("", "x", "a\nb", "../secret.png", "/etc/passwd", "C:\\x.png", "\ud800", "a\0b", "y" * 5000, "1"),
    *([], {}, [[]], [1, 2, 3], [1, 2, 3, 4], ["1", "2", "3", "4"], {"id": 1}, [None]),
]


class Hang(BaseException):
    """Raised by the alarm; not an Exception, so that nothing under test can swallow it."""


# Mutations: random.Random and what is to be broken, to what is broken.


def mutate_bytes(rng: random.Random, data: bytes) -> bytes:
    """One to four of: flip bits, cut, insert, zero, repeat; or another file altogether."""
    if rng.random() < 0.08:
        return rng.choice(
            [b"", LFS, b"not what it seems", b"<html><body>404</body></html>", os.urandom(0) + b"\0" * 999]
        )
    broken = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(broken) + 1)
        start = start if rng.random() < 0.5 else min(start, rng.randrange(200))  # headers are where it hurts
        end = min(len(broken), start + rng.choice([1, 4, 16, 200]))
        way = rng.randrange(5)
        if way == 0 and start < len(broken):
            broken[start] ^= 1 << rng.randrange(8)
        elif way == 1:
            del broken[start : end if rng.random() < 0.5 else None]
        elif way == 2:
            broken[start:start] = rng.randbytes(end - start)
        elif way == 3:
            broken[start:end] = bytes(end - start)
        else:
            broken[end:end] = broken[start:end]
    return bytes(broken)


def places(tree, path: tuple = ()) -> Iterator[tuple]:
    """The path of every value in a tree of dicts and lists."""
    yield path
    for key in tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield from places(tree[key], (*path, key))


def at(tree, path: tuple):
    for key in path:
        tree = tree[key]
    return tree


def mutate_tree(rng: random.Random, tree):
    """One to three of: delete, repeat, retype, swap, rename, scale, splice, at random places of a JSON value."""
    tree = {"root": json.loads(json.dumps(tree))}
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        paths = list(places(tree))[1:]
        if not paths:
            break
        path, other = rng.choice(paths), rng.choice(paths)
        parent, key, value = at(tree, path[:-1]), path[-1], at(tree, path)
        way = rng.randrange(7)
        if way == 0 and len(path) > 1:
            del parent[key]
        elif way == 1 and isinstance(parent, list):
            parent.insert(key, json.loads(json.dumps(value)))
        elif way == 2 and path[:1] != path and isinstance(parent, dict):
            parent[rng.choice(["x", "id", "", "bbox", key.upper()])] = parent.pop(key)
        elif way == 3 and isinstance(value, int | float):
            parent[key] = value * rng.choice([-1, 1000, 0.001, 1e300, 0])
        elif way == 4:
            parent[key] = json.loads(json.dumps(at(tree, other)))  # splice: a copy, so that no ring arises
        elif way == 5 and other[: len(path)] != path and path[: len(other)] != other:
            parent[key], at(tree, other[:-1])[other[-1]] = at(tree, other), value
        else:
            parent[key] = rng.choice(VALUES)
    return tree.get("root")


def mutate_json(rng: random.Random, tree) -> bytes:
    """A broken tree as bytes: mostly sound JSON, now and then too deep, of another encoding, or with a key twice."""
    way = rng.randrange(12)
    text = json.dumps(tree if way in (0, 1, 2) else mutate_tree(rng, tree))
    if way == 0:
        return mutate_bytes(rng, text.encode())
    if way == 1:
        return text.replace("[", "[" * rng.choice([2, 500, 200_000]), 1).encode()
    if way == 2:
        key = rng.choice(["images", "annotations", "id", "bbox", "name", "config"])
        return text.replace(f'"{key}"', f'"{key}": [], "{key}"', 1).encode()
    return text.encode(rng.choice(["utf-16", "utf-8-sig", "utf-32"]) if way == 3 else "utf-8")


def mutate_png(rng: random.Random, data: bytes) -> bytes:
    """Whole chunks dropped, repeated, swapped or changed, their checksums right again."""
    chunks, place = [], 8
    while place < len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        chunks.append((data[place + 4 : place + 8], bytearray(data[place + 8 : place + 8 + length])))
        place += 12 + length
    for _ in range(rng.randint(1, 2)):
        i, j = rng.randrange(len(chunks)), rng.randrange(len(chunks))
        kind, body = chunks[i]
        way = rng.randrange(5)
        if way == 0 and len(chunks) > 1:
            del chunks[i]
        elif way == 1:
            chunks.insert(j, (kind, bytearray(body)))
        elif way == 2:
            chunks[i], chunks[j] = chunks[j], chunks[i]
        elif way == 3 and chunks[0][0] == b"IHDR":  # sizes from nothing to absurd
            sides = [0, 1, 30, 40, 9000, 13_000, 20_000, 2**31 - 1]
            chunks[0][1][:8] = struct.pack(">II", rng.choice(sides), rng.choice(sides))
        elif body:
            body[rng.randrange(len(body))] = rng.randrange(256)
    packed = [struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in chunks]
    return data[:8] + b"".join(packed)


def mutate_safetensors(rng: random.Random, data: bytes) -> bytes:
    """A broken header of right length, a broken text inside its metadata, broken weights, or broken bytes."""
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    way = rng.randrange(4)
    if way == 0:
        return mutate_bytes(rng, data)
    if way == 1:
        part = rng.choice(["config", "names", "category_ids", "info"])
        header["__metadata__"][part] = mutate_json(rng, json.loads(header["__metadata__"][part])).decode(
            errors="replace"
        )
        text = json.dumps(header).encode()
    elif way == 2:
        text = mutate_json(rng, header)
    else:
        text, broken = json.dumps(header).encode(), bytearray(body)
        start = 4 * rng.randrange(len(body) // 4)
        broken[start : start + 4] = struct.pack("<f", rng.choice([float("nan"), float("inf"), 1e38]))
        body = bytes(broken)
    return struct.pack("<Q", len(text)) + text + body


def mutate_pth(rng: random.Random, data: bytes) -> bytes:
    """The zip's members dropped, repeated or broken, mostly the pickle; or the bytes of the whole."""
    if rng.random() < 0.3 or not data.startswith(b"PK"):
        return mutate_bytes(rng, data)
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(packed, "w") as new:
        names = old.namelist()
        aim = rng.choice([name for name in names if name.endswith("data.pkl")] + names[:6])
        for name in names:
            content = old.read(name)
            if name == aim and rng.random() < 0.2:
                continue
            new.writestr(name, mutate_bytes(rng, content) if name == aim else content)
    return packed.getvalue()


class Evil:
    """What unpickling would turn into a call of os.mkdir."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


# Archives with members that want out: names, links, devices, twins, lies.

NAMES = ["a/b.txt", "a/./c.txt", "../escaped", "a/../../escaped", "/tmp/escaped", "C:/x", "a\\..\\x", "A/B.TXT", "a",
         "a/b.txt/c", "", ".", "a//d", "x\0y", "e" * 300, "\u202egnp.exe", "con", "a/b.txt "]  # fmt: skip


def make_zip(rng: random.Random) -> bytes:
    packed = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(packed, "w", rng.choice([0, 8, 8, 12, 14])) as archive:
        warnings.simplefilter("ignore")  # zipfile's, about two members of one name
        for name in rng.sample(NAMES[2:], rng.randint(0, 2)) + ["a/b.txt", "d/e.txt"]:
            info = zipfile.ZipInfo(name)
            kinds = [0o100644] * 4 + [0o120777, 0o020644, 0o010644, 0o040755, 0]  # file, link, device, pipe, folder
            info.external_attr = rng.choice(kinds) << 16
            info.compress_type = archive.compression
            archive.writestr(info, rng.choice([b"hello", b"../../escaped", b"\0" * 300_000]))
    return packed.getvalue()


def make_tar(rng: random.Random, compressed: bool) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz" if compressed else "w") as archive:
        for name in rng.sample(NAMES[2:], rng.randint(0, 2)) + ["a/b.txt", "d/e.txt"]:
            info = tarfile.TarInfo(name.replace("\0", "0") or "a")
            info.type = rng.choice([tarfile.REGTYPE] * 5 + [b"1", b"2", b"3", b"6", tarfile.DIRTYPE])
            info.linkname = rng.choice(["../escaped", "a/b.txt", "/etc/passwd"])
            info.size = 5 if info.type == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(b"hello"))
    return packed.getvalue()


class Ground:
    """Sound files in a folder of their own, made once; a case breaks a copy of one of them."""

    def __init__(self, root: Path):
        self.root = root
        torch.manual_seed(0)
        self.config = DETRConfig.mini(num_classes=2, width=16, heads=2, feedforward=16, encoder_layers=1, queries=5)
        self.model = DETR(self.config).eval()
        self.sound = root / "sound.safetensors"
        checkpoints.save(self.sound, self.model, ("cat", "dog"), (3, 7), {"short_side": 32, "long_side": 64})
        self.detector = checkpoints.load(self.sound)
        foreign = {
            key.replace("backbone.", "backbone.0.body.", 1): value for key, value in self.model.state_dict().items()
        }
        torch.save({"model": foreign}, root / "zip.pth")
        torch.save({"model": foreign}, root / "old.pth", _use_new_zipfile_serialization=False)
        torch.save({"model": {}, "optimizer": {}, "scaler": {}, "planned": 3, "progress": {}}, root / "state.pt")
        self.published = {
            name: replace(known, config=known.config and replace(self.config, dilation=known.config.dilation))
            for name, known in published.MODELS.items()
        }
        self.images = list(self._images())
        self.coco = {
            "images": [
                {"id": 10 + i, "file_name": path.name, "width": 40, "height": 30} for i, path in enumerate(self.images)
            ][:6],
            "annotations": [
                {"id": 1, "image_id": 10, "category_id": 3, "bbox": [1, 2, 10.5, 12], "area": 126, "iscrowd": 0},
                {"id": 2, "image_id": 10, "category_id": 7, "bbox": [5, 5, 20, 10], "area": 200, "iscrowd": 0},
                {"id": 3, "image_id": 12, "category_id": 7, "bbox": [0, 0, 40, 30], "area": 1200, "iscrowd": 1},
                *({"id": 5 + i, "image_id": 11 + i, "category_id": 7, "bbox": [9, 9, 9, 9]} for i in range(4)),
                {"id": 4, "image_id": 12, "category_id": 3, "bbox": [20, 10, 30, 30], "segmentation": []},
            ],
            "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
        }

    def _images(self) -> Iterator[Path]:
        picture = Image.effect_noise((40, 30), 60).convert("RGB")
        turned = Image.Exif()
        turned[0x0112] = 3
        folder = self.root / "images"
        folder.mkdir()
        for name, mode, options in [
            ("a.png", "RGB", {}),
            ("b.jpg", "RGB", {"exif": turned}),
            ("c.png", "P", {"transparency": 3}),
            ("d.png", "I;16", {}),
            ("e.png", "LA", {}),
            ("f.jpg", "CMYK", {}),
            ("g.gif", "P", {}),
            ("h.tif", "RGB", {"compression": "tiff_lzw"}),
            ("i.webp", "RGB", {}),
            ("j.jpg", "L", {"progressive": True}),
            ("k.bmp", "RGB", {}),
        ]:
            with contextlib.suppress(KeyError, OSError):  # this Pillow has no WebP
                (picture.convert("L") if mode == "I;16" else picture).convert(mode).save(folder / name, **options)
                yield folder / name

    def folder(self, case: Path, content: bytes, images: list[Path], split: str) -> Path:
        """A COCO folder of these annotations and images, linked."""
        root = case / "data"
        (root / "annotations").mkdir(parents=True)
        (root / "annotations" / f"instances_{split}.json").write_bytes(content)
        (root / "images").mkdir()
        for path in images:
            (root / "images" / path.name).write_bytes(path.read_bytes())
        return root


# Cases: each breaks one file in `case`, and returns names, of which an error must hold one, and what a user would run.
Case = Callable[[random.Random, Ground, Path], tuple[list[str], Callable[[], object]]]


def annotations(rng: random.Random, ground: Ground, case: Path):
    split = rng.choice(["train", "val"])
    root = ground.folder(case, mutate_json(rng, ground.coco), ground.images[:6], split)
    Image.new("RGB", (40, 30)).save(root / "secret.png")  # "../secret.png" must not reach it

    def run():
        if split == "val":
            return commands.evaluate(str(ground.sound), str(root), "val", device="cpu")
        configs = commands.with_settings(commands.read_config("photos"), ["short_side=32", "long_side=64"])
        for data in commands.training_data(str(root), configs):
            for i in range(len(data)):
                assert data.file_name(i).resolve().is_relative_to(root / "images"), "read outside the folder"
                image, target = data[i]
                assert image.dtype == torch.uint8 and len(image) == 3
                check_target(target, len(data.names))

    return [f"instances_{split}.json", f"{root}/images", f"{root} "], run


def image(rng: random.Random, ground: Ground, case: Path):
    path = rng.choice(ground.images)
    data = path.read_bytes()
    broken = mutate_png(rng, data) if path.suffix == ".png" and rng.random() < 0.6 else mutate_bytes(rng, data)
    coco = ground.coco | {"images": [{"id": 10, "file_name": path.name, "width": 40, "height": 30}]}
    coco["annotations"] = coco["annotations"][:2]
    root = ground.folder(case, json.dumps(coco).encode(), [], "val")
    (root / "images" / path.name).write_bytes(broken)

    def run():
        try:
            CocoFolder(root, "val", transforms.evaluation(32, 64))[0]
        finally:  # both ways in, whatever comes of the first
            detect(ground.detector, root / "images" / path.name)

    return [path.name], run


def safetensors(rng: random.Random, ground: Ground, case: Path):
    path = case / "broken.safetensors"
    path.write_bytes(mutate_safetensors(rng, ground.sound.read_bytes()))
    picture = ground.images[0]

    def run():
        loaded = checkpoints.load(path)
        detect(loaded, picture, threshold=0)

    return [path.name, picture.name], run


def pth(rng: random.Random, ground: Ground, case: Path):
    source = rng.choice(["zip.pth", "zip.pth", "old.pth", "state.pt"])
    path, sign = case / f"broken{Path(source).suffix}", case / "executed"
    if rng.random() < 0.1:
        torch.save({"model": {"x": Evil(sign)}}, path, _use_new_zipfile_serialization=rng.random() < 0.5)
    elif rng.random() < 0.05:
        path.write_bytes(pickle.dumps(Evil(sign)))
    else:
        path.write_bytes(mutate_pth(rng, (ground.root / source).read_bytes()))

    def run():
        known, published.MODELS = published.MODELS, ground.published
        try:
            if source == "state.pt":
                load_state(path, torch.device("cpu"))
            checkpoints.load(path, dilation=False, names=["cat", "dog"])
        finally:
            published.MODELS = known
            assert not sign.exists(), "code from the file was run"

    return [path.name], run


def archive(rng: random.Random, ground: Ground, case: Path):
    suffix = rng.choice([".zip", ".tar", ".tar.gz"])
    data = make_zip(rng) if suffix == ".zip" else make_tar(rng, suffix == ".tar.gz")
    path, out = case / f"broken{suffix}", case / "out" / "unpacked"
    out.parent.mkdir()
    path.write_bytes(mutate_bytes(rng, data) if rng.random() < 0.6 else data)

    def run():
        try:
            extract(path, out, limit=2**20)
        except BaseException:
            assert not list(out.parent.iterdir()), "something of a refused archive was left"
            raise
        for item in out.rglob("*"):
            assert not item.is_symlink() and (item.is_file() or item.is_dir()), f"{item.name} is no plain file"

    return [path.name, str(out.parent)], run  # the latter where the disk cannot hold a member


KINDS: list[Case] = [annotations, image, safetensors, annotations, pth, image, archive]


# The run.


def fault_of(names: list[str], error: BaseException | None) -> str:
    """Why this end of a case is a finding; empty if it is none. A good error is one line with one of the names."""
    if error is None:
        return ""
    kind = type(error).__name__
    if not isinstance(error, ValueError | OSError | RuntimeError) or isinstance(error, RecursionError):
        return f"{kind}: {error}"
    if not any(name in str(error) for name in names):
        return f"{kind} without the file's name: {error}"
    return f"{kind} of several lines: {error}" if "\n" in str(error) else ""


@contextlib.contextmanager
def guarded(seconds: float) -> Iterator[None]:
    """Inside, too much time raises Hang and too much memory a MemoryError, where the system has such limits."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return
    import resource

    def ring(number, frame):
        raise Hang(f"longer than {seconds} s")

    held = (
        int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if sys.platform == "linux" else 0
    )
    before, limits = signal.signal(signal.SIGALRM, ring), resource.getrlimit(resource.RLIMIT_AS)
    if held:
        resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, limits[1]))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, limits)


def run_case(number: int, seed: int, ground: Ground, loud: bool = False) -> tuple[str, str, str]:
    """(kind, finding or "", error's message or "") of one case."""
    rng = random.Random(f"{seed}-{number}")
    make = KINDS[number % len(KINDS)]
    torch.manual_seed(number)
    with tempfile.TemporaryDirectory(dir=ground.root, prefix=f"case{number}-") as folder:
        case = Path(folder)
        names, run = make(rng, ground, case)
        outside = {path for path in ground.root.rglob("*") if "unpacked" not in path.parts}
        error = None
        try:
            quiet = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
            with quiet[0], quiet[1], guarded(SECONDS):
                run()
        except (Exception, Hang, SystemExit) as caught:
            error = caught
            if loud:
                traceback.print_exception(caught)
        finding = fault_of(names, error)
        new = {path for path in ground.root.rglob("*") if "unpacked" not in path.parts} - outside
        if new or Path("/tmp/escaped").exists():
            finding = f"written outside: {sorted(map(str, new)) or '/tmp/escaped'}"
    return make.__name__, finding, str(error or "")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="run this one again, with its traceback")
    options = parser.parse_args(arguments)
    numbers = range(options.cases) if options.case is None else [options.case]
    ends, findings, start, longest = Counter(), 0, time.perf_counter(), (0.0, 0)
    with tempfile.TemporaryDirectory() as folder:
        ground = Ground(Path(folder).resolve())
        for number in numbers:
            began = time.perf_counter()
            kind, finding, message = run_case(number, options.seed, ground, loud=options.case is not None)
            longest = max(longest, (time.perf_counter() - began, number))
            ends[kind, "finding" if finding else "error" if message else "success"] += 1
            if finding:
                findings += 1
                print(f"seed {options.seed}, case {number} ({kind}): {finding[:SHOWN]}", flush=True)
    for kind, end in sorted(ends):
        print(f"{kind:12} {end:8} {ends[kind, end]:4}")
    seconds = time.perf_counter() - start
    print(f"{len(numbers)} cases in {seconds:.0f} s, the longest {longest[0]:.1f} s (case {longest[1]})")
    print(f"{findings} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    faulthandler.enable()
    sys.exit(main())
