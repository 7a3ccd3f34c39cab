"""Sweeps by hand, for tests of tables and plots."""

from __future__ import annotations

from collections.abc import Mapping

from mixbit.network import Skipped
from mixbit.robustness.quantizer_shift import ShiftPoint, ShiftSweep


def step_sweep(curve: Mapping[float, float], trained: float = 0.9) -> ShiftSweep:
    """Accuracy by factor."""
    points = tuple(ShiftPoint(label=f"{x:g}", value=x, accuracy=y, loss=0.5, samples=100) for x, y in curve.items())
    reference = ShiftPoint(label="as trained", value=1.0, accuracy=trained, loss=0.3, samples=100)
    return ShiftSweep(
        protocol="step-size",
        reference=reference,
        points=points,
        settings={"sides": "weights", "pinned": [], "bias_correction": True},
        left=(Skipped(name="fc", reason="in float"),),
    )


def bit_sweep(curve: Mapping[int | None, float], trained_bits: float | None = 4.0) -> ShiftSweep:
    """Accuracy by weight bits; None is float."""
    points = tuple(
        ShiftPoint(
            label="float" if bits is None else str(bits),
            value=None if bits is None else float(bits),
            accuracy=accuracy,
            loss=None,
            samples=100,
        )
        for bits, accuracy in curve.items()
    )
    reference = ShiftPoint(label="as trained", value=trained_bits, accuracy=0.9, loss=0.3, samples=100)
    return ShiftSweep(protocol="qat-bits", reference=reference, points=points)
