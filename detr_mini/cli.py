"""The command line, `detr-mini doctor | download | data | train | eval | detect`: each a thin call of a function."""

import argparse
import json
import sys
from pathlib import Path

from detr_mini import doctor  # the rest is imported where it is used: the doctor must start without torch

WEIGHTS = ("detr_resnet50", "detr_resnet50_dc5", "detr_resnet101", "detr_resnet101_dc5", "detr_demo")
DATA_SETS = ("bccd", "cards", "coco-val2017")
WHEN_STOPPED = {
    "train": "; a run that saved goes on with --resume",
    "download": "; the same command goes on where it stopped",
}


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns its exit status, 2 after one plain line where input or machine do not fit."""
    options = parser().parse_args(arguments)
    try:
        return options.run(options) or 0
    except KeyboardInterrupt as stop:  # a training says itself where it goes on
        print(str(stop) or f"stopped{WHEN_STOPPED.get(options.command, '')}", file=sys.stderr)
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
        epilog, raw = f"example:\n  {example}", argparse.RawDescriptionHelpFormatter
        added = commands.add_parser(name, help=text, description=text, epilog=epilog, formatter_class=raw)
        added.add_argument("--traceback", action="store_true", help="show where in the code an error arose")
        added.set_defaults(run=run)
        return added

    about = "Look at this machine: versions, GPU, data, checkpoints."
    command("doctor", lambda _: doctor.main(), about, "detr-mini doctor")

    about = "Fetch a public data set or a published model; whatever breaks off, the same command goes on."
    fetching = command("download", run_download, about, "detr-mini download cards")
    chosen = f"data: {', '.join(DATA_SETS)} (1.1 GB); weights: {', '.join(WEIGHTS)}"
    fetching.add_argument("name", metavar="NAME", choices=DATA_SETS + WEIGHTS, help=chosen)
    fetching.add_argument("--out", help="folder for it (data/NAME or data/weights of the checkout, else a cache)")

    about = "Write a set of drawn scenes as a COCO folder."
    example = "detr-mini data toybox --out data/toybox --train 2000 --val 200 --size 64 --seed 0"
    data = command("data", run_data, about, example)
    data.add_argument("kind", choices=["toybox"])
    data.add_argument("--out", required=True, help="a new or empty folder")
    data.add_argument("--train", type=int, default=2000, help="images (2000)")
    data.add_argument("--val", type=int, default=200, help="images (200)")
    data.add_argument("--size", type=int, default=64, help="side in px (64)")
    data.add_argument("--seed", type=int, default=0)
    add_settings(data, "a field of ToyboxConfig, e.g. objects=1,8")

    about = "Train a detector; the run is a folder."
    example = "detr-mini train --data toybox --config mini --out runs/mini --minutes 10"
    train = command("train", run_train, about, example)
    train.add_argument("--data", required=True, help="a COCO folder, or toybox for an endless stream of scenes")
    train.add_argument("--config", required=True, help="mini, photos, r50, or a JSON file such as a run's config.json")
    train.add_argument("--out", required=True, help="folder of the run")
    length = train.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, help="time to fill; the first steps are timed")
    length.add_argument("--steps", type=int)
    train.add_argument("--start-from", help="checkpoint whose weights to begin with")
    train.add_argument("--resume", action="store_true", help="go on from the last save in --out")
    add_device(train)
    add_settings(train, "a field of DETRConfig, TrainConfig or, as toybox.size=96, ToyboxConfig")

    about = "Measure AP by pycocotools, per class and size too."
    evaluation = command("eval", run_eval, about, "detr-mini eval --checkpoint toybox-mini --data toybox --layers")
    evaluation.add_argument("--checkpoint", required=True, help="file, run folder, shipped or published name")
    evaluation.add_argument("--data", required=True, help="a COCO folder, or toybox")
    evaluation.add_argument("--split", default="val")
    evaluation.add_argument("--nms", type=float, metavar="IOU", help="remove duplicates above this IoU")
    evaluation.add_argument("--layers", action="store_true", help="each decoder layer, with and without NMS")
    evaluation.add_argument("--batch-size", type=int, help="images at once (the checkpoint's own, else 32)")
    evaluation.add_argument("--json", help="file for the numbers")
    add_device(evaluation)

    about = "Detect on images; a picture and a JSON for each."
    example = "detr-mini detect --checkpoint toybox-mini scene.png --out found --threshold 0.7"
    detection = command("detect", run_detect, about, example)
    detection.add_argument("images", nargs="+", metavar="IMAGE")
    detection.add_argument("--checkpoint", required=True, help="file, run folder, shipped or published name")
    detection.add_argument("--out", required=True, help="folder for the pictures and JSON files")
    detection.add_argument("--threshold", type=float, default=0.7, help="least score, 0..1 (0.7)")
    detection.add_argument("--attention", action="store_true", help="also draw where each query looked")
    add_device(detection)
    return top


def add_device(added: argparse.ArgumentParser) -> None:
    added.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")


def add_settings(added: argparse.ArgumentParser, text: str) -> None:
    added.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help=text)


def run_data(options: argparse.Namespace) -> None:
    from detr_mini import commands

    commands.make_toybox(options.out, options.train, options.val, options.size, options.seed, options.set)
    print(f"{options.train} + {options.val} scenes in {options.out}")


def run_download(options: argparse.Namespace) -> None:
    if options.name in WEIGHTS:
        from detr_mini import published

        path = published.fetch(options.name, options.out)
        print(f"{options.name} is {path}")
        print(f"next: detr-mini detect --checkpoint {quoted(path) if options.out else options.name} IMAGE --out found")
        return
    from detr_mini.datasets import sources

    found = sources.find(options.name, options.out)
    folder = sources.get(options.name, options.out)
    print(f"{options.name} {'was there already, complete: it ' if found else ''}is in {folder}")
    print(f"next: {sources.SOURCES[options.name].next.format(folder=quoted(folder))}")


def quoted(path: str | Path) -> str:
    """A path as one word of a command line."""
    return f'"{path}"' if " " in str(path) else str(path)


def run_train(options: argparse.Namespace) -> None:
    from detr_mini import commands

    trainer = commands.train(
        options.data,
        options.config,
        options.out,
        minutes=options.minutes,
        steps=options.steps,
        device=options.device,
        resume=options.resume,
        start_from=options.start_from,
        settings=options.set,
    )
    if not trainer.processes.main:  # of torchrun's
        return
    print(f"trained {trainer.step} steps in {trainer.seconds / 60:.1f} minutes; best AP {trainer.best_ap:.3f}")
    print(f"next: detr-mini eval --checkpoint {options.out} --data {options.data}")


def run_eval(options: argparse.Namespace) -> None:
    from detr_mini import commands

    reports = commands.evaluate(
        options.checkpoint,
        options.data,
        options.split,
        options.nms,
        options.layers,
        options.device,
        options.batch_size,
    )
    for report in reports:
        print(report.table(), end="\n\n")
    if options.json:
        Path(options.json).write_text(json.dumps([report.to_dict() for report in reports], indent=1) + "\n")


def run_detect(options: argparse.Namespace) -> None:
    from detr_mini import commands

    results = commands.detect_files(
        options.checkpoint, options.images, options.out, options.threshold, options.attention, options.device
    )
    for result in results:
        said = [f"{found['name']} {found['score']:.2f}" for found in result["detections"]]
        print(f"{result['image']}: {', '.join(said) or 'nothing above the threshold'}")


if __name__ == "__main__":
    sys.exit(main())
