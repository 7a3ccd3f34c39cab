"""The protocol that evaluation, attacks and certificates stand on, and the Predictor of a PyTorch model."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from mixbit import _batch
from mixbit._modes import in_evaluation
from mixbit.data import InputSpace
from mixbit.errors import MixbitError
from mixbit.quantization import check_calibrated, quantized_layers

__all__ = ["Predictor", "TorchPredictor", "check_inputs", "need_gradients"]


@runtime_checkable
class Predictor(Protocol):
    """Whatever gives logits of a batch of inputs in the user's own unit."""

    @property
    def name(self) -> str:
        """For tables and messages."""
        ...

    @property
    def space(self) -> InputSpace:
        """How inputs become those of the network, and where they may lie."""
        ...

    @property
    def differentiable(self) -> bool:
        """Whether gradients pass from the logits to the inputs."""
        ...

    def logits(self, x: Tensor) -> Tensor:
        """Logits of each input; one does not depend on which others are in its batch.

        Args:
            x: inputs `(N, ...)` in the unit of `space`, finite, at least one, on any device.

        Returns:
            Logits `(N, C)`, or `(N, C, ...)` of a network that names a class at each place, float32, on the device of
            `x`.

        Raises:
            MixbitError: inputs that are not finite or of another shape, or gradients that cannot be given.
        """
        ...


class TorchPredictor:
    """A PyTorch model, in float or fake-quantized, in evaluation mode; its modes are put back after each batch.

    Args:
        model: on any device; quantized ones are calibrated.
        space: of its inputs; without one, inputs are the network's as they are.
        output: which of its outputs are the logits: a function of them.
        name: `float` or `fake-quantized` without one.

    Raises:
        MixbitError: quantizers that were never calibrated.

    >>> model = nn.Linear(2, 2, bias=False)
    >>> _ = nn.init.eye_(model.weight)
    >>> predictor = TorchPredictor(model, InputSpace(mean=(1.0,), std=(2.0,)))
    >>> predictor.logits(torch.tensor([[1.0, 5.0]])).tolist(), predictor.name, predictor.differentiable
    ([[0.0, 2.0]], 'float', True)
    """

    differentiable = True

    def __init__(
        self,
        model: nn.Module,
        space: InputSpace | None = None,
        *,
        output: Any = None,
        name: str | None = None,
    ) -> None:
        check_calibrated(model)
        self.model, self.output = model, output
        self.space = InputSpace() if space is None else space
        self.name = name or ("fake-quantized" if quantized_layers(model) else "float")

    def logits(self, x: Tensor) -> Tensor:
        """See `Predictor`; gradients pass to `x`, and straight through the rounding of a fake-quantized model."""
        check_inputs(x, self.name)
        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        with in_evaluation(self.model):
            found = _batch.call(self.model, self.space.enter(x.to(device)))
        found = found if self.output is None else self.output(found)
        if not isinstance(found, Tensor):
            raise MixbitError(
                f"{self.name} gives {_batch.describe(found)}, legal is one tensor of logits (N, C). "
                "Say which output it is by output=."
            )
        return found.to(torch.float32).to(x.device)


def check_inputs(x: Tensor, who: str) -> None:
    """Raise unless `x` is a batch of finite numbers.

    Raises:
        MixbitError: no tensor, no floating point, no sample, or NaN or infinity.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point() or not x.dim() or not len(x):
        what = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise MixbitError(f"{who} got {what}, legal is a tensor (N, ...) of floating point with N of 1 or more.")
    if not bool(torch.isfinite(x.detach()).all()):
        raise MixbitError(f"{who} got inputs with NaN or infinity. Give finite numbers.")


def need_gradients(predictor: Predictor, who: str) -> None:
    """Raise if a Predictor cannot give gradients to who needs them.

    Raises:
        MixbitError: it cannot.
    """
    if not predictor.differentiable:
        raise MixbitError(
            f"{who} needs gradients, and {predictor.name} has none: its arithmetic is integers. Legal: a "
            "TorchPredictor, of the float or of the fake-quantized network, whose result is then tried on the other."
        )
