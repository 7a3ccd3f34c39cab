"""The contract on mixbit's own methods, and on wrong ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import random

import pytest

from mixbit.methods import Limpq, LimpqInit, Method
from mixbit.policy import LayerScores, Scores
from mixbit.task import Task
from mixbit.testing.methods import MethodCases
from tests.tasks import tiny_task


class TestLimpqInit(MethodCases):
    def method(self, seed: int) -> Method:
        return LimpqInit(batch_size=16, seed=seed)

    def task(self) -> Task:
        return tiny_task()


class TestLimpq(TestLimpqInit):
    def method(self, seed: int) -> Method:
        return Limpq(epochs=1, batch_size=32, fraction=1.0, seed=seed)


class Moody:
    """Gives other scores every time, and forgets a layer."""

    def search(self, task: Task, *, run: Path | None = None, quiet: bool = False) -> Scores:
        scores = LimpqInit(batch_size=16).search(task)
        curve = {bits: random() for bits in (2, 3, 4)}
        return replace(scores, layers={"conv1": LayerScores(weight=curve, activation=curve)})


@pytest.mark.parametrize("case", ["test_every_free_layer_is_scored", "test_same_seed_same_scores"])
def test_a_wrong_method_is_caught(case: str) -> None:
    class Wrong(TestLimpqInit):
        def method(self, seed: int) -> Method:
            return Moody()  # type: ignore[return-value]

    with pytest.raises(AssertionError):
        getattr(Wrong(), case)()
