"""LIMPQ: the joint step does what the released code does, and a search gives scores for every searched layer."""

from __future__ import annotations

import copy
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixbit._optim import make_optimizer, set_rates
from mixbit._switchable import SwitchableBatchNorm, make_switchable, norms_after_layers
from mixbit.allocation import allocate
from mixbit.cost import Budget
from mixbit.errors import MixbitError
from mixbit.methods import Limpq, LimpqInit, Method
from mixbit.methods.limpq import _JointStep, _select_uniform, calibrate_indicators, prepare, read_indicators
from mixbit.policy import Scores
from mixbit.quantize import quantized_layers
from mixbit.task import Loss, Task, cross_entropy
from mixbit.testing.methods import MethodCases
from mixbit.training import StepContext
from tests import ranks_script
from tests.tasks import tiny_task


class TestLimpqContract(MethodCases):
    def method(self, seed: int) -> Method:
        return Limpq(epochs=1, batch_size=32, fraction=1.0, seed=seed)

    def task(self) -> Task:
        return tiny_task()


@pytest.fixture(scope="module")
def task() -> Task:
    return tiny_task()


def blended(outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """A loss that takes a smoothing."""
    return F.mse_loss(outputs, (1 - label_smoothing) * targets)


def regression(loss: Loss) -> Task:
    data = [(torch.randn(4, 3), torch.randn(4, 1)) for _ in range(2)]
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 1))
    return Task(model=model, train=data, test=data, loss=loss)


def joint(task: Task, settings: Limpq) -> tuple[nn.Module, dict[str, str], _JointStep, StepContext]:
    model, searched = prepare(task, settings)
    after = norms_after_layers(model, task.example())
    make_switchable(model, after, len(settings.bits))
    calibrate_indicators(model, task, settings, after)
    model.train()
    context = StepContext(
        model=model, loss=lambda _x, out, y: cross_entropy(out, y), forward=lambda x: model(x), number=3, seed=0
    )
    return model, after, _JointStep(model, searched, after, settings), context


def test_searched_layers_and_switchable_norms(task: Task) -> None:
    """First and last layer stay float, and so does the batch norm behind the first."""
    model, after, _, _ = joint(task, Limpq())
    assert sorted(quantized_layers(model)) == ["conv1", "conv2", "hidden"]
    assert after == {"bn1": "conv1", "bn2": "conv2"}
    assert isinstance(model.get_submodule("bn1"), SwitchableBatchNorm)
    assert isinstance(model.get_submodule("bn0"), nn.BatchNorm2d)


def test_joint_step_sums_six_passes_without_division(task: Task) -> None:
    settings = Limpq()
    model, after, step, context = joint(task, settings)
    x, y = next(task.train.batches(16))
    reference = copy.deepcopy(model)
    step(context, x, y)
    for bits in settings.bits:
        _select_uniform(reference, after, settings.bits, bits)
        cross_entropy(reference(x), y).backward()
    uniform = {n: p.grad.clone() for n, p in reference.named_parameters() if p.grad is not None}
    reference.zero_grad()
    twin = _JointStep(
        reference, [la for la in task.network.layers if la.name in quantized_layers(reference)], after, settings
    )
    twin._draw(context.number)
    cross_entropy(reference(x), y).backward()
    for name, parameter in model.named_parameters():
        random = dict(reference.named_parameters())[name].grad
        wanted = sum(g for g in (uniform.get(name), random) if g is not None)
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, wanted, rtol=1e-5, atol=1e-6)


def test_every_bit_width_gets_a_gradient(task: Task) -> None:
    model, _, step, context = joint(task, Limpq())
    step(context, *next(task.train.batches(16)))
    for layer in quantized_layers(model).values():
        assert layer.weight_quantizer is not None and layer.weight_quantizer.steps.grad is not None
        assert (layer.weight_quantizer.steps.grad != 0).all()


def test_random_pass_draws_convolutions_only_and_one_number_a_layer(task: Task) -> None:
    model, after, step, _ = joint(task, Limpq())
    _select_uniform(model, after, (6, 5, 4, 3, 2), 2)
    drawn = set()
    for number in range(40):
        step._draw(number)
        layers = quantized_layers(model)
        for name in ("conv1", "conv2"):
            w, a = layers[name].weight_quantizer, layers[name].input_quantizer
            assert w is not None and a is not None and w.selected == a.selected
            norm = model.get_submodule({"conv1": "bn1", "conv2": "bn2"}[name])
            assert norm.row == (6, 5, 4, 3, 2).index(w.selected)
            drawn.add(w.selected)
        hidden = layers["hidden"].weight_quantizer
        assert hidden is not None and hidden.selected == 2
    assert drawn == {2, 3, 4, 5, 6}


def test_draws_depend_on_seed_and_step_alone(task: Task) -> None:
    def bits(seed: int, number: int) -> list[int]:
        model, _, step, _ = joint(task, Limpq(seed=seed))
        step._draw(number)
        return [la.weight_quantizer.selected for la in quantized_layers(model).values() if la.weight_quantizer]

    assert bits(0, 5) == bits(0, 5)
    assert len({tuple(bits(0, n)) for n in range(6)}) > 1


def test_independent_draws_split_weights_and_activations(task: Task) -> None:
    model, _, step, _ = joint(task, Limpq(faithful=False, independent_draws=True))
    pairs = set()
    for number in range(20):
        step._draw(number)
        hidden = quantized_layers(model)["hidden"]
        assert hidden.weight_quantizer and hidden.input_quantizer
        pairs.add((hidden.weight_quantizer.selected, hidden.input_quantizer.selected))
    assert any(w != a for w, a in pairs)


def test_search_gives_scores_of_every_searched_layer(task: Task, tmp_path: Path) -> None:
    before = copy.deepcopy(task.model.state_dict())
    settings = Limpq(epochs=1, batch_size=16, fraction=1.0)
    scores = settings.search(task, run=tmp_path, quiet=True)
    assert list(scores.layers) == ["conv1", "conv2", "hidden"] and scores.alpha == 2
    assert all(set(s.weight) == set(s.activation) == {2, 3, 4, 5, 6} for s in scores.layers.values())
    start = LimpqInit(batch_size=16).search(task)
    assert scores.layers["conv1"].weight != start.layers["conv1"].weight  # training moved it
    assert all(torch.equal(before[k], v) for k, v in task.model.state_dict().items())  # on a copy
    assert settings.search(task, quiet=True).layers == scores.layers  # same seed, same scores


def test_starting_values_have_the_ratios_of_the_formula(task: Task) -> None:
    scores = LimpqInit(batch_size=16).search(task)
    weight = scores.layers["conv1"].weight
    assert [weight[b] / weight[b + 1] for b in (2, 3, 4, 5)] == pytest.approx([2.0] * 4)
    activation = scores.layers["conv1"].activation
    assert activation[2] / activation[3] == pytest.approx(1.5275, rel=1e-3)


def test_normalised_indicators_ignore_the_scale_of_weights(task: Task) -> None:
    scaled = copy.deepcopy(task.model)
    with torch.no_grad():
        scaled.get_parameter("conv1.weight").mul_(10)
    other = Task(model=scaled, train=task.train, test=task.test, network=task.network)

    def score(t: Task, normalise: bool) -> float:
        return LimpqInit(batch_size=16, normalise=normalise).search(t).layers["conv1"].weight[4]

    assert score(other, False) == pytest.approx(10 * score(task, False))
    assert score(other, True) == pytest.approx(score(task, True))


def test_first_and_last_layer_can_be_searched(task: Task) -> None:
    assert list(LimpqInit(first_last=True, batch_size=16).search(task).layers) == [
        "stem",
        "conv1",
        "conv2",
        "hidden",
        "head",
    ]


def test_faithful_excludes_our_options() -> None:
    with pytest.raises(MixbitError, match="faithful=True excludes independent_draws, step_lr"):
        Limpq(independent_draws=True, step_lr=0.1)


@pytest.mark.parametrize(
    ("epochs", "rates"), [(5, [0.0100, 0.0091, 0.0066, 0.0035, 0.0010]), (3, [0.0100, 0.0075, 0.0025])]
)
def test_learning_rates_are_the_released_ones(epochs: int, rates: list[float]) -> None:
    """Constant within an epoch, as the released code's scheduler moves between epochs only."""
    config = Limpq(epochs=epochs).training()
    optimizer = make_optimizer(
        nn.Linear(2, 2), name="sgd", lr=config.lr, step_lr=config.lr, momentum=0.9, weight_decay=0
    )
    found = []
    for epoch in range(epochs):
        set_rates(optimizer, epoch / epochs, floor=config.final_lr, warmup=0.0)
        found.append(optimizer.param_groups[0]["lr"])
    assert config.schedule == "epoch" and found == pytest.approx(rates, abs=6e-5)


def test_indicator_is_the_raw_step(task: Task) -> None:
    """LIMPQ saves the parameter, not its clamped value."""
    settings = LimpqInit(batch_size=16)
    model, _ = prepare(task, settings)
    calibrate_indicators(model, task, settings, {})
    layer = quantized_layers(model)["conv1"]
    assert layer.weight_quantizer is not None
    with torch.no_grad():
        layer.weight_quantizer.steps.fill_(3.0)
    assert read_indicators(model, task, settings, method="limpq-init").layers["conv1"].weight[4] == 3.0


def test_two_processes_find_the_scores_and_the_policy_of_one(two_processes: dict[str, Any]) -> None:
    """Gradients, initialisation and draws are those of the whole batch; a network without batch norm shows it."""
    folder, task, alone = two_processes["folder"], ranks_script.unnormed_task(), ranks_script.searched(None)
    first, second = (Scores.load(folder / f"scores-{rank}.json") for rank in (0, 1))
    assert first == second
    start = LimpqInit(bits=(4, 2), batch_size=16).search(task, quiet=True)
    for name, kind in product(alone.layers, ("weight", "activation")):
        wanted, found, begun = (getattr(one.layers[name], kind) for one in (alone, first, start))
        assert wanted.keys() == found.keys()
        # Of the way that training took it: an integer at an edge may go either way.
        assert all(abs(found[b] - wanted[b]) <= 0.05 * abs(wanted[b] - begun[b]) + 1e-6 for b in wanted), (name, kind)
    budget = Budget.parse(["bitops=3x3"])
    assert allocate(task.network, first, budget)[0].layers == allocate(task.network, alone, budget)[0].layers


@pytest.mark.parametrize(
    ("given", "loss", "used"),
    [(None, F.mse_loss, 0.0), (None, blended, 0.1), (0.0, F.mse_loss, 0.0), (0.3, blended, 0.3)],
)
def test_labels_are_smoothed_where_the_loss_can_unless_told(given: float | None, loss: Loss, used: float) -> None:
    scores = Limpq(bits=(4, 2), epochs=1, batch_size=4, label_smoothing=given).search(regression(loss), quiet=True)
    assert scores.settings["label_smoothing"] == used
    notes = [f"labels are not smoothed by 0.1, as released: the loss {loss.__name__!r} takes no label_smoothing."]
    assert scores.settings.get("notes") == (notes if given is None and not used else None)


def test_smoothing_that_was_asked_for_and_cannot_be_is_an_error() -> None:
    with pytest.raises(MixbitError, match="label_smoothing=0.1, and the loss 'mse_loss' does.*--set label_smoothing=0"):
        Limpq(bits=(4, 2), epochs=1, batch_size=4, label_smoothing=0.1).search(regression(F.mse_loss), quiet=True)
