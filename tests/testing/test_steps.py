"""The contract of steps, and that it notices a step that breaks it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mixbit.testing.steps import StepCases
from mixbit.training import ParameterGroup, Step, StepContext, supervised_step
from tests.toy_step import ToyStep


class _Small(StepCases):
    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))

    def data(self) -> object:
        return [(torch.randn(24, 4, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 3)]


class TestPlain(_Small):
    def step(self, model: nn.Module) -> Step:
        return supervised_step


class TestToy(_Small):
    def step(self, model: nn.Module) -> Step:
        return ToyStep()


class Forgetful(ToyStep):
    """Its multiplier is in no state."""

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": self.epochs}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.epochs = state["epochs"]


class Idle(ToyStep):
    """A parameter that no gradient reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Parameter(torch.zeros(2))

    def parameter_groups(self) -> list[ParameterGroup]:
        return [*super().parameter_groups(), ParameterGroup(name="more", parameters={"idle": self.idle})]


class Shifty(ToyStep):
    """Its state grows by names, and does not come back."""

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {f"call {number}": 0 for number in range(int(self.agent.calls))}


class Hidden(ToyStep):
    """A part of it becomes one of the model's."""

    def __call__(self, context: StepContext, x: Tensor, y: Tensor) -> Tensor:
        if "agent" not in dict(context.model.named_children()):
            context.model.register_buffer("seen", torch.zeros(1))
        return super().__call__(context, x, y)


def cases(kind: type[ToyStep]) -> StepCases:
    return type("Cases", (_Small,), {"step": lambda self, model: kind()})()


def test_a_step_that_forgets_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="the model differs"):
        cases(Forgetful).test_a_killed_training_ends_with_the_same_numbers(tmp_path)


def test_a_parameter_without_a_gradient_is_noticed() -> None:
    with pytest.raises(AssertionError, match="more/idle did not move"):
        cases(Idle).test_its_parameters_learn_and_are_none_of_the_models()
    with pytest.raises(AssertionError):
        cases(Hidden).test_its_parameters_learn_and_are_none_of_the_models()


def test_names_that_change_are_noticed() -> None:
    with pytest.raises(AssertionError, match="names of the state changed"):
        cases(Shifty).test_its_state_comes_back()
