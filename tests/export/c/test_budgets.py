"""A table of flash and RAM agrees with the layout of any policy."""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping

import pytest
import torch
from torch import nn

from mixbit import models
from mixbit.cost import LayerBits
from mixbit.export import IntegerGraph, lower
from mixbit.export.c import COptions, memory_table, predict
from mixbit.network import Network, capture
from mixbit.policy import Policy
from mixbit.quantize import calibrate, quantize


class Lowering:
    """A network of the zoo at any bits."""

    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        torch.manual_seed(0)
        self.model: nn.Module = models.build(name).eval()
        self.x = torch.randn(2, *shape)
        self.network: Network = capture(self.model, self.x[:1])

    def __call__(self, layers: Mapping[str, LayerBits]) -> IntegerGraph:
        model = copy.deepcopy(self.model)
        quantize(model, Policy(fingerprint=self.network.fingerprint, layers=dict(layers)), self.network)
        calibrate(model, [self.x])
        return lower(model, self.network, [self.x], rounding="single")

    def policy(self, seed: int) -> dict[str, LayerBits]:
        """Any bits; layers that read one tensor share its activation bits."""
        draw, shared = random.Random(seed), dict[str, int]()
        found = {}
        for layer in self.network.layers:
            activation = shared.setdefault(layer.input_tensor, draw.choice([2, 3, 4, 6, 8]))
            found[layer.name] = LayerBits(draw.choice([2, 3, 5, 8]), activation)
        return found


@pytest.fixture(scope="module")
def digits() -> Lowering:
    return Lowering("digits-resnet", (1, 8, 8))


@pytest.fixture(scope="module")
def keywords() -> Lowering:
    return Lowering("ds-cnn", (1, 49, 10))


@pytest.mark.parametrize("network", ["digits", "keywords"])
@pytest.mark.parametrize("options", [COptions(kernels="dsp"), COptions(row_alignment=4)], ids=["dsp", "plain"])
def test_flash_is_never_more_and_ram_is_exact(network: str, options: COptions, request: pytest.FixtureRequest) -> None:
    lowering: Lowering = request.getfixturevalue(network)
    table = memory_table(lowering.network, lowering, options=options)
    for seed in range(2):
        layers = lowering.policy(seed)
        found = predict(lowering(layers), options=options)
        assert found.flash_bytes <= table.flash(layers) <= found.flash_bytes + 512
        assert table.ram(lowering.network, layers) == found.ram_bytes


def test_a_width_of_depthwise_layers_alone_takes_no_code(keywords: Lowering) -> None:
    """Their kernel unpacks all weights first, at any width by the same code."""
    options = COptions(kernels="dsp")
    table = memory_table(keywords.network, keywords, options=options)
    layers = {one.name: LayerBits(6 if one.groups == one.weight_shape[0] else 3, 8) for one in keywords.network.layers}
    assert {bits.weight_bits for bits in layers.values()} == {3, 6}
    assert table.flash(layers) == predict(keywords(layers), options=options).flash_bytes
    others = {name: LayerBits(6 if bits.weight_bits == 3 else 3, 8) for name, bits in layers.items()}
    assert table.flash(others) == predict(keywords(others), options=options).flash_bytes


def test_packed_activations_follow_the_bits(digits: Lowering) -> None:
    options = COptions(pack_activations=True)
    table = memory_table(digits.network, digits, options=options)
    few, many = ({one.name: LayerBits(8, bits) for one in digits.network.layers} for bits in (2, 8))
    for layers in (few, many):
        found = predict(digits(layers), options=options)
        assert table.ram(digits.network, layers) == found.ram_bytes
    assert table.ram(digits.network, few) < 0.8 * table.ram(digits.network, many)
    assert table.target == "C, plain kernels, packed activations"
