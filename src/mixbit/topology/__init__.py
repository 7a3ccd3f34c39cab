"""Topological entropy of feature maps: numbers in, numbers out."""

from mixbit.topology.birth import birth_times, first_betti
from mixbit.topology.entropy import Blind, Missing, Weighting, birth_share, channel_entropies, layer_entropy
from mixbit.topology.graphs import square, token_grid
from mixbit.topology.noise import noise_births

__all__ = [
    "Blind",
    "Missing",
    "Weighting",
    "birth_share",
    "birth_times",
    "channel_entropies",
    "first_betti",
    "layer_entropy",
    "noise_births",
    "square",
    "token_grid",
]
