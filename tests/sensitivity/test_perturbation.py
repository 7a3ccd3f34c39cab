"""One side quantized, all else in float."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import torch

from mixbit.cost import LayerBits
from mixbit.errors import MixbitError
from mixbit.sensitivity.perturbation import Perturbation, searched_layers
from mixbit.task import Task
from tests.support import chain
from tests.tasks import tiny_task


@pytest.fixture(scope="module")
def task() -> Task:
    return tiny_task()


@pytest.fixture(scope="module")
def perturbation(task: Task) -> Perturbation:
    return Perturbation(task, (8, 4, 2), (8, 4, 2), task.example(16))


def test_nothing_chosen_is_the_float_model(task: Task, perturbation: Perturbation) -> None:
    x = task.example(8)
    with torch.no_grad():
        assert torch.equal(perturbation.model(x), task.model.eval()(x))


def test_only_the_chosen_side_is_quantized(task: Task, perturbation: Perturbation) -> None:
    x, name = task.example(8), perturbation.layers[0].name
    with torch.no_grad():
        plain = perturbation.model(x)
        with perturbation.chosen({name: LayerBits(2, None)}) as model:
            quantized = model(x)
        weight = perturbation.weight(name)
        saved = weight.detach().clone()
        weight.copy_(perturbation.quantized_weight(name, 2))
        by_hand = perturbation.model(x)
        weight.copy_(saved)
        assert not torch.equal(plain, quantized) and torch.equal(quantized, by_hand)
        assert torch.equal(perturbation.model(x), plain)


def test_fewer_bits_leave_a_larger_error(perturbation: Perturbation) -> None:
    for layer in perturbation.layers:
        weight = perturbation.weight(layer.name)
        errors = [
            float((perturbation.quantized_weight(layer.name, b) - weight.detach()).square().sum()) for b in (8, 4, 2)
        ]
        assert errors[0] < errors[1] < errors[2]


def test_first_and_last_are_left_out_unless_asked_for(task: Task) -> None:
    names = [layer.name for layer in task.network.layers]
    assert [la.name for la in searched_layers(task.network)] == names[1:-1]
    assert [la.name for la in searched_layers(task.network, first_last=True)] == names


def test_a_side_without_candidates_has_no_bank(task: Task) -> None:
    only_weights = Perturbation(task, (4,), (), task.example(4))
    with pytest.raises(MixbitError, match="has no quantizer here"):
        only_weights.input_bank(only_weights.layers[0].name)


def test_steps_are_those_of_the_rules_and_of_their_channels(task: Task) -> None:
    """Closed forms of "minmax" on one side, and on the other the smaller error of "mse"."""
    x = task.example(16)
    model = task.model.eval()
    with torch.no_grad():
        inputs = torch.relu(model.get_submodule("bn0")(model.get_submodule("stem")(x)))
    rows = model.get_parameter("conv1.weight").detach().flatten(1)

    def steps(**rules: Any) -> tuple[torch.Tensor, torch.Tensor]:
        probe = Perturbation(task, (4, 2), (3,), x, **rules)
        return probe.weight_bank("conv1").steps.detach()[0], probe.input_bank("conv1").steps.detach()[0]

    weight, activation = steps(weight_rule="minmax")
    torch.testing.assert_close(weight, torch.maximum(rows.amax(1) / 7, -rows.amin(1) / 8))
    other, largest = steps(activation_rule="minmax")
    torch.testing.assert_close(largest, inputs.max()[None] / 7)
    assert (activation < largest).all() and (other <= weight).all() and (other < weight).any()
    (one, _) = steps(weight_rule="minmax", per_channel=False)
    torch.testing.assert_close(one, torch.maximum(rows.max() / 7, -rows.min() / 8)[None])


def test_each_side_has_its_own_candidates(task: Task) -> None:
    """Nothing is trained, so no bank asks for gradients or scales them."""
    probe = Perturbation(task, (6, 5), (3, 2), task.example(4))
    assert [layer.name for layer in probe.layers] == ["conv1", "conv2", "hidden"]
    for layer in probe.layers:
        weight, inputs = probe.weight_bank(layer.name), probe.input_bank(layer.name)
        assert (weight.bits, inputs.bits) == ((6, 5), (3, 2))
        for bank in (weight, inputs):
            assert bank.bypass and not bank.steps.requires_grad and bank.gradient_scale == "none"


def test_what_was_chosen_ends_with_its_block_and_after_errors(task: Task, perturbation: Perturbation) -> None:
    with suppress(KeyError), perturbation.chosen({"conv1": LayerBits(2, 4)}):
        assert not perturbation.weight_bank("conv1").bypass and not perturbation.input_bank("conv1").bypass
        assert (perturbation.weight_bank("conv1").selected, perturbation.input_bank("conv1").selected) == (2, 4)
        assert perturbation.weight_bank("conv2").bypass and perturbation.input_bank("hidden").bypass
        raise KeyError
    assert perturbation.weight_bank("conv1").bypass and perturbation.input_bank("conv1").bypass


def test_no_layer_left_to_search_is_an_error() -> None:
    net = chain((4, 4), (4, 4))
    with pytest.raises(MixbitError, match="the network has 2 layers, so none is left to search. Set first_last=True"):
        searched_layers(net)
    assert len(searched_layers(net, first_last=True)) == 2
