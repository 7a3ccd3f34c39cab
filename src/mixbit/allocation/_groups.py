"""Groups of layers that are decided together, and the options of each group.

Layers that read one tensor form a group: tied, they share its activation bits; untied, they still share the cost of
its buffer. The options of a group are the product of its layers' options, without those that another option beats or
equals in score and in every limited cost. Such options are dropped while the product grows, layer by layer, so that a
group of many layers stays small. Where more than score and costs decides (an order of the layers, joint harms), every
option stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from mixbit._bits import FLOAT_BITS, shared_bits
from mixbit.cost import LatencyTable, LayerBits, Macs, MemoryTable, layer_macs, tensor_bytes
from mixbit.errors import PolicyError

if TYPE_CHECKING:
    from mixbit.network import Layer, Network, Tensor

__all__ = ["Group", "LayerOptions", "build_groups"]

Ints: TypeAlias = "np.ndarray[tuple[int, ...], np.dtype[np.int64]]"
Floats: TypeAlias = "np.ndarray[tuple[int, ...], np.dtype[np.float64]]"
# Options of one group that are kept without pruning: the product of many layers' options would fill the memory.
_MOST_OPTIONS = 20_000

Choice: TypeAlias = tuple[int, float]
"""Bits (float32: 32) and their harm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerOptions:
    """What one layer may choose from: harm of each side, alpha included, forbidden options left out.

    Where `coupled`, both sides have the same bits and are chosen together.
    """

    layer: Layer
    weight: Sequence[Choice]
    activation: Sequence[Choice]
    pinned: bool = False
    coupled: bool = False

    def weights_at(self, activation_bits: int) -> list[Choice]:
        """The weight choices that go with an activation choice."""
        return [one for one in self.weight if not self.coupled or one[0] == activation_bits]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Layers that are decided together, and their options, one a row."""

    layers: tuple[str, ...]
    tensor: str
    """Name of the tensor that they read."""
    bits: Ints
    """(options, layers, 2): weight and activation bits, float32 as 32."""
    score: Floats
    bitops: Ints
    weight_bits: Ints
    latency: Ints
    """In units of the latency table; zeros without one."""
    flash_bytes: Ints
    """Flash of the weights, by the memory table; zeros without one."""
    tensor_bytes: Ints
    """Bytes of the tensor's buffers (see `mixbit.cost.tensor_bytes`)."""

    @property
    def name(self) -> str:
        """The layers' names, joined by `+`."""
        return "+".join(self.layers)

    def chosen(self, option: int) -> dict[str, LayerBits]:
        """The bits that one option gives to each layer."""
        rows = self.bits[option].tolist()
        return {name: LayerBits(_bits(w), _bits(a)) for name, (w, a) in zip(self.layers, rows, strict=True)}


def _bits(width: int) -> int | None:
    return None if width == FLOAT_BITS else width


def build_groups(
    network: Network,
    options: Mapping[str, LayerOptions],
    *,
    tied: bool,
    macs: Macs,
    limited: Iterable[str],
    keep_all: bool = False,
    latency: LatencyTable | None = None,
    memory: MemoryTable | None = None,
) -> list[Group]:
    """All groups in execution order, pinned layers among them as layers with one option.

    Args:
        network: the captured network.
        options: those of every layer, by name.
        tied: whether free layers that read one tensor share its activation bits. The harm of sharing is the sum of the
            layers' harms at those bits.
        macs: how MACs are counted.
        limited: attributes of `Costs` that have a limit; options are compared in these alone.
        keep_all: keep options that others beat in score and costs.
        latency: measured times, where they have a limit.
        memory: flash and RAM of a device, where they have a limit.

    Raises:
        PolicyError: tied layers have no activation bits in common, or too many options are to be kept.
        BudgetError: an option is not in one of the tables.
    """
    limited = set(limited)
    meter = _Meter(macs, latency, memory)
    together = tied or not limited.isdisjoint(_OF_TENSORS)
    compared = None if keep_all else limited
    tensors = {tensor.name: tensor for tensor in network.tensors}
    shared = shared_bits(_bits(width) for one in options.values() for width, _ in one.activation)
    groups = []
    for names in network.ties() if together else [(layer.name,) for layer in network.layers]:
        members = [options[name] for name in names]
        tensor = tensors.get(members[0].layer.input_tensor)
        if len(members) == 1:
            groups.append(_alone(members[0], tensor, meter, shared))
            continue
        tables = _tied(members, meter, compared) if tied else _untied(members, meter, compared)
        groups.append(_finish(members, tensor, tables, compared, shared))
    return groups


@dataclass(frozen=True, slots=True)
class _Meter:
    """What the options of one layer cost."""

    macs: Macs
    times: LatencyTable | None
    memory: MemoryTable | None

    def bitops(self, layer: Layer, weight: Ints, activation: Ints) -> Ints:
        return layer_macs(layer, self.macs) * weight * activation

    def latency(self, layer: Layer, weight: Ints, activation: Ints) -> Ints:
        if self.times is None:
            return np.zeros_like(weight)
        pairs = zip(weight.tolist(), activation.tolist(), strict=True)
        return np.array([self.times.time(layer.name, LayerBits(_bits(w), _bits(a))) for w, a in pairs], dtype=np.int64)

    def flash_bytes(self, layer: Layer, weight: Ints) -> Ints:
        if self.memory is None:
            return np.zeros_like(weight)
        found = {bits: self.memory.weight_bytes(layer.name, _bits(bits)) for bits in set(weight.tolist())}
        return np.array([found[bits] for bits in weight.tolist()], dtype=np.int64)


def _alone(one: LayerOptions, tensor: Tensor | None, meter: _Meter, shared: int) -> Group:
    """A layer that shares nothing keeps all its options, weights slowest, as score tables are printed."""
    (w_bits, w_harm), (a_bits, a_harm) = (
        (np.array([bits for bits, _ in side], dtype=np.int64), np.array([harm for _, harm in side]))
        for side in (one.weight, one.activation)
    )
    weight, activation = np.repeat(w_bits, len(a_bits)), np.tile(a_bits, len(w_bits))
    kept = weight == activation if one.coupled else np.ones(len(weight), dtype=np.bool_)
    weight, activation = weight[kept], activation[kept]
    widths = [width for width, _ in one.activation]
    held = {width: 0 if tensor is None else tensor_bytes(tensor, [_bits(width)], shared) for width in widths}
    return Group(
        layers=(one.layer.name,),
        tensor=one.layer.input_tensor,
        bits=np.stack([weight, activation], axis=1)[:, None, :],
        score=(a_harm[None, :] + w_harm[:, None]).ravel()[kept],
        bitops=meter.bitops(one.layer, weight, activation),
        weight_bits=one.layer.weights * weight,
        latency=meter.latency(one.layer, weight, activation),
        flash_bytes=meter.flash_bytes(one.layer, weight),
        tensor_bytes=np.array([held[width] for width in activation.tolist()], dtype=np.int64),
    )


@dataclass(frozen=True, slots=True)
class _Table:
    """Partial options of a group: the first layers' bits and what they cost."""

    bits: Ints
    score: Floats
    bitops: Ints
    weight_bits: Ints
    latency: Ints
    flash_bytes: Ints

    def take(self, rows: Ints) -> _Table:
        return _Table(*(getattr(self, name)[rows] for name in _COLUMNS))


_SUMS = ("bitops", "weight_bits", "latency", "flash_bytes")
"""Limited costs that are sums over layers."""
_OF_TENSORS = ("activation_bytes", "ram_bytes")
"""Limited costs that are counted by tensor."""
_COLUMNS = tuple(field.name for field in fields(_Table))


Tables: TypeAlias = dict[frozenset[int], _Table]
"""Set of activation bits in use -> options: buffers cost the same within one set, so options are compared within it."""


def _tied(members: Sequence[LayerOptions], meter: _Meter, limited: set[str] | None) -> Tables:
    free = [one for one in members if not one.pinned]
    if len(free) < 2:
        return _untied(members, meter, limited)
    shared = [bits for bits, _ in free[0].activation if all(bits in dict(one.activation) for one in free)]
    if not shared:
        lists = "; ".join(f"{one.layer.name}: {[bits for bits, _ in one.activation]}" for one in free)
        raise PolicyError(
            f"Layers that read one tensor must share its activation bits, but have none in common ({lists}). "
            "Score them at the same bits, or allocate with ties off."
        )
    tables: Tables = {}
    for bits in shared:
        kept = [one.activation if one.pinned else [c for c in one.activation if c[0] == bits] for one in members]
        for key, table in _merge(members, kept, meter, limited).items():
            tables[key] = _stack([tables[key], table]) if key in tables else table
    return tables


def _untied(members: Sequence[LayerOptions], meter: _Meter, limited: set[str] | None) -> Tables:
    return _merge(members, [one.activation for one in members], meter, limited)


def _merge(
    members: Sequence[LayerOptions], activations: Sequence[Sequence[Choice]], meter: _Meter, limited: set[str] | None
) -> Tables:
    """Product of the members' options, pruned after each member (not where `limited` is None)."""
    empty = np.zeros(1, dtype=np.int64)
    tables: Tables = {frozenset(): _Table(np.zeros((1, 0, 2), dtype=np.int64), np.zeros(1), *[empty] * 4)}
    for one, choices in zip(members, activations, strict=True):
        grown: dict[frozenset[int], list[_Table]] = {}
        for used, table in tables.items():
            for choice in choices:
                grown.setdefault(used | {choice[0]}, []).append(_cross(table, one, choice, meter))
        if limited is None:
            _check_size(grown, members)
        tables = {used: _prune_table(_stack(parts), limited) for used, parts in grown.items()}
    return tables


def _check_size(grown: Mapping[frozenset[int], Sequence[_Table]], members: Sequence[LayerOptions]) -> None:
    size = sum(len(part.score) for parts in grown.values() for part in parts)
    if size > _MOST_OPTIONS:
        names = [one.layer.name for one in members]
        raise PolicyError(
            f"The {len(names)} layers {', '.join(names[:3])}, ... are decided together and have over {size} options, "
            "all of which their program keeps. Score fewer bits there, pin some of them, or allocate with ties off."
        )


def _cross(table: _Table, one: LayerOptions, activation: Choice, meter: _Meter) -> _Table:
    """Every row of `table` with every weight choice of one more layer, at one activation choice."""
    layer, (a_bits, a_harm) = one.layer, activation
    choices = one.weights_at(a_bits)
    w_bits = np.array([bits for bits, _ in choices], dtype=np.int64)
    harm = np.array([a_harm + harm for _, harm in choices])
    rows, columns = np.divmod(np.arange(len(table.score) * len(w_bits)), len(w_bits))
    same = np.full_like(w_bits, a_bits)
    new = np.stack([w_bits, same], axis=1)
    return _Table(
        np.concatenate([table.bits[rows], new[columns][:, None, :]], axis=1),
        table.score[rows] + harm[columns],
        table.bitops[rows] + meter.bitops(layer, w_bits, same)[columns],
        table.weight_bits[rows] + layer.weights * w_bits[columns],
        table.latency[rows] + meter.latency(layer, w_bits, same)[columns],
        table.flash_bytes[rows] + meter.flash_bytes(layer, w_bits)[columns],
    )


def _stack(parts: Sequence[_Table]) -> _Table:
    return _Table(*(np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS))


def _prune_table(table: _Table, limited: set[str] | None) -> _Table:
    return table if limited is None else table.take(undominated(table.score, _limited_costs(table, limited)))


def _limited_costs(table: _Table, limited: set[str]) -> list[Ints]:
    return [getattr(table, key) for key in _SUMS if key in limited]


def _finish(
    members: Sequence[LayerOptions], tensor: Tensor | None, tables: Tables, limited: set[str] | None, shared: int
) -> Group:
    """Join the tables and prune across sets of activation bits."""
    table = _stack(list(tables.values()))
    sizes = [0 if tensor is None else tensor_bytes(tensor, [_bits(width) for width in used], shared) for used in tables]
    held = np.repeat(np.array(sizes, dtype=np.int64), [len(part.score) for part in tables.values()])
    if limited is not None and "ram_bytes" not in limited:  # at every step RAM has another favourite
        costs = _limited_costs(table, limited) + ([held] if "activation_bytes" in limited else [])
        kept = undominated(table.score, costs)
        table, held = table.take(kept), held[kept]
    return Group(
        layers=tuple(one.layer.name for one in members),
        tensor=members[0].layer.input_tensor,
        bits=table.bits,
        score=table.score,
        bitops=table.bitops,
        weight_bits=table.weight_bits,
        latency=table.latency,
        flash_bytes=table.flash_bytes,
        tensor_bytes=held,
    )


def undominated(score: Floats, costs: Sequence[Ints]) -> Ints:
    """Rows that no other row beats or equals in score and in all costs (of equal rows the first), in their order.

    >>> undominated(np.array([1.0, 2.0, 3.0, 2.0]), [np.array([9, 5, 5, 5])])       # row 2 is worse than 1, row 3 equal
    array([0, 1])
    """
    order = np.lexsort([*reversed(costs), score])
    if len(costs) <= 1:
        # In order of score, a row stays if it is cheaper than all before it.
        ordered = costs[0][order] if costs else np.zeros(len(order), dtype=np.int64)
        before = np.concatenate([[np.iinfo(np.int64).max], np.minimum.accumulate(ordered)[:-1]])
        return np.sort(order[ordered < before])
    table = np.stack([cost[order] for cost in costs], axis=1)
    alive = np.ones(len(order), dtype=bool)
    for row in range(len(order)):
        if alive[row]:
            alive[row + 1 :] &= (table[row + 1 :] < table[row]).any(axis=1)
    return np.sort(order[alive])
