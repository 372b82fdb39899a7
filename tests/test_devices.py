"""Device mistakes, found without a GPU: the forward pass and the loss on fake CUDA tensors."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from detr_mini import losses, matching
from detr_mini.boxes import cxcywh_to_xyxy
from detr_mini.detr import DETR, DETRConfig

OLDEST_WITH_FAKE_CUDA = (2, 8)  # torch 2.6 asks the driver for a device before it fakes one

pytestmark = pytest.mark.skipif(
    tuple(int(part) for part in torch.__version__.split(".")[:2]) < OLDEST_WITH_FAKE_CUDA
    and not torch.cuda.is_available(),
    reason="this torch makes fake CUDA tensors only beside a CUDA driver: use a newer torch",
)

CHANGES = [{}, {"position": "learned", "encoder_layers": 1}, {"position": "none"}, {"dropout": 0.1, "pre_norm": False}]


def shapes_of(model: DETR) -> dict:
    """Shape and dtype of every parameter and buffer, by name; read outside the fake mode."""
    named = dict(model.named_parameters()) | dict(model.named_buffers())
    return {name: (tuple(value.shape), value.dtype) for name, value in named.items()}


@pytest.mark.parametrize("changes", CHANGES, ids=str)
@pytest.mark.parametrize("return_attention", [False, True])
def test_the_model_keeps_to_one_device(changes, return_attention):
    model = DETR(DETRConfig.mini(**changes))
    shapes = shapes_of(model)
    with FakeTensorMode():
        state = {name: torch.empty(shape, dtype=dtype, device="cuda") for name, (shape, dtype) in shapes.items()}
        images = torch.empty(2, 3, 64, 48, device="cuda")
        padding = torch.empty(2, 64, 48, dtype=torch.bool, device="cuda")
        output = torch.func.functional_call(model, state, (images, padding, return_attention))
    assert output.logits.device.type == output.boxes.device.type == "cuda"
    assert output.logits.shape == (3, 2, 10, 21)


def test_the_loss_keeps_to_one_device():
    with FakeTensorMode():
        logits = torch.empty(3, 2, 10, 21, device="cuda")
        boxes = torch.empty(3, 2, 10, 4, device="cuda")
        targets = [
            {"labels": torch.empty(n, dtype=torch.int64, device="cuda"), "boxes": torch.empty(n, 4, device="cuda")}
            for n in (3, 0)
        ]
        padded = matching.pad_targets(targets, logits.device)
        costs = matching.cost(logits, boxes, padded, matching.Weights())
        query = torch.empty(3, 2, 3, dtype=torch.int64, device="cuda")
        match = matching.Match(query, None)
        label = losses.label_loss(logits, padded, match, 0.1)
        l1, giou = losses.box_losses(boxes, padded, match)
        error = losses.class_error(logits, padded, match)
        cardinality = losses.cardinality_error(logits, padded)
    assert {value.device.type for value in (costs, label, l1, giou, error, cardinality)} == {"cuda"}
    assert costs.shape == (3, 2, 10, 3) and label.shape == l1.shape == giou.shape == (3,)


def test_a_mixed_device_is_caught():
    with FakeTensorMode(), pytest.raises(RuntimeError, match="device"):
        cxcywh_to_xyxy(torch.empty(3, 4, device="cuda")) + torch.empty(3, 4)
