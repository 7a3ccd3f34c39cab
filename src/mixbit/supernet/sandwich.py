"""Training of a network at all its bit-widths at once: in every step the lowest, the highest, and some at random.

The bits alone are elastic here: any captured network, one set of weights, banks of step sizes, and norms that are
shared, or have a row a bit-width or a pair. What a sub-network needs of its own, the statistics of its norms, is made
anew when it is used (`mixbit.supernet.SubnetJudge`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from mixbit._settings import Bits, Count, Range, Seed, Share, check
from mixbit.cost import LayerBits
from mixbit.errors import MixbitError
from mixbit.evaluation import Metrics
from mixbit.network import Network
from mixbit.policy import resolve_pins
from mixbit.quantization import QuantizeConfig, attach, calibrate, quantized_layers
from mixbit.quantizers import ActivationKind, Quantizer
from mixbit.supernet.norms import NormRows, make_switchable
from mixbit.supernet.selection import PerLayer, Uniform, select
from mixbit.task import Task
from mixbit.training import StatefulStep, StepContext

__all__ = ["SandwichStep", "SupernetConfig", "build_supernet", "elastic_layers"]

Choice = Mapping[str, tuple[int | None, int | None]]
"""Layer -> weight and activation bits of one pass; None is float."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SupernetConfig:
    """What a supernet offers, and what one of its training steps is.

    Attributes:
        bits: bit-widths of weights and activations.
        first_last: give the first and the last layer all of these as well, instead of 8.
        passes: forward and backward passes of a step: at the lowest bits, at the highest, and the others at random
            bits, drawn for every layer's weights and every tensor that layers read.
        float_share: part of the training, from its beginning, in which float is one of the bit-widths that are drawn
            (the first phase of QFA's code).
        norms: batch norms "shared" by all bit-widths, with a row for each of the "bits", or for each "pair".
        per_channel: step sizes of weights, one an output channel or one a tensor.
        activations: kind of quantizer of the activations.
        calibration_images: training images that the first step sizes of activations are made from.
        seed: of the choice of these images. Draws follow the training's own seed.

    Raises:
        MixbitError: fewer than two bit-widths, or one twice; ranges of one sample.
    """

    bits: tuple[Bits, ...] = (8, 6, 5, 4, 3, 2)
    first_last: bool = False
    passes: Annotated[int, Range(least=2, most=64)] = 4
    float_share: Share = 0.0
    norms: NormRows = "shared"
    per_channel: bool = True
    activations: ActivationKind = "lsq"
    calibration_images: Count = 256
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)
        self.quantizers()
        if len(self.bits) < 2 or len(set(self.bits)) != len(self.bits):
            raise MixbitError(f"bits={list(self.bits)} of a supernet. Legal: at least two bit-widths, none twice.")
        self.check_range("calibration_images")

    def check_range(self, name: str) -> None:
        """Whether a number of samples gives the quantizers of activations a range, where they take it of batches.

        Raises:
            MixbitError: one sample.
        """
        if self.activations == "batchquant" and getattr(self, name) == 1:
            raise MixbitError(
                f"{name}=1 with activations='batchquant', whose range is the mean over channels of a batch's extremes. "
                "Legal: 2 and more, and better 32; or activations that learn their steps (lsq)."
            )

    def quantizers(self) -> QuantizeConfig:
        """How layers are quantized."""
        return QuantizeConfig(per_channel=self.per_channel, activations=self.activations)

    @property
    def lowest(self) -> int:
        """The fewest bits of a side."""
        return min(self.bits)

    @property
    def highest(self) -> int:
        """The most bits of a side."""
        return max(self.bits)

    @property
    def middle(self) -> int:
        """A bit-width between: the upper one of two.

        >>> SupernetConfig(bits=(2, 3, 4, 8)).middle
        4
        """
        return sorted(self.bits)[len(self.bits) // 2]


def build_supernet(task: Task, config: SupernetConfig, *, calibrated: bool = True) -> nn.Module:
    """A copy of the task's network with a bank on every layer, calibrated at every bit-width, and norms as asked for.

    Layers that are not elastic (the first and the last, unless `first_last`) have 8 bits.

    Args:
        task: whose network, and images for the first step sizes.
        config: what it offers.
        calibrated: make the first step sizes; False where a state is loaded that has them.

    Raises:
        MixbitError: no layer is left to be elastic, or a norm that has no copies.
    """
    model = copy.deepcopy(task.model)
    attach(model, task.network, _options(task.network, config), config.quantizers())
    if not elastic_layers(model):
        raise MixbitError(
            "no layer of the network has a choice of bits. Set first_last=True (--set first_last=true): the first and "
            "the last layer have 8 bits otherwise."
        )
    make_switchable(model, task.example(), config.norms)
    if calibrated:
        calibrate(model, [task.calibration(config.calibration_images, config.seed)], seed=config.seed)
    return model


def _options(network: Network, config: SupernetConfig) -> dict[str, tuple[Sequence[int], Sequence[int]]]:
    pinned = {} if config.first_last else resolve_pins(network)
    ends = {name: ([bits.weight_bits or 8], [bits.activation_bits or 8]) for name, bits in pinned.items()}
    return {layer.name: ends.get(layer.name, (config.bits, config.bits)) for layer in network.layers}


def elastic_layers(model: nn.Module) -> list[str]:
    """Layers of a supernet that have a choice of bits."""
    return [
        name
        for name, layer in quantized_layers(model).items()
        if any(bank is not None and len(bank.bits) > 1 for bank in (layer.weight_quantizer, layer.input_quantizer))
    ]


class SandwichStep(StatefulStep):
    """One step: the gradients of all passes are summed, as QFA's code has it; the loss that is reported is their mean.

    Draws are a function of the seed and the number of the step alone, so that all processes and resumed runs agree.

    Args:
        model: of `build_supernet`.
        network: what capture learned of it: layers that read one tensor share its activation bits.
        config: settings.
        validate: measures one uniform sub-network; asked after every epoch for the lowest, a middle and the highest
            bits, which go into the epoch's line of metrics as `subnets`.
        tell: takes these three as a line for people.
    """

    def __init__(
        self,
        model: nn.Module,
        network: Network,
        config: SupernetConfig,
        validate: Callable[[Uniform], Metrics] | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self.model, self.config, self.validate, self.tell = model, config, validate, tell
        elastic = set(elastic_layers(model))
        layers = [layer for layer in network.layers if layer.name in elastic]
        self.layers = [layer.name for layer in layers]
        tensors = list(dict.fromkeys(layer.input_tensor for layer in layers))
        self.tensors = [tensors.index(layer.input_tensor) for layer in layers]
        self._banks = {name: _banks(layer) for name, layer in quantized_layers(model).items() if name in elastic}

    def __call__(self, context: StepContext, x: Any, y: Any) -> Tensor:
        """Leave the summed gradients, and return the mean loss."""
        losses = []
        for choice in self.choices(context):
            self.use(choice)
            loss = context.loss(x, context.forward(x), y)
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        self._bypass({})
        return torch.stack(losses).mean()

    def choices(self, context: StepContext) -> Iterator[Choice]:
        """Bits of each pass of a step."""
        for bits in (self.config.lowest, self.config.highest):
            yield dict.fromkeys(self.layers, (bits, bits))
        options: list[int | None] = list(self.config.bits)
        if context.number < self.config.float_share * context.total:
            options.append(None)
        generator = context.generator()
        for _ in range(self.config.passes - 2):
            yield self._drawn(options, generator)

    def _drawn(self, options: Sequence[int | None], generator: torch.Generator) -> Choice:
        """Even draws, for each layer's weights and each tensor that layers read."""
        rows = torch.randint(len(options), (len(self.layers) + max(self.tensors) + 1,), generator=generator).tolist()
        weights, tensors = rows[: len(self.layers)], rows[len(self.layers) :]
        return {
            name: (options[weight], options[tensors[tensor]])
            for name, weight, tensor in zip(self.layers, weights, self.tensors, strict=True)
        }

    def use(self, choice: Choice) -> None:
        """Put bits into use; a side in float has its quantizer passed over, and the norm of the most bits."""
        top = self.config.highest
        select(self.model, PerLayer({name: LayerBits(w or top, a or top) for name, (w, a) in choice.items()}))
        self._bypass(choice)

    def _bypass(self, choice: Choice) -> None:
        """Pass over the quantizers of sides that are in float, and over no others."""
        for name, banks in self._banks.items():
            for bank, bits in zip(banks, choice.get(name, (0, 0)), strict=True):
                if bank is not None and bank.bypass is not (bits is None):
                    bank.bypass = bits is None

    def end_epoch(self, context: StepContext, record: dict[str, Any]) -> None:
        """Measure three uniform sub-networks, where there is somebody who measures."""
        if self.validate is None:
            return
        kept = (self.config.lowest, self.config.middle, self.config.highest)
        found = {f"W{bits}A{bits}": self.validate(Uniform(bits)) for bits in dict.fromkeys(kept)}
        record["subnets"] = {name: one.to_json() for name, one in found.items()}
        if self.tell is not None:
            each = (f"{name} {one.info.name} {one.info.text(one.value)}" for name, one in found.items())
            self.tell(f"epoch {record['epoch']}: {', '.join(each)} on held-out samples")


def _banks(layer: Any) -> tuple[Quantizer | None, Quantizer | None]:
    return layer.weight_quantizer, layer.input_quantizer
