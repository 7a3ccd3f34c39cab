"""A model as an integer graph at any bits, before it was trained at any: for what depends on bits and shapes alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

from mixbit.cost import LayerBits
from mixbit.export import GraphRounding, IntegerGraph
from mixbit.export.integer import lower
from mixbit.policy import Policy
from mixbit.quantize import calibrate, quantize
from mixbit.runs.inspecting import OpenedModel

__all__ = ["lower_at"]


def lower_at(opened: OpenedModel, rounding: GraphRounding) -> Callable[[Mapping[str, LayerBits]], IntegerGraph]:
    """Bits of every layer -> the network, calibrated on the example and lowered. Its weights do not matter."""
    model, network, example = opened.model.cpu().eval(), opened.network, opened.example.cpu()

    def lowered(layers: Mapping[str, LayerBits]) -> IntegerGraph:
        one = copy.deepcopy(model)
        quantize(one, Policy(fingerprint=network.fingerprint, layers=dict(layers)), network)
        calibrate(one, [example])
        return lower(one, network, [example], rounding=rounding)

    return lowered
