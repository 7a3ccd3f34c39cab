"""Random scores: seeded, falling with bits, and using the budget up."""

from __future__ import annotations

from random import Random

import pytest

from mixbit.allocation import allocate
from mixbit.cost import Budget, LayerBits, costs
from mixbit.errors import MixbitError
from mixbit.methods import Method, RandomScores
from mixbit.policy import Scores, resolve_pins
from mixbit.task import Task
from mixbit.testing.methods import MethodCases
from mixbit.testing.options import OptionCases, OptionRow, fields_of
from tests.methods import seen
from tests.tasks import tiny_task


class TestContract(MethodCases):
    def method(self, seed: int) -> Method:
        return RandomScores(seed=seed)

    def task(self) -> Task:
        return tiny_task()


@pytest.fixture(scope="module")
def task() -> Task:
    return tiny_task()


def test_every_curve_falls(task: Task) -> None:
    for found in RandomScores(bits=(2, 8, 4)).search(task).layers.values():
        for curve in (found.weight, found.activation):
            assert list(curve) == [2, 4, 8] and curve[2] > curve[4] > curve[8]


def test_seeds_give_other_policies(task: Task) -> None:
    budget = Budget.parse(["bitops=4x4"])
    found = [allocate(task.network, RandomScores(seed=seed).search(task), budget)[0] for seed in range(6)]
    assert len({tuple(map(str, policy.layers.values())) for policy in found}) > 2


def test_nothing_more_fits(task: Task) -> None:
    """Harm falls with every bit, so the optimum has no layer left that could be raised."""
    limits = Budget.parse(["bitops=4x4"]).resolve(task.network, resolve_pins(task.network))
    policy, _ = allocate(task.network, RandomScores(seed=1).search(task), Budget.parse(["bitops=4x4"]))
    ladder = {2: 3, 3: 4, 4: 5, 5: 6, 6: 8}
    for name in ("conv1", "conv2", "hidden"):
        old = policy.layers[name]
        weight, activation = ladder.get(old.weight_bits or 0), ladder.get(old.activation_bits or 0)
        for raised in (LayerBits(weight, old.activation_bits), LayerBits(old.weight_bits, activation)):
            if None not in (raised.weight_bits, raised.activation_bits):
                assert costs(task.network, policy.layers | {name: raised}).bitops > limits["bitops"]


def test_no_candidates(task: Task) -> None:
    with pytest.raises(MixbitError, match="at least one bit-width"):
        RandomScores(bits=()).search(task)


def test_scores_name_their_seed(task: Task) -> None:
    scores: Scores = RandomScores(seed=7).search(task)
    assert scores.seed == 7 and scores.method == "random" and scores.settings["seed"] == 7


def drawn(seed: int) -> dict[str, list[list[float]]]:
    """Draws of the layers one after the other, each the weight first, the largest at the fewest bits."""
    random = Random(seed)
    return {n: [sorted((random.random() for _ in range(2)), reverse=True) for _ in seen.BOTH] for n in seen.SEARCHED}


class TestRandomScoresOptions(OptionCases):
    owner = RandomScores
    options = fields_of(RandomScores)
    rows = (
        seen.bits_row(RandomScores),
        seen.first_last_row(RandomScores),
        OptionRow(
            "seed",
            (0, 5),
            seen=lambda value: {
                name: [[one.weight[2], one.weight[4]], [one.activation[2], one.activation[4]]]
                for name, one in seen.search(RandomScores(bits=(4, 2), seed=value)).layers.items()
            },
            holds=lambda a, b: a == drawn(0) and b == drawn(5),
            says="draws",
        ),
    )


def test_defaults_are_those_that_are_documented() -> None:
    assert RandomScores() == RandomScores(bits=(8, 6, 5, 4, 3, 2), first_last=False, seed=0)
