"""Topological entropy of feature maps: numbers in, numbers out."""

from mixbit.topology.birth import birth_times, first_betti
from mixbit.topology.entropy import Blind, Missing, Weighting, birth_share, channel_entropies, layer_entropy
from mixbit.topology.graphs import square, token_grid
from mixbit.topology.lattice import lattice_birth_times
from mixbit.topology.maps import Graph, map_births
from mixbit.topology.noise import noise_births

__all__ = [
    "Blind",
    "Graph",
    "Missing",
    "Weighting",
    "birth_share",
    "birth_times",
    "channel_entropies",
    "first_betti",
    "lattice_birth_times",
    "layer_entropy",
    "map_births",
    "noise_births",
    "square",
    "token_grid",
]
