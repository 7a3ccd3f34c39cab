"""What a step computes: the model's outputs under the run's precision, and the loss with what the settings add."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mixbit import _batch
from mixbit.errors import MixbitError
from mixbit.quantizers import fuse_under_compile
from mixbit.task import Objective
from mixbit.training.config import TrainConfig


class TrainingLoss:
    """The user's loss with label smoothing, and with the divergence from a teacher beside it.

    Attributes:
        teacher: a copy in evaluation mode, or None where nothing is distilled.
    """

    def __init__(
        self, objective: Objective, config: TrainConfig, teacher: nn.Module | None, device: torch.device
    ) -> None:
        if config.distill and teacher is None:
            raise MixbitError(f"distill={config.distill} needs a teacher. Pass the float network, or distill=0.")
        self.objective, self.config, self.device = objective, config, device
        self.teacher = copy.deepcopy(teacher).eval() if teacher is not None and config.distill else None
        self._taught: tuple[Any, Any] | None = None

    def __call__(self, x: Any, outputs: Any, y: Any) -> Tensor:
        """A scalar, of a batch's inputs, outputs and targets."""
        c = self.config
        hard = self.objective.loss(outputs, y, c.label_smoothing)
        if not hard.requires_grad:
            raise MixbitError(
                f"the loss {self.objective.loss.name!r} does not depend on the parameters: it has no gradient. "
                "Compute it from the outputs by operations of torch, without detach(), item() or argmax()."
            )
        if self.teacher is None:
            return hard
        return self.objective.distilled(outputs, self._soft(x), y, hard, weight=c.distill, temperature=c.temperature)

    def _soft(self, x: Any) -> Any:
        """The teacher's outputs, asked for once a batch: a step of several passes has the same inputs in all."""
        assert self.teacher is not None
        if self._taught is None or self._taught[0] is not x:
            with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, self.config.precision == "bf16"):
                self._taught = (x, _batch.call(self.teacher, x))
        return self._taught[1]


def make_forward(model: nn.Module, config: TrainConfig, device: torch.device) -> Callable[[Any], Any]:
    """The model's outputs of a batch, under the precision of the settings, compiled if they ask for it."""
    inner: Callable[..., Any] = model
    if config.compile:
        fuse_under_compile()
        inner = torch.compile(model)
    if config.precision == "float32":
        return lambda x: _batch.call(inner, x)
    if bf16_is_slow(device):
        has = torch.backends.cpu.get_cpu_capability()
        warnings.warn(
            f"precision='bf16', but this processor ({has}) has no bf16 arithmetic and emulates it: steps "
            "take far longer than in float32. Set precision='float32'.",
            stacklevel=4,
        )

    def autocast(x: Any) -> Any:
        with torch.autocast(device.type, torch.bfloat16):
            return _batch.call(inner, x)

    return autocast


def bf16_is_slow(device: torch.device) -> bool:
    """Whether bf16 is emulated: the numbers are the same, and every step takes longer than in float32."""
    known = device.type == "cpu" and bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    return known and not bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
