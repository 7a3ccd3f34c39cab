"""Biases in steps of the accumulator, where the step that weights and input give is not the one that the bias needs.

A bias is rounded to `unit = x_scale * weight_scale / 2^shift` and kept in int32. Two kinds of channels need another
unit:

* Where no weight is left (a pruned row, a head that starts at zero), the scale of the weights says nothing of the
  result. Such a channel is its bias, and takes the unit that the result needs.
* Where the bias is `2^30` units or more, the channel is its bias only if no sum of products moves the result: the sum
  that an input can reach is looked at. Else its unit is doubled until the bias fits: first by a smaller shift of the
  layer, which costs the weights nothing, then by rounding the channel's weights to even numbers, to multiples of 4, ...
  With `n` weights and inputs of up to `r` steps that moves the result by less than `n r / 2^30` of its bias.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mixbit.integer._steps import Multiply
from mixbit.integer.arithmetic import Array, Grid, quantize
from mixbit.integer.graph import Kind, Note

__all__ = ["Units", "units"]

_BIAS_LIMIT = 2**30
_SHIFTED_BITS = 7
_CONSTANT_BITS = 22
"""Digits of the bias of a channel without weights, where the result is float32, which holds 24."""
_NO_PART = 2.0**-8
"""Of a step of the result: sums of products below it move no more than the rounding of ties."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Units:
    """A layer as its accumulator has it."""

    integers: Array
    """The weights as integers, int8."""
    scale: Array
    """Scale of each output's sums, float32 `(out,)`."""
    bias: Array
    """int32 `(out,)`, in steps of the accumulator."""
    shift: int
    notes: tuple[Note, ...]


def units(step: Multiply, grid: Grid, result: Grid | None) -> Units:
    """Weights, scales, biases and shift of a layer.

    Args:
        step: the layer, with finite weights and biases.
        grid: of its input.
        result: of its output; None where that is float32.
    """
    found = _Channels(
        integers=step.integers, scale=step.scale.astype(np.float32), real=step.bias, shift=_shift(step), grid=grid
    )
    wide = _wide(found) & ~_unmoved(found, result, step.bounds)
    notes = []
    if wide.any():
        found, lost = _coarser(found, wide)
        notes.append(_note(step, "coarse channels", f"the bias is {2**30} accumulator steps or more: {lost}", wide))
    constant = ~_weighted(found) | _wide(found)
    if constant.any():
        found = _constants(found, constant, result)
        notes.append(_note(step, "dead channels", "output is constant", constant))
    bias = np.clip(found.bias, -_BIAS_LIMIT, _BIAS_LIMIT).astype(np.int32)
    return Units(integers=found.integers, scale=found.scale, bias=bias, shift=found.shift, notes=tuple(notes))


def _shift(step: Multiply) -> int:
    """The largest that leaves the weights at 7 bits: then int16 holds the sum of two products with an 8-bit input.

    That matters on x86 processors that multiply 8-bit numbers in pairs and saturate the sum of each.
    """
    return max(_SHIFTED_BITS - step.bits, 0) if step.bias.any() else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Channels:
    """Output channels with the unit that they have so far."""

    integers: Array
    scale: Array
    real: Array
    """Biases, float64."""
    shift: int
    grid: Grid

    @property
    def unit(self) -> Array:
        """float64 `(out,)`; 0 where there is none."""
        found: Array = self.grid.scale * self.scale.astype(np.float64) / 2**self.shift
        return found

    @property
    def bias(self) -> Array:
        """In units, float64: infinite where the unit is 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            found: Array = np.rint(self.real / self.unit)
        return np.where(np.isnan(found), 0.0, found)


def _weighted(channels: _Channels) -> Array:
    """Whether a channel has a weight that is not zero."""
    found: Array = channels.integers.reshape(len(channels.scale), -1).any(axis=1) & (channels.scale != 0)
    return found


def _wide(channels: _Channels) -> Array:
    """Whether a channel's bias does not fit."""
    found: Array = np.abs(channels.bias) >= _BIAS_LIMIT
    return found


def _unmoved(channels: _Channels, result: Grid | None, bounds: tuple[float, float] | None) -> Array:
    """Whether no input moves the result of a channel away from its bias."""
    lowest, highest = _reach(channels)
    found: Array
    if result is None:
        found = highest - lowest <= 2.0**-24 * np.abs(channels.real)
        return found
    low, high = bounds or (-np.inf, np.inf)
    ends = [quantize(np.clip(channels.real + end, low, high), result) for end in (lowest, highest)]
    found = (highest - lowest <= _NO_PART * result.scale) | (ends[0] == ends[1])
    return found


def _reach(channels: _Channels) -> tuple[Array, Array]:
    """Lowest and highest sum of products that an input can give, in real numbers, `(out,)`."""
    low, high = (float(end - channels.grid.zero_point) for end in (channels.grid.qmin, channels.grid.qmax))
    rows = channels.integers.reshape(len(channels.scale), -1).astype(np.float64)
    factors = channels.unit * 2**channels.shift
    products = rows * low * factors[:, None], rows * high * factors[:, None]
    # Padding is a zero, so each product may be that as well.
    return np.minimum(np.minimum(*products), 0).sum(axis=1), np.maximum(np.maximum(*products), 0).sum(axis=1)


def _coarser(channels: _Channels, wide: Array) -> tuple[_Channels, str]:
    """Larger units for `wide` channels, and what that cost."""
    doubled = np.where(wide, np.frexp(np.where(wide, np.abs(channels.bias), 0) / _BIAS_LIMIT)[1], 0)
    unshifted = min(int(doubled.max()), channels.shift)
    powers = 2.0 ** np.maximum(doubled - unshifted, 0)
    along = (-1, *[1] * (channels.integers.ndim - 1))
    found = replace(
        channels,
        integers=np.rint(channels.integers / powers.reshape(along)).astype(np.int8),
        scale=(channels.scale * powers).astype(np.float32),
        shift=channels.shift - unshifted,
    )
    lost = [f"the layer's shift is {found.shift} instead of {channels.shift}"] if unshifted else []
    lost += [f"weights lose up to {int(np.log2(powers.max()))} bits"] if powers.max() > 1 else []
    return found, " and ".join(lost)


def _constants(channels: _Channels, constant: Array, result: Grid | None) -> _Channels:
    """Channels that are their bias: no weights, and the unit that the result needs."""
    unit = np.full(len(constant), 0.0 if result is None else result.scale / 2**channels.shift)
    if result is None:
        # The other channels' units bound what a common fixed point of all outputs can tell apart.
        others = np.abs(channels.unit[~constant]).max(initial=0)
        unit = np.maximum(np.abs(channels.real) / 2**_CONSTANT_BITS, others / 2**16)
        unit = np.where(unit > 0, unit, 1.0)
    scale = (unit * 2**channels.shift / channels.grid.scale).astype(np.float32)
    integers = np.where(constant.reshape(-1, *[1] * (channels.integers.ndim - 1)), 0, channels.integers)
    return replace(
        channels, integers=integers.astype(np.int8), scale=np.where(constant, scale, channels.scale).astype(np.float32)
    )


def _note(step: Multiply, kind: Kind, reason: str, channels: Array) -> Note:
    found = np.flatnonzero(channels)
    listed = ", ".join(map(str, found[:8])) + (f" and {len(found) - 8} more" if len(found) > 8 else "")
    return Note(name=step.name, kind=kind, reason=f"{reason}: {listed}")
