"""The Predictor of compiled C on this machine: the sources that ship, as a shared library."""

from __future__ import annotations

import ctypes
import shutil
import tempfile
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mixbit.data import InputSpace
from mixbit.errors import ExportError
from mixbit.export.c._options import COptions
from mixbit.export.c._program import CProgram, as_program
from mixbit.export.c.host import compile_library, read_options
from mixbit.export.c.writer import write_c
from mixbit.inference import ArrayPredictor
from mixbit.integer import executor
from mixbit.integer.arithmetic import Array
from mixbit.integer.graph import IntegerGraph, Softmax

__all__ = ["CPredictor", "to_outputs"]

_FLOATS = np.ctypeslib.ndpointer(np.float32, flags="C_CONTIGUOUS")
_BYTES = np.ctypeslib.ndpointer(np.int8, flags="C_CONTIGUOUS")
_SUMS = np.ctypeslib.ndpointer(np.int32, flags="C_CONTIGUOUS")


class CPredictor(ArrayPredictor):
    """The written C, compiled for this machine and called in this process.

    Inputs are rounded and outputs scaled by the C's own helpers (`MODEL_FLOAT` in `model.h`); a softmax at the end,
    which C leaves to the caller, is the reference's.

    Args:
        network: from `mixbit.export.lower` with `rounding="single"`, `"double"` or `"litert"`, or what `build_program`
            made of it.
        space: of the inputs.
        folder: what `write_c` made of the network; None writes it anew. It stays as it is.
        options: how it is written; those of `folder` are in its manifest.
        compiler: a C compiler.
        flags: more flags for it.

    Raises:
        ExportError: the compiler is missing or fails; `folder` is of another network; or as `write_c`.
    """

    def __init__(
        self,
        network: IntegerGraph | CProgram,
        space: InputSpace | None = None,
        *,
        folder: Path | None = None,
        options: COptions | None = None,
        compiler: str = "gcc",
        flags: Sequence[str] = (),
    ) -> None:
        program = self._program = as_program(network, options if folder is None else read_options(folder, network))
        super().__init__("compiled C", space, program.source.tensors[program.source.input].shape)
        self._calls = _loaded(self, program, folder, compiler, flags)
        self._one_at_a_time = threading.Lock()

    def _run(self, z: Array) -> Array:
        stored = self._program.tensors[self._program.input]
        inputs = np.ascontiguousarray(z.reshape(len(z), -1)[:, stored.order], np.float32)
        outputs = np.empty((len(z), len(self._program.output_order())), np.float32)
        raw = np.empty(stored.size_bytes, np.int8)
        sums = np.empty(outputs.shape[1], np.int32)
        with self._one_at_a_time:  # the activations lie in one static arena
            for x, y in zip(inputs, outputs, strict=True):
                self._calls.model_quantize_input(x, raw)
                if self._calls.model_invoke(raw, sums):
                    raise ExportError("the compiled network refused an input. Export it again.")
                self._calls.model_dequantize_output(sums, y)
        return to_outputs(self._program, outputs)


def to_outputs(program: CProgram, values: Array) -> Array:
    """What the reference gives, from a device's outputs in real numbers.

    Args:
        program: what a device runs.
        values: `(n, outputs)` float32 in the device's order.
    """
    ordered = np.empty_like(values)
    ordered[:, program.output_order()] = values
    found = ordered.reshape(len(values), *program.graph.tensors[program.last.output].shape)
    for op in program.source.ops:
        if isinstance(op, Softmax):  # no part of the program
            found = executor.apply(program.source, op, found)
    return found


def _loaded(owner: object, program: CProgram, folder: Path | None, compiler: str, flags: Sequence[str]) -> ctypes.CDLL:
    """The library, in a folder of its own that is removed once its Predictor is gone."""
    place = Path(tempfile.mkdtemp(prefix="mixbit-c-"))
    weakref.finalize(owner, shutil.rmtree, place, ignore_errors=True)
    if folder is None:
        write_c(program, place / "model")
    else:
        shutil.copytree(folder, place / "model")
    calls = ctypes.CDLL(str(compile_library(place / "model", compiler=compiler, flags=flags)))
    calls.model_quantize_input.argtypes, calls.model_quantize_input.restype = (_FLOATS, _BYTES), None
    calls.model_invoke.argtypes, calls.model_invoke.restype = (_BYTES, _SUMS), ctypes.c_int
    calls.model_dequantize_output.argtypes, calls.model_dequantize_output.restype = (_SUMS, _FLOATS), None
    return calls
