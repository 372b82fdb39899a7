"""The peer: Hugging Face transformers' DETR with our weights, the same layers trained, and its loss.

Shapes: L decoder layers · B images · Q queries · K classes · H, W pixels
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig
from transformers.loss.loss_for_object_detection import HungarianMatcher, ImageLoss

from detr_mini import losses, matching
from detr_mini.detr import DETR, DETRConfig

TRAINABLE = 41_302_368  # of R50 with 91 classes; stem, layer1 and all batch-norm are frozen


class AllLayers(nn.Module):
    """The peer with heads on every decoder layer, as `forward` of ours: images (B, 3, H, W) to (logits, boxes).

    Not by auxiliary_loss=True: that feeds the normed states to the next layer, which is another network.
    """

    def __init__(self, detr: DetrForObjectDetection):
        super().__init__()
        self.detr = detr

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        output = self.detr.model(images, output_hidden_states=True)
        earlier = [self.detr.model.decoder.layernorm(x) for x in output.decoder_hidden_states[1:-1]]
        states = torch.stack([*earlier, output.last_hidden_state])  # (L, B, Q, D)
        return self.detr.class_labels_classifier(states).float(), self.detr.bbox_predictor(states).float().sigmoid()


def pair(config: DETRConfig | None = None) -> tuple[DETR, DetrForObjectDetection]:
    """Our model and the peer, on the CPU, equal in weights, dropout and trained layers."""
    config = config or DETRConfig()
    ours, peer = DETR(config), DetrForObjectDetection(_config(config))
    for name, parameter in peer.model.backbone.named_parameters():
        parameter.requires_grad_("embedder" not in name and "stages.0" not in name)
    with torch.no_grad():
        for source, target in _same_modules(ours, peer):
            target.load_state_dict(source.state_dict())
        for source, target in _same_attentions(ours, peer):
            _copy_attention(source, target)
    return ours, peer


def check_counts(ours: nn.Module, peer: nn.Module, wanted: int = TRAINABLE) -> str:
    """A line with both numbers of trainable parameters; raises ValueError unless both are `wanted`, the paper's R50."""
    counts = [sum(p.numel() for p in model.parameters() if p.requires_grad) for model in (ours, peer)]
    if counts != [wanted, wanted]:
        raise ValueError(f"trainable parameters are {counts}, wanted {wanted} twice: are other layers frozen?")
    return f"trainable parameters: ours {counts[0]:,}, Hugging Face {counts[1]:,}"


@torch.no_grad()
def check_answers(ours: DETR, peer: DetrForObjectDetection) -> None:
    """Raises ValueError unless all layers' logits and boxes agree to 1e-4 of their largest, on one small image."""
    images = torch.randn(1, 3, 128, 160)
    output = ours.eval()(images)
    for mine, theirs in zip((output.logits, output.boxes), AllLayers(peer.eval())(images), strict=True):
        gap = ((mine - theirs).abs().max() / theirs.abs().max()).item()
        if not gap < 1e-4:
            raise ValueError(f"the peer with our weights answers differently, by {gap:.1e}: not the same network")


def loss(classes: int, weights: losses.Weights, costs: matching.Weights) -> Callable[..., Tensor]:
    """Its matching and loss of all layers: a function of logits (L, B, Q, K+1), boxes (L, B, Q, 4) and our targets.

    Without its count of named queries (`cardinality`), a number for the log.
    """
    matcher = HungarianMatcher(costs.label, costs.l1, costs.giou)
    criterion = ImageLoss(matcher, classes, weights.no_object, ["labels", "boxes"])
    factors = {"loss_ce": weights.label, "loss_bbox": weights.l1, "loss_giou": weights.giou}

    def total(logits: Tensor, boxes: Tensor, targets: list[dict]) -> Tensor:
        # unbind, as its own code does: indexing layer by layer would make its backward pass slower
        layers = [{"logits": a, "pred_boxes": b} for a, b in zip(logits.unbind(), boxes.unbind(), strict=True)]
        renamed = [{"class_labels": target["labels"], "boxes": target["boxes"]} for target in targets]
        parts = criterion.to(logits.device)(layers[-1] | {"auxiliary_outputs": layers[:-1]}, renamed)
        return sum(factors[name.rstrip("_0123456789")] * value for name, value in parts.items())

    return total


def _config(config: DETRConfig) -> DetrConfig:
    """Its configuration for ours; its attention exists in one implementation, the explicit one ("eager")."""
    return DetrConfig(
        use_timm_backbone=False,
        backbone=None,
        backbone_config=ResNetConfig(out_features=["stage4"]),
        use_pretrained_backbone=False,
        num_labels=config.num_classes,
        num_queries=config.queries,
        dropout=config.dropout,
        attention_dropout=config.dropout,  # its own default is 0: the paper has dropout there, too
        activation_dropout=config.dropout,
    )


def _same_modules(ours: DETR, peer: DetrForObjectDetection) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Pairs of modules with the same parameters; batch-norm is left at its start, which is the same for both."""
    model, net = peer.model, peer.model.backbone.conv_encoder.model
    yield ours.input_proj, model.input_projection
    yield ours.query_embed, model.query_position_embeddings
    yield ours.class_embed, peer.class_labels_classifier
    yield ours.bbox_embed, peer.bbox_predictor
    yield ours.transformer.decoder.norm, model.decoder.layernorm
    for a, b in _same_layers(ours, peer):
        yield a.linear1, b.fc1
        yield a.linear2, b.fc2
        yield a.norm1, b.self_attn_layer_norm
        yield (a.norm3 if hasattr(a, "norm3") else a.norm2), b.final_layer_norm
        if hasattr(a, "norm3"):
            yield a.norm2, b.encoder_attn_layer_norm
    yield ours.backbone.conv1, net.embedder.embedder.convolution
    for number, stage in enumerate(net.encoder.stages, 1):
        for a, b in zip(getattr(ours.backbone, f"layer{number}"), stage.layers, strict=True):
            for convolution, layer in zip((a.conv1, a.conv2, a.conv3), b.layer, strict=True):
                yield convolution, layer.convolution
            if a.downsample is not None:
                yield a.downsample[0], b.shortcut.convolution


def _same_layers(ours: DETR, peer: DetrForObjectDetection) -> Iterator[tuple[nn.Module, nn.Module]]:
    for side in ("encoder", "decoder"):
        yield from zip(getattr(ours.transformer, side).layers, getattr(peer.model, side).layers, strict=True)


def _same_attentions(ours: DETR, peer: DetrForObjectDetection) -> Iterator[tuple[nn.Module, nn.Module]]:
    for a, b in _same_layers(ours, peer):
        yield a.self_attn, b.self_attn
        if hasattr(a, "multihead_attn"):
            yield a.multihead_attn, b.encoder_attn


def _copy_attention(ours: nn.Module, theirs: nn.Module) -> None:
    projections = (theirs.q_proj, theirs.k_proj, theirs.v_proj)
    chunks = zip(projections, ours.in_proj_weight.chunk(3), ours.in_proj_bias.chunk(3), strict=True)
    for projection, weight, bias in chunks:
        projection.load_state_dict({"weight": weight, "bias": bias})
    theirs.out_proj.load_state_dict(ours.out_proj.state_dict())
