"""The set prediction loss over all decoder layers at once."""

from dataclasses import dataclass, field

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from detr_mini import matching
from detr_mini.boxes import cxcywh_to_xyxy, paired_giou
from detr_mini.matching import Match, PaddedTargets, match, pad_targets

# Shapes: L decoder layers · B images · Q queries · T true boxes (padded) · K classes


@dataclass(frozen=True)
class Weights:
    """Weights of the loss's parts (the authors' 1, 5, 2), and of the class "no object" inside the first."""

    label: float = 1.0
    l1: float = 5.0
    giou: float = 2.0
    no_object: float = 0.1
    auxiliary: bool = True  # whether decoder layers before the last are trained too


@dataclass(frozen=True)
class SetLoss:
    """total (), and its unweighted parts by decoder layer: label, l1, giou (L,); the match and targets behind them."""

    total: Tensor
    label: Tensor
    l1: Tensor
    giou: Tensor
    match: Match = field(repr=False)
    targets: PaddedTargets = field(repr=False)


def set_loss(
    logits: Tensor,
    boxes_cxcywh: Tensor,
    targets: list[dict],
    weights: Weights | None = None,
    matching_weights: matching.Weights | None = None,
) -> SetLoss:
    """Matches queries (logits (L, B, Q, K+1), boxes (L, B, Q, 4)) to objects, and judges each by its match.

    The class part is a mean weighted by class weight, the box parts are sums divided by the number of objects;
    across processes both divisors are those of the whole batch. Raises what `matching.match` raises.
    Source: DETR, section 3.1, equations 2 and A.2.
    """
    weights = weights or Weights()
    padded = pad_targets(targets, logits.device)
    logits, boxes_cxcywh = logits.float(), boxes_cxcywh.float()
    log_probabilities = logits.detach().log_softmax(-1)  # once, for the matching and for the loss
    matched = match(logits, boxes_cxcywh, padded, matching_weights, log_probabilities)
    label = label_loss(logits, padded, matched, weights.no_object, log_probabilities)
    l1, giou = box_losses(boxes_cxcywh, padded, matched)
    parts = weights.label * label + weights.l1 * l1 + weights.giou * giou  # (L,)
    total = parts.sum() if weights.auxiliary else parts[-1]
    return SetLoss(total, label.detach(), l1.detach(), giou.detach(), matched, padded)


def label_loss(
    logits: Tensor,
    targets: PaddedTargets,
    matched: Match,
    no_object: float,
    log_probabilities: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of every query, "no object" down-weighted: logits (L, B, Q, K+1), to (L,).

    Where the log-probabilities of `logits` are known already, the same comes about twice as fast.
    """
    queries, classes = logits.shape[2], logits.shape[3] - 1
    place = torch.where(matched.query >= 0, matched.query, queries)  # (L, B, T); unmatched: one past the end
    wanted = torch.full((*logits.shape[:2], queries + 1), classes, device=logits.device)
    wanted = wanted.scatter(2, place, targets.labels.expand_as(place))[:, :, :queries]  # (L, B, Q)
    if log_probabilities is None:
        nats = F.cross_entropy(logits.flatten(0, 2), wanted.flatten(), reduction="none").view_as(wanted)
    else:
        nats = CrossEntropy.apply(logits, log_probabilities, wanted)
    class_weights = torch.where(wanted == classes, no_object, 1.0)  # (L, B, Q)
    divisor = mean_over_processes(class_weights.sum(dim=(1, 2)), 1e-9)  # (L,)
    return (class_weights * nats).sum(dim=(1, 2)) / divisor


class CrossEntropy(torch.autograd.Function):
    """`F.cross_entropy` of each query, (..., K+1) and wanted classes (...) to (...), from given log-probabilities.

    Its gradient by the logits is the probabilities, less 1 at the wanted class.
    """

    @staticmethod
    def forward(ctx, logits: Tensor, log_probabilities: Tensor, wanted: Tensor) -> Tensor:
        ctx.save_for_backward(log_probabilities, wanted)
        return -log_probabilities.gather(-1, wanted[..., None])[..., 0]

    @staticmethod
    @once_differentiable
    def backward(ctx, slope: Tensor) -> tuple[Tensor, None, None]:
        log_probabilities, wanted = ctx.saved_tensors
        gradient = log_probabilities.exp().mul_(slope[..., None])
        return gradient.scatter_add_(-1, wanted[..., None], -slope[..., None]), None, None


def box_losses(boxes_cxcywh: Tensor, targets: PaddedTargets, matched: Match) -> tuple[Tensor, Tensor]:
    """L1 and 1 - GIoU of matched pairs, per object: boxes (L, B, Q, 4), to two tensors (L,)."""
    place = matched.query.clamp(min=0)[..., None].expand(-1, -1, -1, 4)  # (L, B, T, 4)
    predicted = boxes_cxcywh.gather(2, place)
    true = targets.boxes_cxcywh.expand_as(predicted)
    counted = (matched.query >= 0).to(predicted.dtype)  # (L, B, T)
    l1 = (predicted - true).abs().sum(-1)
    giou = 1 - paired_giou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(true))
    divisor = mean_over_processes(predicted.new_full((), float(sum(targets.counts))), 1.0)
    return (l1 * counted).sum(dim=(1, 2)) / divisor, (giou * counted).sum(dim=(1, 2)) / divisor


def mean_over_processes(divisor: Tensor, at_least: float) -> Tensor:
    """The divisor of the whole batch, at least `at_least`, divided by the number of processes.

    DDP averages gradients, so this gives the whole batch's loss. The limit holds for the sum: two objects among
    three processes stay two.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return divisor.clamp(min=at_least)
    divisor = divisor.clone()
    torch.distributed.all_reduce(divisor)
    return divisor.clamp(min=at_least) / torch.distributed.get_world_size()


@torch.no_grad()
def class_error(logits: Tensor, targets: PaddedTargets, matched: Match) -> Tensor:
    """Per cent of matched objects whose query's likeliest class is wrong, last layer; 100 when there is no object.

    Across processes the mean of their numbers is that of the whole batch.
    """
    query = matched.query[-1]  # (B, T)
    guess = logits[-1].argmax(-1).gather(1, query.clamp(min=0))
    right = ((guess == targets.labels) & (query >= 0)).sum()
    return 100 - 100 * right / mean_over_processes(logits.new_full((), float(sum(targets.counts))), 1.0)


@torch.no_grad()
def cardinality_error(logits: Tensor, targets: PaddedTargets) -> Tensor:
    """Mean distance between the number of queries that name an object and the number of objects, last layer."""
    named = (logits[-1].argmax(-1) != logits.shape[-1] - 1).sum(1)
    return (named - targets.valid.sum(1)).abs().float().mean()
