"""The networks of the MLPerf Tiny benchmark: DS-CNN, MobileNetV1-0.25, ResNet-8 and a dense autoencoder."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from mixbit.models._same import same_pad
from mixbit.models.registry import ModelInfo, register

__all__ = [
    "DSCNN",
    "Autoencoder",
    "MobileNetV1",
    "ResNet8",
    "autoencoder",
    "dscnn",
    "mobilenetv1",
    "resnet8",
]

_PAPER = "Banbury et al., MLPerf Tiny Benchmark, NeurIPS 2021 Datasets and Benchmarks, arXiv:2106.07597"
# Keras's default, which the published weights were trained with.
_EPS = 1e-3


class SeparableBlock(nn.Module):
    """3x3 depthwise and 1x1 convolution, each with bias and ReLU; BatchNorm is folded into them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dw = nn.Conv2d(channels, channels, 3, 1, 1, groups=channels)
        self.pw = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        return F.relu(self.pw(F.relu(self.dw(x))))


class DSCNN(nn.Module):
    """Keyword spotting on 49 frames of 10 MFCCs (Zhang et al. 2017, DS-CNN small), BatchNorm folded."""

    def __init__(self, num_classes: int = 12, channels: int = 64) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, channels, (10, 4), 2)
        self.block1 = SeparableBlock(channels)
        self.block2 = SeparableBlock(channels)
        self.block3 = SeparableBlock(channels)
        self.block4 = SeparableBlock(channels)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map features (N, 1, 49, 10) to logits (N, num_classes)."""
        out = F.relu(self.conv(same_pad(x, (10, 4), 2)))
        out = self.block4(self.block3(self.block2(self.block1(out))))
        logits: Tensor = self.fc(F.adaptive_avg_pool2d(out, 1).flatten(1))
        return logits


class ConvBN(nn.Module):
    """The stem: 3x3 convolution, stride 2, SAME padding."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, 3, 2)
        self.bn = nn.BatchNorm2d(channels, eps=_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, channels, ceil(H / 2), ceil(W / 2))."""
        return F.relu(self.bn(self.conv(same_pad(x, (3, 3), 2))))


class SeparableBN(nn.Module):
    """3x3 depthwise and 1x1 convolution, each with BatchNorm and ReLU."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        # At stride 1 SAME is one pixel on each side, which the convolution can do itself.
        self.dw = nn.Conv2d(in_channels, in_channels, 3, stride, 1 if stride == 1 else 0, groups=in_channels)
        self.dw_bn = nn.BatchNorm2d(in_channels, eps=_EPS)
        self.pw = nn.Conv2d(in_channels, channels, 1)
        self.pw_bn = nn.BatchNorm2d(channels, eps=_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, channels, ceil(H / stride), ceil(W / stride))."""
        x = x if self.stride == 1 else same_pad(x, (3, 3), self.stride)
        return F.relu(self.pw_bn(self.pw(F.relu(self.dw_bn(self.dw(x))))))


class MobileNetV1(nn.Module):
    """Person detection on 96x96 images (Howard et al. 2017, width 0.25).

    Args:
        num_classes: size of the output.
        width: multiplier of the paper's channel counts.
    """

    PLAN = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))

    def __init__(self, num_classes: int = 2, width: float = 0.25) -> None:
        super().__init__()
        channels = [int(32 * width), *(int(out * width) for out, _ in self.PLAN)]
        blocks = (SeparableBN(channels[i], channels[i + 1], stride) for i, (_, stride) in enumerate(self.PLAN))
        self.features = nn.Sequential(ConvBN(3, channels[0]), *blocks)
        self.classifier = nn.Linear(channels[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 3, H, W) to logits (N, num_classes)."""
        out = F.adaptive_avg_pool2d(self.features(x), 1).flatten(1)
        logits: Tensor = self.classifier(out)
        return logits


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with bias and BatchNorm; a 1x1 convolution on the shortcut where the block strides."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1 if stride == 1 else 0)
        self.bn1 = nn.BatchNorm2d(channels, eps=_EPS)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1)
        self.bn2 = nn.BatchNorm2d(channels, eps=_EPS)
        self.shortcut = nn.Conv2d(in_channels, channels, 1, stride) if stride != 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, channels, ceil(H / stride), ceil(W / stride))."""
        padded = x if self.stride == 1 else same_pad(x, (3, 3), self.stride)
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(padded)))))
        return F.relu(out + self.shortcut(x))


class ResNet8(nn.Module):
    """Image classification on CIFAR-10; inputs are raw pixels 0 .. 255."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1)
        self.bn1 = nn.BatchNorm2d(16, eps=_EPS)
        self.block1 = ResidualBlock(16, 16, 1)
        self.block2 = ResidualBlock(16, 32, 2)
        self.block3 = ResidualBlock(32, 64, 2)
        self.fc = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 3, H, W) to logits (N, num_classes)."""
        out = self.block3(self.block2(self.block1(F.relu(self.bn1(self.conv1(x))))))
        logits: Tensor = self.fc(F.adaptive_avg_pool2d(out, 1).flatten(1))
        return logits


class Autoencoder(nn.Sequential):
    """Anomaly detection on five frames of 128 log-mel energies in decibel (Koizumi et al. 2019, DCASE 2020 task 2).

    Nine linear layers with BatchNorm and ReLU, the fifth of which is the code, and a linear one. How anomalous a sound
    is says the mean squared difference of input and output.

    Args:
        features: of input and output.
        hidden: width of the layers.
        code: width of the bottleneck.
    """

    def __init__(self, features: int = 640, hidden: int = 128, code: int = 8) -> None:
        widths = (features, *(hidden,) * 4, code, *(hidden,) * 4)
        body = (_normed_linear(into, out) for into, out in pairwise(widths))
        super().__init__(*body, nn.Linear(hidden, features))

    def forward(self, x: Tensor) -> Tensor:
        """Map features (N, features) to their reconstruction of the same shape."""
        *body, last = self
        for layer in body:
            x = F.relu(layer.get_submodule("bn")(layer(x)))
        restored: Tensor = last(x)
        return restored


def _normed_linear(in_features: int, out_features: int) -> nn.Linear:
    """A linear layer that keeps its BatchNorm, because the published names are `0.weight` and `0.bn.weight`."""
    layer = nn.Linear(in_features, out_features)
    layer.add_module("bn", nn.BatchNorm1d(out_features, eps=_EPS))
    return layer


def _info(
    name: str, input_shape: tuple[int, ...], num_classes: int, mean: float, std: float, summary: str
) -> ModelInfo:
    return ModelInfo(
        name=name,
        paper=_PAPER,
        reference="mlcommons/tiny",
        licence="Apache-2.0",
        input_shape=input_shape,
        num_classes=num_classes,
        mean=(mean,) * input_shape[0],
        std=(std,) * input_shape[0],
        summary=summary,
    )


@register(_info("ds-cnn", (1, 49, 10), 12, 0.0, 1 / 255, "keyword spotting, BN folded, 2.66 M MACs; MFCC features"))
def dscnn(num_classes: int = 12, channels: int = 64) -> DSCNN:
    """DS-CNN: 10 layers with weights. Its inputs are MFCC features, not images: mean 0 and std 1/255 leave them be.

    >>> sum(p.numel() for p in dscnn().parameters())
    22604
    """
    return DSCNN(num_classes, channels)


@register(_info("mobilenetv1-0.25", (3, 96, 96), 2, 0.0, 1.0, "person detection at 96x96, 7.5 M MACs"))
def mobilenetv1(num_classes: int = 2, width: float = 0.25) -> MobileNetV1:
    """MobileNetV1-0.25: 28 layers with weights; inputs are pixel / 255."""
    return MobileNetV1(num_classes, width)


@register(_info("resnet8", (3, 32, 32), 10, 0.0, 1 / 255, "CIFAR-10 ResNet-8, 12.5 M MACs; raw pixels 0 .. 255"))
def resnet8(num_classes: int = 10) -> ResNet8:
    """ResNet-8: 10 layers with weights; inputs are raw pixels, that is mean 0 and std 1/255."""
    return ResNet8(num_classes)


@register(_info("ad-autoencoder", (640,), 640, 0.0, 1 / 255, "anomalous sounds, dense, 0.26 M MACs; log-mel energies"))
def autoencoder(features: int = 640, hidden: int = 128, code: int = 8) -> Autoencoder:
    """The autoencoder: 10 layers with weights; mean 0 and std 1/255 leave its features be.

    >>> sum(layer.weight.numel() for layer in autoencoder())
    264192
    """
    return Autoencoder(features, hidden, code)
