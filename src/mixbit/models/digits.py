"""A small residual CNN for the 8x8 handwritten digits of scikit-learn."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from mixbit.models.registry import ModelInfo, register
from mixbit.models.resnet import BasicBlock

__all__ = ["DigitsResNet", "digits_resnet"]


class DigitsResNet(nn.Module):
    """Three residual blocks, the last two striding, with 1x1 convolutions on their shortcuts.

    Args:
        num_classes: size of the output.
        width: channels of the stem and the first block; doubled twice.
        in_channels: channels of the image.
    """

    def __init__(self, num_classes: int = 10, width: int = 16, in_channels: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = BasicBlock(width, width, 1)
        self.layer2 = BasicBlock(width, 2 * width, 2)
        self.layer3 = BasicBlock(2 * width, 4 * width, 2)
        self.fc = nn.Linear(4 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, in_channels, 8, 8) to logits (N, num_classes)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        logits: Tensor = self.fc(F.adaptive_avg_pool2d(out, 1).flatten(1))
        return logits


@register(
    ModelInfo(
        name="digits-resnet",
        paper="the project's own; blocks as in He et al. 2016, arXiv:1512.03385",
        reference="none",
        licence="Apache-2.0",
        input_shape=(1, 8, 8),
        num_classes=10,
        mean=(0.305,),
        std=(0.376,),
        summary="embedded digits, 78 k parameters, 0.76 M MACs",
    )
)
def digits_resnet(num_classes: int = 10, width: int = 16, in_channels: int = 1) -> DigitsResNet:
    """The network of `make demo`: 10 layers with weights."""
    return DigitsResNet(num_classes, width, in_channels)
