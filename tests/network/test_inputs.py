"""Example inputs in all their forms."""

from __future__ import annotations

import pytest
import torch

from mixbit.errors import CaptureError
from mixbit.network._inputs import read_inputs


def test_tensor_tuple_and_mapping() -> None:
    x = torch.zeros(3, 4)
    assert read_inputs(x).args == (x,)
    assert read_inputs([x, 5]).args == (x, 5)
    assert read_inputs({"a": x}).kwargs == {"a": x}
    assert read_inputs((None, {"deep": [x]})).batch == 3


def test_the_first_tensor_says_how_many_samples_there_are() -> None:
    """Others of another length carry no batch; every sample is there twice, in order."""
    inputs = read_inputs((torch.tensor(1.0), torch.arange(3.0)[:, None], torch.arange(5.0), {"deep": torch.ones(3)}))
    assert inputs.batch == 3
    assert [inputs.is_batched(tensor) for tensor in inputs.tensors()] == [False, True, False, True]
    doubled = inputs.doubled()
    assert doubled.batch == 6 and doubled.args[1].flatten().tolist() == [0, 1, 2, 0, 1, 2]
    assert doubled.args[3]["deep"].shape == (6,) and doubled.args[2].shape == (5,)
    assert inputs.describe() == "(), (3, 1), (5,), (3,)"


def test_doubling_leaves_alone_what_carries_no_batch() -> None:
    doubled = read_inputs((torch.zeros(1, 3), torch.zeros(7), torch.tensor(2.0), "word")).doubled()
    assert [tuple(tensor.shape) for tensor in doubled.tensors()] == [(2, 3), (7,), ()]
    assert (doubled.batch, doubled.args[3]) == (2, "word")


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (3, "example_inputs is a int"),
        ("x", "example_inputs is a str"),
        ((), "no tensor with a batch"),
        ((torch.tensor(1.0),), "no tensor with a batch"),
        (torch.zeros(0, 3), "empty batch"),
    ],
)
def test_useless_examples(example: object, message: str) -> None:
    with pytest.raises(CaptureError, match=message):
        read_inputs(example)
