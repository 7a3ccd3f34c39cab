"""Emulated cores as targets of latency tables."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import nn

from mixbit.cost import LatencyTable, LayerBits
from mixbit.errors import ExportError
from mixbit.export.c import COptions
from mixbit.export.c._program import build_program
from mixbit.export.mcu.target import BoardTarget, kernel_of, owner_of
from mixbit.integer.graph import IntegerGraph
from mixbit.latency.tables import OVERHEAD, FloatModel, build, estimate, options_of
from tests.export.graphs import Builder, random_graph, rounded
from tests.latency.test_tables import NET, small
from tests.needs import needs

DSP = COptions(kernels="dsp")


def lowered(layers: Mapping[str, LayerBits]) -> IntegerGraph:
    return rounded(small(layers), "single")


@pytest.mark.parametrize("seed", range(12))
def test_every_layer_owns_a_step_and_every_step_has_a_kernel(seed: int) -> None:
    graph = rounded(random_graph(seed, spatial=1 + seed % 2), "single")
    program = build_program(graph, DSP)
    assert {owner_of(program, step.op) for step in program.steps} - {None} == {op.name for op in graph.weighted()}
    assert all(kernel_of(step).startswith("mixbit_") for step in program.steps)


def test_a_change_of_grid_is_of_the_first_that_reads_it_where_that_is_a_layer() -> None:
    def owner(first: str, last: str) -> str | None:
        b = Builder((4, 6, 6), bits=8, signed=True)
        b.rounding = "single"
        changed = b.requantize(b.first, bits=8, signed=True)
        read = {"conv": lambda: b.conv(changed, 4, 3, bits=8), "add": lambda: b.add(changed, changed, bits=8)}
        both = b.add(read[first](), read[last](), bits=8)
        program = build_program(b.finish(b.linear(b.flatten(both), 3, bits=None)), DSP)
        return owner_of(program, program.graph.readers(program.graph.ops[0].output)[0])

    assert owner("conv", "conv") == owner("conv", "add") == "op2"
    assert owner("add", "conv") is None


def test_kernels_differ_in_shape_and_width_and_in_nothing_else() -> None:
    b = Builder((4, 6, 6), seed=3)
    b.rounding = "single"
    x = b.conv(b.first, 4, 3, weight_bits=4, bits=8, signed=True)
    x = b.conv(x, 4, 3, weight_bits=4, bits=8, signed=True)
    x = b.conv(x, 4, 3, weight_bits=2, bits=8, signed=True)
    x = b.conv(x, 4, 3, weight_bits=4, stride=2, bits=8, signed=True)
    steps = build_program(b.finish(b.linear(b.flatten(x), 3, bits=None)), DSP).steps
    first, second, narrow, strided, *_ = map(kernel_of, steps)
    assert first == second
    assert len({first, narrow, strided}) == 3


@needs("board")
@pytest.mark.slow
def test_a_table_of_instructions_predicts_other_policies() -> None:
    checks = {"mixed": {"op1": LayerBits(8, 4), "op2": LayerBits(4, 8), "op6": LayerBits(4, 4)}}
    target = BoardTarget(core="cortex-m4")
    table = build(NET, lowered, target, options=options_of([4, 8]), repeats=1, checks=checks)
    assert (table.target, table.unit, table.device.cpu) == ("cortex-m4", "instructions", target.device.cpu)
    assert "GCC" in table.runtime_version and "QEMU" in table.runtime_version
    assert all(one.spread == 0 for layer in table.layers.values() for one in layer.options.values())
    assert abs(table.checks[0].error_percent) < 10
    assert estimate(table, lowered(checks["mixed"]), target) == pytest.approx(table.checks[0].measured, rel=0.1)
    assert LatencyTable.from_json(table.to_json()) == table


@needs("board")
def test_steps_add_up_to_the_whole() -> None:
    (found,) = (
        BoardTarget(core="cortex-m3")
        .profile({"one": lowered(dict.fromkeys(("op1", "op2", "op6"), LayerBits(8, 8)))}, 1)
        .values()
    )
    assert sum(step.median for step in found.steps) == found.whole.median
    assert found.steps[-1].kind == OVERHEAD and found.steps[-1].median < 0.1 * found.whole.median


def test_a_float_network_is_an_error() -> None:
    network = FloatModel(model=nn.Linear(2, 2), example=torch.zeros(1, 2))
    with pytest.raises(ExportError, match="no float32 kernels"):
        BoardTarget().time({"float32": network}, 1)


def test_an_unknown_core_is_an_error() -> None:
    with pytest.raises(ExportError, match="cortex-m0"):
        BoardTarget(core="cortex-m0")
