"""Kinds of quantizers by name, for weights and for activations."""

from __future__ import annotations

from typing import Literal, TypeAlias

from mixbit._registry import Registry
from mixbit.errors import MixbitError
from mixbit.quantizers.batch_quant import BatchQuant
from mixbit.quantizers.dorefa import DoReFaActivations, DoReFaWeights
from mixbit.quantizers.midrise import LsqClip, MidRise
from mixbit.quantizers.pact import Pact
from mixbit.quantizers.quantizer import Quantizer

__all__ = ["ACTIVATIONS", "WEIGHTS", "ActivationKind", "WeightKind", "find_kind", "register_kind"]

WeightKind: TypeAlias = str
"""A name in `WEIGHTS`."""
ActivationKind: TypeAlias = str
"""A name in `ACTIVATIONS`."""

WEIGHTS: Registry[type[Quantizer]] = Registry("weights", MixbitError)
"""Quantizers of weights; "lsq" is the usual one."""
ACTIVATIONS: Registry[type[Quantizer]] = Registry("activations", MixbitError)
"""Quantizers of activations; "lsq" is the usual one, and stands in for most where a tensor can be negative."""

_SIDES = {"weights": WEIGHTS, "activations": ACTIVATIONS}


def register_kind(name: str, quantizer: type[Quantizer], side: Literal["weights", "activations"]) -> None:
    """Enter a kind of quantizer; `QuantizeConfig` knows it by name from then on.

    Args:
        name: as `weights=` or `activations=` of `mixbit.QuantizeConfig` will say it.
        quantizer: a subclass of `Quantizer`, see `mixbit.testing.quantizers` for what it has to keep.
        side: what it is for.

    Raises:
        MixbitError: the name is taken.
    """
    _SIDES[side].enter(name, quantizer)


def find_kind(name: str, side: Literal["weights", "activations"]) -> type[Quantizer]:
    """The quantizer of that name.

    Raises:
        MixbitError: there is none; the message lists the names.

    >>> find_kind("pact", "activations").__name__
    'Pact'
    """
    return _SIDES[side].find(name)


for _name, _kind in {"lsq": Quantizer, "lsq-clip": LsqClip, "midrise": MidRise, "dorefa": DoReFaWeights}.items():
    register_kind(_name, _kind, "weights")
for _name, _kind in {"lsq": Quantizer, "pact": Pact, "dorefa": DoReFaActivations, "batchquant": BatchQuant}.items():
    register_kind(_name, _kind, "activations")
