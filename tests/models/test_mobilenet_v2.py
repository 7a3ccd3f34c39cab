"""MobileNetV2 against torchvision's definition."""

from __future__ import annotations

import hashlib

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mixbit import models


def test_keys_shapes_and_macs_are_torchvisions() -> None:
    with torch.device("meta"):
        net = models.build("mobilenetv2").eval()
        with FlopCounterMode(display=False) as counter:
            logits = net(torch.zeros(1, 3, 224, 224))
    lines = (f"{key} {tuple(value.shape)}" for key, value in net.state_dict().items())
    assert logits.shape == (1, 1000)
    # Taken from torchvision 0.28's own model.
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] == "37bbbce8932fd0c4"
    assert counter.get_total_flops() == 2 * 300_774_272
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in net.modules()) == 53


def test_width_keeps_channels_multiples_of_eight() -> None:
    with torch.device("meta"):
        net = models.build("mobilenetv2", width=0.35)
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert all(conv.out_channels % 8 == 0 for conv in convs)
    assert convs[0].out_channels == 16
    assert convs[-1].out_channels == 1280


def test_small_images_keep_their_resolution_longer() -> None:
    with torch.device("meta"):
        net = models.build("mobilenetv2", small=True, num_classes=10).eval()
        assert net.features(torch.zeros(1, 3, 32, 32)).shape == (1, 1280, 4, 4)
