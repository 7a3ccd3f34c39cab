"""mixbit's own exporters: ONNX, QONNX and C."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mixbit.data import InputSpace
from mixbit.export.c import CFolder, COptions, CPredictor, write_c
from mixbit.export.onnx import OnnxFile, build_onnx, write_onnx
from mixbit.export.predictors import OnnxPredictor, QonnxPredictor
from mixbit.export.qonnx import QonnxFile, write_qonnx
from mixbit.export.registry import register_exporter
from mixbit.integer import GraphRounding, IntegerGraph
from mixbit.integer.arithmetic import Array

__all__ = ["CExporter", "OnnxExporter", "QonnxExporter"]


class OnnxExporter:
    """The exporter of files for ONNX Runtime, see `mixbit.export.onnx`."""

    name, summary, file = "onnx", "the integer network, for ONNX Runtime", "model.onnx"
    rounding: GraphRounding = "float32"

    def write(self, graph: IntegerGraph, path: Path, *, samples: Array | None = None, **options: Any) -> OnnxFile:
        """Options are those of `mixbit.export.onnx.write_onnx`; samples are not needed."""
        return write_onnx(graph, path, **options)

    def predictor(self, graph: IntegerGraph, space: InputSpace | None = None) -> OnnxPredictor:
        """In ONNX Runtime on this CPU."""
        return OnnxPredictor(build_onnx(graph).SerializeToString(), space)


class QonnxExporter:
    """The exporter of files for QONNX tools, see `mixbit.export.qonnx`."""

    name, summary, file = "qonnx", "the quantized network, for QONNX tools", "model.qonnx.onnx"
    rounding: GraphRounding = "float32"

    def write(self, graph: IntegerGraph, path: Path, *, samples: Array | None = None, **options: Any) -> QonnxFile:
        """There are no options, and samples are not needed."""
        return write_qonnx(graph, path, **options)

    def predictor(self, graph: IntegerGraph, space: InputSpace | None = None) -> QonnxPredictor:
        """In the executor of the qonnx package, which is Python and takes seconds an image."""
        return QonnxPredictor(graph, space)


class CExporter:
    """The exporter of folders of C, see `mixbit.export.c`."""

    name, summary, file = "c", "C99 for microcontrollers; begin with its README.txt", "c"
    rounding: GraphRounding = "single"

    def write(self, graph: IntegerGraph, path: Path, *, samples: Array | None = None, **options: Any) -> CFolder:
        """Options are those of `mixbit.export.c.COptions`."""
        return write_c(graph, path, options=COptions(**options), samples=samples)

    def predictor(self, graph: IntegerGraph, space: InputSpace | None = None) -> CPredictor:
        """Compiled for this machine."""
        return CPredictor(graph, space)


for _exporter in (OnnxExporter(), QonnxExporter(), CExporter()):
    register_exporter(_exporter)
