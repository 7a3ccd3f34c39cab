"""The Predictor of an emulated board: a few inputs at a time, each some seconds of this machine's time."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path

import numpy as np

from mixbit.data import InputSpace
from mixbit.export.c import COptions, CProgram, as_program, output_scales, write_c
from mixbit.export.c.host import read_options
from mixbit.export.c.predictor import to_outputs
from mixbit.export.mcu.boards import Board
from mixbit.export.mcu.model import as_board, build_model, run_model
from mixbit.inference import ArrayPredictor
from mixbit.integer.arithmetic import Array, quantize
from mixbit.integer.graph import IntegerGraph

__all__ = ["BoardPredictor"]


class BoardPredictor(ArrayPredictor):
    """The written C on an emulated microcontroller.

    Args:
        network: from `mixbit.export.lower` with `rounding="single"` or `"double"`, or what `build_program` made of it.
        space: of the inputs.
        board: a board, its name or its core.
        folder: what `write_c` made of the network; None writes it anew.
        options: how it is written; None takes the kernels with two products an instruction.
        timeout_s: seconds of this machine for a batch.
        batch: inputs at once.

    Raises:
        ExportError: compiler or emulator are not installed, the network does not fit into the board's memory, or as
            `mixbit.export.c.write_c`.
    """

    def __init__(
        self,
        network: IntegerGraph | CProgram,
        space: InputSpace | None = None,
        *,
        board: Board | str = "cortex-m4",
        folder: Path | None = None,
        options: COptions | None = None,
        timeout_s: float = 600.0,
        batch: int = 16,
    ) -> None:
        self._board, self._timeout_s = as_board(board), timeout_s
        chosen = options if folder is None else read_options(folder, network)
        program = self._program = as_program(network, chosen, COptions(kernels="dsp"))
        shape = program.source.tensors[program.source.input].shape
        super().__init__(f"C on {self._board.name}", space, shape, batch=batch)
        place = Path(tempfile.mkdtemp(prefix="mixbit-board-"))
        weakref.finalize(self, shutil.rmtree, place, ignore_errors=True)
        written = folder or write_c(program, place / "model").path
        self._image = build_model(written, self._board, into=place / "build", hook=False)

    def _run(self, z: Array) -> Array:
        stored = self._program.tensors[self._program.input]
        inputs = [stored.to_bytes(q) for q in quantize(z, self._program.source.grid(self._program.input))]
        raw = run_model(self._image, inputs, self._timeout_s).files["outputs"]
        sums = np.frombuffer(raw, "<i4").reshape(len(z), -1)
        inner, scales = self._program.output_inner, output_scales(self._program)
        channel = np.arange(sums.shape[1]) // inner % len(scales)
        return to_outputs(self._program, sums.astype(np.float32) * scales[channel])
