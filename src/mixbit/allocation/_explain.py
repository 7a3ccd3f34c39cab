"""What a person reads about an allocation: notes on a policy, and why a budget cannot be met."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mixbit.allocation._groups import Group, LayerOptions
from mixbit.allocation._nearest import Reach, Reached
from mixbit.allocation._rows import Row
from mixbit.cost import (
    Budget,
    LatencyTable,
    LayerBits,
    Limit,
    Macs,
    MemoryTable,
    Pins,
    float_costs,
    layer_macs,
    show_amount,
    width,
)
from mixbit.errors import InfeasibleBudget
from mixbit.policy import Scores, pin_note, uncounted_notes

if TYPE_CHECKING:
    from mixbit.network import Network

__all__ = ["dropped", "infeasible", "jointly_infeasible", "notes"]

BLOCKERS = 5
_BY_STEP = ("activation_bytes", "ram_bytes")
_REST = {
    "bitops": "products that stay in float32",
    "weight_bits": "parameters that stay in float32",
    "latency": "all that is no layer",
    "activation_bytes": "tensors that no choice changes",
    "flash_bytes": "code, biases, factors, tables and settings",
    "ram_bytes": "scratch, and tensors that no choice changes",
}
"""What a row counts whatever is chosen."""


def infeasible(
    network: Network,
    budget: Budget,
    limits: Mapping[str, int],
    reach: Reach,
    pins: Pins,
    macs: Macs,
    latency: LatencyTable | None = None,
) -> InfeasibleBudget | None:
    """The error for limits that cannot be met even alone, each taken by itself; None where all can."""
    full = float_costs(network, macs=macs, latency=latency)
    parts: list[str] = []
    nearest: dict[str, float] = {}
    blocking: list[str] = []
    for limit in budget.limits:
        found = reach.least(limit.key, {})
        if found is None:
            continue
        nearest[limit.kind] = _in_unit(limit, found.value)
        if found.value > limits[limit.key]:
            uses = _largest_uses(network, found.groups, found.row, macs, latency, reach.memory)
            parts.append(_broken(limit, found, getattr(full, limit.key) or 0, uses, pins))
            blocking += [name for name, _ in uses if name not in blocking]
    if not parts:
        return None
    advice = "Raise the limit, pin fewer layers or at fewer bits, or score lower bits."
    return InfeasibleBudget(f"{'; '.join(parts)}. {advice}", nearest=nearest, blocking=blocking)


def _broken(limit: Limit, found: Reached, full: int, uses: Sequence[tuple[str, int]], pins: Pins) -> str:
    row = found.row
    word = "largest" if limit.unit == "x" else "smallest"
    shown, plain = limit.show(found.value, full), show_amount(limit.kind, found.value)
    place = f" at step {row.name.partition(' at ')[2]}" if row.key in _BY_STEP else ""
    text = f"{limit.kind}={limit.text} cannot be met: the {word} is {shown}"
    # On a device fewer bits are not always faster.
    choice = "at its fastest bits" if row.key == "latency" else "at its lowest bits"
    text += f" ({'' if plain == shown else f'{plain}, '}every free layer {choice}{place})"
    names = [f"{name}{_pin_mark(name, pins)} {show_amount(limit.kind, used)}" for name, used in uses]
    if row.constant:
        names.append(f"{_REST[row.key]} {show_amount(limit.kind, row.constant)}")
    return f"{text}; layers that block it: {', '.join(names)}" if names else text


def _pin_mark(name: str, pins: Pins) -> str:
    return f" (pinned {pins[name]})" if name in pins else ""


def _largest_uses(
    network: Network,
    groups: Sequence[Group],
    row: Row,
    macs: Macs,
    latency: LatencyTable | None,
    memory: MemoryTable | None,
) -> list[tuple[str, int]]:
    """The layers that use most of the row when every group takes its cheapest option, the largest first.

    A buffer belongs to all layers that read it, so of activations the groups are named.
    """
    uses: dict[str, int] = {}
    layers = {layer.name: layer for layer in network.layers}
    for index, (group, costs) in enumerate(zip(groups, row.costs, strict=True)):
        option = int(costs.argmin())
        if row.key in _BY_STEP:
            uses[group.name] = int(costs[option]) - (row.constant if index == 0 else 0)
        for name, bits in group.chosen(option).items():
            w, a = width(bits.weight_bits), width(bits.activation_bits)
            if row.key == "latency" and latency is not None:
                uses[name] = latency.time(name, bits)
            elif row.key == "flash_bytes" and memory is not None:
                uses[name] = memory.weight_bytes(name, bits.weight_bits)
            elif row.key == "bitops":
                uses[name] = layer_macs(layers[name], macs) * w * a
            elif row.key == "weight_bits":
                uses[name] = layers[name].weights * w
    used = [(name, amount) for name, amount in uses.items() if amount]
    return sorted(used, key=lambda use: -use[1])[:BLOCKERS]


def jointly_infeasible(
    budget: Budget, limits: Mapping[str, int], reach: Reach, error: InfeasibleBudget
) -> InfeasibleBudget:
    """The error for limits that can be met one by one, but not together, or not in the order of the layers.

    Each is raised with the others as they are. The `error` itself where they can be met: then something else is in the
    way, and it says what.
    """
    nearest: dict[str, float] = {}
    ways: list[str] = []
    for limit in budget.limits:
        others = {key: value for key, value in limits.items() if key != limit.key}
        found, alone = reach.least(limit.key, others), reach.least(limit.key, {})
        if found is not None and found.value <= limits[limit.key]:
            return error
        if found is not None:
            ways.append(f"{limit.kind}={show_amount(limit.kind, found.value)}")
        value = found or alone
        if value is not None:
            nearest[limit.kind] = _in_unit(limit, value.value)
    shown = ", ".join(f"{limit.kind}={limit.text}" for limit in budget.limits)
    kept = "not all together" if reach.order is None else "not in the order of the layers that the scores ask for"
    others_kept = "With the others as they are, " if len(budget.limits) > 1 else ""
    remedy = f"{others_kept}{' or '.join(ways)} can." if ways else "Raise several of them."
    text = f"{shown}: each limit can be met, but {kept}. {remedy}"
    return InfeasibleBudget(text, nearest=nearest, blocking=error.blocking)


def _in_unit(limit: Limit, value: float) -> float:
    """BitOps, bytes or units of the latency table; weights are counted in bits inside."""
    return value / 8 if limit.key == "weight_bits" else value


def notes(
    network: Network,
    options: Mapping[str, LayerOptions],
    scores: Scores,
    groups: Sequence[Group],
    layers: Mapping[str, LayerBits],
    *,
    ties: bool,
    latency: LatencyTable | None = None,
) -> list[str]:
    """What was decided beside the bits: pinned and tied layers, forbidden options, MACs that are not counted.

    With a latency table, where its times are from, and what it says of them.
    """
    pins = {name: bits for name, bits in layers.items() if options[name].pinned}
    found = [pin_note(pins)] if pins else ["pinned: none"]
    tied = [[name for name in group.layers if name not in pins] for group in groups] if ties else []
    for names in tied:
        if len(names) > 1:
            found.append(f"tied (read one tensor): {', '.join(names)} at A{layers[names[0]].activation_bits}")
            found += _not_shared(names, options)
    found += _broken_ties(network, layers, pins) if ties else []
    if not ties:
        found.append("ties off: layers that read one tensor may have different activation bits")
    for name in layers:
        if name not in pins:
            found += (_left_out_coupled if options[name].coupled else _left_out)(name, options[name], scores)
    return found + uncounted_notes(network) + ([] if latency is None else _latency_notes(latency))


def _broken_ties(network: Network, layers: Mapping[str, LayerBits], pins: Pins) -> list[str]:
    """Free layers that read a tensor with other bits than a pinned reader of it: a pin is kept, also against a tie."""
    found = []
    for names in network.ties():
        free = [name for name in names if name not in pins]
        apart = [n for n in names if n in pins and free and pins[n].activation_bits != layers[free[0]].activation_bits]
        if apart:
            given = ", ".join(f"{name} A{width(pins[name].activation_bits)}" for name in apart)
            shared = width(layers[free[0]].activation_bits)
            found.append(
                f"tie broken by a pin: {', '.join(free)} at A{shared} read the tensor that {given} (pinned) reads; "
                "pin them alike if one quantized copy is to serve all"
            )
    return found


def _latency_notes(table: LatencyTable) -> list[str]:
    where = f"{table.runtime} {table.runtime_version} on {table.device.cpu}"
    files = f", files of mixbit export --cpu {table.cpu}" if table.cpu else ""
    return [f"latency: measured with {where}, batch {table.batch}, threads {table.threads}{files}", *table.notes]


def _not_shared(names: Sequence[str], options: Mapping[str, LayerOptions]) -> list[str]:
    """Activation bits that some tied layer does not offer, so that none of them may take them."""
    offered = [dict(options[name].activation) for name in names]
    lost = sorted({bits for one in offered for bits in one if not all(bits in other for other in offered)})
    return [f"{', '.join(names)}: activation bits {', '.join(map(str, lost))} are not open to all"] if lost else []


def dropped(options: Mapping[str, LayerOptions], scores: Scores) -> list[str]:
    """Layers with the bits that the repair took away, as `conv1: weight bits 3`."""
    found = []
    for name, one in options.items():
        if not one.pinned:
            lines = (_left_out_coupled if one.coupled else _left_out)(name, one, scores)
            found += [line.partition(" forbidden")[0] for line in lines if " forbidden" in line]
    return found


def _left_out(name: str, one: LayerOptions, scores: Scores) -> list[str]:
    """Options that the monotone repair took away."""
    table = scores.layers[name]
    sides = (("weight", table.weight, one.weight), ("activation", table.activation, one.activation))
    return [
        f"{name}: {side} bits {', '.join(map(str, lost))} forbidden, they score better than more bits"
        for side, curve, kept in sides
        if (lost := [bits for bits in curve if bits not in dict(kept)])
    ]


def _left_out_coupled(name: str, one: LayerOptions, scores: Scores) -> list[str]:
    """Bits of one side alone, and options that the repair of the sum of both sides took away."""
    table, kept = scores.layers[name], dict(one.weight)
    both = set(table.weight) & set(table.activation)
    single = sorted(set(table.weight) ^ set(table.activation))
    lost = [bits for bits in table.weight if bits in both and bits not in kept]
    found = [f"{name}: bits {', '.join(map(str, single))} left out, they are scored on one side only"] if single else []
    if lost:
        found.append(f"{name}: bits {', '.join(map(str, lost))} forbidden, they score better than more bits")
    return found
