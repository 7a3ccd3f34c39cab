"""Quantizers by name."""

from __future__ import annotations

import pytest

from mixbit import QuantizeConfig
from mixbit.errors import MixbitError
from mixbit.quantizers import (
    ACTIVATIONS,
    WEIGHTS,
    BatchQuant,
    DoReFaActivations,
    DoReFaWeights,
    LsqClip,
    MidRise,
    Pact,
    Quantizer,
    find_kind,
    register_kind,
)


def test_what_the_names_stand_for() -> None:
    weights = {"lsq": Quantizer, "lsq-clip": LsqClip, "midrise": MidRise, "dorefa": DoReFaWeights}
    activations = {"lsq": Quantizer, "pact": Pact, "dorefa": DoReFaActivations, "batchquant": BatchQuant}
    assert {name: find_kind(name, "weights") for name in WEIGHTS} == weights
    assert {name: find_kind(name, "activations") for name in ACTIVATIONS} == activations


def test_only_signed_integer_grids_can_be_lowered() -> None:
    assert [name for name in WEIGHTS if find_kind(name, "weights").no_integers is None] == ["lsq"]
    lowered = [name for name in ACTIVATIONS if find_kind(name, "activations").no_integers is None]
    assert set(lowered) == {"lsq", "pact", "dorefa"}


def test_unknown_kind_lists_the_legal_ones() -> None:
    text = "weights 'dorfa' is unknown. Did you mean 'dorefa'.*dorefa, lsq, lsq-clip, midrise"
    for ask in (lambda: find_kind("dorfa", "weights"), lambda: QuantizeConfig(weights="dorfa")):
        with pytest.raises(MixbitError, match=text):
            ask()
    with pytest.raises(MixbitError, match="activations 'midrise' is unknown"):
        QuantizeConfig(activations="midrise")


def test_a_name_is_given_once() -> None:
    with pytest.raises(MixbitError, match="weights 'lsq' is registered already"):
        register_kind("lsq", MidRise, "weights")
    assert find_kind("lsq", "weights") is Quantizer
