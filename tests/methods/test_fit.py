"""FIT: scores are the Fisher trace times the power of the noise."""

from __future__ import annotations

import copy

import pytest
import torch

from mixbit.errors import MixbitError
from mixbit.methods import Fit, Method
from mixbit.policy import Scores
from mixbit.task import Task, cross_entropy
from mixbit.testing.methods import MethodCases
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
    with pytest.raises(MixbitError, match="noise='white' is illegal. Legal: 'uniform' or 'measured'"):
        Fit(noise="white")  # type: ignore[arg-type]
    with pytest.raises(MixbitError, match="images=0"):
        Fit(images=0)
