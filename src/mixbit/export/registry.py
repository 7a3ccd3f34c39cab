"""Who prints the integer graph: one protocol, and the exporters by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mixbit._registry import Registry
from mixbit.errors import ExportError
from mixbit.integer import GRAPH_ROUNDINGS, GraphRounding, IntegerGraph

if TYPE_CHECKING:
    from mixbit.data import InputSpace
    from mixbit.inference import Predictor
    from mixbit.integer.arithmetic import Array

__all__ = ["Exporter", "Written", "exporter_names", "find_exporter", "register_exporter"]


class Written(Protocol):
    """What an exporter wrote."""

    @property
    def path(self) -> Path:
        """The file or folder."""
        ...


class Exporter(Protocol):
    """Prints an integer graph for a runtime or a tool."""

    @property
    def name(self) -> str:
        """The target's name on the command line, `mixbit export --to NAME`."""
        ...

    @property
    def summary(self) -> str:
        """What is written and for whom, in a few words."""
        ...

    @property
    def rounding(self) -> GraphRounding:
        """How the target rounds results: graphs are lowered with it."""
        ...

    @property
    def file(self) -> str:
        """Name of the file or folder that is written into a run folder."""
        ...

    def write(self, graph: IntegerGraph, path: Path, *, samples: Array | None = None, **options: Any) -> Written:
        """Write a graph, whole or not at all.

        Args:
            graph: lowered with `rounding`.
            path: the file or folder.
            samples: real inputs `(N, *input shape)` float32, for targets that keep some to test themselves with.
            options: of this exporter alone.

        Raises:
            ExportError: an operation or a bit-width that the target does not have; the message names the layers.
        """
        ...

    def predictor(self, graph: IntegerGraph, space: InputSpace | None = None) -> Predictor:
        """What the target computes of a graph, on this machine: the very thing that `write` writes, in its runtime.

        Raises:
            ExportError: the runtime or the compiler is not here.
        """
        ...


_EXPORTERS = Registry[Exporter]("target", ExportError)


def register_exporter(exporter: Exporter) -> Exporter:
    """Enter an exporter under its name; commands know it from then on.

    Raises:
        ExportError: the name is taken, or its rounding is none that lowering knows.
    """
    if exporter.rounding not in GRAPH_ROUNDINGS:
        raise ExportError(
            f"target {exporter.name!r}: rounding={exporter.rounding!r} is unknown. Legal: {', '.join(GRAPH_ROUNDINGS)}."
        )
    _EXPORTERS.enter(exporter.name, exporter)
    return exporter


def find_exporter(name: str) -> Exporter:
    """The exporter of that name.

    Raises:
        ExportError: there is none; the message has the legal names.

    >>> find_exporter("onnx").file
    'model.onnx'
    """
    return _EXPORTERS.find(name)


def exporter_names(pattern: str = "*") -> list[str]:
    """Registered exporters that match a shell pattern.

    >>> exporter_names("*onnx")
    ['onnx', 'qonnx']
    """
    return _EXPORTERS.names(pattern)
