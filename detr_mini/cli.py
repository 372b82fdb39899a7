"""The command line: `detr-mini doctor | data | train | eval | detect`, each a thin call of a Python function."""

import argparse
import json
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path

import torch
from tqdm.auto import tqdm

from detr_mini import checkpoints, doctor
from detr_mini.datasets import coco, toybox, transforms
from detr_mini.datasets.toybox import Toybox, ToyboxConfig
from detr_mini.detection import detect
from detr_mini.detr import DETRConfig
from detr_mini.evaluation import evaluate, evaluate_layers
from detr_mini.plots.detections import picture, save_picture
from detr_mini.training import TrainConfig, Trainer, pick_device

VALIDATION_SCENES = 1000  # of a toybox that is drawn, not read from a folder


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns 0, or 2 after one plain line where input or machine do not fit."""
    options = parser().parse_args(arguments)
    try:
        return options.run(options) or 0
    except KeyboardInterrupt:
        print("stopped; a training goes on with --resume", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        if options.traceback:
            raise
        print(f"detr-mini {options.command}: {error}", file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    """The parser of all commands; its help holds an example of each."""
    top = argparse.ArgumentParser(prog="detr-mini", description="DETR, built to be understood.")
    commands = top.add_subparsers(dest="command", required=True)

    def command(name: str, run, text: str, example: str) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=text,
            description=text,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.add_argument("--traceback", action="store_true", help="show where in the code an error arose")
        added.set_defaults(run=run)
        return added

    command("doctor", lambda _: doctor.main(), "Look at this machine: versions, GPU, data, checkpoints.", "detr-mini doctor")

    data = command(
        "data",
        run_data,
        "Write a set of drawn scenes as a COCO folder.",
        "detr-mini data toybox --out data/toybox --train 2000 --val 200 --size 64 --seed 0",
    )
    data.add_argument("kind", choices=["toybox"])
    data.add_argument("--out", required=True, help="a new or empty folder")
    data.add_argument("--train", type=int, default=2000, help="images (2000)")
    data.add_argument("--val", type=int, default=200, help="images (200)")
    data.add_argument("--size", type=int, default=64, help="side in px (64)")
    data.add_argument("--seed", type=int, default=0)
    add_settings(data, "field of ToyboxConfig, e.g. objects=1,8")

    train = command(
        "train",
        run_train,
        "Train a detector; the run is a folder.",
        "detr-mini train --data toybox --config mini --out runs/mini --minutes 10",
    )
    train.add_argument("--data", required=True, help="a COCO folder, or toybox for an endless stream of scenes")
    train.add_argument("--config", required=True, help="mini, r50, or a JSON file such as a run's config.json")
    train.add_argument("--out", required=True, help="folder of the run")
    length = train.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, help="time to fill; the first steps are timed")
    length.add_argument("--steps", type=int)
    train.add_argument("--start-from", help="checkpoint whose weights to begin with")
    train.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    train.add_argument("--resume", action="store_true", help="go on from the last save in --out")
    add_settings(train, "field of DETRConfig, TrainConfig or (toybox.size=96) ToyboxConfig")

    evaluation = command(
        "eval",
        run_eval,
        "Measure AP by pycocotools, per class and size too.",
        "detr-mini eval --checkpoint toybox-mini --data toybox --layers",
    )
    evaluation.add_argument("--checkpoint", required=True, help="file, run folder or shipped name")
    evaluation.add_argument("--data", required=True, help="a COCO folder, or toybox")
    evaluation.add_argument("--split", default="val")
    evaluation.add_argument("--nms", type=float, metavar="IOU", help="remove duplicates above this IoU")
    evaluation.add_argument("--layers", action="store_true", help="each decoder layer, with and without NMS")
    evaluation.add_argument("--json", help="file for the numbers")
    evaluation.add_argument("--device", default="auto")

    detection = command(
        "detect",
        run_detect,
        "Detect on images; a picture and a JSON for each.",
        "detr-mini detect --checkpoint toybox-mini scene.png --out found --threshold 0.7",
    )
    detection.add_argument("images", nargs="+", metavar="IMAGE")
    detection.add_argument("--checkpoint", required=True, help="file, run folder or shipped name")
    detection.add_argument("--out", required=True, help="folder for the pictures and JSON files")
    detection.add_argument("--threshold", type=float, default=0.7, help="least score, 0..1 (0.7)")
    detection.add_argument("--attention", action="store_true", help="also draw where each query looked")
    detection.add_argument("--device", default="auto")
    return top


def add_settings(added: argparse.ArgumentParser, text: str) -> None:
    added.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help=text)


def run_data(options: argparse.Namespace) -> None:
    config = with_settings({"toybox": ToyboxConfig(size=options.size)}, options.set)["toybox"]
    toybox.write_coco(options.out, {"train": options.train, "val": options.val}, config, options.seed)
    print(f"{options.train} + {options.val} scenes in {options.out}")


def run_train(options: argparse.Namespace) -> None:
    overrides = options.set + ([f"steps={options.steps}"] if options.steps else [])
    if options.resume and (Path(options.out) / "config.json").exists():
        options.config = str(Path(options.out) / "config.json")
    configs = with_settings(read_config(options.config), overrides)
    train_data, val_data = training_data(options.data, configs)
    configs["model"] = fit_classes(configs["model"], train_data, options)
    start = checkpoints.load(options.start_from) if options.start_from else None
    trainer = Trainer(
        configs["model"],
        configs["train"],
        train_data,
        val_data,
        options.out,
        device=options.device,
        minutes=options.minutes,
        resume=options.resume,
        start_from=start,
    )
    run = trainer.run()
    print(f"trained {trainer.step} steps in {trainer.seconds / 60:.1f} minutes; best AP {trainer.best_ap:.3f}")
    print(f"detr-mini eval --checkpoint {run} --data {options.data}")


def training_data(data: str, configs: dict):
    """Training and validation data: a COCO folder's splits, or an endless toybox beside held-out scenes."""
    train: TrainConfig = configs["train"]
    if data == "toybox":
        config = configs["toybox"]
        return Toybox(config, None, train.seed), Toybox(config, 300, train.seed, "val")
    short, long = train.short_side, train.long_side
    steady = transforms.evaluation(short, long) if short else transforms.Finish()
    recipes = {
        "none": lambda: steady,
        "paper": transforms.paper_training,
        "photos": lambda: transforms.photos_training(short, long),
    }
    training = coco.open_split(data, "train", recipes[train.augmentation]())
    validation = coco.open_split(data, "val", steady)
    for note in filter(None, (training.note, validation.note)):
        print(note)
    return training, validation


def fit_classes(config: DETRConfig, data, options: argparse.Namespace) -> DETRConfig:
    """The configuration with the data set's number of classes, said aloud where it differs."""
    classes = len(data.names)
    if config.num_classes != classes:
        if any(setting.startswith("num_classes=") for setting in options.set):
            raise ValueError(f"num_classes={config.num_classes} was set, but {options.data} has {classes} classes")
        print(f"num_classes: {classes}, as {options.data} has them")
    return replace(config, num_classes=classes)


def run_eval(options: argparse.Namespace) -> None:
    checkpoint = checkpoints.load(options.checkpoint)
    data = evaluation_data(options.data, options.split, checkpoint)
    if tuple(data.names) != checkpoint.names:
        raise ValueError(
            f"{options.checkpoint} knows {len(checkpoint.names)} classes ({', '.join(checkpoint.names[:4])} ...), "
            f"{options.data} has {len(data.names)} ({', '.join(data.names[:4])} ...): AP would compare different things"
        )
    device = pick_device(options.device)
    if options.layers:
        reports = evaluate_layers(checkpoint.model, data, device=device, nms_iou=options.nms or 0.7)
    else:
        reports = [evaluate(checkpoint.model, data, device=device, nms_iou=options.nms)]
    for report in reports:
        print(report.table(), end="\n\n")
    if options.json:
        Path(options.json).write_text(json.dumps([report.to_dict() for report in reports], indent=1) + "\n")


def evaluation_data(data: str, split: str, checkpoint: checkpoints.Checkpoint):
    """The split a checkpoint is judged on, its images resized as that checkpoint wants them."""
    info = checkpoint.info
    if data == "toybox":
        if "toybox" not in info:
            raise ValueError("this checkpoint was not trained on drawn scenes: give --data a COCO folder")
        return Toybox(ToyboxConfig(**tuples(info["toybox"])), VALIDATION_SCENES, 0, split)
    short = info.get("short_side")
    steady = transforms.evaluation(short, info["long_side"]) if short else transforms.Finish()
    found = coco.open_split(data, split, steady)
    if found.note:
        print(found.note)
    return found


def run_detect(options: argparse.Namespace) -> None:
    if not 0 <= options.threshold <= 1:
        raise ValueError(f"--threshold {options.threshold} lies outside 0..1")
    checkpoint, out = checkpoints.load(options.checkpoint), Path(options.out)
    missing = [image for image in options.images if not Path(image).is_file()]
    if missing:
        raise FileNotFoundError(f"no such image: {', '.join(missing)}")
    out.mkdir(parents=True, exist_ok=True)
    device = pick_device(options.device)
    for image in tqdm(options.images, desc="detect", unit="image"):
        [(found, attention)] = detect(checkpoint, image, options.threshold, device, return_attention=True)
        entries = [
            {"name": name, "score": round(score, 4), "box_xyxy_px": [round(v, 1) for v in box], "query": query}
            for name, score, box, query in zip(
                found.names, found.scores.tolist(), found.boxes_xyxy_px.tolist(), found.queries.tolist(), strict=True
            )
        ]
        name = Path(image).stem
        (out / f"{name}.json").write_text(json.dumps({"image": Path(image).name, "detections": entries}, indent=1) + "\n")
        save_picture(picture(image, found, attention if options.attention else None), out / f"{name}.png")
        said = ", ".join(f"{e['name']} {e['score']:.2f}" for e in entries) or "nothing above the threshold"
        tqdm.write(f"{image}: {said}")


def read_config(name: str) -> dict:
    """The three configurations called "mini" or "r50", or those of a JSON file; unknown fields are a ValueError."""
    if name == "mini":
        return {"model": DETRConfig.mini(), "train": TrainConfig.mini(), "toybox": ToyboxConfig()}
    if name == "r50":
        return {"model": DETRConfig(), "train": TrainConfig(), "toybox": ToyboxConfig()}
    path = Path(name)
    if not path.is_file():
        raise FileNotFoundError(f"--config {name}: neither 'mini' nor 'r50' nor a file")
    try:
        stored = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    configs = {"model": DETRConfig.mini(), "train": TrainConfig.mini(), "toybox": ToyboxConfig()}
    for part in configs:
        configs[part] = changed(configs[part], stored.get(part, {}), str(path))
    return configs


def with_settings(configs: dict, settings: list[str]) -> dict:
    """The configurations with FIELD=VALUE applied; `toybox.`, `loss_weights.` and `matching_weights.` lead to nested fields."""
    configs = dict(configs)
    for setting in settings:
        field, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"--set {setting}: wanted FIELD=VALUE")
        value = parse(text)
        if field.startswith("toybox."):
            part, change = "toybox", {field.removeprefix("toybox."): value}
        elif "." in field:
            group, name = field.split(".", 1)
            part, change = "train", {group: {name: value}}
        else:
            owners = [part for part in configs if field in {f.name for f in fields(configs[part])}]
            if not owners:
                known = ", ".join(f.name for part in configs for f in fields(configs[part]))
                raise ValueError(f"--set {setting}: no field {field}; there are {known}")
            part, change = owners[0], {field: value}
        configs[part] = changed(configs[part], change, f"--set {setting}")
    return configs


def changed(config, changes: dict, source: str):
    """A frozen dataclass with changes by field name, nested ones too; ValueError on unknown names or types."""
    known = asdict(config)
    for name, value in changes.items():
        if name not in known:
            raise ValueError(f"{source}: no field {name} in {type(config).__name__}")
        if isinstance(known[name], dict):
            value = changed(getattr(config, name), value, source)
        elif isinstance(known[name], tuple):
            value = tuple(value) if isinstance(value, (list, tuple)) else (value,)
        elif isinstance(known[name], bool) != isinstance(value, bool) or isinstance(known[name], str) != isinstance(value, str):
            raise ValueError(f"{source}: {name} is {known[name]!r} by default, {value!r} is of another kind")
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


def tuples(stored: dict) -> dict:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()}


if __name__ == "__main__":
    torch.set_float32_matmul_precision("high")
    sys.exit(main())
