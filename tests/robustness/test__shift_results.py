"""Sweeps as data: the summary, and JSON in and out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mixbit.errors import MixbitError
from mixbit.metric import ACCURACY, mean_absolute_error
from mixbit.robustness.quantizer_shift import ShiftPoint, ShiftSummary, ShiftSweep, summarise


def sweep_of(protocol: Any, curve: dict[float, float], reference: float = 0.9) -> ShiftSweep:
    points = [ShiftPoint(label=f"{x:g}", value=x, accuracy=y, loss=None, samples=10) for x, y in curve.items()]
    at = ShiftPoint(label="as trained", accuracy=reference, loss=0.1, samples=10)
    return ShiftSweep(protocol=protocol, reference=at, points=tuple(points))


STEPS = {0.5: 0.2, 0.8: 0.6, 0.9: 0.8, 0.95: 0.7, 1.0: 0.9, 1.1: 0.85, 1.25: 0.8, 1.5: 0.5, 2.0: 0.1}


def test_summary_by_hand() -> None:
    bits = sweep_of("qat-bits", {2: 0.0, 3: 0.4, 4: 0.8, 5: 0.8, 6: 0.8, 8: 0.6})
    two = sweep_of("power-of-two", {7: 0.75})
    found = summarise(sweep_of("step-size", STEPS), power_of_two=two, bits=bits)
    assert found.step_mean == pytest.approx((0.6 + 0.8 + 0.9 + 0.85 + 0.8 + 0.5) / 6)
    assert found.step_worst == 0.7  # at 0.95, between the two ends
    assert found.smaller_steps == pytest.approx((0.2 + 0.6 + 0.8 + 0.7) / 4)
    assert found.larger_steps == pytest.approx((0.85 + 0.8 + 0.5 + 0.1) / 4)
    assert found.bits_area == pytest.approx((0.2 + 0.6 + 0.8 + 0.8 + 2 * 0.7) / 6)
    assert found.power_of_two == 0.75 and found.as_trained == 0.9 and found.factors == tuple(STEPS)
    assert ShiftSummary.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_a_constant_curve_has_its_height_everywhere() -> None:
    found = summarise(
        sweep_of("step-size", dict.fromkeys(STEPS, 0.5)),
        bits=sweep_of("ptq-bits", dict.fromkeys((2, 3, 4, 5, 6, 8), 0.5)),
    )
    assert (found.step_mean, found.step_worst, found.smaller_steps, found.larger_steps, found.bits_area) == (0.5,) * 5
    assert found.power_of_two is None


def test_summary_names_what_is_missing() -> None:
    without = {x: y for x, y in STEPS.items() if x != 1.25}
    with pytest.raises(MixbitError, match=r"no point at 1\.25"):
        summarise(sweep_of("step-size", without))
    with pytest.raises(MixbitError, match="no point at 6"):
        summarise(sweep_of("step-size", STEPS), bits=sweep_of("qat-bits", {2: 0.1, 3: 0.2, 4: 0.3, 5: 0.4, 8: 0.5}))
    with pytest.raises(MixbitError, match="steps is a sweep of kind 'rounding'"):
        summarise(sweep_of("rounding", STEPS))


@pytest.mark.parametrize(
    "values",
    [
        None,
        {},
        {"protocol": "step-size", "reference": {"label": "x", "accuracy": "high"}, "points": []},
        {**sweep_of("step-size", STEPS).to_json(), "more": 1},
        {**sweep_of("step-size", STEPS).to_json(), "protocol": "steps"},
    ],
)
def test_json_that_is_no_sweep(values: object) -> None:
    with pytest.raises(MixbitError, match="This ShiftSweep is not what mixbit wrote: "):
        ShiftSweep.from_json(values)


def test_the_worst_step_is_the_largest_error_where_less_is_better() -> None:
    info = mean_absolute_error(unit="mm").info
    curve = {0.8: 3.0, 0.9: 2.0, 1.0: 1.0, 1.1: 1.5, 1.25: 4.0, 1.5: 5.0}
    points = [
        ShiftPoint(label=f"{x:g}", value=x, accuracy=y, loss=None, samples=9, metric=info) for x, y in curve.items()
    ]
    sweep = ShiftSweep(protocol="step-size", reference=points[2], points=tuple(points))
    found = summarise(sweep)
    assert found.step_worst == 2.0 and found.metric == info
    assert ShiftSweep.from_json(sweep.to_json()) == sweep and ShiftSummary.from_json(found.to_json()) == found
    old = {key: value for key, value in points[0].to_json().items() if key != "metric"}
    assert ShiftPoint.from_json(old).metric == ACCURACY.info  # written when there was accuracy alone
