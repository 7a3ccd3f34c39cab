"""The space of inputs: bit for bit what the data sets give, there and back, with gradients."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from mixbit.data import InputSpace, TensorSplit
from mixbit.errors import DataError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SPACE = InputSpace.of_images(mean=MEAN, std=STD)


def every_pixel() -> torch.Tensor:
    """(1, 3, 16, 16), all 256 values in each channel."""
    return torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16).contiguous()


def test_pixels_enter_as_the_data_sets_give_them_and_leave_as_they_came() -> None:
    z, _ = next(TensorSplit(every_pixel(), torch.zeros(1, dtype=torch.int64), 1, MEAN, STD).batches(1))
    x = every_pixel() / 255
    assert torch.equal(SPACE.enter(x), z)
    assert torch.equal(SPACE.leave(z), x)


def test_values_between_pixels_leave_between_them() -> None:
    x = torch.rand(4, 3, 5, 5)
    torch.testing.assert_close(SPACE.leave(SPACE.enter(x)), x, rtol=0, atol=2e-6)
    assert not torch.equal((SPACE.leave(SPACE.enter(x)) * 255).round() / 255, SPACE.leave(SPACE.enter(x)))


def test_the_formula_by_channel() -> None:
    space = InputSpace(mean=(1.0, 2.0), std=(2.0, 4.0))
    assert space.enter(torch.tensor([[3.0, 4.0]])).tolist() == [[1.0, 0.5]]
    assert space.leave(torch.tensor([[1.0, 0.5]])).tolist() == [[3.0, 4.0]]
    assert space.enter(torch.full((1, 2, 1, 1, 1), 4.0)).flatten().tolist() == [1.5, 0.5]
    one = InputSpace(mean=(1.0,), std=(2.0,))
    assert one.enter(torch.tensor([[3.0, 5.0]])).tolist() == [[1.0, 2.0]]


def test_without_normalisation_inputs_are_as_they_are() -> None:
    x = torch.rand(2, 7)
    assert InputSpace().plain and InputSpace().enter(x) is x and InputSpace().leave(x) is x
    assert not InputSpace(mean=(0.0,), std=(2.0,)).plain and not InputSpace(mean=(0.1,), std=(1.0,)).plain


def test_gradient_is_one_over_std() -> None:
    x = torch.rand(1, 3, 1, 1, requires_grad=True)
    found = torch.autograd.grad(SPACE.enter(x).sum(), x)[0]
    torch.testing.assert_close(found.flatten(), 1 / torch.tensor(STD))


def test_clipping() -> None:
    x = torch.tensor([-2.0, 0.25, 3.0])
    assert SPACE.clip(x).tolist() == [0.0, 0.25, 1.0]
    assert InputSpace(bounds=(-1.0, 2.0)).clip(x).tolist() == [-1.0, 0.25, 2.0]
    assert InputSpace().clip(x).tolist() == x.tolist()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"mean": (0.0, 1.0)}, "as many"),
        ({"mean": (), "std": ()}, "1 or more"),
        ({"mean": (math.nan,)}, "finite"),
        ({"std": (0.0,)}, "above 0"),
        ({"pixel_scale": 0.0}, "above 0"),
        ({"pixel_scale": math.inf}, "finite"),
        ({"bounds": (1.0, 1.0)}, "least below the largest"),
    ],
)
def test_what_is_no_space(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        InputSpace(**wrong)


def test_another_number_of_channels() -> None:
    for call in (SPACE.enter, SPACE.leave):
        with pytest.raises(DataError, match="have 4 channels, their space has 3"):
            call(torch.zeros(1, 4, 2, 2))
