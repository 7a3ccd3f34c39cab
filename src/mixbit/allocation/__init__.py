"""Scores, costs and limits to a choice: exact solvers, proof gap, slack."""

from mixbit.allocation.allocator import allocate
from mixbit.allocation.projection import project
from mixbit.allocation.quadratic import solve_pairs
from mixbit.allocation.repair import RepairHow, repair_monotone
from mixbit.allocation.solver import Allocation, SolverName, solve

__all__ = ["Allocation", "RepairHow", "SolverName", "allocate", "project", "repair_monotone", "solve", "solve_pairs"]
