"""One export call and one interpreter for all who read a model's graph."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import Tensor, nn

from mixbit.network.program import Unfollowable, evaluating, execute, follow, interpret, is_data_dependent, op_name

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


class Forks(nn.Module):
    """Two readers of one tensor, a constant, and a write in place into a copy."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.register_buffer("shift", torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).relu_()
        return self.second(y).add_(self.shift) + y


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if x.sum() > 0 else x


def test_operators_are_run_in_order_and_give_the_models_numbers() -> None:
    torch.manual_seed(1)
    model = Forks().eval()
    with evaluating(model):
        program = follow(model, X)
        seen = [(node, value.clone()) for node, value in interpret(program, X)]
        assert torch.equal(seen[-1][1], model(X))
    assert [op_name(node) for node, _ in seen[1:]] == ["linear", "relu", "linear", "add", "add"]
    assert seen[0][0] is program.inputs[0] and torch.equal(seen[0][1], X)


def test_neither_the_batch_nor_a_buffer_is_written_into() -> None:
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("sums", torch.zeros(3))

        def forward(self, x: Tensor) -> Tensor:
            self.sums.add_(1)
            return x.mul_(2) + self.sums

    model, x = Writes().eval(), X.clone()
    with evaluating(model):
        program = follow(model, X)
        before = model.sums.clone()
        list(interpret(program, x))
    assert torch.equal(x, X) and torch.equal(model.sums, before)


def test_a_value_goes_after_its_last_reader() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.Sigmoid()).eval()
    with evaluating(model):
        program = follow(model, X)
        held: list[weakref.ref[Tensor]] = []
        most = 0
        for _, value in interpret(program, X):
            held.append(weakref.ref(value))
            del value
            most = max(most, sum(one() is not None for one in held))
    assert most <= 2, "the operator's own result, and the one that it was made from"


def test_what_has_no_one_graph_says_what_pytorch_says() -> None:
    model = Branches().eval()
    with evaluating(model), pytest.raises(Unfollowable) as told:
        follow(model, X)
    assert is_data_dependent(told.value) and told.value.reason == str(told.value.__cause__) != ""


def test_one_operator_reads_what_it_is_given() -> None:
    model = nn.Sequential(nn.Linear(3, 2)).eval()
    with evaluating(model):
        program = follow(model, X)
    (node,) = program.calls
    values = {
        program.inputs[0]: X,
        **{n: torch.ones_like(model.get_parameter(p)) for n, p in program.parameters.items()},
    }
    assert torch.allclose(execute(node, values.__getitem__), X.sum(1, keepdim=True).expand(4, 2) + 1)
