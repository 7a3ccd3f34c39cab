"""The activation arena: which tensors share memory, and where each lies. Peak RAM is known before compiling."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from mixbit.export.c._options import COptions
from mixbit.export.c._program import CProgram, CStep, as_program, root
from mixbit.integer.graph import IntegerGraph

__all__ = ["ALIGNMENT", "Buffer", "MemoryPlan", "place", "plan_memory", "plan_program", "scratch_name"]

ALIGNMENT = 4
"""Alignment of every buffer, in bytes: kernels may read words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Buffer:
    """A piece of the arena and the steps in which it holds something that is still needed."""

    names: tuple[str, ...]
    """Tensors that lie here, one after the other or as views of each other; `scratch N` is that of layer N (with primes
    after it where a tensor has that name)."""
    size_bytes: int
    """Rounded up to `ALIGNMENT`."""
    first: int
    """Step that writes it; -1 is the input's arrival."""
    last: int
    """Last step that reads it, included."""
    offset: int = 0
    """Where it begins, bytes."""

    def overlaps(self, other: Buffer) -> bool:
        """Whether both are needed at one step."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Where every tensor lies."""

    buffers: tuple[Buffer, ...]
    steps: tuple[str, ...]
    """Layer of each step."""

    @property
    def arena_bytes(self) -> int:
        """Size of the arena: all RAM of the network but the stack, the 4-byte outputs and the caller's own."""
        return max((one.offset + one.size_bytes for one in self.buffers), default=0)

    @property
    def peak_bytes(self) -> int:
        """Largest sum of the buffers that are needed at one step: no plan can be smaller."""
        return max(self.live_bytes())

    @property
    def peak_layer(self) -> str:
        """The first layer at which `peak_bytes` are needed."""
        live = self.live_bytes()
        return self.steps[live.index(max(live))]

    def live_bytes(self) -> list[int]:
        """Sum of the buffers that are needed, by step."""
        return [
            sum(one.size_bytes for one in self.buffers if one.first <= step <= one.last)
            for step in range(len(self.steps))
        ]

    def offset(self, name: str) -> int:
        """Where a tensor or a scratch buffer begins.

        Raises:
            KeyError: it is not in the arena.
        """
        for one in self.buffers:
            if name in one.names:
                return one.offset
        raise KeyError(name)


def plan_memory(network: IntegerGraph | CProgram, *, options: COptions | None = None) -> MemoryPlan:
    """Place the tensors of a network in one arena.

    A tensor lives from the layer that writes it to the last that reads it. A reshape is the same bytes. An addition, a
    requantization or a table writes over its input where nothing else needs that. Each layer's scratch lives for that
    layer. Buffers are placed one after the other at the lowest free place, in several orders (largest first, ...), and
    the smallest arena is taken.

    Args:
        network: from `mixbit.export.lower`, or what `build_program` made of it.
        options: how it is written as C; None for those of a built program.

    Raises:
        ExportError: an operation has no kernel.
    """
    return plan_program(as_program(network, options))


def plan_program(program: CProgram) -> MemoryPlan:
    """The plan of a program that is built already."""
    return MemoryPlan(buffers=place(_buffers(program)), steps=tuple(step.op.name for step in program.steps))


def place(buffers: Sequence[Buffer]) -> tuple[Buffer, ...]:
    """Offsets, so that no two buffers that overlap in time overlap in memory.

    Args:
        buffers: sizes and lifetimes; their offsets are not looked at.

    Returns:
        The buffers with offsets, in the order given.

    >>> found = place([Buffer(names=(name,), size_bytes=size, first=first, last=last)
    ...     for name, size, first, last in [("x", 8, 0, 1), ("y", 16, 1, 2), ("z", 8, 2, 3)]])
    >>> [one.offset for one in found]                              # y is largest; x and z share what is left
    [16, 0, 16]
    """
    plans = [_greedy(buffers, order) for order in _ORDERS]
    return min(plans, key=lambda plan: max((one.offset + one.size_bytes for one in plan), default=0))


_ORDERS: tuple[Callable[[Buffer], tuple[int, ...]], ...] = (
    lambda one: (-one.size_bytes, one.first),
    lambda one: (-one.size_bytes * (one.last - one.first + 1), one.first),
    lambda one: (one.first - one.last, -one.size_bytes),
    lambda one: (one.first, -one.size_bytes),
)


def _greedy(buffers: Sequence[Buffer], order: Callable[[Buffer], tuple[int, ...]]) -> tuple[Buffer, ...]:
    """Each buffer at the lowest place that is free for all of its life."""
    placed: dict[int, Buffer] = {}
    for at in sorted(range(len(buffers)), key=lambda at: order(buffers[at])):
        one = buffers[at]
        others = sorted((other for other in placed.values() if other.overlaps(one)), key=lambda other: other.offset)
        placed[at] = _moved(one, _lowest(one.size_bytes, others))
    return tuple(placed[at] for at in range(len(buffers)))


def _lowest(size: int, others: Iterable[Buffer]) -> int:
    """The lowest place for `size` bytes beside others, which are sorted by where they begin."""
    free = 0
    for other in others:
        if other.offset - free >= size:
            break
        free = max(free, other.offset + other.size_bytes)
    return free


def _moved(one: Buffer, offset: int) -> Buffer:
    return Buffer(names=one.names, size_bytes=one.size_bytes, first=one.first, last=one.last, offset=offset)


# ------------------------------------------------------------------------------------------------ lifetimes


def scratch_name(program: CProgram, step: CStep) -> str:
    """`scratch N`, which no tensor of the network is called."""
    name = f"scratch {step.index}"
    while name in program.graph.tensors:
        name += "'"
    return name


def _buffers(program: CProgram) -> list[Buffer]:
    owner = _owners(program)
    names: dict[str, list[str]] = {}
    for name in [program.input, *_results(program), *program.views]:
        names.setdefault(_owner(owner, root(program.views, name)), []).append(name)
    first = {program.input: -1} | {step.op.output: step.index for step in program.steps}
    last = _last_reads(program)
    found = [
        Buffer(
            names=tuple(members),
            size_bytes=_aligned(program.tensors[name].size_bytes),
            first=first[name],
            last=max(last.get(member, first.get(member, -1)) for member in members),
        )
        for name, members in names.items()
    ]
    found += [
        Buffer(
            names=(scratch_name(program, step),),
            size_bytes=_aligned(step.printed.scratch_bytes),
            first=step.index,
            last=step.index,
        )
        for step in program.steps
        if step.printed.scratch_bytes
    ]
    return found


def _results(program: CProgram) -> list[str]:
    """Tensors that steps write into the arena."""
    return [step.op.output for step in program.steps if step.op is not program.last]


def _last_reads(program: CProgram) -> dict[str, int]:
    """Last step that reads a tensor or a view of it."""
    found: dict[str, int] = {}
    for step in program.steps:
        for name in step.reads:
            found[root(program.views, name)] = step.index
    return found


def _owners(program: CProgram) -> dict[str, str]:
    """Tensor -> the input in whose place it is written."""
    last, size, owner = _last_reads(program), program.tensors, dict[str, str]()
    for step in program.steps:
        if not step.in_place:
            continue
        for name in step.reads:
            source = root(program.views, name)
            fits = size[step.op.output].size_bytes <= size[_owner(owner, source)].size_bytes
            if last[source] == step.index and fits and _may_write(step, source, program):
                owner[step.op.output] = source
                break
    return owner


def _may_write(step: CStep, source: str, program: CProgram) -> bool:
    """The elements that are written are not wider than those that are read: none is overwritten before its turn."""
    return program.tensors[step.op.output].bits <= program.tensors[source].bits


def _owner(owner: dict[str, str], name: str) -> str:
    while name in owner:
        name = owner[name]
    return name


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
