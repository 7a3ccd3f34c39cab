"""Rank correlation and policy distance against numbers by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mixbit.cost import LayerBits
from mixbit.errors import PolicyError
from mixbit.policy import LayerScores, policy_distance, rank_correlation
from tests.support import chain, random_network, random_scores

NETWORK = random_network(3, layers=12)


def test_a_table_agrees_with_itself_and_with_any_rising_function_of_it() -> None:
    one = random_scores(NETWORK, bits=(2, 3, 4, 8))
    bent = {
        name: LayerScores({b: h**3 for b, h in s.weight.items()}, {b: -h for b, h in s.activation.items()})
        for name, s in one.layers.items()
    }
    found = rank_correlation(one, replace(one, layers=bent))
    assert set(found["weight"].values()) == {1.0} and set(found["activation"].values()) == {-1.0}
    assert list(found["weight"]) == [8, 4, 3, 2]


def test_correlation_is_that_of_ranks() -> None:
    one, other = random_scores(NETWORK, seed=1), random_scores(NETWORK, seed=2)
    a, b = ([table.layers[la.name].weight[3] for la in NETWORK.layers] for table in (one, other))
    wanted = np.corrcoef(np.argsort(np.argsort(a)), np.argsort(np.argsort(b)))[0, 1]
    assert rank_correlation(one, other)["weight"][3] == pytest.approx(wanted)


def test_only_common_layers_and_bits_are_compared() -> None:
    one, other = random_scores(NETWORK, bits=(2, 3, 4)), random_scores(NETWORK, bits=(8, 4, 2), seed=1)
    fewer = {name: other.layers[name] for name in list(other.layers)[1:]}
    assert list(rank_correlation(one, replace(other, layers=fewer))["weight"]) == [4, 2]


def test_no_order_no_number() -> None:
    short = random_scores(chain((1, 1), (2, 2)))
    assert set(rank_correlation(short, short)["weight"].values()) == {None}
    with pytest.raises(PolicyError, match="no layer that both have"):
        rank_correlation(random_scores(NETWORK), replace(short, layers={"other": LayerScores({2: 1.0}, {2: 1.0})}))


def test_distance_counts_both_sides() -> None:
    one = {"a": LayerBits(2, 8), "b": LayerBits(4, 4), "c": LayerBits(8, None)}
    other = {"a": LayerBits(3, 8), "b": LayerBits(4, 4), "c": LayerBits(8, 8)}
    found = policy_distance(one, other)
    assert found.mean_bits == (1 + 0 + 0 + 0 + 0 + 24) / 6 and found.equal_share == 1 / 3 and found.layers == 3
    assert policy_distance(one, one).equal_share == 1 and policy_distance(one, one).mean_bits == 0
