"""Where a training step stopped being finite: it is run again, and every part of the model watched."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from detr_mini.datasets.batches import Batch

PARTS = {
    "backbone": "the backbone",
    "input_proj": "the projection of the features",
    "query_embed": "the object queries",
    "class_embed": "the class head",
    "bbox_embed": "the box head",
}


def finite(*values) -> bool:
    """Whether all floating-point tensors among the values are finite."""
    tensors = [value for value in values if isinstance(value, Tensor) and value.is_floating_point()]
    return not tensors or bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())


def place(name: str) -> str:
    """A module's or parameter's name in words, e.g. "decoder layer 1 (transformer.decoder.layers.1.linear1)"."""
    first, *rest = name.split(".")
    part = PARTS.get(first, "the transformer")
    if len(rest) > 2 and rest[1] == "layers":
        part = f"{rest[0]} layer {rest[2]}"
    return f"{part} ({name})"


def broken_weight(model: nn.Module) -> str | None:
    """The place of the first parameter or statistic that holds NaN or inf; one look at the device where none does."""
    state = model.state_dict()
    if finite(*state.values()):
        return None
    return place(next(name for name, value in state.items() if not finite(value)))


@torch.enable_grad()
def find(model: nn.Module, batch: Batch, forward: Callable[[], Tensor | None]) -> str:
    """The first place, in words, that is not finite when `forward` (the step on the batch) runs once more.

    `forward` gives the loss, for a look at the gradients too, or None. Hooks cost time, so nothing is watched in a
    step that goes well.
    """
    for image, target in zip(batch.images, batch.targets, strict=True):
        if not finite(image):
            return f"NaN or inf in the pixels of image {target['image_id']}"
    weights = [name for name, parameter in model.named_parameters() if not finite(parameter)]
    if weights:
        return f"NaN or inf in the weights of {place(weights[0])}"
    found: list[str] = []

    def look(name: str, module: nn.Module, inputs: tuple, output) -> None:
        if not found and not finite(*(output if isinstance(output, tuple) else (output,))):
            found.append(name)

    hooks = [module.register_forward_hook(partial(look, name)) for name, module in model.named_modules() if name]
    try:
        loss = forward()
    except ValueError:  # the matching refuses what the hooks have seen
        loss = None
    finally:
        for hook in hooks:
            hook.remove()
    if found:
        return f"NaN or inf first in the output of {place(found[0])}"
    if loss is None:
        return "no part of the model gives NaN or inf on these images: the loss or a gradient does"
    model.zero_grad()
    loss.backward()
    broken = [name for name, p in model.named_parameters() if p.grad is not None and not finite(p.grad)]
    if broken:  # gradients run backwards, so the last part in order is nearest to the source
        return f"the outputs are finite, NaN or inf first in the gradient of {place(broken[-1])}"
    return "the same step is finite now: was the batch changed, or the memory faulty?"
