"""DoReFa-Net's quantizers (Zhou et al., arXiv 1606.06160): weights through tanh, activations clipped to [0, 1]."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from mixbit._bits import integer_range
from mixbit.errors import MixbitError
from mixbit.quantizers._gradients import per_slice
from mixbit.quantizers.operator import fake_quantize
from mixbit.quantizers.quantizer import Quantizer
from mixbit.quantizers.rules import Rule

__all__ = ["DoReFaActivations", "DoReFaWeights"]


class _Fixed(Quantizer):
    """A quantizer whose steps follow from its bits: nothing is calibrated, nothing learned."""

    learned: ClassVar[bool] = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.steps.requires_grad_(False)
        self.ready.fill_(True)

    def initialise(self, x: Tensor, rule: Rule) -> None:
        """Nothing to do: the steps are what they are."""

    def _observe(self, x: Tensor) -> None:
        """Nothing to see."""


class DoReFaWeights(_Fixed):
    """`2 round(n t) / n - 1` with `t = tanh(w) / (2 max |tanh w|) + 1/2` and `n = 2^M - 1`.

    The maximum is that of the tensor (the paper), or of each channel (our completion). Rounding passes gradients
    straight through; tanh and the maximum are differentiated.

    `n t` runs from 0 to `n` in steps of 1, which is what `steps` holds. Another value `x` (in the study of steps that
    are wrong) rounds to multiples of `x` instead: `n / x` levels a unit, and nothing is clipped.

    There is no level at zero, and no fixed step between weight and integer, so lowering refuses it. A weight of zero
    is a tie at every bit-width; half to even takes it to the positive side.

    >>> quantizer = DoReFaWeights([2], signed=True)
    >>> quantizer(torch.tensor([-2, -0.5, 0.1, 2])).mul(3).round().tolist()                        # in thirds
    [-3.0, -1.0, 1.0, 3.0]
    """

    no_integers: ClassVar[str | None] = "DoReFa's weights have no level at zero"

    def _range(self, bits: int) -> tuple[int, int]:
        if bits == 1:
            raise MixbitError("weights='dorefa' at 1 bit: the paper has another formula there. Use weights='lsq'.")
        return integer_range(bits, signed=False)

    def unrounded(self, x: Tensor) -> Tensor:
        """`tanh(x) / max |tanh x|`, what the result comes close to with more bits; -1 to 1."""
        y = x.float().tanh()
        top = y.abs().reshape(self.channels, -1).amax(dim=1)
        return y / per_slice(top.clamp_min(_TINY), y)

    def _fake_quantize(self, x: Tensor, step: Tensor, zero_point: Tensor, qmin: Tensor, qmax: Tensor) -> Tensor:
        scaled = (self.unrounded(x) / 2 + 0.5) * qmax
        # Nothing can leave [0, n], so there is nothing to clip; bounds of n itself would stop the largest's gradient.
        whole = fake_quantize(scaled, step.detach(), zero_point, qmin - _FAR, qmax + _FAR)
        return (2 * whole / qmax - 1).to(x.dtype)


class DoReFaActivations(_Fixed):
    """Clip to [0, 1], then `n = 2^M - 1` steps of `1 / n`. The gradient passes inside and stops outside.

    >>> quantizer = DoReFaActivations([2], signed=False)
    >>> quantizer(torch.tensor([-1.0, 0.3, 0.6, 5.0]))
    tensor([0.0000, 0.3333, 0.6667, 1.0000])
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        with torch.no_grad():
            self.steps.copy_(1 / self.qmaxs[:, None])

    def _fake_quantize(self, x: Tensor, step: Tensor, zero_point: Tensor, qmin: Tensor, qmax: Tensor) -> Tensor:
        return fake_quantize(x, step.detach(), zero_point, qmin, qmax)


_TINY = 1e-12
_FAR = 65536.0
