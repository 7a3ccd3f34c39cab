"""ResNet-20, -32 and -56 for 32x32 images, with parameter-free shortcuts."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from mixbit.models.registry import IMAGENET_MEAN, IMAGENET_STD, ModelInfo, register

__all__ = ["CifarResNet", "resnet20", "resnet32", "resnet56"]


class PaddedShortcut(nn.Module):
    """Option A of the paper: every second pixel, and zero channels on both sides; no parameters."""

    def __init__(self, padding: int) -> None:
        super().__init__()
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C + 2 * padding, ceil(H / 2), ceil(W / 2))."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.padding, self.padding))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut around them."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        same = stride == 1 and in_channels == channels
        self.shortcut = nn.Identity() if same else PaddedShortcut((channels - in_channels) // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, channels, ceil(H / stride), ceil(W / stride))."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class CifarResNet(nn.Module):
    """The 6n+2 networks of He et al. (2015), section 4.2, with option A shortcuts.

    Args:
        blocks: blocks in each of the three stages (n): depth is 6n + 2.
        num_classes: size of the output.
        width: channels of the first stage; doubled twice.
        in_channels: channels of the image.

    The state_dict keys are those of akamaster/pytorch_resnet_cifar10: `layer1.0.conv1.weight`, `linear.bias`.
    """

    def __init__(self, blocks: int, num_classes: int = 10, width: int = 16, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, blocks, 1)
        self.layer2 = _stage(width, 2 * width, blocks, 2)
        self.layer3 = _stage(2 * width, 4 * width, blocks, 2)
        self.linear = nn.Linear(4 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, in_channels, H, W) to logits (N, num_classes)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        out = F.adaptive_avg_pool2d(out, 1).flatten(1)
        logits: Tensor = self.linear(out)
        return logits


def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))


def _info(depth: int, parameters: str, top1: float) -> ModelInfo:
    return ModelInfo(
        name=f"resnet{depth}",
        paper="He et al., Deep Residual Learning for Image Recognition, CVPR 2016, arXiv:1512.03385, section 4.2",
        reference="akamaster/pytorch_resnet_cifar10",
        licence="BSD-2-Clause",
        input_shape=(3, 32, 32),
        num_classes=10,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        summary=f"CIFAR-10 ResNet-{depth}, option A shortcuts, {parameters} parameters; {top1} % with its weights",
    )


@register(_info(20, "0.27 M", 91.73))
def resnet20(num_classes: int = 10, width: int = 16, in_channels: int = 3) -> CifarResNet:
    """ResNet-20: 20 layers with weights, 40.55 M MACs at 32x32.

    >>> sum(p.numel() for p in resnet20().parameters())
    269722
    """
    return CifarResNet(3, num_classes, width, in_channels)


@register(_info(32, "0.46 M", 92.63))
def resnet32(num_classes: int = 10, width: int = 16, in_channels: int = 3) -> CifarResNet:
    """ResNet-32: 32 layers with weights, 68.86 M MACs at 32x32."""
    return CifarResNet(5, num_classes, width, in_channels)


@register(_info(56, "0.86 M", 93.39))
def resnet56(num_classes: int = 10, width: int = 16, in_channels: int = 3) -> CifarResNet:
    """ResNet-56: 56 layers with weights, 125.49 M MACs at 32x32."""
    return CifarResNet(9, num_classes, width, in_channels)
