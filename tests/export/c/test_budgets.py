"""A table of flash and RAM agrees with the layout of any policy."""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping
from functools import partial

import pytest
import torch
from torch import nn

from mixbit import models
from mixbit.cost import LayerBits, costs
from mixbit.errors import BudgetError
from mixbit.export.c import COptions, footprint, memory_table
from mixbit.export.c._options import KERNELS
from mixbit.export.c._program import build_program
from mixbit.export.c.budgets import _code
from mixbit.export.c.sizes import layers as layers_of
from mixbit.export.c.sizes import unpacking_code, width_code
from mixbit.integer import IntegerGraph, lower, lower_at
from mixbit.network import Network, capture
from mixbit.policy import Policy
from mixbit.quantization import calibrate, quantize
from tests.export.graphs import Builder, rounded


class Again(nn.Module):
    """A convolution is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 4, 3)
        self.fc = nn.Linear(64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.b(torch.relu(self.b(torch.relu(self.a(x)))))
        return self.fc(torch.relu(self.c(torch.relu(x))).flatten(1))


class Odd(nn.Module):
    """45 weights of a depthwise layer and 5 inputs of a row, which no alignment divides."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(1, 5, 3), nn.Conv2d(5, 5, 3, groups=5), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.b(torch.relu(self.a(x)))).mean((2, 3)))


class Lowering:
    """A network at any bits, by its name in the zoo or as a module."""

    def __init__(self, name: str | nn.Module, shape: tuple[int, ...]) -> None:
        torch.manual_seed(0)
        self.model: nn.Module = (models.build(name) if isinstance(name, str) else name).eval()
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


@pytest.fixture(scope="module")
def again() -> Lowering:
    return Lowering(Again(), (3, 6, 6))


@pytest.fixture(scope="module")
def odd() -> Lowering:
    return Lowering(Odd(), (1, 7, 7))


@pytest.mark.parametrize("network", ["digits", "keywords", "again"])
@pytest.mark.parametrize("options", [COptions(kernels="dsp"), COptions(row_alignment=4)], ids=["dsp", "plain"])
def test_flash_is_never_more_and_ram_is_exact(network: str, options: COptions, request: pytest.FixtureRequest) -> None:
    lowering: Lowering = request.getfixturevalue(network)
    table = memory_table(lowering.network, lowering, options=options)
    for seed in range(2):
        layers = lowering.policy(seed)
        found = footprint(lowering(layers), options=options)
        assert found.flash_bytes <= table.flash(layers) <= found.flash_bytes + 512
        assert table.ram(lowering.network, layers) == found.ram_bytes


def test_rows_are_aligned_and_streams_of_depthwise_layers_are_not(odd: Lowering) -> None:
    options = COptions(row_alignment=4)
    weights = memory_table(odd.network, odd, options=options).weights
    layers = {one.name: LayerBits(3, 8) for one in odd.network.layers}
    written = {one.name: one.weight_bytes for one in layers_of(build_program(odd(layers), options))}
    assert written["b"] == 17 and written["fc"] == 3 * 4, "45 of 3 bits, and 3 rows of 15 bits"
    assert all(weights[name][3] == written[name] for name in ("a", "b", "fc"))


def test_weights_of_one_bit_are_in_the_table(keywords: Lowering) -> None:
    """Exact up to one depthwise layer of 1 bit: each of those counts the code that all of them share."""
    tables = {one: memory_table(keywords.network, keywords, options=COptions(kernels=one)) for one in KERNELS}
    named = keywords.network.layers
    several = sum(one.groups > 1 for one in named) - 1
    for depthwise, counted in ((8, 0), (1, several)):
        layers = {one.name: LayerBits(depthwise if one.groups > 1 else 1, 8) for one in named}
        graph = keywords(layers)
        for kernels in KERNELS:
            table, found = tables[kernels], footprint(graph, options=COptions(kernels=kernels))
            assert table.flash(layers) == found.flash_bytes + counted * unpacking_code()
            assert table.ram(keywords.network, layers) == found.ram_bytes


def test_what_the_table_does_not_hold_is_told(digits: Lowering) -> None:
    """No weights in float, and no tensors of more than 8 bits, packed or not."""
    table = memory_table(digits.network, digits, options=COptions(kernels="dsp"))
    with pytest.raises(BudgetError, match="at 32 bits has no form on the device.*Legal: 1, 2, 3, 4, 5, 6, 7, 8 bits"):
        table.flash({one.name: LayerBits(None, 8) for one in digits.network.layers})
    for used in (table.flash, partial(table.ram, digits.network)):
        with pytest.raises(BudgetError, match="reads 9 bits. Memory tables are of inputs of up to 8.*give it 8"):
            used({one.name: LayerBits(8, 9) for one in digits.network.layers})


def test_a_layer_that_is_called_again_is_in_flash_once_and_in_the_weight_bytes_at_32_bits(again: Lowering) -> None:
    table = memory_table(again.network, again)
    assert set(table.weights) == {"a", "c", "fc"}
    layers = {one.name: LayerBits(3, 8) for one in again.network.layers}
    found = footprint(again(layers))
    assert found.flash_bytes <= table.flash(layers)
    b = again.model.b.weight.numel()
    assert found.policy_bytes == -(-(sum(one.weights for one in again.network.layers) * 3 + b * 8) // 8)
    counted = costs(again.network, layers).weight_bits
    assert counted == sum(one.weights for one in again.network.layers) * 3 + (b + 8) * 32
    # Every layer at 3 bits still needs the code of 8, for the one that is called twice.
    bare = {one.name: LayerBits(8, 8) for one in again.network.layers}
    assert footprint(again(layers)).code_bytes - footprint(again(bare)).code_bytes == table.code[3]
    assert table.code[8] == 0


def test_a_width_of_depthwise_layers_alone_takes_no_code(keywords: Lowering) -> None:
    """Their kernel unpacks all weights first, at any width by the same code."""
    options = COptions(kernels="dsp")
    table = memory_table(keywords.network, keywords, options=options)
    layers = {one.name: LayerBits(6 if one.groups == one.weight_shape[0] else 3, 8) for one in keywords.network.layers}
    assert {bits.weight_bits for bits in layers.values()} == {3, 6}
    assert table.flash(layers) == footprint(keywords(layers), options=options).flash_bytes
    others = {name: LayerBits(6 if bits.weight_bits == 3 else 3, 8) for name, bits in layers.items()}
    assert table.flash(others) == footprint(keywords(others), options=options).flash_bytes


@pytest.mark.parametrize(("groups", "paid"), [(6, True), (2, False), (1, False)])
def test_a_depthwise_layer_beside_the_networks_brings_no_code_of_its_width(groups: int, paid: bool) -> None:
    """A convolution that is called twice is none of the network's layers and has 8 bits, whatever they get."""
    b = Builder((6, 4, 4), seed=0)
    x = b.conv(b.first, 6, 3, groups=groups, weight_bits=8)
    program = build_program(
        rounded(b.finish(b.linear(b.flatten(x), 2, weight_bits=3, bits=None)), "single"), COptions()
    )
    wanted = {bits: size if bits < 8 or paid else 0 for bits, size in width_code(program).items()}
    assert _code(program, [program.last.name]) == wanted and all(width_code(program).values())


class Fork(nn.Module):
    """Two convolutions read one tensor, the largest of the network."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(8, 4)
        self.a, self.b = nn.Conv2d(16, 4, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        return self.head(torch.cat([torch.relu(one(x)).mean((2, 3), True) for one in (self.a, self.b)], 1).flatten(1))


def test_packed_activations_bring_steps_and_code_that_eight_bits_do_not_have() -> None:
    """By 8 bits alone RAM would be 16 bytes too few, where others lie side by side, and flash without unpacking."""
    forked, options = Lowering(Fork(), (3, 12, 12)), COptions(pack_activations=True)
    layers = {one.name: LayerBits(3, 2) for one in forked.network.layers}
    table, found = memory_table(forked.network, forked, options=options), footprint(forked(layers), options=options)
    assert table.ram(forked.network, layers) == found.ram_bytes
    assert found.flash_bytes <= table.flash(layers) <= found.flash_bytes + 512


def test_activation_bytes_are_what_is_laid_out_once_steps_differ() -> None:
    torch.manual_seed(0)
    model, x = Fork().eval(), torch.randn(2, 3, 12, 12)
    network = capture(model, x)
    bits = {one.name: LayerBits(4, 4) for one in network.layers}
    lowered = lower_at(model, network, x, rounding="single", apart=True)(bits)
    options = COptions(pack_activations=True)
    live = footprint(lowered, options=options).activation_bytes
    assert live == 16 * 144 + 4 * 144 + 2, "16 channels at 8 bits, 4 at 8, and the first pool's 4 results at 4"
    assert 0 <= costs(network, bits).activation_bytes - live <= 8


def test_packed_activations_follow_the_bits(digits: Lowering) -> None:
    options = COptions(pack_activations=True)
    table = memory_table(digits.network, digits, options=options)
    few, many = ({one.name: LayerBits(8, bits) for one in digits.network.layers} for bits in (2, 8))
    for layers in (few, many):
        found = footprint(digits(layers), options=options)
        assert table.ram(digits.network, layers) == found.ram_bytes
    assert table.ram(digits.network, few) < 0.8 * table.ram(digits.network, many)
    assert table.target == "C, plain kernels, packed activations"
