"""A trained network to a file that is as small as its policy says and runs: lowering, reference executor, printers."""

from mixbit.export.arithmetic import ROUNDINGS, Grid, Rounding
from mixbit.export.executor import run, trace
from mixbit.export.graph import GRAPH_ROUNDINGS, GraphRounding, IntegerGraph
from mixbit.export.integer import lower
from mixbit.export.predictors import ExecutorPredictor, OnnxPredictor

__all__ = [
    "GRAPH_ROUNDINGS",
    "ROUNDINGS",
    "ExecutorPredictor",
    "GraphRounding",
    "Grid",
    "IntegerGraph",
    "OnnxPredictor",
    "Rounding",
    "lower",
    "run",
    "trace",
]
