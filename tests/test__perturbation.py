"""One side quantized, all else in float."""

from __future__ import annotations

import pytest
import torch

from mixbit._perturbation import Perturbation, searched_layers
from mixbit.cost import LayerBits
from mixbit.errors import MixbitError
from mixbit.task import Task
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
