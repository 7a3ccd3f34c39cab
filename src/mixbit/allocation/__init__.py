"""Scores, costs and limits to a choice: exact solvers, proof gap, slack."""

from mixbit.allocation.allocator import Decision, allocate, decide
from mixbit.allocation.projection import project
from mixbit.allocation.quadratic import solve_pairs
from mixbit.allocation.repair import RepairHow, repair_monotone
from mixbit.allocation.settings import AllocationSettings
from mixbit.allocation.solver import Allocation, SolverName, solve

__all__ = [
    "Allocation",
    "AllocationSettings",
    "Decision",
    "RepairHow",
    "SolverName",
    "allocate",
    "decide",
    "project",
    "repair_monotone",
    "solve",
    "solve_pairs",
]
