"""The published models' way in, tried with random values in their format.

Names and shapes come from torchvision's ResNets and torch's transformer layers, never from our model or our map.
"""

import hashlib
import http.server
import io
import json
import shutil
import socket
import threading
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from detr_mini import checkpoints, cli, commands, download, listing, published, training
from detr_mini.detr import DETR, DETRConfig

D, HEADS, FEEDFORWARD = 256, 8, 2048


def published_format(depth: int = 50, classes: int = 91) -> dict[str, torch.Tensor]:
    """Random values under the names of reference implementations, put together as the authors' file has them."""
    body = getattr(torchvision.models, f"resnet{depth}")(weights=None, norm_layer=FrozenBatchNorm2d)
    encoder = nn.TransformerEncoderLayer(D, HEADS, FEEDFORWARD)
    decoder = nn.TransformerDecoderLayer(D, HEADS, FEEDFORWARD)
    shapes = {f"backbone.0.body.{k}": v for k, v in body.state_dict().items() if not k.startswith("fc.")}
    for stack, layer in (("encoder", encoder), ("decoder", decoder)):
        for i in range(6):
            shapes |= {f"transformer.{stack}.layers.{i}.{k}": v for k, v in layer.state_dict().items()}
    outer = {
        "transformer.decoder.norm": nn.LayerNorm(D),
        "class_embed": nn.Linear(D, classes + 1),
        "bbox_embed.layers.0": nn.Linear(D, D),
        "bbox_embed.layers.1": nn.Linear(D, D),
        "bbox_embed.layers.2": nn.Linear(D, 4),
        "query_embed": nn.Embedding(100, D),
        "input_proj": nn.Conv2d(2048, D, 1),
    }
    shapes |= {f"{name}.{k}": v for name, module in outer.items() for k, v in module.state_dict().items()}
    torch.manual_seed(depth)
    return {k: random_value(k, v.shape) for k, v in shapes.items()}


def random_value(name: str, shape: torch.Size) -> torch.Tensor:
    """Values with which a hundred layers neither overflow nor die out."""
    if len(shape) > 1:
        return torch.randn(shape) / shape[1:].numel() ** 0.5
    return torch.rand(shape) * 0.1 + (0.5 if name.endswith(("weight", "running_var")) else 0)


def written(folder: Path, stem: str, tensors: dict) -> Path:
    """A file as published: {'model': ...}, the start of its hash in its name."""
    unnamed = folder / "unnamed"
    torch.save({"model": tensors}, unnamed)
    digits = hashlib.sha256(unnamed.read_bytes()).hexdigest()[:8]
    return unnamed.rename(folder / f"{stem}-{digits}.pth")


@pytest.fixture(scope="module")
def tensors():
    return published_format()


@pytest.fixture(scope="module")
def r50(tensors, tmp_path_factory):
    return written(tmp_path_factory.mktemp("r50"), "detr-r50", tensors)


@pytest.fixture
def dc5(r50, tmp_path):
    """The same bytes under the DC5 model's name: the published pair, too, differs in nothing but values."""
    return shutil.copy(r50, tmp_path / r50.name.replace("r50-", "r50-dc5-"))


@pytest.fixture
def no_network(monkeypatch):
    """Any connection but one to this machine fails the test."""
    connect = socket.socket.connect

    def guarded(self, address):
        assert address[0] == "127.0.0.1", f"something connects to {address}"
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.mark.parametrize(("depth", "keys", "parameters"), [(50, 458, 41_524_768), (101, 713, 60_464_672)])
def test_every_key_finds_its_place(depth, keys, parameters, tmp_path, no_network):
    tensors = published_format(depth)
    assert len(tensors) == keys
    loaded = checkpoints.load(written(tmp_path, f"detr-r{depth}", tensors))
    model = loaded.model
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert model.config == DETRConfig(backbone=f"resnet{depth}") and not model.training
    own = model.state_dict()
    assert len(own) == keys
    for key, value in tensors.items():
        # our own name for a published one, spelled out here: the sub-module `0.body` is not ours
        assert torch.equal(
            own[".".join(p for p in key.split(".") if p != "body").replace("backbone.0", "backbone")], value
        )
    assert loaded.category_ids == tuple(range(91)) and loaded.names[90] == "toothbrush" and loaded.names[0] == "N/A"
    assert loaded.info == {"published": f"detr_resnet{depth}", "short_side": 800, "long_side": 1333, "batch_size": 2}


def test_published_addresses_are_the_references():
    files = {name: model.file for name, model in published.MODELS.items()}
    assert published.ADDRESS == "https://dl.fbaipublicfiles.com/detr/"
    assert files == {
        "detr_resnet50": "detr-r50-e632da11.pth",
        "detr_resnet50_dc5": "detr-r50-dc5-f0fb7ef5.pth",
        "detr_resnet101": "detr-r101-2c7b67e5.pth",
        "detr_resnet101_dc5": "detr-r101-dc5-a2e86def.pth",
        "detr_demo": "detr_demo-da2a99e9.pth",
    }
    dilation = {name: model.config.dilation for name, model in published.MODELS.items() if model.config}
    assert dilation == {name: name.endswith("dc5") for name in dilation}


def test_the_name_decides_what_no_key_shows(r50, dc5):
    assert checkpoints.load(dc5).model.config.dilation
    assert checkpoints.load(dc5).info["batch_size"] == 1
    assert not checkpoints.load(r50, dilation=False).model.config.dilation


@pytest.mark.parametrize("wrong", [True, False])
def test_the_wrong_dc5_flag(wrong, r50, dc5):
    with pytest.raises(ValueError, match=f"made with dilation={not wrong}, but dilation={wrong}.*boxes would be wrong"):
        checkpoints.load(r50 if wrong else dc5, dilation=wrong)


def test_a_renamed_file_must_say_its_dilation_unless_its_hash_is_known(r50, tmp_path, monkeypatch):
    renamed = shutil.copy(r50, tmp_path / "mine.pth")
    with pytest.raises(ValueError, match="cannot tell a DC5 model from a plain one.*dilation=True"):
        checkpoints.load(renamed)
    assert checkpoints.load(renamed, dilation=True).model.config.dilation
    known = replace(published.MODELS["detr_resnet50_dc5"], file=r50.name.replace("r50", "r50-dc5"))
    monkeypatch.setitem(published.MODELS, "detr_resnet50_dc5", known)
    assert checkpoints.load(renamed).model.config.dilation
    with pytest.raises(ValueError, match="is detr_resnet50_dc5, made with dilation=True"):
        checkpoints.load(renamed, dilation=False)


def test_another_number_of_classes(tensors, tmp_path):
    other = tensors | {"class_embed.weight": torch.zeros(4, D), "class_embed.bias": torch.zeros(4)}
    path = written(tmp_path, "detr-r50", other)
    with pytest.raises(ValueError, match=r'class head has 4 rows, 91 classes and "no object" make 92.*names=\[...\]'):
        checkpoints.load(path)
    loaded = checkpoints.load(path, names=["a", "b", "c"])
    assert loaded.model.config.num_classes == 3 and loaded.category_ids == (0, 1, 2)
    with pytest.raises(ValueError, match="class head has 4 rows, 2 classes"):
        checkpoints.load(path, names=["a", "b"])


def test_a_file_cut_short(r50, tmp_path):
    cut = tmp_path / r50.name
    cut.write_bytes(r50.read_bytes()[:1_000_000])
    with pytest.raises(ValueError, match=r"wanted [0-9a-f]{8}: cut short \(1,000,000 bytes\)"):
        checkpoints.load(cut)
    cut = cut.rename(tmp_path / "unnamed.pth")
    with pytest.raises(ValueError, match="not a whole PyTorch file: cut short"):
        checkpoints.load(cut, dilation=False)


def hugging_face(tensors):
    return {"model.encoder.layers.0.fc1.weight": torch.zeros(2, 2)}


def panoptic(tensors):
    return {f"detr.{key}": value for key, value in tensors.items()}


def imagenet(tensors):
    return {key.removeprefix("backbone.0.body."): value for key, value in tensors.items() if "body" in key}


def five_layers(tensors):
    return {key: value for key, value in tensors.items() if "encoder.layers.5" not in key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (hugging_face, "holds Hugging Face's DETR"),
        (panoptic, "holds the panoptic model"),
        (imagenet, "holds an ImageNet backbone alone"),
        (five_layers, "12 tensors missing"),
        (lambda tensors: tensors | {"spare": torch.zeros(1)}, r"1 left over \(spare"),
        (lambda tensors: tensors | {"query_embed.weight": torch.zeros(100, 128)}, "query_embed.weight has shape"),
        (lambda tensors: [1, 2], "holds no state dict"),
    ],
)
def test_another_models_file(change, message, tensors, tmp_path):
    path = tmp_path / "mine.pth"
    torch.save({"model": change(tensors)}, path)
    with pytest.raises(ValueError, match=message):
        checkpoints.load(path, dilation=False)


class Intruder:
    def __reduce__(self):
        return (open, ("intruder-was-here", "w"))


def test_code_inside_a_file_does_not_run(tensors, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": tensors, "args": Intruder()}, tmp_path / "mine.pth")
    with pytest.raises(ValueError, match="could run any code"):
        checkpoints.load(tmp_path / "mine.pth", dilation=False)
    assert not Path("intruder-was-here").exists()


@pytest.fixture
def mirror(r50, tmp_path, monkeypatch):
    """The published address, moved to this machine; a list of what was asked for, and where it goes."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(r50.parent))

        def log_message(self, text, *values):
            asked.append(self.path)

    (tmp_path / "data" / "checkpoints").mkdir(parents=True)
    monkeypatch.setattr(download, "DATA", tmp_path / "data")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    known = replace(published.MODELS["detr_resnet50"], file=r50.name)
    monkeypatch.setitem(published.MODELS, "detr_resnet50", known)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        monkeypatch.setattr(published, "ADDRESS", f"http://127.0.0.1:{server.server_address[1]}/")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield asked, tmp_path
        server.shutdown()
        thread.join()


def test_by_name_over_the_network_once(mirror, r50, no_network, capsys):
    asked, folder = mirror
    assert checkpoints.load("detr_resnet50").model.config == DETRConfig()
    assert asked == [f"/{r50.name}"], "one file, and no ImageNet weights"
    assert r50.name in capsys.readouterr().err, "the progress bar names the file"
    assert (folder / "data" / "weights" / r50.name).is_file()
    checkpoints.load("detr_resnet50")
    assert len(asked) == 1, "the second time it comes from the disk"
    with pytest.raises(ValueError, match="detr_resnet50, made with dilation=False"):
        checkpoints.load("detr_resnet50", dilation=True)


def test_what_torch_hub_has_fetched_before_is_taken(mirror, r50):
    asked, folder = mirror
    (folder / "hub" / "checkpoints").mkdir(parents=True)
    shutil.copy(r50, folder / "hub" / "checkpoints")
    checkpoints.load("detr_resnet50")
    assert not asked


def test_fine_tuning_fetches_nothing_but_the_checkpoint(mirror, no_network):
    asked, _ = mirror
    start = checkpoints.load("detr_resnet50")
    config = DETRConfig(num_classes=3)
    model = training.build_model(config, training.TrainConfig(pretrained=True), start)
    assert len(asked) == 1
    assert torch.equal(model.backbone.layer4[0].conv1.weight, start.model.backbone.layer4[0].conv1.weight)
    with pytest.raises(ValueError, match="dilation=False, the model dilation=True"):
        training.build_model(replace(config, dilation=True), training.TrainConfig(), start)


def test_the_demo_is_the_listing(tmp_path):
    demo = nn.ModuleDict(
        {
            "backbone": torchvision.models.resnet50(weights=None),
            "conv": nn.Conv2d(2048, D, 1),
            "transformer": nn.Transformer(D, HEADS, 6, 6, FEEDFORWARD, batch_first=True),
            "linear_class": nn.Linear(D, 92),
            "linear_bbox": nn.Linear(D, 4),
        }
    )
    tensors = {k: v.half() if v.is_floating_point() else v for k, v in demo.state_dict().items() if ".fc." not in k}
    tensors |= {
        "query_pos": torch.rand(100, D),
        "row_embed": torch.rand(50, D // 2),
        "col_embed": torch.rand(50, D // 2),
    }
    assert len(tensors) == 511
    path = tmp_path / "mine.pth"
    torch.save(tensors, path)
    loaded = checkpoints.load(path)
    assert isinstance(loaded.model, listing.DETR) and loaded.info["published"] == "detr_demo"
    assert torch.equal(loaded.model.col_embed, tensors["col_embed"])
    with pytest.raises(ValueError, match="demo of fifty lines"):
        commands.evaluate(str(path), "anywhere")


# Evaluation on photographs: every query answers with one class and a box as large as the image, so that
# pycocotools, fed by hand from the annotation file, gives the expected AP. 99053 is filled by a table (67).
# 553664 holds a crowd of books (84) over 60 % of it: there, a detection of a book is neither right nor wrong.
IMAGES = {67: (99053, 519208), 84: (553664, 99053)}


@pytest.mark.parametrize("category", IMAGES)
def test_evaluation_on_coco_with_its_gaps_and_crowds(category, tensors, photos, tmp_path, capsys):
    content = cut_out(photos("coco_mini"), category, tmp_path / "coco")
    rigged = dict(tensors)
    for key in ("class_embed.weight", "class_embed.bias", "bbox_embed.layers.2.weight", "bbox_embed.layers.2.bias"):
        rigged[key] = torch.zeros_like(tensors[key])
    rigged["class_embed.bias"][category] = 5.0
    rigged["bbox_embed.layers.2.bias"] = torch.tensor([0.0, 0.0, 12.0, 12.0])
    path = written(tmp_path, "detr-r50", rigged)
    report = tmp_path / "report.json"
    command = ["eval", "--checkpoint", str(path), "--data", str(tmp_path / "coco"), "--json", str(report)]
    assert cli.main(command) == 0, capsys.readouterr().err
    (found,) = json.loads(report.read_text())

    expected = by_hand(content, category)
    assert found["ap"] == pytest.approx(expected[0], abs=1e-9) and found["ap50"] == pytest.approx(expected[1], abs=1e-9)
    assert expected[1] > 0, "the test sees something"
    if category == 84:
        for annotation in content["annotations"]:
            annotation["iscrowd"] = 0
        assert by_hand(content, category)[1] != expected[1], "and it sees the crowd"
    names = {c["id"]: c["name"] for c in content["categories"]}
    hit = {name for name, value in found["per_class"].items() if value}
    assert hit == {names[category]} and found["images"] == len(IMAGES[category])


def cut_out(source: Path, category: int, target: Path) -> dict:
    """A COCO folder of a few photographs in which the largest table is called `category`; returns its annotations."""
    content = json.loads((source / "annotations" / "instances_val2017.json").read_text())
    kept = IMAGES[category]
    content["images"] = sorted((i for i in content["images"] if i["id"] in kept), key=lambda i: kept.index(i["id"]))
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
    table = max((a for a in content["annotations"] if a["category_id"] == 67), key=lambda a: a["area"])
    table["category_id"] = category
    assert len(content["categories"]) == 80, "of ids up to 90: gaps"
    (target / "annotations").mkdir(parents=True)
    (target / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    (target / "val2017").mkdir()
    for image in content["images"]:
        shutil.copy(source / "val2017" / image["file_name"], target / "val2017")
    return content


def by_hand(content: dict, category: int) -> list[float]:
    with redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = content
        truth.createIndex()
        entries = [
            {"image_id": i["id"], "category_id": category, "bbox": [0, 0, i["width"], i["height"]], "score": 0.6}
            for i in content["images"]
            for _ in range(100)
        ]
        scorer = COCOeval(truth, truth.loadRes(entries), "bbox")
        scorer.evaluate()
        scorer.accumulate()
        scorer.summarize()
    return scorer.stats.tolist()


def test_data_with_classes_that_coco_has_not(r50, tmp_path):
    loaded = checkpoints.load(r50)

    class Cards:
        names, category_ids = ("ace", "person"), (1, 2)

    with pytest.raises(ValueError, match=r"lacks ace \(id 1\), person \(id 2\)"):
        commands.category_ids(loaded, Cards, "detr_resnet50", "cards")


def test_our_own_checkpoint_keeps_its_dilation(tmp_path):
    torch.manual_seed(0)
    config = DETRConfig.mini(num_classes=1, width=32, feedforward=32, encoder_layers=1)
    checkpoints.save(tmp_path / "a.safetensors", DETR(config), ("cat",), (17,))
    with pytest.raises(ValueError, match="made with dilation=False, but dilation=True"):
        checkpoints.load(tmp_path / "a.safetensors", dilation=True)
