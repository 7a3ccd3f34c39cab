"""What is folded, and what is not since something else reads it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mixbit.errors import ExportError
from mixbit.integer.graph import IntegerGraph
from mixbit.integer.lowering import lower
from tests.export.following import hold
from tests.export.modules import NETWORK, Call, quantized

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")

X = torch.randn(4, 3, 5, 7, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A convolution, a batch norm, a second convolution and a head around one change."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.n, self.b = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Identity()
        if "b" in call.__code__.co_names:
            self.b = nn.Conv2d(4, 4, 1)
        self.call, self.fc = call, nn.Linear(4 * 35, 3)
        self.n.weight.data.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.call(self, x).flatten(1))


def lowered(call: Call) -> IntegerGraph:
    return lower(quantized(Net(call), X), NETWORK, [X])


def kinds(graph: IntegerGraph) -> list[str]:
    return [op.kind for op in graph.ops if op.kind not in ("QuantizeInput", "Reshape")]


def test_what_is_read_once_is_folded() -> None:
    graph = lowered(lambda m, x: m.b(m.n(m.a(x)).relu()).clamp(-0.1, 0.1))
    assert kinds(graph) == ["Conv", "Conv", "Linear"]
    assert [op.name for op in graph.ops if op.kind == "Conv"] == ["a", "b"]


def test_a_clamp_that_is_not_alone_is_an_operation_of_its_own() -> None:
    graph = lowered(lambda m, x: (y := m.a(x)).clamp(-0.1, 0.1) + y)
    assert kinds(graph) == ["Conv", "Requantize", "Add", "Linear"]
    assert graph.weighted()[0].clamp is None


def test_a_clamp_behind_a_move_is_an_operation_of_its_own() -> None:
    assert kinds(lowered(lambda m, x: m.a(x).mT.relu())) == ["Conv", "Transpose", "Requantize", "Linear"]


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda m, x: m.n(m.a(x).relu()), "it does not follow a convolution or linear layer directly"),
        (lambda m, x: m.n(m.a(x).clamp(max=0.3)), "it does not follow a convolution or linear layer directly"),
        (lambda m, x: m.n(m.b(m.a(x)).mT), "it does not follow a convolution or linear layer directly"),
        (lambda m, x: m.n(y := m.a(x)) + y, "something else reads the layer before it as well"),
    ],
)
def test_a_batch_norm_that_cannot_be_folded_is_refused(call: Call, reason: str) -> None:
    with pytest.raises(ExportError, match=f"^n: batch_norm has no integer form: {reason}"):
        lowered(call)


def test_two_batch_norms_are_folded_one_after_the_other() -> None:
    assert kinds(lowered(lambda m, x: m.n(m.n(m.a(x))))) == ["Conv", "Linear"]


@pytest.mark.parametrize("seed", range(100, 115))
def test_random_networks_lower_to_the_nearest_integers(seed: int) -> None:
    hold(seed)
