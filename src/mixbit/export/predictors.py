"""Predictors of the integer graph: the reference executor, and a session of ONNX Runtime."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np

from mixbit.data import InputSpace
from mixbit.errors import ExportError
from mixbit.export._onnx_session import load_session
from mixbit.export.qonnx import trace_qonnx, write_qonnx
from mixbit.inference import ArrayPredictor
from mixbit.integer import executor
from mixbit.integer.arithmetic import Array
from mixbit.integer.graph import IntegerGraph

__all__ = ["ExecutorPredictor", "OnnxPredictor", "QonnxPredictor"]


class ExecutorPredictor(ArrayPredictor):
    """The reference executor: what all files of a network are held against.

    Args:
        graph: from `mixbit.export.lower`.
        space: of the inputs.
        batch: inputs at once.
    """

    def __init__(self, graph: IntegerGraph, space: InputSpace | None = None, *, batch: int = 64) -> None:
        super().__init__("integer executor", space, graph.tensors[graph.input].shape, batch=batch)
        self._graph = graph

    def _run(self, z: Array) -> Array:
        return executor.run(self._graph, z)


class OnnxPredictor(ArrayPredictor):
    """A file in ONNX Runtime on this CPU.

    Args:
        source: an ONNX file with one input and one output, of mixbit or of another tool; or its content.
        space: of the inputs.
        threads: of one operation.
        batch: inputs at once; a file of a fixed batch size is given that many, the last one again where they are fewer.

    Raises:
        ExportError: the file cannot be read, or has not one input of floats.
        MissingExtra: onnxruntime is not installed.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | bytes,
        space: InputSpace | None = None,
        *,
        threads: int = 1,
        batch: int = 256,
    ) -> None:
        self._session = load_session(source, threads=threads)
        name = "ONNX Runtime" if isinstance(source, bytes) else f"ONNX Runtime, {Path(source).name}"
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)" or not inputs[0].shape:
            found = ", ".join(f"{one.name} {one.shape} {one.type}" for one in inputs) or "nothing"
            raise ExportError(f"{name} takes {found}. Legal: one input of floats, the batch first.")
        self._input = inputs[0].name
        first, *shape = inputs[0].shape
        if any(not isinstance(size, int) for size in shape):
            raise ExportError(f"{name} takes inputs of shape {inputs[0].shape}. Legal: all but the batch are numbers.")
        self._fixed = first if isinstance(first, int) else 0
        super().__init__(name, space, tuple(shape), batch=min(batch, first) if isinstance(first, int) else batch)

    def _run(self, z: Array) -> Array:
        filled = np.concatenate([z, *[z[-1:]] * (self._fixed - len(z))]) if len(z) < self._fixed else z
        found: Array = self._session.run(None, {self._input: filled})[0]
        return found[: len(z)]


class QonnxPredictor(ArrayPredictor):
    """A QONNX file in the executor of the qonnx package: in Python, and slow.

    Args:
        graph: from `mixbit.export.lower` with `rounding="float32"`.
        space: of the inputs.
        batch: inputs at once.
    """

    def __init__(self, graph: IntegerGraph, space: InputSpace | None = None, *, batch: int = 16) -> None:
        super().__init__("QONNX", space, graph.tensors[graph.input].shape, batch=batch)
        self._graph = graph

    def _run(self, z: Array) -> Array:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.qonnx.onnx"
            write_qonnx(self._graph, path)
            return trace_qonnx(path, z)[self._graph.output].astype(np.float32)
