"""A model as an integer graph at any bits, before it was trained at any."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from mixbit.cost import LayerBits
from mixbit.integer import lower, lower_at
from mixbit.integer.graph import Requantize
from mixbit.network import capture
from mixbit.policy import Policy
from mixbit.quantization import calibrate, quantize


class Fork(nn.Module):
    """Two layers read one tensor."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.left, self.right, self.head = (nn.Linear(*one) for one in ((6, 5), (5, 4), (5, 4), (4, 2)))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        return self.head(self.left(x) + self.right(x))


def test_it_is_the_model_quantized_calibrated_and_lowered_and_stays_as_it_is() -> None:
    model, x = Fork().eval(), torch.randn(3, 6)
    network, before = capture(model, x), copy.deepcopy(model.state_dict())
    bits = {name: LayerBits(w, a) for name, w, a in (("stem", 8, 8), ("left", 3, 4), ("right", 5, 4), ("head", 8, 8))}
    found = lower_at(model, network, x, rounding="double")(bits)
    quantized = copy.deepcopy(model)
    quantize(quantized, Policy(fingerprint=network.fingerprint, layers=bits), network)
    calibrate(quantized, [x])
    wanted = lower(quantized, network, [x], rounding="double")
    for mine, its in zip(found.weighted(), wanted.weighted(), strict=True):
        assert (mine.name, mine.weight_bits) == (its.name, bits[its.name].weight_bits)
        assert np.array_equal(mine.weight, its.weight) and np.array_equal(mine.bias, its.bias)
    state = model.state_dict()
    assert state.keys() == before.keys() and all(torch.equal(state[name], before[name]) for name in before)


def test_apart_gives_every_reader_of_a_tensor_a_grid_of_its_own() -> None:
    """Calibrated alike they share one; trained ones do not, and then readers requantize."""
    model, x = Fork().eval(), torch.randn(3, 6)
    network = capture(model, x)
    bits = {layer.name: LayerBits(8, 8) for layer in network.layers}
    together, apart = (
        sum(isinstance(op, Requantize) for op in lower_at(model, network, x, rounding="single", apart=one)(bits).ops)
        for one in (False, True)
    )
    assert apart > together == 0


def test_a_model_in_training_is_put_into_evaluation() -> None:
    """Else batch norms would learn from the example, and dropout would draw."""
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Dropout(), nn.Flatten(), nn.Linear(12, 2))
    x = 5 + torch.randn(4, 2, 2, 2)
    network = capture(model.eval(), x)
    before = copy.deepcopy(model.state_dict())
    bits = {layer.name: LayerBits(8, 8) for layer in network.layers}
    graph = lower_at(model.train(), network, x, rounding="single")(bits)
    assert not model.training
    wanted = lower_at(model.eval(), network, x, rounding="single")(bits)
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)
    for mine, its in zip(graph.weighted(), wanted.weighted(), strict=True):
        assert np.array_equal(mine.bias, its.bias) and np.array_equal(mine.weight_scale, its.weight_scale)
    assert graph.tensors == wanted.tensors


class Joined(nn.Module):
    """A concat of a tensor that another layer reads as well."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.side, self.head = nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(9, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        return self.head(torch.cat([x[:, 0:], self.side(x)], 1))


def test_apart_copies_what_a_concat_shares() -> None:
    model, x = Joined().eval(), torch.randn(3, 6)
    network = capture(model, x)
    bits = {layer.name: LayerBits(8, 8) for layer in network.layers}
    graph = lower_at(model, network, x, rounding="single", apart=True)(bits)
    assert [note.name for note in graph.notes if note.kind == "requantized"] == ["cat.requantize"]
