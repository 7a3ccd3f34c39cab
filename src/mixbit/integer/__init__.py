"""The integer network: lowering to a small graph, its arithmetic, and the executor that defines what is correct."""

from mixbit.integer.arithmetic import ROUNDINGS, Grid, Rounding
from mixbit.integer.at_bits import lower_at
from mixbit.integer.executor import run, trace
from mixbit.integer.graph import GRAPH_ROUNDINGS, GraphRounding, IntegerGraph
from mixbit.integer.lowering import lower

__all__ = [
    "GRAPH_ROUNDINGS",
    "ROUNDINGS",
    "GraphRounding",
    "Grid",
    "IntegerGraph",
    "Rounding",
    "lower",
    "lower_at",
    "run",
    "trace",
]
