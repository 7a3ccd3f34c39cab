"""ResNet-18 and ResNet-50 for 224x224 images, with the state_dict keys of torchvision."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from mixbit.models.registry import IMAGENET_MEAN, IMAGENET_STD, ModelInfo, register

__all__ = ["ResNet", "resnet18", "resnet50"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; the first one strides."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = _downsample(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, channels, ceil(H / stride), ceil(W / stride))."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        identity = x if self.downsample is None else self.downsample(x)
        return F.relu(out + identity)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1; the 3x3 strides (v1.5, Goyal et al. 2017), not the first 1x1 as in the paper."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, 4 * channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * channels)
        self.downsample = _downsample(in_channels, 4 * channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, 4 * channels, ceil(H / stride), ceil(W / stride))."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        identity = x if self.downsample is None else self.downsample(x)
        return F.relu(out + identity)


class ResNet(nn.Module):
    """He et al. (2015), section 4.1, with option B shortcuts.

    Args:
        block: `BasicBlock` or `Bottleneck`.
        blocks: blocks in each of the four stages.
        num_classes: size of the output.
    """

    def __init__(
        self, block: type[BasicBlock] | type[Bottleneck], blocks: tuple[int, int, int, int], num_classes: int
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        wide = block.expansion
        self.layer1 = _stage(block, 64, 64, blocks[0], 1)
        self.layer2 = _stage(block, 64 * wide, 128, blocks[1], 2)
        self.layer3 = _stage(block, 128 * wide, 256, blocks[2], 2)
        self.layer4 = _stage(block, 256 * wide, 512, blocks[3], 2)
        self.fc = nn.Linear(512 * wide, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 3, H, W) to logits (N, num_classes)."""
        out = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))
        logits: Tensor = self.fc(F.adaptive_avg_pool2d(out, 1).flatten(1))
        return logits


def _downsample(in_channels: int, channels: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and in_channels == channels:
        return None
    return nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))


def _stage(
    block: type[BasicBlock] | type[Bottleneck], in_channels: int, channels: int, blocks: int, stride: int
) -> nn.Sequential:
    rest = (block(channels * block.expansion, channels, 1) for _ in range(blocks - 1))
    return nn.Sequential(block(in_channels, channels, stride), *rest)


def _info(depth: int, summary: str) -> ModelInfo:
    return ModelInfo(
        name=f"resnet{depth}",
        paper="He et al., Deep Residual Learning for Image Recognition, CVPR 2016, arXiv:1512.03385, section 4.1",
        reference="pytorch/vision (v1.5: the 3x3 convolution strides)",
        licence="BSD-3-Clause",
        input_shape=(3, 224, 224),
        num_classes=1000,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        summary=summary,
    )


@register(_info(18, "ImageNet ResNet-18, 11.7 M parameters, 1814 M MACs"))
def resnet18(num_classes: int = 1000) -> ResNet:
    """ResNet-18: 21 layers with weights, 1814.07 M MACs at 224x224.

    >>> sum(p.numel() for p in resnet18().parameters())
    11689512
    """
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes)


@register(_info(50, "ImageNet ResNet-50 v1.5, 25.6 M parameters, 4089 M MACs"))
def resnet50(num_classes: int = 1000) -> ResNet:
    """ResNet-50 v1.5: 54 layers with weights, 4089.18 M MACs at 224x224."""
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes)
