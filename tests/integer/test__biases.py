"""Biases that the steps of weights and input do not suit, against the fake-quantized network and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mixbit.integer import executor
from mixbit.integer._biases import units
from mixbit.integer._steps import Multiply
from mixbit.integer.arithmetic import Grid, quantize
from mixbit.integer.graph import IntegerGraph
from mixbit.integer.lowering import lower
from mixbit.network import Network, capture
from mixbit.policy import Policy
from mixbit.quantization import calibrate
from mixbit.quantization import quantize as attach

X = torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def prepared(model: nn.Module, x: Tensor, bits: int = 8) -> tuple[nn.Module, Network]:
    network = capture(model.eval(), x)
    attach(model, Policy.uniform(network, bits, 8), network)
    calibrate(model, [x], rule="minmax")
    return model.eval(), network


def lowered(model: nn.Module, x: Tensor, bits: int = 8) -> tuple[IntegerGraph, np.ndarray, np.ndarray]:
    """The graph, what it computes, and what the fake-quantized model computes."""
    model, network = prepared(model, x, bits)
    graph = lower(model, network, [x])
    with torch.no_grad():
        return graph, executor.run(graph, x.numpy()), model(x).numpy()


def kinds(graph: IntegerGraph) -> list[tuple[str, str]]:
    return [(note.name, note.kind) for note in graph.notes]


def test_an_all_zero_row_of_the_last_layer_keeps_its_bias() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 4))
    with torch.no_grad():
        model[1].weight[1], model[1].weight[3] = 0, 0
        model[1].bias.copy_(torch.tensor([0.1, 0.4, -0.3, 0.0]))
    graph, found, _ = lowered(model, X)
    assert found[:, 1] == pytest.approx(0.4, abs=1e-6)
    assert (found[:, 3] == 0).all()
    assert kinds(graph) == [("1", "dead channels")]


def test_what_a_pruned_row_was_scaled_by_does_not_coarsen_its_bias() -> None:
    weights = np.array([[5, -3], [0, 0]], np.int8)
    scale, bias = np.array([0.01, 1e4]), np.array([0.5, 0.4])
    step = Multiply(name="fc", inputs=[], integers=weights, bits=8, scale=scale, bias=bias, window=None)
    found = units(step, Grid(scale=0.1, zero_point=0, qmin=0, qmax=255), None)
    assert (found.bias * found.scale * 0.1 / 2**found.shift).tolist() == pytest.approx([0.5, 0.4], rel=1e-6)


@pytest.mark.parametrize("prior", [-4.595, 3e-9, 2e7])
def test_a_head_that_starts_at_zero_gives_its_prior(prior: float) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    nn.init.zeros_(model[2].weight)
    nn.init.constant_(model[2].bias, prior)
    _, found, _ = lowered(model, X)
    assert found == pytest.approx(prior, rel=1e-6)


def wide(last: bool) -> nn.Module:
    """Two channels of 4,608 weights each beside a bias of 2^31 of their steps, which the sum moves by 6 %."""
    first = nn.Linear(4608, 2)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        first.weight.copy_(1e-4 * (1 + 0.1 * torch.rand(2, 4608, generator=generator)))
        first.bias.fill_(8.0)
    if last:
        return first
    second = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        second.weight.copy_(torch.eye(2))
    return nn.Sequential(first, nn.ReLU(), second)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("bits", [2, 8])
def test_a_bias_that_is_too_wide_does_not_hide_the_products(bits: int, last: bool) -> None:
    x = torch.linspace(0, 1, 16)[:, None] * torch.ones(16, 4608)
    graph, found, wanted = lowered(wide(last), x, bits)
    assert np.ptp(wanted) > 0.4
    step = 0 if last else graph.grid(graph.weighted()[1].x).scale
    assert np.abs(found - wanted).max() <= step + 2e-3
    if bits == 8:
        assert [kind for _, kind in kinds(graph)] == ["coarse channels"]


GRID = Grid(scale=0.5, zero_point=0, qmin=0, qmax=255)


def layer(scale: float, bias: float, bits: int = 8, bounds: tuple[float, float] | None = None) -> Multiply:
    """One row of three weights, beside a row that needs nothing."""
    return Multiply(
        name="fc",
        inputs=[],
        integers=np.array([[1, -2, 1], [1, 1, 1]], np.int8),
        bits=bits,
        scale=np.array([scale, 0.1]),
        bias=np.array([bias, 0.3]),
        window=None,
        bounds=bounds,
    )


def test_a_bias_beside_which_no_product_counts_is_a_constant() -> None:
    result = Grid(scale=0.1, zero_point=0, qmin=0, qmax=255)
    found = units(layer(1e-12, 7.04), GRID, result)
    assert not found.integers[0].any()
    assert found.integers[1].any()
    assert found.bias[0] * found.scale[0] * GRID.scale / 2**found.shift == pytest.approx(7.04, abs=0.05)
    assert [note.kind for note in found.notes] == ["dead channels"]


def test_a_channel_that_saturates_whatever_comes_is_a_constant() -> None:
    """Products reach 255 steps of the result, but the clamp lets none through."""
    result = Grid(scale=0.1, zero_point=0, qmin=0, qmax=255)
    found = units(layer(0.1, -1e9, bounds=(0.0, np.inf)), GRID, result)
    assert not found.integers[0].any()
    unit = GRID.scale * float(found.scale[0]) / 2**found.shift
    assert int(quantize(np.array([max(found.bias[0] * unit, 0)]), result)[0]) == 0


def test_the_shift_gives_way_before_weights_do() -> None:
    wide = 0.75 * 2.0**29 * 0.5 * 0.1  # 0.75 * 2^29 steps without the shift, 2^34 with it
    found = units(layer(0.1, wide, bits=2), GRID, None)
    assert found.shift == 1
    assert np.array_equal(found.integers, layer(0.1, wide).integers)
    assert 2**29 <= found.bias[0] < 2**30
    assert [note.kind for note in found.notes] == ["coarse channels"]


@pytest.mark.parametrize(
    ("bits", "steps", "lost"),
    [
        (2, 0.75 * 2**29, "the layer's shift is 1 instead of 5"),
        (8, 0.75 * 2**31, "weights lose up to 1 bits"),
        (6, 0.75 * 2**31, "the layer's shift is 0 instead of 1 and weights lose up to 1 bits"),
    ],
)
def test_the_note_tells_what_was_lost_and_nothing_else(bits: int, steps: float, lost: str) -> None:
    found = units(layer(0.1, steps * 0.5 * 0.1, bits=bits), GRID, None)
    assert [note.reason for note in found.notes] == [f"the bias is {2**30} accumulator steps or more: {lost}: 0"]
