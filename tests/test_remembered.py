"""A network is followed again as soon as anything of it is another, and what is remembered is what would be found."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from mixbit.export.float_onnx import float_onnx
from mixbit.network import _export, capture
from mixbit.network._inputs import read_inputs
from mixbit.network.program import follow, interpret
from mixbit.policy import Policy
from mixbit.quantization import quantize
from tests.needs import need
from tests.remembered import content, remembered_exports

X = torch.zeros(2, 4)


class Net(nn.Module):
    """Two layers, a buffer, a tensor that is none, and a number."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.register_buffer("shift", torch.ones(4))
        self.scale = torch.ones(4)
        self.times = 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(self.times):
            x = self.second(self.first(x)) * self.scale + self.shift
        return x


class Other(Net):
    """The same under another name."""


def net(kind: type[Net] = Net) -> Net:
    torch.manual_seed(0)
    return kind()


def tied() -> Net:
    made = net()
    with torch.no_grad():
        made.second.weight.copy_(made.first.weight)
    return made


def tie(made: Net) -> None:
    made.second.weight = made.first.weight


CHANGES: dict[str, Callable[[Any], object]] = {
    "constant": lambda made: made.scale.mul_(1.0001),
    "number": lambda made: setattr(made, "times", 2),
    "frozen": lambda made: made.first.weight.requires_grad_(False),
    "mode": lambda made: made.first.train(False),
    "dtype": lambda made: made.double(),
    "class": lambda made: setattr(made, "__class__", Other),
    "hook": lambda made: made.register_forward_hook(print),
    "layer": lambda made: setattr(made, "second", nn.Identity()),
    "strides": lambda made: setattr(made.first, "weight", nn.Parameter(made.first.weight.data.t().contiguous().t())),
    "parameter": lambda made: setattr(made, "shift", nn.Parameter(made._buffers.pop("shift"))),
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_makes_another_network(change: str) -> None:
    made, inputs = net(), read_inputs(X)
    before = content(made, inputs)
    assert before == content(net(), inputs)
    CHANGES[change](made)
    assert content(made, inputs) != before


def test_values_of_parameters_and_buffers_are_those_of_the_network_that_asks() -> None:
    """A program of one network, given for another: its tensors and its outputs are the other's."""
    first, second = net(), net()
    with torch.no_grad():
        for one in (*second.parameters(), *second.buffers()):
            one.copy_(torch.randn(one.shape))
    assert content(first, read_inputs(X)) == content(second, read_inputs(X))
    with remembered_exports(), torch.no_grad():
        follow(first, X)
        program = follow(second, X)
        x = torch.randn(2, 4)
        *_, (_, found) = interpret(program, x)
    assert torch.equal(found, second(x)) and not torch.equal(found, first(x))
    assert program.model is second


def hooked(*hooks: Callable[..., object]) -> Net:
    """With hooks on two modules, one of which holds the handle."""
    made = net()
    for hook in hooks:
        made.first.register_forward_hook(hook)
    made.handle = made.second.register_forward_pre_hook(print, with_kwargs=True)
    return made


def test_numbers_of_hooks_are_no_change_and_their_order_is() -> None:
    """Every hook of a process has a number of its own: quantized networks would never be alike."""
    inputs = read_inputs(X)
    assert content(hooked(print, repr), inputs) == content(hooked(print, repr), inputs)
    assert content(hooked(print, repr), inputs) != content(hooked(repr, print), inputs)
    assert content(hooked(print), inputs) != content(hooked(print, print), inputs)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    network = capture(model, X)
    found = []
    for bits in (3, 3, 4):
        made = copy.deepcopy(model)
        quantize(made, Policy.uniform(network, bits, 4), network)
        found.append(content(made, inputs))
    assert found[0] == found[1] != found[2]


def test_sharing_a_parameter_is_a_change() -> None:
    equal, same = tied(), tied()
    tie(same)
    assert content(equal, read_inputs(X)) != content(same, read_inputs(X))


@pytest.mark.parametrize("x", [torch.zeros(3, 4), torch.zeros(2, 4, dtype=torch.float64), {"x": X}, (X, 3)])
def test_other_inputs_are_another_key_and_other_values_are_not(x: Any) -> None:
    assert content(net(), read_inputs(X)) != content(net(), read_inputs(x))
    assert content(net(), read_inputs(X)) == content(net(), read_inputs(X + 1))


def test_a_network_is_followed_once_and_found_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = _export.export, []
    monkeypatch.setattr(_export, "export", lambda *given: calls.append(given) or real(*given))
    anew = capture(net(), X)
    with remembered_exports():
        first, again = capture(net(), X), capture(net(), X)
        changed = net()
        changed.times = 2
        twice = capture(changed, X)
    assert anew == first == again != twice and len(calls) == 3
    capture(net(), X)
    assert len(calls) == 4  # outside nothing is remembered


def test_what_cannot_be_written_down_is_followed_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = _export.export, []
    monkeypatch.setattr(_export, "export", lambda *given: calls.append(given) or real(*given))
    with remembered_exports():
        for _ in range(2):
            made = net()
            made.act = lambda x: x  # type: ignore[assignment]
            capture(made, X)
    assert len(calls) == 2


def test_the_table_of_onnx_functions_is_made_once_and_files_are_the_same() -> None:
    """An export leaves nothing in it that the next would see."""
    need("onnx")
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with remembered_exports():
        tables = [ONNXRegistry().from_torchlib(opset_version=20) for _ in range(2)]
        assert tables[0] is tables[1] and tables[0] is not ONNXRegistry.from_torchlib(opset_version=18)
        first = float_onnx(net(), X)
        float_onnx(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), torch.zeros(1, 1, 8, 8))
        assert float_onnx(net(), X) == first
