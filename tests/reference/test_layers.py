"""The layers of LIMPQ's ResNet-50 and the totals of its cost table, from mixbit's own definitions."""

from __future__ import annotations

import json
from functools import cache

import pytest
import torch

from mixbit import models
from mixbit.network import Network, capture
from tests.support import shared


@cache
def captured(name: str) -> Network:
    torch.set_num_threads(1)
    return capture(models.build(name), torch.randn(1, 3, 224, 224))


def test_all_52_searchable_layers_of_resnet50() -> None:
    published = json.loads(shared("fixtures", "resnet50_layers.json").read_text())
    layers = {layer.name: layer for layer in captured("resnet50").layers[1:-1]}
    assert list(layers) == list(published)
    assert len(layers) == 52
    for name, row in published.items():
        found = layers[name]
        assert (found.weights, found.macs, found.macs_limpq) == (row["params"], row["macs_exact"], row["macs_limpq"])


# Network -> all MACs, MACs without first and last layer, weights of all convolutions and linears (LIMPQ's cost table).
TOTALS = {
    "resnet18": (1_814_073_344, 1_695_547_392, 11_678_912),
    "resnet50": (4_089_184_256, 3_969_122_304, 25_502_912),
    "mobilenetv2": (300_774_272, 288_656_256, 3_469_760),
}


@pytest.mark.parametrize("name", TOTALS)
def test_totals(name: str) -> None:
    layers = captured(name).layers
    inner = sum(layer.macs for layer in layers[1:-1])
    assert (captured(name).macs, inner, sum(layer.weights for layer in layers)) == TOTALS[name]


# Network -> BitOps in G at W4A4 with first and last layer at 8 bits: exact, and as the released code counts.
BITOPS = {"resnet18": (34.71, 35.04), "resnet50": (71.19, 72.13), "mobilenetv2": (5.39, 5.40)}


@pytest.mark.parametrize("name", BITOPS)
def test_bitops_in_both_countings(name: str) -> None:
    layers = captured(name).layers
    bits = [8, *[4] * (len(layers) - 2), 8]
    exact = sum(layer.macs * b * b for layer, b in zip(layers, bits, strict=True)) / 1e9
    limpq = sum(layer.macs_limpq * b * b for layer, b in zip(layers, bits, strict=True)) / 1e9
    assert (round(exact, 2), round(limpq, 2)) == BITOPS[name]
