"""Lowering against the fake-quantized model that it comes from."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mixbit import models
from mixbit.cost import LayerBits, Pins
from mixbit.errors import ExportError
from mixbit.integer import executor, lowering
from mixbit.integer._grids import Chosen
from mixbit.integer._steps import FakeQuantize, Flow, Wire
from mixbit.integer.arithmetic import Grid
from mixbit.integer.graph import GraphRounding, IntegerGraph, Note
from mixbit.integer.lowering import lower
from mixbit.network import Network, capture
from mixbit.policy import Policy
from mixbit.quantization import QuantizeConfig, attach, calibrate, fold_residuals, quantize, quantized_layers
from tests.export.following import hold
from tests.export.graphs import Builder


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Whatever ran before: what a test builds is the same each time."""
    torch.manual_seed(0)


def prepared(
    model: nn.Module, x: Tensor, bits: int | tuple[int, int] = 8, seed: int = 0, pins: Pins | None = None
) -> tuple[nn.Module, Network]:
    """The model with batch-norm statistics that are not trivial, quantizers on, calibrated on `x`."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    network = capture(model, x[:2])
    weight_bits, activation_bits = (bits, bits) if isinstance(bits, int) else bits
    quantize(model, Policy.uniform(network, weight_bits, activation_bits, pins), network)
    calibrate(model, [x], rule="minmax")
    return model.eval(), network


def both(
    model: nn.Module, x: Tensor, bits: int | tuple[int, int] = 8, pins: Pins | None = None
) -> tuple[IntegerGraph, np.ndarray, np.ndarray]:
    """The graph, its output and the fake-quantized model's."""
    model, network = prepared(model, x, bits, pins=pins)
    graph = lower(model, network, [x], rounding="float32")
    with torch.no_grad():
        return graph, executor.run(graph, x.numpy()), model(x).numpy()


def distance(found: np.ndarray, wanted: np.ndarray) -> float:
    """Largest difference, as a part of the spread of the wanted values."""
    return float(np.abs(found - wanted).max() / wanted.std())


def test_a_graph_that_was_not_compared_says_so_after_its_other_notes() -> None:
    x = torch.randn(4, 3)
    model, network = prepared(nn.Sequential(nn.Linear(3, 2)), x)
    graph = lower(model, network, [x], compare=False)
    assert [note.kind for note in graph.notes][-1:] == ["not compared"]
    assert graph.notes[:-1] == lower(model, network, [x]).notes


def test_what_died_and_what_was_copied_is_among_the_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(4, 3)
    model, network = prepared(nn.Sequential(nn.Linear(3, 2)), x)
    dead = Note(name="0", kind="dead input", reason="zero")
    copied = Note(name="cat", kind="requantized", reason="a copy")
    monkeypatch.setattr(lowering, "mark_dead", lambda *_: (dead,))
    monkeypatch.setattr(lowering, "separate", lambda *_, always: (copied,))
    assert set(lower(model, network, [x]).notes) >= {dead, copied}


def test_a_weight_that_is_computed_is_an_error_that_says_so() -> None:
    class Computed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.own = nn.Linear(3, 4), nn.Parameter(torch.randn(2, 4))

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(torch.relu(self.first(x)), self.own * 2)

    x = torch.randn(4, 3)
    model, network = prepared(Computed(), x)
    with pytest.raises(ExportError, match="linear has no integer form: its weight is no parameter of a module"):
        lower(model, network, [x])


class Block(nn.Module):
    """Wraps a forward."""

    def __init__(self, forward: Callable[..., Tensor], **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self._forward = forward

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self, x)


def head(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5))


X = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("bits", [(2, 3), (4, 4), (7, 5), (8, 8), (1, 4), (1, 16), (8, 16), (3, 11)])
def test_a_chain_without_calibrated_tensors_gives_the_models_own_logits(bits: tuple[int, int]) -> None:
    """But for biases, which are rounded to steps of the accumulator."""
    torch.manual_seed(0)
    chain = nn.Sequential(
        nn.Conv2d(3, 7, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(7),
        nn.ReLU6(),
        nn.Conv2d(7, 7, 3, padding=2, dilation=2, groups=7),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(28, 5),
    )
    graph, found, wanted = both(chain, X, bits)
    assert not graph.notes
    # On the whole: at few bits a single value beside a tie moves its logits by a tenth.
    assert np.abs(found - wanted).mean() / wanted.std() < 0.02


def test_residual_adds_are_calibrated_and_listed() -> None:
    model = Block(
        _residual,
        a=nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        b=nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)),
        head=head(8),
    )
    graph, found, wanted = both(model, X, bits=(8, 4))
    assert distance(found, wanted) < 0.15
    assert [note.kind for note in graph.notes] == ["calibrated"] * 3
    assert {op.kind for op in graph.ops} >= {"Add", "Requantize", "AveragePool"}
    assert all("without a quantizer" in note.reason for note in graph.notes)


def test_a_network_of_16_bit_activations_has_16_bits_everywhere() -> None:
    """Sums and pools too: the logits are 256 times as near as at 8 bits, and the accumulators are exact."""
    off = {}
    for bits in ((8, 8), (8, 16)):
        torch.manual_seed(0)
        parts = {
            "a": nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
            "b": nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)),
        }
        graph, found, wanted = both(Block(_residual, head=head(8), **parts), X, bits, {})
        off[bits] = np.abs(found - wanted).max() / wanted.std()
        assert {one.grid.bits for one in graph.tensors.values() if one.grid is not None} == {bits[1]}
    assert off[8, 16] < 0.02 * off[8, 8]


def _residual(m: nn.Module, x: Tensor) -> Tensor:
    x = m.a(x)
    x = torch.relu(m.b(x) + x)
    return m.head(x)


FORWARDS: dict[str, tuple[Callable[[nn.Module, Tensor], Tensor], dict[str, nn.Module], set[str]]] = {
    "concat": (
        lambda m, x: m.head(torch.cat([m.a(x).relu(), m.b(x).relu()], dim=1)),
        {"a": nn.Conv2d(3, 4, 1), "b": nn.Conv2d(3, 3, 3, padding=1), "head": head(7)},
        {"Concat"},
    ),
    "slice and pad": (
        lambda m, x: m.head(nn.functional.pad(m.a(x).relu()[:, :, ::2, 1::2], (0, 0, 0, 0, 2, 1)) + m.b(x)),
        {"a": nn.Conv2d(3, 4, 1), "b": nn.Conv2d(3, 7, 3, stride=2, padding=1), "head": head(7)},
        {"Slice", "Pad", "Add"},
    ),
    "hardswish": (
        lambda m, x: m.head(nn.functional.hardswish(m.a(x))),
        {"a": nn.Conv2d(3, 4, 1), "head": head(4)},
        {"Lookup"},
    ),
    "scaled sigmoid": (
        lambda m, x: m.head(2.0 * torch.sigmoid(m.a(x)) - 1),
        {"a": nn.Conv2d(3, 4, 1), "head": head(4)},
        {"Lookup"},
    ),
    "mean and average pool": (
        lambda m, x: m.fc(torch.tanh(nn.functional.avg_pool2d(m.a(x).relu(), 2).mean((2, 3)))),
        {"a": nn.Conv2d(3, 4, 3, padding="same"), "fc": nn.Linear(4, 5)},
        {"AveragePool", "Reshape", "Lookup"},
    ),
    "transpose": (
        lambda m, x: m.fc(m.a(x).relu().permute(0, 2, 3, 1).flatten(1)),
        {"a": nn.Conv2d(3, 2, 1), "fc": nn.Linear(128, 5)},
        {"Transpose", "Reshape"},
    ),
    "clamp that others read past": (
        lambda m, x: m.head(_two_readers(m.a(x))),
        {"a": nn.Conv2d(3, 4, 1), "head": head(4)},
        {"Requantize", "Add"},
    ),
    "softmax": (
        lambda m, x: torch.softmax(m.head(m.a(x).relu()), dim=-1),
        {"a": nn.Conv2d(3, 4, 1), "head": head(4)},
        {"Softmax"},
    ),
    "dropout, clone, in-place add": (
        lambda m, x: m.head(_in_place(m, x)),
        {"a": nn.Conv2d(3, 4, 1), "b": nn.Conv2d(4, 4, 3, padding=1), "drop": nn.Dropout(), "head": head(4)},
        {"Add"},
    ),
}


def _two_readers(x: Tensor) -> Tensor:
    return x.clamp(min=0.0, max=0.5) + x


def _in_place(m: nn.Module, x: Tensor) -> Tensor:
    x = m.a(x).relu_()
    y = m.drop(m.b(x)).clone()
    y += x
    return y.relu_()


@pytest.mark.parametrize("name", FORWARDS)
def test_operators(name: str) -> None:
    forward, parts, kinds = FORWARDS[name]
    for module in nn.ModuleDict(parts).modules():  # they were made when this file was read, from any seed
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    graph, found, wanted = both(Block(forward, **parts), X)
    assert {op.kind for op in graph.ops} >= kinds
    assert distance(found, wanted) < 0.2


@pytest.mark.parametrize("names", [("input", "input:2"), ("relu", "add"), ("mean", "quantized")])
def test_layers_have_the_names_of_their_modules(names: tuple[str, str]) -> None:
    """Whatever the input, a function in the forward or a step that lowering adds is called."""
    first, last = names
    model = Block(
        lambda m, x: getattr(m, last)((torch.relu(getattr(m, first)(x)) + x).mean((2, 3))),
        **{first: nn.Conv2d(3, 3, 3, padding=1), last: nn.Linear(3, 2)},
    )
    graph, found, wanted = both(model, X)
    assert [op.name for op in graph.weighted()] == [first, last]
    assert distance(found, wanted) < 0.15


def test_one_dimension() -> None:
    x = torch.randn(8, 4, 20)
    model = nn.Sequential(
        nn.Conv1d(4, 6, 5, stride=2),
        nn.BatchNorm1d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    )
    _, found, wanted = both(model, x)
    assert distance(found, wanted) < 0.1


@pytest.mark.parametrize(
    ("name", "shape"), [("digits-resnet", (1, 8, 8)), ("resnet8", (3, 32, 32)), ("ds-cnn", (1, 49, 10))]
)
def test_networks_of_the_zoo(name: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(3)
    x = torch.randn(6, *shape)
    graph, found, wanted = both(models.build(name), x)
    assert distance(found, wanted) < 0.6
    assert (found.argmax(1) == wanted.argmax(1)).mean() >= 0.8
    assert len(graph.weighted()) == len(capture(models.build(name), x[:1]).layers)


# ------------------------------------------------------------------------------------------- rounding twice


@pytest.mark.parametrize("bits", [2, 3, 4, 5])
def test_rounding_to_eight_bits_first_changes_no_low_bit_activation(bits: int) -> None:
    """The calibrated step is an odd part of the trained one, so a requantization finds the same integers."""
    from mixbit.integer._grids import spread
    from mixbit.integer.arithmetic import Grid, change_scale, quantize

    coarse = Grid(scale=float(np.float32(0.37)), zero_point=0, qmin=0, qmax=2**bits - 1)
    fine = spread(0.0, 0.37 * (2**bits) * 1.3, coarsest=coarse.scale)
    x = np.random.default_rng(0).uniform(0, 0.37 * 2**bits, 20_000).astype(np.float32)
    twice = change_scale(quantize(x, fine), np.array(fine.scale / coarse.scale), "single")
    assert np.array_equal(np.clip(twice, coarse.qmin, coarse.qmax), quantize(x, coarse))


# ------------------------------------------------------------------------------------------------- folding


def test_negative_and_zero_batch_norm_scales() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5))
    model, network = prepared(model, X)
    with torch.no_grad():
        model[1].weight[1], model[1].weight[2], model[1].bias[2] = -1.3, 0.0, 0.7
    calibrate(model, [X], rule="minmax")
    graph = lower(model, network, [X], rounding="float32")
    assert graph.weighted()[0].weight_scale[1] < 0
    assert [(n.kind, n.reason) for n in graph.notes] == [("dead channels", "output is constant: 2")]
    with torch.no_grad():
        assert distance(executor.run(graph, X.numpy()), model(X).numpy()) < 0.05


# Each changes nothing, so that who reads its result reads what it was given.
NOTHING: dict[str, Callable[[Tensor], Tensor]] = {
    "dropout": lambda y: nn.functional.dropout(y, 0.5, training=False),
    "contiguous, clone and detach": lambda y: y.contiguous().clone().detach(),
    "full slices": lambda y: y[:, :, 0:][:, 0:4],
    "equal reshapes": lambda y: y.reshape(y.shape).view(-1, 4, 4, 4).flatten(2).unflatten(2, (4, 4)),
    "casts between floats": lambda y: y.double().to(torch.float32).type_as(y),
    "two transpositions": lambda y: y.mT.swapaxes(2, 3),
}


@pytest.fixture(scope="module")
def branching() -> tuple[nn.Module, Tensor]:
    """A layer `a` with two readers, quantized and calibrated; `change` is what one of them gets, for tests to set."""
    torch.manual_seed(0)
    parts = {"a": nn.Conv2d(3, 4, 3, padding=1), "b": nn.Conv2d(4, 4, 3, padding=1), "head": head(4)}

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        y = m.a(x)
        return m.head(torch.relu(m.change(y)) + m.b(y))

    model = Block(forward, **parts)
    model.change = lambda y: y
    model, network = prepared(model, X)
    model.network = network
    return model, X[:, :, :4, :4]


@pytest.mark.parametrize("name", NOTHING)
def test_a_clamp_is_not_folded_where_another_reads_the_tensor_by_another_name(
    branching: tuple[nn.Module, Tensor], name: str
) -> None:
    model, x = branching
    model.change = NOTHING[name]
    graph = lower(model, model.network, [x], rounding="float32")
    assert graph.weighted()[0].clamp is None
    with torch.no_grad():
        assert distance(executor.run(graph, x.numpy()), model(x).numpy()) < 0.1


def test_a_batch_norm_is_not_folded_where_another_reads_the_layer_by_another_name() -> None:
    parts = {"a": nn.Conv2d(3, 4, 1), "n": nn.BatchNorm2d(4), "head": head(4), "drop": nn.Dropout()}
    with pytest.raises(ExportError, match="n: batch_norm .* something else reads the layer before it"):
        both(Block(lambda m, x: m.head(m.n(m.drop(y := m.a(x))) + y), **parts), X)


def _after_a_shortcut(m: nn.Module, x: Tensor) -> Tensor:
    y = m.a(x)
    short = m.short(y)  # before the ReLU writes into it
    return m.head(m.b(y.relu_()) + short)


def _by_another_name(m: nn.Module, x: Tensor) -> Tensor:
    y = m.a(x)
    short, other = m.short(y), m.drop(y)[:, :]
    other.relu_()
    return m.head(m.b(y) + short)  # `y` is what was written


def _of_a_copy(m: nn.Module, x: Tensor) -> Tensor:
    y = m.a(x)
    y.clone().relu_()
    other = y.permute(0, 2, 3, 1).contiguous().relu_()
    return m.head(m.b(y) + m.short(other.permute(0, 3, 1, 2)))


@pytest.mark.parametrize("forward", [_after_a_shortcut, _by_another_name, _of_a_copy])
def test_writes_in_place(forward: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    parts = {"a": nn.Conv2d(3, 4, 3), "b": nn.Conv2d(4, 4, 3), "short": nn.Conv2d(4, 4, 3)}
    _, found, wanted = both(Block(forward, **parts, drop=nn.Dropout(), head=head(4)), X)
    assert distance(found, wanted) < 0.1


def _view_before(m: nn.Module, x: Tensor) -> Tensor:
    y = m.a(x)
    early = y.flatten(2)
    y.relu_()
    return m.head(early.unflatten(2, (8, 8)))


def _half(m: nn.Module, x: Tensor) -> Tensor:
    y = m.a(x)
    y[:, :2].relu_()
    return m.head(y)


@pytest.mark.parametrize("forward", [_view_before, _half])
def test_writes_in_place_through_other_views_are_refused(forward: Callable[..., Tensor]) -> None:
    with pytest.raises(ExportError, match="written in place through another view"):
        both(Block(forward, a=nn.Conv2d(3, 4, 1), head=head(4)), X)


def test_calibration_batches_are_not_written_into() -> None:
    x, model = X.clone(), nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 4, 1), head(4))
    model, network = prepared(model, x.clone())
    lower(model, network, [x])
    assert torch.equal(x, X)


@pytest.mark.parametrize(
    "view",
    [
        lambda y: y.movedim(1, -1),
        lambda y: torch.moveaxis(y, (1, 2), (2, 3)),
        lambda y: y.swapaxes(1, 2),
        lambda y: y.swapdims(2, 3).mT.mT,
        lambda y: y.adjoint(),
    ],
)
def test_every_way_to_move_dimensions(branching: tuple[nn.Module, Tensor], view: Callable[[Tensor], Tensor]) -> None:
    """All sizes of a sample are equal, so that only the values tell."""
    model, x = branching
    model.change = view
    graph = lower(model, model.network, [x], rounding="float32")
    assert "Transpose" in {op.kind for op in graph.ops}
    with torch.no_grad():
        assert distance(executor.run(graph, x.numpy()), model(x).numpy()) < 0.1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda y: y.unfold(2, 2, 2).unfold(3, 2, 2).reshape(y.shape), "unfold has no integer form"),
        (lambda y: y.as_strided(y.shape, (64, 1, 4, 16)), "as_strided has no integer form"),
        (lambda y: y[:, :1].expand(-1, 4, 4, 4), r"from \(1, 4, 4\) to \(4, 4, 4\)"),
        (lambda y: y.view(torch.int32).view(torch.float32), "yields int32"),
        (lambda y: (4 * y).int().float(), "yields int32, no real numbers"),
        (lambda y: y.long().type_as(y), "yields int64, no real numbers"),
        (lambda y: nn.functional.dropout(y, 0.5), "active in evaluation"),
        (lambda y: nn.functional.batch_norm(y, torch.zeros(4), torch.ones(4), training=True), "running statistics"),
        (lambda y: y.reshape(4, -1, 4, 4).transpose(0, 1), "mixes or moves samples"),
        (lambda y: y.select(1, 2).unsqueeze(1), "one of several"),
        (lambda y: torch.cat(y.chunk(2, 1), 1), "chunk has no integer form"),
    ],
)
def test_what_would_change_values_unseen_is_refused(
    branching: tuple[nn.Module, Tensor], change: Callable[[Tensor], Tensor], reason: str
) -> None:
    model, x = branching
    model.change = change
    with pytest.raises(ExportError, match=reason):
        lower(model, model.network, [x])


@pytest.mark.parametrize("tokens", [1, 6])
def test_a_batch_norm_over_tokens_is_refused_and_one_over_features_is_folded(tokens: int) -> None:
    x = torch.randn(16, tokens, 3, generator=torch.Generator().manual_seed(0))
    parts = {"a": nn.Linear(3, 6), "fc": nn.Linear(6 * tokens, 5)}

    def features(m: nn.Module, x: Tensor) -> Tensor:
        return m.fc(m.n(m.a(x.flatten(0, 1))).relu().unflatten(0, (-1, tokens)).flatten(1))

    _, found, wanted = both(Block(features, **parts, n=nn.BatchNorm1d(6)), x)
    assert distance(found, wanted) < 0.05
    with pytest.raises(ExportError, match="n: batch_norm .* it normalises the first dimension"):
        both(Block(lambda m, x: m.fc(m.n(m.a(x)).relu().flatten(1)), **parts, n=nn.BatchNorm1d(tokens)), x)


@pytest.mark.parametrize("before", [nn.Identity(), nn.BatchNorm2d(4)])
@pytest.mark.parametrize("rows", [4, 6])
def test_a_batch_norm_over_the_rows_of_folded_channels_is_refused(before: nn.Module, rows: int) -> None:
    def over_rows(m: nn.Module, x: Tensor) -> Tensor:
        return m.fc(m.n(m.before(m.a(x)).flatten(0, 1)).relu().unflatten(0, (-1, 4)).flatten(1))

    parts = {"a": nn.Conv2d(3, 4, 1), "before": before, "n": nn.BatchNorm1d(rows), "fc": nn.Linear(16 * rows, 5)}
    with pytest.raises(ExportError, match="n: batch_norm .* folded into one dimension"):
        both(Block(over_rows, **parts), torch.randn(8, 3, rows, 4, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1, 1)])
def test_a_learned_scalar_is_a_number(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = Block(
        lambda m, x: m.head(m.a(x) + m.gain * m.b(x)), a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(3, 4, 1), head=head(4)
    )
    model.gain = nn.Parameter(torch.full(shape, 0.7))
    graph, found, wanted = both(model, X)
    assert "Lookup" in {op.kind for op in graph.ops}
    assert distance(found, wanted) < 0.1


def test_a_learned_token_is_refused() -> None:
    x = torch.randn(8, 3, 4)
    model = Block(
        lambda m, x: m.fc(torch.cat([m.token.expand(len(x), -1, -1), m.a(x)], 1).flatten(1)), a=nn.Linear(4, 4)
    )
    model.token, model.fc = nn.Parameter(torch.zeros(1, 1, 4)), nn.Linear(16, 5)
    with pytest.raises(ExportError, match="cat has no integer form: its input is .* learned"):
        both(model, x)


def test_weights_are_the_quantizers_integers() -> None:
    model, network = prepared(nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), X, bits=(3, 8))
    layer = model[1]
    with torch.no_grad():
        steps = layer.weight_quantizer.steps.squeeze(0)
        wanted = (layer.quantize_weight(layer.weight) / steps[:, None]).round()
    graph = lower(model, network, [X])
    # first and last layers are pinned by policies of the command line, not by Policy.uniform of one layer
    assert np.array_equal(graph.weighted()[0].weight, wanted.numpy())
    assert graph.weighted()[0].weight_bits == layer.weight_quantizer.selected
    assert graph.weight_bits == 192 * 5 * layer.weight_quantizer.selected


@pytest.mark.parametrize("per_channel", [True, False])
def test_weights_of_one_bit_are_minus_one_and_one_of_half_a_step(per_channel: bool) -> None:
    model = nn.Sequential(nn.Conv2d(3, 7, 3), nn.ReLU(), nn.Flatten(), nn.Linear(7 * 36, 5)).eval()
    network = capture(model, X)
    quantize(model, Policy.uniform(network, 1, 8, {}), network, QuantizeConfig(per_channel=per_channel))
    calibrate(model, [X])
    graph = lower(model, network, [X])
    for op, layer in zip(graph.weighted(), (model[0], model[3]), strict=True):
        along = (-1, *[1] * (op.weight.ndim - 1))
        assert op.weight_bits == 1 and set(np.unique(op.weight)) == {-1, 1}
        wanted = layer.quantize_weight(layer.weight).detach().numpy()
        assert np.array_equal(op.weight * op.weight_scale.reshape(along), wanted)
        assert np.array_equal(op.weight > 0, layer.weight.detach().numpy() >= 0)


def test_a_channel_without_weights_takes_a_layer_of_one_bit_to_two_which_is_told() -> None:
    """A batch norm with scale 0: the channel is its bias, and 1 bit has no 0."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))
    model, network = prepared(model, X, (1, 8), pins={})
    with torch.no_grad():
        model[1].weight[2] = 0.0
        graph, wanted = lower(model, network, [X]), model(X).numpy()
    found = executor.run(graph, X.numpy())
    assert [op.weight_bits for op in graph.weighted()] == [2, 1]
    assert not graph.weighted()[0].weight[2].any() and graph.weighted()[0].weight[[0, 1, 3]].all()
    assert any(note.kind == "widened" and "1-bit weights have no 0" in note.reason for note in graph.notes)
    assert distance(found, wanted) < 0.05


def test_a_signed_input_of_one_bit_is_refused_with_the_remedy() -> None:
    model, network = prepared(nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), X, bits=(1, 1), pins={})
    with pytest.raises(
        ExportError, match="1.input_quantizer: its input is signed and has 1 bit.*Give it 2 bits or more"
    ):
        lower(model, network, [X])


@pytest.mark.parametrize("rounding", ["double", "litert"])
def test_roundings_of_8_bit_kernels_are_refused_for_wider_activations(rounding: GraphRounding) -> None:
    model, network = prepared(
        nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(72, 5)), X, bits=(8, 9), pins={}
    )
    with pytest.raises(ExportError, match="more than 8 bits cannot be rounded.*Lower with rounding='single'"):
        lower(model, network, [X], rounding=rounding)


def test_the_model_comes_back_as_it_was() -> None:
    model, network = prepared(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5)), X)
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    lower(model, network, [X])
    assert model.training and all(torch.equal(before[name], t) for name, t in model.state_dict().items())


# -------------------------------------------------------------------------------------------------- errors


def test_a_model_that_was_never_quantized() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 5))
    with pytest.raises(ExportError, match="carries no quantizers"):
        lower(model, capture(model, X[:1]), [X])


def test_no_calibration_batch() -> None:
    model, network = prepared(nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), X)
    with pytest.raises(ExportError, match="no calibration batch"):
        lower(model, network, [])


class OneBatchSize(nn.Module):
    """Holds a batch size in its code, in one way or another."""

    def __init__(self, size: int, *, silent: bool = False) -> None:
        super().__init__()
        self.size, self.silent = size, silent
        self.conv, self.hidden, self.head = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        if self.silent:
            if len(x) != self.size:
                raise AssertionError  # without a word
            return self.head(self.hidden(self.conv(x).relu()).relu().flatten(1))  # type: ignore[no-any-return]
        return self.head(self.hidden(self.conv(x).relu()).relu().reshape(self.size, 64))  # type: ignore[no-any-return]


@pytest.mark.parametrize("silent", [False, True])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_model_that_holds_a_batch_size_lowers_on_batches_of_it(size: int, silent: bool) -> None:
    """And its graph takes any, as every graph does."""
    x = torch.rand(size, 1, 8, 8)
    model = OneBatchSize(size, silent=silent)
    network = capture(model, x)
    quantize(model, Policy.uniform(network, 8, 8, {}), network)
    calibrate(model, [x], rule="minmax")
    graph = lower(model.eval(), network, [x, x.flip(0)], rounding="float32")
    with torch.no_grad():
        wanted = model(x).numpy()
    assert distance(executor.run(graph, x.numpy()), wanted) < 0.03
    np.testing.assert_array_equal(executor.run(graph, x[:1].numpy()), executor.run(graph, x.numpy())[:1])


@pytest.mark.parametrize(
    ("size", "silent", "given", "told"),
    [
        (2, False, (1,), r"does not run on batches of 1 samples: shape '\[2, 64\]'.*give batches of that size"),
        (4, False, (8,), r"cannot be exported: shape '\[4, 64\]'.* tried with 2 and 8 samples: .*or let it take any"),
        (4, True, (3, 4), r"cannot be exported: AssertionError. It was tried with 2 and 3 samples: .*batches of that"),
    ],
)
def test_other_batches_for_it_are_refused_in_words(size: int, silent: bool, given: tuple[int, ...], told: str) -> None:
    x = torch.rand(size, 1, 8, 8)
    model = OneBatchSize(size, silent=silent)
    network = capture(model, x)
    quantize(model, Policy.uniform(network, 8, 8, {}), network)
    calibrate(model, [x])
    with pytest.raises(ExportError, match=told):
        lower(model.eval(), network, [torch.rand(one, 1, 8, 8) for one in given])


def test_a_bank_of_several_bit_widths() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 5))
    network = capture(model, X[:1])
    attach(model, network, {"1": ([2, 4], [8])})
    with pytest.raises(
        ExportError, match=r"hold several bit-widths \(1.weight_quantizer: \[2, 4\]\).*settle what is selected"
    ):
        lower(model, network, [X])


@pytest.mark.parametrize(("step", "what"), [(float("nan"), "are not finite"), (0.0, "are not positive")])
def test_step_sizes_that_are_none_are_refused_with_their_layer(step: float, what: str) -> None:
    x = torch.rand(4, 3, 4, 4)
    model, network = prepared(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)), x)
    with torch.no_grad():
        model[3].input_quantizer.steps.fill_(step)
    with pytest.raises(ExportError, match=f"^3.input_quantizer has 1 of 1 steps .*{what}"):
        lower(model, network, [x])


@pytest.mark.parametrize(
    ("layer", "name"),
    [(nn.LayerNorm(8), "layer_norm"), (nn.BatchNorm2d(4), "batch_norm"), (nn.Upsample(scale_factor=2), "upsample")],
)
def test_unsupported_operators_name_their_module(layer: nn.Module, name: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    model.add_module("odd", layer)
    model.add_module("pool", nn.AdaptiveAvgPool2d(1))
    model.add_module("flat", nn.Flatten())
    model.add_module("fc", nn.Linear(4, 5))
    network = capture(model, X[:2])
    quantize(model, Policy.uniform(network, 8, 8), network)
    calibrate(model, [X])
    with pytest.raises(ExportError, match=f"odd: {name}.* has no integer form"):
        lower(model.eval(), network, [X])


def test_float_layers_are_widened_and_listed_or_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5))
    network = capture(model, X[:2])
    policy = Policy.uniform(network, 8, 8)
    policy.layers["0"] = LayerBits(None, None)
    quantize(model, policy, network)
    calibrate(model, [X], rule="minmax")
    graph = lower(model.eval(), network, [X], rounding="float32")
    assert ("0", "widened") in {(note.name, note.kind) for note in graph.notes}
    with torch.no_grad():
        assert distance(executor.run(graph, X.numpy()), model(X).numpy()) < 0.05
    with pytest.raises(ExportError, match="training left the weights of 0 and the inputs of 0 in float"):
        lower(model, network, [X], strict=True)


def test_every_layer_that_is_widened_is_listed() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5))
    network = capture(model, X[:2])
    policy = Policy.uniform(network, 8, 8)
    policy.layers.update({"0": LayerBits(None, None), "4": LayerBits(None, 8)})
    quantize(model, policy, network)
    calibrate(model, [X], rule="minmax")
    graph = lower(model.eval(), network, [X], rounding="float32")
    assert [note.name for note in graph.notes if note.kind == "widened"] == ["0", "4"]
    for op in graph.weighted():
        tops = np.abs(op.weight.reshape(len(op.weight), -1).astype(int)).max(axis=1)
        assert op.name == "1" or (tops == 127).all(), "the largest weight of a channel is the largest integer"


def test_strict_refuses_inputs_in_float_as_well() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, 3))
    network = capture(model, X[:2])
    policy = Policy.uniform(network, 8, 8)
    lower(prepared(copy.deepcopy(model), X)[0], network, [X], strict=True)
    policy.layers["3"] = LayerBits(8, None)
    quantize(model, policy, network)
    calibrate(model, [X], rule="minmax")
    with pytest.raises(ExportError, match="training left the inputs of 3 in float"):
        lower(model.eval(), network, [X], strict=True)


def test_calibration_that_meets_nan() -> None:
    model, network = prepared(
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)), X
    )
    with pytest.raises(ExportError, match="NaN or infinity"):
        lower(model, network, [torch.full_like(X, float("nan"))])


def test_an_output_that_no_layer_makes() -> None:
    model, network = prepared(nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.ReLU()), X)
    with pytest.raises(ExportError, match="output"):
        lower(model, network, [X])


def test_litert_rounds_by_kind_of_operation() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(18, 5))
    model, network = prepared(model, X)
    graph = lower(model, network, [X], rounding="litert")
    found = {op.kind: op.rounding for op in graph.ops if hasattr(op, "rounding")}
    assert found.items() >= {"Conv": "double", "AveragePool": "double", "Linear": "away"}.items()
    assert set(found.values()) == {"double", "away"}


def test_an_unknown_rounding() -> None:
    model, network = prepared(nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), X)
    with pytest.raises(ExportError, match="Legal: single, double, away, float32, litert"):
        lower(model, network, [X], rounding="triple")  # type: ignore[arg-type]


def test_an_accumulator_that_can_leave_int32() -> None:
    """140,000 products of 128 and 127 are above 2^31."""
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(140_000, 2, bias=False)), torch.randn(4, 1, 140_000)
    nn.init.ones_(model[1].weight)
    model, network = prepared(model, x)
    with pytest.raises(ExportError, match="its accumulator can reach"):
        lower(model, network, [x])


def test_an_accumulator_of_a_wide_input_may_leave_int32() -> None:
    """10,000 products of 32768 and 127 are above 2^31, and far below 2^47."""
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(10_000, 2, bias=False)), torch.randn(4, 1, 10_000)
    nn.init.ones_(model[1].weight)
    graph, found, wanted = both(model, x, (8, 16), {})
    assert executor.accumulator_bound(graph, graph.weighted()[0]) > 2**31
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize(("bits", "power"), [(2, 31), (7, 31), (8, 31), (9, 47), (16, 47)])
def test_accumulators_have_31_bits_and_those_of_wide_inputs_47(
    bits: int, power: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    b = Builder((4,), bits=bits)
    b.rounding = "single"
    graph = b.finish(b.linear(b.first, 3, bits=None))
    monkeypatch.setattr(lowering, "accumulator_bound", lambda graph, op: 2**power - 1)
    lowering._check_accumulators(graph)
    monkeypatch.setattr(lowering, "accumulator_bound", lambda graph, op: 2**power)
    with pytest.raises(ExportError, match=rf"op1: its accumulator can reach {2**power}, legal is below 2\^{power}\."):
        lowering._check_accumulators(graph)


@pytest.mark.parametrize(("wide", "named"), [(1, 1), (5, 5), (6, 5)])
def test_of_many_wide_activations_five_are_named(wide: int, named: int) -> None:
    b = Builder((4,), bits=9)
    b.rounding = "double"
    x = b.first
    for at in range(wide):
        x = b.linear(x, 4, bits=9 if at + 1 < wide else 8)
    graph = b.finish(x)
    names = [name for name, one in graph.tensors.items() if one.grid is not None and one.grid.bits > 8]
    assert len(names) == wide
    listed = ", ".join(names[:named]) + (", ..." if wide > named else "")
    with pytest.raises(ExportError, match=f"^{re.escape(listed)}: activations of more than 8 bits cannot be"):
        lowering._check_rounding(graph)


@pytest.mark.parametrize("zero", [0, -8, 5])
def test_what_is_dead_stays_at_its_zero_point(zero: int) -> None:
    """Which is not the integer 0 where a trained grid has one of its own."""
    node: Any = None
    grid = Grid(scale=1.0, zero_point=zero, qmin=-8, qmax=7)
    source = Wire(name="x", shape=(3,), node=node, step=None)
    step = FakeQuantize(name="q", inputs=[source], grid=grid, dead=True)
    step.output = Wire(name="q", shape=(3,), node=node, step=step)
    flow = Flow(input=source, output=step.output, steps=[step], float_weights=[], unique=str)
    chosen = Chosen(grids={source: grid, step.output: grid}, calibrated=frozenset(), notes=())
    graph = lowering._Printer(flow, chosen, "single").graph("sha256:0")
    assert (executor.run(graph, np.float32([[-3.0, 0.0, 9.0]])) == zero).all()


def chain_of(config: QuantizeConfig) -> tuple[nn.Module, Network]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 7, 3, padding=1), nn.ReLU(), nn.Conv2d(7, 7, 3), nn.ReLU(), head(7)[1])
    model.append(nn.Linear(7 * 36, 5))
    network = capture(model, X[:2])
    quantize(model, Policy.uniform(network, 4, 4, {}), network, config)
    calibrate(model, [X], rule="minmax")
    return model.eval(), network


@pytest.mark.parametrize("kind", ["pact", "dorefa"])
def test_activations_of_other_kinds_lower_like_any(kind: str) -> None:
    model, network = chain_of(QuantizeConfig(activations=kind))  # type: ignore[arg-type]
    graph = lower(model, network, [X], rounding="float32")
    assert not graph.notes
    with torch.no_grad():
        assert distance(executor.run(graph, X.numpy()), model(X).numpy()) < 0.1


def test_batch_quant_is_folded_first_and_lowers_with_its_zero_points() -> None:
    """Padding of the signed input, too, is at the zero point, which is none of its ends."""
    model, network = chain_of(QuantizeConfig(activations="batchquant"))
    banks = [layer.input_quantizer for layer in quantized_layers(model).values()]
    with torch.no_grad():
        for bank, theta, delta in zip(banks, (0.3, -0.2, 0.5), (-1.3, 0.4, 2.2), strict=True):
            bank.theta.fill_(theta)  # type: ignore[union-attr,operator]
            bank.delta.fill_(delta)  # type: ignore[union-attr,operator]
    with pytest.raises(
        ExportError, match=r"0.input_quantizer: its zero point.*\(3 quantizers.*fold_residuals.*batch_norm"
    ):
        lower(model, network, [X])
    fold_residuals(model)
    graph = lower(model, network, [X], rounding="float32")
    zeros = [float(layer.input_quantizer.zero_points) for layer in quantized_layers(model).values()]  # type: ignore[union-attr]
    assert not graph.notes and -8 < zeros[0] < 7 and 0 < zeros[2] < 15
    assert graph.grid(graph.weighted()[0].x).zero_point == zeros[0]
    with torch.no_grad():
        assert distance(executor.run(graph, X.numpy()), model(X).numpy()) < 0.1


@pytest.mark.parametrize("kind", ["lsq-clip", "midrise", "dorefa"])
def test_weights_without_a_zero_level_are_refused(kind: str) -> None:
    model, network = chain_of(QuantizeConfig(weights=kind))  # type: ignore[arg-type]
    with pytest.raises(ExportError, match="0.weight_quantizer: .*no level at zero.*weights='lsq'"):
        lower(model, network, [X])


@pytest.mark.parametrize("seed", range(115, 145))
def test_random_networks_lower_to_the_nearest_integers(seed: int) -> None:
    hold(seed)
