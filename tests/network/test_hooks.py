"""Models without one graph: layers and MACs from a run on the example."""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch
from torch import nn

from mixbit.network import Network, capture
from mixbit.network._export import evaluating
from mixbit.network._hooks import observe
from mixbit.network._inputs import read_inputs
from tests.network.conftest import Call
from tests.network.test_macs import ASYMMETRIC


def observed(model: nn.Module, *inputs: torch.Tensor) -> Network:
    with evaluating(model):
        return observe(model, read_inputs(inputs))


def branching(self: Any, x: torch.Tensor) -> torch.Tensor:
    y = torch.relu(self.a(x))
    if y.sum() > 1e9:
        return self.never(y)
    return self.twice(self.twice(self.b(y)))


def test_a_branch_on_values() -> None:
    members = {name: nn.Linear(4, 4) for name in ("a", "b", "twice", "never")}
    network = capture(Call(branching, **members), torch.randn(2, 4))
    assert [(n.name, n.input_signed, n.macs) for n in network.layers] == [("a", True, 16), ("b", False, 16)]
    assert network.ties() == (("a",), ("b",))
    topology, *rest = network.skipped
    assert (topology.name, "no graph" in topology.reason) == ("(topology)", True)
    assert [(s.name, s.reason, s.macs) for s in rest] == [
        ("twice", "weight used 2 times", 32),
        ("never", "not seen as a layer by the example", 0),
    ]
    assert (network.other_macs, network.macs) == (32, 64)
    assert network.joins == ()


def test_every_layer_has_tensors_of_its_own() -> None:
    network = observed(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2)), torch.randn(3, 4))
    assert network.steps == ("0", "1")
    assert [(t.name, t.shape, t.first_step, t.last_step, t.readers, t.read_elsewhere) for t in network.tensors] == [
        ("0.input", (4,), 0, 0, ("0",), False),
        ("0.output", (6,), 0, 0, (), True),
        ("1.input", (6,), 1, 1, ("1",), False),
        ("1.output", (2,), 1, 1, (), True),
    ]


@pytest.mark.parametrize("shape", ["a branch", "a loop", "a size", "a control-flow operator"])
def test_kinds_of_data_dependence(shape: str) -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        y = self.fc(x)
        if shape == "a branch":
            return y if float(y.abs().max()) < 1e9 else -y
        if shape == "a loop":
            for _ in range(int(x.shape[0] + 0 * y.sum())):
                y = y + 1
            return y
        if shape == "a size":
            return y[y[:, 0] > -1e9].mean(0)
        return torch.cond(y.sum() > 1e9, lambda t: t + 1, lambda t: t - 1, (y,))

    network = capture(Call(forward, fc=nn.Linear(4, 3)), torch.randn(2, 4))
    assert [(n.name, n.macs) for n in network.layers] == [("fc", 12)]
    assert network.skipped[0].name == "(topology)"


MODELS: list[tuple[nn.Module, tuple[int, ...]]] = [
    (nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4)), (2, 3, 8, 8)),
    (nn.Sequential(nn.Conv1d(3, 4, 3, dilation=2), nn.Flatten(), nn.Linear(16, 2)), (2, 3, 8)),
    (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (2, 5, 8)),
    (
        Call(lambda self, x: self.m(query=x, key=x, value=x)[0], m=nn.MultiheadAttention(8, 2, batch_first=True)),
        (2, 5, 8),
    ),
]


@pytest.mark.parametrize(("model", "shape"), MODELS, ids=["conv2d", "conv1d", "encoder", "attention"])
def test_layers_and_macs_equal_those_of_the_graph(model: nn.Module, shape: tuple[int, ...]) -> None:
    """What does not depend on topology is the same on both ways."""
    x = torch.randn(shape)
    by_graph, by_hooks = capture(model, x), observed(model, x)
    for graph, hook in zip(by_graph.layers, by_hooks.layers, strict=True):
        for fact in (
            "name",
            "kind",
            "parameter",
            "weight_shape",
            "groups",
            "macs",
            "macs_limpq",
            "input_shape",
            "output_shape",
        ):
            assert getattr(graph, fact) == getattr(hook, fact)
    assert by_graph.other_macs == by_hooks.other_macs
    assert by_graph.fingerprint == by_hooks.fingerprint


def test_cross_attention_and_root_modules() -> None:
    network = observed(nn.MultiheadAttention(8, 2, batch_first=True), *(torch.randn(2, 3, 8) for _ in range(3)))
    assert [layer.name for layer in network.layers] == ["out_proj"]
    assert [layer.name for layer in observed(nn.Linear(4, 2), torch.randn(2, 4)).layers] == ["weight"]


def test_no_hook_stays() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.MultiheadAttention(4, 1))
    with pytest.raises(TypeError):
        observed(model, torch.randn(2, 4))
    assert not any(module._forward_hooks for module in model.modules())


class Branching(nn.Module):
    """A model without a graph: its branch depends on the values."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x if x.sum() > -1e9 else -x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("layer", "size"), ASYMMETRIC, ids=str)
def test_an_asymmetric_layer_has_the_numbers_that_it_has_in_a_graph(layer: nn.Module, size: tuple[int, ...]) -> None:
    x = torch.randn(3, 4, *size)
    (graph,), network = capture(layer, x).layers, capture(Branching(layer), x)
    (found,) = network.layers
    names = ("kind", "weight_shape", "groups", "macs", "macs_limpq", "input_shape", "output_shape", "input_signed")
    assert [getattr(found, name) for name in names] == [getattr(graph, name) for name in names]
    assert (found.name, found.parameter, network.other_macs) == ("inner", "inner.weight", 0)
    assert not capture(Branching(layer), x.abs()).layers[0].input_signed


@pytest.mark.parametrize("positive", [True, False])
def test_attention_has_the_numbers_that_it_has_in_a_graph(positive: bool) -> None:
    x = torch.randn(2, 5, 8)
    x = x.abs() if positive else x
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    self_attention = Call(lambda self, x: self.attention(x, x, x)[0], attention=attention)
    graph, found = capture(self_attention, x), capture(Branching(self_attention), x)
    names = ("kind", "weight_shape", "groups", "macs", "macs_limpq", "input_shape", "output_shape", "input_signed")
    assert [[getattr(one, name) for name in names] for one in found.layers] == [
        [getattr(one, name) for name in names] for one in graph.layers
    ]
    assert found.other_macs == graph.other_macs == 2 * 5 * 5 * 8
    assert [layer.input_signed for layer in found.layers] == [not positive, True]


def test_attention_over_other_keys_or_values_has_no_packed_layer() -> None:
    x = torch.randn(2, 5, 8)
    for call in (lambda self, x: self.attention(x, x, x + 1)[0], lambda self, x: self.attention(x, x + 1, x)[0]):
        model = Call(call, attention=nn.MultiheadAttention(8, 2, batch_first=True))
        found = capture(Branching(model), x)
        assert [layer.name for layer in found.layers] == ["inner.attention.out_proj"]
        assert any(one.name == "inner.attention.in_proj_weight" for one in found.skipped)


def test_what_cannot_be_turned_is_counted_as_often_as_it_is_called() -> None:
    layer = nn.Linear(4, 4)
    layer.forward = types.MethodType(nn.Linear.forward, layer)  # type: ignore[method-assign]
    found = capture(Branching(Call(lambda self, x: self.fc(self.fc(x)), fc=layer)), torch.randn(3, 4))
    assert found.layers == () and found.other_macs == 32
    assert [(one.name, one.macs, "set on the instance" in one.reason) for one in found.skipped[1:]] == [
        ("inner.fc", 32, True)
    ]


def test_what_is_called_twice_is_counted_twice_and_left_in_float() -> None:
    layer = nn.Linear(4, 4)
    found = capture(Branching(Call(lambda self, x: self.fc(self.fc(x)), fc=layer)), torch.randn(3, 4))
    assert found.layers == () and found.other_macs == found.macs == 32
    assert [(one.name, one.macs) for one in found.skipped[1:]] == [("inner.fc", 32)]
    assert [(one.name, one.size, one.macs) for one in found.float_parameters] == [
        ("inner.fc.weight", 16, 32), ("inner.fc.bias", 4, 0),
    ]  # fmt: skip
