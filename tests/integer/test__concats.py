"""Concats of wide and narrow tensors."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixbit.integer import _concats, executor
from mixbit.integer.graph import IntegerGraph
from mixbit.integer.lowering import lower
from mixbit.network import Network, capture
from mixbit.policy import Policy
from mixbit.quantization import calibrate, quantize
from tests.export.following import hold

X = torch.randn(12, 2, 6, 6, generator=torch.Generator().manual_seed(3))


class Net(nn.Module):
    """A narrow tensor `a` joined with one that is `ratio` times as wide, and read by `d` if it is `shared`."""

    def __init__(self, ratio: float, *, shared: bool) -> None:
        super().__init__()
        self.a, self.big, self.c = nn.Conv2d(2, 4, 1), nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.d, self.fc, self.shared = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(144, 3), shared
        with torch.no_grad():
            self.big.weight *= ratio
            self.big.bias *= ratio
            self.c.weight[:, 4:] /= ratio

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.a(x))
        z = self.c(torch.cat([y[:, 0:], self.big(x)], 1))
        return self.fc((self.d(y) + z if self.shared else z).flatten(1))


class Pooled(Net):
    """The narrow tensor reaches the join through a pool, which only moves elements."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.max_pool2d(torch.relu(self.a(x)), 3, 1, 1)
        found: Tensor = self.fc(self.c(torch.cat([y, self.big(x)], 1)).flatten(1))
        return found


class Prepared(NamedTuple):
    model: nn.Module
    network: Network

    def lower(self, *, apart: bool = False) -> IntegerGraph:
        return lower(self.model, self.network, [X], rounding="float32", apart=apart)


def prepared(ratio: float, *, shared: bool = True, net: type[Net] = Net) -> Prepared:
    torch.manual_seed(4)
    model = net(ratio, shared=shared).eval()
    network = capture(model, X)
    quantize(model, Policy.uniform(network, 8, 8), network)
    calibrate(model, [X], rule="minmax")
    return Prepared(model, network)


def copies(graph: IntegerGraph) -> list[str]:
    return [note.name for note in graph.notes if note.kind == "requantized"]


@pytest.mark.parametrize("ratio", [10.0, 100.0])
def test_readers_of_a_narrow_tensor_keep_its_grid(ratio: float, monkeypatch: pytest.MonkeyPatch) -> None:
    found = prepared(ratio)
    graph = found.lower()
    assert copies(graph) == ["cat.requantize"]
    with torch.no_grad():
        highest = float(torch.relu(found.model.a(X)).max())  # the input as it is: its rounding moves little
        wanted = found.model(X).numpy()
    assert graph.grid("a").scale < 1.5 * highest / 255, "8 bits over its own range"
    assert graph.grid("cat").scale > 2 * highest / 255
    monkeypatch.setattr(_concats, "_WIDER", np.inf)
    joint = found.lower()
    assert not copies(joint)
    apart, together = (np.abs(executor.run(one, X.numpy()) - wanted).mean() for one in (graph, joint))
    assert apart < 0.5 * together


def test_ranges_are_those_that_were_observed_and_zero_however_small() -> None:
    found = prepared(10.0)
    for layer in (found.model.a, found.model.big):
        layer.weight.data.mul_(0.01)  # type: ignore[operator, union-attr]
        layer.bias.data.mul_(0.01)  # type: ignore[operator, union-attr]
    calibrate(found.model, [X], rule="minmax")
    assert copies(found.lower()) == ["cat.requantize"]


def test_a_grid_is_as_wide_as_from_its_smallest_to_its_largest_value() -> None:
    """From 0 to 1 joined with -1.3 to 0.9: the joint grid is 2.3 times as wide, and no number 1.5 times as large."""
    found = prepared(1.0)
    a, big = found.model.a, found.model.big
    with torch.no_grad():
        highest, (low, high) = torch.relu(a(X)).max(), big(X).aminmax()  # type: ignore[operator]
        factor = 2.2 * highest / (high - low)
        big.weight.mul_(factor)  # type: ignore[operator, union-attr]
        big.bias.mul_(factor).sub_(1.3 * highest + factor * low)  # type: ignore[operator, union-attr]
    calibrate(found.model, [X], rule="minmax")
    assert copies(found.lower()) == ["cat.requantize"]


def test_zero_is_a_number_of_every_grid() -> None:
    """Numbers near 1 take 8 bits from 0 on, joined with -0.2 to 0.9 as well: a copy would gain nothing."""
    found = prepared(1.0)
    a, big = found.model.a, found.model.big
    with torch.no_grad():
        a.weight.mul_(0.02)  # type: ignore[operator, union-attr]
        a.bias.fill_(1.0)  # type: ignore[operator, union-attr]
        low, high = big(X).aminmax()  # type: ignore[operator]
        big.weight.div_(high - low)  # type: ignore[operator, union-attr]
        big.bias.sub_(low).div_(high - low).sub_(0.2)  # type: ignore[operator, union-attr]
        assert torch.relu(a(X)).min() > 0.8  # type: ignore[operator]
    calibrate(found.model, [X], rule="minmax")
    assert not copies(found.lower())


def test_like_ranges_share_a_grid() -> None:
    found = prepared(0.6)
    assert not copies(found.lower())
    assert copies(found.lower(apart=True)) == ["cat.requantize"], "room for what training makes of it"


def test_a_shared_grid_holds_the_values_of_all_inputs() -> None:
    """Up to 3/2 of their range, where the step is an odd part of a trained one."""
    found = prepared(1.8)
    grid = found.lower().grid("cat")
    with torch.no_grad():
        values = torch.cat([torch.relu(found.model.a(X)), found.model.big(X)], 1)  # type: ignore[operator]
    low, high = (grid.scale * (end - grid.zero_point) for end in (grid.qmin, grid.qmax))
    width = float(values.max() - values.min())
    assert low <= values.min() + 0.02 * width and high >= values.max() - 0.02 * width
    assert high - low < 1.5 * width


@pytest.mark.parametrize("net", [Net, Pooled])
def test_what_the_concat_alone_reads_is_written_on_its_grid_at_once(net: type[Net]) -> None:
    found = prepared(50.0, shared=False, net=net)
    for apart in (False, True):
        graph = found.lower(apart=apart)
        assert not copies(graph)
        assert graph.grid("a") == graph.grid("cat")


@pytest.mark.parametrize("seed", range(180, 190))
def test_random_networks_lower_to_the_nearest_integers(seed: int) -> None:
    hold(seed)
