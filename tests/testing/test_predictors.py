"""The contract on a Predictor that holds it, and on ones that break one promise each."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mixbit.data import InputSpace
from mixbit.inference import TorchPredictor
from mixbit.testing.predictors import PredictorCases


class Linear(PredictorCases):
    """Nine numbers to four logits."""

    shape = (1, 3, 3)

    def make(self, space: InputSpace) -> TorchPredictor:
        torch.manual_seed(0)
        return TorchPredictor(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(9, 4)), space)


class TestLinear(Linear):
    exact = False


def broken(case: str) -> PredictorCases:
    """The contract of one that breaks a promise."""

    class Broken(TorchPredictor):
        def logits(self, x: Tensor) -> Tensor:
            if case == "batch":
                return super().logits(x) - super().logits(x).mean()
            if case == "space":
                return super().logits(self.space.enter(x))
            if case == "gradient":
                return super().logits(x.detach())
            if case == "inputs" and not bool(torch.isfinite(x).all()):
                return super().logits(torch.nan_to_num(x))
            return super().logits(x)

    class Cases(Linear):
        def make(self, space: InputSpace) -> TorchPredictor:
            found = Broken(super().make(space).model, space)
            if case == "name":
                found.name = ""
            if case == "evaluated":
                found.space = InputSpace()
            return found

    return Cases()


@pytest.mark.parametrize(
    ("case", "test"),
    [
        ("batch", "test_an_input_does_not_depend_on_its_batch"),
        ("space", "test_inputs_enter_through_their_space"),
        ("gradient", "test_gradients_are_given_or_refused"),
        ("inputs", "test_bad_inputs_are_named"),
        ("name", "test_is_a_predictor_with_a_name"),
        ("evaluated", "test_it_can_be_evaluated"),
    ],
)
def test_a_broken_promise_is_noticed(case: str, test: str) -> None:
    with pytest.raises((AssertionError, RuntimeError, pytest.fail.Exception)):
        getattr(broken(case), test)()
