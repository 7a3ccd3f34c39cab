"""Messages name the user's line and module."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
import torch
from torch import nn

from mixbit.errors import CaptureError
from mixbit.network import capture
from tests.network.conftest import Call


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x)  # the line


class ToNumpy(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(x.numpy() + 1)  # the line


def line_of(cls: type) -> str:
    """`file:line` of the marked line of a class."""
    lines, start = inspect.getsourcelines(cls)
    at = next(at for at, text in enumerate(lines) if "# the line" in text)
    return f"{inspect.getsourcefile(cls)}:{start + at}"


def failure(model: Any, example: Any) -> str:
    with pytest.raises(CaptureError) as caught:
        capture(model, example)
    return str(caught.value)


def test_a_wrong_example_shape_names_line_module_and_shapes() -> None:
    message = failure(nn.Sequential(nn.ReLU(), Inner()), torch.randn(2, 5))
    assert line_of(Inner) in message
    assert "module '1.fc', Linear" in message
    assert "(2, 5)" in message
    assert "mat1 and mat2 shapes cannot be multiplied (2x5 and 4x3)" in message
    assert "`return self.fc(x)  # the line`" in message


def test_modules_of_torch_alone_have_no_line_but_a_name() -> None:
    message = failure(nn.Sequential(nn.ReLU(), nn.Linear(4, 3)), torch.randn(2, 5))
    assert "(module '1', Linear)" in message
    assert " at " not in message.partition("Give inputs")[0]


def test_code_that_cannot_be_exported_names_its_line() -> None:
    message = failure(nn.Sequential(nn.Linear(4, 4), ToNumpy()), torch.randn(2, 4))
    assert line_of(ToNumpy) in message
    assert "torch.export cannot follow the model" in message
    assert "module '1', ToNumpy" in message


def test_the_cause_is_kept() -> None:
    with pytest.raises(CaptureError) as caught:
        capture(Inner(), torch.randn(2, 5))
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_results_of_a_class_of_their_own() -> None:
    class Answer:
        def __init__(self, x: torch.Tensor) -> None:
            self.x = x

    message = failure(Call(lambda self, x: Answer(x + 1)), torch.randn(2, 4))
    assert "Answer" in message
    assert "return tensors, tuples, lists and dicts" in message


def test_missing_arguments() -> None:
    message = failure(Call(lambda self, x, y: x + y), torch.randn(2, 4))
    assert "TypeError" in message
    assert "'y'" in message


@pytest.mark.parametrize("model", [None, 3, nn.Linear, "resnet20", torch.zeros(2)])
def test_what_is_no_module(model: object) -> None:
    message = failure(model, torch.randn(2, 4))
    assert "legal is an instance of torch.nn.Module" in message
    assert ("Call the class first" in message) == (model is nn.Linear)


def test_wrapped_models() -> None:
    assert "Capture model._orig_mod." in failure(torch.compile(nn.Linear(4, 4)), torch.randn(2, 4))
    assert "Capture model.module." in failure(nn.DataParallel(nn.Linear(4, 4)), torch.randn(2, 4))


def test_lazy_parameters() -> None:
    assert re.search(
        r"'0.weight' has no shape yet. Run the model once", failure(nn.Sequential(nn.LazyLinear(3)), torch.randn(2, 4))
    )
