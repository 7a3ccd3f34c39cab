"""FIT: scores are the Fisher trace times the power of the noise."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch

from mixbit.errors import MixbitError
from mixbit.methods import Fit, Method
from mixbit.policy import Scores
from mixbit.task import Task, cross_entropy
from mixbit.testing.methods import MethodCases
from mixbit.testing.options import OptionCases, OptionRow, fields_of
from tests.methods import seen
from tests.tasks import tiny_task


class TestFit(MethodCases):
    def method(self, seed: int) -> Method:
        return Fit(images=16, seed=seed)

    def task(self) -> Task:
        return tiny_task()


@pytest.fixture(scope="module")
def task() -> Task:
    return tiny_task()


@pytest.fixture(scope="module")
def scores(task: Task) -> Scores:
    return Fit(images=24).search(task, quiet=True)


def test_scores_are_squared_gradients_times_a_twelfth_of_the_squared_step(task: Task, scores: Scores) -> None:
    model, norms = copy.deepcopy(task.model).eval(), []
    weight = model.get_parameter("conv1.weight")
    x, y = next(task.train.batches(24, seed=0, shuffle=True))
    for at in range(24):
        (gradient,) = torch.autograd.grad(cross_entropy(model(x[at : at + 1]), y[at : at + 1]), weight)
        norms.append(gradient.square().sum())
    rows = weight.detach().flatten(1)
    steps = torch.maximum(rows.amax(1) / 7, -rows.amin(1) / 8)
    wanted = torch.stack(norms).mean() * steps.square().mean() / 12
    assert scores.layers["conv1"].weight[4] == pytest.approx(wanted.item(), rel=1e-4)


def test_one_bit_more_is_about_a_quarter_of_the_noise(scores: Scores) -> None:
    """Exactly so for inputs behind a ReLU up to the number of steps: ((2^b - 1) / (2^(b + 1) - 1))^2."""
    harm = scores.layers["conv1"].activation
    assert harm[6] / harm[5] == pytest.approx((31 / 63) ** 2)


def test_measured_noise_leaves_the_traces(task: Task, scores: Scores) -> None:
    measured = Fit(images=24, noise="measured").search(task, quiet=True)
    assert measured.settings["traces"] == scores.settings["traces"]
    for name, one in measured.layers.items():
        for side in ("weight", "activation"):
            ratio = getattr(one, side)[8] / getattr(scores.layers[name], side)[8]
            assert 0.3 < ratio < 1.1  # at 8 bits errors are spread nearly evenly, but for zeros
    assert measured.layers != scores.layers


def test_report_and_bad_settings(scores: Scores) -> None:
    assert scores.settings["images_used"] == 24 and scores.settings["not_scored"] == [] and scores.alpha == 1
    with pytest.raises(MixbitError, match="noise='white' is illegal. Legal: 'uniform', 'measured' or 'range'"):
        Fit(noise="white")  # type: ignore[arg-type]
    with pytest.raises(MixbitError, match="images=0"):
        Fit(images=0)


# ------------------------------------------------------------------------------------------------------- options


SMALL = partial(Fit, bits=(4, 2), images=8, calibration_images=2)


def noise_of_conv(model: str) -> tuple[float, float]:
    """Power of the noise at 2 bits: score over trace, of the weight and of the input."""
    scores = seen.search(SMALL(noise=model))
    facts = scores.settings["traces"]["conv"]  # type: ignore[index, call-overload]
    one = scores.layers["conv"]
    return one.weight[2] / facts["weight"]["trace"], one.activation[2] / facts["activation"]["trace"]  # type: ignore[index, call-overload, operator]


def noise_by_hand(model: str) -> tuple[float, float]:
    """A twelfth of the squared step, channels averaged; or the mean of the squared errors."""
    x = seen.images(0)[:2]
    steps, step = seen.minmax_weight_step("conv", 2), seen.minmax_input_step("conv", 2, x)
    if model == "range":
        tensors = (seen.small_task().model.get_parameter("conv.weight").detach(), seen.inputs_of("conv", x))
        weight, inputs = (float((one.max() - one.min()) / 3) ** 2 for one in tensors)
        return weight, inputs
    if model == "uniform":
        return float(steps.square().mean() / 12), float(step.square() / 12)
    inputs, weights = seen.inputs_of("conv", x).numel(), 3 * 2 * 9
    return seen.weight_error("conv", 2, steps) / weights, seen.input_error("conv", 2, step, x) / inputs


class TestFitOptions(OptionCases):
    owner = Fit
    options = fields_of(Fit)
    rows = (
        seen.bits_row(SMALL),
        seen.images_row(SMALL, calls=1),
        OptionRow(
            "noise",
            ("uniform", "measured"),
            seen=noise_of_conv,
            holds=lambda *found: (
                found == tuple(pytest.approx(noise_by_hand(model), rel=1e-4) for model in ("uniform", "measured"))
            ),
            says="power of the noise",
        ),
        OptionRow(
            "noise",
            ("uniform", "range"),
            seen=noise_of_conv,
            holds=lambda *found: (
                found == tuple(pytest.approx(noise_by_hand(model), rel=1e-4) for model in ("uniform", "range"))
            ),
            says="power of the noise of the public code",
        ),
        seen.rule_row(SMALL, "weight_rule", "weight", of=2),
        seen.rule_row(SMALL, "activation_rule", "activation", of=2),
        seen.per_channel_row(SMALL),
        seen.step_images_row(SMALL, "calibration_images"),
        seen.first_last_row(SMALL),
        seen.seed_row(SMALL, images_used=2),
    )


def test_traces_are_of_the_images_of_the_seed() -> None:
    """The mean squared gradient of each sample by itself, of exactly the images that are asked for."""
    x, y = seen.labelled(seed=5)
    weight, norms = seen.small_task().model.get_parameter("conv.weight"), []
    for at in range(7):
        loss = cross_entropy(seen.small_task().model.eval()(x[at : at + 1]), y[at : at + 1])
        norms.append(torch.autograd.grad(loss, weight)[0].square().sum().item())
    traces = seen.search(SMALL(images=7, seed=5)).settings["traces"]
    assert traces["conv"]["weight"]["trace"] == pytest.approx(sum(norms) / 7, rel=1e-4)  # type: ignore[index, call-overload]


def test_defaults_are_those_that_are_documented() -> None:
    assert Fit() == Fit(
        bits=(8, 6, 5, 4, 3, 2),
        images=512,
        noise="uniform",
        weight_rule="minmax",
        activation_rule="minmax",
        per_channel=True,
        calibration_images=64,
        first_last=False,
        seed=0,
    )
