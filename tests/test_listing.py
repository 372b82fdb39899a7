import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet50

from detr_mini import listing
from detr_mini.detr import DETR, DETRConfig

# Names and values come from torchvision's ResNet and torch's transformer, never from our listing or its map.
D = 256


@pytest.fixture(scope="module")
def stock() -> tuple[nn.Module, nn.Transformer]:
    torch.manual_seed(0)
    return resnet50(weights=None).eval(), nn.Transformer(D, 8, 6, 6, batch_first=True).eval()


@pytest.fixture(scope="module")
def published(stock) -> dict[str, torch.Tensor]:
    """The published demo file with other numbers: 511 tensors in float16, none of them at its initial value."""
    resnet, transformer = stock
    torch.manual_seed(1)
    state = {f"backbone.{name}": value for name, value in resnet.state_dict().items() if not name.startswith("fc.")}
    state |= {f"transformer.{name}": value for name, value in transformer.state_dict().items()}
    for name, value in state.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif value.dim() == 1:  # biases, norms and running statistics
            centred = name.endswith(("bias", "running_mean"))
            state[name] = torch.randn(value.shape) / 10 if centred else torch.rand(value.shape) + 0.5
    state["conv.weight"], state["conv.bias"] = torch.randn(D, 2048, 1, 1) / 1000, torch.randn(D)
    state["linear_class.weight"], state["linear_class.bias"] = torch.randn(92, D) / 4, torch.randn(92)
    state["linear_bbox.weight"], state["linear_bbox.bias"] = torch.randn(4, D) / 16, torch.randn(4)
    state["query_pos"] = torch.randn(100, D)
    state["row_embed"], state["col_embed"] = torch.randn(50, D // 2), torch.randn(50, D // 2)
    return {name: value.half() if value.is_floating_point() else value for name, value in state.items()}


def below(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


@torch.no_grad()
def independent(stock, state, images, feature_scale):
    """Listing 1 once more: layer after layer, the positions cell by cell."""
    resnet, transformer = stock
    state = {name: value.float() for name, value in state.items()}
    resnet.load_state_dict(below(state, "backbone."), strict=False)  # without fc
    transformer.load_state_dict(below(state, "transformer."))
    x = resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(images))))
    x = resnet.layer4(resnet.layer3(resnet.layer2(resnet.layer1(x))))
    h = F.conv2d(x, state["conv.weight"], state["conv.bias"])[0]
    tokens = [
        torch.cat([state["col_embed"][column], state["row_embed"][row]]) + feature_scale * h[:, row, column]
        for row in range(h.shape[1])
        for column in range(h.shape[2])
    ]
    memory, states = torch.stack(tokens)[None], state["query_pos"][None]
    for layer in transformer.encoder.layers:
        memory = layer(memory)
    memory = transformer.encoder.norm(memory)
    for layer in transformer.decoder.layers:
        states = layer(states, memory)
    states = transformer.decoder.norm(states)
    logits = F.linear(states, state["linear_class.weight"], state["linear_class.bias"])
    return logits, F.linear(states, state["linear_bbox.weight"], state["linear_bbox.bias"]).sigmoid()


def loaded(published, feature_scale: float = 0.1) -> listing.DETR:
    model = listing.DETR(91, feature_scale=feature_scale).eval()
    model.load_state_dict(listing.demo_keys(published))
    return model


@pytest.fixture(scope="module")
def demo(published) -> listing.DETR:
    return loaded(published)


@torch.no_grad()
def difference(answer, wanted) -> float:
    return max((a - b).abs().max().item() for a, b in zip(answer, wanted, strict=True))


def test_every_published_tensor_has_its_place(published):
    assert len(published) == 511
    state = listing.demo_keys(published)
    assert len(state) == 511
    assert {value.dtype for value in state.values()} == {torch.float32, torch.int64}
    assert state["backbone.1.num_batches_tracked"] == 7
    assert torch.equal(state["backbone.7.2.bn3.bias"].half(), published["backbone.layer4.2.bn3.bias"])
    assert "transformer.encoder.norm.weight" in state, "nn.Transformer norms its encoder's output"


def test_names_are_those_of_the_parts_in_order(stock):
    resnet, transformer = stock
    children = list(resnet.named_children())[:-2]  # the last two average and classify
    names = {f"backbone.{i}.{name}" for i, (_, part) in enumerate(children) for name in part.state_dict()}
    names |= {f"transformer.{name}" for name in transformer.state_dict()}
    names |= {f"{part}.{kind}" for part in ("conv", "linear_class", "linear_bbox") for kind in ("weight", "bias")}
    assert set(listing.DETR(91).state_dict()) == names | {"query_pos", "row_embed", "col_embed"}


def test_parameters(stock):
    resnet, transformer = stock
    expected = sum(p.numel() for p in resnet.parameters()) - (2048 * 1000 + 1000)  # without fc
    expected += sum(p.numel() for p in transformer.parameters())
    expected += (2048 * 256 + 256) + (256 * 92 + 92) + (256 * 4 + 4)  # conv, linear_class, linear_bbox
    expected += 100 * 256 + 2 * 50 * 128  # query_pos, row_embed and col_embed
    assert sum(p.numel() for p in listing.DETR(91).parameters()) == expected == 41_459_616


@pytest.mark.parametrize("feature_scale", [0.1, 1.0])
@pytest.mark.parametrize("size", [(64, 96), (160, 70)])
@torch.no_grad()
def test_equals_an_independent_computation(stock, published, demo, size, feature_scale, monkeypatch):
    monkeypatch.setattr(demo, "feature_scale", feature_scale)
    torch.manual_seed(2)
    images = torch.randn(1, 3, *size)
    answer = demo(images)
    assert isinstance(answer, tuple) and answer[0].shape == (1, 100, 92) and answer[1].shape == (1, 100, 4)
    assert difference(answer, independent(stock, published, images, feature_scale)) < 1e-4
    # what the comparison must be able to see
    turned = published | {"row_embed": published["col_embed"], "col_embed": published["row_embed"]}
    assert difference(answer, independent(stock, turned, images, feature_scale)) > 0.1
    assert difference(answer, independent(stock, published, images, 1.1 - feature_scale)) > 0.1
    unnormed = published | {"transformer.encoder.norm.weight": torch.ones(D)}
    assert difference(answer, independent(stock, unnormed, images, feature_scale)) > 1e-2


@torch.no_grad()
def test_the_features_count_in_full_unless_said_otherwise(published, demo):
    torch.manual_seed(2)
    images = torch.randn(1, 3, 64, 96)
    paper = listing.DETR(91).eval()
    paper.load_state_dict(demo.state_dict())
    assert paper.feature_scale == 1.0
    assert difference(paper(images), demo(images)) > 0.1


@torch.no_grad()
def test_a_batch_gives_each_image_its_own_answer(demo):
    torch.manual_seed(2)
    images = torch.randn(2, 3, 64, 64)
    both = demo(images)
    for i in range(2):
        alone = demo(images[i : i + 1])
        assert difference([part[i : i + 1] for part in both], alone) < 1e-4
    assert difference([part[:1] for part in both], [part[1:] for part in both]) > 1e-2


@torch.no_grad()
def test_positions_end_at_fifty_cells(demo):
    assert demo(torch.randn(1, 3, 1600, 32))[0].isfinite().all()
    for size in ((1601, 32), (32, 1700)):
        with pytest.raises(ValueError, match="know 50 a side, 1600 px"):
            demo(torch.randn(1, 3, *size))


def test_files_of_other_models_are_named(published):
    without = {name: value for name, value in published.items() if name != "transformer.encoder.norm.bias"}
    full = DETR(DETRConfig.mini(backbone="resnet50")).state_dict()
    for state, message in (
        (without, r"1 of its tensors are missing \['transformer.encoder.norm.bias'\], 0 are left over \[\]"),
        (published | {"fc.bias": torch.zeros(1)}, r"0 of its tensors are missing \[\], 1 are left over \['fc.bias'\]"),
        ({"model": published}, r"511 of its tensors are missing .*, 1 are left over \['model'\]"),
        (full, r"missing \['backbone.bn1.num_batches_tracked', .* left over \['bbox_embed.layers.0.bias', "),
    ):
        with pytest.raises(ValueError, match=message):
            listing.demo_keys(state)
