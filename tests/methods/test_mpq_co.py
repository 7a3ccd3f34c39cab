"""MPQ-CO: half the mean squared slope of log p_y along the quantization error."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch.nn.functional import cross_entropy

from mixbit.errors import MixbitError
from mixbit.methods import Method, MpqCo
from mixbit.policy import Scores
from mixbit.quantizers import fake_quantize
from mixbit.task import Task
from mixbit.testing.methods import MethodCases
from mixbit.testing.options import OptionCases, OptionRow, fields_of
from tests.methods import seen
from tests.tasks import tiny_task


class TestMpqCo(MethodCases):
    def method(self, seed: int) -> Method:
        return MpqCo(images=16, seed=seed)

    def task(self) -> Task:
        return tiny_task()


@pytest.fixture(scope="module")
def task() -> Task:
    return tiny_task()


@pytest.fixture(scope="module")
def scores(task: Task) -> Scores:
    return MpqCo(images=24).search(task, quiet=True)


def test_weights_by_the_formula_with_the_softmax_probability(task: Task, scores: Scores) -> None:
    model, squares = copy.deepcopy(task.model).eval(), []
    weight = model.get_parameter("conv1.weight")
    rows = weight.detach().flatten(1)
    steps = torch.maximum(rows.amax(1) / 3, -rows.amin(1) / 4)
    error = (
        fake_quantize(weight.detach(), steps, 0 * steps, torch.tensor([-4.0]), torch.tensor([3.0])) - weight.detach()
    )
    x, y = next(task.train.batches(24, seed=0, shuffle=True))
    for at in range(24):
        chance = torch.softmax(model(x[at : at + 1])[0], dim=0)[y[at]]
        (gradient,) = torch.autograd.grad(chance, weight)
        squares.append(((gradient * error).sum() / chance.detach()).square() / 2)
    assert scores.layers["conv1"].weight[3] == pytest.approx(torch.stack(squares).mean().item(), rel=1e-3)


def test_inputs_by_the_error_of_each_samples_own_input(task: Task, scores: Scores) -> None:
    """The witness is the loss itself, in double precision, moved a thousandth of the error to either side."""
    model, values = copy.deepcopy(task.model).double().eval(), []
    x, y = next(task.train.batches(24, seed=0, shuffle=True))
    module = model.get_submodule("conv1")
    seen: list[torch.Tensor] = []
    handle = module.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0].detach()))
    with torch.no_grad():
        model(x.double())
    handle.remove()
    step = seen[0].max() / 15
    for at in range(24):
        value = seen[0][at : at + 1]
        error, losses = torch.round(value / step).clamp(0, 15) * step - value, []
        for sign in (1e-3, -1e-3):
            moved = value + sign * error
            handle = module.register_forward_pre_hook(lambda _m, _i, moved=moved: (moved,))
            with torch.no_grad():
                losses.append(cross_entropy(model(x[at : at + 1].double()), y[at : at + 1]).item())
            handle.remove()
        values.append(((losses[0] - losses[1]) / 2e-3) ** 2 / 2)
    assert scores.layers["conv1"].activation[4] == pytest.approx(sum(values) / 24, rel=1e-3)


def test_without_activations_inputs_keep_the_most_bits(task: Task, scores: Scores) -> None:
    found = MpqCo(images=24, activations=False).search(task, quiet=True)
    assert all(one.activation == {8: 0.0} for one in found.layers.values())
    assert [one.weight for one in found.layers.values()] == [one.weight for one in scores.layers.values()]


def test_report_and_bad_settings(scores: Scores) -> None:
    assert scores.settings["images_used"] == 24 and scores.settings["not_scored"] == []
    errors = scores.settings["standard_errors"]["conv1"]["weight"]  # type: ignore[index, call-overload]
    assert 0 < errors["2"] < 10 * scores.layers["conv1"].weight[2]  # type: ignore[index, call-overload, operator]
    with pytest.raises(MixbitError, match="calibration_images=0"):
        MpqCo(calibration_images=0)


# ------------------------------------------------------------------------------------------------------- options


SMALL = partial(MpqCo, bits=(4, 2), images=8, calibration_images=2)


class TestMpqCoOptions(OptionCases):
    owner = MpqCo
    options = fields_of(MpqCo)
    rows = (
        seen.bits_row(SMALL),
        OptionRow(
            "activations",
            (True, False),
            seen=lambda value: [set(one.activation) for one in seen.search(SMALL(activations=value)).layers.values()],
            holds=lambda a, b: (a, b) == ([{4, 2}] * 2, [{4}] * 2),
            says="bits that inputs may have",
        ),
        seen.images_row(SMALL, calls=1),
        seen.rule_row(SMALL, "weight_rule", "weight", of=2),
        seen.rule_row(SMALL, "activation_rule", "activation", of=2),
        seen.per_channel_row(SMALL),
        seen.step_images_row(SMALL, "calibration_images"),
        seen.first_last_row(SMALL),
        seen.seed_row(SMALL, images_used=2),
    )


def test_defaults_are_those_that_are_documented() -> None:
    assert MpqCo() == MpqCo(
        bits=(8, 6, 5, 4, 3, 2),
        activations=True,
        images=512,
        weight_rule="minmax",
        activation_rule="minmax",
        per_channel=True,
        calibration_images=64,
        first_last=False,
        seed=0,
    )
