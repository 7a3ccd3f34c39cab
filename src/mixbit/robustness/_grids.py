"""The levels that a quantizer rounds to, as plain numbers that can be changed without touching the quantizer."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from mixbit._bits import integer_range, is_binary
from mixbit.data.order import generator
from mixbit.quantizers import (
    DoReFaActivations,
    DoReFaWeights,
    LsqClip,
    MidRise,
    Pact,
    Quantizer,
    fake_quantize,
)

__all__ = ["Grid", "Rounding", "grid_of"]

Rounding: TypeAlias = Literal["half-even", "half-away", "floor", "truncate", "stochastic"]
"""To the nearest integer, ties to the even one or away from zero; down; towards zero; up or down by chance."""

Kind: TypeAlias = Literal["integers", "midrise", "dorefa"]
"""Levels at `(q - z) s`; at `(q - z + 1/2) s`; at `2 (q - z) s / n - 1` with nothing clipped (`n = 2^M - 1`)."""

_KINDS: dict[type[nn.Module], Kind] = {
    Quantizer: "integers",
    Pact: "integers",
    DoReFaActivations: "integers",
    MidRise: "midrise",
    LsqClip: "midrise",
    DoReFaWeights: "dorefa",
}
_ROUNDING = 23  # keeps these draws apart from others of the same seed
_FAR = 65536.0  # what is not to be clipped stays far within


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """`q = clamp(round(u / s) + z, qmin, qmax)`, with every part open to change.

    Attributes:
        kind: how a value becomes `u`, and `q` a value again; see `Kind`.
        unrounded: what the result comes close to with more bits; DoReFa's tanh, or nothing.
        bits: of the integers.
        step: `s`, `(1,)`, or `(C,)` for one a slice of the first dimension. DoReFa's is 1 as trained.
        zero_point: `z`, like `step`.
        qmin, qmax: the integer range.
        rounding: see `Rounding`.
        seed: of stochastic rounding.
        exact: neither round nor clip.
    """

    kind: Kind
    unrounded: Callable[[Tensor], Tensor]
    bits: int
    step: Tensor
    zero_point: Tensor
    qmin: float
    qmax: float
    rounding: Rounding = "half-even"
    seed: int = 0
    exact: bool = False

    def apply(self, x: Tensor, name: str = "") -> Tensor:
        """The values of `x` on this grid, of its shape and type; `name` draws stochastic rounding's own numbers."""
        if self.exact:
            return self.unrounded(x).to(x.dtype)
        if self.kind == "dorefa":
            # As DoReFaWeights has it, to the last bit.
            whole = self._fake_quantize((self.unrounded(x) / 2 + 0.5) * self.qmax, name, far=_FAR)
            return (2 * whole / self.qmax - 1).to(x.dtype)
        if self.kind == "midrise":
            half = _per_slice(self.step, x) / 2
            return self._fake_quantize(x - half, name) + half
        return self._fake_quantize(x, name)

    def same_as(self, other: Grid) -> bool:
        """Whether both turn every value into the same one, as far as their numbers tell."""
        plain = ("kind", "bits", "qmin", "qmax", "rounding", "seed", "exact")
        equal = all(getattr(self, name) == getattr(other, name) for name in plain)
        return equal and torch.equal(self.step, other.step) and torch.equal(self.zero_point, other.zero_point)

    @property
    def spacing(self) -> Tensor:
        """Distance of two levels, the `Delta` of papers; like `step`."""
        return 2 * self.step / self.qmax if self.kind == "dorefa" else self.step

    def with_spacing(self, spacing: Tensor) -> Grid:
        """The grid of as many levels in this distance."""
        return replace(self, step=spacing * self.qmax / 2 if self.kind == "dorefa" else spacing)

    def with_bits(self, bits: int) -> Grid:
        """The grid of as many levels as `bits` have, over the same range.

        The range is `2^M` steps, one for each integer; on a mid-rise grid it goes from the lowest level to the highest,
        which are `2^M - 1` steps apart. DoReFa always rounds to levels from -1 to 1.
        """
        qmin, qmax = integer_range(bits, signed=self.qmin < 0)
        changed = replace(self, bits=bits, qmin=qmin, qmax=qmax)
        if self.kind == "dorefa":
            return changed
        if self.kind == "midrise":
            return replace(changed, step=self.step * ((2**self.bits - 1) / (2**bits - 1)))
        finer = 2.0 ** (bits - self.bits)
        zero_point = torch.round(qmin - (self.qmin - self.zero_point) * finer)
        return replace(changed, step=self.step / finer, zero_point=zero_point)

    def _fake_quantize(self, x: Tensor, name: str, *, far: float = 0.0) -> Tensor:
        low, high = self.qmin - far, self.qmax + far
        if self.rounding == "half-even":
            return fake_quantize(x, self.step, self.zero_point, *(self.step.new_full((1,), end) for end in (low, high)))
        s, z = _per_slice(self.step, x), _per_slice(self.zero_point, x)
        q = torch.clamp(self._round(x.float() / s, name) + z, low, high)
        return ((q - z) * s).to(x.dtype)

    def _round(self, v: Tensor, name: str) -> Tensor:
        if self.rounding == "floor":
            return v.floor()
        if self.rounding == "stochastic":
            # Drawn on the CPU, so that every device gets the same numbers.
            draws = torch.rand(v.shape, generator=generator(_ROUNDING, self.seed, zlib.crc32(name.encode())))
            return torch.floor(v + draws.to(v.device))
        whole = v.trunc()
        if self.rounding == "truncate":
            return whole
        # The difference is exact, where |v| + 0.5 would round up the number just below a half.
        return whole + v.sign() * ((v - whole).abs() >= 0.5)


def grid_of(quantizer: nn.Module) -> Grid | None:
    """The grid that a quantizer rounds to now, with the row in use; None for a quantizer of an unknown kind."""
    kind = _KINDS.get(type(quantizer))
    if kind is None or not isinstance(quantizer, Quantizer):
        return None
    row = int(quantizer.index)
    if kind == "integers" and is_binary(float(quantizer.qmins[row]), float(quantizer.qmaxs[row])):
        kind = "midrise"
    step = quantizer.steps[row].detach()
    return Grid(
        kind=kind,
        unrounded=quantizer.unrounded,
        bits=quantizer.selected,
        step=step.clamp(*quantizer.step_range) if quantizer.step_range is not None else step.clone(),
        zero_point=quantizer.zero_points[row].clone(),
        qmin=float(quantizer.qmins[row]),
        qmax=float(quantizer.qmaxs[row]),
    )


def _per_slice(parameter: Tensor, x: Tensor) -> Tensor:
    """`(C,)` as `(C, 1, ...)`, to broadcast along the first dimension of `x`."""
    return parameter.view(-1, *[1] * (x.dim() - 1)) if parameter.numel() > 1 else parameter
