"""Predictors of arrays: parts of a batch, shapes, and the device of the inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mixbit.data import InputSpace
from mixbit.errors import MixbitError
from mixbit.inference import ArrayPredictor


class Sums(ArrayPredictor):
    """Two sums an input; keeps the sizes of what it was given."""

    def __init__(self, *, batch: int = 3) -> None:
        super().__init__("sums", InputSpace(mean=(1.0,), std=(2.0,)), (2, 2), batch=batch)
        self.sizes: list[int] = []

    def _run(self, z: NDArray[np.float32]) -> NDArray[np.float32]:
        assert z.flags["C_CONTIGUOUS"] and z.dtype == np.float32
        self.sizes.append(len(z))
        return np.stack([z.sum((1, 2)), -z.sum((1, 2))], 1)


def test_a_batch_is_cut_into_parts_in_order() -> None:
    predictor, x = Sums(), torch.rand(7, 2, 2).transpose(1, 2)
    wanted = ((x - 1) / 2).sum((1, 2))
    torch.testing.assert_close(predictor.logits(x), torch.stack([wanted, -wanted], 1))
    assert predictor.sizes == [3, 3, 1]


def test_double_precision_enters_as_single() -> None:
    assert Sums().logits(torch.rand(1, 2, 2, dtype=torch.float64)).dtype == torch.float32


@pytest.mark.parametrize("shape", [(1, 2, 3), (1, 2), (2, 2, 2, 2)])
def test_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(MixbitError, match=r"sums got inputs of shape .*, legal is \(N, 2, 2\)"):
        Sums().logits(torch.rand(*shape))


def test_gradients_are_refused_and_none_are_asked_for_without_them() -> None:
    x = torch.rand(1, 2, 2, requires_grad=True)
    with pytest.raises(MixbitError, match="a tensor that requires them needs gradients, and sums has none"):
        Sums().logits(x)
    with torch.no_grad():
        assert not Sums().logits(x).requires_grad


def test_a_batch_of_none() -> None:
    with pytest.raises(MixbitError, match="batch=0, legal is 1 or more"):
        Sums(batch=0)
