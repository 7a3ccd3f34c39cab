"""An exported network on an emulated board: byte for byte against the reference executor, and in instructions."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mixbit.errors import ExportError
from mixbit.export.c import COptions, CProgram, as_program, layer_bytes, library_of, write_c
from mixbit.export.mcu.boards import Board, find_board
from mixbit.export.mcu.emulator import FAULT, Run, run
from mixbit.export.mcu.image import FIRMWARE, Image, Sizes, build, compile_sources
from mixbit.integer.arithmetic import Array
from mixbit.integer.graph import IntegerGraph

__all__ = ["BoardVerification", "Counts", "LayerCount", "build_model", "count", "verify_board"]

_FAILURES = {
    2: "a file could not be opened",
    3: "the network refused the input",
    4: "a file could not be written",
    FAULT: "the program left its memory, or the core lacks an instruction",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCount:
    """One layer on a board."""

    index: int
    name: str
    kernel: str
    """C functions that it calls."""
    macs: int
    instructions: int
    """Median over the samples, to one tick of the board's clock (40 instructions)."""

    @property
    def per_mac(self) -> float | None:
        """Instructions of one product; None for a layer without products."""
        return self.instructions / self.macs if self.macs else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What an inference takes on a board."""

    board: str
    layers: tuple[LayerCount, ...]
    instructions: int
    """Instructions of the whole inference, without hooks: median over the samples."""
    stack_bytes: int
    """Most stack in use, with the calls of the program around the network."""
    sizes: Sizes
    """Flash and RAM of the network alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardVerification:
    """What a network was found to do on a board.

    >>> sizes = Sizes(text=1, rodata=1, data=0, bss=1)
    >>> BoardVerification(board="mps2-an386", core="cortex-m4", samples=2, layers=9, identical_outputs=2,
    ...     identical_layers=17, first_difference="sample 1, layer 4 (fc)", sizes=sizes).exact
    False
    """

    board: str
    core: str
    samples: int
    layers: int
    """Layers of the network, each compared for every sample."""
    identical_outputs: int
    """Samples whose outputs have the reference's bytes."""
    identical_layers: int
    """Layers with the same bytes, of `samples * layers`."""
    first_difference: str | None
    """Sample and layer that first differ."""
    sizes: Sizes
    """Flash and RAM of the network alone."""

    @property
    def exact(self) -> bool:
        """Whether every byte of every layer is that of the reference."""
        return self.first_difference is None


def build_model(
    folder: Path,
    board: Board,
    *,
    into: Path,
    layers: bool = False,
    hook: bool = True,
    kernels: Sequence[Path] | None = None,
) -> Image:
    """Compile an exported network for a board, with the program that runs it file to file.

    Args:
        folder: of `mixbit.export.c.write_c`.
        board: see `mixbit.export.mcu.find_board`.
        into: folder for objects and image.
        layers: write down what every layer wrote.
        hook: count the instructions of every layer; without it, the network is as in a firmware.
        kernels: objects of weights and kernels, compiled before; None compiles them.

    Raises:
        ExportError: as `mixbit.export.mcu.build`.
    """
    objects = _kernels(folder, board, into) if kernels is None else kernels
    return build(
        folder,
        board,
        into=into,
        sources=[folder / "model.c"],
        program=[FIRMWARE / "runner.c"],
        include=[folder, folder / "kernels"],
        defines=[*(["MODEL_HOOK"] if hook or layers else []), *(["RUNNER_LAYERS"] if layers else [])],
        objects=objects,
    )


def _kernels(folder: Path, board: Board, into: Path) -> list[Path]:
    """What does not depend on the hook."""
    sources, headers = [folder / "weights.c", *sorted((folder / "kernels").glob("*.c"))], [folder, folder / "kernels"]
    library, to, defines = library_of(folder), into / "kernels" / "model", tuple[str, ...]()
    if library is not None:
        sources, headers, defines = [*sources, *library.sources], [*headers, library.include], library.defines
    return compile_sources(sources, board, into=to, include=headers, defines=defines)


def verify_board(
    network: IntegerGraph | CProgram,
    samples: Array,
    *,
    board: Board | str = "cortex-m4",
    options: COptions | None = None,
    folder: Path | None = None,
    timeout_s: float = 600.0,
) -> BoardVerification:
    """Run a network as C on an emulated board, and compare every layer with the reference executor.

    Args:
        network: from `mixbit.export.lower` with `rounding="single"` or `"double"`, or what `build_program` made of it.
        samples: inputs `(N, *input shape)` float32.
        board: a board, its name or its core.
        options: how it is written; None takes the kernels with two products an instruction.
        folder: where `write_c` has written it, with these options; None writes it to a temporary folder.
        timeout_s: seconds on this machine.

    Raises:
        ExportError: compiler or emulator are not installed, the network does not fit into the board's memory, or the
            program fails; or as `write_c`.
    """
    board, program = as_board(board), as_program(network, options, COptions(kernels="dsp"))
    inputs, wanted = layer_bytes(program, np.asarray(samples, np.float32))
    with tempfile.TemporaryDirectory() as name:
        written = folder or write_c(program, Path(name) / "model").path
        image = build_model(written, board, into=Path(name) / "build", layers=True)
        found = run_model(image, inputs, timeout_s)
    tally = _compare(program, wanted, found.files["outputs"], found.files["layers"])
    return BoardVerification(
        board=board.name,
        core=board.core,
        samples=len(samples),
        layers=len(program.steps),
        identical_outputs=tally.outputs,
        identical_layers=tally.layers,
        first_difference=tally.first,
        sizes=image.model,
    )


def count(
    network: IntegerGraph | CProgram,
    *,
    board: Board | str = "cortex-m4",
    samples: Array | None = None,
    options: COptions | None = None,
    timeout_s: float = 600.0,
) -> Counts:
    """Instructions of an inference, by layer and as a whole.

    Args:
        network: as in `verify_board`.
        board: as in `verify_board`.
        samples: inputs `(N, *input shape)` float32; None takes one of random numbers. Only branches on saturation
            depend on the numbers.
        options: as in `verify_board`.
        timeout_s: seconds on this machine.

    Raises:
        ExportError: as in `verify_board`.
    """
    board, program = as_board(board), as_program(network, options, COptions(kernels="dsp"))
    if samples is None:
        shape = program.graph.tensors[program.graph.input].shape
        samples = np.random.default_rng(0).standard_normal((1, *shape)).astype(np.float32)
    inputs, _ = layer_bytes(program, np.asarray(samples, np.float32))
    with tempfile.TemporaryDirectory() as name:
        folder = write_c(program, Path(name) / "model").path
        kernels = _kernels(folder, board, Path(name))
        images = [
            build_model(folder, board, into=Path(name) / str(hook), hook=hook, kernels=kernels)
            for hook in (True, False)
        ]
        hooked, plain = (run_model(image, inputs, timeout_s) for image in images)
    ticks, whole = (np.median(_ticks(one, program), axis=0) for one in (hooked, plain))
    return Counts(
        board=board.name,
        layers=_layers(program, board, ticks),
        instructions=_instructions(board, whole[-1]),
        stack_bytes=int.from_bytes(plain.files["stack"], "little"),
        sizes=images[1].model,
    )


def as_board(board: Board | str) -> Board:
    """A board, or the one of that name or core."""
    return find_board(board) if isinstance(board, str) else board


def run_model(image: Image, inputs: Sequence[bytes], timeout_s: float) -> Run:
    """What a network on a board made of stored inputs; an error with its reason if it did not end well."""
    found = run(image, {"inputs": b"".join(inputs)}, timeout_s=timeout_s)
    if found.exit_code != 0:
        what = _FAILURES.get(found.exit_code, "unknown")
        raise ExportError(
            f"the network on {image.board.name} ended with {found.exit_code}: {what}. {found.log.strip()[:300]}"
        )
    return found


def _ticks(found: Run, program: CProgram) -> Array:
    return np.frombuffer(found.files["ticks"], "<u4").reshape(-1, len(program.steps) + 1)


def _instructions(board: Board, ticks: float) -> int:
    return round(float(ticks) * board.instructions_per_tick)


def _layers(program: CProgram, board: Board, ticks: Array) -> tuple[LayerCount, ...]:
    return tuple(
        LayerCount(
            index=step.index,
            name=step.op.name,
            kernel="+".join(dict.fromkeys(call.function for call in step.printed.calls)),
            macs=step.printed.macs,
            instructions=_instructions(board, ticks[step.index]),
        )
        for step in program.steps
    )


@dataclass(slots=True)
class _Tally:
    outputs: int = 0
    layers: int = 0
    first: str | None = None

    def same(self, found: bytes, wanted: bytes, what: str) -> bool:
        """Whether they are; the first difference is kept."""
        if found != wanted and self.first is None:
            self.first = what
        return found == wanted


def _compare(program: CProgram, wanted: list[list[bytes]], outputs: bytes, layers: bytes) -> _Tally:
    tally, layer_at, output_at = _Tally(), 0, 0
    last = next(step.index for step in program.steps if step.op is program.last)
    for sample, one in enumerate(wanted):
        for step, raw in zip(program.steps, one, strict=True):
            what = f"sample {sample}, layer {step.index} ({step.op.name})"
            tally.layers += tally.same(layers[layer_at : layer_at + len(raw)], raw, what)
            layer_at += len(raw)
        size = len(one[last])
        tally.outputs += tally.same(outputs[output_at : output_at + size], one[last], f"sample {sample}, the outputs")
        output_at += size
    return tally
