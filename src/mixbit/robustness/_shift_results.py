"""What a sweep over shifted quantizers found, and what one number a question makes of it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar

from mixbit._io import as_record
from mixbit.errors import MixbitError, did_you_mean
from mixbit.evaluation import Metrics
from mixbit.metric import ACCURACY, MetricInfo
from mixbit.network import Skipped

__all__ = ["Protocol", "ShiftPoint", "ShiftSummary", "ShiftSweep", "summarise"]

Protocol: TypeAlias = Literal["step-size", "power-of-two", "ptq-bits", "qat-bits", "bit-shift", "rounding", "clipping"]
"""Which study a sweep is."""

MEAN_FACTORS = (0.8, 0.9, 1.0, 1.1, 1.25, 1.5)
WORST_RANGE = (0.9, 1.1)
AREA_BITS = (2, 3, 4, 5, 6, 8)

_STRICT: dict[str, Any] = {"extra": "forbid"}
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShiftPoint:
    """One evaluation under one shift."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    label: str
    value: float | None = None
    """Its place on the axis (step over trained step, bits, bits more); None where there is none, as for float."""
    accuracy: float
    """Value of the task's metric, by default top-1 accuracy, 0 to 1."""
    loss: float | None
    """Mean loss; None where it was not finite."""
    samples: int
    metric: MetricInfo = ACCURACY.info

    @classmethod
    def of(cls, label: str, value: float | None, found: Metrics) -> ShiftPoint:
        """The point of an evaluation."""
        loss = found.loss if math.isfinite(found.loss) else None
        return cls(label=label, value=value, accuracy=found.value, loss=loss, samples=found.samples, metric=found.info)

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file; `from_json` reads them back to an equal object."""
        return _plain(self)

    @classmethod
    def from_json(cls, values: object) -> ShiftPoint:
        """Read what `to_json` gave.

        Raises:
            MixbitError: a key is missing or unknown, or a value is of another type.
        """
        return _read(cls, values)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShiftSweep:
    """A study of one kind of shift on one model.

    >>> reference = ShiftPoint(label="as trained", value=1.0, accuracy=0.9, loss=0.3, samples=100)
    >>> other = ShiftPoint(label="1.1", value=1.1, accuracy=0.8, loss=0.5, samples=100)
    >>> sweep = ShiftSweep(protocol="step-size", reference=reference, points=(other,))
    >>> sweep.at(1.1).accuracy, ShiftSweep.from_json(sweep.to_json()) == sweep
    (0.8, True)
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    protocol: Protocol
    reference: ShiftPoint
    """The model as it is: as trained, or for `ptq-bits` in float. Its value is 1 among steps, and the mean weight bits
    of the changed layers among bits."""
    points: tuple[ShiftPoint, ...]
    """In the order of the axis that was asked for."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What else was asked for."""
    left: tuple[Skipped, ...] = ()
    """Layers whose quantizers stayed as they were, with the reason."""

    @property
    def metric(self) -> MetricInfo:
        """What all points are values of."""
        return self.reference.metric

    def at(self, value: float) -> ShiftPoint:
        """The point at this place of the axis.

        Raises:
            MixbitError: there is none.
        """
        for point in self.points:
            if point.value is not None and math.isclose(point.value, value, rel_tol=1e-9, abs_tol=1e-12):
                return point
        legal = ", ".join(point.label for point in self.points if point.value is not None)
        raise MixbitError(
            f"the {self.protocol} sweep has no point at {value:g}. It has: {legal or 'none with a place'}."
        )

    def named(self, label: str) -> ShiftPoint:
        """The point of this label.

        Raises:
            MixbitError: there is none.
        """
        labels = [point.label for point in self.points]
        if label not in labels:
            raise MixbitError(
                f"the {self.protocol} sweep has no point {label!r}.{did_you_mean(label, labels)} "
                f"It has: {', '.join(labels)}."
            )
        return self.points[labels.index(label)]

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file; `from_json` reads them back to an equal object."""
        return _plain(self)

    @classmethod
    def from_json(cls, values: object) -> ShiftSweep:
        """Read what `to_json` gave.

        Raises:
            MixbitError: a key is missing or unknown, or a value is of another type.
        """
        return _read(cls, values)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShiftSummary:
    """One number for each question of robustness; all are values of one metric. Made by `summarise`."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    as_trained: float
    """The point at which nothing is shifted."""
    step_mean: float
    """Mean over steps times 0.8, 0.9, 1, 1.1, 1.25 and 1.5."""
    step_worst: float
    """The worst of all points with steps times 0.9 to 1.1."""
    smaller_steps: float | None
    """Mean over all points with a factor below 1; None where there is none."""
    larger_steps: float | None
    """Mean over all points with a factor above 1; None where there is none."""
    factors: tuple[float, ...]
    """All factors behind the two means: only sweeps over equal ones compare."""
    power_of_two: float | None = None
    """All steps to the nearest power of two."""
    bits_area: float | None = None
    """Area under the accuracy over weight bits 2, 3, 4, 5, 6 and 8, by trapezoids, divided by the width of 6 bits."""
    metric: MetricInfo = ACCURACY.info
    """By default top-1 accuracy, 0 to 1."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file; `from_json` reads them back to an equal object."""
        return _plain(self)

    @classmethod
    def from_json(cls, values: object) -> ShiftSummary:
        """Read what `to_json` gave.

        Raises:
            MixbitError: a key is missing or unknown, or a value is of another type.
        """
        return _read(cls, values)


def summarise(
    steps: ShiftSweep, *, power_of_two: ShiftSweep | None = None, bits: ShiftSweep | None = None
) -> ShiftSummary:
    """One model's robustness to its quantizer, in a few numbers (our completion: the paper gives curves).

    KURE gains on one side of the trained step and loses on the other, so both sides are given beside their mean.

    Args:
        steps: of `step_sweep`, with all the factors that `ShiftSummary.step_mean` names.
        power_of_two: of `power_of_two`.
        bits: of `ptq_bit_sweep` or `qat_bit_sweep`, with all the bits that `ShiftSummary.bits_area` names.

    Raises:
        MixbitError: a sweep of another kind, or a point that is missing.

    >>> curve = {0.5: 0.1, 0.8: 0.7, 0.9: 0.8, 1.0: 0.9, 1.1: 0.85, 1.25: 0.8, 1.5: 0.75}
    >>> points = [ShiftPoint(label=f"{x:g}", value=x, accuracy=y, loss=None, samples=9) for x, y in curve.items()]
    >>> found = summarise(ShiftSweep(protocol="step-size", reference=points[3], points=tuple(points)))
    >>> [round(value, 3) for value in (found.step_mean, found.step_worst, found.smaller_steps, found.larger_steps)]
    [0.8, 0.8, 0.533, 0.8]
    """
    _check_kind(steps, "steps", ("step-size",))
    near = [point.accuracy for point in steps.points if point.value and WORST_RANGE[0] <= point.value <= WORST_RANGE[1]]
    factors = tuple(sorted(point.value for point in steps.points if point.value is not None))
    return ShiftSummary(
        as_trained=steps.reference.accuracy,
        step_mean=_mean([steps.at(x).accuracy for x in MEAN_FACTORS]) or 0.0,
        step_worst=min(near, key=lambda one: steps.metric.gain(one, 0.0)),
        smaller_steps=_mean([p.accuracy for p in steps.points if p.value is not None and p.value < 1]),
        larger_steps=_mean([p.accuracy for p in steps.points if p.value is not None and p.value > 1]),
        factors=factors,
        power_of_two=None if power_of_two is None else _power_of_two(power_of_two),
        bits_area=None if bits is None else _area(bits),
        metric=steps.metric,
    )


def _power_of_two(sweep: ShiftSweep) -> float:
    _check_kind(sweep, "power_of_two", ("power-of-two",))
    return sweep.points[0].accuracy


def _area(sweep: ShiftSweep) -> float:
    _check_kind(sweep, "bits", ("ptq-bits", "qat-bits"))
    values = [point.value for point in sweep.points if point.value is not None]
    if len(set(values)) < len(values):
        raise MixbitError("the bit sweep has several points at the same weight bits. Give one for each to summarise.")
    heights = [sweep.at(bits).accuracy for bits in AREA_BITS]
    under = [(b - a) * (x + y) / 2 for (a, b), (x, y) in zip(pairwise(AREA_BITS), pairwise(heights), strict=True)]
    return sum(under) / (AREA_BITS[-1] - AREA_BITS[0])


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _check_kind(sweep: ShiftSweep, argument: str, legal: Sequence[Protocol]) -> None:
    if sweep.protocol not in legal:
        raise MixbitError(f"{argument} is a sweep of kind {sweep.protocol!r}. Legal: {', '.join(legal)}.")


def _plain(found: ShiftPoint | ShiftSweep | ShiftSummary) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(json.dumps(asdict(found), allow_nan=False))
    return content


def _read(kind: type[Found], values: object) -> Found:
    return as_record(values, kind, where=f"This {kind.__name__}", remedy="Give what its to_json() gave.")
