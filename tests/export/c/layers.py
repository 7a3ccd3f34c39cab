"""Networks in which every operation is unlike in its two directions, at every width of weights and of results."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import cycle
from typing import Any

from mixbit.integer import IntegerGraph, Rounding
from tests.export.graphs import Builder, rounded

_RESULTS: tuple[dict[str, Any], ...] = (
    {"bits": 8, "signed": True, "zero_point": -3},
    {"bits": 4, "zero_point": 5},
    {"bits": 8, "zero_point": 131},
    {"bits": 3, "zero_point": 4},
    {"bits": 8, "zero_point": 131, "clamp": (20, 240)},
    {"bits": 2, "signed": True, "zero_point": -1},
)
"""Grids of results, one after the other: containers of 8, 4 and 2 bits. What follows 2 bits has few values."""


def regular(b: Builder) -> str:
    """Convolutions of every width; columns of many lengths, even and odd numbers of channels and places."""
    windows: tuple[dict[str, Any], ...] = (
        {"kernel": (3, 2), "stride": (1, 2), "dilation": (2, 1), "padding": ((2, 1), (0, 2)), "channels": 7},
        {"kernel": (2, 4), "stride": (1, 1), "dilation": (1, 2), "padding": ((1, 0), (3, 2)), "channels": 5},
        {
            "kernel": (1, 3),
            "stride": (2, 1),
            "dilation": (1, 1),
            "padding": ((0, 0), (0, 3)),
            "channels": 6,
            "shift": 2,
        },
        {"kernel": (3, 1), "stride": (1, 1), "dilation": (3, 1), "padding": ((3, 2), (0, 0)), "channels": 9},
        {"kernel": (2, 3), "stride": (1, 2), "dilation": (1, 3), "padding": ((0, 2), (4, 3)), "channels": 4},
        {"kernel": (4, 2), "stride": (2, 1), "dilation": (1, 1), "padding": ((2, 3), (1, 0)), "channels": 8},
        {"kernel": (2, 2), "stride": (1, 1), "dilation": (2, 1), "padding": ((1, 2), (1, 1)), "channels": 3},
    )
    return _each(b, windows)


def depthwise(b: Builder) -> str:
    """One, two and three outputs a channel, whole groups of four channels and others."""
    windows: tuple[dict[str, Any], ...] = (
        {"kernel": 1, "channels": 6},
        {
            "kernel": (3, 2),
            "stride": (1, 2),
            "dilation": (2, 1),
            "padding": ((2, 1), (0, 2)),
            "channels": 6,
            "groups": 6,
        },
        {
            "kernel": (2, 3),
            "stride": (2, 1),
            "dilation": (1, 2),
            "padding": ((0, 2), (3, 1)),
            "channels": 12,
            "groups": 6,
        },
        {
            "kernel": (1, 4),
            "stride": (1, 1),
            "dilation": (1, 1),
            "padding": ((0, 0), (1, 3)),
            "channels": 12,
            "groups": 12,
        },
        {
            "kernel": (3, 1),
            "stride": (1, 1),
            "dilation": (3, 1),
            "padding": ((3, 2), (1, 0)),
            "channels": 12,
            "groups": 12,
        },
        {"kernel": 1, "channels": 3},
        {
            "kernel": (2, 2),
            "stride": (1, 2),
            "dilation": (2, 1),
            "padding": ((1, 2), (1, 1)),
            "channels": 9,
            "groups": 3,
        },
    )
    return _each(b, windows)


def grouped(b: Builder) -> str:
    """Several inputs a group; one tap, with steps and with padding; columns of whole groups of 16 and of many."""
    windows: tuple[dict[str, Any], ...] = (
        {"kernel": 1, "stride": (1, 2), "channels": 12},
        {
            "kernel": (2, 3),
            "stride": (2, 1),
            "dilation": (2, 1),
            "padding": ((1, 2), (0, 2)),
            "channels": 9,
            "groups": 3,
        },
        {"kernel": 1, "stride": (2, 1), "padding": ((0, 1), (2, 0)), "channels": 16},
        {
            "kernel": (1, 2),
            "stride": (1, 1),
            "dilation": (1, 2),
            "padding": ((0, 0), (1, 1)),
            "channels": 10,
            "groups": 2,
        },
        {"kernel": 1, "channels": 33},
        {"kernel": (3, 2), "stride": (1, 1), "dilation": (1, 1), "padding": ((0, 2), (1, 0)), "channels": 4},
        {"kernel": 1, "channels": 6, "groups": 2},
    )
    return _each(b, windows)


def pointwise(b: Builder) -> str:
    """One tap, which reads beside the map on one side only, or where a step would lead there."""
    windows: tuple[dict[str, Any], ...] = (
        {"kernel": 1, "padding": ((0, 0), (0, 1)), "channels": 4},
        {"kernel": 1, "stride": (1, 2), "padding": ((0, 0), (1, 0)), "channels": 6},
        {"kernel": 1, "stride": (2, 1), "padding": ((1, 0), (0, 0)), "channels": 3},
        {"kernel": 1, "padding": ((0, 2), (0, 0)), "channels": 5},
    )
    return _each(b, windows)


def folded(b: Builder) -> str:
    """Layers that read a tensor of 8 bits through a table, because it lives on: convolutions, maps, vectors."""
    of: tuple[dict[str, Any], ...] = ({"bits": 3, "zero_point": 7}, {"bits": 4, "signed": True, "zero_point": -8})
    x = b.conv(b.first, 6, (2, 1), weight_bits=7, bits=6, zero_point=40, padding=0)
    y = b.conv(b.requantize(x, **of[0]), 6, (2, 3), dilation=(1, 2), padding=((1, 0), (1, 3)), groups=2, weight_bits=5)
    z = b.conv(b.requantize(x, clamp=(-6, 5), **of[1]), 6, 1, weight_bits=2, padding=0)
    x = b.add(x, b.add(y, z, bits=8), bits=7, signed=True, zero_point=11)
    y = b.linear(b.requantize(x, **of[1]), 4, weight_bits=3, bits=8)
    x = b.flatten(b.concat(b.cut(x, (0, 0, 0), (6, 8, 4), (1, 1, 1)), b.requantize(y, **_as(b, x))))
    y = b.linear(b.requantize(x, **of[0]), 10, weight_bits=4, bits=8)
    return b.add(b.linear(x, 10, weight_bits=8, bits=8), y, bits=8)


def binary(b: Builder) -> str:
    """Weights of 1 bit: whole groups of 16, few and many bits behind them, odd numbers of rows and places."""
    windows: tuple[dict[str, Any], ...] = (
        {"kernel": (3, 2), "stride": (1, 2), "padding": ((2, 1), (0, 2)), "channels": 7},
        {"kernel": 1, "channels": 16},
        {"kernel": (2, 1), "channels": 9},
        {"kernel": (3, 3), "padding": ((1, 2), (0, 1)), "channels": 18, "groups": 9},
        {"kernel": (1, 3), "padding": ((0, 0), (1, 1)), "channels": 6, "groups": 2, "shift": 1},
    )
    x = b.linear(_each(b, windows, (1,)), 5, weight_bits=1, bits=8)
    return b.linear(b.flatten(x), 11, weight_bits=1, bits=8)


def _as(b: Builder, name: str) -> dict[str, Any]:
    """The grid of a tensor, for another."""
    grid = b.tensors[name].grid
    assert grid is not None
    return {"bits": grid.bits, "signed": grid.qmin < 0, "zero_point": grid.zero_point, "scale": grid.scale}


def _each(b: Builder, windows: tuple[dict[str, Any], ...], widths: Iterable[int] = range(2, 9)) -> str:
    """A chain with weights of all these bits, one after the other."""
    x = b.first
    for weight_bits, window, of in zip(cycle(widths), windows, cycle(_RESULTS), strict=False):
        x = b.conv(x, weight_bits=weight_bits, **({"padding": 0} | window), **of)
    return x


def others(b: Builder) -> str:
    """Pools, sums, changes of grid, tables, moves, linear layers along a dimension; from tensors of few bits."""
    of = {"bits": 4, "signed": True, "zero_point": 2}
    half = {**_as(b, b.first), "scale": 2 * _as(b, b.first)["scale"]}  # every other result is a tie
    ties = b.add(b.first, b.lookup(b.first, **_as(b, b.first)), **half)
    x = b.add(b.requantize(b.first, clamp=(90, 140), **half), ties, bits=8, zero_point=117)
    x = b.max_pool(b.requantize(x, **of), (2, 3), stride=(1, 2), padding=((1, 1), (2, 0)))
    y = b.average_pool(x, (3, 2), stride=(2, 1), padding=((1, 1), (0, 1)), bits=8, zero_point=100)
    z = b.average_pool(x, (1, 2), stride=(2, 1), padding=((0, 0), (1, 0)), **_as(b, x))
    x = b.add(y, z, bits=3, zero_point=3, clamp=(1, 6))
    x = b.pad(x, ((1, 0), (0, 2), (3, 1)))
    x = b.cut(x, (0, 1, 2), b.tensors[x].shape, (1, 1, 2))
    x = b.transpose(x, (0, 2, 1))
    x = b.concat(x, b.lookup(x, **_as(b, x)), axis=2)
    x = b.transpose(x, (2, 0, 1))
    rows, high, wide = b.tensors[x].shape
    x = b.reshape(x, (high, wide, rows))
    x = b.add(b.lookup(x, bits=2, zero_point=1), x, bits=8, signed=True, zero_point=40)
    x = b.linear(x, 5, weight_bits=3, bits=4, zero_point=9, shift=1)
    return b.linear(b.reshape(x, (3, 4, 5)), 5, weight_bits=7, bits=2, zero_point=1)


NETWORKS: dict[str, Callable[[Builder], str]] = {
    one.__name__: one for one in (regular, depthwise, grouped, pointwise, folded, others, binary)
}


def network(name: str, rounding: Rounding) -> IntegerGraph:
    """One of `NETWORKS` and a linear layer at its end."""
    b = Builder((3, 9, 8), bits=8, signed=False, zero_point=117, seed=11)
    b.least_scale = 1e-9  # numbers become small down a chain, and are to differ to its end
    x = NETWORKS[name](b)
    return rounded(b.finish(b.linear(b.flatten(x), 3, weight_bits=6, bits=None)), rounding)
