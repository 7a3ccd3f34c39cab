"""The CIFAR ResNets against their published weights."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mixbit import models
from mixbit.data import TensorSplit
from tests.support import shared


def macs(name: str) -> int:
    with torch.device("meta"):
        net = models.build(name).eval()
        with FlopCounterMode(display=False) as counter:
            net(torch.zeros(1, *models.info(name).input_shape))
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(
    ("name", "parameters", "expected"),
    [("resnet20", 269_722, 40_551_040), ("resnet32", 464_154, 68_862_592), ("resnet56", 853_018, 125_485_696)],
)
def test_sizes(name: str, parameters: int, expected: int) -> None:
    assert sum(p.numel() for p in models.build(name).parameters()) == parameters
    assert macs(name) == expected


def test_shortcuts_have_no_parameters_and_pad_channels_on_both_sides() -> None:
    shortcut = models.resnet20().layer2[0].shortcut
    out = shortcut(torch.ones(1, 16, 5, 4))
    assert out.shape == (1, 32, 3, 2)
    assert out[0, :, 0, 0].tolist() == [0.0] * 8 + [1.0] * 16 + [0.0] * 8
    assert list(shortcut.parameters()) == []


@pytest.mark.data
@pytest.mark.parametrize("depth", [20, 32, 56])
def test_published_weights_fit(depth: int) -> None:
    file = shared("data", "weights", f"cifar10_resnet{depth}_akamaster.safetensors")
    models.load_weights(models.build(f"resnet{depth}"), file)


def every_tenth_test_image(mean: tuple[float, ...], std: tuple[float, ...]) -> TensorSplit:
    """1000 real CIFAR-10 test images."""
    path = shared("data", "load.py")
    spec = importlib.util.spec_from_file_location("shared_load", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    images, labels = module.sheets(str(path.parent / "cifar10"), "test")
    pixels = torch.from_numpy(images[::10].copy()).permute(0, 3, 1, 2).contiguous()
    return TensorSplit(pixels, torch.from_numpy(labels[::10].copy()), 10, mean, std)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "weights", "right"),
    [("resnet20", "cifar10_resnet20_akamaster", 912), ("resnet8", "mlperf_resnet8_cifar10", 877)],
)
def test_real_images_are_classified_as_published(name: str, weights: str, right: int) -> None:
    """912 and 877 of every tenth test image; of all 10,000 it is 91.73 % and 87.19 %, the published numbers."""
    info = models.info(name)
    split = every_tenth_test_image(info.mean, info.std)
    net = models.load_weights(models.build(name), shared("data", "weights", f"{weights}.safetensors")).eval()
    with torch.inference_mode():
        found = sum(int((net(images).argmax(1) == labels).sum()) for images, labels in split.batches(250))
    assert found == right
