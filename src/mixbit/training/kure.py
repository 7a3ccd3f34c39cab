"""KURE: train weights towards the kurtosis of a uniform distribution (Shkolnik et al., NeurIPS 2020).

A tensor that is spread evenly loses least when it is rounded, at any bit-width and with any reasonable step size. So
one extra term of the loss pulls the kurtosis of every convolution's weight to 1.8:

    Kurt(W) = mean(((w - mu) / s)^4)        L = L_task + lambda * mean_i (Kurt(W_i) - 1.8)^2

The gradient is written in closed form and added after the backward pass of whatever trains the weights: plain float
training, QAT with any quantizer, or the joint training of a search method.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mixbit._settings import Epochs, NotNegative, Positive, Range, Share, check, read
from mixbit.errors import MixbitError, TrainingDiverged, did_you_mean, shown
from mixbit.network import Layer, Skipped
from mixbit.policy import Policy
from mixbit.quantization import norms_fed_by_layers
from mixbit.task import Task
from mixbit.training.kurtosis import Combine, combined, kurtosis_gradient

__all__ = ["KurtosisConfig", "KurtosisPenalty"]

SMALLEST = 8  # elements; our completion
SMALLEST_CHANNEL = 64  # the kurtosis of nine values says nothing (docs/kure.md)
_DIVERGED = 100.0  # growth of a weight's standard deviation since the start


@dataclass(frozen=True, slots=True, kw_only=True)
class KurtosisConfig:
    """How weights are regularised. The defaults are the paper's; what is marked as ours is off by default.

    Attributes:
        weight: lambda, the weight of the term in the loss.
        target: the kurtosis aimed at; 1.8 is that of a uniform distribution.
        combine: how the layers' terms become one: "avg" (everywhere in the paper), "sum" or "max".
        linear: linear layers as well: "none" (the paper), "hidden" (all but the last layer) or "all". Ours.
        skip: names of layers left out, beside the first one.
        granularity: "tensor" (the paper), or "channel": the statistic of every output channel, for quantizers with one
            step a channel; layers with fewer than 64 weights a channel stay "tensor". Ours.
        folded: the statistic of the weight with its batch norm folded in, for backends that fold and have one step a
            tensor. Ours.
        unbiased: divide by N - 1 in the standard deviation, as the authors' code does.
        by_bits: weigh each layer's term by `(8 - bits) / 6`; needs a policy. Ours.
        warmup_epochs: lambda grows from 0 over so many epochs. Ours.
        clip: never let the term's gradient be longer than the task's, layer by layer. Ours.
        stop: end the training by the rule below, judged on training images that are held out. Ours.
        gap: of the stopping rule: mean of |Kurt - target| over layers that counts as reached.
        gap_epochs: so many epochs in a row.
        patience: epochs without a lower loss on the held-out images.
        max_drop: accuracy (0 to 1) that the kept weights may lie below the start, on the held-out images.
        held_out: share of the training images that the stopping rule holds out.
    """

    weight: NotNegative = 1.0
    target: Annotated[float, Range(least=1)] = 1.8
    combine: Combine = "avg"
    linear: Literal["none", "hidden", "all"] = "none"
    skip: tuple[str, ...] = ()
    granularity: Literal["tensor", "channel"] = "tensor"
    folded: bool = False
    unbiased: bool = True
    by_bits: bool = False
    warmup_epochs: NotNegative = 0.0
    clip: bool = False
    stop: bool = False
    gap: Positive = 0.05
    gap_epochs: Epochs = 2
    patience: Epochs = 3
    max_drop: Share = 0.005
    held_out: Annotated[float, Range(above=0, below=1)] = 0.05

    def __post_init__(self) -> None:
        check(self, room="kurtosis")

    @classmethod
    def from_setting(cls, value: Any) -> KurtosisConfig | None:
        """From a training's `kurtosis` setting: a weight, or an object with the names above; false is none.

        >>> KurtosisConfig.from_setting(1).target, KurtosisConfig.from_setting({"weight": 0.5}).weight
        (1.8, 0.5)
        """
        if value is None or value is False:
            return None
        if value is True or isinstance(value, int | float):
            return cls(weight=1.0 if value is True else value)
        if not isinstance(value, Mapping):
            raise MixbitError(
                f"kurtosis={shown(value)} is no setting. Legal: the weight of the term, e.g. 1, or an object, e.g. "
                '{"weight": 1, "granularity": "channel"}.'
            )
        return read(cls, value, room="kurtosis")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """A weight that is regularised."""

    layer: str
    parameter: str
    share: float
    """Of the layer's term: 1, or by its bits."""
    channels: bool
    norm: str | None
    """The batch norm that is folded into it."""


class KurtosisPenalty:
    """The term of the loss, as a `mixbit.task.Penalty`: call it after the backward pass.

    Attributes:
        layers: names of the regularised layers, in execution order.
        skipped: layers with weights that are not regularised, with the reason.

    Args:
        task: names the layers and which of them is the first.
        config: settings.
        policy: for `by_bits`.

    Raises:
        MixbitError: no layer is left, an unknown layer in `skip`, or `by_bits` without a policy.
    """

    def __init__(self, task: Task, config: KurtosisConfig = KurtosisConfig(), policy: Policy | None = None) -> None:
        self.config = config
        layers = task.network.layers
        unknown = sorted(set(config.skip) - {layer.name for layer in layers})
        if unknown:
            hint = did_you_mean(unknown[0], [layer.name for layer in layers])
            raise MixbitError(f"kurtosis: skip={unknown} names no layer.{hint} See mixbit inspect for their names.")
        if config.by_bits and policy is None:
            raise MixbitError(
                "kurtosis: by_bits=True needs a policy. Train under one (--policy), or set by_bits=False."
            )
        reasons = {layer.name: self._why_not(task, layer) for layer in layers}
        self.skipped = tuple(Skipped(name=name, reason=reason) for name, reason in reasons.items() if reason)
        chosen = [layer for layer in layers if reasons[layer.name] is None]
        if not chosen:
            raise MixbitError(
                "kurtosis: no layer is left to regularise: "
                + "; ".join(f"{one.name}: {one.reason}" for one in self.skipped)
                + ". Set linear='all', or train without it."
            )
        norms = norms_fed_by_layers(task.model, task.example()) if config.folded else {}
        self._targets = tuple(self._target(task.model, layer, policy, norms) for layer in chosen)
        self.layers = tuple(target.layer for target in self._targets)
        self._start = {t.layer: float(task.model.get_parameter(t.parameter).detach().std()) for t in self._targets}

    def _why_not(self, task: Task, layer: Layer) -> str | None:
        """The reason why a layer is left out, or None."""
        first, last = layer is task.network.layers[0], layer is task.network.layers[-1]
        weight = task.model.get_parameter(layer.parameter).detach()
        if first:
            return "the first layer"
        if layer.name in self.config.skip:
            return "left out by skip"
        if not layer.kind.startswith("conv") and (
            self.config.linear == "none" or (self.config.linear == "hidden" and last)
        ):
            return f"{layer.kind}, and linear={self.config.linear!r}"
        if weight.numel() < SMALLEST:
            return f"{weight.numel()} weights, fewer than {SMALLEST}, have no kurtosis worth the name"
        return "all its weights are equal" if float(weight.max()) == float(weight.min()) else None

    def _target(self, model: nn.Module, layer: Layer, policy: Policy | None, norms: Mapping[str, str]) -> _Target:
        bits = policy.layers[layer.name].weight_bits if self.config.by_bits and policy is not None else 2
        weight = model.get_parameter(layer.parameter)
        return _Target(
            layer=layer.name,
            parameter=layer.parameter,
            share=max(0.0, (8 - (bits or 8)) / 6),
            channels=self.config.granularity == "channel" and weight[0].numel() >= SMALLEST_CHANNEL,
            norm=norms.get(layer.name),
        )

    # -- the term ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def __call__(self, model: nn.Module, epoch: float) -> Tensor:
        """Add the term's gradient to the weights' `.grad`, and return its value.

        Args:
            model: holds the parameters, quantized or not (the latent float weights are regularised).
            epoch: epochs trained so far, with their fraction; for the warm-up.

        Raises:
            TrainingDiverged: a kurtosis is not finite, or weights have grown out of all proportion.
        """
        strength = self.config.weight * self._warmup(epoch)
        measured = [self._measure(model, target) for target in self._targets]
        terms = torch.stack([target.share * term for target, (term, _) in zip(self._targets, measured, strict=True)])
        self._check(model, terms)
        shares = self._shares(terms)
        for target, (_, slope), share in zip(self._targets, measured, shares, strict=True):
            self._add(model.get_parameter(target.parameter), slope, strength * share * target.share)
        return strength * combined(terms, self.config.combine)

    def _warmup(self, epoch: float) -> float:
        return min(1.0, epoch / self.config.warmup_epochs) if self.config.warmup_epochs else 1.0

    def _shares(self, terms: Tensor) -> list[float]:
        """The derivative of the combined term by each layer's."""
        if self.config.combine == "max":
            largest = int(terms.argmax())
            return [float(number == largest) for number in range(len(terms))]
        return [1 / len(terms) if self.config.combine == "avg" else 1.0] * len(terms)

    def _measure(self, model: nn.Module, target: _Target) -> tuple[Tensor, Tensor]:
        """`(Kurt - target)^2` of a layer (the mean over channels), and its gradient in the weight's shape."""
        weight, folding, rows = _seen(model, target)
        value, slope = kurtosis_gradient(rows, unbiased=self.config.unbiased)
        distance = value - self.config.target
        slope *= (2 / len(rows) * distance).unsqueeze(1)
        shaped = _like(slope, weight)
        return distance.square().mean(), shaped if folding is None else shaped * folding

    def _add(self, parameter: nn.Parameter, slope: Tensor, factor: float) -> None:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        if self.config.clip:
            limit, length = parameter.grad.norm(), slope.norm() * abs(factor)
            factor *= float(limit / length) if length > limit else 1.0
        parameter.grad.add_(slope.to(parameter.grad.dtype), alpha=factor)

    def _check(self, model: nn.Module, terms: Tensor) -> None:
        """Large is no error: a tensor of N weights with one outlier has a kurtosis near N."""
        for target, term in zip(self._targets, terms.tolist(), strict=True):
            if not math.isfinite(term):
                raise self._diverged(model, target.layer, f"its term is {term}")

    def _diverged(self, model: nn.Module, layer: str, what: str) -> TrainingDiverged:
        return TrainingDiverged(
            f"kurtosis of layer {layer!r} diverged: {what}. Lower lr, set the kurtosis settings clip=true and "
            "warmup_epochs=1, or leave the layer out by skip."
        )

    # -- what it reached -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def values(self, model: nn.Module) -> dict[str, float]:
        """Layer name -> kurtosis of its weight now, as the term sees it (the mean over channels)."""
        found = {}
        for target in self._targets:
            _, _, rows = _seen(model, target)
            found[target.layer] = float(kurtosis_gradient(rows, unbiased=self.config.unbiased)[0].mean())
        return found

    def record(self, model: nn.Module) -> dict[str, float]:
        """What a line of metrics says: mean kurtosis, mean distance from the target, mean of max|w| / std.

        Kurtosis is a proxy: tensors that are not uniform can reach 1.8 too. The last figure tells them apart; it is
        1.73 for a uniform distribution.
        """
        values = list(self.values(model).values())
        gap = sum(abs(value - self.config.target) for value in values) / len(values)
        peaks = [_peak(model.get_parameter(target.parameter).detach()) for target in self._targets]
        return {"mean": sum(values) / len(values), "gap": gap, "peak": sum(peaks) / len(peaks)}

    def check_growth(self, model: nn.Module) -> None:
        """Raise `TrainingDiverged` if a weight's spread has grown a hundredfold since the start."""
        for target in self._targets:
            now, before = float(model.get_parameter(target.parameter).detach().std()), self._start[target.layer]
            if not now < _DIVERGED * before:
                raise self._diverged(model, target.layer, f"its standard deviation went from {before:.3g} to {now:.3g}")


def _seen(model: nn.Module, target: _Target) -> tuple[Tensor, Tensor | None, Tensor]:
    """The weight, the factor that its batch norm folds into it, and the rows whose kurtosis counts."""
    weight = model.get_parameter(target.parameter).detach()
    folding = None if target.norm is None else _folding(model, target.norm, weight)
    return weight, folding, _rows(weight if folding is None else weight * folding, target.channels)


def _peak(weight: Tensor) -> float:
    return float(weight.abs().max() / weight.std().clamp_min(1e-12))


def _rows(weight: Tensor, channels: bool) -> Tensor:
    """`(C, N)` or `(1, C N)`; elements in the order of storage, so that channels-last tensors need no copy."""
    if weight.dim() == 4 and not weight.is_contiguous() and weight.is_contiguous(memory_format=torch.channels_last):
        weight = weight.permute(0, 2, 3, 1)
    return weight.reshape(weight.shape[0] if channels else 1, -1)


def _like(rows: Tensor, weight: Tensor) -> Tensor:
    """The inverse of `_rows`."""
    if weight.dim() == 4 and not weight.is_contiguous() and weight.is_contiguous(memory_format=torch.channels_last):
        out, inner, height, width = weight.shape
        return rows.view(out, height, width, inner).permute(0, 3, 1, 2)
    return rows.view(weight.shape)


def _folding(model: nn.Module, norm: str, weight: Tensor) -> Tensor:
    """`gamma / sqrt(var + eps)`, one factor an output channel; a constant for the gradient."""
    found = model.get_submodule(norm)
    if not isinstance(found, _BatchNorm) or found.running_var is None:
        raise MixbitError(
            f"kurtosis: folded=True, but {norm!r} is a {type(found).__name__} and holds no running statistics to fold. "
            "Set folded=False."
        )
    gamma = torch.ones_like(found.running_var) if found.weight is None else found.weight.detach()
    factor = gamma / (found.running_var + found.eps).sqrt()
    return factor.view(-1, *[1] * (weight.dim() - 1))
