"""Compiled C as a Predictor: the contract, and bit for bit the executor."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from mixbit.data import InputSpace
from mixbit.errors import ExportError
from mixbit.export import ExecutorPredictor
from mixbit.export.c import COptions, CPredictor, CProgram, write_c
from mixbit.inference import Predictor
from mixbit.integer import Rounding
from mixbit.integer import graph as g
from mixbit.testing.predictors import PredictorCases
from tests.export.graphs import Builder, rounded
from tests.inference import seen
from tests.needs import needs

pytestmark = needs("gcc")
SPACE = PredictorCases.space(type("", (), {"shape": seen.SHAPE})())  # type: ignore[arg-type]


@cache
def made(space: InputSpace) -> CPredictor:
    return CPredictor(seen.graph(SPACE), space, flags=("-O0",))


class TestC(PredictorCases):
    shape = seen.SHAPE

    def make(self, space: InputSpace) -> Predictor:
        return made(space)

    def test_it_is_the_executor_bit_for_bit(self) -> None:
        x = self.inputs(64)
        assert torch.equal(self.make(SPACE).logits(x), ExecutorPredictor(seen.graph(SPACE), SPACE).logits(x))


@pytest.mark.parametrize(("rounding", "packed"), [("double", True), ("single", True), ("litert", False)])
def test_other_ways_to_write_it(rounding: Rounding, packed: bool) -> None:
    x = TestC().inputs(8)
    graph = seen.graph(SPACE, rounding)
    found = CPredictor(graph, SPACE, options=COptions(pack_activations=packed), flags=("-O0",))
    assert torch.equal(found.logits(x), ExecutorPredictor(graph, SPACE).logits(x))


def test_weights_of_one_bit_are_predicted_with_as_they_are_exported_by_default() -> None:
    b = Builder((3, 5, 4), seed=2)
    x = b.conv(b.conv(b.first, 5, weight_bits=1), 10, groups=5, weight_bits=1)
    graph = rounded(b.finish(b.linear(b.flatten(x), 3, weight_bits=1, bits=None)), "single")
    inputs = torch.from_numpy(b.samples)
    found = CPredictor(graph, options=COptions(kernels="dsp"), flags=("-O0",))
    assert torch.equal(found.logits(inputs), ExecutorPredictor(graph).logits(inputs))


@pytest.mark.parametrize("last", ["convolution", "linear"])
def test_outputs_of_several_dimensions_come_back_in_the_order_of_the_reference(last: str) -> None:
    """A device has the channels of its last layer innermost."""
    b = Builder((3, 4, 5) if last == "convolution" else (3, 7))
    output = b.conv(b.first, 4, padding=1, bits=None) if last == "convolution" else b.linear(b.first, 4, bits=None)
    graph, x = rounded(b.finish(output), "single"), torch.from_numpy(b.samples)
    wanted = ExecutorPredictor(graph).logits(x)
    assert wanted.shape == ((2, 4, 4, 5) if last == "convolution" else (2, 3, 4))
    assert torch.equal(CPredictor(graph, flags=("-O0",)).logits(x), wanted)


def test_it_is_written_with_the_options_that_it_is_read_by(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(program: CProgram, folder: Path) -> None:
        raise ExportError(f"written with {program.options}")

    monkeypatch.setattr("mixbit.export.c.predictor.write_c", write)
    options = COptions(kernels="dsp", pack_activations=True)
    with pytest.raises(ExportError) as found:
        CPredictor(seen.graph(SPACE), options=options)
    assert str(found.value) == f"written with {options}"


def test_compiler_and_flags_reach_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def compiled(folder: Path, **how: object) -> Path:
        raise ExportError(f"compiled with {how}")

    monkeypatch.setattr("mixbit.export.c.predictor.compile_library", compiled)
    with pytest.raises(ExportError) as found:
        CPredictor(seen.graph(SPACE), compiler="clang", flags=("-O0",))
    wanted = {"compiler": "clang", "flags": ("-O0",)}
    assert str(found.value) == f"compiled with {wanted}"


def test_a_written_folder_stays_as_it_is(tmp_path: Path) -> None:
    folder = write_c(seen.graph(SPACE), tmp_path / "c").path
    before = sorted(path.name for path in folder.rglob("*"))
    x = TestC().inputs(4)
    found = CPredictor(seen.graph(SPACE), SPACE, folder=folder, flags=("-O0",))
    assert torch.equal(found.logits(x), made(SPACE).logits(x))
    assert sorted(path.name for path in folder.rglob("*")) == before
    other = replace(seen.graph(SPACE), fingerprint="another")
    with pytest.raises(ExportError, match="another"):
        CPredictor(other, folder=folder)


def test_a_softmax_at_the_end_is_the_references() -> None:
    plain = seen.graph(SPACE)
    graph = replace(
        plain,
        ops=(*plain.ops, g.Softmax(name="softmax", inputs=(plain.output,), output="p")),
        output="p",
        tensors={**plain.tensors, "p": replace(plain.tensors[plain.output], name="p")},
    )
    x = TestC().inputs(4)
    found = CPredictor(graph, SPACE, flags=("-O0",)).logits(x)
    assert torch.equal(found, ExecutorPredictor(graph, SPACE).logits(x))
    torch.testing.assert_close(found.sum(1), torch.ones(4))


def test_a_compiler_that_is_not_there() -> None:
    with pytest.raises(ExportError, match="no-such-cc"):
        CPredictor(seen.graph(SPACE), compiler="no-such-cc")


@pytest.mark.parametrize(("bits", "signed"), [(9, True), (16, True), (16, False)])
def test_float_inputs_are_quantized_to_16_bits_as_the_reference_does(bits: int, signed: bool) -> None:
    """Ties and both ends, by the helper that is written in float32."""
    b = Builder((1, 4, 4), bits=bits, signed=signed, seed=2)
    graph = rounded(b.finish(b.linear(b.flatten(b.first), 3, bits=None)), "single")
    grid = graph.grid(graph.ops[0].output)
    x = np.linspace(grid.qmin - 9, grid.qmax + 9, 64).reshape(4, 1, 4, 4)
    x = torch.from_numpy((np.round(2 * x) / 2 * grid.scale).astype(np.float32))
    assert torch.equal(CPredictor(graph, flags=("-O0",)).logits(x), ExecutorPredictor(graph).logits(x))
