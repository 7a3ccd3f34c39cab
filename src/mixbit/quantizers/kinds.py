"""Kinds of quantizers by name, for weights and for activations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from mixbit.errors import MixbitError, did_you_mean
from mixbit.quantizers.dorefa import DoReFaActivations, DoReFaWeights
from mixbit.quantizers.midrise import LsqClip, MidRise
from mixbit.quantizers.pact import Pact
from mixbit.quantizers.quantizer import Quantizer

__all__ = ["ACTIVATIONS", "WEIGHTS", "ActivationKind", "WeightKind", "find_kind"]

WeightKind = Literal["lsq", "lsq-clip", "midrise", "dorefa"]
ActivationKind = Literal["lsq", "pact", "dorefa"]

WEIGHTS: dict[str, type[Quantizer]] = {
    "lsq": Quantizer,
    "lsq-clip": LsqClip,
    "midrise": MidRise,
    "dorefa": DoReFaWeights,
}
ACTIVATIONS: dict[str, type[Quantizer]] = {"lsq": Quantizer, "pact": Pact, "dorefa": DoReFaActivations}


def find_kind(name: str, kinds: Mapping[str, type[Quantizer]], side: str) -> type[Quantizer]:
    """The quantizer of that name.

    Args:
        name: e.g. "lsq".
        kinds: `WEIGHTS` or `ACTIVATIONS`.
        side: what the error calls them.

    Raises:
        MixbitError: there is none; the message lists the names.

    >>> find_kind("pact", ACTIVATIONS, "activations").__name__
    'Pact'
    """
    if name not in kinds:
        raise MixbitError(
            f"{side}={name!r} is no kind of quantizer.{did_you_mean(name, kinds)} Legal: {', '.join(kinds)}."
        )
    return kinds[name]
