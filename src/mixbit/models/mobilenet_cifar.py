"""MobileNetV1 of half the width, for 32x32 images."""

from __future__ import annotations

from torch import Tensor, nn

from mixbit.models.registry import IMAGENET_MEAN, IMAGENET_STD, ModelInfo, register

__all__ = ["CifarMobileNetV1", "mobilenetv1_cifar"]

# Channels and stride of each depthwise-pointwise pair, at width 0.5.
_PAIRS = ((32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (256, 1))
_STEM, _WIDTH = 16, 0.5


class CifarMobileNetV1(nn.Module):
    """A 3x3 convolution, eight depthwise-pointwise pairs, the mean over places, and a linear layer.

    Unlike layers in one network: depthwise ones have a hundredth of the weights of the pointwise ones behind them, and
    feel few bits most.

    Args:
        num_classes: size of the output.
        width: factor of all channels; 0.5 gives 16 in the first layer and 256 in the last.
        in_channels: channels of the image.

    The state_dict keys are `features.0.weight` (one sequence of convolutions, norms and ReLUs) and `fc.weight`.
    """

    def __init__(self, num_classes: int = 10, width: float = _WIDTH, in_channels: int = 3) -> None:
        super().__init__()
        channels = _scaled(_STEM, width)
        layers: list[nn.Module] = [*_convolved(in_channels, channels, 3, 1, 1)]
        for wide, stride in _PAIRS:
            out = _scaled(wide, width)
            layers += [*_convolved(channels, channels, 3, stride, channels), *_convolved(channels, out, 1, 1, 1)]
            channels = out
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, in_channels, H, W) to logits (N, num_classes)."""
        logits: Tensor = self.fc(self.features(x).mean((2, 3)))
        return logits


def _scaled(channels: int, width: float) -> int:
    return max(1, round(channels * width / _WIDTH))


def _convolved(inner: int, outer: int, kernel: int, stride: int, groups: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inner, outer, kernel, stride, kernel // 2, groups=groups, bias=False)
    return convolution, nn.BatchNorm2d(outer), nn.ReLU()


@register(
    ModelInfo(
        name="mobilenetv1-cifar",
        paper="Howard et al., MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications, "
        "arXiv:1704.04861; eight of its pairs, with strides for 32x32 images",
        reference="mixbit",
        licence="Apache-2.0",
        input_shape=(3, 32, 32),
        num_classes=10,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        summary="MobileNetV1 of width 0.5 for CIFAR-10, 0.21 M parameters, depthwise layers; 89.46 % with its weights",
    )
)
def mobilenetv1_cifar(num_classes: int = 10, width: float = _WIDTH, in_channels: int = 3) -> CifarMobileNetV1:
    """MobileNetV1 of width 0.5: 18 layers with weights.

    >>> sum(p.numel() for p in mobilenetv1_cifar().parameters())
    210858
    """
    return CifarMobileNetV1(num_classes, width, in_channels)
