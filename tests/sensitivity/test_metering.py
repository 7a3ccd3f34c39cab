"""What a search costs is counted exactly, and counting leaves no trace."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixbit import _effort
from mixbit.cost import LayerBits
from mixbit.data import TensorSplit
from mixbit.errors import DataError, MixbitError
from mixbit.methods import Limpq
from mixbit.network import capture
from mixbit.sensitivity.metering import Effort, Meter, _samples
from mixbit.sensitivity.perturbation import Perturbation
from mixbit.task import Task
from tests.tasks import tiny_task


@pytest.fixture(scope="module")
def task() -> Task:
    return tiny_task()


def metered(task: Task, search: Callable[[Task], object]) -> Effort:
    meter = Meter(task)
    with meter.running() as seen:
        search(seen)
    return meter.effort


def passes(effort: Effort) -> tuple[int | None, float | None, float | None]:
    return effort.images, effort.forward_images, effort.backward_images


def loss_of(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x), y)


def test_a_method_written_by_hand_is_counted_exactly(task: Task) -> None:
    """Three forward passes of 8 images, two of them with a way back, on a copy of a copy."""

    def search(seen: Task) -> None:
        model = copy.deepcopy(copy.deepcopy(seen.model))
        x, y = next(seen.train.batches(8))
        for _ in range(2):
            loss_of(model, x, y).backward()
        with torch.no_grad():
            model(x)

    assert passes(metered(task, search)) == (8, 24, 16)


def test_quantized_layers_are_counted(task: Task) -> None:
    def search(seen: Task) -> None:
        x, _ = next(seen.train.batches(16))
        perturbed = Perturbation(seen, (4, 2), (4, 2), x)  # one pass to see the inputs
        with perturbed.chosen({"conv1": LayerBits(2, 4)}) as model, torch.no_grad():
            model(x)

    assert passes(metered(task, search)) == (16, 32, 0)


def test_limpq_takes_one_pass_a_bit_width_and_one_more(task: Task) -> None:
    settings = Limpq(epochs=2, batch_size=16, fraction=1.0, bits=(4, 3, 2))
    found = metered(task, lambda seen: settings.search(seen, quiet=True))
    # 64 images an epoch; 16 more calibrate the 3 bit-widths and show, in evaluation mode, that each bank is called;
    # 2 test images tell which norm follows which layer.
    assert passes(found) == (2 * 64 + 16, 2 * 64 * 4 + 2 * 16 * 3 + 2, 2 * 64 * 4)


def test_a_part_of_the_network_counts_as_that_part(task: Task) -> None:
    macs = {layer.name: layer.macs for layer in task.network.layers}
    tail = (macs["hidden"] + macs["head"]) / sum(macs.values())

    def search(seen: Task) -> None:
        hidden, head = seen.model.get_submodule("hidden"), seen.model.get_submodule("head")
        head(hidden(torch.zeros(10, 6))).sum().backward()

    assert passes(metered(task, search)) == (0, pytest.approx(10 * tail, abs=1e-6), pytest.approx(10 * tail, abs=1e-6))


def test_a_way_back_that_stops_early_counts_as_far_as_it_went(task: Task) -> None:
    macs = {layer.name: layer.macs for layer in task.network.layers}

    def search(seen: Task) -> None:
        x, y = next(seen.train.batches(4))
        torch.autograd.grad(loss_of(seen.model, x, y), [seen.model.get_parameter("head.weight")])

    assert metered(task, search).backward_images == pytest.approx(4 * macs["head"] / sum(macs.values()), abs=1e-6)


def test_a_second_derivative_is_two_ways_back(task: Task) -> None:
    def search(seen: Task) -> None:
        x, y = next(seen.train.batches(4))
        weights = list(seen.model.parameters())
        first = torch.autograd.grad(loss_of(seen.model, x, y), weights, create_graph=True)
        product = sum((g * g.detach()).sum() for g in first)
        torch.autograd.grad(product, weights)

    assert passes(metered(task, search)) == (4, 4, 8)


def test_export_is_no_pass_and_does_not_see_the_hooks(task: Task) -> None:
    def search(seen: Task) -> None:
        assert capture(seen.model, seen.example()) == task.network

    assert passes(metered(task, search)) == (0, 0, 0)


def test_work_outside_of_modules_is_reported(task: Task) -> None:
    def search(_seen: Task) -> None:
        _effort.count_forward(12)
        _effort.count_backward(3)

    assert passes(metered(task, search)) == (0, 12, 3)


@pytest.mark.parametrize("batch_first", [True, False])
def test_attention_is_counted_once_an_image(batch_first: bool) -> None:
    """Its output projection is never called as a module; and the batch may be the second dimension."""
    split = TensorSplit(torch.zeros(4, 1, 2, 4, dtype=torch.uint8), torch.arange(4) % 2, 2, mean=(0.5,), std=(0.5,))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=batch_first)
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            tokens = x[:, 0] if batch_first else x[:, 0].transpose(0, 1)
            return self.head(self.block(tokens).mean(1 if batch_first else 0))  # type: ignore[no-any-return]

    task = Task(model=Net().eval(), train=split, test=split)

    def search(seen: Task) -> None:
        x, y = next(seen.train.batches(3))
        loss_of(seen.model, x, y).backward()

    assert passes(metered(task, search)) == (3, 3, 3)


def test_no_hook_is_left_behind_even_by_an_error(task: Task) -> None:
    def search(seen: Task) -> None:
        raise RuntimeError("in the middle")

    meter = Meter(task)
    with pytest.raises(RuntimeError), meter.running() as seen:
        search(seen)
    assert not any(module._forward_hooks for module in task.model.modules())
    assert meter.effort.forward_images == 0


def test_results_do_not_depend_on_the_meter(task: Task) -> None:
    settings = Limpq(epochs=1, batch_size=16, fraction=1.0, bits=(4, 2))
    meter = Meter(task)
    with meter.running() as seen:
        found = settings.search(seen, quiet=True)
    assert found == settings.search(task, quiet=True)
    assert meter.effort.cpu_seconds is not None and meter.effort.cpu_seconds > 0


def test_the_split_is_the_users_own_but_for_the_count(task: Task) -> None:
    split = Meter(task).task.train
    assert (len(split), split.num_classes, split.num_batches(24)) == (64, 3, 3)
    assert torch.equal(split.labels, task.train.labels)  # type: ignore[attr-defined]
    theirs, ours = (list(s.batches(24, seed=1, shuffle=True)) for s in (split, task.train))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(theirs, ours, strict=True))
    with pytest.raises(DataError):
        list(split.batches(0))
    assert len(copy.deepcopy(split)) == 64


def test_effort_survives_json() -> None:
    effort = Effort(cpu_seconds=1.5, wall_seconds=2.0, images=64, forward_images=128.5, backward_images=0.0)
    assert Effort.from_json(effort.to_json() | {"name": "x", "interrupted": True}) == effort
    assert Effort.from_json({}) == Effort()


@pytest.mark.parametrize("value", ["3 s", True, [1]])
def test_effort_that_is_no_number(value: object) -> None:
    with pytest.raises(MixbitError, match="cpu_seconds="):
        Effort.from_json({"cpu_seconds": value})


def test_a_call_on_a_part_of_a_sample_counts_as_that_part() -> None:
    """A linear layer of 6 outputs a sample, called on 3 of them, on 2 samples, and on one and a half."""
    parts = [_samples(torch.zeros(count), 6) for count in (3, 12, 9)]
    assert parts == [0.5, 2, 1.5] and _samples(torch.zeros(4, 5), None) == 4
