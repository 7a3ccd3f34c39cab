"""ResNet-18 and -50 against torchvision's definitions and the reference layer table."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mixbit import models
from tests.support import shared


def keys_digest(net: nn.Module) -> str:
    """First 16 hex digits of the SHA-256 of all state_dict keys and shapes, in order."""
    lines = (f"{key} {tuple(value.shape)}" for key, value in net.state_dict().items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


# The digests were taken from torchvision 0.28's own models; logits with the same weights were bit-equal.
@pytest.mark.parametrize(
    ("name", "digest", "macs"),
    [("resnet18", "84fb10d9c6905a1c", 1_814_073_344), ("resnet50", "d7e4f8bb0a536344", 4_089_184_256)],
)
def test_keys_shapes_and_macs_are_torchvisions(name: str, digest: str, macs: int) -> None:
    # Shapes alone: no weights are made and nothing is multiplied.
    with torch.device("meta"):
        net = models.build(name).eval()
        with FlopCounterMode(display=False) as counter:
            logits = net(torch.zeros(1, 3, 224, 224))
    assert logits.shape == (1, 1000)
    assert keys_digest(net) == digest
    assert counter.get_total_flops() == 2 * macs


@pytest.mark.data
def test_resnet50_layers_are_those_of_the_reference_table() -> None:
    table = json.loads(shared("fixtures", "resnet50_layers.json").read_text())
    with torch.device("meta"):
        net = models.build("resnet50")
    layers = {key: m.weight.numel() for key, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    assert {key: layers.get(key) for key in table} == {key: row["params"] for key, row in table.items()}
