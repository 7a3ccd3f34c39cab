"""Parameters that a step brings along, and how they are optimised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from mixbit._settings import NotNegative, Positive, Range, check
from mixbit.errors import MixbitError, shown

__all__ = ["ParameterGroup"]

_Decay = Annotated[float, Range(least=0, below=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterGroup:
    """Parameters beside the model's, with an optimizer of their own.

    Attributes:
        name: of the group, for messages and the checkpoint.
        parameters: a module, whose buffers then belong to it, or parameters by name.
        optimizer: "sgd", "adam" (its decay is a part of the gradient) or "adamw".
        lr: peak learning rate.
        momentum: of SGD.
        nesterov: of SGD, as the model's has it; without, its momentum is plain.
        betas: of Adam and AdamW: decay of the means of gradients and of their squares.
        weight_decay: of all parameters of the group.
        schedule: "constant", or "run": the curve of the model's rate, with its warm-up and floor, up to `lr`.
        maximize: go up the gradient, as multipliers of constraints do.
        clip_value: element-wise clip of gradients, or None.
        clip_norm: longest that the gradient of the whole group may be, or None; after `clip_value`.
        average: take part in the moving average where the training keeps one (`TrainConfig.ema`).

    Raises:
        MixbitError: no parameters, or one that needs no gradient.

    >>> group = ParameterGroup(name="agent", parameters=nn.Linear(2, 1), lr=0.01)
    >>> list(group.named()), group.optimizer
    (['weight', 'bias'], 'adamw')
    """

    name: str
    parameters: nn.Module | Mapping[str, nn.Parameter]
    optimizer: Literal["sgd", "adam", "adamw"] = "adamw"
    lr: Positive = 0.001
    momentum: _Decay = 0.9
    nesterov: bool = True
    betas: tuple[_Decay, _Decay] = (0.9, 0.999)
    weight_decay: NotNegative = 0.0
    schedule: Literal["constant", "run"] = "constant"
    maximize: bool = False
    clip_value: Positive | None = None
    clip_norm: Positive | None = None
    average: bool = False

    def __post_init__(self) -> None:
        check(self, room="parameter group")
        if not self.name or "/" in self.name:
            raise MixbitError(f"parameter group: name={self.name!r} is illegal. Legal: text without '/'.")
        if not self.named():
            raise MixbitError(f"parameter group {self.name!r} has no parameters. Leave it out, or give some.")
        for name, one in self.named().items():
            if not isinstance(one, nn.Parameter) or not one.requires_grad:
                what = "needs no gradient" if isinstance(one, nn.Parameter) else f"is {shown(one)}"
                raise MixbitError(
                    f"parameter group {self.name!r}: parameters: {name!r} {what}. Legal: nn.Parameter with "
                    "requires_grad=True."
                )

    def named(self) -> dict[str, nn.Parameter]:
        """The parameters, by their names in the module or the mapping; one that a module ties has one name."""
        if isinstance(self.parameters, nn.Module):
            return dict(self.parameters.named_parameters())
        return dict(self.parameters)

    def buffers(self) -> dict[str, Tensor]:
        """Buffers of the module, by name."""
        return dict(self.parameters.named_buffers()) if isinstance(self.parameters, nn.Module) else {}

    def settings(self) -> dict[str, Any]:
        """What a run that goes on must have been begun with: all but the parameters, and each one's shape."""
        fixed = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in ("name", "parameters")}
        return fixed | {f"parameter {name!r}": list(one.shape) for name, one in self.named().items()}

    def move_to(self, device: torch.device) -> None:
        """Put parameters and buffers on a device; they stay the same objects."""
        if isinstance(self.parameters, nn.Module):
            self.parameters.to(device)
        else:
            for one in self.parameters.values():
                one.data = one.data.to(device)

    def make_optimizer(self) -> torch.optim.Optimizer:
        """A torch optimizer of the group alone."""
        params: Any = [{"params": list(self.named().values()), "peak": self.lr}]
        how: dict[str, Any] = {"lr": self.lr, "weight_decay": self.weight_decay, "maximize": self.maximize}
        if self.optimizer == "sgd":
            return torch.optim.SGD(params, momentum=self.momentum, nesterov=self.nesterov and self.momentum > 0, **how)
        kind = torch.optim.AdamW if self.optimizer == "adamw" else torch.optim.Adam
        return kind(params, betas=self.betas, **how)

    def clip(self) -> None:
        """Clip the gradients as the settings say."""
        if self.clip_value is not None:
            nn.utils.clip_grad_value_(self.named().values(), self.clip_value)
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.named().values(), self.clip_norm)
