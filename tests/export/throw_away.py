"""An exporter of a user's: one file, written with what mixbit gives to everyone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixbit import _io
from mixbit.data import InputSpace
from mixbit.export import ExecutorPredictor
from mixbit.integer import GraphRounding, IntegerGraph


@dataclass(frozen=True)
class Text:
    path: Path


class TextExporter:
    """The names of the operations, one a line."""

    name, summary, file = "text", "the operations, for the eye", "model.txt"
    rounding: GraphRounding = "double"

    def write(self, graph: IntegerGraph, path: Path, *, samples: Any = None, note: str = "") -> Text:
        lines = [f"{op.kind} {op.name}" for op in graph.ops]
        _io.write_text(path, "\n".join([*lines, note]))
        return Text(path)

    def predictor(self, graph: IntegerGraph, space: InputSpace | None = None) -> ExecutorPredictor:
        return ExecutorPredictor(graph, space)
