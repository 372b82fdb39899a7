"""What the command line does, as functions for notebooks: make data, train, evaluate, detect."""

import json
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import get_args, get_origin

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional
from tqdm.auto import tqdm

from detr_mini import checkpoints, evaluation
from detr_mini.checkpoints import Checkpoint
from detr_mini.datasets import coco, toybox, transforms
from detr_mini.datasets.toybox import Toybox, ToyboxConfig
from detr_mini.detection import Detections, detect, read_picture
from detr_mini.detr import DETR, DETRConfig
from detr_mini.evaluation import Report, evaluate_layers
from detr_mini.plots.detections import picture, save_picture
from detr_mini.training import TrainConfig, Trainer, pick_device

VALIDATION_SCENES, WATCHED_SCENES = 1000, 300  # of a drawn toybox: by `evaluate`, and during a training
Configs = dict  # "model": DETRConfig, "train": TrainConfig, "toybox": ToyboxConfig


def make_toybox(
    out: str | Path, train: int = 2000, val: int = 200, size: int = 64, seed: int = 0, settings: Sequence[str] = ()
) -> None:
    """Writes drawn scenes as a COCO folder; `settings` are FIELD=VALUE of ToyboxConfig."""
    config = with_settings({"toybox": ToyboxConfig(size=size)}, settings)["toybox"]
    toybox.write_coco(out, {"train": train, "val": val}, config, seed)


def train(
    data: str,
    config: str,
    out: str | Path,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    device: str = "auto",
    resume: bool = False,
    start_from: str | None = None,
    settings: Sequence[str] = (),
    callback: Callable[[dict], None] | None = None,
    progress: bool = True,
) -> Trainer:
    """Trains on a COCO folder or on "toybox" with a configuration as `read_config` finds it; returns the trainer.

    `settings` are FIELD=VALUE as `with_settings` reads them. A resumed run keeps the settings it was started with.
    """
    stored = Path(out) / "config.json"
    settings = [*settings, f"steps={steps}"] if steps else list(settings)
    configs = with_settings(read_config(str(stored) if resume and stored.exists() else config), settings)
    train_data, val_data = training_data(data, configs)
    classes = len(train_data.names)
    if any(setting.startswith("num_classes=") for setting in settings) and configs["model"].num_classes != classes:
        raise ValueError(f"num_classes={configs['model'].num_classes} was set, but {data} has {classes} classes")
    if crowd := too_many_objects(train_data, configs["model"].queries):
        tqdm.write(crowd)
    trainer = Trainer(
        replace(configs["model"], num_classes=classes),
        configs["train"],
        train_data,
        val_data,
        out,
        device=device,
        minutes=minutes,
        resume=resume,
        start_from=load_detector(start_from) if start_from else None,
        callback=callback,
        progress=progress,
    )
    with warnings.catch_warnings():
        if crowd:  # has been said, with the count, and need not be said again at every step
            warnings.filterwarnings("ignore", message=r"\d+ image\(s\) of a batch have more objects")
        trainer.run()
    return trainer


def too_many_objects(data: Dataset, queries: int) -> str:
    """A sentence on the images with more objects than `queries`; empty where there is none."""
    if isinstance(data, Toybox):
        most = data.config.objects[1]
        found = f"scenes may have up to {most} objects, more" if most > queries else ""
    else:
        crowded = data.crowded(queries)
        found = ""
        if crowded:
            path, most = crowded[0]
            found = f"{len(crowded)} of {len(data)} training images have more objects (up to {most}, {path.name})"
    return found and f"{found} than the model's {queries} queries; the rest is not trained: --set queries={most}"


def training_data(data: str, configs: Configs) -> tuple[Dataset, Dataset]:
    """Training and validation data: a COCO folder's splits, or an endless toybox beside held-out scenes."""
    config: TrainConfig = configs["train"]
    if data == "toybox":
        scenes = configs["toybox"]
        return Toybox(scenes, None, config.seed), Toybox(scenes, WATCHED_SCENES, config.seed, "val")
    steady = transforms.evaluation(config.short_side, config.long_side)
    recipes = {
        "none": lambda: steady,
        "paper": transforms.paper_training,
        "photos": lambda: transforms.photos_training(config.short_side, config.long_side),
    }
    training = coco.open_split(data, "train", recipes[config.augmentation]())
    validation = coco.open_split(data, "val", steady)
    if validation.note:
        tqdm.write(validation.note)
    for found in (training, validation):  # else AP, or what was learned, turns out to be nothing hours later
        require_objects(found)
    for place in dict.fromkeys(found.without_area[0] for found in (training, validation) if found.without_area):
        tqdm.write(f"{place} has a box without area; such boxes are left out")
    return training, validation


def require_objects(dataset: coco.CocoFolder) -> None:
    """Raises ValueError where no image of a split has a box: nothing could be learned from it, or measured."""
    if not dataset.crowded(0):
        note = f" ({dataset.note})" if dataset.note else ""
        raise ValueError(
            f"{dataset.json_path}: none of {len(dataset)} images has a box: an export without labels?{note}"
        )


def evaluate(
    checkpoint: str,
    data: str,
    split: str = "val",
    nms: float | None = None,
    layers: bool = False,
    device: str = "auto",
    batch_size: int | None = None,
) -> list[Report]:
    """AP of a checkpoint on a split of a COCO folder or of "toybox"; with `layers` each decoder layer, twice.

    `batch_size` is the checkpoint's own, else 32, unless given. Raises ValueError where the data have a class that
    the checkpoint does not know.
    """
    loaded = load_detector(checkpoint)
    dataset = evaluation_data(data, split, loaded)
    options = {
        "device": pick_device(device),
        "batch_size": batch_size or loaded.info.get("batch_size", 32),
        "category_ids": category_ids(loaded, dataset, checkpoint, data),
    }
    if layers:
        return evaluate_layers(loaded.model, dataset, nms_iou=nms or 0.7, **options)
    return [evaluation.evaluate(loaded.model, dataset, nms_iou=nms, **options)]


def load_detector(checkpoint: str) -> Checkpoint:
    """A checkpoint whose model is `DETR`; ValueError for the demo of fifty lines, which takes one image size."""
    loaded = checkpoints.load(checkpoint)
    if not isinstance(loaded.model, DETR):
        raise ValueError(
            f"{checkpoint} is the demo of fifty lines: no padding, no decoder layers to ask, so it is not evaluated "
            "or trained here; notebook 07 detects with it"
        )
    return loaded


def category_ids(loaded: Checkpoint, dataset: Dataset, checkpoint: str, data: str) -> tuple[int, ...]:
    """The data's category for each label of the model; ValueError if the data have a class that it does not know."""
    if tuple(dataset.names) == loaded.names:
        return dataset.category_ids
    known = dict(zip(loaded.category_ids, loaded.names, strict=True))
    wanted = dict(zip(dataset.category_ids, dataset.names, strict=True))
    strange = [f"{name} (id {number})" for number, name in wanted.items() if known.get(number) != name]
    if strange:
        raise ValueError(
            f"{checkpoint} knows {len(loaded.names)} classes ({', '.join(loaded.names[:4])} ...); of the "
            f"{len(wanted)} in {data} it lacks {', '.join(strange[:4])}: AP would compare different things"
        )
    return loaded.category_ids


def evaluation_data(data: str, split: str, checkpoint: Checkpoint) -> Dataset:
    """The split a checkpoint is judged on, its images resized as that checkpoint wants them."""
    info = checkpoint.info
    if data == "toybox":
        if "toybox" not in info:
            raise ValueError("this checkpoint was not trained on drawn scenes: give a COCO folder as data")
        return Toybox(changed(ToyboxConfig(), info["toybox"], "the checkpoint"), VALIDATION_SCENES, 0, split)
    found = coco.open_split(data, split, transforms.evaluation(info.get("short_side"), info.get("long_side")))
    if found.note:
        tqdm.write(found.note)
    require_objects(found)
    return found


def detect_files(
    checkpoint: str,
    images: Sequence[str | Path],
    out: str | Path,
    threshold: float = 0.7,
    attention: bool = False,
    device: str = "auto",
) -> list[dict]:
    """Detects on image files; writes NAME.png and NAME.json for each into `out` and returns what the JSON holds.

    Raises FileNotFoundError for a missing image, OSError for one that cannot be read, ValueError for a threshold
    outside 0..1, for two images of one name, or where a result would overwrite an image.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold {threshold} lies outside 0..1")
    images, out = [Path(image) for image in images], Path(out)
    missing = [str(image) for image in images if not image.is_file()]
    if missing:
        raise FileNotFoundError(f"no such image: {', '.join(missing)}")
    names = [image.stem for image in images]
    if len(set(names)) < len(names):
        raise ValueError("two images have the same name, and one result would overwrite the other: detect one by one")
    sources = {image.resolve() for image in images}
    doomed = [str(image) for image in images if (out / f"{image.stem}.png").resolve() in sources]
    if doomed:
        raise ValueError(f"the result would overwrite {', '.join(doomed)}: name another folder than {out}")
    loaded = load_detector(checkpoint)
    out.mkdir(parents=True, exist_ok=True)
    results = []
    for image in tqdm(images, desc="detect", unit="image"):
        [answer] = detect(loaded, image, threshold, pick_device(device), return_attention=attention)
        found, weights = answer if attention else (answer, None)
        result = {
            "image": image.name,
            "detections": [
                {"name": name, "score": round(score, 4), "box_xyxy_px": [round(v, 1) for v in box], "query": query}
                for name, score, box, query in zip(
                    found.names,
                    found.scores.tolist(),
                    found.boxes_xyxy_px.tolist(),
                    found.queries.tolist(),
                    strict=True,
                )
            ],
        }
        (out / f"{image.stem}.json").write_text(json.dumps(result, indent=1) + "\n")
        save_picture(picture(*fit_to_draw(image, found), weights), out / f"{image.stem}.png")
        results.append(result)
    return results


def fit_to_draw(path: Path, found: Detections) -> tuple[Tensor, Detections]:
    """An image (3, H, W) and its detections, made smaller if it is huge: a figure of 100 million px takes 6 GB."""
    pixels = read_picture(path)
    height, width = pixels.shape[-2:]
    size = transforms.seen_size(height, width, None, None)
    scale = torch.tensor([size[1] / width, size[0] / height]).repeat(2)
    return functional.resize(pixels, list(size)), replace(found, boxes_xyxy_px=found.boxes_xyxy_px * scale)


def read_config(name: str) -> Configs:
    """The configurations called "mini", "photos" or "r50", or a JSON file's; unknown fields are a ValueError."""
    if name == "r50":
        return {"model": DETRConfig(), "train": TrainConfig(), "toybox": ToyboxConfig()}
    if name == "photos":
        model = DETRConfig.mini(backbone="efficientnet_lite0")
        return {"model": model, "train": TrainConfig.photos(), "toybox": ToyboxConfig()}
    configs = {"model": DETRConfig.mini(), "train": TrainConfig.mini(), "toybox": ToyboxConfig()}
    if name == "mini":
        return configs
    path = Path(name)
    if not path.is_file():
        raise FileNotFoundError(f"config {name}: neither 'mini', 'photos' nor 'r50', nor a file")
    try:
        stored = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(stored, dict):
        raise ValueError(f'{path} is no configuration: wanted {{"model": {{...}}, "train": {{...}}}}')
    return {part: changed(config, stored.get(part, {}), str(path)) for part, config in configs.items()}


def with_settings(configs: Configs, settings: Sequence[str]) -> Configs:
    """The configurations with each FIELD=VALUE applied.

    A plain field belongs to whichever configuration has it; `toybox.FIELD` is the toybox's own, and
    `loss_weights.FIELD` and `matching_weights.FIELD` lie inside TrainConfig. ValueError on unknown fields or kinds.
    """
    configs = dict(configs)
    for setting in settings:
        field, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"setting {setting}: wanted FIELD=VALUE")
        if field.startswith("toybox."):
            part, change = "toybox", {field.removeprefix("toybox."): parse(text)}
        elif "." in field:
            group, name = field.split(".", 1)
            part, change = "train", {group: {name: parse(text)}}
        else:
            owners = [part for part in configs if field in {f.name for f in fields(configs[part])}]
            if not owners:
                known = ", ".join(f.name for part in configs for f in fields(configs[part]))
                raise ValueError(f"setting {setting}: no field {field}; there are {known}")
            part, change = owners[0], {field: parse(text)}
        configs[part] = changed(configs[part], change, f"setting {setting}")
    return configs


def changed(config, changes: dict, source: str):
    """A frozen dataclass with changes by field name, nested ones too; ValueError on unknown names or kinds."""
    if not isinstance(changes, dict):
        raise ValueError(f"{source}: wanted fields of {type(config).__name__} with their values, not {changes!r}")
    kinds, new = {field.name: field.type for field in fields(config)}, {}
    for name, value in changes.items():
        if name not in kinds:
            raise ValueError(f"{source}: no field {name} in {type(config).__name__}")
        default = getattr(config, name)
        if is_dataclass(default):
            new[name] = changed(default, value, source)
            continue
        if isinstance(default, tuple):
            value = tuple(value) if isinstance(value, list | tuple) else (value,)
        if not fits(value, kinds[name]):
            raise ValueError(f"{source}: {name} is {default!r} by default, {value!r} is of another kind")
        new[name] = value
    return replace(config, **new)  # all at once: what fits together may not fit one by one


def fits(value, kind) -> bool:
    """Whether a value from JSON is of an annotated kind; an int does for a float, True is no int, NaN no number."""
    if get_origin(kind) is tuple:
        return all(fits(item, get_args(kind)[0]) for item in value)
    if get_args(kind):  # int | None
        return any(fits(value, option) for option in get_args(kind))
    if kind is float:
        return type(value) in (int, float) and abs(value) < math.inf
    return type(value) is kind


def parse(text: str):
    """A value as JSON has it (3, 0.1, true, null), several with commas, else the text itself."""
    if "," in text:
        return [parse(part) for part in text.split(",")]
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
