"""The integer graph as Predictors: the contract, and both against the fake-quantized network and each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mixbit.data import InputSpace
from mixbit.errors import ExportError
from mixbit.export import ExecutorPredictor, OnnxPredictor
from mixbit.export.onnx import build_onnx, load_session
from mixbit.inference import Predictor, TorchPredictor
from mixbit.integer import IntegerGraph, executor
from mixbit.integer.arithmetic import Array
from mixbit.testing.predictors import PredictorCases
from tests.inference import seen
from tests.needs import needs


class TestExecutor(PredictorCases):
    shape = seen.SHAPE

    def make(self, space: InputSpace) -> Predictor:
        return ExecutorPredictor(seen.graph(self.space()), space)

    def test_it_is_the_reference(self) -> None:
        x, graph = self.inputs(), seen.graph(self.space())
        wanted = executor.run(graph, self.space().enter(x).numpy())
        assert np.array_equal(self.make(self.space()).logits(x).numpy(), wanted)

    def test_it_is_near_the_fake_quantized_network(self) -> None:
        x = self.inputs(64)
        fake = TorchPredictor(seen.quantized(self.space())[0], self.space()).logits(x).detach()
        apart = (self.make(self.space()).logits(x) - fake).abs().mean() / fake.abs().mean()
        assert apart < 0.1  # what is rounded between the layers; of another network it would be 1


def test_the_executor_is_given_so_many_inputs_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    parts, run = [], executor.run

    def counted(graph: IntegerGraph, z: Array) -> Array:
        parts.append(len(z))
        return run(graph, z)

    monkeypatch.setattr(executor, "run", counted)
    cases = TestExecutor()
    ExecutorPredictor(seen.graph(cases.space()), cases.space(), batch=3).logits(cases.inputs(8))
    assert parts == [3, 3, 2]


@needs("onnx")
def test_the_runtime_is_given_so_many_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, load = [], load_session

    def loaded(source: Path, *, threads: int = 1) -> object:
        given.append(threads)
        return load(source, threads=threads)

    monkeypatch.setattr("mixbit.export.predictors.load_session", loaded)
    OnnxPredictor(_file(tmp_path / "one.onnx", ["N", 1, 2, 2]), threads=2)
    assert given == [2]


@needs("onnx")
class TestOnnx(PredictorCases):
    shape = seen.SHAPE

    def make(self, space: InputSpace) -> Predictor:
        graph = seen.graph(self.space(), "float32")
        return OnnxPredictor(build_onnx(graph, strict=True).SerializeToString(), space)

    def test_it_is_the_executor_bit_for_bit(self) -> None:
        x = self.inputs(64)
        wanted = ExecutorPredictor(seen.graph(self.space(), "float32"), self.space()).logits(x)
        assert torch.equal(self.make(self.space()).logits(x), wanted)


def _file(path: Path, shape: list[int | str]) -> Path:
    """A file of another tool: the inputs, flattened."""
    from onnx import TensorProto, helper, save

    ends = (helper.make_tensor_value_info(name, TensorProto.FLOAT, one) for name, one in (("x", shape), ("y", None)))
    graph = helper.make_graph([helper.make_node("Flatten", ["x"], ["y"])], "flat", *([one] for one in ends))
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@needs("onnx")
@pytest.mark.parametrize("batch", [1, 2, 3, 7, "N"])
def test_files_of_others_run_too_and_a_fixed_batch_is_kept_to(tmp_path: Path, batch: int | str) -> None:
    predictor, x = OnnxPredictor(_file(tmp_path / "one.onnx", [batch, 1, 2, 2])), torch.rand(4, 1, 2, 2)
    assert torch.equal(predictor.logits(x), x.flatten(1)) and predictor.name == "ONNX Runtime, one.onnx"


@needs("onnx")
def test_a_file_without_a_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="all but the batch are numbers"):
        OnnxPredictor(_file(tmp_path / "one.onnx", ["N", 1, "H", "W"]))


@needs("onnx")
def test_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_text("nothing")
    with pytest.raises(ExportError, match="no ONNX model"):
        OnnxPredictor(tmp_path / "x.onnx")
