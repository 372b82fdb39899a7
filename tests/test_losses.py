"""The set prediction loss against a naive loop over layers, images and objects, and its other promises."""

from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import box_convert, generalized_box_iou

from detr_mini import losses, matching

CLASSES, QUERIES = 4, 7


def problem(counts, layers=3, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(layers, len(counts), QUERIES, CLASSES + 1, generator=generator, dtype=dtype)
    boxes = torch.rand(layers, len(counts), QUERIES, 4, generator=generator, dtype=dtype) * 0.4 + 0.1
    targets = [
        {
            "boxes": torch.rand(count, 4, generator=generator, dtype=dtype) * 0.4 + 0.1,
            "labels": torch.randint(0, CLASSES, (count,), generator=generator),
        }
        for count in counts
    ]
    return logits.requires_grad_(), boxes.requires_grad_(), targets


def naive_loss(logits, boxes, targets, w: losses.Weights, m: matching.Weights) -> torch.Tensor:
    """The loss as the paper tells it: one layer, one image, one pair after the other."""
    objects = max(sum(len(t["labels"]) for t in targets), 1)
    total = 0.0
    for layer in range(len(logits)):
        label_sum = weight_sum = l1_sum = giou_sum = 0.0
        for image, true in enumerate(targets):
            scores, predicted = logits[layer, image], boxes[layer, image]
            wanted = torch.full((QUERIES,), CLASSES)
            if len(true["labels"]):
                overlap = generalized_box_iou(
                    box_convert(predicted, "cxcywh", "xyxy"), box_convert(true["boxes"], "cxcywh", "xyxy")
                )
                cost = -m.label * scores.softmax(-1)[:, true["labels"]] - m.giou * overlap
                cost = cost + m.l1 * (predicted[:, None] - true["boxes"][None]).abs().sum(-1)
                for q, t in zip(*linear_sum_assignment(cost.detach().numpy()), strict=True):
                    wanted[q] = true["labels"][t]
                    l1_sum = l1_sum + (predicted[q] - true["boxes"][t]).abs().sum()
                    giou_sum = giou_sum + 1 - overlap[q, t]
            for q in range(QUERIES):
                weight = w.no_object if wanted[q] == CLASSES else 1.0
                label_sum = label_sum - weight * scores[q].log_softmax(-1)[wanted[q]]
                weight_sum += weight
        part = w.label * label_sum / weight_sum + (w.l1 * l1_sum + w.giou * giou_sum) / objects
        if w.auxiliary or layer == len(logits) - 1:
            total = total + part
    return total


@pytest.mark.parametrize("auxiliary", [True, False])
@pytest.mark.parametrize("counts", [[3, 0, 5], [1], [0, 0], [7, 7]])
def test_equals_the_naive_loop_in_value_and_gradient(counts, auxiliary):
    weights = losses.Weights(label=1.3, l1=4.0, giou=1.7, no_object=0.2, auxiliary=auxiliary)
    costs = matching.Weights(label=2.0, l1=3.0, giou=1.0)
    logits, boxes, targets = problem(counts)
    fast = losses.set_loss(logits, boxes, targets, weights, costs).total
    slow = naive_loss(logits, boxes, targets, weights, costs)
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)
    for ours, naive in zip(
        torch.autograd.grad(fast, (logits, boxes)),
        torch.autograd.grad(slow, (logits, boxes), allow_unused=True, materialize_grads=True),
        strict=True,
    ):
        torch.testing.assert_close(ours, naive, atol=1e-6, rtol=0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.integers(0, 5), min_size=1, max_size=3), st.randoms())
def test_order_of_targets_and_of_queries_does_not_matter(seed, counts, random):
    logits, boxes, targets = problem(counts, seed=seed)
    before = losses.set_loss(logits, boxes, targets).total
    shuffled = []
    for true in targets:
        order = random.sample(range(len(true["labels"])), len(true["labels"]))
        shuffled.append({"boxes": true["boxes"][order], "labels": true["labels"][order]})
    queries = random.sample(range(QUERIES), QUERIES)
    after = losses.set_loss(logits[:, :, queries], boxes[:, :, queries], shuffled).total
    torch.testing.assert_close(before, after, atol=1e-5, rtol=1e-5)


def test_boxes_get_gradient_only_where_matched():
    logits, boxes, targets = problem([2, 0], layers=1)
    loss = losses.set_loss(logits, boxes, targets)
    loss.total.backward()
    touched = boxes.grad[0].abs().sum(-1) > 0
    query, _ = loss.match.pairs(0, 0)
    assert sorted(touched[0].nonzero()[:, 0].tolist()) == sorted(query.tolist())
    assert not touched[1].any()
    assert (logits.grad.abs().sum(-1) > 0).all()  # every query learns what to say


def test_a_perfect_answer_costs_nothing():
    _, _, targets = problem([3], layers=1)
    logits = torch.full((1, 1, QUERIES, CLASSES + 1), -50.0)
    logits[..., CLASSES] = 50.0
    boxes = torch.rand(1, 1, QUERIES, 4)
    for t in range(3):
        logits[0, 0, t], boxes[0, 0, t] = -50.0, targets[0]["boxes"][t]
        logits[0, 0, t, targets[0]["labels"][t]] = 50.0
    loss = losses.set_loss(logits, boxes, targets)
    assert loss.total < 1e-5
    assert losses.class_error(logits, loss.targets, loss.match) == 0
    assert losses.cardinality_error(logits, loss.targets) == 0


def test_class_error_without_any_object_is_100():
    logits, boxes, targets = problem([0, 0])
    loss = losses.set_loss(logits, boxes, targets)
    assert loss.total.isfinite() and (loss.l1 == 0).all() and (loss.giou == 0).all()
    assert losses.class_error(logits, loss.targets, loss.match) == 100


class DeviceReads(TorchDispatchMode):
    """Counts the operations that make a GPU wait: values read by the host, and sizes that depend on values."""

    WAITS = ("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.unique", "aten.is_nonzero")

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        by_mask = str(function).startswith("aten.index") and any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool
            for indices in args
            if isinstance(indices, list | tuple)
            for index in indices
        )
        if by_mask or str(function).startswith(self.WAITS):
            self.seen.append(str(function))
        return function(*args, **(kwargs or {}))


@contextmanager
def counted_transfers(monkeypatch):
    """Counts the Tensor methods that copy to the host or ask for a value, where data moves at all."""
    calls = []
    for name in ("item", "tolist", "cpu", "__bool__", "__int__", "__float__", "__index__"):
        original = getattr(torch.Tensor, name)

        def counting(self, *args, _original=original, _name=name, **kwargs):
            calls.append(_name)
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, counting)
    yield calls
    monkeypatch.undo()


def test_the_device_is_read_once_and_written_once(monkeypatch):
    logits, boxes, targets = problem([3, 0, 5])
    with counted_transfers(monkeypatch) as calls, DeviceReads() as reads:
        loss = losses.set_loss(logits, boxes, targets)
        loss.total.backward()
    assert calls == ["cpu"], "the cost goes to the host once; nothing else may"
    assert reads.seen == []


def test_the_backward_pass_reads_nothing():
    logits, boxes, targets = problem([3, 0, 5])
    total = losses.set_loss(logits, boxes, targets).total
    with torch.autograd.profiler.profile() as profile:  # a dispatch mode would miss C++ formulas of the backward pass
        total.backward()
    names = {event.name for event in profile.function_events}
    assert len(names) > 5, "the profiler must have seen the pass"
    assert not names & {"aten::_local_scalar_dense", "aten::nonzero", "aten::item"}


def test_the_counter_sees_a_read(monkeypatch):
    logits, _, _ = problem([1])
    with counted_transfers(monkeypatch) as calls, DeviceReads() as reads:
        logits.sum().item()
        logits[logits > 0].sum()
    assert calls == ["item"] and len(reads.seen) == 2


def test_half_precision_inputs_give_a_float32_loss():
    logits, boxes, targets = problem([3, 1])
    loss = losses.set_loss(logits.bfloat16(), boxes.bfloat16(), targets)
    assert loss.total.dtype == torch.float32 and loss.label.dtype == torch.float32
    assert F.l1_loss(loss.total, losses.set_loss(logits, boxes, targets).total) < 0.1
