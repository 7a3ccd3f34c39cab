"""What happens to a quantized network when its quantizers are not those that it was trained with.

The protocols of KURE's evaluation (Shkolnik et al., NeurIPS 2020): other step sizes, steps that are powers of two,
other bit-widths; and, ours, other rounding and other clipping. Nothing is trained again, and the model is the same
afterwards, bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, TypeAlias
from typing import Protocol as TypingProtocol

from torch import nn

from mixbit.cost import LayerBits, Pins
from mixbit.data import Batch, Split
from mixbit.errors import MixbitError
from mixbit.evaluation import Metrics, evaluate
from mixbit.policy import Policy, resolve_pins
from mixbit.ptq import PTQConfig, ptq
from mixbit.robustness._grids import Rounding
from mixbit.robustness._shift_results import Protocol, ShiftPoint, ShiftSummary, ShiftSweep, summarise
from mixbit.robustness._shifting import Sides, check_changeable, kept, left_alone, shifted, trained_bits
from mixbit.robustness._shifts import BitShift, Clipping, PowerOfTwoStep, RoundBy, ScaledStep, Shift, WeightBits
from mixbit.task import Loss, Objective, Task, cross_entropy

__all__ = [
    "BITS",
    "CLIPPINGS",
    "FACTORS",
    "PTQ_SETTINGS",
    "ROUNDINGS",
    "BitShift",
    "Cache",
    "Clipping",
    "Evaluate",
    "PowerOfTwoStep",
    "RoundBy",
    "Rounding",
    "ScaledStep",
    "Shift",
    "ShiftPoint",
    "ShiftSummary",
    "ShiftSweep",
    "Sides",
    "WeightBits",
    "bit_shift_sweep",
    "clipping_sweep",
    "evaluator",
    "left_alone",
    "power_of_two",
    "ptq_bit_sweep",
    "qat_bit_sweep",
    "rounding_sweep",
    "shifted",
    "step_sweep",
    "summarise",
]

FACTORS = (0.5, 0.65, 0.8, 0.9, 0.95, 0.98, 1.0, 1.02, 1.05, 1.1, 1.25, 1.5, 2.0)
"""Steps over trained steps: as many on each side of 1, nearly mirrored in the logarithm."""
BITS = (2, 3, 4, 5, 6, 8, None)
"""Weight bits; None is float."""
PTQ_SETTINGS = tuple(LayerBits(bits, None) for bits in (8, 6, 5, 4, 3, 2))
"""Settings of post-training quantization of weights alone."""
ROUNDINGS: tuple[Rounding, ...] = ("half-away", "floor", "truncate", "stochastic")
CLIPPINGS = ("minmax", "mse", "percentile 99.9", "sigma 2", "sigma 3", "sigma 4")

_PTQ = PTQConfig()

Evaluate: TypeAlias = Callable[[nn.Module], Metrics]
"""From a model to its accuracy; `evaluator` makes one of a split."""


class Cache(TypingProtocol):
    """Points that are known, by a key that tells protocol, settings and point apart; a dict is one.

    Each new point is put in as soon as it is known, so that a cache that writes to a file makes a sweep that can be
    interrupted. One cache is for one model and one set of images.
    """

    def __contains__(self, key: object, /) -> bool:
        """Whether the point is known."""

    def __getitem__(self, key: str, /) -> ShiftPoint:
        """The point that was kept under a key."""

    def __setitem__(self, key: str, point: ShiftPoint, /) -> None:
        """Keep a point under a key."""


# ------------------------------------------------------------------------------------------------ evaluation


@dataclass(frozen=True, slots=True)
class _Share:
    """The fixed part of a split that `fraction` leaves; only its batches are asked for."""

    split: Split
    fraction: float

    @property
    def num_classes(self) -> int | None:
        return self.split.num_classes

    def __len__(self) -> int:
        return len(self.split)

    def num_batches(self, batch_size: int, **settings: Any) -> int:
        return self.split.num_batches(batch_size, **{**settings, "fraction": self.fraction})

    def batches(self, batch_size: int, **settings: Any) -> Iterator[Batch]:
        return self.split.batches(batch_size, **{**settings, "fraction": self.fraction})


def evaluator(
    split: Split,
    *,
    batch_size: int = 256,
    images: int | None = None,
    loss: Loss | Objective = cross_entropy,
) -> Evaluate:
    """The task's metric on a split, or a fixed part of it (KURE's authors used a tenth of the images for step sizes).

    Args:
        split: the images; usually the test split.
        batch_size: of the evaluation.
        images: how many; the same ones every time, drawn at random. None for all.
        loss: on labels; or a task's `objective`, which brings its metric along.

    Raises:
        MixbitError: fewer than one image.
    """
    if images is not None and images < 1:
        raise MixbitError(f"images={images} is nothing to evaluate on. Legal: at least 1, or None for all.")
    whole = images is None or images >= len(split)
    part = split if whole else _Share(split, (images or 1) / len(split))
    return lambda model: evaluate(model, part, batch_size=batch_size, loss=loss)


def _as_evaluate(images: Evaluate | Split) -> Evaluate:
    return evaluator(images) if isinstance(images, Split) else images


# ------------------------------------------------------------------------------------------------ the protocols


def step_sweep(
    model: nn.Module,
    images: Evaluate | Split,
    factors: Sequence[float] = FACTORS,
    *,
    sides: Sides = "weights",
    pinned: Collection[str] = (),
    bias_correction: bool = False,
    cache: Cache | None = None,
) -> ShiftSweep:
    """The steps of all quantized weights at once times `x = step / trained step` (P1; with DoReFa weights P2).

    `x` above 1 is a coarser and wider grid, whatever the quantizer. (The published curves of DoReFa have `1 / x` on
    their axis.) With DoReFa nothing is clipped to the `2^M` levels, as published.

    Args:
        model: with quantizers on.
        images: what to evaluate on, e.g. `evaluator(task.test, images=1000)`, or a split for all of it.
        factors: the `x`; 1 is not evaluated twice.
        sides: "inputs" and "both" change the steps of activations too (ours).
        pinned: names of layers that keep their steps.
        bias_correction: see `shifted`.
        cache: see `Cache`.

    Raises:
        MixbitError: no quantized weight, a factor that is not positive, or an unknown pinned layer.
    """
    shifts = [ScaledStep(x) for x in factors]
    run = _Sweep("step-size", model, images, cache, sides, pinned, bias_correction)
    return run.over(shifts, value=1.0)


def power_of_two(
    model: nn.Module,
    images: Evaluate | Split,
    *,
    sides: Sides = "weights",
    pinned: Collection[str] = (),
    bias_correction: bool = False,
    cache: Cache | None = None,
) -> ShiftSweep:
    """All steps to the nearest power of two, by the distance of `log2` (P3): a sweep of one point.

    Args:
        model: with quantizers on.
        images: what to evaluate on.
        sides: "inputs" and "both" change the steps of activations too (ours).
        pinned: names of layers that keep their steps.
        bias_correction: see `shifted`.
        cache: see `Cache`.

    Raises:
        MixbitError: no quantized weight, or an unknown pinned layer.
    """
    run = _Sweep("power-of-two", model, images, cache, sides, pinned, bias_correction)
    return run.over([PowerOfTwoStep()])


def qat_bit_sweep(
    model: nn.Module,
    images: Evaluate | Split,
    bits: Sequence[int | None] = BITS,
    *,
    pinned: Collection[str] = (),
    bias_correction: bool = False,
    cache: Cache | None = None,
) -> ShiftSweep:
    """The weights at other bits than they were trained at (P5): the range stays, activations stay as trained.

    The latent weights are quantized anew by the same rule; see `WeightBits`. In a mixed-precision model all layers that
    are not pinned go to the same bits (our completion). In a bank the row in use is what is changed; other rows, with
    steps of their own, are what `mixbit.select` switches to.

    Args:
        model: with quantizers on.
        images: what to evaluate on.
        bits: of the weights; None for float.
        pinned: names of layers that keep their bits, e.g. `resolve_pins(task.network)`.
        bias_correction: see `shifted`; the reference is the weight at its trained bits.
        cache: see `Cache`.

    Raises:
        MixbitError: no quantized weight, illegal bits, or an unknown pinned layer.
    """
    shifts = [WeightBits(b) for b in bits]
    run = _Sweep("qat-bits", model, images, cache, "weights", pinned, bias_correction)
    return run.over(shifts, value=trained_bits(model, pinned))


def bit_shift_sweep(
    model: nn.Module,
    images: Evaluate | Split,
    more: Sequence[int] = (-2, -1, 0, 1, 2),
    *,
    pinned: Collection[str] = (),
    bias_correction: bool = False,
    cache: Cache | None = None,
) -> ShiftSweep:
    """Each layer's weights at so many bits more or fewer than trained (ours), which keeps a policy's shape.

    Args:
        model: with quantizers on.
        images: what to evaluate on.
        more: bits to add to each layer's, as far as 2 to 8 allow.
        pinned: names of layers that keep their bits.
        bias_correction: see `shifted`.
        cache: see `Cache`.

    Raises:
        MixbitError: no quantized weight, an illegal shift, or an unknown pinned layer.
    """
    shifts = [BitShift(m) for m in more]
    run = _Sweep("bit-shift", model, images, cache, "weights", pinned, bias_correction)
    return run.over(shifts, value=0.0)


def rounding_sweep(
    model: nn.Module,
    images: Evaluate | Split,
    roundings: Sequence[Rounding] = ROUNDINGS,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    sides: Sides = "weights",
    pinned: Collection[str] = (),
    bias_correction: bool = False,
    cache: Cache | None = None,
) -> ShiftSweep:
    """Accuracy on the same grids, rounded to in other ways (ours).

    Args:
        model: with quantizers on.
        images: what to evaluate on.
        roundings: see `Rounding`.
        seeds: stochastic rounding is evaluated once with each; every tensor has draws of its own.
        sides: "inputs" and "both" round activations that way too.
        pinned: names of layers that keep their rounding.
        bias_correction: see `shifted`.
        cache: see `Cache`.

    Raises:
        MixbitError: no quantized weight, an unknown rounding, or an unknown pinned layer.
    """
    shifts = [RoundBy(r, seed) for r in roundings for seed in (seeds if r == "stochastic" else (0,))]
    run = _Sweep("rounding", model, images, cache, sides, pinned, bias_correction)
    return run.over(shifts)


def clipping_sweep(
    model: nn.Module,
    images: Evaluate | Split,
    rules: Sequence[str] = CLIPPINGS,
    *,
    pinned: Collection[str] = (),
    bias_correction: bool = False,
    cache: Cache | None = None,
) -> ShiftSweep:
    """Steps made from the weights by a rule, in the place of the trained ones, at the same bits (ours).

    Args:
        model: with quantizers on.
        images: what to evaluate on.
        rules: see `Clipping`.
        pinned: names of layers that keep their steps.
        bias_correction: see `shifted`.
        cache: see `Cache`.

    Raises:
        MixbitError: no quantized weight, an unknown rule, or an unknown pinned layer.
    """
    shifts = [Clipping(rule) for rule in rules]
    run = _Sweep("clipping", model, images, cache, "weights", pinned, bias_correction)
    return run.over(shifts)


def ptq_bit_sweep(
    task: Task,
    settings: Sequence[LayerBits] = PTQ_SETTINGS,
    images: Evaluate | Split | None = None,
    *,
    config: PTQConfig = _PTQ,
    pins: Pins | None = None,
    cache: Cache | None = None,
) -> ShiftSweep:
    """Accuracy of one float model after post-training quantization at each of several bits (P4).

    Args:
        task: with the float model, which stays as it is; quantization reads `task.train` alone.
        settings: bits of all layers but the pinned ones; both sides None for the float model.
        images: what to evaluate on; None for all of `task.test`.
        config: of the quantization at every setting.
        pins: layers whose bits are given at every setting. None: the first and the last have 8-bit weights, and 8-bit
            inputs where the setting quantizes inputs (our completion; the authors left both in float).
        cache: see `Cache`.

    Raises:
        MixbitError: what `mixbit.ptq.ptq` raises.
    """
    measure = _as_evaluate(evaluator(task.test, loss=task.objective) if images is None else images)
    known: Cache = {} if cache is None else cache
    given = None if pins is None else {name: str(bits) for name, bits in pins.items()}
    described = {"pins": given, "ptq": json.loads(json.dumps(asdict(config)))}
    reference = _point(known, "float", lambda: ShiftPoint.of("float", None, measure(task.model)))

    def after(setting: LayerBits) -> ShiftPoint:
        if setting == LayerBits(None, None):
            return reference
        fixed = _pins(task, setting) if pins is None else pins
        policy = Policy.uniform(task.network, setting.weight_bits, setting.activation_bits, fixed)
        place = None if setting.weight_bits is None else float(setting.weight_bits)
        return ShiftPoint.of(str(setting), place, measure(ptq(task, policy, config, quiet=True).model))

    points = [_point(known, _key("ptq-bits", described, str(one)), partial(after, one)) for one in settings]
    return ShiftSweep(
        protocol="ptq-bits",
        reference=reference,
        points=tuple(points),
        settings=described,
        left=tuple(task.network.skipped),
    )


def _pins(task: Task, setting: LayerBits) -> Pins:
    inputs = None if setting.activation_bits is None else 8
    return {name: LayerBits(8, inputs) for name in resolve_pins(task.network)}


# ------------------------------------------------------------------------------------------------ one sweep


@dataclass(frozen=True, slots=True)
class _Sweep:
    """What all sweeps over one model's quantizers share."""

    protocol: Protocol
    model: nn.Module
    images: Evaluate | Split
    cache: Cache | None
    sides: Sides
    pinned: Collection[str]
    bias_correction: bool

    def over(self, shifts: Sequence[Shift], value: float | None = None) -> ShiftSweep:
        """Evaluate the model as it is, whose place on the axis is `value`, then under each shift."""
        known: Cache = {} if self.cache is None else self.cache
        check_changeable(self.model, self.sides, self.pinned)
        left = left_alone(self.model, sides=self.sides, pinned=self.pinned, clipping=self.protocol == "clipping")
        reference = replace(_point(known, "as trained", self._as_it_is), value=value)
        points = [
            _point(known, _key(self.protocol, self.settings, shift.label), partial(self._under, shift, reference))
            for shift in shifts
        ]
        return ShiftSweep(
            protocol=self.protocol, reference=reference, points=tuple(points), settings=self.settings, left=left
        )

    @property
    def settings(self) -> dict[str, Any]:
        """What else was asked for, as JSON."""
        return {"sides": self.sides, "pinned": sorted(self.pinned), "bias_correction": self.bias_correction}

    def _as_it_is(self) -> ShiftPoint:
        with kept(self.model):
            return ShiftPoint.of("as trained", None, _as_evaluate(self.images)(self.model))

    def _under(self, shift: Shift, reference: ShiftPoint) -> ShiftPoint:
        with shifted(
            self.model, shift, sides=self.sides, pinned=self.pinned, bias_correction=self.bias_correction
        ) as different:
            if not different:
                return replace(reference, label=shift.label, value=shift.value)
            return ShiftPoint.of(shift.label, shift.value, _as_evaluate(self.images)(self.model))


def _key(protocol: Protocol, settings: dict[str, Any], label: str) -> str:
    return f"{protocol} {label} {json.dumps(settings, sort_keys=True)}"


def _point(known: Cache, key: str, make: Callable[[], ShiftPoint]) -> ShiftPoint:
    if key not in known:
        known[key] = make()
    return known[key]
