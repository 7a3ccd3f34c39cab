"""The networks of examples/ go the whole way: captured, searched, allocated, trained, evaluated, exported."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from mixbit import runs
from mixbit.errors import ExportError
from mixbit.evaluation import evaluate
from tests.needs import need

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"
TRAINING = {"epochs": 1, "batch_size": 32, "optimizer": "adamw", "lr": 0.01, "bn_samples": 64}


@dataclass(frozen=True, kw_only=True)
class Case:
    """An example, the method that searches it, its metric, and why it has no integer form yet."""

    name: str
    method: str
    metric: str
    refused: str = ""


CASES = (
    Case(name="unet", method="fit", metric="mean IoU", refused="conv_transpose2d"),
    Case(name="detector", method="one-at-a-time", metric="box overlap", refused="output"),
    Case(name="regression", method="hawq-v2", metric="mean absolute error"),
    Case(name="autoencoder", method="sqnr", metric="loss"),
    Case(name="keyword_spotting", method="limpq", metric="accuracy"),
    Case(name="text_classifier", method="weight-entropy", metric="accuracy", refused="input"),
)
SEARCH = {
    "fit": {"images": 8},
    "one-at-a-time": {"images": 16, "bits": [8, 4, 2]},
    "hawq-v2": {"images": 16, "batch_size": 8, "draws": 2},
    "sqnr": {"images": 32},
    "limpq": {"epochs": 1, "batch_size": 32, "fraction": 0.25},
    "weight-entropy": {},
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_example_goes_the_whole_way(case: Case, tmp_path: Path) -> None:
    if case.name == "text_classifier":
        need("transformers")
    subject = runs.Subject(model=f"{EXAMPLES / case.name}.py:task")
    task, data = subject.task()
    assert data is None and task.info.name == case.metric
    start = runs.train(subject, None, TRAINING, tmp_path / "float", task=task, quiet=True)
    before = evaluate(task.model, task.test, loss=task.objective)
    assert task.info.better(start.outcome.accuracy, before.value)  # an epoch teaches it something

    task = start.trained.task()[0]
    found = runs.search(start.trained, case.method, SEARCH[case.method], tmp_path / "search", task=task, quiet=True)
    assert all(math.isfinite(harm) for one in found.scores.layers.values() for harm in one.weight.values())
    policy = runs.allocate(tmp_path / "search", ["bitops=6x6"], tmp_path / "policy.json").policy
    done = runs.train(start.trained, policy, TRAINING, tmp_path / "trained", task=task, quiet=True)
    assert done.outcome.metric == task.info and task.info.better(done.outcome.accuracy, before.value)

    measured = runs.evaluate(str(tmp_path / "trained"))
    assert measured.outcome.accuracy == pytest.approx(done.outcome.accuracy, rel=1e-4)
    if case.refused:
        with pytest.raises(ExportError, match=case.refused):
            runs.export(tmp_path / "trained", images=32, compare_float=False)
        return
    exported = runs.export(tmp_path / "trained", images=32, compare_float=False)
    assert exported.verification is not None and exported.verification.right


def test_inputs_of_a_text_are_passed_by_name() -> None:
    """The mask counts: what is behind it changes nothing, which by position or without it would not be so."""
    need("transformers")
    task, _ = runs.Subject(model=f"{EXAMPLES / 'text_classifier'}.py:task").task()
    inputs, _ = next(task.test.batches(8))
    other = {**inputs, "input_ids": torch.where(inputs["attention_mask"] == 1, inputs["input_ids"], 9)}
    with torch.no_grad():
        first, second = (task.objective.chosen(task.model.eval()(**one)) for one in (inputs, other))
    torch.testing.assert_close(first, second)
