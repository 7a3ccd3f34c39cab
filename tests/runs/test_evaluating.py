"""Evaluation of runs and of models."""

from __future__ import annotations

from pathlib import Path

import pytest

from mixbit import runs
from mixbit.errors import MixbitError
from mixbit.policy import Policy
from tests.runs.conftest import DIGITS, SHORT


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
