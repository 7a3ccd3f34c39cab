"""The nearest policy within a budget, against a look at all of them."""

from __future__ import annotations

import math
from itertools import product

import pytest

from mixbit.allocation import project
from mixbit.cost import Budget, LayerBits
from mixbit.errors import BudgetError, InfeasibleBudget
from mixbit.policy import Terms
from tests.support import chain, layer, network, random_latency, random_network

BITS = (2, 3, 4)


def wishes(names: list[str], *, at: float = 3.6) -> dict[str, tuple[float, float]]:
    return {name: (at - 0.37 * i, at + 0.11 * i) for i, name in enumerate(names)}


def nearest(
    net: object, wished: dict[str, tuple[float, float]], budget: Budget, terms: Terms, *, coupled: bool = False
) -> float:
    """The least squared distance of all policies within the budget."""
    from mixbit.network import Network

    assert isinstance(net, Network)
    pins, limits, best = terms.pinned(net), terms.limits(net, budget), math.inf
    free = [one.name for one in net.layers if one.name not in pins]
    options = [LayerBits(w, a) for w in BITS for a in BITS if w == a or not coupled]
    for picked in product(options, repeat=len(free)):
        layers = pins | dict(zip(free, picked, strict=True))
        if terms.ties and any(len({layers[n].activation_bits for n in g if n in free}) > 1 for g in net.ties()):
            continue
        if min(budget.slack(terms.costs(net, layers), limits).values()) < 0:
            continue
        moved = [(layers[n].weight_bits - wished[n][0], layers[n].activation_bits - wished[n][1]) for n in free]  # type: ignore[operator]
        best = min(best, math.fsum(w * w + a * a for w, a in moved))
    return best


@pytest.mark.parametrize("texts", [["bitops=3x3"], ["bitops=3x3", "weight-bytes=3x3"], ["latency=11us"]])
@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("ties", [True, False])
def test_it_is_the_nearest_of_all(texts: list[str], ties: bool, coupled: bool) -> None:
    net, budget = random_network(3, layers=5), Budget.parse(texts)
    wished = wishes([one.name for one in net.layers])
    terms = Terms(ties=ties, latency=random_latency(net))
    found = project(net, wished, budget, bits=BITS, terms=terms, coupled=coupled)
    distance = nearest(net, wished, budget, terms, coupled=coupled)
    assert found.allocation["objective"] == pytest.approx(distance, rel=1e-9)
    pinned = terms.pinned(net)
    assert not coupled or all(
        one.weight_bits == one.activation_bits for n, one in found.layers.items() if n not in pinned
    )
    budget.check(terms.costs(net, found.layers), terms.limits(net, budget))
    assert found.budget == budget.texts and found.check(net, terms.latency) is found


def test_what_is_within_stays_as_it_is() -> None:
    net = network([layer(name, f"t{i}", f"t{i + 1}") for i, name in enumerate("abcd")])
    found = project(net, {"b": (2, 4), "c": (4, 3)}, Budget.parse(["bitops=8x8"]), bits=(4, 3, 2))
    assert {name: str(bits) for name, bits in found.layers.items()} == {
        "a": "W8A8", "b": "W2A4", "c": "W4A3", "d": "W8A8"
    }  # fmt: skip


def test_terms_are_kept() -> None:
    net, budget = chain((10, 100), (10, 100), (10, 100)), Budget.parse(["bitops=1M"])
    wished = wishes(["l0", "l1", "l2"])
    found = project(net, wished, budget, bits=BITS, terms=Terms(pins={"l1": LayerBits(8, 2)}, macs="limpq"))
    assert found.layers["l1"] == LayerBits(8, 2) and found.macs == "limpq" and found.layers["l0"] == LayerBits(4, 4)
    alone = chain((10, 100), (10, 100))
    assert project(alone, {}, budget, bits=BITS).layers == Terms().pinned(alone)


def test_what_cannot_be_met_or_was_not_wished() -> None:
    net = chain((10, 100), (10, 100), (10, 100))
    with pytest.raises(InfeasibleBudget, match="cannot be met") as caught:
        project(net, {"l1": (2, 2)}, Budget.parse(["bitops=100"]), bits=BITS)
    assert caught.value.nearest == {"bitops": 2 * 6400 + 400} and caught.value.blocking
    with pytest.raises(BudgetError, match="no wish for l1"):
        project(net, {}, Budget.parse(["bitops=1M"]), bits=BITS)
    with pytest.raises(BudgetError, match="no bits"):
        project(net, {"l1": (2, 2)}, Budget.parse(["bitops=1M"]), bits=())
