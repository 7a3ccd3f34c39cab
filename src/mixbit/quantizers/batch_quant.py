"""BatchQuant (Bai et al., NeurIPS 2021, arXiv 2105.08952): activations on a grid that follows each batch."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixbit import _distributed
from mixbit._bits import integer_range
from mixbit.errors import MixbitError
from mixbit.quantizers._gradients import per_slice
from mixbit.quantizers.quantizer import Quantizer
from mixbit.quantizers.rules import Rule

__all__ = ["BatchQuant"]

_FAR = 2.0
"""Batches of so many times the samples of training's, or of so small a part, have other extremes (ours)."""


class BatchQuant(Quantizer):
    """Affine quantization whose range is the mean over channels of each one's minimum and maximum in the batch.

    With `mn`, `mx` these means, widened to hold 0, and without gradients to them:

        s = (mx - mn) / (qmax - qmin),    z = clamp(qmin - round(mn / s), qmin, qmax)
        q = round(clamp(x * gamma / s + z + delta, qmin, qmax))
        y = (q - z - delta) * s / gamma

    The residuals `gamma = log2(1 + 2^theta)` and `delta`, in steps, are learned, and have no effect at first: at
    `theta = 0`, `gamma = 1`. Rounding passes gradients straight through, the clamp none from outside; an element on a
    bound is inside. `y` moves with the scale of `x`, so it keeps up with a network whose bits change under it.

    In training mode `mn` and `mx` are those of the batch. In evaluation mode they are frozen: `lows` and `highs`, the
    average over the batches of a `statistics_anew`, never an average over training, during which the weights move.
    They must come from batches of training's size, since the extremes of a batch grow with its samples.

    Beside the tensors of `Quantizer`, `(n, 1)` each: parameters `theta` and `delta`; buffers `lows` and `highs`; and
    `trained_on` `(n,)`, the most samples that a training batch had. `steps` and `zero_points` are `s` and `z` of `lows`
    and `highs`: nothing learns them. `gradient_scale`, `step_range` and calibration rules have no say.

    One bit is 0 or 1 with a zero point, signed or not: the sign of this grid only shifts it.

    Args:
        bits: as `Quantizer`.
        channel_axis: dimension of the channels; a tensor of one dimension is one channel.
        ignore_dead: leave channels that are 0 in the whole batch out of the means, which they pull down (ours).
        settings: as `Quantizer`.

    >>> quantizer = BatchQuant([2, 3], signed=False, batched=True)
    >>> x = torch.tensor([[[[-1.0, 5.0, 0.0, 1.0]], [[-3.0, 3.0, 2.0, -0.6]]]])  # mn = -2, mx = 4
    >>> quantizer(x).detach().flatten().tolist()
    [-2.0, 4.0, 0.0, 2.0, -2.0, 2.0, 2.0, 0.0]
    """

    per_sample: ClassVar[str | None] = None
    no_integers: ClassVar[str | None] = "its zero point is learned and no whole number"
    signed_inputs: ClassVar[bool] = True
    statistics: ClassVar[tuple[str, ...]] = ("lows", "highs", "steps", "zero_points", "ready")
    affine: ClassVar[bool] = True
    theta: nn.Parameter
    delta: nn.Parameter
    lows: Tensor
    highs: Tensor
    trained_on: Tensor

    def __init__(
        self, bits: Sequence[int], *, channel_axis: int = 1, ignore_dead: bool = False, **settings: Any
    ) -> None:
        super().__init__(bits, **{**settings, "step_range": None})
        if self.channels != 1:
            raise MixbitError(f"channels={self.channels}: BatchQuant has one range a tensor. Legal: 1.")
        self.channel_axis, self.ignore_dead = channel_axis, ignore_dead
        self.steps.requires_grad_(False)
        rows = len(self.bits)
        self.theta = nn.Parameter(torch.zeros(rows, 1, dtype=torch.float32))
        self.delta = nn.Parameter(torch.zeros(rows, 1, dtype=torch.float32))
        self.register_buffer("lows", torch.zeros(rows, 1, dtype=torch.float32))
        self.register_buffer("highs", torch.zeros(rows, 1, dtype=torch.float32))
        self.register_buffer("trained_on", torch.zeros(rows, dtype=torch.long))
        self._sums: Tensor | None = None

    def _range(self, bits: int) -> tuple[int, int]:
        return integer_range(bits, signed=self.signed and bits > 1)

    @property
    def gamma(self) -> Tensor:
        """The multiplicative residual of every row, `(n, 1)`: `log2(1 + 2^theta)`, never negative."""
        return _log2_1p_exp2(self.theta)

    def learn(self, flag: bool) -> None:
        """Let training move the residuals, or hold them."""
        self.theta.requires_grad_(flag)
        self.delta.requires_grad_(flag)

    @property
    def never_set(self) -> bool:
        """Whether rows in use have no statistics."""
        return not all(bool(self.ready[row]) for row in self.used)

    def fault(self) -> str | None:
        """What is wrong with the rows in use, in words, or None."""
        if self.never_set:
            return "was never calibrated"
        for what, rows in (("range", (self.lows, self.highs)), ("residual", (self.gamma, self.delta))):
            if not all(bool(torch.isfinite(one.detach()[self.used]).all()) for one in rows):
                return f"has a {what} that is not finite"
        if not bool((self.gamma.detach()[self.used] > 0).all()):
            return "has a residual gamma of 0, by which nothing can be divided"
        return None

    # -- forward

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantize `x` with the row in use; any shape."""
        if self.bypass or not x.numel():
            return x
        if self.mixture is not None:
            return self._mixed(x, self.mixture)
        if self.rows is None:
            return self._by_index(x, self.index.clone())  # gradients need it as it is now
        if self._by_batch:  # each row by the samples that are of it alone
            return self.rows.each(x, self.with_row)
        self.rows.check(x)
        return self._by_index(x, self.rows.rows.to(self.index.device))

    def with_row(self, x: Tensor, row: int) -> Tensor:
        """Fake-quantize `x` with that row, whatever is selected."""
        return x if self.bypass else self._by_index(x, torch.full_like(self.index, row))

    @property
    def _by_batch(self) -> bool:
        """Whether the range is that of the batch, and not the frozen one."""
        return self.training or self._sums is not None

    def _by_index(self, x: Tensor, row: Tensor) -> Tensor:
        """With the rows `(1,)`, or `(N,)`, one a sample."""
        qmin, qmax = self.qmins.index_select(0, row), self.qmaxs.index_select(0, row)
        if self._by_batch:
            low, high = self._limits(x)
            self._note(row, low, high, len(x) if x.dim() else 1)
            step, zero = _grid(low, high, qmin, qmax)
        else:
            step, zero = (one.detach().index_select(0, row).squeeze(1) for one in (self.steps, self.zero_points))
        theta, delta = (one.index_select(0, row).squeeze(1) for one in (self.theta, self.delta))
        y: Tensor = _AffineRound.apply(x, step / _log2_1p_exp2(theta), zero + delta, qmin, qmax)  # type: ignore[no-untyped-call]
        return y

    @torch.no_grad()
    def _limits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`mn` and `mx` of a batch, `(1,)` float32 each, not yet widened."""
        if x.dim() < 2:
            low, high = torch.aminmax(x)
            return low.float().view(1), high.float().view(1)
        lows, highs = _extremes(x, self.channel_axis % x.dim())
        if not self.ignore_dead:
            return lows.mean().view(1), highs.mean().view(1)
        alive = ((lows != 0) | (highs != 0)).float()
        count = alive.sum().clamp_min(1.0)
        return (lows.sum() / count).view(1), (highs.sum() / count).view(1)

    def _note(self, row: Tensor, low: Tensor, high: Tensor, samples: int) -> None:
        if self._sums is not None:
            facts = torch.cat([low * samples, high * samples, torch.full_like(low, samples)])
            weighted = torch.cat([facts, torch.full_like(low, samples * samples)]).to(self._sums.dtype)
            self._sums.index_add_(0, row, weighted.unsqueeze(0))
        elif torch.is_grad_enabled():  # a step of training, and no look at what it would do
            most = self.trained_on.index_select(0, row).clamp_min(samples)
            self.trained_on.index_copy_(0, row, most)

    # -- statistics

    @contextmanager
    def statistics_anew(self, name: str = "a BatchQuant") -> Iterator[None]:
        """Use each batch's own range inside, in evaluation mode too; afterwards their average is the frozen one.

        Batches count by their samples, over all ranks. Rows that none of them used stay as they were, and so do all
        rows after an error.

        Args:
            name: of the quantizer, for errors.

        Raises:
            MixbitError: batches of one sample, or with numbers that are not finite.

        Warns:
            UserWarning: batches far from the size of training's.
        """
        wide = torch.float32 if self.index.device.type == "mps" else torch.float64
        self._sums = torch.zeros(len(self.bits), 4, dtype=wide, device=self.index.device)
        try:
            yield
            sums = self._sums
        finally:
            self._sums = None
        _distributed.sum_([sums])
        for row, (low, high, samples, squares) in enumerate(sums.tolist()):
            if samples:
                self._check_batches(name, row, squares / samples)
                self._freeze_range(name, row, low / samples, high / samples)

    def _check_batches(self, name: str, row: int, size: float) -> None:
        """Whether batches of that size tell the range; `size` is that of the batch in which a sample is, on average."""
        most = int(self.trained_on[row])
        why = "the range is the mean over channels of a batch's extremes, which grow with its samples"
        if size == 1:
            raise MixbitError(
                f"{name}: calibration by batches of one sample. {why.capitalize()}. Give batches of the size that is "
                f"trained on{f', {most} samples' if most else ', 32 samples or more'}."
            )
        if most and not most / _FAR <= size <= most * _FAR:
            warnings.warn(
                f"statistics by batches of {size:g} samples of a network that was trained on batches of {most}: {why}, "
                "so the frozen range is not that of training. Give batches of the size that was trained on.",
                stacklevel=4,
            )

    @torch.no_grad()
    def _freeze_range(self, name: str, row: int, low: float, high: float) -> None:
        if not (math.isfinite(low) and math.isfinite(high)):
            raise MixbitError(
                f"{name}: the batches have a range of {low:g} to {high:g}. They, or what the layers before make of "
                "them, hold NaN or infinity. Check the data and the weights."
            )
        self.lows[row], self.highs[row] = low, high
        step, zero = _grid(self.lows[row], self.highs[row], self.qmins[row], self.qmaxs[row])
        self._set_row(row, step, zero)

    @torch.no_grad()
    def initialise(self, x: Tensor, rule: Rule) -> None:
        """Freeze the range of every row at that of `x`, by which rule makes no difference."""
        low, high = self._limits(x)
        for row in range(len(self.bits)):
            self._freeze_range("BatchQuant", row, float(low), float(high))

    # -- one row, and a plain quantizer of it

    @torch.no_grad()
    def keep_row(self) -> None:
        """Be a bank of the selected bit-width alone."""
        row = int(self.index)
        super().keep_row()
        for name in ("theta", "delta"):
            own = getattr(self, name)
            setattr(self, name, nn.Parameter(own.detach()[row : row + 1].clone(), requires_grad=own.requires_grad))
        for name in ("lows", "highs", "trained_on"):
            self.register_buffer(name, getattr(self, name)[row : row + 1].clone())

    @torch.no_grad()
    def fold(self) -> tuple[Quantizer, float]:
        """A plain quantizer on the grid of the frozen range and the residuals (our completion).

        Its step is `s / gamma`, its zero point `clamp(round(z + delta), qmin, qmax)`: a zero is then a zero again, as
        padding and integer kernels need it, and everything moves by what rounding took from the zero point.

        Returns:
            The quantizer, of one bit-width; and how far the zero point moved, in steps.

        Raises:
            MixbitError: several bit-widths, or no statistics.

        >>> from mixbit.quantizers import find_rule
        >>> quantizer = BatchQuant([3], signed=False, batched=True)
        >>> quantizer.initialise(torch.tensor([[[-1.0, 5.0]], [[-3.0, 3.0]]]).transpose(0, 1), find_rule("lsq"))
        >>> _ = quantizer.theta.data.fill_(0.7), quantizer.delta.data.fill_(-0.25)
        >>> plain, moved = quantizer.fold()
        >>> plain.steps.item(), plain.zero_points.item(), moved
        (0.6157..., 2.0, 0.25)
        """
        if len(self.bits) > 1:
            raise MixbitError(
                f"a BatchQuant of {list(self.bits)} bits cannot be folded: a plain quantizer of one is made. Select "
                "the bits and settle the network first (mixbit.supernet.settle)."
            )
        fault = self.fault()
        if fault is not None:
            raise MixbitError(f"a BatchQuant that is to be folded {fault}. Calibrate first.")
        signed = float(self.qmins) < 0
        plain = Quantizer(self.bits, signed=signed, gradient_scale=self.gradient_scale, batched=self.batched)
        plain.to(self.index.device).train(self.training)
        zero = self.zero_points + self.delta
        rounded = zero.round().clamp(float(self.qmins), float(self.qmaxs))
        plain._set_row(0, self.steps[0] / self.gamma[0], rounded[0])
        return plain, float((rounded - zero).abs())


class _AffineRound(torch.autograd.Function):
    """`y = (round(clamp(x / s + o)) - o) * s` with a step and an offset that have gradients, by the one operator.

    With `u = x + o s` it is `fake_quantize(u, s) - o s`, rounded after the offset is added. The gradients of `s` and
    `o` follow from those of the operator's step and zero point, so one pass gives all three.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, offset: Tensor, qmin: Tensor, qmax: Tensor) -> Tensor:
        ctx.save_for_backward(x, step, offset, qmin, qmax)
        shift = per_slice(offset * step, x)
        moved = torch.ops.mixbit.fake_quantize(_plus(x, shift), step, torch.zeros_like(step), qmin, qmax, 0)
        return moved.sub_(shift).to(x.dtype)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, step, offset, qmin, qmax = ctx.saved_tensors
        moved = _plus(x, per_slice(offset * step, x))
        # The operator counts an element on its bound as clipped; so the bounds move out by the least that there is.
        low, high = qmin - _least(qmin), qmax + _least(qmax)
        zero = torch.zeros_like(step)
        grad_x, by_step, by_zero = torch.ops.mixbit.fake_quantize_backward(
            grad.float(), moved, step, zero, low, high, 0
        )
        return grad_x.to(x.dtype), by_step + offset * by_zero / step, by_zero, None, None


def _plus(x: Tensor, shift: Tensor) -> Tensor:
    """The sum in float32; a sum of two dtypes takes half as long again as a copy and a sum in place."""
    return x + shift if x.dtype == torch.float32 else x.float().add_(shift)


def _least(bound: Tensor) -> Tensor:
    return (bound.abs() * 2.0**-23).clamp_min(1e-30)


def _log2_1p_exp2(theta: Tensor) -> Tensor:
    """`log2(1 + 2^theta)`."""
    return F.softplus(theta, beta=math.log(2.0))


def _extremes(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Minimum and maximum of every channel, `(C,)` float32."""
    if x.device.type == "cpu":
        x = x.float()  # its extremes in bf16 take twice as long as both
    last = x.movedim(axis, -1)
    if last.is_contiguous():  # the channels of a place stand beside each other: samples first, in long pieces of memory
        pieces = last.reshape(len(last), -1)
        lows, highs = (piece.reshape(-1, x.shape[axis]) for piece in (pieces.amin(0), pieces.amax(0)))
        return lows.amin(0).float(), highs.amax(0).float()
    rest = [d for d in range(x.dim()) if d != axis]
    return x.amin(rest).float(), x.amax(rest).float()


def _grid(low: Tensor, high: Tensor, qmin: Tensor, qmax: Tensor) -> tuple[Tensor, Tensor]:
    """Step and zero point that spread `[low, high]`, widened to hold 0, over the integers; 1 and 0 of nothing but 0."""
    low, high = low.clamp_max(0.0), high.clamp_min(0.0)
    empty = low == high
    step = ((high - low) / (qmax - qmin)).clamp_min(torch.finfo(torch.float32).eps)
    zero = torch.minimum(torch.maximum(qmin - torch.round(low / step), qmin), qmax)
    return torch.where(empty, 1.0, step), torch.where(empty, 0.0, zero)
