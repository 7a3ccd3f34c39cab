"""Models without one graph: layers and MACs from a run on the example."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mixbit.network import Network, capture
from mixbit.network._export import evaluating
from mixbit.network._hooks import observe
from mixbit.network._inputs import read_inputs
from tests.network.conftest import Call


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
