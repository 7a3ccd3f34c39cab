"""Evaluation of runs and of models."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest
import torch

from mixbit import runs
from mixbit.cost import costs, float_costs
from mixbit.errors import MixbitError
from mixbit.policy import Policy
from mixbit.quantization import put_policy_on
from mixbit.runs import evaluating
from tests.cli import tiny
from tests.runs.conftest import DIGITS, SHORT, squared_error


def test_run_folder_gives_the_accuracy_of_its_training(float_run: runs.Trained, tmp_path: Path) -> None:
    policy = Policy.uniform(DIGITS.task()[0].network, 4, 4)
    done = runs.train(float_run.trained, policy, SHORT, tmp_path / "run", quiet=True)
    found = runs.evaluate(str(tmp_path / "run"))
    assert found.outcome == done.outcome and found.metrics.samples == 360


def test_model_with_policy_is_calibrated_only(float_run: runs.Trained, tmp_path: Path) -> None:
    Policy.uniform(DIGITS.task()[0].network, 8, 8).save(tmp_path / "policy.json")
    weights = float_run.trained.weights
    found = runs.evaluate("digits-resnet", data="digits", policy=tmp_path / "policy.json", weights=weights)
    plain = runs.evaluate("digits-resnet", data="digits", weights=weights)
    assert plain.outcome.accuracy == float_run.outcome.accuracy
    assert abs(found.outcome.accuracy - plain.outcome.accuracy) < 0.1


def test_folder_without_weights_and_folder_with_extra_words(float_run: runs.Trained, tmp_path: Path) -> None:
    with pytest.raises(MixbitError, match="no run folder"):
        runs.evaluate(str(tmp_path))
    assert float_run.trained.weights is not None
    with pytest.raises(MixbitError, match="brings its own"):
        runs.evaluate(str(float_run.trained.weights.parent), policy=tmp_path / "policy.json")


def by_hand(model: torch.nn.Module) -> tuple[float, float]:
    """Accuracy and loss on the test images, by PyTorch alone."""
    split = tiny.subject().load_data().test
    x, y = next(split.batches(len(split)))
    with torch.no_grad():
        outputs = model.eval()(x)
    return float((outputs.argmax(1) == y).float().mean()), float(torch.nn.functional.cross_entropy(outputs, y))


def test_a_model_is_evaluated_with_its_seed_and_its_policy() -> None:
    """The bits are those of the policy, calibrated on the images that the seed draws."""
    task = runs.Subject(model=tiny.net(), data="digits", seed=3).task()[0]
    bits = Policy.load(tiny.policy()).check(task.network)
    put_policy_on(task.model, bits, task, seed=3)
    with mock.patch.object(evaluating, "put_policy_on", side_effect=put_policy_on) as calibrated:
        found = runs.evaluate(tiny.net(), data="digits", policy=tiny.policy(), seed=3)
    assert calibrated.call_args.kwargs == {"seed": 3}
    seen = (found.outcome.accuracy, found.metrics.loss)
    assert seen == pytest.approx(by_hand(task.model), rel=1e-4) and found.outcome.name == "by hand"
    assert found.outcome.costs == costs(task.network, bits.layers) and found.float32 == float_costs(task.network)
    assert (found.policy, found.run, found.subject.seed) == (tiny.policy(), None, 3)
    plain = runs.evaluate(tiny.net(), data="digits")
    seen = (plain.outcome.accuracy, plain.metrics.loss)
    assert seen == pytest.approx(by_hand(tiny.task().model), rel=1e-4) and plain.outcome.name == "float32"
    assert plain.outcome.costs == plain.float32 and (plain.policy, plain.subject.seed) == (None, 0)


def test_a_run_folder_is_evaluated_on_its_own_data_or_on_others() -> None:
    run = tiny.quantized_run()
    found = runs.evaluate(str(run))
    assert found.run == run and found.policy == run / "policy.json" and found.subject.data == "digits"
    other = runs.evaluate(str(run), data="digits?seed=1", seed=2)
    assert (other.subject.data, other.subject.seed) == ("digits?seed=1", 2)
    assert other.metrics.loss != found.metrics.loss


def test_a_model_is_evaluated_by_the_metric_of_its_task(regression: runs.Subject) -> None:
    found = runs.evaluate(regression.model)
    assert found.outcome.accuracy == pytest.approx(squared_error(regression.task()[0].model), rel=1e-4)
    assert found.outcome.metric.name == "loss" and found.metrics.samples == 24
