"""PyTorch models as Predictors: the contract, and what they are held against."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mixbit.data import InputSpace
from mixbit.errors import MixbitError
from mixbit.inference import Predictor, TorchPredictor, check_inputs, need_gradients
from mixbit.network import capture
from mixbit.policy import Policy
from mixbit.quantization import quantize
from mixbit.testing.predictors import PredictorCases
from tests.inference import seen

SPACE = InputSpace.of_images(mean=(0.3, 0.4, 0.5), std=(0.5, 0.75, 1.0))


class TestFloat(PredictorCases):
    shape = seen.SHAPE
    exact = False

    def make(self, space: InputSpace) -> Predictor:
        return TorchPredictor(seen.network(), space)


class TestFakeQuantized(PredictorCases):
    shape = seen.SHAPE
    exact = False

    def make(self, space: InputSpace) -> Predictor:
        return TorchPredictor(seen.quantized(self.space())[0], space)


def test_names_say_what_is_predicted() -> None:
    assert TorchPredictor(seen.network()).name == "float"
    assert TorchPredictor(seen.quantized(SPACE)[0]).name == "fake-quantized"
    assert TorchPredictor(seen.network(), name="teacher").name == "teacher"


def test_modes_are_put_back_and_dropout_is_off() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(4, 2)).train()
    model[2].eval()
    predictor, x = TorchPredictor(model), torch.rand(2, 4)
    torch.testing.assert_close(predictor.logits(x), model[2](x))
    assert [module.training for module in model] == [True, True, False]


def test_gradient_is_that_of_the_model_through_its_space() -> None:
    model = nn.Linear(2, 1, bias=False)
    model.weight.data = torch.tensor([[3.0, 5.0]])
    x = torch.rand(1, 2, requires_grad=True)
    found = TorchPredictor(model, InputSpace(mean=(0.1, 0.2), std=(0.5, 0.25))).logits(x)
    torch.testing.assert_close(torch.autograd.grad(found.sum(), x)[0], torch.tensor([[6.0, 20.0]]))


def test_output_chooses_the_logits() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"features": x, "logits": 2 * x}

    x = torch.rand(2, 3)
    assert torch.equal(TorchPredictor(Two(), output=lambda found: found["logits"]).logits(x), 2 * x)
    with pytest.raises(MixbitError, match="output="):
        TorchPredictor(Two()).logits(x)


def test_logits_are_float32_whatever_the_model_gives() -> None:
    found = TorchPredictor(nn.Linear(2, 2), output=lambda y: y.double()).logits(torch.rand(3, 2))
    assert found.dtype == torch.float32


def test_quantizers_that_were_never_calibrated_are_refused() -> None:
    model = seen.network()
    found = capture(model, torch.zeros(2, *seen.SHAPE))
    quantize(model, Policy.uniform(found, 4, 4), found)
    with pytest.raises(MixbitError, match="never calibrated"):
        TorchPredictor(model)


def test_bad_inputs() -> None:
    with pytest.raises(MixbitError, match="who got list, legal is a tensor"):
        check_inputs([1.0], "who")  # type: ignore[arg-type]
    with pytest.raises(MixbitError, match=r"shape \(\)"):
        check_inputs(torch.tensor(1.0), "who")


def test_who_needs_gradients_says_so() -> None:
    class Integers:
        name, space, differentiable = "compiled C", InputSpace(), False

        def logits(self, x: Tensor) -> Tensor:
            return x

    need_gradients(TorchPredictor(seen.network()), "PGD")
    with pytest.raises(MixbitError, match="PGD needs gradients, and compiled C has none"):
        need_gradients(Integers(), "PGD")
