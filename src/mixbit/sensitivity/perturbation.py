"""A model in which single weights and inputs can be quantized while all else stays in float.

What the sensitivity methods share: which layers are searched, their quantized weights, the errors, and switching.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mixbit import _batch
from mixbit.cost import LayerBits
from mixbit.errors import MixbitError
from mixbit.network import Layer, Network
from mixbit.quantization import QuantizeConfig, attach, quantized_layers
from mixbit.quantizers import Quantizer, RuleName, find_rule
from mixbit.task import Task

__all__ = ["Perturbation", "searched_layers"]


def searched_layers(network: Network, *, first_last: bool = False) -> tuple[Layer, ...]:
    """The layers that a method scores, in execution order: all but the first and the last, unless asked for.

    Raises:
        MixbitError: none is left.
    """
    layers = network.layers if first_last else network.layers[1:-1]
    if not layers:
        raise MixbitError(
            f"the network has {len(network.layers)} layers, so none is left to search. Set first_last=True."
        )
    return layers


class Perturbation:
    """A copy of the task's model, in eval mode, with a bank of quantizers on every searched layer, all switched off.

    Steps of weights come from `weight_rule`, one a channel; steps of inputs from `activation_rule` on the float inputs
    of one batch.

    Attributes:
        model: the copy; in float until `chosen` switches something on.
        layers: the searched layers, in execution order, that carry quantizers.
    """

    def __init__(
        self,
        task: Task,
        weight_bits: Sequence[int],
        activation_bits: Sequence[int],
        x: Any,
        *,
        first_last: bool = False,
        per_channel: bool = True,
        weight_rule: RuleName = "mse",
        activation_rule: RuleName = "mse",
    ) -> None:
        searched = searched_layers(task.network, first_last=first_last)
        self.model = copy.deepcopy(task.model).eval()
        config = QuantizeConfig(per_channel=per_channel, gradient_scale="none", weight_rule=weight_rule)
        attach(
            self.model,
            task.network,
            {layer.name: (tuple(weight_bits) or None, tuple(activation_bits) or None) for layer in searched},
            config,
        )
        self._carriers = quantized_layers(self.model)
        self.layers = tuple(layer for layer in searched if layer.name in self._carriers)
        for bank in self._banks():
            bank.bypass = True
            bank.requires_grad_(False)
        if activation_bits:
            self._calibrate(x, activation_rule)

    def weight(self, layer: str) -> nn.Parameter:
        """The float weight of a searched layer in `model`, which its quantizer sees."""
        name = next(one.parameter for one in self.layers if one.name == layer)
        return self.model.get_parameter(name)

    def weight_bank(self, layer: str) -> Quantizer:
        """The quantizers of a layer's weight."""
        return self._bank(layer, "weight")

    def input_bank(self, layer: str) -> Quantizer:
        """The quantizers of a layer's input."""
        return self._bank(layer, "activation")

    @torch.no_grad()
    def quantized_weight(self, layer: str, bits: int) -> Tensor:
        """A layer's weight at these bits, `Q_b(W)`."""
        with self.chosen({layer: LayerBits(bits, None)}):
            return self.weight_bank(layer)(self.weight(layer)).detach()  # type: ignore[no-any-return]

    @contextmanager
    def chosen(self, layers: Mapping[str, LayerBits]) -> Iterator[nn.Module]:
        """Quantize these sides at these bits; a side whose bits are None, and every other layer, stays in float."""
        on = []
        for name, bits in layers.items():
            for side, width in (("weight", bits.weight_bits), ("activation", bits.activation_bits)):
                if width is not None:
                    bank = self._bank(name, side)
                    bank.select(width)
                    bank.bypass = False
                    on.append(bank)
        try:
            yield self.model
        finally:
            for bank in on:
                bank.bypass = True

    def _bank(self, layer: str, side: str) -> Quantizer:
        carrier = self._carriers[layer]
        bank = carrier.weight_quantizer if side == "weight" else carrier.input_quantizer
        if bank is None:
            raise MixbitError(f"the {side} of layer {layer!r} has no quantizer here. Give candidate bits for it.")
        return bank

    def _banks(self) -> Iterator[Quantizer]:
        for carrier in self._carriers.values():
            yield from (b for b in (carrier.weight_quantizer, carrier.input_quantizer) if b is not None)

    @torch.no_grad()
    def _calibrate(self, x: Any, rule: RuleName) -> None:
        """Set every input bank from the input that it sees in the float model."""

        def see(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            assert isinstance(module, Quantizer)
            module.initialise(inputs[0], find_rule(rule))

        inputs = [c.input_quantizer for c in self._carriers.values() if c.input_quantizer is not None]
        handles = [bank.register_forward_pre_hook(see) for bank in inputs]
        try:
            _batch.call(self.model, _batch.move(x, next(self.model.parameters()).device))
        finally:
            for handle in handles:
                handle.remove()
