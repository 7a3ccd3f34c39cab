"""A trained network to a file that is as small as its policy says and runs: one printer a target.

What they print, `mixbit.integer` makes; its public names stand here too, so that one import ships a network.
"""

from mixbit.export.exporters import CExporter, OnnxExporter, QonnxExporter  # entered in the registry by that
from mixbit.export.predictors import ExecutorPredictor, OnnxPredictor, QonnxPredictor
from mixbit.export.registry import Exporter, Written, exporter_names, find_exporter, register_exporter
from mixbit.integer import (
    GRAPH_ROUNDINGS,
    ROUNDINGS,
    GraphRounding,
    Grid,
    IntegerGraph,
    Rounding,
    lower,
    run,
    trace,
)

__all__ = [
    "GRAPH_ROUNDINGS",
    "ROUNDINGS",
    "CExporter",
    "ExecutorPredictor",
    "Exporter",
    "GraphRounding",
    "Grid",
    "IntegerGraph",
    "OnnxExporter",
    "OnnxPredictor",
    "QonnxExporter",
    "QonnxPredictor",
    "Rounding",
    "Written",
    "exporter_names",
    "find_exporter",
    "lower",
    "register_exporter",
    "run",
    "trace",
]
