"""Tensors that were zero in calibration: every target has a form for them, and the rest of the network stays right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mixbit.export.c import render_c
from mixbit.integer import IntegerGraph, Rounding, _dead, executor, lower
from mixbit.integer._steps import FakeQuantize, Flow, Wire
from mixbit.integer.arithmetic import Grid
from mixbit.network import capture
from mixbit.policy import Policy
from mixbit.quantization import calibrate, quantize
from tests.needs import need


class Branch(nn.Module):
    """A residual branch behind a ReLU that no image passes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.dead = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.after, self.head = nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6, 3)
        nn.init.constant_(self.dead.bias, -3000.0)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = x + self.after(torch.relu(self.dead(x)))
        return self.head(x.mean((2, 3)))


class Pooled(nn.Module):
    """A global pool that calibration never saw above zero."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x) - 50.0)
        return self.head(torch.relu(self.gate(x.mean((2, 3)))))


X = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def lowered(model: nn.Module, rule: str, rounding: Rounding) -> tuple[IntegerGraph, np.ndarray]:
    """The graph, and what the fake-quantized network gives."""
    network = capture(model.eval(), X)
    quantize(model, Policy.uniform(network, 8, 8), network)
    calibrate(model, [X], rule)
    with torch.no_grad():
        return lower(model.eval(), network, [X], rounding=rounding), model(X).numpy()


@pytest.mark.parametrize(("ends", "dead"), [((0.0, 0.0), True), ((-1e-6, 0.0), False), ((0.0, 1e-6), False)])
def test_dead_is_what_was_zero_from_both_sides(
    ends: tuple[float, float], dead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    node: Any = None
    source = Wire(name="x", shape=(3,), node=node, step=None)
    step = FakeQuantize(name="q", inputs=[source], grid=Grid(scale=1e-8, zero_point=0, qmin=-128, qmax=127))
    step.output = Wire(name="q", shape=(3,), node=node, step=step)
    flow = Flow(input=source, output=step.output, steps=[step], float_weights=[], unique=str)
    monkeypatch.setattr(_dead, "observe", lambda program, wires, batches: dict.fromkeys(wires, ends))
    assert [note.kind for note in _dead.mark_dead(flow, node, [X])] == (["dead input"] if dead else [])
    assert (step.dead, step.grid.scale) == ((True, 1.0) if dead else (False, 1e-8))


@pytest.mark.parametrize("rule", ["minmax", "mse"])
@pytest.mark.parametrize(("net", "layer"), [(Branch, "after"), (Pooled, "gate")])
def test_one_dead_branch_refuses_nothing(net: type[nn.Module], layer: str, rule: str) -> None:
    torch.manual_seed(0)
    graph, wanted = lowered(net(), rule, "single")
    assert [(note.name, note.kind) for note in graph.notes if note.kind == "dead input"] == [(layer, "dead input")]
    assert "model.c" in render_c(graph)
    found = executor.run(graph, X.numpy())
    assert np.abs(found - wanted).max() < 0.02 * np.abs(wanted).max()
    # Nothing passes at run time either, as in the network that was trained.
    loud = executor.trace(graph, 1000 * X.numpy())
    op = next(op for op in graph.weighted() if op.name == layer)
    assert (loud[op.x] == graph.grid(op.x).zero_point).all()


@pytest.mark.parametrize("net", [Branch, Pooled])
def test_a_runtime_runs_it(net: type[nn.Module], tmp_path: Path) -> None:
    need("onnx")
    from mixbit.export.onnx import write_onnx
    from mixbit.export.verify import verify

    torch.manual_seed(0)
    graph, _ = lowered(net(), "mse", "float32")
    write_onnx(graph, tmp_path / "net.onnx", cpu="vnni")
    assert verify(tmp_path / "net.onnx", graph, [(X.numpy(), None)], rounds=0).largest_steps <= 1


def test_a_small_tensor_that_is_not_dead_keeps_its_step() -> None:
    """Inputs of a few millionths are values like any other where their step says so."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 3))
    small = 1e-7 * X
    network = capture(model.eval(), small)
    quantize(model, Policy.uniform(network, 8, 8), network)
    calibrate(model, [small], "minmax")
    graph = lower(model.eval(), network, [small])
    assert "dead input" not in {note.kind for note in graph.notes}
    with torch.no_grad():
        assert np.abs(executor.run(graph, small.numpy()) - model(small).numpy()).max() < 1e-6
