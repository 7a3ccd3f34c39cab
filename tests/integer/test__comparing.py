"""Lowering holds its result against the fake-quantized model by itself: faults put in on purpose are named."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixbit.errors import ExportError
from mixbit.integer import _biases, _comparing, _folding, _reading, _steps, executor, lowering
from mixbit.integer import graph as g
from mixbit.integer.arithmetic import ROUNDINGS, Grid, Rounding
from mixbit.integer.lowering import lower
from mixbit.network import Network, capture
from mixbit.policy import Policy
from mixbit.quantization import calibrate, quantize
from tests.export.following import lowered
from tests.export.graphs import random_graph, rounded

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")

X = torch.randn(6, 3, 6, 6, generator=torch.Generator().manual_seed(2))


class Net(nn.Module):
    """Nothing in it is symmetric: sizes, paddings, statistics, readers. `change` is for tests to set."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, (2, 3), padding="same", dilation=(1, 2))
        self.n = nn.BatchNorm2d(6, eps=0.3)
        self.b = nn.Conv2d(6, 6, (3, 1), padding=(1, 0), groups=2)
        self.c = nn.Conv2d(6, 6, 1)
        self.drop = nn.Dropout()
        self.fc = nn.Linear(144, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.n(self.a(x))
        y = F.relu6(self.change(self.drop(y))) + self.b(y)
        z = F.avg_pool2d(F.hardswish(self.c(y)), (1, 3), 1, (0, 1))
        y = F.pad(torch.cat([y[:, 1:], z[:, :5]], 1), (0, 1, 1, 0))
        return self.fc(F.max_pool2d(y, (3, 2), (3, 1), (1, 0))[:, :8].flatten(1))

    def change(self, y: Tensor) -> Tensor:
        return y


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, Network]:
    torch.manual_seed(1)
    model = Net().eval()
    with torch.no_grad():
        for values in (model.n.weight, model.n.bias, model.n.running_mean):
            values.normal_(0.3, 1)
        model.n.running_var.uniform_(0.2, 2)
    return quantized(model, X, 8)


def quantized(model: nn.Module, x: Tensor, bits: int) -> tuple[nn.Module, Network]:
    network = capture(model.eval(), x)
    quantize(model, Policy.uniform(network, bits, bits), network)
    calibrate(model, [x], rule="minmax")
    return model.eval(), network


def test_what_is_right_passes_under_every_rounding(trained: tuple[nn.Module, Network]) -> None:
    model, network = trained
    for rounding in (*ROUNDINGS, "litert"):
        assert not [n for n in lower(model, network, [X], rounding=rounding).notes if n.kind == "not compared"]


@pytest.mark.parametrize(("kind", "layer"), [(g.QuantizeInput, "input"), (g.AveragePool, "avg_pool2d")])
def test_an_operation_that_is_two_steps_off_is_found_at_it(
    trained: tuple[nn.Module, Network], monkeypatch: pytest.MonkeyPatch, kind: type, layer: str
) -> None:
    """And the share of the elements that are off: all but those at the end of the grid."""
    model, network = trained
    right = executor._KERNELS[kind]

    def wrong(graph: g.IntegerGraph, op: Any, *inputs: np.ndarray) -> np.ndarray:
        return np.minimum(right(graph, op, *inputs) + 2, graph.grid(op.output).qmax)

    monkeypatch.setitem(executor._KERNELS, kind, wrong)
    with pytest.raises(ExportError, match=rf"^{layer}: .* off by .* steps\), .*; (100|[4-9]\d)\.\d% of the elements"):
        lower(model, network, [X])


class Written(nn.Module):
    """Writes in place what a layer has read before."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.fc = nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        z = self.b(y)
        return self.fc(z + self.c(y.add_(3.0)))


def test_what_is_overwritten_later_is_compared_as_it_was() -> None:
    """In float64, which is held against the integers without a change of type."""
    torch.manual_seed(0)
    x = torch.randn(6, 6).double()
    model, network = quantized(Written().double(), x, 8)
    assert "not compared" not in {note.kind for note in lower(model, network, [x]).notes}


def test_no_comparison_is_told(trained: tuple[nn.Module, Network]) -> None:
    model, network = trained
    assert lower(model, network, [X], compare=False).notes[-1].kind == "not compared"


def _bounds_overwritten(step: Any, low: float, high: float) -> None:
    step.bounds = (low / 2, high / 2)


def _fold_whoever_reads(step: Any, last: Any) -> bool:
    """All readers of what is clamped get the clamped values."""
    if not isinstance(step, _steps.Limit):
        return False
    before = step.inputs[0]
    before.step.clamp(*step.bounds)
    for reader in before.readers:
        reader.inputs = [step.output if wire is before else wire for wire in reader.inputs]
    step.output.name, step.output.step, before.step.output = before.name, before.step, step.output
    return True


def _affine_reversed(step: Any, scale: np.ndarray, shift: np.ndarray) -> None:
    step.scale, step.bias = step.scale * scale, step.bias * scale + shift[::-1]


def _padded_before(value: Any, kernel: tuple[int, ...], dilation: tuple[int, ...]) -> Any:
    if value == "same":
        reach = ((k - 1) * d for k, d in zip(kernel, dilation, strict=True))
        return tuple((r - r // 2, r // 2) for r in reach)
    return tuple((p, p) for p in _reading._spread(value, len(kernel)))


def _shifted(of: Callable[..., g.IntegerGraph]) -> Callable[..., g.IntegerGraph]:
    """Half a step of the result on one bias: no more than a rounding, but everywhere in a channel."""

    def graph(printer: Any, fingerprint: str) -> g.IntegerGraph:
        found = of(printer, fingerprint)
        op = found.weighted()[2]
        bias = op.bias.copy()
        bias[3] += np.rint(0.5 * found.grid(op.output).scale / found.unit(op)[3]).astype(np.int32)
        return dataclasses.replace(
            found, ops=tuple(dataclasses.replace(op, bias=bias) if one is op else one for one in found.ops)
        )

    return graph


FAULTS: dict[str, tuple[Any, str, Any, str]] = {
    "a clamp folded past another reader": (_folding, "_fold_limit", _fold_whoever_reads, "b.input_quantizer"),
    "a clamp with other bounds": (_steps.Clamped, "clamp", _bounds_overwritten, "relu6"),
    "a batch norm's shifts in another order": (_steps.Multiply, "affine", _affine_reversed, "a"),
    "padding on the other side": (_reading, "_padding", _padded_before, "a"),
    "half a step on one channel's bias": (lowering._Printer, "graph", _shifted(lowering._Printer.graph), "c"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_of_lowering_are_found_and_named(
    trained: tuple[nn.Module, Network], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    place, attribute, wrong, layer = FAULTS[name]
    model, network = trained
    monkeypatch.setattr(place, attribute, wrong)
    with pytest.raises(ExportError, match=rf"^{layer}: the integer network parts .* here first"):
        lower(model, network, [X])
    assert lower(model, network, [X], compare=False)


UNSEEN: dict[str, tuple[Callable[[Tensor], Tensor], str, Any]] = {
    "a transposition taken for nothing": (lambda y: y.mT, "_transpose", _reading.Reader._reshape),
    "a cast to integers": (lambda y: y.int().float(), "_check_result", lambda self, node: None),
    "dropout that is active": (lambda y: F.dropout(y, 0.5), "_dropout", lambda self, node: self._x(node)),
}


@pytest.mark.parametrize("name", UNSEEN)
def test_operators_that_pass_unseen_are_found(
    trained: tuple[nn.Module, Network], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    change, method, wrong = UNSEEN[name]
    model, network = trained
    monkeypatch.setattr(model, "change", change, raising=False)
    monkeypatch.setattr(_reading.Reader, method, wrong)
    with pytest.raises(ExportError, match=r"^relu6: the integer network parts .* here first"):
        lower(model, network, [X])


def test_a_batch_norm_over_tokens_that_passes_unseen_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Flatten(), nn.Linear(16, 3)), torch.randn(8, 4, 3)
    nn.init.uniform_(model[1].weight, 0.2, 3)
    model, network = quantized(model, x, 8)
    monkeypatch.setattr(_reading.Reader, "_check_statistics", lambda *_: None)
    with pytest.raises(ExportError, match=r"^0: the integer network parts"):
        lower(model, network, [x])


def test_a_channel_that_is_wrongly_held_for_constant_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bias is over 2^30 accumulator steps, and yet 4096 products move it, from 8.0 to 8.4."""
    model, x = nn.Sequential(nn.Linear(4096, 2), nn.ReLU(), nn.Linear(2, 3)), torch.rand(8, 1) * torch.ones(8, 4096)
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = 1e-4, 8.0
    model, network = quantized(model, x, 8)
    assert lower(model, network, [x])
    monkeypatch.setattr(_biases, "_unmoved", lambda found, result, bounds: np.full(len(found.scale), True))
    with pytest.raises(ExportError, match=r"^0: the integer network parts"):
        lower(model, network, [x])


@pytest.mark.parametrize(("rounding", "legal"), [("float32", 0.5), ("single", 0.5), ("double", 0.75)])
def test_a_result_may_be_off_by_its_own_rounding_alone(rounding: Rounding, legal: float) -> None:
    """Half a step; three quarters where it is rounded twice."""
    graph = rounded(random_graph(0), rounding)
    op = next(one for one in graph.ops if getattr(one, "rounding", "") == rounding)
    grid = graph.grid(op.output)
    comparison = _comparing._Comparison(graph, {}, SimpleNamespace(calls=(), live=()), {})  # type: ignore[arg-type]
    middle = np.array([(grid.qmin + grid.qmax) // 2])
    for off in (legal - 0.01, legal + 0.01):
        wanted = (middle - grid.zero_point + off) * grid.scale
        if off < legal:
            comparison._hold(op, middle, wanted, np.zeros(1))
            continue
        with pytest.raises(ExportError, match=f"parts from the fake-quantized one here first.*{off:.3g} steps"):
            comparison._hold(op, middle, wanted, np.zeros(1))


def test_at_sixteen_bits_it_may_be_off_by_the_last_digits_of_float32_too() -> None:
    """65,535 steps of a number worked out in float32 are known to a 30th of one."""
    graph = rounded(random_graph(0), "float32")
    op = next(one for one in graph.ops if getattr(one, "rounding", "") == "float32")
    grid = g.Grid(scale=0.1, zero_point=0, qmin=0, qmax=65535)
    graph.tensors[op.output] = dataclasses.replace(graph.tensors[op.output], grid=grid)
    comparison = _comparing._Comparison(graph, {}, SimpleNamespace(calls=(), live=()), {})  # type: ignore[arg-type]
    comparison._hold(op, np.array([7]), np.array([0.752]), np.zeros(1))
    with pytest.raises(ExportError, match=r"off by 0\.054"):
        comparison._hold(op, np.array([7]), np.array([0.754]), np.zeros(1))


def test_what_weights_lost_is_forgiven_as_far_as_it_can_reach() -> None:
    """Each of four weights is held a whole step off, and no input is above 10: 40, and half a unit of the accumulator.
    A channel without weights is forgiven nothing of what it lost."""
    wire, values = object(), np.array([[10.0, -4.0, 2.0, 0.0]])
    tensors = {
        "x": g.Tensor(name="x", shape=(4,), grid=None, source="float"),
        "q": g.Tensor(
            name="q", shape=(4,), grid=g.Grid(scale=0.5, zero_point=0, qmin=-128, qmax=127), source="trained"
        ),
        "y": g.Tensor(name="y", shape=(2,), grid=None, source="float"),
    }
    op = g.Linear(
        name="fc", inputs=("q",), output="y", weight=np.array([[2, 2, 2, 2], [0, 0, 0, 0]], np.int8), weight_bits=8,
        weight_scale=np.array([2.0, 1.0], np.float32), bias=np.zeros(2, np.int32), shift=0, clamp=None,
        rounding="single",
    )  # fmt: skip
    step = _steps.Multiply(
        name="fc", inputs=[wire], integers=np.array([[3, 5, 3, 5], [1, 1, 1, 1]], np.int8), bits=8,  # type: ignore[list-item]
        scale=np.ones(2), bias=np.zeros(2), window=None,
    )  # fmt: skip
    first = g.QuantizeInput(name="in", inputs=("x",), output="q")
    graph = g.IntegerGraph(input="x", output="y", tensors=tensors, ops=(first, op), fingerprint="")
    program: Any = SimpleNamespace(calls=(), live=())
    names: Any = {wire: "q"}
    comparison = _comparing._Comparison(graph, names, program, {wire: values})  # type: ignore[dict-item]
    may = comparison._may(op, step)
    assert may.tolist() == pytest.approx([4 * 1.0 * 10 + 0.5 * 0.5 * 2.0, 0.5 * 0.5 * 1.0], abs=1e-3)


def test_a_model_that_computes_nan(trained: tuple[nn.Module, Network]) -> None:
    """Where nothing has to be calibrated, calibration sees nothing."""
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), torch.randn(4, 1, 2, 2)
    model, network = quantized(model, x, 8)
    with pytest.raises(ExportError, match="NaN or infinity"):
        lower(model, network, [x * float("nan")])


@pytest.mark.parametrize("bits", [2, 4])
def test_tokens_tables_and_layers_in_float_pass(bits: int) -> None:
    """Inputs without a quantizer, weights rounded after training, steep tables: all within what their grids explain."""
    torch.manual_seed(0)

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(5, 7), nn.Linear(7, 7), nn.Linear(28, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = torch.exp(2 * self.a(x))
            return torch.softmax(self.c((self.b(y.transpose(1, 2).mT).half().float() + y.sigmoid()).flatten(1)), -1)

    model, x = Odd(), torch.randn(8, 4, 5)
    network = capture(model.eval(), x)
    policy = Policy.uniform(network, bits, bits)
    policy.layers["b"] = dataclasses.replace(policy.layers["b"], weight_bits=None, activation_bits=None)
    quantize(model, policy, network)
    calibrate(model, [x], rule="minmax")
    assert lower(model.eval(), network, [x]).ops


@pytest.mark.parametrize("seed", range(190, 200))
def test_random_networks_of_modules_pass(seed: int) -> None:
    """No alarm without a fault, at any bits."""
    lowered(seed)


@pytest.mark.parametrize("rounded", [False, True])
def test_what_a_layer_may_be_off_by_is_the_sum_of_what_each_channel_lost(rounded: bool) -> None:
    """Three channels of unlike weights, the last a constant; every term by hand."""
    grid = Grid(scale=0.5, zero_point=3, qmin=0, qmax=255)
    weight, scale = np.array([[10, -20], [1, 2], [0, 0]], np.int8), np.array([0.25, 2.0, 1.0], np.float32)
    op = g.Linear(
        name="fc",
        inputs=("q",),
        output="y",
        weight=weight,
        weight_bits=8,
        weight_scale=scale,
        bias=np.array([7, -3, 40], np.int32),
        shift=0,
        clamp=None,
        rounding="single",
    )
    tensors = {
        "x": g.Tensor(name="x", shape=(2,), grid=None, source="float"),
        "q": g.Tensor(name="q", shape=(2,), grid=grid, source="trained"),
        "y": g.Tensor(name="y", shape=(3,), grid=dataclasses.replace(grid, scale=4.0), source="trained"),
    }
    ops = (g.QuantizeInput(name="in", inputs=("x",), output="q"), op)
    held = _comparing._Comparison.__new__(_comparing._Comparison)
    held._graph = g.IntegerGraph(input="x", output="y", tensors=tensors, ops=ops, fingerprint="sha256:0")
    held._names, held._precision = {0: "q"}, 2.0**-20  # type: ignore[dict-item]
    held._reals = {0: np.array([[1.1, -0.5], [4.0, 6.5]])}  # type: ignore[dict-item]
    integers, steps = np.array([[9, -20], [1, 3], [5, 5]]), np.array([0.25, 2.0, 1.0])
    step = SimpleNamespace(inputs=(0,), integers=integers, scale=steps, rounded=rounded)
    sums = np.array([7.5, 6.0, 0.0])  # of the magnitudes of the weights in real numbers
    moved = np.array([0.25, 2.0, 0.0])  # by one integer each; what a constant lost is not forgiven
    moved = moved + (np.array([0.25, 2.0, 1.0]) if rounded else 0)  # half a step of each of two weights
    units = np.array([0.125, 1.0, 0.5])
    floats = _comparing._TERMS * 2.0**-20 * (sums * 6.5 + np.array([7, 3, 40]) * units)
    wanted = 0.1 * sums + moved * 6.5 + 0.5 * units + floats  # 1.1 is 0.1 from 1.0, the nearest of the grid
    np.testing.assert_allclose(held._weighted(op, step), wanted, rtol=1e-6)  # type: ignore[arg-type]
