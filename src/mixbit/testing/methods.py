"""What every search method must do.

Inherit `MethodCases` in a test module, say how your method and a small task are made, and pytest runs the cases on it:

    class TestMine(MethodCases):
        def method(self, seed):
            return MyMethod(seed=seed)

        def task(self):
            return Task(model=..., train=..., test=...)
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from mixbit.allocation import allocate
from mixbit.cost import Budget, costs
from mixbit.errors import InfeasibleBudget
from mixbit.methods import Method
from mixbit.policy import Scores, resolve_pins
from mixbit.task import Task

__all__ = ["MethodCases"]


class MethodCases:
    """Cases that hold for every method that ends in scores."""

    budgets = ("bitops=3x3", "bitops=4x4", "weight-bytes=8x")

    def method(self, seed: int) -> Method:
        """A short search with that seed."""
        raise NotImplementedError

    def task(self) -> Task:
        """A small problem, the same at every call."""
        raise NotImplementedError

    def scores(self, seed: int = 0) -> Scores:
        """The scores of a fresh search."""
        return self.method(seed).search(self.task(), quiet=True)

    @classmethod
    def shared_scores(cls) -> Scores:
        """The scores of one search with seed 0, which the cases that only read them share."""
        if "_shared" not in cls.__dict__:  # of this class alone, not of one that it inherits from
            cls._shared = cls().scores()
        return cls._shared

    _shared: Scores

    def test_every_free_layer_is_scored(self) -> None:
        task, scores = self.task(), self.shared_scores()
        free = {layer.name for layer in task.network.layers} - set(resolve_pins(task.network))
        assert free <= set(scores.layers)
        scores.check(task.network)

    def test_same_seed_same_scores(self) -> None:
        assert self.scores().layers == self.shared_scores().layers

    def test_the_model_is_left_alone(self) -> None:
        task = self.task()
        before, training = copy.deepcopy(task.model.state_dict()), task.model.training
        self.method(0).search(task, quiet=True)
        assert task.model.training is training
        assert all(torch.equal(before[key], value) for key, value in task.model.state_dict().items())

    def test_policies_meet_their_budget(self) -> None:
        network, scores = self.task().network, self.shared_scores()
        for text in self.budgets:
            budget = Budget.parse([text])
            try:
                policy, _ = allocate(network, scores, budget)
            except InfeasibleBudget:
                continue
            budget.check(costs(network, policy.layers), budget.resolve(network, resolve_pins(network)))

    def test_more_budget_is_never_worse(self) -> None:
        network, scores = self.task().network, self.shared_scores()
        found = [allocate(network, scores, Budget.parse([f"bitops={b}x{b}"]))[1].objective for b in (3, 4, 5)]
        assert found[0] >= found[1] >= found[2]

    def test_scores_survive_their_file(self, tmp_path: Path) -> None:
        scores = self.shared_scores()
        scores.save(tmp_path / "scores.json")
        assert Scores.load(tmp_path / "scores.json") == scores
