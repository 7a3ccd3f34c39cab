"""What a step brings into a training: its parameters' optimizers, its state, and both in the checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mixbit import _distributed
from mixbit.errors import MixbitError, shown
from mixbit.evaluation import average_batch_norm
from mixbit.training import _checkpoint
from mixbit.training.groups import ParameterGroup
from mixbit.training.step import StatefulStep, Step, StepContext


class Brought:
    """Parameters and state of a step; of a plain function, nothing.

    Attributes:
        parameters: by `group/name`, in the order of the groups.
        averaged: those of them that take part in the moving average.

    Raises:
        MixbitError: a parameter is the model's, or comes twice; a step has such methods and is no `StatefulStep`.
    """

    def __init__(self, step: Step, model: nn.Module, device: torch.device) -> None:
        self.step = step if isinstance(step, StatefulStep) else None
        self.device = device
        if self.step is None:
            _check_plain(step)
        groups = () if self.step is None else tuple(self.step.parameter_groups())
        _check_once(groups, model)
        for group in groups:
            group.move_to(device)
        self.parameters = {f"{group.name}/{name}": one for group in groups for name, one in group.named().items()}
        self.averaged = {
            f"{group.name}/{name}": one for group in groups if group.average for name, one in group.named().items()
        }
        self._optimizers = [(group, group.make_optimizer()) for group in groups]

    # -- in the loop ---------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Take over the first process's parameters and state, on the model's device."""
        if self.step is None:
            return
        held = [*self.parameters.values(), *self._buffers().values()]
        _distributed.take_from_first_(held, "parameters and buffers of the step")
        tensors, plain = self._state()
        plain = json.loads(_distributed.bytes_of_first(json.dumps(plain).encode))
        tensors = {name: one.detach().to(self.device, copy=True) for name, one in tensors.items()}
        _distributed.take_from_first_(list(tensors.values()), "state of the step")
        self.step.load_state_dict({**tensors, **plain})

    def begin_epoch(self, context: StepContext) -> None:
        """Before the first step of an epoch."""
        if self.step is not None:
            self.step.begin_epoch(context)

    def end_epoch(self, context: StepContext, record: dict[str, Any]) -> None:
        """After the last one."""
        if self.step is not None:
            self.step.end_epoch(context, record)

    def zero_grad(self) -> None:
        """Forget the gradients of what the step brought."""
        for _, optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)

    def set_rates(self, set_rates: Callable[[torch.optim.Optimizer], None]) -> None:
        """Give the groups that follow the run's curve their rates."""
        for group, optimizer in self._optimizers:
            if group.schedule == "run":
                set_rates(optimizer)

    def update(self) -> None:
        """Clip, and move the parameters."""
        for group, optimizer in self._optimizers:
            group.clip()
            optimizer.step()

    # -- what is kept --------------------------------------------------------------------------------------------

    def check_alike(self) -> None:
        """Before each checkpoint: what it holds is the same on all processes, so that one of them speaks for all."""
        if self.step is None or not _distributed.is_active():
            return
        for group, _ in self._optimizers:
            if isinstance(group.parameters, nn.Module):
                average_batch_norm(group.parameters)
        held = {name: one.detach() for name, one in {**self.parameters, **self._buffers()}.items()}
        tensors, plain = self._state()
        texts = {name: torch.tensor(list(json.dumps(one).encode()), dtype=torch.uint8) for name, one in plain.items()}
        named = held | tensors | texts
        differs = _distributed.unlike(list(named.values()))
        if differs:
            raise MixbitError(
                f"The processes hold different values of {list(named)[differs[0]]!r} of the step "
                f"{type(self.step).__name__}. Take the mean over all of what follows from a batch (context.mean), and "
                "random numbers from context.generator()."
            )

    def kept(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """For the checkpoint: tensors, and facts: `step`, which a run that goes on must have, and the plain `state`."""
        if self.step is None:
            return {}, {}
        tensors, plain = self._state()
        found = {f"step/parameter/{name}": one.detach() for name, one in self.parameters.items()}
        found |= {f"step/buffer/{name}": one for name, one in self._buffers().items()}
        for group, optimizer in self._optimizers:
            found |= _checkpoint.optimizer_tensors(optimizer, f"step/optimizer/{group.name}")
        found |= {f"step/state/{name}": one for name, one in tensors.items()}
        return found, {"step": self._made_of(tensors, plain), "state": plain}

    def settings(self) -> dict[str, Any]:
        """What a checkpoint must have been made with: the kind of step, its groups, and the names of its state."""
        return self._made_of(*self._state())

    def _made_of(self, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> dict[str, Any]:
        if self.step is None:
            return {}
        found: dict[str, Any] = {"step": type(self.step).__qualname__}
        for group, _ in self._optimizers:
            found |= {f"step group {group.name!r} {name}": value for name, value in group.settings().items()}
        found |= {f"step state {name!r}": f"{one.dtype} tensor" for name, one in tensors.items()}
        return found | {f"step state {name!r}": "plain value" for name in plain}

    def restore(self, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
        """Go on from a checkpoint with these facts."""
        if self.step is None:
            return
        with torch.no_grad():
            for kind, held in (("parameter", self.parameters), ("buffer", self._buffers())):
                for name, one in held.items():
                    _put(one, tensors[f"step/{kind}/{name}"], name)
        for group, optimizer in self._optimizers:
            _checkpoint.restore_optimizer(optimizer, tensors, f"step/optimizer/{group.name}")
        prefix = "step/state/"
        state = {name[len(prefix) :]: one.to(self.device) for name, one in tensors.items() if name.startswith(prefix)}
        self.step.load_state_dict({**state, **plain})

    def _buffers(self) -> dict[str, Tensor]:
        return {f"{group.name}/{name}": one for group, _ in self._optimizers for name, one in group.buffers().items()}

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and plain values of the step's state."""
        if self.step is None:
            return {}, {}
        state = self.step.state_dict()
        for name, value in state.items():
            if not isinstance(name, str) or not (isinstance(value, Tensor) or _is_plain(value)):
                raise MixbitError(
                    f"{type(self.step).__name__}.state_dict() has {shown(value)} for {name!r}. Legal by each name: a "
                    "tensor; or None, a bool, int, float or str, and lists and dicts of them; no tuple, set or array."
                )
        tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
        return tensors, {name: value for name, value in state.items() if name not in tensors}


def _put(into: Tensor, tensor: Tensor, name: str) -> None:
    if into.shape != tensor.shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, the step's {tuple(into.shape)}")
    into.copy_(tensor)


def _is_plain(value: object) -> bool:
    """Whether JSON gives it back as it is."""
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(one) for key, one in value.items())
    return value is None or isinstance(value, bool | int | float | str)


def _check_plain(step: Step) -> None:
    """Refuse what would be passed over."""
    has = [name for name in ("parameter_groups", "state_dict") if hasattr(step, name)]
    if has:
        raise MixbitError(
            f"The step {type(step).__name__} has {' and '.join(has)}, which only a StatefulStep is asked for. Inherit "
            "from mixbit.training.StatefulStep."
        )


def _check_once(groups: tuple[ParameterGroup, ...], model: nn.Module) -> None:
    seen = {id(one): f"the model has as {name!r}" for name, one in model.named_parameters()}
    names = [group.name for group in groups]
    if twice := [name for name in names if names.count(name) > 1]:
        raise MixbitError(f"The step brings two parameter groups {twice[0]!r}. Give each a name of its own.")
    for name, one in _all(groups):
        if id(one) in seen:
            raise MixbitError(
                f"The step brings the parameter {name!r}, which {seen[id(one)]}. A parameter has one optimizer: give "
                "parameter_groups() only what the model has not, each once."
            )
        seen[id(one)] = f"it brings as {name!r} too"


def _all(groups: tuple[ParameterGroup, ...]) -> Iterator[tuple[str, nn.Parameter]]:
    for group in groups:
        for name, one in group.named().items():
            yield f"{group.name}/{name}", one
