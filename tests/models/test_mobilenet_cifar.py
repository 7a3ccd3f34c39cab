"""MobileNetV1 for 32x32 images: its sizes, and the weights that it was trained to."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mixbit import models
from mixbit.evaluation import evaluate
from mixbit.network import capture
from tests.models.test_resnet_cifar import every_tenth_test_image
from tests.support import shared


def test_sizes() -> None:
    """By hand: a pair of a map of `n` places takes `9 n c` and `n c d` products."""
    net = models.build("mobilenetv1-cifar").eval()
    assert sum(p.numel() for p in net.parameters()) == 210_858
    network = capture(net, torch.zeros(2, 3, 32, 32))
    pairs = [
        (16, 32, 1),
        (32, 64, 2),
        (64, 64, 1),
        (64, 128, 2),
        (128, 128, 1),
        (128, 256, 2),
        (256, 256, 1),
        (256, 256, 1),
    ]
    side, macs = 32, 1024 * 27 * 16 + 2560
    for inner, outer, stride in pairs:
        side //= stride
        macs += side * side * inner * (9 + outer)
    assert sum(layer.macs for layer in network.layers) == macs == 7_307_776
    assert [layer.groups for layer in network.layers] == [
        1,
        16,
        1,
        32,
        1,
        64,
        1,
        64,
        1,
        128,
        1,
        128,
        1,
        256,
        1,
        256,
        1,
        1,
    ]


def test_width_classes_and_channels() -> None:
    net = models.build("mobilenetv1-cifar", num_classes=7, width=0.25, in_channels=1)
    assert net(torch.zeros(2, 1, 32, 32)).shape == (2, 7)
    assert isinstance(net.fc, nn.Linear) and net.fc.in_features == 128
    assert models.build("mobilenetv1-cifar", width=0.01)(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.data
def test_real_images_are_classified_as_published() -> None:
    """A thousand of the ten thousand test images, of which 89.46 % are right."""
    net = models.build("mobilenetv1-cifar")
    info = models.info("mobilenetv1-cifar")
    models.load_weights(net, shared("data", "weights", "cifar10_mobilenetv1_050.safetensors"))
    assert evaluate(net, every_tenth_test_image(info.mean, info.std)).accuracy == pytest.approx(0.886, abs=0.002)
