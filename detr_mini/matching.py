"""Who answers for which object: the matching cost, and one assignment for all decoder layers at once."""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from detr_mini.boxes import cxcywh_to_xyxy, giou

# Shapes: L decoder layers · B images · Q queries · T true boxes (padded to the batch's most) · K classes


@dataclass(frozen=True)
class Weights:
    """Weights of the three terms of the matching cost (the authors' 1, 5, 2); each at least 0."""

    label: float = 1.0
    l1: float = 5.0
    giou: float = 2.0


@dataclass(frozen=True)
class PaddedTargets:
    """The targets of a batch as rectangles: labels (B, T), boxes_cxcywh (B, T, 4), valid (B, T), counts on the CPU."""

    labels: Tensor
    boxes_cxcywh: Tensor
    valid: Tensor
    counts: list[int]


@dataclass(frozen=True)
class Match:
    """The assignment: query (L, B, T) on the device, -1 where an object has none, and the same as numpy."""

    query: Tensor
    query_numpy: np.ndarray

    def pairs(self, layer: int, image: int) -> tuple[Tensor, Tensor]:
        """Two CPU index tensors of equal length, (query, target), of one decoder layer and image."""
        query = torch.from_numpy(self.query_numpy[layer, image])
        target = (query >= 0).nonzero()[:, 0]
        return query[target], target


def pad_targets(targets: list[dict], device: torch.device) -> PaddedTargets:
    """Stacks targets of unequal length; empty places hold label 0 and a box in the middle of the image."""
    counts = [len(target["labels"]) for target in targets]
    labels = pad_sequence([target["labels"] for target in targets], batch_first=True)
    boxes = pad_sequence([target["boxes"].float() for target in targets], batch_first=True, padding_value=0.5)
    valid = torch.arange(labels.shape[1])[None, :] < torch.tensor(counts)[:, None]  # (B, T)
    return PaddedTargets(labels.to(device), boxes.to(device), valid.to(device, non_blocking=True), counts)


def cost(
    logits: Tensor,
    boxes_cxcywh: Tensor,
    targets: PaddedTargets,
    weights: Weights,
    log_probabilities: Tensor | None = None,
) -> Tensor:
    """What it would cost query q to answer for object t: logits (L, B, Q, K+1), boxes (L, B, Q, 4), to (L, B, Q, T).

    T columns are enough: where the paper pads the objects to Q, an empty one costs 0 with every query.
    `log_probabilities` are those of `logits`, where they are known already.
    Source: DETR, section 3.1; the class term is minus the probability, not its log.
    """
    if log_probabilities is None:
        log_probabilities = at_least_float32(logits).log_softmax(-1)
    layers, _, queries, _ = logits.shape
    labels = targets.labels[None, :, None, :].expand(layers, -1, queries, -1)  # (L, B, Q, T)
    # From here on objects before queries, (L, B, T, Q), until the last line: the long axis last is the fast one.
    label_cost = -log_probabilities.gather(-1, labels).mT.contiguous().exp()
    predicted = at_least_float32(boxes_cxcywh)
    true = targets.boxes_cxcywh[None].to(predicted.dtype)
    l1_cost = torch.cdist(true.expand(layers, -1, -1, -1), predicted, p=1)
    giou_cost = -giou(cxcywh_to_xyxy(true), cxcywh_to_xyxy(predicted))
    return (weights.label * label_cost + weights.l1 * l1_cost + weights.giou * giou_cost).mT


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision is too coarse for costs; float64, where somebody asks for it, is kept."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


@torch.no_grad()
def match(
    logits: Tensor,
    boxes_cxcywh: Tensor,
    targets: PaddedTargets,
    weights: Weights | None = None,
    log_probabilities: Tensor | None = None,
) -> Match:
    """The cheapest one-to-one assignment of objects to queries, for every decoder layer and image.

    logits (L, B, Q, K+1), boxes_cxcywh (L, B, Q, 4), and the log-probabilities if known. The device
    is read once (the cost) and written once (the answer). Raises ValueError where the cost holds NaN or inf; warns
    when an image has more objects than queries.
    """
    queries, counts = logits.shape[2], targets.counts
    if max(counts, default=0) > queries:
        crowded = sum(count > queries for count in counts)
        warnings.warn(
            f"{crowded} image(s) of a batch have more objects (up to {max(counts)}) than the model has queries "
            f"({queries}); the rest of them is not trained: raise DETRConfig.queries",
            stacklevel=2,
        )
    costs = cost(logits, boxes_cxcywh, targets, weights or Weights(), log_probabilities).cpu().numpy()
    if not np.isfinite(costs).all():
        layer, image, query, target = place = np.argwhere(~np.isfinite(costs))[0]
        parts = {"logits": logits[layer, image, query], "box": boxes_cxcywh[layer, image, query]}
        broken = next((name for name, part in parts.items() if not part.isfinite().all()), "target")
        cause = "a broken box?" if broken == "target" else "a learning rate too high?"
        raise ValueError(
            f"the matching cost is {costs[tuple(place)]} at decoder layer {layer}, image {image} of the batch, "
            f"query {query}, target {target}: the {broken} there {'are' if broken == 'logits' else 'is'} not finite: "
            f"{cause}"
        )
    query_of = np.full((*costs.shape[:2], costs.shape[3]), -1, dtype=np.int64)  # (L, B, T)
    for layer, image in np.ndindex(*costs.shape[:2]):
        rows, columns = linear_sum_assignment(costs[layer, image, :, : counts[image]])
        query_of[layer, image, columns] = rows
    return Match(torch.from_numpy(query_of).to(logits.device, non_blocking=True), query_of)
