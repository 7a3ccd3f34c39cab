"""Graphs for the tests of capture's parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from mixbit.network._export import evaluating, export
from mixbit.network._inputs import read_inputs
from mixbit.network._program import Program, read_program


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The networks are tiny, and the machine is shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def program() -> Callable[..., Program]:
    """`program(model, *inputs)`: the model's flat graph."""

    def make(model: nn.Module, *inputs: torch.Tensor) -> Program:
        with evaluating(model):
            return read_program(model, *export(model, read_inputs(inputs)))

    return make


class Call(nn.Module):
    """A function as a model; keyword arguments are submodules or parameters."""

    def __init__(self, function: Callable[..., Any], **members: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.function = function
        for name, member in members.items():
            setattr(self, name, member)

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.function(self, *inputs)
