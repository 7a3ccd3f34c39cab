"""An emulated microcontroller as a target of latency tables: instructions of the C that `mixbit export` writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from mixbit._version import __version__
from mixbit.cost import Device, LatencyUnit, Timing
from mixbit.errors import ExportError
from mixbit.export.c import COptions, CProgram, CStep, build_program
from mixbit.export.mcu._tools import COMPILER, EMULATOR, version_of
from mixbit.export.mcu.boards import Board, find_board
from mixbit.export.mcu.model import Counts, count
from mixbit.integer import graph as g
from mixbit.integer.graph import IntegerGraph
from mixbit.latency import OVERHEAD, FloatModel, Measurement, TimedStep

__all__ = ["BoardTarget"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardTarget:
    """A core under QEMU, one inference, counted in instructions.

    Counts are the same in every run, so all spreads are zero and `repeats` changes nothing. Networks must be lowered
    with `rounding="single"` or `"double"`.

    >>> target = BoardTarget(core="cortex-m4")
    >>> target.name, target.unit, target.device.cpu
    ('cortex-m4', 'instructions', 'cortex-m4 (mps2-an386 of QEMU)')
    """

    core: str = "cortex-m4"
    """The core, one of `mixbit.export.mcu.BOARDS`."""
    options: COptions = field(default_factory=lambda: COptions(kernels="dsp"))
    """How the network is written as C."""

    unit: ClassVar[LatencyUnit] = "instructions"
    runtime: ClassVar[str] = "mixbit C"
    threads: ClassVar[int] = 1
    batch: ClassVar[int] = 1
    arithmetic: ClassVar[str] = (
        "The core multiplies 16-bit integers, two at a time; weights of any width are widened to that in registers"
    )

    def __post_init__(self) -> None:
        """Check that there is a board with this core.

        Raises:
            ExportError: there is no board with it.
        """
        find_board(self.core)

    @property
    def name(self) -> str:
        """Name of the core."""
        return self.core

    @property
    def board(self) -> Board:
        """The emulated board with this core."""
        return find_board(self.core)

    @property
    def runtime_version(self) -> str:
        """Versions of mixbit, the compiler and the emulator: code and counts depend on all three.

        Raises:
            ExportError: compiler or emulator are not installed.
        """
        return f"{__version__}, GCC {version_of(COMPILER)}, QEMU {version_of(EMULATOR)}, {self.options.kernels} kernels"

    @property
    def device(self) -> Device:
        """The core and the machine around it."""
        return Device(cpu=f"{self.core} ({self.board.name} of QEMU)", cores=1)

    def profile(self, graphs: Mapping[str, IntegerGraph], repeats: int) -> dict[str, Measurement]:
        """Instructions of every network, step by step, counted once."""
        return {name: self._measure(graph) for name, graph in graphs.items()}

    def time(self, networks: Mapping[str, IntegerGraph | FloatModel], repeats: int) -> dict[str, Timing]:
        """Whole networks, once each.

        Raises:
            ExportError: one of them is a float32 network.
        """
        return {name: _exactly(self._count(one).instructions) for name, one in networks.items()}

    def _count(self, network: IntegerGraph | FloatModel) -> Counts:
        if isinstance(network, FloatModel):
            raise ExportError(
                f"{self.core} has no float32 kernels. Give limits in instructions, or as a uniform policy."
            )
        return count(network, board=self.board, options=self.options)

    def _measure(self, graph: IntegerGraph) -> Measurement:
        program = build_program(graph, self.options)
        found = count(program, board=self.board)
        steps = [
            TimedStep(
                owner=owner_of(program, layer.op),
                kind=layer.op.kind,
                kernel=kernel_of(layer),
                shape=graph.tensors[layer.op.output].shape,
                median=one.instructions,
                spread=0,
            )
            for layer, one in zip(program.steps, found.layers, strict=True)
        ]
        rest = max(found.instructions - sum(step.median for step in steps), 0)
        run = TimedStep(owner=None, kind=OVERHEAD, kernel=OVERHEAD, shape=(), median=rest, spread=0)
        return Measurement(whole=_exactly(found.instructions), steps=(*steps, run))


def _exactly(instructions: int) -> Timing:
    return Timing(median=instructions, spread=0)


def owner_of(program: CProgram, op: g.Op) -> str | None:
    """The layer that an operation serves: a change of grid is that of the first layer that reads its result."""
    if isinstance(op, g.Weighted):
        return op.name
    readers = program.graph.readers(op.output) if isinstance(op, g.Requantize) else ()
    return readers[0].name if readers and isinstance(readers[0], g.Weighted) else None


_ANY_VALUE = {"weights", "bias", "exponent", "row_bytes", "shift", "low", "high", "zero", "pad", "x_low"}
_ANY_VALUE |= {"a_zero", "b_zero", "x_zero", "y_zero", "x_start", "y_start"}
"""Fields that may hold any number without a change in what is executed."""
_POINTERS = {"multiplier", "table"}
"""Fields of which it counts whether they are null."""


def kernel_of(layer: CStep) -> str:
    """What decides the count of a layer: functions, shapes, widths, and how it rounds."""
    return "; ".join(" ".join([call.function, *_details(call.fields)]) for call in layer.printed.calls)


def _details(fields: Mapping[str, Any]) -> Iterator[str]:
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from _details(value)
        elif name in _POINTERS:
            yield f"{name}={int(str(value) not in ('0', 'NULL'))}"
        elif name not in _ANY_VALUE:
            yield f"{name}={value}"
