"""The detector: backbone, position encoding, transformer, and the two heads on every query."""

from dataclasses import dataclass, replace
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from detr_mini import backbones, positions
from detr_mini.transformer import Transformer

# Shapes: B images · L decoder layers · Q queries · K classes · H, W feature map · D width · h heads


@dataclass(frozen=True)
class DETRConfig:
    """What decides the network's function; the defaults are the paper's R50 model for COCO."""

    num_classes: int = 91  # K; COCO's published models take the largest category id + 1
    queries: int = 100  # Q, boxes an image gets at most
    backbone: str = "resnet50"  # tiny · resnet50 · resnet101 · efficientnet_lite0
    dilation: bool = False  # DC5: the last ResNet stage keeps stride 16
    width: int = 256  # D, channels of a token
    heads: int = 8  # divides the width
    encoder_layers: int = 6
    decoder_layers: int = 6  # at least 1
    feedforward: int = 2048  # inner width of the two-layer networks
    dropout: float = 0.1  # 0..1
    pre_norm: bool = False  # norm before a sub-layer instead of after the sum
    position: str = "sine"  # sine · learned · none
    temperature: float = 10_000.0  # T of the sines

    def __post_init__(self):
        for name in ("num_classes", "queries", "decoder_layers", "heads", "feedforward"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}, it must lie in 0..1, 1 excluded")

    @classmethod
    def mini(cls, **changes) -> "DETRConfig":
        """The model that learns in minutes on a laptop; it departs from the paper in the fields below."""
        mini = cls(
            num_classes=20,
            queries=10,
            backbone="tiny",
            width=96,
            heads=4,
            encoder_layers=2,
            decoder_layers=3,
            feedforward=384,
            dropout=0.0,
            pre_norm=True,
            temperature=20.0,
        )
        return replace(mini, **changes)


@dataclass(frozen=True)
class Attention:
    """Attention weights: encoder (L, B, h, HW, HW), decoder (L, B, h, Q, HW), feature_size (H, W)."""

    encoder: Tensor
    decoder: Tensor
    feature_size: tuple[int, int]


@dataclass(frozen=True)
class DETROutput:
    """Answers of all decoder layers: logits (L, B, Q, K+1), "no object" last; boxes (L, B, Q, 4) cxcywh in 0..1."""

    logits: Tensor
    boxes: Tensor
    attention: Attention | None = None

    @property
    def last_logits(self) -> Tensor:
        return self.logits[-1]

    @property
    def last_boxes(self) -> Tensor:
        return self.boxes[-1]


class BoxHead(nn.Module):
    """Three linear layers from a query's state (..., D) to the four numbers of a box, before the sigmoid."""

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, 4)])

    def forward(self, x: Tensor) -> Tensor:
        first, second, last = self.layers
        return last(F.relu(second(F.relu(first(x)))))


class DETR(nn.Module):
    """End-to-end object detection with transformers (Carion et al. 2020); never touches files or the network.

    `forward` takes images (B, 3, H, W), normalised for the backbone, and padding (B, H, W) bool, True where there
    is no image, or None when nothing is padded. It returns a `DETROutput`; boxes are relative to each image
    itself, not to the padded batch.
    """

    def __init__(self, config: DETRConfig):
        super().__init__()
        self.config = config
        self.backbone = backbones.build(config.backbone, dilation=config.dilation)
        self.input_proj = nn.Conv2d(self.backbone.channels, config.width, kernel_size=1)
        self.position = positions.build(config.position, config.width, config.temperature)
        self.transformer = Transformer(
            config.width,
            config.heads,
            config.encoder_layers,
            config.decoder_layers,
            config.feedforward,
            config.dropout,
            config.pre_norm,
        )
        self.query_embed = nn.Embedding(config.queries, config.width)
        self.class_embed = nn.Linear(config.width, config.num_classes + 1)
        self.bbox_embed = BoxHead(config.width)

    def forward(self, images: Tensor, padding: Tensor | None = None, return_attention: bool = False) -> DETROutput:
        if padding is not None and padding.device.type == "cpu" and not padding.any():
            padding = None  # a free look; on a GPU it would make the host wait
        features = self.backbone(images, padding)  # (B, C, H, W)
        return self.from_features(features, padding, return_attention)

    def from_features(
        self, features: Tensor, padding: Tensor | None = None, return_attention: bool = False
    ) -> DETROutput:
        """The part behind the backbone: features (B, C, H, W) and the pixels' padding, to a `DETROutput`."""
        height, width = features.shape[-2:]
        if padding is None:
            cells = features.new_zeros(features.shape[0], height, width).bool()
            token_padding = None
        else:
            cells = F.interpolate(padding[:, None].float(), size=(height, width))[:, 0].bool()
            token_padding = cells.flatten(1)  # (B, HW)
        tokens = self.input_proj(features).flatten(2).transpose(1, 2)  # (B, HW, D)
        codes = self.position(cells).flatten(1, 2).to(tokens.dtype)  # (B, HW, D)
        states, encoder, decoder = self.transformer(
            tokens, codes, token_padding, self.query_embed.weight, return_attention
        )
        attention = Attention(encoder, decoder, (height, width)) if return_attention else None
        # float32 before the sigmoid: bfloat16 knows a box only to a few thousandths of the image
        boxes = self.bbox_embed(states).float().sigmoid()
        return DETROutput(self.class_embed(states).float(), boxes, attention)


def multiply_adds(model: DETR, height: int, width: int) -> int:
    """Multiply-adds of one image of height x width px, in convolutions and matrix products, attention's included.

    The paper's Table 1 calls them FLOPs, though each is two operations. Only shapes run through the model: nothing
    is computed, and its mode and statistics stay as they are.
    """
    tensors = chain(model.named_parameters(), model.named_buffers())
    shapes = {name: tensor.detach().to("meta") for name, tensor in tensors}
    images = torch.empty(1, 3, height, width, device="meta")
    with FlopCounterMode(display=False) as counter:
        # explicit attention: on a CPU the counter sees nothing inside the fused kernel
        functional_call(model, shapes, images, {"return_attention": True})
    return counter.get_total_flops() // 2
