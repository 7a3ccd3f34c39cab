"""What a transfer found: accuracies of the two policies, and how far the two searches agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mixbit.report.table import Table
from mixbit.report.units import count, percent, size

if TYPE_CHECKING:
    from mixbit.policy import Side
    from mixbit.runs import Agreement, Transferred

__all__ = ["agreement_table", "transfer_notes", "transfer_table"]


def transfer_table(done: Transferred) -> Table:
    """The task's metric on the target of float32 and of each policy, before and after fine-tuning, with its costs."""
    first, show = done.float32, done.float32.metric.text
    rows = [("float32", show(first.accuracy), "", count(first.costs.bitops), size(first.costs.weight_bytes))]
    for one in done.reached:
        tuned = "" if one.trained is None else show(one.trained)
        used = (count(one.costs.bitops), size(one.costs.weight_bytes))
        rows.append((one.name, show(one.calibrated), tuned, *used))
    columns = ("policy", f">{first.metric.name}, calibrated", ">fine-tuned", ">BitOps", ">weight bytes")
    return Table(
        title=f"Transfer of {done.method}", columns=columns, rows=tuple(rows), notes=tuple(transfer_notes(done))
    )


def transfer_notes(done: Transferred) -> list[str]:
    """What was left out, and how far the two policies are apart."""
    notes = [f"No scores transferred: {line}." for line in done.dropped]
    if done.agreement is None:
        return [*notes, "The target's own search was left out, so agreement is not known."]
    apart = done.agreement.distance
    return [
        *notes,
        f"Policies: {percent(apart.equal_share)} of {apart.layers} free layers have equal bits, "
        f"mean difference {apart.mean_bits:.2f} bits.",
        _regret_note(done.agreement),
    ]


def _regret_note(found: Agreement) -> str:
    if found.own_harm is None:
        return "The target's own search ends in no scores, so the harm of neither is known."
    if found.regret is None:
        return "The transferred policy has bits that the target's own scores do not have, so its harm is not known."
    share = f" ({percent(found.regret / abs(found.own_harm))} of it)" if found.own_harm else ""
    return (
        f"By the target's own scores the transferred policy does {found.harm:.4g} harm, the own one "
        f"{found.own_harm:.4g}: regret {found.regret:.3g}{share}."
    )


def agreement_table(found: Agreement) -> Table:
    """Spearman's rank correlation of the layers' harms, one row a bit-width; a dash where a table has no order."""
    sides: tuple[Side, ...] = ("weight", "activation")
    curves = [found.spearman.get(side, {}) for side in sides]
    bits = sorted({b for curve in curves for b in curve}, reverse=True)
    rows = tuple((str(b), *(_rho(curve.get(b)) for curve in curves)) for b in bits)
    return Table(
        title="Do the two searches put the layers in the same order?",
        columns=("bits", ">weights", ">activations"),
        rows=rows,
        notes=("Spearman's rank correlation of the layers' harms: 1 is the same order, 0 none in common.",),
    )


def _rho(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
