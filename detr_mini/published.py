"""The authors' published models (facebookresearch/detr): their files, and their names for what we hold."""

import pickle
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from detr_mini import download
from detr_mini.detr import DETRConfig

ADDRESS = "https://dl.fbaipublicfiles.com/detr/"
# Label = COCO's category id, so 0 and ten more labels never occur. The ids and names are torchvision's.
COCO_IDS = tuple(range(91))
COCO_NAMES = ("N/A", *FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"][1:])


@dataclass(frozen=True)
class Published:
    """One published model; the eight digits in its file's name begin the file's SHA-256."""

    file: str
    config: DETRConfig | None  # None: the demo, which is `listing.DETR`
    ap: float  # on COCO's val2017, as published
    batch_size: int  # images a batch it was trained with on each GPU; padding changes AP, DC5's most


MODELS = {
    "detr_resnet50": Published("detr-r50-e632da11.pth", DETRConfig(), 42.0, 2),
    "detr_resnet50_dc5": Published("detr-r50-dc5-f0fb7ef5.pth", DETRConfig(dilation=True), 43.3, 1),
    "detr_resnet101": Published("detr-r101-2c7b67e5.pth", DETRConfig(backbone="resnet101"), 43.5, 2),
    "detr_resnet101_dc5": Published(
        "detr-r101-dc5-a2e86def.pth", DETRConfig(backbone="resnet101", dilation=True), 44.9, 1
    ),
    "detr_demo": Published("detr_demo-da2a99e9.pth", None, 40.0, 1),
}


def fetch(name: str, out: str | Path | None = None) -> Path:
    """The file of a published model: from torch.hub's cache, from `data/weights` (or `out`), else over the network.

    Raises what `download.fetch` raises.
    """
    file = MODELS[name].file
    cached = download.hub_cache() / file
    path = cached if cached.is_file() and not out else Path(out or download.folder("weights")).expanduser() / file
    return download.fetch(ADDRESS + file, path, hash_in(file))


def hash_in(file_name: str) -> str:
    """The eight hexadecimal digits at the end of a published file's name, or nothing."""
    found = re.search(r"-([0-9a-f]{8})\.pth$", file_name)
    return found[1] if found else ""


def recognise(path: Path, dilation: bool | None = None) -> str:
    """Which published model a `.pth` file is: by its name, else by its hash, else by its keys and `dilation` (DC5).

    Raises ValueError where a published name's hash is not the file's, or where neither name nor hash is known and
    `dilation` is not given: no key tells a DC5 model from a plain one.
    """
    stem, digits = path.name.removesuffix(".pth"), hash_in(path.name)
    for name, model in MODELS.items():
        if stem.removesuffix(f"-{digits}") == model.file.removesuffix(f"-{hash_in(model.file)}.pth"):
            download.check(path, digits)
            return name
    found = download.sha256(path)
    for name, model in MODELS.items():
        if found.startswith(hash_in(model.file)):
            return name
    tensors = read(path)
    if "row_embed" in tensors:
        return "detr_demo"
    if dilation is None and "backbone.0.body.conv1.weight" in tensors:
        raise ValueError(
            f"{path}: neither its name nor its hash is a published one, and keys cannot tell a DC5 model from a plain "
            "one (same names, same shapes): pass dilation=True for DC5, dilation=False for plain"
        )
    depth = "101" if "backbone.0.body.layer3.6.conv1.weight" in tensors else "50"
    return f"detr_resnet{depth}{'_dc5' if dilation else ''}"


def check_dilation(name: str, dilation: bool | None, source: str | Path) -> None:
    """ValueError if `dilation` is given and is not that of the published model: every weight would fit."""
    config = MODELS[name].config
    if dilation is not None and (config is None or config.dilation != dilation):
        made = "without it" if config is None else f"with dilation={config.dilation}"
        raise ValueError(
            f"{source} is {name}, made {made}, but dilation={dilation} was asked for: every weight would fit, and "
            "the boxes would be wrong"
        )


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of an authors' file, read without running any code from it.

    Raises ValueError where the file is cut short, holds Python objects, or holds no state dict.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than tensors, and such a file could run any code: if you trust it, load it yourself "
            'with weights_only=False and save {"model": its["model"]} alone (training checkpoints of the authors\' '
            f"code also hold their command line). Or it is no PyTorch file at all. ({str(error).splitlines()[0]})"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is not a whole PyTorch file: cut short? ({str(error).splitlines()[0]})") from error
    tensors = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise ValueError(f"{path} holds no state dict: wanted {{'model': {{name: tensor}}}}")
    return tensors


def our_keys(tensors: dict[str, Tensor], source: str | Path, classes: int = len(COCO_IDS)) -> dict[str, Tensor]:
    """The tensors of a published model under our names, float32; every key is kept, so that what is left over shows.

    Raises ValueError where they are those of another kind of model, or of other than `classes` classes.
    """
    for sign, what in FOREIGN.items():
        if any(key.startswith(sign) for key in tensors):
            raise ValueError(f"{source} holds {what}, not a DETR of boxes in the authors' format (key {sign}...)")
    head = tensors.get("class_embed.weight")
    if head is not None and len(head) != classes + 1:
        raise ValueError(
            f'{source}: its class head has {len(head)} rows, {classes} classes and "no object" make {classes + 1}. '
            f"A model of other classes: give their {len(head) - 1} names by label, load(path, names=[...])"
        )
    return {key.replace("backbone.0.body.", "backbone.", 1): value.float() for key, value in tensors.items()}


# How keys of files begin that people take for a DETR.
FOREIGN = {
    "detr.": "the panoptic model",
    "model.": "Hugging Face's DETR",
    "layer4.": "an ImageNet backbone alone",
    "row_embed": "the demo of fifty lines",
}
