"""The rows of the integer programme: what each option of each group costs, in exact integers.

BitOps, weight bits, latency and flash are one row each. Peak activation bytes and RAM are the largest of many sums, so
each takes one row a step of the schedule; rows that another row implies, or that no choice can break, are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mixbit._bits import FLOAT_BITS, shared_bits
from mixbit.allocation._groups import Group, Ints
from mixbit.cost import MemoryTable, RamStep, float_rest, tensor_bytes

if TYPE_CHECKING:
    from mixbit.network import Network, Tensor

__all__ = ["Row", "build_rows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One limit of the integer programme: sum over groups of the chosen option's cost <= limit."""

    name: str
    key: str
    """The attribute of `Costs` that it belongs to."""
    costs: list[Ints]
    """One array a group, one entry an option. The first group also carries `constant`."""
    limit: int
    constant: int = 0
    """What lives at this step, or what the rest of the network takes, whatever is chosen."""

    @property
    def least(self) -> int:
        """The smallest sum that any choice reaches."""
        return sum(int(costs.min()) for costs in self.costs)

    @property
    def most(self) -> int:
        """The largest sum that any choice reaches."""
        return sum(int(costs.max()) for costs in self.costs)


def build_rows(
    network: Network,
    groups: Sequence[Group],
    limits: Mapping[str, int],
    rest: int = 0,
    memory: MemoryTable | None = None,
) -> list[Row]:
    """All rows of the resolved `limits` (`Budget.resolve`); every limit keeps at least one row.

    A limit above what the most expensive choice costs is lowered to that, so that any whole number fits 64 bits.

    Args:
        network: the captured network.
        groups: with what their options cost.
        limits: attribute of `Costs` -> limit.
        rest: latency of all that no layer accounts for.
        memory: flash and RAM of a device, where they have a limit.
    """
    bitops, weight_bits = float_rest(network)
    constants = {"latency": rest, "bitops": bitops, "weight_bits": weight_bits}
    constants["flash_bytes"] = 0 if memory is None else memory.rest
    rows = []
    for key, limit in limits.items():
        if key == "activation_bytes":
            rows += _binding([_step_row(groups, *step, limit) for step in _steps(network, groups)], limit)
            continue
        if key == "ram_bytes" and memory is not None:
            rows += _binding([_ram_row(groups, step, memory.ram_margin, limit) for step in memory.steps], limit)
            continue
        costs, constant = [getattr(group, key) for group in groups], constants.get(key, 0)
        if constant and costs:
            costs = [costs[0] + constant, *costs[1:]]
        rows.append(Row(name=key, key=key, costs=costs, limit=limit, constant=constant))
    return [_capped(row) for row in rows]


def _capped(row: Row) -> Row:
    return Row(name=row.name, key=row.key, costs=row.costs, limit=min(row.limit, row.most), constant=row.constant)


def _steps(network: Network, groups: Sequence[Group]) -> list[tuple[str, int, int]]:
    return undominated_steps(*_live_sets(network, groups))


def _ram_row(groups: Sequence[Group], step: RamStep, margin: int, limit: int) -> Row:
    """What a device needs at one step; every tensor once for each width at which the group reads it."""
    constant, costs = step.constant + margin, []
    for index, group in enumerate(groups):
        read = [set(map(_width, option)) for option in group.bits[:, :, 1].tolist()]
        here = np.array([step.bytes_of(group.tensor, one) for one in read], dtype=np.int64)
        costs.append(here + constant if index == 0 else here)
    return Row(name=f"ram_bytes at {step.name}", key="ram_bytes", costs=costs, limit=limit, constant=constant)


def _width(bits: int) -> int | None:
    return None if bits == FLOAT_BITS else bits


def _binding(rows: Sequence[Row], limit: int) -> list[Row]:
    """Rows of the steps at which the limit can bind, or of the one nearest to it."""
    binding = [row for row in rows if row.most > limit]
    return binding or sorted(rows, key=lambda row: row.most)[-1:]


def _step_row(groups: Sequence[Group], step: str, live: int, constant: int, limit: int) -> Row:
    nothing: dict[int, Ints] = {}
    costs = []
    for index, group in enumerate(groups):
        size = len(group.score)
        here = group.tensor_bytes if live >> index & 1 else nothing.setdefault(size, np.zeros(size, dtype=np.int64))
        costs.append(here + constant if index == 0 else here)
    name = f"activation_bytes at {step}"
    return Row(name=name, key="activation_bytes", costs=costs, limit=limit, constant=constant)


def _live_sets(network: Network, groups: Sequence[Group]) -> tuple[tuple[str, ...], list[int], list[int]]:
    """For every step: which groups' tensors live (a bit a group), and the bytes of all other live tensors."""
    steps = network.steps or ("the whole network",)
    live, constant = [0] * len(steps), [0] * len(steps)
    quantized = any(bool((group.bits[:, :, 1] != FLOAT_BITS).any()) for group in groups)
    shared = shared_bits(_width(bits) for group in groups for bits in np.unique(group.bits[:, :, 1]).tolist())
    readers = {group.tensor: index for index, group in enumerate(groups)}
    for tensor in network.tensors:
        index = readers.get(tensor.name)
        varies = index is not None and bool(np.ptp(groups[index].tensor_bytes))
        size = 0 if varies else _fixed_bytes(tensor, None if index is None else groups[index], quantized, shared)
        for step in range(tensor.first_step, tensor.last_step + 1):
            constant[step] += size
            if varies and index is not None:
                live[step] |= 1 << index
    return steps, live, constant


def _fixed_bytes(tensor: Tensor, group: Group | None, quantized: bool, shared: int) -> int:
    """Bytes of a tensor that no choice changes; without any quantized activation all tensors are float32."""
    if not quantized:
        return tensor.numel * FLOAT_BITS // 8
    return tensor_bytes(tensor, [], shared) if group is None else int(group.tensor_bytes[0])


def undominated_steps(steps: Sequence[str], live: Sequence[int], constant: Sequence[int]) -> list[tuple[str, int, int]]:
    """Steps whose sum no other step's sum always covers: (name, live groups as bits, constant bytes), in order.

    A step is covered if another one holds all its tensors and at least its constant bytes. (Distinct tensors belong to
    distinct groups, so nothing else can cover it for all choices.)

    >>> undominated_steps(["a", "b", "c"], [0b01, 0b11, 0b10], [5, 5, 9])     # b covers a, but not c's constant
    [('b', 3, 5), ('c', 2, 9)]
    """
    most: dict[int, tuple[int, int]] = {}
    for index, (held, size) in enumerate(zip(live, constant, strict=True)):
        if held not in most or size > most[held][0]:
            most[held] = (size, index)
    kept: list[tuple[int, int, int]] = []
    for held, (size, index) in sorted(most.items(), key=lambda item: (-item[0].bit_count(), item[1])):
        if not any(held & other == held and size <= larger for other, larger, _ in kept):
            kept.append((held, size, index))
    return [(steps[index], held, size) for held, size, index in sorted(kept, key=lambda one: one[2])]
