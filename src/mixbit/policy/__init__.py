"""Policies and scores: bits of every layer, and the harm of each choice, as files that a person can read and edit."""

from mixbit.cost import LayerBits, Pins
from mixbit.policy._pins import resolve_pins
from mixbit.policy._policy import Policy
from mixbit.policy._program import Pairs, Program, Side
from mixbit.policy._scores import LayerScores, Scores

__all__ = ["LayerBits", "LayerScores", "Pairs", "Pins", "Policy", "Program", "Scores", "Side", "resolve_pins"]
