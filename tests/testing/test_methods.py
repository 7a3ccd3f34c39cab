"""The contract on a method of mixbit, and on wrong ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import random

import pytest

from mixbit.methods import LimpqInit, Method
from mixbit.policy import LayerScores, Scores
from mixbit.task import Task
from mixbit.testing.methods import MethodCases
from tests.tasks import tiny_task


class TestLimpqInit(MethodCases):
    def method(self, seed: int) -> Method:
        return LimpqInit(batch_size=16, seed=seed)

    def task(self) -> Task:
        return tiny_task()


class Moody:
    """Gives other scores every time, and forgets layers."""

    def search(self, task: Task, *, run: Path | None = None, quiet: bool = False) -> Scores:
        curve = {bits: random() for bits in (2, 3, 4)}
        layers = {"conv1": LayerScores(weight=curve, activation=curve)}
        return replace(LimpqInit(batch_size=16).search(task), layers=layers)


class Rough:
    """Does to the model what no search may do."""

    def __init__(self, harm: str) -> None:
        self.harm = harm

    def search(self, task: Task, *, run: Path | None = None, quiet: bool = False) -> Scores:
        weight = task.model.get_parameter("conv1.weight")
        if self.harm == "weights":
            weight.data.mul_(2)
        elif self.harm == "frozen":
            weight.requires_grad_(False)
        elif self.harm == "gradients":
            weight.grad = weight.detach().clone()
        elif self.harm == "mode":
            task.model.get_submodule("bn1").eval()
        else:
            task.model.get_submodule("conv1").register_forward_hook(lambda *_: None)
        return LimpqInit(batch_size=16).search(task)


class Stubborn:
    """Leaves no layer a choice of its weights."""

    def search(self, task: Task, *, run: Path | None = None, quiet: bool = False) -> Scores:
        scores = LimpqInit(batch_size=16).search(task)
        return replace(scores, layers={n: LayerScores({4: 1.0}, s.activation) for n, s in scores.layers.items()})


def failing(method: object, case: str) -> None:
    class Wrong(TestLimpqInit):
        def method(self, seed: int) -> Method:
            return method  # type: ignore[return-value]

    with pytest.raises(AssertionError):
        getattr(Wrong(), case)()


@pytest.mark.parametrize("case", ["test_every_free_layer_is_scored", "test_same_seed_same_scores"])
def test_a_wrong_method_is_caught(case: str) -> None:
    failing(Moody(), case)


@pytest.mark.parametrize("harm", ["weights", "frozen", "gradients", "mode", "hook"])
def test_a_model_that_is_not_left_alone_is_caught(harm: str) -> None:
    failing(Rough(harm), "test_the_model_is_left_alone")


def test_scores_without_a_choice_are_caught() -> None:
    failing(Stubborn(), "test_policies_lie_between_the_methods_own_fewest_and_most_bits")


def test_one_search_serves_all_cases_but_that_of_the_seed(tmp_path: Path) -> None:
    searches = []

    class Counted(TestLimpqInit):
        def method(self, seed: int) -> Method:
            searches.append(seed)
            return super().method(seed)

    cases = Counted()
    for name in [name for name in dir(cases) if name.startswith("test_")]:
        getattr(cases, name)(*([tmp_path] if "file" in name else []))
    assert searches == [0, 0, 0]  # once for all, once for the same seed, and one that is asked for its candidates alone
