"""What every search method must do.

Inherit `MethodCases` in a test module, say how your method and a small task are made, and pytest runs the cases on it:

    class TestMine(MethodCases):
        def method(self, seed):
            return MyMethod(seed=seed)

        def task(self):
            return Task(model=..., train=..., test=...)

A class searches twice: once for all cases that look at one search, and once more for the same seed.
"""

from __future__ import annotations

import copy
import inspect
import io
import re
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mixbit.allocation import allocate
from mixbit.cost import Budget, LayerBits
from mixbit.errors import MixbitError
from mixbit.methods import Method
from mixbit.network import Network
from mixbit.policy import Scores, resolve_pins
from mixbit.task import Task

__all__ = ["MethodCases"]


@dataclass(frozen=True, slots=True)
class _Searched:
    """One search, and what its model was like before and after."""

    kind: type[Method]
    task: Task
    scores: Scores
    before: dict[str, Any]
    after: dict[str, Any]
    told: list[str]
    """Lines on standard error, of a search that was not asked to be quiet."""


class MethodCases:
    """Cases that hold for every method that ends in scores."""

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
    def shared_search(cls) -> _Searched:
        """One search with seed 0, which the cases that look at one share."""
        if "_shared" not in cls.__dict__:  # of this class alone, not of one that it inherits from
            method, task = cls().method(0), cls().task()
            before = _condition(task.model)
            with redirect_stderr(io.StringIO()) as told:
                scores = method.search(task)
            lines = told.getvalue().splitlines()
            cls._shared = _Searched(type(method), task, scores, before, _condition(task.model), lines)
        return cls._shared

    _shared: _Searched

    def test_every_free_layer_is_scored(self) -> None:
        network, scores = self.shared_search().task.network, self.shared_search().scores
        free = {layer.name for layer in network.layers} - set(resolve_pins(network))
        assert free <= set(scores.layers)
        scores.check(network)

    def test_same_seed_same_scores(self) -> None:
        """And a search that is to be quiet tells nothing."""
        with redirect_stderr(io.StringIO()) as told:
            again = self.scores()
        scores = self.shared_search().scores
        assert again.layers == scores.layers and again.program == scores.program
        assert told.getvalue() == ""

    def test_it_is_called_as_every_method_is(self) -> None:
        """A caller that leaves out `run` and `quiet` gets what it gets of every other method."""
        mine, every = (inspect.signature(one.search).parameters for one in (self.shared_search().kind, Method))
        assert {name: one.default for name, one in mine.items()} == {name: one.default for name, one in every.items()}

    def test_progress_comes_to_its_end(self) -> None:
        """The last line of each piece of work, as `gradients: done, 16/16 in 0:00:02`, or `ended` if it may settle."""
        told = self.shared_search().told
        ends = [end for line in told if (end := re.search(r": (done|ended), (\d+)/(\d+) in ", line))]
        wrong = [end.string for end in ends if end[2] != end[3] if end[1] == "done" or end[2] == "0"]
        assert wrong == [] and len(ends) == sum(bool(re.search(r": \d+ steps", line)) for line in told)

    def test_no_candidate_is_named_twice(self) -> None:
        """The settings refuse it, or the search does before it begins."""
        method = self.method(seed=0)
        for name in ("bits", "activation_bits"):
            bits = getattr(method, name, ())
            if isinstance(bits, tuple) and bits and all(isinstance(one, int) for one in bits):
                with pytest.raises(MixbitError, match="twice"):
                    replace(method, **{name: (*bits, bits[0])}).search(self.task(), quiet=True)

    def test_the_model_is_left_alone(self) -> None:
        """Weights, statistics, modules, hooks, modes, and which parameters are trained."""
        found = self.shared_search()
        assert found.before.keys() == found.after.keys()
        changed = [name for name, value in found.before.items() if not _same(value, found.after[name])]
        assert changed == []

    def test_policies_lie_between_the_methods_own_fewest_and_most_bits(self) -> None:
        """A budget half way between them, in operations and in weights, each counted here: bits are those that the
        method offers, within the budget, and not those of the fewest where there is room for more."""
        found = self.shared_search()
        network, scores = found.task.network, found.scores
        fewest, most = (_at_end(network, scores, end) for end in (min, max))
        for kind, count in (("bitops", bit_operations), ("weight-bytes", weight_bytes)):
            least, middle, highest = count(network, fewest), 0, count(network, most)
            middle = (least + highest) // 2
            assert least < middle < highest, f"{kind}: the scores leave no choice"
            policy, _ = allocate(network, scores, Budget.parse([f"{kind}={middle}"]), repair="none")
            assert least <= count(network, policy.layers) <= middle
            assert policy.layers != fewest
            for name, one in scores.layers.items():
                bits = policy.layers[name]
                assert name in resolve_pins(network) or (
                    bits.weight_bits in one.weight and bits.activation_bits in one.activation
                )

    def test_scores_survive_their_file(self, tmp_path: Path) -> None:
        scores = self.shared_search().scores
        scores.save(tmp_path / "scores.json")
        assert Scores.load(tmp_path / "scores.json") == scores


def bit_operations(network: Network, layers: Mapping[str, LayerBits]) -> int:
    """Multiplications of every layer times the bits of both sides, of a network without parameters in float."""
    return sum(
        one.macs * (layers[one.name].weight_bits or 32) * (layers[one.name].activation_bits or 32)
        for one in network.layers
    )


def weight_bytes(network: Network, layers: Mapping[str, LayerBits]) -> int:
    """Weights of every layer times their bits, in whole bytes."""
    return -(-sum(one.weights * (layers[one.name].weight_bits or 32) for one in network.layers) // 8)


def _at_end(network: Network, scores: Scores, end: Callable[[Any], int]) -> dict[str, LayerBits]:
    """All layers at the fewest or the most bits that the scores offer; the first and the last one at 8."""
    curves = {name: LayerBits(end(one.weight), end(one.activation)) for name, one in scores.layers.items()}
    return {layer.name: (curves | resolve_pins(network))[layer.name] for layer in network.layers}


def _condition(model: nn.Module) -> dict[str, Any]:
    """Everything of a model that a search might leave changed."""
    found: dict[str, Any] = {f"state {key}": value for key, value in copy.deepcopy(model.state_dict()).items()}
    for name, parameter in model.named_parameters():
        found[f"parameter {name}"] = (parameter.requires_grad, parameter.grad is None)
    for name, module in model.named_modules():
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
        found[f"module {name}"] = (type(module), module.training, *map(len, hooks))
    return found


def _same(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else bool(one == other)
