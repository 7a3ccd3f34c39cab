"""The uniform method is the uniform network at its own budget, and as even as can be between two of them."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from mixbit import models
from mixbit.allocation import AllocationSettings, allocate
from mixbit.cost import Budget, LayerBits
from mixbit.errors import MixbitError
from mixbit.methods import Method, Uniform
from mixbit.network import Network, capture
from mixbit.policy import Policy
from mixbit.task import Task
from mixbit.testing.methods import MethodCases
from mixbit.testing.options import OptionCases, OptionRow, fields_of
from tests.methods import seen
from tests.support import chain, random_network
from tests.tasks import tiny_task


class TestContract(MethodCases):
    def method(self, seed: int) -> Method:
        return Uniform(seed=seed)

    def task(self) -> Task:
        return tiny_task()


@cache
def resnet20() -> Network:
    return capture(models.build("resnet20"), torch.randn(2, 3, 32, 32))


def best(network: Network, text: str, *, bits: tuple[int, ...] = (8, 6, 5, 4, 3, 2)) -> Policy:
    """The policy of the method; it reads nothing of a task but its network."""
    task = cast(Task, SimpleNamespace(network=network))
    return allocate(network, Uniform(bits=bits).search(task), Budget.parse([text]))[0]


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6])
def test_budget_of_a_uniform_network_gives_it_back(bits: int) -> None:
    assert best(resnet20(), f"bitops={bits}x{bits}").layers == Policy.uniform(resnet20(), bits, bits).layers


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6])
def test_bytes_of_a_uniform_network_give_its_weight_bits(bits: int) -> None:
    """Bytes of weights say nothing of inputs, which get the most bits."""
    assert best(resnet20(), f"weight-bytes={bits}x8").layers == Policy.uniform(resnet20(), bits, 8).layers


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("bits", [3, 4])
def test_uneven_networks_with_shared_inputs(seed: int, bits: int) -> None:
    found = random_network(seed, layers=9)
    assert best(found, f"bitops={bits}x{bits}").layers == Policy.uniform(found, bits, bits).layers


@pytest.mark.parametrize("bits", [2, 3, 5])
def test_a_hundred_and_thirty_layers(bits: int) -> None:
    """The widest range of harms that the solver's grid still holds: 257^5 is 2^40, to two in a hundred."""
    found = wide_chain(130)
    assert best(found, f"bitops={bits}x{bits}").layers == Policy.uniform(found, bits, bits).layers


def wide_chain(layers: int) -> Network:
    """Layers whose weights and MACs span three orders of magnitude, in no order."""
    counts = [(100 + (7919 * i) % 9973 * (1 + i % 11), 1000 + (104729 * i) % 99991) for i in range(layers)]
    return chain(*counts)


@pytest.mark.parametrize("layers", [20, 130])
def test_between_two_uniform_networks_as_many_layers_as_fit_are_raised(layers: int) -> None:
    """By bytes of weights the most layers that can be raised are the smallest ones."""
    found = wide_chain(layers)
    free = found.layers[1:-1]
    three, four = (Policy.uniform(found, bits, 8).costs["weight_bytes"] for bits in (3, 4))
    limit = int(three + 0.4 * (four - three))
    left, most = 8 * limit - 8 * three, 0
    for one in sorted(one.weights for one in free):
        left -= one
        most += left >= 0
    chosen = best(found, f"weight-bytes={limit}B").layers
    weights = [chosen[one.name].weight_bits or 0 for one in free]
    assert min(weights) == 3 and sum(bits > 3 for bits in weights) == most
    assert 0 < most < len(free)


def test_gaps_between_candidates_do_not_matter() -> None:
    assert best(resnet20(), "bitops=4x4", bits=(2, 4, 8)).layers == Policy.uniform(resnet20(), 4, 4).layers
    # There is no 5: what is between 4 and 8 is filled with some layers at 8, none below 4.
    chosen = best(resnet20(), "bitops=5x5", bits=(2, 4, 8)).layers
    assert {bits.weight_bits for bits in chosen.values()} == {4, 8}


def test_first_and_last_layer_on_request() -> None:
    task = tiny_task()
    assert list(Uniform().search(task).layers) == ["conv1", "conv2", "hidden"]
    scores = Uniform(first_last=True).search(task)
    policy, _ = allocate(task.network, scores, Budget.parse(["bitops=3x3"]), AllocationSettings(pins={}))
    assert set(policy.layers.values()) == {LayerBits(3, 3)}


def test_bad_bits() -> None:
    with pytest.raises(MixbitError, match="bits=\\[4, 4\\] is no list of candidates"):
        Uniform(bits=(4, 4)).search(tiny_task())
    with pytest.raises(MixbitError, match=r"bits=\(4, 9\) is illegal. Legal: a list, each a whole number from 1 to 8"):
        Uniform(bits=(4, 9))


class TestUniformOptions(OptionCases):
    owner = Uniform
    options = fields_of(Uniform)
    rows = (
        seen.bits_row(Uniform),
        OptionRow(
            "first_last",
            (False, True),
            # One more than twice the layers to the minus first: the harm of the second fewest bits.
            seen=lambda value: {n: s.weight[3] for n, s in seen.search(Uniform(first_last=value)).layers.items()},
            holds=lambda a, b: (
                (a, b)
                == (pytest.approx(dict.fromkeys(seen.SEARCHED, 1 / 5)), pytest.approx(dict.fromkeys(seen.ALL, 1 / 9)))
            ),
            says="harm of the layers scored",
        ),
        seen.unused_seed_row(Uniform),
    )


def test_defaults_are_those_that_are_documented() -> None:
    assert Uniform() == Uniform(bits=(8, 6, 5, 4, 3, 2), first_last=False, seed=0)
