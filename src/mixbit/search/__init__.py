"""Engines that know no network: vectors and callables only."""

from mixbit.search.ddpg import ActionMap, Agent, Ddpg, Episode, choice_of
from mixbit.search.evolution import Evolution, Found
from mixbit.search.pareto import hypervolume, non_dominated

__all__ = [
    "ActionMap",
    "Agent",
    "Ddpg",
    "Episode",
    "Evolution",
    "Found",
    "choice_of",
    "hypervolume",
    "non_dominated",
]
