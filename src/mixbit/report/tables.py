"""Which facts of a network, its costs, a policy or an experiment go into which table."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from mixbit.report.table import Table
from mixbit.report.units import count, duration, percent, seconds, size

if TYPE_CHECKING:
    from mixbit.allocation import Allocation
    from mixbit.cost import Budget, Costs, LayerBits
    from mixbit.network import FloatParameter, Layer, Network
    from mixbit.runs import Outcome

__all__ = [
    "allocation_summary",
    "bits_table",
    "budget_table",
    "costs_table",
    "floats_table",
    "joins_table",
    "layers_table",
    "outcome_table",
    "skipped_table",
]


def layers_table(network: Network) -> Table:
    """All layers in execution order: shape of the weights, MACs of one sample, sign of the input, shared inputs.

    Layers with the same number under `tie` read one tensor, and share its activation bits unless ties are switched off.
    """
    ties = _tie_numbers(network)
    rows = tuple(_layer_row(layer, ties.get(layer.name, "")) for layer in network.layers)
    weights = sum(layer.weights for layer in network.layers)
    notes = (
        f"{len(network.layers)} layers, {count(weights)} weights ({size(4 * weights)} in float32), "
        f"{count(network.macs)} MACs a sample"
        + (f", of which {count(network.other_macs)} not in these layers" if network.other_macs else ""),
    )
    columns = ("layer", "kind", ">weight shape", ">groups", ">weights", ">MACs", "input", ">tie")
    return Table(title="Layers", columns=columns, rows=rows, notes=notes)


def _layer_row(layer: Layer, tie: str) -> tuple[str, ...]:
    shape = "x".join(map(str, layer.weight_shape))
    groups = "" if layer.groups == 1 else str(layer.groups)
    sign = "signed" if layer.input_signed else "unsigned"
    return layer.name, layer.kind, shape, groups, count(layer.weights), count(layer.macs), sign, tie


def _tie_numbers(network: Network) -> dict[str, str]:
    """Layer name -> number of its tie group; layers that share their input with no other are left out."""
    shared = [group for group in network.ties() if len(group) > 1]
    return {name: str(number) for number, group in enumerate(shared, start=1) for name in group}


def skipped_table(network: Network) -> Table:
    """What will not be quantized, and why; its MACs stay in float."""
    rows = tuple((one.name, one.reason, count(one.macs) if one.macs else "") for one in network.skipped)
    return Table(title="Left in float32", columns=("module or call", "reason", ">MACs"), rows=rows)


def floats_table(network: Network) -> Table:
    """Parameters that no choice of bits reaches, by module: every cost and budget counts them at 32 bits."""
    rows: dict[tuple[str, str], list[FloatParameter]] = {}
    for one in network.float_parameters:
        rows.setdefault((one.name.rpartition(".")[0] or one.name, one.reason), []).append(one)
    lines = tuple(
        (name, reason, count(total := sum(one.size for one in found)), size(4 * total), _macs(found))
        for (name, reason), found in rows.items()
    )
    columns = ("module", "reason", ">elements", ">bytes", ">MACs")
    return Table(title="Parameters counted at 32 bits", columns=columns, rows=lines)


def _macs(found: Sequence[FloatParameter]) -> str:
    total = sum(one.macs for one in found)
    return count(total) if total else ""


def joins_table(network: Network) -> Table:
    """The adds and concats in which outputs of layers meet."""
    rows = tuple((join.name, join.kind, ", ".join(join.layers)) for join in network.joins)
    return Table(title="Where outputs meet", columns=("operation", "kind", "layers"), rows=rows)


def costs_table(rows: Mapping[str, Costs], float32: Costs, *, notes: Sequence[str] = ()) -> Table:
    """Costs of several assignments of bits beside the float32 network.

    Args:
        rows: label -> costs.
        float32: costs of the network as it came; the compression of weights refers to it.
        notes: lines below the table.
    """
    lines = [_costs_row(label, one, float32) for label, one in {"float32": float32, **rows}.items()]
    columns = ("network", ">BitOps", ">weight bytes", ">compression", ">peak activation bytes", "peak at")
    return Table(title="Costs of one sample", columns=columns, rows=tuple(lines), notes=tuple(notes))


def _costs_row(label: str, one: Costs, float32: Costs) -> tuple[str, ...]:
    ratio = f"{float32.weight_bits / one.weight_bits:.2f}x" if one.weight_bits else ""
    return label, count(one.bitops), size(one.weight_bytes), ratio, size(one.activation_bytes), one.peak_step


def budget_table(budget: Budget, used: Costs, allowed: Mapping[str, int]) -> Table:
    """Every limit with what is allowed, what is used and what is left.

    Args:
        budget: the limits as the user wrote them.
        used: exact costs of the policy.
        allowed: the limits as whole numbers, `Budget.resolve`.
    """
    rows = []
    for limit in budget.limits:
        show = _SHOWN.get(limit.kind, size)
        spent, most = limit.used(used), allowed[limit.key]
        rows.append(
            (f"{limit.kind}={limit.text}", show(most), show(spent), show(most - spent), percent(1 - spent / most))
        )
    return Table(title="Budget", columns=("limit", ">allowed", ">used", ">slack", ">left"), rows=tuple(rows))


def _size_of_bits(bits: float) -> str:
    return size(bits / 8)


_SHOWN = {"bitops": count, "weight-bytes": _size_of_bits, "latency": duration, "instructions": count}


def allocation_summary(allocation: Allocation) -> str:
    """How good the choice is known to be, in one line."""
    proof = "proven optimal" if allocation.proven else f"gap {allocation.gap:.2e}"
    return (
        f"objective {allocation.objective:.6g}, bound {allocation.bound:.6g}, {proof}; "
        f"solved by {allocation.solver} in {seconds(allocation.seconds)}"
    )


def bits_table(layers: Mapping[str, LayerBits], *, pinned: Collection[str] = ()) -> Table:
    """Bits of every layer, in the order given; None, float32, is shown as 32."""
    rows = tuple(
        (name, str(bits.weight_bits or 32), str(bits.activation_bits or 32), "pinned" if name in pinned else "")
        for name, bits in layers.items()
    )
    return Table(title="Policy", columns=("layer", ">weight bits", ">activation bits", ""), rows=rows)


def outcome_table(
    outcomes: Sequence[Outcome], float32: Costs, *, title: str = "Result", notes: Sequence[str] = ()
) -> Table:
    """The task's metric, BitOps and theoretical bytes of several networks.

    Args:
        outcomes: one row each, in this order, at least one; all of one metric.
        float32: costs of the network as it came; the compression of weights refers to it.
        title: line above the table.
        notes: lines below it.
    """
    metric = outcomes[0].metric
    columns = ("network", f">{metric.name}", ">BitOps", ">weight bytes", ">compression", ">peak activation bytes")
    rows = tuple(_outcome_row(one, float32) for one in outcomes)
    return Table(title=title, columns=columns, rows=rows, notes=tuple(notes))


def _outcome_row(one: Outcome, float32: Costs) -> tuple[str, ...]:
    label, *numbers, _ = _costs_row(one.name, one.costs, float32)
    return label, one.metric.text(one.accuracy), *numbers
