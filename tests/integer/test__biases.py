"""Biases that the steps of weights and input do not suit, against the fake-quantized network and closed forms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mixbit.integer import executor
from mixbit.integer._biases import _Channels, _reach, units
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


@pytest.mark.parametrize("bits", range(1, 9))
def test_weights_are_shifted_to_seven_bits_for_the_sake_of_a_bias_alone(bits: int) -> None:
    step = layer(0.1, 0.2, bits=bits)
    assert units(step, GRID, None).shift == max(7 - bits, 0)
    step.bias = np.zeros(2)
    assert units(step, GRID, None).shift == 0


@pytest.mark.parametrize("shift", [0, 5])
@pytest.mark.parametrize(("zero", "ends"), [(0, (0, 255)), (100, (0, 255)), (-3, (-8, 7)), (7, (-8, 7))])
def test_the_reach_of_a_sum_is_that_of_all_corners_of_its_inputs(zero: int, ends: tuple[int, int], shift: int) -> None:
    """Every weight with its input at one end or the other, in real numbers; a scale may be negative."""
    grid = Grid(scale=0.5, zero_point=zero, qmin=ends[0], qmax=ends[1])
    weights, scale = np.array([[1, -2, 3], [4, 0, 1]], np.int8), np.array([0.1, -0.3], np.float32)
    channels = _Channels(integers=weights, scale=scale, real=np.zeros(2), shift=shift, grid=grid)
    corners = np.array(list(itertools.product(ends, repeat=3)))
    sums = (0.5 * (corners - zero)) @ (weights * scale[:, None]).T
    lowest, highest = _reach(channels)
    np.testing.assert_allclose(lowest, sums.min(axis=0), rtol=1e-6)
    np.testing.assert_allclose(highest, sums.max(axis=0), rtol=1e-6)


@pytest.mark.parametrize(("bounds", "constant"), [(None, False), ((0.0, 5e7), True), ((0.0, 7e7), False)])
def test_a_clamp_below_the_end_of_the_grid_makes_a_constant_too(
    bounds: tuple[float, float] | None, constant: bool
) -> None:
    """At a tie of a 16-bit result: products of some tens move it by a step, unless the clamp lies below."""
    result = Grid(scale=1000.0, zero_point=0, qmin=0, qmax=65535)
    found = units(layer(0.1, 6e7 + 500, bounds=bounds), GRID, result)
    assert found.integers[0].any() == (not constant)
    assert [note.kind for note in found.notes][-1] == ("dead channels" if constant else "coarse channels")


def test_a_small_constant_of_the_output_keeps_within_16_digits_of_the_steps_beside_it() -> None:
    """A target with one fixed point for all outputs could not hold both."""
    step = layer(0.0, 1e-9)
    found = units(step, GRID, None)
    assert found.scale[0] == pytest.approx(found.scale[1] / 2**16, rel=1e-6)


@pytest.mark.parametrize("bias", [-1e9, 1e9])
def test_a_constant_far_beyond_the_result_is_cut_off_on_its_own_side(bias: float) -> None:
    found = units(layer(0.1, bias), GRID, Grid(scale=0.01, zero_point=0, qmin=-128, qmax=127))
    assert found.bias[0] == np.sign(bias) * 2**30 and abs(int(found.bias[1])) < 2**30


@pytest.mark.parametrize(("dead", "listed"), [(8, "6, 7"), (11, "6, 7 and 3 more")])
def test_a_note_lists_eight_channels_and_counts_the_rest(dead: int, listed: str) -> None:
    rows = np.zeros((dead + 1, 3), np.int8)
    rows[-1] = 1
    ones = np.ones(dead + 1)
    step = Multiply(name="fc", inputs=[], integers=rows, bits=8, scale=ones, bias=ones, window=None)
    (note,) = units(step, GRID, None).notes
    assert note.reason == f"output is constant: 0, 1, 2, 3, 4, 5, {listed}"
