"""The contract on a method of mixbit, and on wrong ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import random
from typing import Any

import pytest

from mixbit.cost import Budget, LayerBits
from mixbit.methods import FrontMethod, LimpqInit, Method, PolicyMethod, RandomSearch, UniformFront
from mixbit.policy import Front, LayerScores, Policy, Scores, Terms
from mixbit.task import Task
from mixbit.testing.methods import FrontMethodCases, MethodCases, PolicyMethodCases, ScoreMethodCases
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


# ------------------------------------------------------------------------------------------ policies and fronts


class TestRandomSearch(PolicyMethodCases):
    def method(self, seed: int) -> PolicyMethod:
        return RandomSearch(trials=3, images=16, calibration_images=8, seed=seed)

    def task(self) -> Task:
        return tiny_task()


class TestUniformFront(FrontMethodCases):
    def method(self, seed: int) -> FrontMethod:
        return UniformFront(bits=(4, 2), images=16, calibration_images=8, seed=seed)

    def task(self) -> Task:
        return tiny_task()


class Spoiled(RandomSearch):
    """Its search, and then a change of what it found."""

    def __init__(self, change: Any, **settings: Any) -> None:
        RandomSearch.__init__(self, trials=3, images=16, calibration_images=8, **settings)
        object.__setattr__(self, "change", change)

    __slots__ = ("change",)

    def search(
        self,
        task: Task,
        budget: Budget,
        *,
        terms: Terms = Terms(),  # noqa: B008
        run: Path | None = None,
        quiet: bool = False,
    ) -> Policy:
        found = RandomSearch.search(self, task, budget, terms=terms, run=run, quiet=quiet)
        return self.change(found)  # type: ignore[no-any-return]


def unpinned(policy: Policy) -> Policy:
    return replace(policy, layers=policy.layers | {"head": LayerBits(2, 2)}).check(tiny_task().network)


def widest(policy: Policy) -> Policy:
    return Policy.uniform(tiny_task().network, 8, 8)


def fewest(policy: Policy) -> Policy:
    return replace(Policy.uniform(tiny_task().network, 2, 2), budget=policy.budget)


def odd_bits(policy: Policy) -> Policy:
    return replace(policy, layers=policy.layers | {"conv1": LayerBits(7, 2)})


def another(policy: Policy) -> Policy:
    return replace(policy, seed=next(_NUMBERS))


_NUMBERS = iter(range(1000))


@pytest.mark.parametrize(
    ("change", "case"),
    [
        (widest, "test_the_budget_is_met_and_made_use_of"),
        (fewest, "test_the_budget_is_met_and_made_use_of"),
        (unpinned, "test_the_budget_is_met_and_made_use_of"),
        (odd_bits, "test_the_budget_is_met_and_made_use_of"),
        (widest, "test_pins_ties_and_several_limits_are_kept"),
        (lambda found: replace(found, costs={**found.costs, "bitops": 1}), "test_the_policy_says_what_is_true_of_it"),
        (lambda found: replace(found, budget={}), "test_the_policy_says_what_is_true_of_it"),
        (another, "test_same_seed_same_policy"),
        (another, "test_a_search_in_a_folder_goes_on_to_the_same_policy"),
    ],
)
def test_a_wrong_method_under_a_budget_is_caught(change: Any, case: str, tmp_path: Path) -> None:
    class Wrong(TestRandomSearch):
        def method(self, seed: int) -> PolicyMethod:
            return Spoiled(change, seed=seed)

    with pytest.raises(AssertionError):
        getattr(Wrong(), case)(*([tmp_path] if "folder" in case or "true" in case else []))


def test_a_method_that_ignores_what_cannot_be_met_is_caught() -> None:
    class Deaf:
        bits = (4, 2)

        def search(self, task: Task, budget: Budget, *, terms: Any = None, run: Any = None, quiet: bool = False) -> Any:
            return Policy.uniform(task.network, 2, 2)

    class Wrong(TestRandomSearch):
        def method(self, seed: int) -> PolicyMethod:
            return Deaf()  # type: ignore[return-value]

    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        Wrong().test_a_budget_that_nothing_meets_is_told_with_the_nearest()
    with pytest.raises(AssertionError):
        Wrong().test_it_is_called_as_every_method_is()


def twice(front: Front) -> Front:
    return replace(front, points=front.points * 2)


def dear(front: Front) -> Front:
    return replace(front, points=tuple(replace(one, costs={**one.costs, "bitops": 1}) for one in front.points))


@pytest.mark.parametrize(
    ("change", "case"),
    [
        (twice, "test_every_point_says_what_it_costs_and_what_it_is_worth"),
        (dear, "test_every_point_says_what_it_costs_and_what_it_is_worth"),
        (lambda front: replace(front, seed=next(_NUMBERS)), "test_same_seed_same_front"),
        (lambda front: replace(front, seed=next(_NUMBERS)), "test_a_search_in_a_folder_goes_on_to_the_same_front"),
    ],
)
def test_a_wrong_front_is_caught(change: Any, case: str, tmp_path: Path) -> None:
    class Wrong(TestUniformFront):
        def found(self, method: Any, task: Task, *, quiet: bool = True) -> Any:
            return change(super().found(method, task, quiet=quiet))

        def method(self, seed: int) -> FrontMethod:
            return super().method(seed) if "folder" not in case else Changing(change)  # type: ignore[return-value]

    with pytest.raises(AssertionError):
        getattr(Wrong(), case)(*([tmp_path] if "folder" in case else []))


class Changing:
    def __init__(self, change: Any) -> None:
        self.change = change

    def search(self, task: Task, *, run: Path | None = None, quiet: bool = False) -> Any:
        return self.change(
            UniformFront(bits=(4, 2), images=16, calibration_images=8).search(task, run=run, quiet=quiet)
        )


def test_the_older_name_is_that_of_cases_of_scores() -> None:
    assert MethodCases is ScoreMethodCases
