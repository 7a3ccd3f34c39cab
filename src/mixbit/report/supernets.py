"""Sub-networks of a supernet as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mixbit.report.table import Table
from mixbit.report.units import count, size

if TYPE_CHECKING:
    from mixbit.evaluation import Metrics
    from mixbit.runs import Subnet

__all__ = ["subnets_table"]


def subnets_table(subnets: Sequence[Subnet]) -> Table:
    """Costs of each, and every metric and the loss on the held-out samples, and on the test split where it is there."""
    first = subnets[0]
    sides = ["held out"] + ([] if first.test is None else ["test"])
    names = [*first.held_out.values, "loss"]
    columns = (
        "sub-network", ">BitOps", ">weight bytes", ">peak activation bytes",
        *(f">{name}, {side}" for side in sides for name in dict.fromkeys(names)),
    )  # fmt: skip
    rows = tuple(
        (
            one.name, count(one.costs.bitops), size(one.costs.weight_bytes), size(one.costs.activation_bytes),
            *(_text(found, name) for found in (one.held_out, one.test) if found for name in dict.fromkeys(names)),
        )
        for one in subnets
    )  # fmt: skip
    notes = [f"Held out: {first.held_out.samples} training samples that trained nothing; choose by these."]
    if first.test is not None:
        notes.append(f"Test: {first.test.samples} samples, to report and not to choose by.")
    return Table(title="Sub-networks", columns=columns, rows=rows, notes=tuple(notes))


def _text(metrics: Metrics, name: str) -> str:
    """The first metric with its unit; others, and the loss, as numbers."""
    values = {**metrics.values, "loss": metrics.loss}
    return metrics.info.text(values[name]) if name == metrics.info.name else f"{values[name]:.4f}"
