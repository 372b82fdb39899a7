"""What a training needs before its first step: the settings, the rates, the device, the model to begin with."""

import math
import os
from dataclasses import dataclass, field, replace

import torch
from tqdm.auto import tqdm

from detr_mini import backbones, checkpoints, losses, matching
from detr_mini.detr import DETR, DETRConfig


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained; the defaults are the authors' settings for COCO."""

    steps: int = 500_000  # optimizer steps in all
    batch_size: int = 64  # images a step
    lr: float = 1e-4  # AdamW's rate, all but the backbone
    backbone_lr: float = 1e-5  # 0 freezes the backbone
    weight_decay: float = 1e-4
    clip: float = 0.1  # largest norm of the whole gradient
    warmup: int = 0  # steps of linearly growing rate
    schedule: str = "drop"  # drop: a tenth of the rate after 2/3 of the steps · cosine: to zero
    eval_every: float = 0.1  # share of the steps between evaluations
    save_every: int = 500  # steps between saves
    precision: str = "auto"  # auto · float32 · bfloat16 · float16
    workers: int = 0  # processes that make samples
    augmentation: str = "paper"  # of a COCO folder: paper · photos · none
    pretrained: bool = True  # whether a backbone that has ImageNet weights starts from them
    short_side: int | None = 800  # px of an evaluated image; None keeps its size, up to 1333 px
    long_side: int | None = 1333  # px
    seed: int = 0
    matching_weights: matching.Weights = field(default_factory=matching.Weights)
    loss_weights: losses.Weights = field(default_factory=losses.Weights)

    def __post_init__(self):
        if self.schedule not in ("drop", "cosine"):
            raise ValueError(f"schedule {self.schedule!r} is neither 'drop' nor 'cosine'")
        if self.augmentation not in ("paper", "photos", "none"):
            raise ValueError(f"augmentation {self.augmentation!r} is none of 'paper', 'photos', 'none'")
        if min(self.steps, self.batch_size, self.save_every) < 1 or self.lr <= 0 or self.eval_every <= 0:
            raise ValueError("steps, batch_size, save_every, lr and eval_every must be above zero")

    @classmethod
    def mini(cls, **changes) -> "TrainConfig":
        """The recipe for `DETRConfig.mini()`: a rate ten times the paper's, one for all, cosine to zero.

        The class part weighs 4: from scratch a backbone must learn classes too, and with weight 1 the boxes' parts
        leave them almost no gradient for the first thousand steps.
        """
        mini = cls(
            steps=2_500,
            batch_size=32,
            lr=1e-3,
            backbone_lr=1e-3,
            clip=1.0,
            warmup=100,
            schedule="cosine",
            augmentation="none",
            pretrained=False,
            short_side=None,
            long_side=None,
            loss_weights=losses.Weights(label=4.0),
        )
        return replace(mini, **changes)

    @classmethod
    def photos(cls, **changes) -> "TrainConfig":
        """The recipe for a few hundred photographs and a backbone with ImageNet weights."""
        photos = cls(
            steps=4_000,
            batch_size=8,
            lr=5e-4,
            backbone_lr=1e-4,
            clip=1.0,
            warmup=100,
            schedule="cosine",
            augmentation="photos",
            short_side=256,
            long_side=480,
            loss_weights=losses.Weights(label=4.0),
        )
        return replace(photos, **changes)


def learning_rate(step: int, config: TrainConfig, steps: int) -> float:
    """The factor on both learning rates at a step (from 0) of a run of `steps`."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    if config.schedule == "drop":
        return 1.0 if step < steps * 2 / 3 else 0.1
    done = (step - config.warmup) / max(steps - config.warmup, 1)
    return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def parameter_groups(model: DETR, config: TrainConfig) -> list[dict]:
    """Two groups, transformer with heads, and backbone, each with its rate; what has no gradient is left out."""
    groups = {"transformer": [], "backbone": []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups["backbone" if name.startswith("backbone.") else "transformer"].append(parameter)
    rates = {"transformer": config.lr, "backbone": config.backbone_lr}
    return [{"params": params, "lr": rates[name], "initial": rates[name]} for name, params in groups.items() if params]


def precision_of(config: TrainConfig, device: torch.device) -> torch.dtype:
    """The dtype of the forward pass: float32 off CUDA, else bfloat16 where the card has it, else float16."""
    if config.precision != "auto":
        return getattr(torch, config.precision)
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def pick_device(name: str = "auto") -> torch.device:
    """The device called "auto", "cpu", "cuda" or "mps"; ValueError where the machine lacks it."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda' was asked for, but this torch sees no CUDA device: see detr-mini doctor")
    if device == torch.device("cuda") and (local := int(os.environ.get("LOCAL_RANK", 0))):  # torchrun: a GPU each
        if local >= torch.cuda.device_count():
            raise ValueError(
                f"process {local} of this machine has no GPU of its own, there are {torch.cuda.device_count()}: "
                "start that many with --nproc-per-node, or add --device cpu"
            )
        device = torch.device("cuda", local)
    return device


def build_model(config: DETRConfig, train: TrainConfig, start: checkpoints.Checkpoint | None) -> DETR:
    """A new model, with ImageNet weights in the backbone if asked for, or one that goes on from a checkpoint."""
    model = DETR(config)
    # a checkpoint with the same backbone brings its weights: nothing to fetch
    pretrained = train.pretrained and (start is None or start.model.config.backbone != config.backbone)
    if pretrained:
        model.backbone = backbones.build(config.backbone, dilation=config.dilation, pretrained=True)
    if start is not None:
        fresh = checkpoints.transfer(model, start.model)
        fresh = [name for name in fresh if not (pretrained and name.startswith("backbone."))]
        tqdm.write(f"started from a checkpoint; new: {', '.join(fresh) or 'nothing'}")
    if config.backbone.startswith("resnet") and not pretrained and start is None:
        raise ValueError(
            f"{config.backbone} without pretrained weights cannot be trained here: its batch-norm is frozen and "
            "would have no statistics; set pretrained=true, or take --config mini"
        )
    if train.backbone_lr == 0:
        model.backbone.requires_grad_(False)
    return model
