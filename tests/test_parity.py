"""Our DETR against the one of Hugging Face transformers: every weight random, every layer, attention map and loss.

As a script it prints the largest differences as JSON: python tests/test_parity.py > data/results/parity.json
"""

import copy
import functools
import json
import os
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from detr_mini import losses, positions
from detr_mini.detr import DETR, DETRConfig

if os.environ.get("CI") != "true":  # there a missing peer is an error
    pytest.importorskip("transformers")
import transformers
from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig
from transformers.loss.loss_for_object_detection import HungarianMatcher, ImageLoss

# B images · L layers · Q queries · K classes · S = HW tokens · h heads

TOLERANCE = 1e-4  # absolute, float32
CASES = {  # height and width of each image, px; a batch is as high as the highest and as wide as the widest
    "one size": [(160, 192), (160, 192)],
    "padded": [(160, 192), (96, 128)],
    "padded, not multiples of 32": [(101, 190), (150, 117)],
}
# Standard deviations of their matrices, times the root of the fan-in; the first name found counts. With equal gains
# attention averages until all tokens and queries are alike and a wrong model gives the right answer: so sharp
# attention, small values in self-attention, large ones in cross-attention.
GAINS = {
    "backbone": 2**0.5,
    "input_projection": 0.3,
    "query_position": 16.0,  # D ** 0.5: each number has variance 1
    "q_proj": 3.0,
    "k_proj": 3.0,
    "encoder_attn.v_proj": 2.0,
    "v_proj": 0.3,
    "out_proj": 1.0,
    "fc1": 1.0,
    "fc2": 0.5,
    "class_labels": 2.0,
    "bbox": 1.5,
}
COUNTS = [(4, 7), (5, 0), (0, 0)]  # true boxes of each image of a batch


@functools.cache
def theirs() -> DetrForObjectDetection:
    """Their R50 with random weights, built without the network."""
    config = DetrConfig(
        use_timm_backbone=False,
        backbone=None,
        backbone_config=ResNetConfig(out_features=["stage4"]),
        use_pretrained_backbone=False,
        num_labels=91,
        auxiliary_loss=False,  # True feeds the normed state to the next layer, which is not DETR
        attn_implementation="eager",
    )
    return randomised(DetrForObjectDetection(config)).eval()


@torch.no_grad()
def randomised(model: nn.Module) -> nn.Module:
    """Every parameter and buffer a random value, of a size that keeps states near 1 through all layers."""
    generator = torch.Generator().manual_seed(0)
    assert model.state_dict().keys() == dict([*model.named_parameters(), *model.named_buffers()]).keys()
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2, generator=generator)
        elif value.dim() > 1:
            gain = next(gain for part, gain in GAINS.items() if part in name)
            value.normal_(std=gain / value[0].numel() ** 0.5, generator=generator)
        elif name.endswith("weight"):
            value.uniform_(0.5, 1.5, generator=generator)
            if name.endswith("layer.2.normalization.weight"):  # the end of a residual branch
                value *= 0.3
        else:
            value.normal_(std=0.1, generator=generator)
    return model


def same_modules() -> Iterator[tuple[str, str]]:
    """Pairs (our name, their name) of all modules but attention's projections, written out by hand."""
    yield "input_proj", "model.input_projection"
    yield "query_embed", "model.query_position_embeddings"
    yield "class_embed", "class_labels_classifier"
    yield from ((f"bbox_embed.layers.{i}", f"bbox_predictor.layers.{i}") for i in range(3))
    body = "model.backbone.conv_encoder.model"
    yield "backbone.conv1", f"{body}.embedder.embedder.convolution"
    yield "backbone.bn1", f"{body}.embedder.embedder.normalization"
    for stage, depth in enumerate((3, 4, 6, 3)):
        for block in range(depth):
            us, them = f"backbone.layer{stage + 1}.{block}", f"{body}.encoder.stages.{stage}.layers.{block}"
            for i in range(3):
                yield f"{us}.conv{i + 1}", f"{them}.layer.{i}.convolution"
                yield f"{us}.bn{i + 1}", f"{them}.layer.{i}.normalization"
        first = f"{body}.encoder.stages.{stage}.layers.0.shortcut"
        yield f"backbone.layer{stage + 1}.0.downsample.0", f"{first}.convolution"
        yield f"backbone.layer{stage + 1}.0.downsample.1", f"{first}.normalization"
    for half, norms in (
        ("encoder", ("self_attn_layer_norm", "final_layer_norm")),
        ("decoder", ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm")),
    ):
        for i in range(6):
            us, them = f"transformer.{half}.layers.{i}", f"model.{half}.layers.{i}"
            yield from ((f"{us}.linear{n}", f"{them}.fc{n}") for n in (1, 2))
            yield from ((f"{us}.norm{n}", f"{them}.{norm}") for n, norm in enumerate(norms, 1))
    yield "transformer.decoder.norm", "model.decoder.layernorm"


def same_attentions() -> Iterator[tuple[str, str]]:
    for i in range(6):
        yield f"transformer.encoder.layers.{i}.self_attn", f"model.encoder.layers.{i}.self_attn"
        yield f"transformer.decoder.layers.{i}.self_attn", f"model.decoder.layers.{i}.self_attn"
        yield f"transformer.decoder.layers.{i}.multihead_attn", f"model.decoder.layers.{i}.encoder_attn"


def their_weights_under_our_names() -> dict[str, Tensor]:
    """Their state dict under our names; what no pair names keeps its own, so that strict loading refuses it."""
    left = dict(theirs().state_dict())
    mapped = {}
    for us, them in same_attentions():
        for kind in ("weight", "bias"):
            mapped[f"{us}.in_proj_{kind}"] = torch.cat([left.pop(f"{them}.{x}_proj.{kind}") for x in "qkv"])
            mapped[f"{us}.out_proj.{kind}"] = left.pop(f"{them}.out_proj.{kind}")
    for us, them in same_modules():
        for kind in ("weight", "bias", "running_mean", "running_var"):
            if f"{them}.{kind}" in left:
                mapped[f"{us}.{kind}"] = left.pop(f"{them}.{kind}")
    return mapped | left


@functools.cache
def ours() -> DETR:
    model = DETR(DETRConfig())
    model.load_state_dict(their_weights_under_our_names(), strict=True)
    return model.eval()


@functools.cache
def batch(case: str) -> tuple[Tensor, Tensor | None]:
    """Random images (B, 3, H, W), 0 where padded, and padding (B, H, W), None where nothing is."""
    sizes, generator = CASES[case], torch.Generator().manual_seed(1)
    height, width = (max(side) for side in zip(*sizes, strict=True))
    images, padding = torch.zeros(len(sizes), 3, height, width), torch.ones(len(sizes), height, width).bool()
    for i, (h, w) in enumerate(sizes):
        images[i, :, :h, :w] = torch.randn(3, h, w, generator=generator)
        padding[i, :h, :w] = False
    return images, padding if padding.any() else None


@torch.inference_mode()
def our_answers(model: DETR, case: str) -> dict[str, Tensor]:
    fused, explicit = model(*batch(case)), model(*batch(case), return_attention=True)
    return {
        "logits": fused.logits,  # (L, B, Q, K+1)
        "boxes": fused.boxes,
        "logits, explicit attention": explicit.logits,
        "boxes, explicit attention": explicit.boxes,
        "encoder attention": explicit.attention.encoder,  # (L, B, h, S, S)
        "cross attention": explicit.attention.decoder,  # (L, B, h, Q, S)
    }


@functools.cache
@torch.inference_mode()
def their_answers(case: str) -> dict[str, Tensor]:
    """The same; layers before the last through their final norm and heads, as their own loss never sees them."""
    (images, padding), model = batch(case), theirs()
    mask = None if padding is None else (~padding).long()
    answer = model(images, mask, output_attentions=True, output_hidden_states=True)
    states = model.model.decoder.layernorm(torch.stack(answer.decoder_hidden_states[1:-1]))  # (L-1, B, Q, D)
    logits = torch.cat([model.class_labels_classifier(states), answer.logits[None]])
    boxes = torch.cat([model.bbox_predictor(states).sigmoid(), answer.pred_boxes[None]])
    return {
        "logits": logits,
        "boxes": boxes,
        "logits, explicit attention": logits,
        "boxes, explicit attention": boxes,
        "encoder attention": torch.stack(answer.encoder_attentions),
        "cross attention": torch.stack(answer.cross_attentions),
    }


def targets(counts: tuple[int, ...]) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    return [
        {
            "boxes": torch.rand(count, 4, generator=generator) * 0.5 + 0.2,
            "labels": torch.randint(0, 91, (count,), generator=generator),
        }
        for count in counts
    ]


def by_layer_and_gradients(total: Tensor, parts: dict[str, Tensor], *inputs: Tensor) -> dict[str, Tensor]:
    gradients = torch.autograd.grad(total, inputs)
    parts = {name: value.detach() for name, value in parts.items()}
    return {"total": total.detach(), **parts, "gradient by logits": gradients[0], "gradient by boxes": gradients[1]}


def our_loss(logits: Tensor, boxes: Tensor, counts: tuple[int, ...]) -> dict[str, Tensor]:
    logits, boxes = (x.clone().requires_grad_() for x in (logits, boxes))
    loss = losses.set_loss(logits, boxes, targets(counts))
    return by_layer_and_gradients(loss.total, {"label": loss.label, "l1": loss.l1, "giou": loss.giou}, logits, boxes)


def their_loss(logits: Tensor, boxes: Tensor, counts: tuple[int, ...]) -> dict[str, Tensor]:
    """Their criterion with auxiliary losses, on our layers, weighted as their model weighs it."""
    logits, boxes = (x.clone().requires_grad_() for x in (logits, boxes))
    *earlier, last = [{"logits": c, "pred_boxes": b} for c, b in zip(logits, boxes, strict=True)]
    criterion = ImageLoss(HungarianMatcher(1, 5, 2), 91, eos_coef=0.1, losses=["labels", "boxes"])
    true = [{"class_labels": t["labels"], "boxes": t["boxes"]} for t in targets(counts)]
    found = criterion({**last, "auxiliary_outputs": earlier}, true)
    endings = [*(f"_{i}" for i in range(len(earlier))), ""]
    label, l1, giou = (torch.stack([found[f"loss_{x}{end}"] for end in endings]) for x in ("ce", "bbox", "giou"))
    total = (label + 5 * l1 + 2 * giou).sum()
    return by_layer_and_gradients(total, {"label": label, "l1": l1, "giou": giou}, logits, boxes)


def assert_same(us: dict[str, Tensor], them: dict[str, Tensor]) -> None:
    assert us.keys() == them.keys()
    for name, wanted in them.items():
        torch.testing.assert_close(us[name], wanted, atol=TOLERANCE, rtol=0, msg=lambda text, n=name: f"{n}: {text}")


def differences() -> dict[str, dict[str, float]]:
    """The largest absolute difference of each item, by batch of images and by numbers of true boxes."""

    def largest(us: dict[str, Tensor], them: dict[str, Tensor]) -> dict[str, float]:
        return {name: float(f"{(us[name] - wanted).abs().max():.2g}") for name, wanted in them.items()}

    found = {case: largest(our_answers(ours(), case), their_answers(case)) for case in CASES}
    answer = our_answers(ours(), "padded")
    for counts in COUNTS:
        loss = (f(answer["logits"], answer["boxes"], counts) for f in (our_loss, their_loss))
        found[f"loss, {' and '.join(map(str, counts))} true boxes"] = largest(*loss)
    return found


def test_every_tensor_of_both_models_has_its_partner():
    theirs_here, mapped = theirs().state_dict(), their_weights_under_our_names()
    assert len(theirs_here) == 530 and len(mapped) == 458
    assert mapped.keys() == ours().state_dict().keys()  # none missing, none of theirs left over
    assert sum(x.numel() for x in mapped.values()) == sum(x.numel() for x in theirs_here.values())
    assert all(value.std() > 0.05 * value.abs().max() for value in mapped.values()), "a tensor is not random"


@pytest.mark.parametrize("case", CASES)
def test_answers_and_attention_of_every_layer_are_theirs(case):
    assert_same(our_answers(ours(), case), their_answers(case))


@pytest.mark.parametrize("case", CASES)
def test_the_answers_compared_are_neither_constant_nor_saturated(case):
    """1e-4 means something: queries, images and layers differ by far more, and no sigmoid or softmax is at its end."""
    answer = their_answers(case)
    boxes, logits = answer["boxes"], answer["logits"]
    for axis in (0, 1, 2):  # layers, images, queries
        assert logits.std(axis).mean() > 0.1 and boxes.std(axis).mean() > 0.01, axis
    assert logits.softmax(-1).amax(-1).mean() < 0.9 and ((boxes > 0.01) & (boxes < 0.99)).float().mean() > 0.9
    for name in ("encoder attention", "cross attention"):
        strongest = answer[name].amax(-1)
        assert 3 / answer[name].shape[-1] < strongest.mean() < 0.9, name


@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_the_loss_with_auxiliary_losses_is_theirs(counts):
    answer = our_answers(ours(), "padded")
    assert_same(*(loss(answer["logits"], answer["boxes"], counts) for loss in (our_loss, their_loss)))


def without(name: str) -> Callable[[DETR], None]:
    return lambda model: model.set_submodule(name, nn.Identity())


def not_copied(name: str) -> Callable[[DETR], None]:
    """The tensor of that name stays as our model draws it."""

    def change(model: DETR) -> None:
        torch.manual_seed(0)
        model.state_dict()[name].copy_(DETR(DETRConfig()).state_dict()[name])

    return change


def with_temperature(temperature: float) -> Callable[[DETR], None]:
    return lambda model: setattr(model, "position", positions.build("sine", 256, temperature))


def as_with_their_auxiliary_loss(model: DETR) -> None:
    """Each layer gets the normed state of the one before, as theirs with auxiliary_loss=True."""
    decoder = model.transformer.decoder
    for layer in decoder.layers:
        layer.norm3 = nn.Sequential(layer.norm3, decoder.norm)


CHANGES = {
    "a norm of a decoder layer removed": without("transformer.decoder.layers.3.norm2"),
    "the decoder's last norm removed": without("transformer.decoder.norm"),
    "a norm of an encoder layer removed": without("transformer.encoder.layers.5.norm1"),
    "a mean not copied": not_copied("backbone.layer3.2.bn2.running_mean"),
    "a variance not copied": not_copied("backbone.layer1.0.downsample.1.running_var"),
    "a bias of batch-norm not copied": not_copied("backbone.layer4.2.bn1.bias"),
    "a weight of a norm not copied": not_copied("transformer.decoder.layers.0.norm1.weight"),
    "a bias of a linear layer not copied": not_copied("transformer.encoder.layers.2.linear1.bias"),
    "a bias of an attention not copied": not_copied("transformer.decoder.layers.0.self_attn.out_proj.bias"),
    "biases of q, k, v not copied": not_copied("transformer.decoder.layers.5.multihead_attn.in_proj_bias"),
    "a bias of the box head not copied": not_copied("bbox_embed.layers.1.bias"),
    "another temperature of the sines": with_temperature(9_000.0),
    "the normed state goes on": as_with_their_auxiliary_loss,
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_comparison_sees_a_model_that_is_not_detr(change):
    model = copy.deepcopy(ours())
    with torch.no_grad():
        CHANGES[change](model)
    with pytest.raises(AssertionError, match="(logits|boxes|attention): Tensor-likes are not close"):
        assert_same(our_answers(model, "padded"), their_answers("padded"))


if __name__ == "__main__":
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    facts = {"versions": versions, "dtype": "float32", "tolerance": TOLERANCE}
    print(json.dumps({**facts, "largest differences": differences()}, indent=2))
