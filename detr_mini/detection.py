"""From a model's answers to detections: scores, names and boxes in the pixels of the original image.

Nothing removes duplicates unless `nms_iou` asks for it: DETR's queries settle among themselves who says what.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torchvision.ops import batched_nms
from torchvision.transforms.v2 import functional

from detr_mini.backbones import normalization
from detr_mini.boxes import cxcywh_to_xyxy
from detr_mini.checkpoints import Checkpoint
from detr_mini.datasets.transforms import as_rgb, read_rgb, seen_size
from detr_mini.detr import Attention, DETROutput

# B images · Q queries · K classes · N detections of an image

Picture = str | Path | Image.Image | Tensor  # a file, or an image already read: PIL, or uint8 (3, H, W)


@dataclass
class Detections:
    """What was found in one image, by falling score; boxes in px of the original image, cut at its border."""

    boxes_xyxy_px: Tensor  # (N, 4) float
    scores: Tensor  # (N,) probability of the class
    labels: Tensor  # (N,) int64, 0..K-1
    names: list[str]  # N class names
    queries: Tensor  # (N,) int64: the query that said so

    def __len__(self) -> int:
        return len(self.scores)


def detections(
    output: DETROutput,
    original_sizes: Sequence[tuple[int, int]],
    names: Sequence[str],
    *,
    threshold: float = 0.7,
    layer: int = -1,
    nms_iou: float | None = None,
) -> list[Detections]:
    """Read one decoder layer's answers for B images of `original_sizes` (H, W) px, one Detections each.

    A query speaks for its likeliest class, "no object" left aside, where that probability reaches
    `threshold`; at 0 every query speaks, as COCO's evaluation wants it (the paper's second-best class).
    `nms_iou` drops boxes that overlap a better one of their class by more. Raises ValueError where sizes or
    names do not fit, or an answer is NaN.
    """
    logits, boxes = output.logits[layer], output.boxes[layer]  # (B, Q, K+1), (B, Q, 4)
    if len(original_sizes) != len(logits):
        raise ValueError(f"{len(original_sizes)} original sizes for {len(logits)} images: wanted one (H, W) each")
    if len(names) != logits.shape[-1] - 1:
        raise ValueError(
            f"{len(names)} class names for a model of {logits.shape[-1] - 1} classes: "
            "the names of another data set than the model was trained on?"
        )
    scores, labels = logits.float().softmax(-1)[..., :-1].max(-1)  # (B, Q)
    scores, queries = scores.sort(dim=-1, descending=True, stable=True)
    scores, labels, queries = scores.cpu(), labels.gather(1, queries).cpu(), queries.cpu()
    boxes = boxes.float().cpu()
    for kind, values in (("logits", scores), ("boxes", boxes)):
        if not values.isfinite().all():
            image = int((~values.isfinite()).nonzero()[0, 0])
            raise ValueError(
                f"the {kind} of decoder layer {layer % len(output.logits)} are not finite for image {image} of the "
                "batch: weights of a training that diverged, or pixels of NaN?"
            )
    # Boxes are relative to the image itself, so neither padding nor the size the model saw matters here.
    height, width = torch.tensor(original_sizes, dtype=torch.float32).reshape(-1, 2, 1).unbind(1)  # (B, 1)
    x1, y1, x2, y2 = cxcywh_to_xyxy(boxes).unbind(-1)  # (B, Q)
    sides = [(x1, width), (y1, height), (x2, width), (y2, height)]
    boxes_px = torch.stack([(side * size).clamp(min=0).minimum(size) for side, size in sides], dim=-1)
    boxes_px = boxes_px.take_along_dim(queries[..., None], dim=1)

    found = []
    for box, score, label, query in zip(boxes_px, scores, labels, queries, strict=True):
        keep = (score >= threshold).nonzero()[:, 0]
        if nms_iou is not None:
            keep = keep[batched_nms(box[keep], score[keep], label[keep], nms_iou)]
        label = label[keep]
        called = [names[index] for index in label.tolist()]
        found.append(Detections(box[keep], score[keep], label, called, query[keep]))
    return found


def detect(
    checkpoint: Checkpoint,
    images: Picture | Sequence[Picture],
    threshold: float = 0.7,
    device: str | torch.device = "cpu",
    return_attention: bool = False,
) -> list[Detections] | list[tuple[Detections, Attention]]:
    """Detect on images one by one, each resized as the checkpoint's evaluation did; one result an image.

    With `return_attention` each result is (Detections, Attention). Raises FileNotFoundError, OSError for a
    file that is no image, ValueError for a tensor that is not uint8 (3, H, W), or answers that are not finite.
    """
    model, results = checkpoint.model, []
    pictures = [images] if isinstance(images, Picture) else images
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in normalization(model.config.backbone))
    with evaluating(model, device):
        for number, picture in enumerate(pictures):
            image = read_picture(picture)
            original_size = tuple(image.shape[-2:])
            sides = checkpoint.info.get("short_side"), checkpoint.info.get("long_side")
            image = functional.resize(image, list(seen_size(*original_size, *sides)))
            batch = ((image.float() / 255 - mean) / std)[None].to(device)  # (1, 3, H, W)
            padding = torch.zeros_like(batch[:, 0], dtype=torch.bool)
            output = model(batch, padding, return_attention=return_attention)
            try:
                (found,) = detections(output, [original_size], checkpoint.names, threshold=threshold)
            except ValueError as error:
                raise ValueError(
                    f"{picture if isinstance(picture, str | Path) else f'picture {number}'}: {error}"
                ) from error
            results.append((found, output.attention) if return_attention else found)
    return results


@contextmanager
def evaluating(model: nn.Module, device: str | torch.device) -> Iterator[None]:
    """Inside, the model is on `device`, in evaluation mode and without gradients; afterwards as before."""
    training = [module for module in model.modules() if module.training]
    home = next((parameter.device for parameter in model.parameters()), torch.device(device))
    try:
        model.to(device).eval()
        with torch.inference_mode():
            yield
    finally:
        model.to(home)
        for module in training:  # one by one: frozen parts of a training model stay in evaluation mode
            module.training = True


def read_picture(picture: Picture) -> Tensor:
    """The image as uint8 (3, H, W), upright as the camera meant it; ValueError for another tensor."""
    if isinstance(picture, Tensor):
        if picture.dtype != torch.uint8 or picture.ndim != 3 or len(picture) != 3 or not picture.numel():
            raise ValueError(
                f"image is {picture.dtype} {tuple(picture.shape)}, wanted torch.uint8 (3, H, W): "
                "one image, its values 0..255, not yet normalised"
            )
        return picture
    if isinstance(picture, Image.Image):
        return functional.pil_to_tensor(as_rgb(ImageOps.exif_transpose(picture)))
    return functional.pil_to_tensor(read_rgb(picture))
