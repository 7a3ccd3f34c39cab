"""MobileNetV2 for 224x224 images, with the state_dict keys of torchvision."""

from __future__ import annotations

from torch import Tensor, nn

from mixbit.models.registry import IMAGENET_MEAN, IMAGENET_STD, ModelInfo, register

__all__ = ["MobileNetV2", "mobilenetv2"]

# Expansion, channels, repeats and first stride of each stage: table 2 of the paper.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, linear 1x1 projection; a shortcut where the shapes agree."""

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        expand = [_conv_bn_relu6(in_channels, hidden, 1)] if expansion != 1 else []
        self.conv = nn.Sequential(
            *expand,
            _conv_bn_relu6(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.residual = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, channels, ceil(H / stride), ceil(W / stride))."""
        out: Tensor = self.conv(x)
        return x + out if self.residual else out


class MobileNetV2(nn.Module):
    """Sandler et al. (2018), table 2.

    Args:
        num_classes: size of the output.
        width: multiplier of all channel counts, which are rounded to multiples of 8.
        dropout: probability before the classifier.
        small: strides of 1 in the stem and the first striding stage, for 32x32 images.
    """

    def __init__(self, num_classes: int, width: float, dropout: float, small: bool) -> None:
        super().__init__()
        channels = _round8(32 * width)
        features: list[nn.Module] = [_conv_bn_relu6(3, channels, 3, 1 if small else 2)]
        for number, (expansion, out, repeats, stride) in enumerate(STAGES):
            first = 1 if small and number == 1 else stride
            for repeat in range(repeats):
                block = InvertedResidual(channels, _round8(out * width), first if repeat == 0 else 1, expansion)
                features.append(block)
                channels = _round8(out * width)
        last = _round8(1280 * max(1.0, width))
        features.append(_conv_bn_relu6(channels, last, 1))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(last, num_classes))
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 3, H, W) to logits (N, num_classes)."""
        out = nn.functional.adaptive_avg_pool2d(self.features(x), 1).flatten(1)
        logits: Tensor = self.classifier(out)
        return logits


def _conv_bn_relu6(in_channels: int, channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU6())


def _round8(channels: float) -> int:
    """Nearest multiple of 8, but not below 8 nor more than 10 % under the request (as the authors' code)."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def _initialise(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
            nn.init.zeros_(module.bias)


@register(
    ModelInfo(
        name="mobilenetv2",
        paper="Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018, arXiv:1801.04381",
        reference="pytorch/vision",
        licence="BSD-3-Clause",
        input_shape=(3, 224, 224),
        num_classes=1000,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        summary="ImageNet MobileNetV2, 3.5 M parameters, 301 M MACs",
    )
)
def mobilenetv2(num_classes: int = 1000, width: float = 1.0, dropout: float = 0.2, small: bool = False) -> MobileNetV2:
    """MobileNetV2: 53 layers with weights, 300.77 M MACs at 224x224.

    >>> sum(p.numel() for p in mobilenetv2().parameters())
    3504872
    """
    return MobileNetV2(num_classes, width, dropout, small)
