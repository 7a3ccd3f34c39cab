"""Scores, costs and limits to a choice: exact solvers, proof gap, slack."""

from mixbit.allocation.allocate import allocate
from mixbit.allocation.repair import RepairHow, repair_monotone
from mixbit.allocation.solve import Allocation, SolverName, solve

__all__ = ["Allocation", "RepairHow", "SolverName", "allocate", "repair_monotone", "solve"]
