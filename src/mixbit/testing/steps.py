"""What every training step must do.

Inherit `StepCases` in a test module, say how your step and a small problem are made, and pytest runs the cases on it:

    class TestMine(StepCases):
        def model(self):
            return nn.Linear(4, 2)

        def step(self, model):
            return MyStep(model)

        def data(self):
            return [(torch.randn(32, 4), torch.arange(32) % 2)]

A step is a function, or a `StatefulStep` that brings parameters and state.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mixbit.testing.options import alike
from mixbit.training import StatefulStep, Step, TrainConfig, train

__all__ = ["StepCases"]


class _Killed(Exception):
    pass


class StepCases:
    """Cases that hold for every step.

    Attributes:
        config: of the trainings: at least two epochs of two steps.
    """

    config = TrainConfig(epochs=2, batch_size=8, lr=0.05, bn_samples=0)

    def model(self) -> nn.Module:
        """What is trained, the same at every call."""
        raise NotImplementedError

    def step(self, model: nn.Module) -> Step:
        """A new step for that model, the same at every call."""
        raise NotImplementedError

    def data(self) -> object:
        """A training split, or what `train` makes one of; the same at every call."""
        raise NotImplementedError

    def trained(self, run: Path | None = None, *, kill_after: float | None = None) -> tuple[nn.Module, Step]:
        """Model and step after a training, with a checkpoint at every step; killed after so many epochs."""
        model = self.model()
        step = self.step(model)

        def penalty(_model: nn.Module, epochs: float) -> Tensor:
            if kill_after is not None and epochs >= kill_after:
                raise _Killed
            return torch.zeros(())

        config = TrainConfig(**{name: getattr(self.config, name) for name in self.config.__slots__} | _EAGER)
        train(model, self.data(), None, config, run=run, step=step, penalty=penalty, quiet=True)
        return model, step

    def test_a_killed_training_ends_with_the_same_numbers(self, tmp_path: Path) -> None:
        """In the middle of the second epoch: in the model, the step's parameters and its state."""
        whole = self.trained()
        with pytest.raises(_Killed):
            self.trained(tmp_path, kill_after=1.01)
        again = self.trained(tmp_path)
        assert alike(dict(again[0].state_dict()), dict(whole[0].state_dict())), "the model differs"
        differ = [name for name, one in _held(whole[1]).items() if not alike(one, _held(again[1])[name])]
        assert not differ, f"{', '.join(differ)} differ: what calls change belongs to state_dict() or a parameter"

    def test_its_parameters_learn_and_are_none_of_the_models(self) -> None:
        model, step = self.trained()
        begun = _parameters(self.step(self.model()))
        still = [name for name, one in _parameters(step).items() if torch.equal(one, begun[name])]
        assert not still, f"{', '.join(still)} did not move: no gradient reached them"
        assert list(model.state_dict()) == list(self.model().state_dict())

    def test_its_state_comes_back(self) -> None:
        """A new step that is given it holds the same, under the same names as in the beginning."""
        _, step = self.trained()
        fresh = self.step(self.model())
        if not isinstance(step, StatefulStep) or not isinstance(fresh, StatefulStep):
            return
        state = copy.deepcopy(step.state_dict())
        assert list(fresh.state_dict()) == list(state), "the names of the state changed in the training"
        fresh.load_state_dict(copy.deepcopy(state))
        assert alike(fresh.state_dict(), state)


_EAGER: dict[str, Any] = {"checkpoint_seconds": 0.0}


def _parameters(step: Step) -> dict[str, Tensor]:
    if not isinstance(step, StatefulStep):
        return {}
    groups = step.parameter_groups()
    return {f"{group.name}/{name}": one.detach().clone() for group in groups for name, one in group.named().items()}


def _held(step: Step) -> dict[str, Any]:
    return _parameters(step) | (step.state_dict() if isinstance(step, StatefulStep) else {})
