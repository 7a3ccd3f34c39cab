"""MobileNetV2 against torchvision's definition."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
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


def as_in_the_paper(net: nn.Module, x: Tensor, *, small: bool) -> Tensor:
    """The forward of table 2 in single calls, by the state alone: nothing is taken from the modules."""
    state = net.state_dict()

    def norm(x: Tensor, at: str) -> Tensor:
        return F.batch_norm(
            x, state[f"{at}.running_mean"], state[f"{at}.running_var"], state[f"{at}.weight"], state[f"{at}.bias"]
        )

    def conv(x: Tensor, at: str, stride: int = 1) -> Tensor:
        weight = state[f"{at}.weight"]
        groups = x.shape[1] // weight.shape[1]
        return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, 1, groups)

    x = norm(conv(x, "features.0.0", 1 if small else 2), "features.0.1").clamp(0, 6)
    number = 1
    for stage, (expansion, _, repeats, stride) in enumerate(
        [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    ):
        for repeat in range(repeats):
            at, block, step = 0, f"features.{number}.conv", 1 if repeat or (small and stage == 1) else stride
            out = x
            if expansion > 1:
                out, at = norm(conv(out, f"{block}.0.0"), f"{block}.0.1").clamp(0, 6), 1
            out = norm(conv(out, f"{block}.{at}.0", step), f"{block}.{at}.1").clamp(0, 6)
            out = norm(conv(out, f"{block}.{at + 1}"), f"{block}.{at + 2}")
            x = x + out if step == 1 and x.shape[1] == out.shape[1] else out
            number += 1
    x = norm(conv(x, f"features.{number}.0"), f"features.{number}.1").clamp(0, 6).mean((2, 3))
    return F.linear(x, state["classifier.1.weight"], state["classifier.1.bias"])


@pytest.mark.parametrize("small", [False, True])
def test_the_forward_is_that_of_the_paper(small: bool) -> None:
    """With statistics and scales so wide that the clips at 0 and 6 both cut."""
    torch.manual_seed(0)
    net = models.build("mobilenetv2", width=0.1, num_classes=5, small=small).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias):
                tensor.data.normal_(0, 0.3)  # type: ignore[union-attr,operator]
            module.running_var.data.uniform_(0.5, 1.5)  # type: ignore[union-attr,operator]
            module.weight.data.uniform_(1.0, 3.0)
    x = 3 * torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(net(x), as_in_the_paper(net, x, small=small), rtol=1e-3, atol=1e-3)
        assert not torch.allclose(net(x), net(2 * x))
    net.train()
    assert net.classifier[0].training and net.classifier[0].p == 0.2  # type: ignore[index]
