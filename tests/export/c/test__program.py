"""Which tensors are stored, which are tables, and which graphs have no form."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mixbit.errors import ExportError
from mixbit.export.c import COptions, footprint, plan_memory, render_c
from mixbit.export.c._program import CProgram, as_program, build_program
from mixbit.export.c._storage import container_bits, stored
from mixbit.integer import IntegerGraph
from mixbit.integer import graph as g
from mixbit.integer.arithmetic import Grid
from tests.export.graphs import Builder, rounded


def program(graph: IntegerGraph) -> CProgram:
    return build_program(rounded(graph, "single"), COptions())


def ending(b: Builder, x: str) -> IntegerGraph:
    return b.finish(b.linear(b.flatten(x), 2, bits=None))


def test_a_copy_becomes_a_table_where_columns_alone_read_it() -> None:
    """A sum and a depthwise convolution read elements one by one."""

    def folded(reader: str) -> int:
        b = Builder((4, 3, 3))
        x = b.requantize(b.first, bits=4)
        y = b.conv(x, 4, 1, padding=0)
        if reader == "sum":
            y = b.add(x, y)
        if reader == "depthwise":
            y = b.add(b.conv(x, 4, 1, groups=4, padding=0), y)
        return len(program(ending(b, b.add(y, b.first))).folded)

    assert [folded(reader) for reader in ("nothing else", "sum", "depthwise")] == [1, 0, 0]


def test_an_input_is_quantized_once() -> None:
    b = Builder((3,))
    graph = b.finish(b.linear(b.first, 2, bits=None))
    again = g.QuantizeInput(name="again", inputs=("x",), output="again")
    tensors = dict(graph.tensors) | {"again": replace(graph.tensors["xq"], name="again")}
    with pytest.raises(ExportError, match=r"quantizes its input 2 times\. Legal: once"):
        program(replace(graph, ops=(again, *graph.ops), tensors=tensors))


def test_a_softmax_in_the_middle_is_refused() -> None:
    b = Builder((3,))
    b.softmax(b.first)
    with pytest.raises(ExportError, match="its float32 result is read by another layer"):
        program(b.finish(b.linear(b.first, 2, bits=None)))


def test_moves_stay_on_one_grid() -> None:
    """Other zero points are numbers of the caller; another place of the integers in the byte is another move."""
    for make in (lambda b: b.max_pool(b.first), lambda b: b.flatten(b.first), lambda b: b.concat(b.first, b.first)):
        b = Builder((2, 4, 4))
        graph = ending(b, make(b))
        output = graph.ops[1].output
        moved = replace(graph.tensors[output], grid=Grid(scale=0.1, zero_point=0, qmin=0, qmax=255))
        program(graph)
        with pytest.raises(ExportError, match=f"op1: .* of tensors on different grids .xq, {output}."):
            program(replace(graph, tensors=dict(graph.tensors) | {output: moved}))


def test_integers_of_a_byte_or_two_and_no_more() -> None:
    def one(qmin: int, qmax: int, zero_point: int = 0) -> g.Tensor:
        grid = Grid(scale=0.1, zero_point=zero_point, qmin=qmin, qmax=qmax)
        return g.Tensor(name="t", shape=(2,), grid=grid, source="calibrated")

    assert [
        (found.low, found.high) for found in (stored(one(0, 255), packed=False), stored(one(-128, 127), packed=False))
    ] == [
        (-128, 127),
        (-128, 127),
    ]
    assert [stored(one(*ends), packed=True).bits for ends in ((0, 255), (0, 256), (-129, 127), (0, 65535))] == [
        8,
        16,
        16,
        16,
    ]
    wide = stored(one(0, 65535, 9), packed=False)
    assert (wide.low, wide.high, wide.zero) == (-32768, 32767, 9 - 32768)
    assert wide.to_bytes(np.array([0, 65535])) == b"\x00\x80\xff\x7f"
    assert wide.from_bytes(b"\x01\x80\xff\x7f").tolist() == [1, 65535]
    for qmin, qmax, bits in ((-1, 254, 8), (0, 65536, 16), (-32769, 32767, 16)):
        with pytest.raises(ExportError, match=f"t: integers from {qmin} to {qmax} do not fit {bits} bits"):
            stored(one(qmin, qmax), packed=False)
    stored(one(0, 255, 1024 + 128), packed=False)
    with pytest.raises(ExportError, match="t: the zero point 1153 is far outside of its integers"):
        stored(one(0, 255, 1025 + 128), packed=False)
    with pytest.raises(ExportError, match="t: a float32 tensor in the middle"):
        stored(replace(one(0, 1), grid=None), packed=False)


def test_containers() -> None:
    assert [container_bits(bits) for bits in range(1, 9)] == [2, 2, 4, 4, 8, 8, 8, 8]


def test_a_built_program_is_taken_as_it_is() -> None:
    b = Builder((4,))
    graph = rounded(b.finish(b.linear(b.first, 3, bits=None)), "single")
    plain = COptions(kernels="dsp")
    assert as_program(graph, None).options == COptions() and as_program(graph, None, plain).options == plain
    built = as_program(graph, plain)
    assert built.source is graph
    assert as_program(built, None) is built and as_program(built, COptions(kernels="dsp")) is built
    with pytest.raises(ExportError, match="built with .*dsp.*, not with .*plain"):
        as_program(built, COptions())
    assert footprint(built) == footprint(graph, options=plain) and render_c(built) == render_c(graph, options=plain)
    assert plan_memory(built) == plan_memory(graph, options=plain)
