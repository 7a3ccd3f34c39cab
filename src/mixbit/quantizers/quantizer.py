"""A bank of quantizers, one a bit-width, that share one place in the network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from mixbit import _distributed
from mixbit._bits import integer_range, is_binary
from mixbit.errors import MixbitError, WeightsError
from mixbit.quantizers._gradients import per_slice, scale_gradient
from mixbit.quantizers.operator import fake_quantize
from mixbit.quantizers.rules import Rule
from mixbit.quantizers.sample_rows import SampleRows

__all__ = ["GradientScale", "Quantizer"]

_UNSET = 1.0
"""The step that rows are made with."""

GradientScale = Literal["features", "numel", "none"]


class Quantizer(nn.Module):
    """Fake quantization with a learned step size per candidate bit-width (LSQ), and O(1) switching between them.

    Tensor data, with `n` bit-widths and `C` channels (1 if per tensor):
        steps: parameter `(n, C)`, step sizes in the order of `bits`.
        zero_points: buffer `(n, C)`.
        qmins, qmaxs: buffers `(n,)`, the integer ranges. They are tensors so that switching bits recompiles nothing,
            and in the state, so that it cannot be loaded at other bits.
        ready: buffer `(n,)` of bool, which rows were set.
        index: buffer `(1,)`, which row is in use.

    One signed bit has two levels, `-s/2` and `s/2`, and none at zero; zero goes to the upper one (our completion, see
    `mixbit.quantizers.MidRise`).

    Beside the one row that `select` puts into use for all, `select_samples` gives each sample of a batch a row of its
    own, and `mix` a weighted sum of all rows; both last until the next selection and are no part of the state.

    All of them stay float32 (and whole numbers) when the model is moved to another dtype.

    Args:
        bits: candidate bit-widths, in the order of the rows.
        signed: full signed range, or from zero.
        channels: slices along the first dimension that own a step each.
        gradient_scale: LSQ divides the gradient of a step by `sqrt(count * qmax)`. "features" counts the elements
            that share the step in one sample (the LSQ paper), "numel" those of the whole batch (LIMPQ's released
            code), "none" leaves the gradient as it is.
        batched: whether the first dimension of the input is the batch (activations) or the channels (weights).
        step_range: steps are clamped to it before use, with zero gradient outside (LIMPQ's indicator stage: 1e-5 to 1).

    >>> quantizer = Quantizer([4, 2], signed=True)
    >>> with torch.no_grad():
    ...     _ = quantizer.steps.copy_(torch.tensor([[0.1], [0.4]]))
    >>> quantizer(torch.tensor([0.33, -0.98])).detach()
    tensor([ 0.3000, -0.8000])
    >>> quantizer.select(2)
    >>> quantizer(torch.tensor([0.33, -0.98])).detach()
    tensor([ 0.4000, -0.8000])
    """

    learned: ClassVar[bool] = True
    """Whether training may move what a row has learned: steps, or what a kind has in their place."""
    signed_inputs: ClassVar[bool] = False
    """Whether this kind is for inputs that can be negative too; LSQ, the usual kind, stands in for others there."""
    statistics: ClassVar[tuple[str, ...]] = ()
    """Tensors that evaluation uses and that `statistics_anew` makes from batches, as batch norm's are made."""
    affine: ClassVar[bool] = False
    """Whether this kind finds a zero point by itself, so that an unsigned grid holds negative numbers too."""
    no_integers: ClassVar[str | None] = None
    """Why this kind of quantizer cannot be lowered to integers of its bits, or None."""
    per_sample: ClassVar[str | None] = None
    """Why this kind of quantizer cannot give each sample of a batch a bit-width of its own, or None."""
    later_state: ClassVar[tuple[str, ...]] = ("qmins", "qmaxs", "ready")
    """Keys that states of the first version lack."""

    qmins: Tensor
    qmaxs: Tensor
    zero_points: Tensor
    ready: Tensor
    index: Tensor

    def __init__(
        self,
        bits: Sequence[int],
        *,
        signed: bool,
        channels: int = 1,
        gradient_scale: GradientScale = "features",
        batched: bool = False,
        step_range: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        if not bits or len(set(bits)) != len(bits):
            raise MixbitError(f"bits={list(bits)} must name at least one bit-width, and none twice.")
        self.bits, self.signed, self.channels = tuple(bits), signed, channels
        ranges = [self._range(b) for b in bits]
        self.gradient_scale, self.batched, self.step_range = gradient_scale, batched, step_range
        self.binary = any(is_binary(*one) for one in ranges)
        self.rule: Rule | None = None
        self.rows: SampleRows | None = None
        self.mixture: Tensor | None = None
        self.latents: Tensor | None = None
        self.bypass = False
        self.decay = 0.0
        self._seen = [0] * len(bits)
        self.steps = nn.Parameter(torch.full((len(bits), channels), _UNSET, dtype=torch.float32))
        self.register_buffer("zero_points", torch.zeros(len(bits), channels, dtype=torch.float32))
        self.register_buffer("qmins", torch.tensor([low for low, _ in ranges], dtype=torch.float32))
        self.register_buffer("qmaxs", torch.tensor([high for _, high in ranges], dtype=torch.float32))
        self.register_buffer("ready", torch.zeros(len(bits), dtype=torch.bool))
        self.register_buffer("index", torch.zeros(1, dtype=torch.long))

    def extra_repr(self) -> str:
        """Bits, sign and granularity, for `print(model)`."""
        return f"bits={list(self.bits)}, signed={self.signed}, channels={self.channels}"

    @property
    def selected(self) -> int:
        """The bit-width in use."""
        return self.bits[int(self.index)]

    def select(self, bits: int) -> None:
        """Use the row of that bit-width from now on, for all samples."""
        self.use_row(self.row_of(bits))

    def row_of(self, bits: int) -> int:
        """The row of a bit-width."""
        if bits not in self.bits:
            raise MixbitError(f"bits={bits!r} is not in this bank. Legal: {list(self.bits)}.")
        return self.bits.index(bits)

    def use_row(self, row: int) -> None:
        """Use that row from now on, for all samples."""
        if self.rows is not None or self.mixture is not None:  # setting an attribute of a module takes a while
            self.rows = self.mixture = self.latents = None
        self.index.fill_(row)

    def select_samples(self, rows: Tensor | SampleRows) -> None:
        """Give every sample of the coming batches a row of its own.

        Activations are quantized by one call for the whole batch, each sample with its step and range. Weights
        are not: the layer runs once for each row that occurs, on the samples that have it.

        Args:
            rows: `(N,)`, whole numbers below the number of bit-widths; or what `SampleRows` made of them.

        Raises:
            MixbitError: rows that this bank does not have, or a kind of quantizer that has one step for all samples.

        >>> quantizer = Quantizer([4, 2], signed=False, batched=True)
        >>> with torch.no_grad():
        ...     _ = quantizer.steps.copy_(torch.tensor([[0.1], [0.4]]))
        >>> quantizer.select_samples(torch.tensor([0, 1]))
        >>> quantizer(torch.tensor([[0.33], [0.33]])).detach().flatten()
        tensor([0.3000, 0.4000])
        """
        rows = rows if isinstance(rows, SampleRows) else SampleRows.of(rows)
        if rows.found[-1] >= len(self.bits):
            raise MixbitError(f"row {rows.found[-1]} of a bank of {len(self.bits)} bit-widths, {list(self.bits)}.")
        if self.batched and self.per_sample is not None:
            raise MixbitError(f"{type(self).__name__} has no bit-width a sample: {self.per_sample}.")
        self.mixture, self.latents, self.rows = None, None, rows

    def learn(self, flag: bool) -> None:
        """Let training move what this kind learns, or hold it."""
        self.steps.requires_grad_(self.learned and flag)

    @torch.no_grad()
    def keep_row(self) -> None:
        """Be a bank of the selected bit-width alone."""
        row = int(self.index)
        self.use_row(0)
        self.bits = (self.bits[row],)
        self._seen = [self._seen[row]]
        self.steps = nn.Parameter(self.steps.detach()[row : row + 1].clone(), requires_grad=self.steps.requires_grad)
        for name in ("zero_points", "qmins", "qmaxs", "ready"):
            self.register_buffer(name, getattr(self, name)[row : row + 1].clone())
        self.binary = is_binary(int(self.qmins), int(self.qmaxs))

    def mix(self, probabilities: Tensor, latents: Tensor | None = None) -> None:
        """Give the sum of all rows' results, weighted; gradients reach the weights of the sum.

        Args:
            probabilities: `(n,)`, one a bit-width, in the order of `bits`; or `(n + 1,)`, with the share of the value
                as it is, in float, at the end.
            latents: `(n, *shape)` of a weight of that shape: each row quantizes one of its own, and the weight that
                the layer has counts for the float share alone.

        Raises:
            MixbitError: another number of them, or latents of activations.

        >>> quantizer = Quantizer([4, 2], signed=True)
        >>> with torch.no_grad():
        ...     _ = quantizer.steps.copy_(torch.tensor([[0.1], [0.4]]))
        >>> quantizer.mix(torch.tensor([0.75, 0.25]))
        >>> quantizer(torch.tensor([0.33])).detach()
        tensor([0.3250])
        >>> quantizer.mix(torch.tensor([0.5, 0.0, 0.5]))                             # 0.5 * 0.3 + 0.5 * 0.33
        >>> quantizer(torch.tensor([0.33])).detach()
        tensor([0.3150])
        """
        problem = self.unmixable(probabilities, latents)
        if problem is not None:
            raise MixbitError(problem)
        self.rows, self.mixture, self.latents = None, probabilities, latents

    def unmixable(self, probabilities: Tensor, latents: Tensor | None = None) -> str | None:
        """Why `mix` takes no such arguments, in words, or None."""
        count = len(self.bits)
        if probabilities.shape not in ((count,), (count + 1,)):
            return (
                f"probabilities of shape {tuple(probabilities.shape)} for a bank of {count} bit-widths. Legal: "
                f"({count},), in the order {list(self.bits)}; or one more, the share of float, at the end."
            )
        if latents is not None and (self.batched or len(latents) != count):
            what = "activations" if self.batched else f"{len(latents)} bit-widths"
            return f"latents of {what} for a bank of {count} bit-widths. Legal: one weight for each of its bit-widths."
        return None

    @property
    def used(self) -> list[int]:
        """Rows in use: the selected one, those of the samples, or all that are mixed."""
        if self.mixture is not None:
            return list(range(len(self.bits)))
        return [int(self.index)] if self.rows is None else list(self.rows.found)

    @property
    def never_set(self) -> bool:
        """Whether the steps in use are still those that the bank was made with: neither a rule nor a hand set them."""
        return any(not bool(self.ready[row]) and bool((self.steps[row] == _UNSET).all()) for row in self.used)

    def fault(self) -> str | None:
        """What is wrong with the steps in use, in words, or None.

        >>> Quantizer([4], signed=True).fault()
        'was never calibrated'
        """
        if self.never_set:
            return "was never calibrated"
        steps = self.steps.detach()[self.used]
        if self.step_range is not None:
            steps = steps.clamp(*self.step_range)
        for bad, what in ((~torch.isfinite(steps), "not finite"), (steps <= 0, "not positive")):
            if bad.any():
                return f"has {int(bad.sum())} of {steps.numel()} steps that are {what} ({float(steps[bad][0]):.3g})"
        return None

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantize `x` with the row in use; any shape."""
        if self.bypass:
            return x
        if self.rule is not None:
            self._observe(x)
        if self.mixture is not None:
            return self._mixed(x, self.mixture)
        return self._by_row(x, self._row() if self.rows is None else self._rows_of(x, self.rows))

    def with_row(self, x: Tensor, row: int) -> Tensor:
        """Fake-quantize `x` with that row, whatever is selected."""
        return x if self.bypass else self._by_row(x, self._row_at(torch.full_like(self.index, row)))

    def _by_row(self, x: Tensor, row: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
        step, zero_point, qmin, qmax = row
        if self.step_range is not None:
            step = step.clamp(*self.step_range)
        return self._fake_quantize(x, step, zero_point, qmin, qmax)

    def _mixed(self, x: Tensor, probabilities: Tensor) -> Tensor:
        """The weighted sum of all rows' results, in float32 as the operator's own arithmetic is."""
        own = self.latents
        parts = (
            self.with_row(x if own is None else own[row], row).float() * probabilities[row]
            for row in range(len(self.bits))
        )
        total = sum(parts, start=next(parts))
        if len(probabilities) > len(self.bits):
            total = total + x.float() * probabilities[-1]
        return total.to(x.dtype)

    def _rows_of(self, x: Tensor, selected: SampleRows) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Step, zero point and range of every sample."""
        if not self.batched:
            raise MixbitError("weights have no batch: their layer asks for one row after the other, see `with_row`.")
        selected.check(x)
        rows = selected.rows.to(self.index.device)
        return (
            self.steps.index_select(0, rows).squeeze(1),
            self.zero_points.index_select(0, rows).squeeze(1),
            self.qmins.index_select(0, rows),
            self.qmaxs.index_select(0, rows),
        )

    def unrounded(self, x: Tensor) -> Tensor:
        """What the result comes close to as bits are added: `x` itself, unless a kind of quantizer transforms it."""
        return x

    # -- what a kind of quantizer may do in its own way

    def _range(self, bits: int) -> tuple[int, int]:
        """Lowest and highest integer of a bit-width."""
        return integer_range(bits, signed=self.signed)

    def _fake_quantize(self, x: Tensor, step: Tensor, zero_point: Tensor, qmin: Tensor, qmax: Tensor) -> Tensor:
        """Round with the row in use; every number is rounded by the operator."""
        if self.binary:
            return self._around_zero(x, step, zero_point, qmin, qmax)
        return fake_quantize(x, step, zero_point, qmin, qmax, count=self._count(x))

    def _around_zero(self, x: Tensor, step: Tensor, zero_point: Tensor, qmin: Tensor, qmax: Tensor) -> Tensor:
        """In a bank with a row of one signed bit: that row is moved by half a step, the others stay where they are.

        The operator's gradient scale has no number for `qmax = 0`; as `MidRise` we put the highest level in steps.
        """
        moved, count = qmax == 0, self._count(x)
        if count:
            step = scale_gradient(step, torch.rsqrt(count * torch.where(moved, 0.5, qmax)))
        half = per_slice(torch.where(moved, step / 2, 0.0), x)
        return (fake_quantize(x - half, step, zero_point, qmin, qmax) + half).to(x.dtype)

    # -- rows and steps

    def _row(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if len(self.bits) == 1:
            return self.steps.squeeze(0), self.zero_points.squeeze(0), self.qmins, self.qmaxs
        return self._row_at(self.index.clone())  # gradients need it as it is now: the next selection writes into it

    def _row_at(self, row: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return (
            self.steps.index_select(0, row).squeeze(0),
            self.zero_points.index_select(0, row).squeeze(0),
            self.qmins.index_select(0, row),
            self.qmaxs.index_select(0, row),
        )

    def _count(self, x: Tensor) -> int:
        if self.gradient_scale == "none":
            return 0
        if self.gradient_scale == "features" and self.batched:
            return math.prod(x.shape[1:])  # not by division: a batch may be empty
        count = x.numel() // self.channels
        return count * _distributed.world_size() if self.batched else count  # a rank has its part of the batch

    @torch.no_grad()
    def initialise(self, x: Tensor, rule: Rule) -> None:
        """Set every row from `x` by `rule`; for weights, whose values are at hand."""
        for row in range(len(self.bits)):
            self._set_row(row, *self._by_rule(x, rule, row))

    @torch.no_grad()
    def _observe(self, x: Tensor) -> None:
        """Move the row in use to the running mean of what `rule` says of the batches seen, over all ranks."""
        row = int(self.index)
        assert self.rule is not None
        step, zero_point = self._by_rule(x, self.rule, row)
        _distributed.mean_([step, zero_point])
        seen = self._seen[row]
        self._seen[row] += 1
        self._set_row(
            row,
            (self.steps[row] * seen + step) / (seen + 1),
            torch.round((self.zero_points[row] * seen + zero_point) / (seen + 1)),
        )

    def _by_rule(self, x: Tensor, rule: Rule, row: int) -> tuple[Tensor, Tensor]:
        rows = x.detach().float().reshape(self.channels, -1)
        return rule(rows, int(self.qmins[row]), int(self.qmaxs[row]))

    def _set_row(self, row: int, step: Tensor, zero_point: Tensor) -> None:
        self.steps[row].copy_(step)
        self.zero_points[row].copy_(zero_point)
        self.ready[row] = True

    @contextmanager
    def statistics_anew(self, name: str = "") -> Iterator[None]:
        """Where a kind has statistics, make them anew from the batches that run inside, of the rows in use alone.

        Args:
            name: of the quantizer, for errors.
        """
        yield

    def forget(self) -> None:
        """Start calibration anew: the batches seen so far no longer count."""
        self._seen = [0] * len(self.bits)

    # -- state and places

    def __getstate__(self) -> dict[str, Any]:
        """For copies and files: a mixture's numbers go along, and what they were computed from does not."""
        computed = {name: getattr(self, name) for name in ("mixture", "latents")}
        return self.__dict__ | {n: t if t is None or t.is_leaf else t.detach() for n, t in computed.items()}

    def misfit(self, state: Mapping[str, Any], prefix: str = "") -> str | None:
        """Why a saved state is not one of this bank, in words, or None; one without ranges cannot be told.

        Args:
            state: names to tensors.
            prefix: what stands before `qmins` and `qmaxs` in the names.
        """
        name = prefix.rstrip(".") or "the quantizer"
        low, high = state.get(prefix + "qmins"), state.get(prefix + "qmaxs")
        if isinstance(low, Tensor) and isinstance(high, Tensor):
            theirs = list(zip(low.flatten().tolist(), high.flatten().tolist(), strict=False))
            ours = list(zip(self.qmins.tolist(), self.qmaxs.tolist(), strict=True))
            if theirs != ours:
                return (
                    f"{name} is of {_shown(ours)} here, and of {_shown(theirs)} in the state. "
                    "Quantize the model with the policy that the state was saved with"
                )
        row, zeros = state.get(prefix + "index"), state.get(prefix + "zero_points")
        if isinstance(row, Tensor) and not all(one in range(len(self.bits)) for one in row.flatten().tolist()):
            return f"{name} has {len(self.bits)} bit-widths, and row {row.flatten().tolist()} is in use in the state"
        if isinstance(zeros, Tensor) and bool((zeros != zeros.round()).logical_and(zeros.isfinite()).any()):
            return f"{name} has zero points in the state that are no whole numbers"
        return None

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        problem = self.misfit(state_dict, prefix)
        if problem is not None:
            raise WeightsError(f"the state does not fit: {problem}.")
        steps = state_dict.get(prefix + "steps")
        if isinstance(steps, Tensor) and steps.shape == self.steps.shape:
            known = (steps != _UNSET).any(dim=1) | self.ready.to(steps.device) & (not self.learned)
            older = {"qmins": self.qmins, "qmaxs": self.qmaxs, "ready": known}
            state_dict = {**{prefix + key: value for key, value in older.items()}, **state_dict}
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Quantizer:
        """Moves to devices reach the bank; other dtypes do not, in which its steps and ranges would be rounded."""

        def in_own_dtype(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        super()._apply(in_own_dtype, recurse)  # type: ignore[no-untyped-call]
        return self


def _shown(ranges: Sequence[tuple[float, float]]) -> str:
    """Bits and signs of integer ranges."""
    words = []
    for low, high in ranges:
        bits = math.log2(high - low + 1) if 0 < high - low < math.inf else math.nan
        words.append(f"{bits:g} bits {'signed' if low < 0 else 'unsigned'}")
    return " and ".join(words) or "no bits"
