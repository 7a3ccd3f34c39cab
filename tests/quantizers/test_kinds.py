"""Quantizers by name."""

from __future__ import annotations

from typing import get_args

import pytest

from mixbit.errors import MixbitError
from mixbit.quantizers import (
    ACTIVATIONS,
    WEIGHTS,
    ActivationKind,
    DoReFaActivations,
    DoReFaWeights,
    LsqClip,
    MidRise,
    Pact,
    Quantizer,
    WeightKind,
    find_kind,
)


def test_the_names_are_those_of_the_types() -> None:
    assert tuple(WEIGHTS) == get_args(WeightKind) and tuple(ACTIVATIONS) == get_args(ActivationKind)
    assert {"lsq": Quantizer, "lsq-clip": LsqClip, "midrise": MidRise, "dorefa": DoReFaWeights} == WEIGHTS
    assert {"lsq": Quantizer, "pact": Pact, "dorefa": DoReFaActivations} == ACTIVATIONS
    assert all(find_kind(name, WEIGHTS, "weights") is kind for name, kind in WEIGHTS.items())


def test_only_signed_integer_grids_can_be_lowered() -> None:
    assert [name for name, kind in WEIGHTS.items() if kind.no_integers is None] == ["lsq"]
    assert all(kind.no_integers is None for kind in ACTIVATIONS.values())


def test_unknown_kind_lists_the_legal_ones() -> None:
    with pytest.raises(MixbitError, match="weights='dorfa' is no kind.*Did you mean 'dorefa'.*lsq, lsq-clip, midrise"):
        find_kind("dorfa", WEIGHTS, "weights")
