"""A trained network to a file that is as small as its policy says and runs: lowering, reference executor, printers."""

from mixbit.export.arithmetic import ROUNDINGS, Grid, Rounding
from mixbit.export.executor import run, trace
from mixbit.export.graph import GRAPH_ROUNDINGS, GraphRounding, IntegerGraph
from mixbit.export.integer import lower

__all__ = [
    "GRAPH_ROUNDINGS",
    "ROUNDINGS",
    "GraphRounding",
    "Grid",
    "IntegerGraph",
    "Rounding",
    "lower",
    "run",
    "trace",
]
