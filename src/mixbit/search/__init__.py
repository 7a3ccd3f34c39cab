"""Engines that know no network: vectors and callables only."""

from mixbit.search.evolution import Evolution, Found
from mixbit.search.pareto import hypervolume, non_dominated

__all__ = ["Evolution", "Found", "hypervolume", "non_dominated"]
