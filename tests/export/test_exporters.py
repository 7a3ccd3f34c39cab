"""mixbit's exporters keep the contract, and options reach their printers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mixbit.data import InputSpace
from mixbit.errors import ExportError, MixbitError
from mixbit.export import Exporter
from mixbit.export.exporters import CExporter, OnnxExporter, QonnxExporter
from mixbit.export.onnx import written_graph
from mixbit.integer import IntegerGraph
from mixbit.testing.exporters import ExporterCases
from tests.inference import seen
from tests.needs import need


class Small(ExporterCases):
    def graph(self, rounding: Any) -> IntegerGraph:
        return seen.graph(InputSpace(), rounding)


class TestOnnx(Small):
    def exporter(self) -> Exporter:
        need("onnx")
        return OnnxExporter()

    def reference(self, graph: IntegerGraph) -> IntegerGraph:
        return written_graph(graph)


class TestQonnx(Small):
    steps = 0.05  # sums are float32: a tie can fall to the other side

    images = 2

    def exporter(self) -> Exporter:
        need("qonnx")
        return QonnxExporter()


class TestC(Small):
    def exporter(self) -> Exporter:
        need("gcc")
        return CExporter()


def test_options_are_those_of_the_printers(tmp_path: Path) -> None:
    need("onnx")
    graph = seen.graph(InputSpace(), "float32")
    packed, plain = (
        OnnxExporter().write(graph, tmp_path / f"{pack}.onnx", pack=pack).path for pack in ("fields", "none")
    )
    assert packed.read_bytes() != plain.read_bytes()
    folder = CExporter().write(seen.graph(InputSpace(), "single"), tmp_path / "c", kernels="dsp", vectors=1)
    assert (folder.path / "kernels" / "mixbit_dsp.h").exists()
    with pytest.raises((MixbitError, TypeError)):
        QonnxExporter().write(graph, tmp_path / "q.onnx", pack="fields")


def test_c_wants_its_own_rounding(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="rounding"):
        CExporter().write(seen.graph(InputSpace(), "float32"), tmp_path / "c")
