"""The exponential moving average of a model's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class Average:
    """Exponential moving average of all parameters, of the running statistics of batch norm, and of `others`.

    Update `t`, from 0, keeps `min(decay, (1 + t) / (10 + t))` of the average: the weights that a training starts from
    lose their part within the first few steps, and an average of a short training is one of its later half. (A
    constant 0.999 keeps 90 % of the first weights for a hundred steps. The rule is that of TensorFlow's
    `ExponentialMovingAverage` with `num_updates`.)

    >>> from torch import nn
    >>> model = nn.Linear(1, 1, bias=False)
    >>> with torch.no_grad(): _ = model.weight.fill_(0.0)
    >>> average = Average(model, 0.999)
    >>> with torch.no_grad(): _ = model.weight.fill_(1.0)
    >>> for step in range(20): average.update(model, step)
    >>> round(float(average.shadow["weight"]), 3)
    1.0
    """

    def __init__(
        self, model: nn.Module, decay: float, others: Mapping[str, nn.Parameter] = MappingProxyType({})
    ) -> None:
        self.decay = decay
        self._others = {f"step/{name}": parameter.detach() for name, parameter in others.items()}
        self.shadow = {name: tensor.detach().clone() for name, tensor in self._averaged(model)}
        self._raw: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the model's state after optimizer step number `step`, from 0."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        named = dict(self._averaged(model))
        torch._foreach_lerp_([self.shadow[name] for name in named], list(named.values()), weight)

    @torch.no_grad()
    def put_into(self, model: nn.Module) -> None:
        """Give the model the average; `take_out` gives it its own weights back."""
        self._raw = {name: tensor.detach().clone() for name, tensor in self._held(model)}
        for name, tensor in self._averaged(model):
            tensor.copy_(self.shadow[name])

    @torch.no_grad()
    def take_out(self, model: nn.Module) -> None:
        """Undo `put_into`, with all that changed in parameters and buffers since."""
        for name, tensor in self._held(model):
            tensor.copy_(self._raw[name])
        self._raw = {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from the average of a checkpoint, `shadow` by name."""
        for name, shadow in self.shadow.items():
            shadow.copy_(tensors[name])

    def _averaged(self, model: nn.Module) -> Iterator[tuple[str, Tensor]]:
        yield from _averaged(model)
        yield from self._others.items()

    def _held(self, model: nn.Module) -> Iterator[tuple[str, Tensor]]:
        yield from ((name, parameter.detach()) for name, parameter in model.named_parameters())
        yield from model.named_buffers()
        yield from self._others.items()


def _averaged(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from ((name, parameter.detach()) for name, parameter in model.named_parameters())
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            for kind in ("running_mean", "running_var"):
                tensor = getattr(module, kind)
                if tensor is not None:
                    yield f"{name}.{kind}" if name else kind, tensor
