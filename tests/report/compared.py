"""A comparison made by hand: two budgets, a shared result, a policy from elsewhere, and one that failed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mixbit.cost import Costs
from mixbit.runs import Comparison, Effort, Judge, Judged, Outcome, Row


def costs(bitops: int, weight_bytes: int) -> Costs:
    return Costs(bitops=bitops, weight_bits=8 * weight_bytes, activation_bytes=64, peak_step="fc")


def comparison() -> Comparison:
    """`fit` and `sqnr` chose the same bits; `mct` is from elsewhere; `clado` failed at one budget."""
    low = Row(
        budget="bitops=3x3",
        name="fit",
        seed=0,
        bits={"fc": [3, 3]},
        costs=costs(3000, 300),
        slack={"bitops": 1500.0},
        calibrated=0.25,
        tuned=0.90,
    )
    high = replace(low, budget="bitops=6x6", bits={"fc": [6, 6]}, costs=costs(6000, 600), tuned=0.95)
    rows = (
        low,
        replace(low, seed=1, calibrated=0.35, tuned=0.92),
        replace(low, name="sqnr"),
        replace(low, name="mct", outside=True, bits={"fc": [2, 4]}, costs=costs(2000, 250), tuned=0.88),
        Row(budget="bitops=3x3", name="clado", seed=0, reason="ValueError: no such thing"),
        high,
    )
    return Comparison(
        float32=Outcome(name="float32", accuracy=0.97, costs=costs(1_024_000, 3200)),
        rows=rows,
        efforts={
            "fit": Effort(cpu_seconds=12.5, wall_seconds=20.0, images=64, forward_images=96.0, backward_images=32.4),
            "mct": Effort(cpu_seconds=90.0),
        },
        interrupted=("fit",),
        settings={"epochs": 1},
        folder=Path("runs/arena"),
        files={Path("compare.json"): "all rows"},
    )


def judged_comparison() -> Comparison:
    """The same where a supernet alone said what the policies are worth."""
    found = comparison()
    said = {"fit": Judged(loss=0.25, value=0.9375), "mct": Judged(loss=0.125, value=0.9)}
    said["sqnr"] = said["fit"]
    rows = [replace(row, calibrated=None, tuned=None, judged=said.get(row.name)) for row in found.rows if not row.seed]
    judge = Judge(weights="blake2b:00ff", on="180 training images", float32=Judged(loss=0.0625, value=0.97))
    return replace(found, rows=tuple(rows), settings=None, judge=judge)
