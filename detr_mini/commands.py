"""What the command line does, as functions for notebooks: make data, train, evaluate, detect."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path

from torch.utils.data import Dataset
from tqdm.auto import tqdm

from detr_mini import checkpoints, evaluation
from detr_mini.checkpoints import Checkpoint
from detr_mini.datasets import coco, toybox, transforms
from detr_mini.datasets.toybox import Toybox, ToyboxConfig
from detr_mini.detection import detect
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
    trainer.run()
    return trainer


def training_data(data: str, configs: Configs) -> tuple[Dataset, Dataset]:
    """Training and validation data: a COCO folder's splits, or an endless toybox beside held-out scenes."""
    config: TrainConfig = configs["train"]
    if data == "toybox":
        scenes = configs["toybox"]
        return Toybox(scenes, None, config.seed), Toybox(scenes, WATCHED_SCENES, config.seed, "val")
    steady = steady_transform(config.short_side, config.long_side)
    recipes = {
        "none": lambda: steady,
        "paper": transforms.paper_training,
        "photos": lambda: transforms.photos_training(config.short_side, config.long_side),
    }
    training = coco.open_split(data, "train", recipes[config.augmentation]())
    validation = coco.open_split(data, "val", steady)
    if validation.note:
        tqdm.write(validation.note)
    return training, validation


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
        return Toybox(ToyboxConfig(**info["toybox"]), VALIDATION_SCENES, 0, split)
    found = coco.open_split(data, split, steady_transform(info.get("short_side"), info.get("long_side")))
    if found.note:
        tqdm.write(found.note)
    return found


def steady_transform(short_side: int | None, long_side: int | None):
    return transforms.evaluation(short_side, long_side) if short_side else transforms.Finish()


def detect_files(
    checkpoint: str,
    images: Sequence[str | Path],
    out: str | Path,
    threshold: float = 0.7,
    attention: bool = False,
    device: str = "auto",
) -> list[dict]:
    """Detects on image files; writes NAME.png and NAME.json for each into `out` and returns what the JSON holds.

    Raises FileNotFoundError for a missing image, ValueError for a threshold outside 0..1 or two images of one name.
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
        save_picture(picture(image, found, weights), out / f"{image.stem}.png")
        results.append(result)
    return results


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
        stored = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
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
    known = asdict(config)
    for name, value in changes.items():
        if name not in known:
            raise ValueError(f"{source}: no field {name} in {type(config).__name__}")
        default = known[name]
        if isinstance(default, dict):
            value = changed(getattr(config, name), value, source)
        elif isinstance(default, tuple):
            value = tuple(value) if isinstance(value, list | tuple) else (value,)
        elif any(isinstance(default, kind) != isinstance(value, kind) for kind in (bool, str)):
            raise ValueError(f"{source}: {name} is {default!r} by default, {value!r} is of another kind")
        config = replace(config, **{name: value})
    return config


def parse(text: str):
    """A value as JSON has it (3, 0.1, true, null), several with commas, else the text itself."""
    if "," in text:
        return [parse(part) for part in text.split(",")]
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
