"""PACT (Choi et al., arXiv 1805.06085): activations with a learned clip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from mixbit.errors import MixbitError
from mixbit.quantizers._gradients import scale_gradient
from mixbit.quantizers.operator import fake_quantize
from mixbit.quantizers.quantizer import Quantizer
from mixbit.quantizers.rules import Rule

__all__ = ["Pact"]


class Pact(Quantizer):
    """Clip to `[0, alpha]`, then `n = 2^M - 1` steps of `alpha / n`; `alpha` is learned.

    The gradient of `alpha` is 1 where `x >= alpha` and 0 elsewhere: unlike LSQ's it has no part from rounding.

    The parameter of this class is the step `s = alpha / n`, as in all others. Its gradient is multiplied by `1 / n^2`,
    which makes every step of SGD on `s`, with momentum and decay, the step of SGD on `alpha`. It is not so for Adam.
    `gradient_scale` has no say.

    Args:
        bits: as `Quantizer`.
        alpha: where the clip starts; None leaves it to calibration (our completion).
        decay: weight decay of `alpha`, for the optimizer.
        settings: as `Quantizer`.

    Raises:
        MixbitError: `alpha` is not positive, or the decay negative.

    >>> quantizer = Pact([2], signed=False, alpha=3.0)
    >>> quantizer(torch.tensor([-1.0, 0.4, 1.6, 7.0])).detach()
    tensor([0., 0., 2., 3.])
    """

    per_sample: ClassVar[str | None] = "its clip is one for the whole batch"

    def __init__(self, bits: Sequence[int], *, alpha: float | None = None, decay: float = 0.0, **settings: Any) -> None:
        super().__init__(bits, **settings)
        if self.signed:
            raise MixbitError("signed=True: PACT clips at zero. Use it for activations that are not negative.")
        if alpha is not None and not 0 < alpha < float("inf"):
            raise MixbitError(f"alpha={alpha} is no clip. Legal: a positive number, or None for calibration.")
        if not 0 <= decay < float("inf"):
            raise MixbitError(f"decay={decay} is no weight decay. Legal: 0 and more.")
        self.alpha, self.decay = alpha, decay
        if alpha is not None:
            with torch.no_grad():
                self.steps.copy_((alpha / self.qmaxs)[:, None])
                self.ready.fill_(True)

    def _by_rule(self, x: Tensor, rule: Rule, row: int) -> tuple[Tensor, Tensor]:
        step, zero_point = super()._by_rule(x, rule, row)
        return (step if self.alpha is None else self.alpha / self.qmaxs[row].view(1)), zero_point

    def _fake_quantize(self, x: Tensor, step: Tensor, zero_point: Tensor, qmin: Tensor, qmax: Tensor) -> Tensor:
        y = fake_quantize(x, step.detach(), zero_point, qmin, qmax)
        if not (torch.is_grad_enabled() and self.steps.requires_grad):
            return y  # one node, which export and lowering know
        alpha = scale_gradient(step, qmax**-2.0) * qmax
        return torch.where(x >= alpha, alpha.to(y.dtype), y)
