"""DETR in fifty lines: the model of the paper's Listing 1 for today's torchvision, with the paper's names."""

import re

import torch
from torch import Tensor, nn
from torchvision.models import resnet50

# Shapes: B images · H, W feature map, 1/32 of the image's height and width · Q queries · K classes · D hidden_dim

QUERIES = 100  # Q
CELLS = 50  # longest side of a feature map that the learned positions know
# nn.Sequential knows its parts by number; the published weights call them by name
RESNET_PARTS = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")


class DETR(nn.Module):
    """The whole idea with nothing around it: features, positions, a stock transformer, two linear heads.

    `forward` takes images (B, 3, height, width) in px, all of one size, normalised with ImageNet's mean and
    deviation, and returns logits (B, Q, K+1), "no object" last, and boxes (B, Q, 4) cxcywh in 0..1. Raises
    ValueError above 1,600 px a side. `feature_scale` multiplies the features before the positions are added: 1.0
    as the paper prints it, 0.1 for the published demo weights. Never touches the network.
    Source: Listing 1. What it leaves out of the model in `detr_mini.detr`: padding, sines at every attention,
    frozen batch-norm, the three-layer box head, and the answers of the earlier decoder layers (section 3.2).
    """

    def __init__(
        self,
        num_classes: int,
        hidden_dim: int = 256,
        nheads: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        feature_scale: float = 1.0,
    ):
        super().__init__()
        self.feature_scale = feature_scale
        # Without ResNet's last two parts: they average over the image, and a detector must know where things are.
        self.backbone = nn.Sequential(*list(resnet50(weights=None).children())[:-2])
        self.conv = nn.Conv2d(2048, hidden_dim, kernel_size=1)
        # Stock, with its own feed-forward width 2,048, dropout 0.1, and a final norm that the full encoder has not.
        self.transformer = nn.Transformer(hidden_dim, nheads, num_encoder_layers, num_decoder_layers, batch_first=True)
        self.linear_class = nn.Linear(hidden_dim, num_classes + 1)  # + 1: "no object" (section 3.1)
        self.linear_bbox = nn.Linear(hidden_dim, 4)
        self.query_pos = nn.Parameter(torch.rand(QUERIES, hidden_dim))  # the object queries
        # A token tells its column with one half of its channels and its row with the other.
        self.row_embed = nn.Parameter(torch.rand(CELLS, hidden_dim // 2))
        self.col_embed = nn.Parameter(torch.rand(CELLS, hidden_dim // 2))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        h = self.conv(self.backbone(images))  # (B, 3, height, width) -> (B, 2048, H, W) -> (B, D, H, W)
        H, W = h.shape[-2:]
        if max(H, W) > CELLS:
            raise ValueError(
                f"feature map of {H} x {W} cells: row_embed and col_embed know {CELLS} a side, {32 * CELLS} px of "
                "image; resize the image, or take detr_mini.detr.DETR, whose sines have no limit"
            )
        columns = self.col_embed[:W].expand(H, W, -1)  # (W, D/2) -> (H, W, D/2)
        rows = self.row_embed[:H, None].expand(H, W, -1)  # (H, 1, D/2) -> (H, W, D/2)
        pos = torch.cat([columns, rows], dim=-1).flatten(0, 1)  # (HW, D)
        tokens = self.feature_scale * h.flatten(2).transpose(1, 2)  # (B, D, H, W) -> (B, HW, D)
        queries = self.query_pos.expand(len(images), -1, -1)  # (Q, D) -> (B, Q, D)
        # Positions enter once, here, so the values carry them too; the full model adds them to queries and keys of
        # every attention (Table 3). No mask hides later queries: all boxes are decoded at once (section 3.2).
        states = self.transformer(pos + tokens, queries)  # (B, Q, D)
        return self.linear_class(states), self.linear_bbox(states).sigmoid()


def demo_keys(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published demo's state dict (511 tensors, float16) under the names of `DETR` above, in float32.

    Shapes are left to `load_state_dict`. Raises ValueError that names what is missing or left over.
    """
    with torch.device("meta"):  # names without numbers: no memory, no time
        own = DETR(num_classes=91).state_dict()
    theirs = {name: re.sub(r"(?<=^backbone\.)\d+", lambda part: RESNET_PARTS[int(part[0])], name) for name in own}
    missing, left_over = sorted(set(theirs.values()) - set(published)), sorted(set(published) - set(theirs.values()))
    if missing or left_over:
        raise ValueError(
            f"another model than the published demo: {len(missing)} of its tensors are missing {missing[:3]}, "
            f"{len(left_over)} are left over {left_over[:3]}"
        )
    values = {name: published[theirs[name]] for name in own}
    return {name: value.float() if value.is_floating_point() else value for name, value in values.items()}
