"""Flash and RAM of every choice of bits, for limits that hold before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from mixbit._bits import WEIGHT_BITS
from mixbit.cost import LayerBits, MemoryTable, RamStep
from mixbit.export.c._options import COptions
from mixbit.export.c._program import CProgram, build_program, root
from mixbit.export.c._storage import container_bits
from mixbit.export.c.memory import ALIGNMENT, Buffer, plan_program
from mixbit.export.c.packing import row_bytes
from mixbit.export.c.sizes import counted, unpacking_code, width_code
from mixbit.integer import graph as g
from mixbit.integer.graph import IntegerGraph

if TYPE_CHECKING:
    from mixbit.network import Network

__all__ = ["memory_table"]

_INPUTS = range(1, 9)
"""Bits of inputs. With more than 8 a network is laid out otherwise, in elements of 16 bits."""
_UNIFORM = (8, 2)
"""Bits of inputs of the two networks that are lowered: a signed input has no 1-bit form."""
_MOST = WEIGHT_BITS[-1]


def memory_table(
    network: Network,
    lower_at: Callable[[Mapping[str, LayerBits]], IntegerGraph],
    *,
    options: COptions | None = None,
) -> MemoryTable:
    """What a network takes as C, for limits on `flash` and `ram` in `mixbit.allocation.allocate`.

    Two uniform networks are lowered, at the most and at the fewest bits. Weights and code of their widths are exact at
    all bits. Whatever else depends on activation bits (a requantization that one of the two needs) is counted as the
    larger of both, so a policy may take less flash than the table says, never more. RAM is the sum of what is needed at
    a step; `footprint` of the lowered policy says what its arena takes, with the gaps between tensors.

    Args:
        network: the captured network.
        lower_at: bits of every layer -> the integer graph, with `rounding="single"`, `"double"` or `"litert"`.
        options: how it will be written as C.

    Raises:
        ExportError: an operation has no kernel.
    """
    options = COptions() if options is None else options
    programs = [_uniform(network, lower_at, activation_bits, options) for activation_bits in _UNIFORM]
    named = {layer.name for layer in network.layers}
    chosen = [op for op in programs[0].graph.weighted() if op.name in named]
    weights = {op.name: _weight_bytes(op, options) for op in chosen}
    return MemoryTable(
        fingerprint=network.fingerprint,
        target=f"C, {options.kernels} kernels{', packed activations' if options.pack_activations else ''}",
        weights=weights,
        code=_code(programs[0], weights),
        rest=max(_rest(program, weights) for program in programs),
        steps=_steps(network, programs),
        coded=frozenset(op.name for op in chosen if not _is_depthwise(op)),
    )


def _uniform(
    network: Network,
    lower_at: Callable[[Mapping[str, LayerBits]], IntegerGraph],
    activation_bits: int,
    options: COptions,
) -> CProgram:
    bits = LayerBits(_MOST, activation_bits)
    return build_program(lower_at({layer.name: bits for layer in network.layers}), options)


def _weight_bytes(op: g.Weighted, options: COptions) -> dict[int, int]:
    """Bytes of a layer's weights at all bits: depthwise a stream, others row by row.

    Depthwise layers of 1 bit share the code that unpacks it. Each of them counts it: a table has no more, never less.
    """
    stream = _is_depthwise(op)
    rows = 1 if stream else len(op.weight)
    alignment = 1 if stream else options.row_alignment
    found = {bits: rows * row_bytes(op.weight.size // rows, bits, alignment) for bits in WEIGHT_BITS}
    if stream:
        found[1] += unpacking_code()
    return found


def _is_depthwise(op: g.Weighted) -> bool:
    """Whether a kernel unpacks all weights of the layer first, at any width by the same code."""
    return isinstance(op, g.Conv) and op.is_depthwise


def _rest(program: CProgram, weights: Mapping[str, Mapping[int, int]]) -> int:
    """Flash without the weights of layers that can be chosen, and without the code of their width."""
    found = counted(program, plan_program(program))
    used = sum(weights[op.name][op.weight_bits] for op in program.graph.weighted() if op.name in weights)
    return found.flash_bytes - used - _code(program, weights)[_MOST]


def _code(program: CProgram, weights: Collection[str]) -> dict[int, int]:
    """Code of each width, nothing for one that is there whatever is chosen: layers beside the network's have 8 bits."""
    fixed = {op.weight_bits for op in program.graph.weighted() if op.name not in weights and not _is_depthwise(op)}
    return {bits: 0 if bits in fixed else size for bits, size in width_code(program).items()}


# ------------------------------------------------------------------------------------------------ RAM, step by step


def _steps(network: Network, programs: Iterable[CProgram]) -> tuple[RamStep, ...]:
    """Steps of both programs: what one of them requantizes, the other may read as it is."""
    found: dict[tuple[int, str], RamStep] = {}
    for program in programs:
        read = _chosen_tensors(network, program)
        buffers = plan_program(program).buffers
        for step in program.steps:
            live = [one for one in buffers if one.first <= step.index <= one.last]
            row = _step(step.op.name, live, read, program)
            found.setdefault((row.constant, repr(row.tensors)), row)
    return tuple(found.values())


def _chosen_tensors(network: Network, program: CProgram) -> dict[str, str]:
    """Stored tensors whose bytes follow the bits of the layers that read them -> the tensor of the network.

    That is so where weighted layers are all that reads them; whatever else reads a tensor has it at 8 bits.
    """
    inputs = {layer.name: layer.input_tensor for layer in network.layers}
    readers: dict[str, list[g.Op]] = {}
    for op in program.graph.ops:
        for name in op.inputs:
            if op.output not in program.views:
                readers.setdefault(root(program.views, name), []).append(op)
    return {
        name: inputs[found[0].name]
        for name, found in readers.items()
        if all(isinstance(op, g.Weighted) and op.name in inputs for op in found)
        and len({inputs[op.name] for op in found}) == 1
    }


def _step(name: str, live: Iterable[Buffer], read: Mapping[str, str], program: CProgram) -> RamStep:
    constant, tensors = 0, dict[str, dict[int, int]]()
    for one in live:
        chosen = [tensor for tensor in one.names if tensor in read] if program.options.pack_activations else []
        # A buffer may also hold what it was written over: a tensor of 8 bits, whatever is chosen.
        held = [tensor for tensor in one.names if tensor not in chosen and tensor not in program.views]
        least = max((_bytes(tensor, program) for tensor in held), default=0)
        constant += least if chosen else max(least, one.size_bytes)
        for tensor in chosen:
            numel = program.tensors[tensor].numel
            sizes = {bits: max(0, _aligned(row_bytes(numel, container_bits(bits))) - least) for bits in _INPUTS}
            if any(sizes.values()):
                tensors[read[tensor]] = sizes
    return RamStep(name=name, constant=constant, tensors=tensors)


def _bytes(tensor: str, program: CProgram) -> int:
    """Of a tensor that no choice changes, at 8 bits; scratch is as large as its buffer."""
    return _aligned(program.tensors[tensor].numel) if tensor in program.tensors else 0


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
