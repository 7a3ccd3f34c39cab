"""Policies, scores and fronts: files that a person can read and edit."""

from mixbit.cost import LayerBits, Pins
from mixbit.policy._agreement import PolicyDistance, policy_distance, rank_correlation
from mixbit.policy._files import JSON
from mixbit.policy._front import Choice, Front, FrontPoint, Measured, WeightsFile
from mixbit.policy._pins import resolve_pins
from mixbit.policy._policy import Policy, bits_digest, pin_note, uncounted_notes
from mixbit.policy._program import Pairs, Program, Side
from mixbit.policy._scores import LayerScores, Scores
from mixbit.policy._terms import Terms
from mixbit.policy._transfer import transfer_policy, transfer_scores

__all__ = [
    "JSON",
    "Choice",
    "Front",
    "FrontPoint",
    "LayerBits",
    "LayerScores",
    "Measured",
    "Pairs",
    "Pins",
    "Policy",
    "PolicyDistance",
    "Program",
    "Scores",
    "Side",
    "Terms",
    "WeightsFile",
    "bits_digest",
    "pin_note",
    "policy_distance",
    "rank_correlation",
    "resolve_pins",
    "transfer_policy",
    "transfer_scores",
    "uncounted_notes",
]
