import urllib.error

import pytest
import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms.v2 import functional

from detr_mini import backbones


def count(module, trainable_only=False):
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable_only)


@pytest.mark.parametrize(
    ("name", "dilation"),
    [("tiny", False), ("resnet50", False), ("resnet50", True), ("efficientnet_lite0", False)],
)
@pytest.mark.parametrize("size", [(64, 128), (97, 65)])
def test_the_feature_map_has_the_announced_shape(name, dilation, size):
    backbone = backbones.build(name, dilation=dilation).eval()
    with torch.no_grad():
        features = backbone(torch.rand(1, 3, *size))
    h, w = (-(-side // backbone.stride) for side in size)
    assert features.shape == (1, backbone.channels, h, w)


def test_tiny_is_small_and_trains_everything():
    tiny = backbones.build("tiny")
    assert 300_000 < count(tiny) == count(tiny, trainable_only=True) < 500_000
    with FlopCounterMode(display=False) as counter:
        features = tiny(torch.randn(2, 3, 64, 64))
    assert counter.get_total_flops() / 2 / 2 < 27e6  # multiply-adds of one image
    features.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in tiny.parameters())
    assert tiny.stem[1].running_mean.abs().sum() > 0, "batch-norm is trainable: it gathers statistics"


def test_resnet50_has_the_published_parameters_and_freezes_the_stem():
    backbone = backbones.build("resnet50")
    assert count(backbone) == 23_454_912
    assert count(backbone, trainable_only=True) == 41_302_368 - 18_069_856  # the model less all but its backbone
    assert not backbone.conv1.weight.requires_grad
    assert not any(p.requires_grad for p in backbone.layer1.parameters())
    assert all(p.requires_grad for p in backbone.layer2.parameters())


@pytest.mark.parametrize("name", ["resnet50", "resnet101"])
def test_resnet_keys_are_torchvisions_without_counters(name):
    theirs = getattr(torchvision.models, name)(weights=None).state_dict()
    wanted = {key for key in theirs if not key.startswith("fc.") and not key.endswith("num_batches_tracked")}
    assert set(backbones.build(name).state_dict()) == wanted


def test_resnet_equals_torchvisions_with_the_same_weights():
    theirs = torchvision.models.resnet50(weights=None).double().eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.normal_(module.running_mean, std=0.1)
    ours = backbones.build("resnet50").double().train()  # frozen batch-norm is the same in training mode
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")})
    last = {}
    theirs.layer4.register_forward_hook(lambda module, inputs, output: last.update(features=output))
    images = torch.rand(1, 3, 64, 96, dtype=torch.float64)
    theirs(images)
    features = ours(images)
    torch.testing.assert_close(features, last["features"])
    direction = torch.randn_like(features)
    gradients = {}
    for net, answer in ((theirs, last["features"]), (ours, features)):
        answer.backward(direction)
        gradients[net] = {k: p.grad for k, p in net.named_parameters() if p.grad is not None}
    assert len(gradients[ours]) == 3 * 13 + 3, "three convolutions of 13 trained blocks, three shortcuts"
    for name, gradient in gradients[ours].items():
        torch.testing.assert_close(gradient, gradients[theirs][name])


def test_dc5_takes_the_same_weights_and_doubles_the_resolution():
    plain, dc5 = backbones.build("resnet50"), backbones.build("resnet50", dilation=True)
    shapes = [{key: value.shape for key, value in net.state_dict().items()} for net in (plain, dc5)]
    assert shapes[0] == shapes[1]
    assert (plain.stride, dc5.stride) == (32, 16)
    assert dc5.layer4[1].conv2.dilation == (2, 2)


def test_pretrained_resnet_loads_torchvisions_file(monkeypatch):
    weights = torchvision.models.ResNet50_Weights.IMAGENET1K_V1
    published = torchvision.models.resnet50(weights=None).state_dict()
    asked = []

    def fetched(self, *args, **kwargs):
        asked.append(self)
        return published

    monkeypatch.setattr(type(weights), "get_state_dict", fetched)
    backbone = backbones.build("resnet50", pretrained=True)
    assert asked == [weights]
    assert torch.equal(backbone.layer3[0].conv1.weight, published["layer3.0.conv1.weight"])


def test_without_network_the_error_says_what_to_do(monkeypatch):
    def offline(*args, **kwargs):
        raise urllib.error.URLError("no route to host")

    weights = torchvision.models.ResNet50_Weights.IMAGENET1K_V1
    monkeypatch.setattr(type(weights), "get_state_dict", offline)
    with pytest.raises(RuntimeError, match=r"no route to host.*resnet50-.*\.pth into .*detr-mini\[photos\]"):
        backbones.build("resnet50", pretrained=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet18"}, "'resnet18' is unknown; wanted one of tiny, resnet50"),
        ({"name": "tiny", "dilation": True}, "only resnet50 and resnet101"),
        ({"name": "tiny", "pretrained": True}, "trained from scratch"),
    ],
)
def test_impossible_wishes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        backbones.build(**arguments)


def test_normalization():
    assert backbones.normalization("tiny") == backbones.normalization("resnet101")
    mean, std = torch.tensor(backbones.normalization("efficientnet_lite0"))
    grey = torch.tensor([0.0, 127.0, 255.0])[:, None] / 255
    torch.testing.assert_close(((grey - mean) / std)[:, 0], torch.tensor([-127 / 128, 0.0, 1.0]))
    with pytest.raises(ValueError, match="unknown"):
        backbones.normalization("resnet18")


@pytest.fixture(scope="module")
def classifier():
    return backbones.lite0_classifier(pretrained=True).eval()


@pytest.mark.parametrize(
    ("photograph", "classes"),
    [("chelsea", range(281, 286)), ("coffee", (967, 968))],  # ImageNet's cats; espresso and cup
)
def test_lite0_recognises_photographs(classifier, photograph, classes):
    import skimage.data

    pixels = torch.from_numpy(getattr(skimage.data, photograph)()).permute(2, 0, 1)
    mean, std = torch.tensor(backbones.normalization("efficientnet_lite0")).view(2, 3, 1, 1)
    side = min(pixels.shape[1:])
    square = functional.center_crop(pixels, [side, side])
    image = functional.resize(square, [224, 224])
    with torch.no_grad():
        best = classifier(((image / 255 - mean) / std)[None])[0].topk(5).indices.tolist()
    assert set(best) & set(classes), best


def test_lite0_backbone_is_the_classifier_without_its_head(classifier):
    backbone = backbones.build("efficientnet_lite0", pretrained=True).train()
    images = torch.rand(2, 3, 80, 100)
    with torch.no_grad():
        features = backbone(images)  # in training mode: its batch-norm must not use this batch's statistics
        head = classifier.bn2(classifier.conv_head(features))
        torch.testing.assert_close(head, classifier.forward_features(images), atol=1e-3, rtol=1e-3)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in backbone.modules())
    assert not any(p.requires_grad for p in backbone.blocks[:5].parameters())
    assert all(p.requires_grad for p in backbone.blocks[6][0].conv_pwl.parameters())


@pytest.mark.parametrize("fault", ["one tensor less", "two tensors swapped", "mean for variance"])
def test_weights_of_another_network_are_refused(classifier, fault):
    items = list(classifier.state_dict().items())
    if fault == "one tensor less":
        items.pop()
    elif fault == "two tensors swapped":
        items[0], items[6] = items[6], items[0]
    else:
        items[3], items[4] = items[4], items[3]
    with pytest.raises(ValueError, match="tensors for a network|does not fit"):
        backbones._in_order(dict(items), classifier.state_dict())
