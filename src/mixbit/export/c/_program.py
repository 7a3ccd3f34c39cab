"""The integer graph as a device runs it: which tensors are stored and how, and the calls in order."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mixbit.errors import ExportError
from mixbit.export.c._calls import Blob, Context, Printed, print_op
from mixbit.export.c._cmsis_checkout import open_checkout
from mixbit.export.c._cmsis_nn import HandedOver, hand_over
from mixbit.export.c._options import COptions
from mixbit.export.c._storage import Stored, offset, stored
from mixbit.integer import graph as g
from mixbit.integer.arithmetic import Array
from mixbit.integer.graph import IntegerGraph

_MOVES = (g.Reshape, g.Slice, g.Pad, g.Transpose, g.Concat, g.MaxPool)
_IN_PLACE = (g.Add, g.Requantize, g.Lookup)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CStep:
    """One layer on the device."""

    index: int
    op: g.Op
    printed: Printed
    reads: tuple[str, ...]
    """Names of the stored tensors that it reads."""

    @property
    def in_place(self) -> bool:
        """Whether the result may take the place of an input."""
        return isinstance(self.op, _IN_PLACE)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CProgram:
    """A network as C will have it."""

    graph: IntegerGraph
    """Without a softmax at the end, which C leaves to the caller."""
    source: IntegerGraph
    """As it was lowered."""
    options: COptions
    tensors: dict[str, Stored]
    """Every quantized tensor; those of `folded` are never in memory."""
    steps: tuple[CStep, ...]
    views: dict[str, str]
    """Tensor -> the tensor whose bytes it is."""
    folded: dict[str, g.Requantize]
    """Tensor that readers make from another by a table -> the operation that it replaces."""
    input: str
    last: g.Weighted
    """The layer whose accumulators are the output."""
    cmsis_nn: HandedOver | None = None
    """What CMSIS-NN computes, where the options name a checkout of it."""

    @property
    def output_inner(self) -> int:
        """Outputs from one channel to the next: output `i` is of channel `i / output_inner % channels`."""
        shape = self.graph.tensors[self.last.output].shape
        return shape[0] if isinstance(self.last, g.Linear) and len(shape) > 1 else 1

    def output_order(self) -> Array:
        """Element of the reference's output at each place of the device's."""
        from mixbit.export.c._storage import channels_last

        return channels_last(self.graph.tensors[self.last.output].shape)


def build_program(graph: IntegerGraph, options: COptions) -> CProgram:
    """The program of a graph.

    Raises:
        ExportError: an operation has no kernel, or could leave int32; the message names it.
    """
    first, last = _ends(graph)
    source, graph = graph, replace(graph, ops=tuple(op for op in graph.ops if not isinstance(op, g.Softmax)))
    tensors, views = _tensors(graph, options)
    folded = _folded(graph, views) if options.fold_requantize else {}
    context = Context(graph=graph, options=options, tensors=tensors, folded=folded)
    made = {id(op) for op in folded.values()}
    ops = [op for op in graph.ops if op is not first and id(op) not in made and op.output not in views]
    printed, cmsis_nn = _printed(context, ops)
    printed = _weights_once(printed, ops)
    steps = tuple(
        CStep(
            index=index,
            op=op,
            printed=printed[op.output],
            reads=tuple(folded[name].x if name in folded else name for name in op.inputs),
        )
        for index, op in enumerate(ops)
    )
    return CProgram(
        graph=graph,
        source=source,
        options=options,
        tensors=tensors,
        steps=steps,
        views=views,
        folded=folded,
        input=first.output,
        last=last,
        cmsis_nn=cmsis_nn,
    )


def as_program(network: IntegerGraph | CProgram, options: COptions | None, usual: COptions = COptions()) -> CProgram:  # noqa: B008
    """The program of a graph; one that is built already is taken as it is.

    Args:
        network: a graph, or what `build_program` made of it.
        options: how it is written; None is what a built program has, or `usual`.
        usual: for a graph without options.

    Raises:
        ExportError: a program that was built with other options; or as `build_program`.
    """
    if isinstance(network, IntegerGraph):
        return build_program(network, usual if options is None else options)
    if options is not None and options != network.options:
        raise ExportError(f"the program was built with {network.options}, not with {options}. Give its graph.")
    return network


def _weights_once(printed: dict[str, Printed], ops: list[g.Op]) -> dict[str, Printed]:
    """The same calls, with one array for weights that several of them read: those of a layer that is called again."""
    arrays: dict[tuple[str, bytes], str] = {}
    found = {}
    for index, op in enumerate(ops):
        one, own, elsewhere = printed[op.output], list[Blob](), dict[str, str]()
        for blob in one.blobs:
            key = blob.ctype, blob.values.tobytes()
            if blob.role == "weights" and key in arrays:
                elsewhere[blob.role] = arrays[key]
                continue
            own.append(blob)
            if blob.role == "weights":
                arrays[key] = array_name(index, blob.role)
        found[op.output] = replace(one, blobs=tuple(own), elsewhere=elsewhere)
    return found


def array_name(index: int, role: str) -> str:
    """Name in C of a constant array of the step of that number."""
    return f"model_{index}_{role}"


def _printed(context: Context, ops: list[g.Op]) -> tuple[dict[str, Printed], HandedOver | None]:
    """Output -> the calls that write it; and what is handed over to CMSIS-NN."""
    own = {op.output: print_op(context, op) for op in ops}
    if context.options.cmsis_nn is None:
        return own, None
    checkout = open_checkout(Path(context.options.cmsis_nn).resolve())
    found, calls = hand_over(context, checkout, [(op, own[op.output]) for op in ops])
    return own | calls, found


def _ends(graph: IntegerGraph) -> tuple[g.QuantizeInput, g.Weighted]:
    """The quantizer of the input and the layer that makes the output."""
    quantizers = [op for op in graph.ops if isinstance(op, g.QuantizeInput)]
    if len(quantizers) != 1 or quantizers[0].x != graph.input:
        raise ExportError(f"the network quantizes its input {len(quantizers)} times. Legal: once.")
    outputs = [op for op in graph.ops if graph.tensors[op.output].grid is None and not isinstance(op, g.Softmax)]
    if len(outputs) != 1 or not isinstance(outputs[0], g.Weighted):
        names = ", ".join(op.name for op in outputs) or "none"
        raise ExportError(
            f"layers with a float32 result: {names}. Legal: one linear layer or convolution at the end, with a softmax "
            "after it or not."
        )
    allowed = {graph.output, outputs[0].output}
    soft = [op for op in graph.ops if isinstance(op, g.Softmax) and op.output not in allowed]
    if soft or graph.readers(outputs[0].output) not in [(), tuple(op for op in graph.ops if op.output == graph.output)]:
        raise ExportError(f"{outputs[0].name}: its float32 result is read by another layer, which has no form in C.")
    return quantizers[0], outputs[0]


def _tensors(graph: IntegerGraph, options: COptions) -> tuple[dict[str, Stored], dict[str, str]]:
    """How each tensor is stored, and which are views of others."""
    found: dict[str, Stored] = {}
    views: dict[str, str] = {}
    for op in graph.ops:
        tensor = graph.tensors[op.output]
        if tensor.grid is None:
            continue
        order = None
        if isinstance(op, g.Requantize | g.Lookup) and len(tensor.shape) == 1:
            order = found[op.x].order
        if isinstance(op, g.Reshape) and _any_order(graph, op.output):
            order = found[op.x].order
        one = stored(tensor, packed=options.pack_activations, order=order)
        found[op.output] = one
        if isinstance(op, _MOVES):
            _check_same(op, [found[name] for name in op.inputs], one)
        if isinstance(op, g.Reshape) and np.array_equal(one.order, found[op.x].order):
            views[op.output] = op.x
    return found, views


def _any_order(graph: IntegerGraph, name: str) -> bool:
    """Whether linear layers are all that reads a vector: then its elements may lie in any order."""
    if len(graph.tensors[name].shape) != 1:
        return False
    return all(
        isinstance(op, g.Linear) or (isinstance(op, g.Requantize | g.Lookup) and _any_order(graph, op.output))
        for op in graph.readers(name)
    )


def _check_same(op: g.Op, inputs: list[Stored], output: Stored) -> None:
    wrong = [x for x in inputs if (x.bits, x.offset) != (output.bits, offset(output.grid, output.bits))]
    if wrong:
        raise ExportError(f"{op.name}: {op.kind} of tensors on different grids ({wrong[0].name}, {output.name}).")


def _folded(graph: IntegerGraph, views: dict[str, str]) -> dict[str, g.Requantize]:
    """Requantized copies that need not be: only layers with columns read them, and their source lives on anyway."""
    last = _last_reads(graph, views)
    found: dict[str, g.Requantize] = {}
    for op in graph.ops:
        if not isinstance(op, g.Requantize) or op.x in found or any(graph.grid(n).bits > 8 for n in (op.x, op.output)):
            continue
        readers = graph.readers(op.output)
        columns = all(
            isinstance(reader, g.Linear) or (isinstance(reader, g.Conv) and not reader.is_depthwise)
            for reader in readers
        )
        reading = max((at for at, reader in enumerate(graph.ops) if op.output in reader.inputs), default=-1)
        if readers and columns and last[root(views, op.x)] >= reading:
            found[op.output] = op
    return found


def _last_reads(graph: IntegerGraph, views: dict[str, str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for at, op in enumerate(graph.ops):
        for name in op.inputs:
            found[root(views, name)] = at
    return found


def root(views: dict[str, str], name: str) -> str:
    """The tensor whose bytes a view is."""
    while name in views:
        name = views[name]
    return name
