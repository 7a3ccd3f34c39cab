"""What every search method must do.

Inherit the cases of its kind in a test module, say how your method and a small task are made, and pytest runs them:

    class TestMine(ScoreMethodCases):
        def method(self, seed):
            return MyMethod(seed=seed)

        def task(self):
            return Task(model=..., train=..., test=...)

`PolicyMethodCases` are for methods that search under a budget, `FrontMethodCases` for those that end in a front. A
class searches twice: once for all cases that look at one search, and once more for the same seed. What a folder and
other budgets are asked for takes a few searches more.
"""

from __future__ import annotations

import copy
import inspect
import io
import re
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from itertools import product, starmap
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from mixbit._bits import ACTIVATION_BITS, WEIGHT_BITS
from mixbit.allocation import AllocationSettings, allocate
from mixbit.cost import Budget, Device, LatencyTable, LayerBits, LayerLatency, Timing
from mixbit.errors import InfeasibleBudget, MixbitError
from mixbit.methods import AnyMethod, FrontMethod, PolicyMethod, ScoreMethod
from mixbit.network import Network
from mixbit.policy import Front, Policy, Scores, Terms, resolve_pins
from mixbit.task import Task

__all__ = ["FrontMethodCases", "MethodCases", "PolicyMethodCases", "ScoreMethodCases"]


@dataclass(frozen=True, slots=True)
class _Searched:
    """One search, and what its model was like before and after."""

    kind: type[AnyMethod]
    task: Task
    result: Any
    before: dict[str, Any]
    after: dict[str, Any]
    told: list[str]
    """Lines on standard error, of a search that was not asked to be quiet."""


class _Cases:
    """What holds for methods of all kinds."""

    KIND: ClassVar[Any]
    """The protocol of the kind."""

    def method(self, seed: int) -> Any:
        """A short search with that seed."""
        raise NotImplementedError

    def task(self) -> Task:
        """A small problem, the same at every call."""
        raise NotImplementedError

    def found(self, method: Any, task: Task, *, quiet: bool = True) -> Any:
        """What the method ends in."""
        return method.search(task, quiet=quiet)

    @classmethod
    def shared_search(cls) -> _Searched:
        """One search with seed 0, which the cases that look at one share."""
        if "_shared" not in cls.__dict__:  # of this class alone, not of one that it inherits from
            cases = cls()
            method, task = cases.method(0), cases.task()
            before = _condition(task.model)
            with redirect_stderr(io.StringIO()) as told:
                result = cases.found(method, task, quiet=False)
            lines = told.getvalue().splitlines()
            cls._shared = _Searched(type(method), task, result, before, _condition(task.model), lines)
        return cls._shared

    _shared: _Searched

    def test_it_is_called_as_every_method_is(self) -> None:
        """A caller that leaves out `run` and `quiet` gets what it gets of every other method."""
        mine, every = (inspect.signature(one.search).parameters for one in (self.shared_search().kind, self.KIND))
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
                    self.found(replace(method, **{name: (*bits, bits[0])}), self.task())

    def test_the_model_is_left_alone(self) -> None:
        """Weights, statistics, modules, hooks, modes, and which parameters are trained."""
        found = self.shared_search()
        assert found.before.keys() == found.after.keys()
        changed = [name for name, value in found.before.items() if not _same(value, found.after[name])]
        assert changed == []


class ScoreMethodCases(_Cases):
    """Cases that hold for every method that ends in scores."""

    KIND = ScoreMethod

    def method(self, seed: int) -> ScoreMethod:
        """A short search with that seed."""
        raise NotImplementedError

    def scores(self, seed: int = 0) -> Scores:
        """The scores of a fresh search."""
        return self.method(seed).search(self.task(), quiet=True)

    def test_every_free_layer_is_scored(self) -> None:
        network, scores = self.shared_search().task.network, self.shared_search().result
        free = {layer.name for layer in network.layers} - set(resolve_pins(network))
        assert free <= set(scores.layers)
        scores.check(network)

    def test_same_seed_same_scores(self) -> None:
        """And a search that is to be quiet tells nothing."""
        with redirect_stderr(io.StringIO()) as told:
            again = self.scores()
        scores = self.shared_search().result
        assert again.layers == scores.layers and again.program == scores.program
        assert told.getvalue() == ""

    def test_policies_lie_between_the_methods_own_fewest_and_most_bits(self) -> None:
        """A budget half way between them, in operations and in weights, each counted here: bits are those that the
        method offers, within the budget, and not those of the fewest where there is room for more."""
        found = self.shared_search()
        network, scores = found.task.network, found.result
        fewest, most = (_at_end(network, scores, end) for end in (min, max))
        for kind, count in (("bitops", bit_operations), ("weight-bytes", weight_bytes)):
            least, middle, highest = count(network, fewest), 0, count(network, most)
            middle = (least + highest) // 2
            assert least < middle < highest, f"{kind}: the scores leave no choice"
            policy, _ = allocate(network, scores, Budget.parse([f"{kind}={middle}"]), AllocationSettings(repair="none"))
            assert least <= count(network, policy.layers) <= middle
            assert policy.layers != fewest
            for name, one in scores.layers.items():
                bits = policy.layers[name]
                assert name in resolve_pins(network) or (
                    bits.weight_bits in one.weight and bits.activation_bits in one.activation
                )

    def test_scores_survive_their_file(self, tmp_path: Path) -> None:
        scores = self.shared_search().result
        scores.save(tmp_path / "scores.json")
        assert Scores.load(tmp_path / "scores.json") == scores


MethodCases = ScoreMethodCases
"""What the cases were called before there were three kinds of methods."""


class PolicyMethodCases(_Cases):
    """Cases that hold for every method that searches a policy under a budget.

    Attributes:
        bits: what a layer may get, for a method without a setting `bits`; in any order.
    """

    KIND = PolicyMethod
    bits: ClassVar[tuple[int, ...]] = ()

    def method(self, seed: int) -> PolicyMethod:
        """A short search with that seed."""
        raise NotImplementedError

    def found(self, method: Any, task: Task, *, quiet: bool = True) -> Policy:
        """The policy within a budget half way between the fewest and the most bits."""
        budget = Budget.parse([f"bitops={self._middle(task.network, bit_operations)}"])
        found: Policy = method.search(task, budget, quiet=quiet)
        return found

    def _offered(self) -> tuple[int, ...]:
        return self.bits or tuple(getattr(self.method(0), "bits", ()))

    def _ends(self, network: Network) -> list[dict[str, LayerBits]]:
        """All free layers at the fewest and at the most bits."""
        pins = resolve_pins(network)
        return [
            {one.name: pins.get(one.name, LayerBits(end, end)) for one in network.layers}
            for end in (min(self._offered()), max(self._offered()))
        ]

    def _middle(self, network: Network, count: Count) -> int:
        return sum(count(network, layers) for layers in self._ends(network)) // 2

    def test_same_seed_same_policy(self) -> None:
        """And a search that is to be quiet tells nothing."""
        with redirect_stderr(io.StringIO()) as told:
            again = self.found(self.method(0), self.task())
        assert again == self.shared_search().result and told.getvalue() == ""

    def test_the_budget_is_met_and_made_use_of(self) -> None:
        """Operations counted here: not over it, and not those of the fewest bits; the ends keep their 8."""
        found = self.shared_search()
        network, policy = found.task.network, found.result
        fewest, _ = self._ends(network)
        assert bit_operations(network, policy.layers) <= self._middle(network, bit_operations)
        assert policy.layers != fewest and bit_operations(network, policy.layers) >= bit_operations(network, fewest)
        assert all(policy.layers[name] == bits for name, bits in resolve_pins(network).items())
        free = [bits for name, bits in policy.layers.items() if name not in resolve_pins(network)]
        assert {side for bits in free for side in (bits.weight_bits, bits.activation_bits)} <= set(self._offered())

    def test_the_policy_says_what_is_true_of_it(self, tmp_path: Path) -> None:
        """Its costs and its budget; and it survives its file."""
        found = self.shared_search()
        network, policy = found.task.network, found.result
        assert policy.check(network) is policy
        assert policy.costs["bitops"] == bit_operations(network, policy.layers)
        assert policy.budget == {"bitops": str(self._middle(network, bit_operations))}
        policy.save(tmp_path / "policy.json")
        assert Policy.load(tmp_path / "policy.json") == policy

    def test_pins_ties_and_several_limits_are_kept(self) -> None:
        task = self.task()
        network, fewest = task.network, min(self._offered())
        free = [one.name for one in network.layers if one.name not in resolve_pins(network)]
        pins = resolve_pins(network, {free[0]: LayerBits(fewest, fewest)})
        most = {kind: self._middle(network, count) for kind, count in _COUNTS.items()}
        budget = Budget.parse([f"{kind}={value}" for kind, value in most.items()])
        policy = self.method(0).search(task, budget, terms=Terms(pins=pins), quiet=True)
        assert {name: policy.layers[name] for name in pins} == pins
        assert all(count(network, policy.layers) <= most[kind] for kind, count in _COUNTS.items())
        for group in network.ties():
            assert len({policy.layers[name].activation_bits for name in group if name not in pins}) <= 1

    def test_a_budget_that_nothing_meets_is_told_with_the_nearest(self) -> None:
        task = self.task()
        least = bit_operations(task.network, self._ends(task.network)[0])
        with pytest.raises(InfeasibleBudget) as caught:
            self.method(0).search(task, Budget.parse([f"bitops={least - 1}"]), quiet=True)
        assert caught.value.nearest == {"bitops": least} and caught.value.blocking

    def test_a_search_in_a_folder_goes_on_to_the_same_policy(self, tmp_path: Path) -> None:
        """What it left there is read by the next one, which ends where the first one did."""
        task = self.task()
        budget = Budget.parse([f"bitops={self._middle(task.network, bit_operations)}"])
        first, second = (self.method(0).search(task, budget, run=tmp_path, quiet=True) for _ in range(2))
        assert first == second == self.shared_search().result


class FrontMethodCases(_Cases):
    """Cases that hold for every method that ends in a front."""

    KIND = FrontMethod

    def method(self, seed: int) -> FrontMethod:
        """A short search with that seed."""
        raise NotImplementedError

    def found(self, method: Any, task: Task, *, quiet: bool = True) -> Any:
        """The front, of points that tell a time by a table as well."""
        return method.search(task, terms=Terms(latency=_times(task.network)), quiet=quiet)

    def test_same_seed_same_front(self) -> None:
        """And a search that is to be quiet tells nothing."""
        with redirect_stderr(io.StringIO()) as told:
            again = self.found(self.method(0), self.task())
        assert again == self.shared_search().result and told.getvalue() == ""

    def test_every_point_says_what_it_costs_and_what_it_is_worth(self) -> None:
        """Costs are counted here, times by the table; the metric is the task's, and no policy is there twice."""
        found = self.shared_search()
        network, front = found.task.network, found.result
        assert front.check(network) == front and front.measured.info == found.task.info
        for point in front.points:
            assert point.costs["bitops"] == bit_operations(network, point.layers)
            assert point.costs["weight_bytes"] == weight_bytes(network, point.layers)
            assert point.costs["latency_ns"] == sum(map(_time, point.layers.values()))
            assert {found.task.info.name, "loss"} <= set(point.quality)
        assert len({tuple(point.layers.values()) for point in front.points}) == len(front.points) > 1

    def test_a_front_survives_its_file(self, tmp_path: Path) -> None:
        front = self.shared_search().result
        front.save(tmp_path / "front.json")
        assert Front.load(tmp_path / "front.json") == front

    def test_the_best_within_a_budget_is_picked(self) -> None:
        """At the cost of every point, in operations and in weights, against a look at all points."""
        found = self.shared_search()
        network, front = found.task.network, found.result
        for kind, count in _COUNTS.items():
            for limit in {count(network, point.layers) for point in front.points}:
                policy = front.pick(Budget.parse([f"{kind}={limit}"]), network)
                fitting = [one for one in front.points if count(network, one.layers) <= limit]
                values = [found.task.info.gain(one.quality[found.task.info.name], 0.0) for one in fitting]
                (mine,) = [at for at, one in enumerate(fitting) if one.layers == policy.layers]
                assert values[mine] == max(values)

    def test_a_search_in_a_folder_goes_on_to_the_same_front(self, tmp_path: Path) -> None:
        """What it left there is read by the next one, which ends where the first one did."""
        task = self.task()
        first, second = (self.method(0).search(task, run=tmp_path, quiet=True) for _ in range(2))
        assert first == second
        # Weights of its own are in a folder alone, and times come of the table.
        assert _bare(first) == _bare(self.shared_search().result)


def _bare(front: Front) -> Front:
    def counted(costs: Mapping[str, int | float]) -> dict[str, int | float]:
        return {name: value for name, value in costs.items() if "latency" not in name}

    points = tuple(replace(point, costs=counted(point.costs)) for point in front.points)
    return replace(front, weights=None, points=points)


def _times(network: Network) -> LatencyTable:
    """Times by hand, of every layer at all bits."""
    pairs = starmap(LayerBits, product(WEIGHT_BITS, ACTIVATION_BITS))
    every = {str(bits): Timing(median=_time(bits), spread=0) for bits in pairs}
    layers = {
        one.name: LayerLatency(
            kind=one.kind,
            weight_shape=one.weight_shape,
            groups=one.groups,
            input_shape=one.input_shape,
            output_shape=one.output_shape,
            options=every,
        )
        for one in network.layers
    }
    return LatencyTable(
        fingerprint=network.fingerprint,
        target="by hand",
        unit="ns",
        device=Device(cpu="a CPU", cores=1),
        runtime="none",
        runtime_version="0",
        threads=1,
        batch=1,
        repeats=1,
        layers=layers,
        other=(),
    )


def _time(bits: LayerBits) -> int:
    return 100 * (bits.weight_bits or 32) + (bits.activation_bits or 32)


def bit_operations(network: Network, layers: Mapping[str, LayerBits]) -> int:
    """Multiplications of every layer times the bits of both sides, of a network without parameters in float."""
    return sum(
        one.macs * (layers[one.name].weight_bits or 32) * (layers[one.name].activation_bits or 32)
        for one in network.layers
    )


def weight_bytes(network: Network, layers: Mapping[str, LayerBits]) -> int:
    """Weights of every layer times their bits, in whole bytes."""
    return -(-sum(one.weights * (layers[one.name].weight_bits or 32) for one in network.layers) // 8)


Count = Callable[[Network, Mapping[str, LayerBits]], int]
_COUNTS: dict[str, Count] = {"bitops": bit_operations, "weight-bytes": weight_bytes}


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
