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
