"""A walk over a network's layers, whose actions are bits: what an agent sees before each, and how limits are kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mixbit.allocation import project
from mixbit.cost import Budget, LayerBits
from mixbit.errors import BudgetError
from mixbit.network import Layer, Network
from mixbit.policy import Policy, Terms
from mixbit.search import ActionMap, choice_of

__all__ = ["Step", "Walk", "Within"]

Within = Literal["wall", "project"]
Layers = dict[str, LayerBits]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one action sets."""

    at: int
    """Number of the layer whose state the agent sees."""
    weights: tuple[str, ...] = ()
    """Layers whose weights get these bits."""
    inputs: tuple[str, ...] = ()
    """Layers whose activations get them: all free ones that read one tensor."""


class Walk:
    """One action a weight and one an activation, layer by layer, in the order of execution.

    Layers that read one tensor get its bits from the first of them, where ties hold. Pinned layers have no action.

    Args:
        network: the captured network.
        budget: hard limits.
        terms: pins, ties and tables.
        bits: choices, in any order.
        share_bits: one action for both sides of a layer, and of all layers that read its tensor.
        within: how a policy that is over a limit is brought back: "wall" is HAQ's, "project" the exact solver.
        fill: raise bits again as long as limits hold, see `filled`.
        action_map: see `mixbit.search.choice_of`.

    Raises:
        BudgetError: a limit or a pin that is not of this network, or no layer with a choice.
        InfeasibleBudget: no policy meets the limits; with the nearest feasible ones and the layers that block them.
    """

    def __init__(
        self,
        network: Network,
        budget: Budget,
        terms: Terms,
        bits: Sequence[int],
        *,
        share_bits: bool = False,
        within: Within = "wall",
        fill: bool = False,
        action_map: ActionMap = "floor",
    ) -> None:
        self.network, self.budget, self.terms, self.bits = network, budget, terms, sorted(bits)
        self.share_bits, self._how, self._fill, self._map = share_bits, within, fill, action_map
        self.pins = terms.pinned(network)
        self.limits = terms.limits(network, budget)
        self.steps = list(self._made())
        if not self.steps:
            raise BudgetError("all layers are pinned, and no bits are left to choose. Pin fewer (--first-last free).")
        self._columns = _scaled(np.array([_facts(at, one) for at, one in enumerate(network.layers)]))
        self.project(self.layers(np.zeros(len(self.steps), dtype=np.int64)))  # there is one

    def _made(self) -> Iterator[Step]:
        number = {layer.name: at for at, layer in enumerate(self.network.layers)}
        groups = self.network.ties() if self.terms.ties else tuple((name,) for name in number)
        free = {name: tuple(one for one in group if one not in self.pins) for group in groups for name in group}
        for name in (name for name in number if name not in self.pins):
            first = free[name][0] == name
            if not self.share_bits:
                yield Step(at=number[name], weights=(name,))
            if first:
                weights = free[name] if self.share_bits else ()
                yield Step(at=number[name], weights=weights, inputs=free[name])

    @property
    def observations(self) -> int:
        """Numbers of a state: ten, or nine where there is no side to tell."""
        return len(self.state(0, 1.0))

    def state(self, step: int, before: float) -> NDArray[np.float64]:
        """What the agent sees, each but for the last two scaled from 0 to 1 over all layers.

        Whether the layer is depthwise, its input and output channels, stride, kernel, weights, the size of its input
        map, its number; the last action's bits as a part of the most, and whether the action is of weights.

        Args:
            step: number of the action.
            before: bits of the last action over the most; 1 before the first.
        """
        one = self.steps[step]
        side = [] if self.share_bits else [float(bool(one.weights))]
        return np.array([*self._columns[one.at], before, *side])

    def actions(self, act: Callable[[Any], float]) -> NDArray[np.int64]:
        """The choices of an episode, from 0 for the fewest bits, one a step."""
        found, before = [], 1.0
        for step in range(len(self.steps)):
            choice = choice_of(act(self.state(step, before)), len(self.bits), by=self._map, first=self.bits[0])
            before = self.bits[choice] / self.bits[-1]
            found.append(choice)
        return np.array(found, dtype=np.int64)

    def layers(self, choices: NDArray[np.int64]) -> Layers:
        """Bits of all layers, in the order of execution."""
        weights, inputs = dict[str, int](), dict[str, int]()
        for step, choice in zip(self.steps, choices, strict=True):
            weights |= dict.fromkeys(step.weights, self.bits[choice])
            inputs |= dict.fromkeys(step.inputs, self.bits[choice])
        names = [layer.name for layer in self.network.layers]
        return {name: self.pins.get(name) or LayerBits(weights[name], inputs[name]) for name in names}

    def fits(self, layers: Mapping[str, LayerBits]) -> bool:
        """Whether all limits hold."""
        return min(self.budget.slack(self.terms.costs(self.network, layers), self.limits).values()) >= 0

    def kept(self, choices: NDArray[np.int64]) -> Layers:
        """A policy within the limits: lowered where it is over one, and filled where that is asked for."""
        layers = self.lowered(choices)
        return self.filled(layers) if self._fill else layers

    def lowered(self, choices: NDArray[np.int64]) -> Layers:
        """A policy within the limits; one that is so already stays.

        The wall lowers one bit-width at a time by one choice, from the last layer to the first and of each the
        activation before the weights, in sweeps, until the limits hold. Where they do not at the fewest bits, as may be
        with measured times, the solver answers.
        """
        layers = self.layers(choices)
        if self.fits(layers):
            return layers
        if self._how == "wall":
            fewer = choices.copy()
            while fewer.any():
                for step in range(len(fewer))[::-1]:
                    if fewer[step]:
                        fewer[step] -= 1
                        found = self.layers(fewer)
                        if self.fits(found):
                            return found
        return self.project(layers)

    def filled(self, layers: Layers) -> Layers:
        """The wall upside down (ours): one choice more at a time, from the first layer to the last and of each the
        weights before the activation, in sweeps, as long as limits hold.
        """
        found = layers
        choices = np.array([self.bits.index(self._bits_of(step, layers)) for step in self.steps])
        raised = True
        while raised:
            raised = False
            for step in range(len(choices)):
                more = choices + (np.arange(len(choices)) == step)
                if more[step] < len(self.bits) and self.fits(made := self.layers(more)):
                    found, choices, raised = made, more, True
        return found

    def _bits_of(self, step: Step, layers: Mapping[str, LayerBits]) -> int:
        """What an action would have had to be."""
        bits = layers[step.weights[0]].weight_bits if step.weights else layers[step.inputs[0]].activation_bits
        return bits or 0

    def project(self, layers: Mapping[str, LayerBits]) -> Layers:
        """The nearest policy within the limits, by the exact solver.

        Raises:
            InfeasibleBudget: there is none.
        """
        wished = {
            name: (float(one.weight_bits or 0), float(one.activation_bits or 0))
            for name, one in layers.items()
            if name not in self.pins
        }
        found = project(
            self.network, wished, self.budget, bits=self.bits, terms=self.terms, coupled=self.share_bits
        ).layers
        return {layer.name: found[layer.name] for layer in self.network.layers}

    def policy(self, layers: Mapping[str, LayerBits], **more: Any) -> Policy:
        """The policy of these bits, with what it costs."""
        return Policy(
            fingerprint=self.network.fingerprint,
            layers=dict(layers),
            macs=self.terms.macs,
            budget=self.budget.texts,
            costs=self.terms.cost_table(self.network, layers),
            **more,
        )


def _facts(number: int, layer: Layer) -> list[float]:
    """The columns of a layer, before they are scaled; capture keeps no strides, so sizes tell."""
    shape = layer.weight_shape
    channels = shape[1] * layer.groups
    depthwise = layer.groups > 1 and layer.groups == channels
    if layer.kind in ("conv1d", "conv2d"):
        kernel, area = shape[2], math.prod(layer.input_shape[1:])
        stride = round(layer.input_shape[1] / layer.output_shape[1])
    else:
        kernel, area, stride = 1, math.prod(layer.input_shape[:-1]), 0
    return [depthwise, channels, shape[0], stride, kernel, layer.weights, area, number]


def _scaled(columns: NDArray[Any]) -> NDArray[np.float64]:
    """Each from 0 to 1; one that does not differ is 0.

    >>> _scaled(np.array([[1, 5], [3, 5], [2, 5]])).tolist()
    [[0.0, 0.0], [1.0, 0.0], [0.5, 0.0]]
    """
    low, width = columns.min(axis=0), np.ptp(columns.astype(np.float64), axis=0)
    found: NDArray[np.float64] = (columns - low) / np.where(width == 0, 1.0, width)
    return found
