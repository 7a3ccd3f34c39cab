"""What one optimizer step is: the gradients of one batch, and what a step brings along for them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mixbit.errors import MixbitError
from mixbit.training.groups import ParameterGroup

__all__ = ["StatefulStep", "Step", "StepContext", "supervised_step"]


@dataclass(slots=True, kw_only=True)
class StepContext:
    """What one training step may use; `loss` is the user's loss with smoothing and distillation already in it."""

    model: nn.Module
    loss: Callable[[Any, Any, Any], Tensor]
    """`(inputs, outputs, targets) -> scalar`."""
    forward: Callable[[Any], Any]
    """The model under the run's precision, compiled if asked for."""
    number: int = 0
    """Steps taken before this one, over all epochs."""
    total: int = 1
    """Steps of the whole training."""
    epoch: int = 0
    """Epochs finished before this one."""
    seed: int = 0
    mean: Callable[[Tensor], Tensor] = Tensor.detach
    """A mean over this process's samples of the batch -> the mean over all of them, the same on every process."""

    def generator(self) -> torch.Generator:
        """Random numbers of this step, a function of seed and number alone: all processes and resumed runs agree.

        >>> one, other = (StepContext(model=None, loss=None, forward=None, number=3) for _ in "ab")
        >>> bool(torch.rand((), generator=one.generator()) == torch.rand((), generator=other.generator()))
        True
        """
        return torch.Generator().manual_seed(self.seed * 1_000_003 + self.number)


class Step(Protocol):
    """Computes gradients for one batch (they may be the sum of several passes) and returns the loss to report."""

    def __call__(self, context: StepContext, x: Any, y: Any) -> Tensor: ...


class StatefulStep(ABC):
    """A step that brings parameters, or state, of its own: agents, architecture weights, multipliers, a replay.

    Inherit from it and override what the step has. `train` then optimises the parameters with the gradients that the
    call leaves in them, averaged over all processes; writes both into the checkpoint; begins alike on every process, on
    the model's device, with what the first one holds; and goes on after a kill bit for bit. Neither is a part of the
    model, so its weights file has none of it.

    A step's number of calls is none of its own: a killed run repeats those since its last checkpoint. So all that a
    call changes and that later ones depend on belongs to the state or to a parameter.

    >>> class Weighted(StatefulStep):
    ...     def __init__(self) -> None:
    ...         self.weights, self.seen = nn.Parameter(torch.zeros(2)), 0
    ...     def parameter_groups(self):
    ...         return [ParameterGroup(name="loss", parameters={"weights": self.weights}, lr=0.1)]
    ...     def state_dict(self):
    ...         return {"seen": self.seen}
    ...     def load_state_dict(self, state):
    ...         self.seen = state["seen"]
    ...     def __call__(self, context, x, y):
    ...         self.seen += 1
    ...         loss = self.weights.softmax(0)[0] * context.loss(x, context.forward(x), y)
    ...         loss.backward()
    ...         return loss.detach()
    >>> from mixbit.training import TrainConfig, train
    >>> step, data = Weighted(), [(torch.randn(8, 3), torch.arange(8) % 2)]
    >>> _ = train(nn.Linear(3, 2), data, None, TrainConfig(epochs=2, batch_size=4), step=step, quiet=True)
    >>> step.seen, bool(step.weights[0] < 0)
    (4, True)
    """

    @abstractmethod
    def __call__(self, context: StepContext, x: Any, y: Any) -> Tensor:
        """Leave gradients in the model's parameters and in the step's own, and return the loss to report."""

    def parameter_groups(self) -> Sequence[ParameterGroup]:
        """Its parameters, none of which the model has; asked once, when a training begins."""
        return ()

    def state_dict(self) -> dict[str, Any]:
        """What else it must remember, by name: tensors, and plain values as JSON has them. Always the same names."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave, here, on another process or in a run that was killed.

        Called at the beginning of every training; tensors come on the model's device, and are the step's to keep.
        """
        if state:
            raise MixbitError(
                f"{type(self).__name__} gives a state ({', '.join(state)}) and takes none back. Override "
                "load_state_dict too."
            )

    def begin_epoch(self, context: StepContext) -> None:  # noqa: B027 - nothing to do is legal
        """Once before the first step of every epoch, also in a run that was killed and goes on."""

    def end_epoch(self, context: StepContext, record: dict[str, Any]) -> None:  # noqa: B027 - as above
        """Once after the last step of every epoch: may add plain values to the epoch's line of metrics."""


def supervised_step(context: StepContext, x: Any, y: Any) -> Tensor:
    """One forward and one backward pass."""
    loss = context.loss(x, context.forward(x), y)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()
