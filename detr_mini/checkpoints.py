"""Models on disk: our safetensors, which hold configuration, class names and id table, and the published models."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialized

from detr_mini import listing, published
from detr_mini.detr import DETR, DETRConfig

SHIPPED = Path(__file__).resolve().parent.parent / "data" / "checkpoints"
FORMAT = "detr-mini 1"
LARGEST_SIDE_PX = 10_000  # of a network's input, as a checkpoint's metadata may ask for
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
    unfinished.write_bytes(serialized(tensors, metadata))  # safetensors' own save_file, killed, leaves a nameless file
    os.replace(unfinished, path)


def find(name_or_path: str | Path) -> Path:
    """The file of a path, or of a shipped checkpoint's name such as "toybox-mini"; FileNotFoundError if neither."""
    path = Path(name_or_path)
    if path.is_file():
        return path
    if path.is_dir():
        if (path / "best.safetensors").is_file():
            return path / "best.safetensors"
        held = ", ".join(sorted(file.name for file in path.glob("*.safetensors"))) or "no checkpoint"
        raise FileNotFoundError(f"{path} is a folder without best.safetensors; it holds {held}")
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
        try:
            name = name if name in published.MODELS else published.recognise(path, dilation)
            published.check_dilation(name, dilation, path)
            checkpoint = _load_published(path, name, names)
        except (ValueError, RuntimeError, FileNotFoundError, PermissionError):
            raise
        except Exception as error:  # torch.load raises whatever it runs into among broken bytes
            raise ValueError(f"{path} is not a whole PyTorch file ({error}): cut short?") from error
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
    # An empty file cannot be mapped into memory, and a header may announce what torch has no word for.
    except (SafetensorError, OSError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        said = " ".join(str(error).split())[:200]  # it quotes the header, lines and all
        raise ValueError(f"{path} is not a whole safetensors file ({said}): {_cause(path)}") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} has no metadata of {FORMAT!r}: it is not a checkpoint written by detr-mini")
    config = _config(path, _part(path, metadata, "config", dict), tensors)
    names, ids = (_part(path, metadata, key, list) for key in ("names", "category_ids"))
    if not len(names) == len(ids) == config.num_classes:
        raise ValueError(
            f"{path}: {len(names)} names and {len(ids)} category ids for a model of {config.num_classes} classes"
        )
    if not all(isinstance(name, str) for name in names) or not all(type(number) is int for number in ids):
        raise ValueError(f"{path}: names must be texts, category ids whole numbers")
    try:
        model = DETR(config)
    except ValueError as error:
        raise ValueError(f"{path}: its configuration makes no model: {error}") from error
    load_weights(model, tensors, path)
    return Checkpoint(model, tuple(names), tuple(ids), _info(path, metadata))


def _cause(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(16)
    if start == b"version https://":
        return "it is a git-LFS pointer, git lfs pull fetches the file"
    if start[:2] == b"PK":
        return "it looks like a .pth file under another name"
    return "cut short, or another format" if start else "the file is empty"


def _part(path: Path, metadata: dict[str, str], key: str, kind: type):
    try:
        value = json.loads(metadata[key])
    except (KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: its metadata has no readable {key!r} ({error}): a damaged header?") from error
    if not isinstance(value, kind):
        raise ValueError(f"{path}: {key} in its metadata is no {kind.__name__}: a damaged header?")
    return value


def _config(path: Path, settings: dict, tensors: dict[str, torch.Tensor]) -> DETRConfig:
    """The configuration, once kinds and sizes are known to fit: a damaged one could ask for terabytes."""
    unknown = set(settings) - {f.name for f in fields(DETRConfig)}
    if unknown:
        raise ValueError(f"{path} has settings that this version does not know: {', '.join(sorted(unknown))}")
    for f in fields(DETRConfig):
        value = settings.get(f.name, f.default)
        if type(value) is not f.type and not (f.type is float and type(value) is int):
            raise ValueError(f"{path}: {f.name} is {value!r} in its metadata; wanted {f.type.__name__}")
    try:
        config = DETRConfig(**settings)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    wanted = {
        "query_embed.weight": (config.queries, config.width),
        "class_embed.bias": (config.num_classes + 1,),
        "transformer.decoder.layers.0.linear1.weight": (config.feedforward, config.width),
    }
    for key, shape in wanted.items():
        found = tuple(tensors[key].shape) if key in tensors else "missing"
        if found != shape:
            raise ValueError(f"{path} holds another model: {key} is {found}, its configuration wants {shape}")
    if not 0 <= config.encoder_layers <= len(tensors) or config.decoder_layers > len(tensors):
        raise ValueError(f"{path}: {config.encoder_layers} + {config.decoder_layers} layers, {len(tensors)} tensors")
    if not 0 < config.temperature < math.inf:
        raise ValueError(f"{path}: temperature is {config.temperature} in its metadata; wanted a number above 0")
    return config


def _info(path: Path, metadata: dict[str, str]) -> dict:
    info = _part(path, metadata, "info", dict)
    for key in ("short_side", "long_side", "batch_size"):
        if info.get(key) is not None and (type(info[key]) is not int or not 0 < info[key] <= LARGEST_SIDE_PX):
            raise ValueError(f"{path}: {key} is {info[key]!r} in its metadata; wanted 1 to {LARGEST_SIDE_PX}, or null")
    return info


def load_weights(model: DETR | listing.DETR, tensors: dict[str, torch.Tensor], source: str | Path) -> None:
    """Fills the model with tensors by name.

    Raises ValueError that names what is missing, left over, of other shape or kind, or not finite.
    """
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
        if value.is_floating_point() and not tensors[key].is_floating_point():
            raise ValueError(f"{source}: {key} is {tensors[key].dtype}, the model wants {value.dtype}")
        if not tensors[key].isfinite().all():
            raise ValueError(f"{source}: {key} holds NaN or inf: saved by a training that had diverged?")
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
