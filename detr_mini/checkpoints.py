"""Models on disk: our safetensors, which hold configuration, class names and id table, and the published models."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from detr_mini import listing, published
from detr_mini.detr import DETR, DETRConfig

SHIPPED = Path(__file__).resolve().parent.parent / "data" / "checkpoints"
FORMAT = "detr-mini 1"
# Fields of a configuration that change what the weights mean and leave no trace in their names or shapes.
UNSEEN = ("heads", "dilation", "pre_norm", "position", "temperature")


@dataclass(frozen=True)
class Checkpoint:
    """A model in evaluation mode, class names and category ids by label, and facts about its making."""

    model: DETR | listing.DETR  # the latter for "detr_demo" alone
    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    info: dict = field(default_factory=dict)  # short_side, long_side (px or None), batch_size, steps, AP ...


def save(
    path: str | Path,
    model: DETR,
    names: tuple[str, ...],
    category_ids: tuple[int, ...],
    info: dict | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Writes the model so that a reader sees the old file or the new one, never half of it.

    Floating-point tensors are stored as `dtype`. Raises ValueError if names or ids do not fit num_classes.
    """
    if not len(names) == len(category_ids) == model.config.num_classes:
        raise ValueError(
            f"{len(names)} names and {len(category_ids)} category ids for a model of {model.config.num_classes} "
            "classes: each label 0..K-1 needs one of both"
        )
    metadata = {
        "format": FORMAT,
        "config": json.dumps(asdict(model.config)),
        "names": json.dumps(list(names)),
        "category_ids": json.dumps(list(category_ids)),
        "info": json.dumps(info or {}),
    }
    tensors = {
        key: (value.to(dtype) if value.is_floating_point() else value).detach().cpu().contiguous()
        for key, value in model.state_dict().items()
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".partial")
    save_file(tensors, unfinished, metadata)
    os.replace(unfinished, path)


def find(name_or_path: str | Path) -> Path:
    """The file of a path, or of a shipped checkpoint's name such as "toybox-mini"; FileNotFoundError if neither."""
    path = Path(name_or_path)
    if path.is_file():
        return path
    if path.is_dir() and (path / "best.safetensors").is_file():
        return path / "best.safetensors"
    shipped = SHIPPED / f"{name_or_path}.safetensors"
    if shipped.is_file():
        return shipped
    if not SHIPPED.is_dir():
        raise FileNotFoundError(
            f"no file {name_or_path}, and no folder data/checkpoints beside the package: shipped checkpoints come "
            "with a checkout; git clone the project and run pip install -e . inside it"
        )
    known = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.safetensors"))) or "none"
    raise FileNotFoundError(
        f"no file {name_or_path}, and no shipped checkpoint of that name (there are: {known}; "
        f"published, to be fetched: {', '.join(published.MODELS)})"
    )


def load(
    name_or_path: str | Path,
    device: str | torch.device = "cpu",
    dilation: bool | None = None,
    names: Sequence[str] | None = None,
) -> Checkpoint:
    """Reads a checkpoint: a path, a shipped name, or a published one, which is fetched if it is not here yet.

    Published are detr_resnet50, detr_resnet101, both also with _dc5, and detr_demo; the network is used for them
    alone. `dilation` (DC5) and `names` (K class names by label, COCO's 91 if None) are for `.pth` files in the format
    of the authors' code. Raises FileNotFoundError, OSError where a download fails, or ValueError where the file is
    cut short, of another model, of other classes, or `dilation` is wrong or wanting.
    """
    name = str(name_or_path)
    path = published.fetch(name) if name in published.MODELS else find(name_or_path)
    if path.suffix in (".pth", ".pt"):
        name = name if name in published.MODELS else published.recognise(path, dilation)
        published.check_dilation(name, dilation, path)
        checkpoint = _load_published(path, name, names)
    else:
        checkpoint = _load_ours(path)
        own = checkpoint.model.config.dilation
        if dilation is not None and dilation != own:
            raise ValueError(f"{path} was made with dilation={own}, but dilation={dilation} was asked for")
    checkpoint.model.to(device).eval()
    return checkpoint


def _load_published(path: Path, name: str, names: Sequence[str] | None) -> Checkpoint:
    known, tensors = published.MODELS[name], published.read(path)
    info = {"published": name, "short_side": 800, "long_side": 1333, "batch_size": known.batch_size}
    if known.config is None:
        model = listing.DETR(len(published.COCO_IDS), feature_scale=0.1)
        load_weights(model, listing.demo_keys(tensors), path)
        return Checkpoint(model, published.COCO_NAMES, published.COCO_IDS, info)
    names = tuple(published.COCO_NAMES if names is None else names)
    tensors = published.our_keys(tensors, path, len(names))
    queries = len(tensors["query_embed.weight"]) if "query_embed.weight" in tensors else known.config.queries
    model = DETR(replace(known.config, num_classes=len(names), queries=queries))
    load_weights(model, tensors, path)
    return Checkpoint(model, names, tuple(range(len(names))), info)


def _load_ours(path: Path) -> Checkpoint:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}): cut short, or another format") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} has no metadata of {FORMAT!r}: it is not a checkpoint written by detr-mini")
    settings = json.loads(metadata["config"])
    unknown = set(settings) - {f.name for f in fields(DETRConfig)}
    if unknown:
        raise ValueError(f"{path} has settings that this version does not know: {', '.join(sorted(unknown))}")
    model = DETR(DETRConfig(**settings))
    load_weights(model, tensors, path)
    names, ids = tuple(json.loads(metadata["names"])), tuple(json.loads(metadata["category_ids"]))
    return Checkpoint(model, names, ids, json.loads(metadata["info"]))


def load_weights(model: DETR | listing.DETR, tensors: dict[str, torch.Tensor], source: str | Path) -> None:
    """Fills the model with tensors by name; ValueError that names what is missing, left over or of other shape."""
    own = model.state_dict()
    missing, left_over = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    if missing or left_over:
        raise ValueError(
            f"{source} holds another model: {len(missing)} tensors missing ({', '.join(missing[:3])} ...), "
            f"{len(left_over)} left over ({', '.join(left_over[:3])} ...)"
        )
    for key, value in own.items():
        if value.shape != tensors[key].shape:
            raise ValueError(
                f"{source}: {key} has shape {tuple(tensors[key].shape)}, the model wants {tuple(value.shape)}"
            )
    model.load_state_dict(tensors)


def transfer(model: DETR, start: DETR) -> list[str]:
    """Fills what fits by name and shape, for fine-tuning, and returns the names that stay as they were drawn.

    Raises ValueError where the two differ in a setting that no name or shape shows, or where less than half of the
    transformer fits: that would be training from scratch in disguise.
    """
    for name in UNSEEN:
        wanted, found = getattr(model.config, name), getattr(start.config, name)
        if wanted != found:
            raise ValueError(
                f"the checkpoint to start from has {name}={found}, the model {name}={wanted}: its weights fit, but "
                f"would mean something else; set {name}={found}"
            )
    own, tensors = model.state_dict(), start.state_dict()
    fitting = {key: value for key, value in tensors.items() if key in own and own[key].shape == value.shape}
    transformer = [key for key in own if key.startswith("transformer.")]
    kept = sum(own[key].numel() for key in transformer if key in fitting)
    if kept < 0.5 * sum(own[key].numel() for key in transformer):
        raise ValueError(
            "the checkpoint to start from shares less than half of the transformer's weights with the model: "
            "another width, or other numbers of layers?"
        )
    model.load_state_dict(fitting, strict=False)
    return sorted(own.keys() - fitting.keys())
