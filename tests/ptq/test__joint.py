"""The joint stage on functions whose least value is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mixbit.ptq._joint import Floats, Watched, descend, powell

PLACE = np.array([0.3, -0.2, 0.1])


def bowl(logs: Floats) -> float:
    return 1.0 + float(((logs - PLACE) ** 2).sum())


def watched(function: object = bowl, limit: int | None = None, dimensions: int = 3) -> tuple[Watched, list[Floats]]:
    """With the points at which it was asked."""
    asked: list[Floats] = []

    def asking(logs: Floats) -> float:
        asked.append(logs.copy())
        return function(logs)  # type: ignore[operator,no-any-return]

    return Watched(asking, dimensions, limit, lambda least: None), asked


def test_the_best_point_is_remembered_with_its_value() -> None:
    told: list[float] = []
    seen = Watched(lambda logs: float(logs[0]), 1, None, told.append)
    assert (seen.best.tolist(), seen.least) == ([0.0], math.inf)
    place = np.array([2.0])
    for value in (2.0, 1.0, 3.0):
        place[0] = value  # searches write into their points
        assert seen(place) == value
    assert (seen.best.tolist(), seen.least, told) == ([1.0], 1.0, [2.0, 1.0, 1.0])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_worst(bad: float) -> None:
    seen, _ = watched(lambda logs: bad if logs[0] < 0 else 5.0)
    assert seen(np.array([-1.0])) == 1e30 and seen(np.array([1.0])) == 5.0
    assert seen.best.tolist() == [1.0]


@pytest.mark.parametrize("search", [lambda seen: powell(seen, 2), descend])
@pytest.mark.parametrize("limit", [1, 7])
def test_a_search_ends_after_so_many_evaluations_and_no_fewer(search: object, limit: int) -> None:
    seen, asked = watched(limit=limit)
    search(seen)  # type: ignore[operator]
    assert len(asked) == limit and seen.least == min(map(bowl, asked))
    unbound, all_asked = watched()
    search(unbound)  # type: ignore[operator]
    assert len(all_asked) > 10


def test_powell_begins_where_the_steps_are_with_moves_of_a_tenth() -> None:
    seen, asked = watched()
    powell(seen, 2)
    assert not asked[0].any() and any(np.allclose(one, [0.1, 0, 0]) for one in asked[1:4])
    np.testing.assert_allclose(seen.best, PLACE, atol=1e-3)


def test_powell_iterates_as_often_as_it_is_told() -> None:
    """A long narrow valley, in which one iteration does not arrive."""
    found = []
    for iterations in (1, 2):
        seen, asked = watched(lambda logs: 100 * (logs[1] - logs[0] ** 2) ** 2 + (1 - logs[0]) ** 2, dimensions=2)
        powell(seen, iterations)
        found.append((len(asked), seen.least))
    assert found[0][0] < found[1][0] and found[1][1] < found[0][1]


def test_descent_takes_each_factor_in_turn_the_others_where_they_are_by_now() -> None:
    """The least of `(a - 0.3)^2 + (b - a)^2` along a from b = 0 is 0.15, then along b from there 0.15 as well."""
    seen, asked = watched(lambda logs: (logs[0] - 0.3) ** 2 + (logs[1] - logs[0]) ** 2, dimensions=2)
    descend(seen)
    assert not asked[0].any()
    np.testing.assert_allclose(seen.best, [0.15, 0.15], atol=0.02)


@pytest.mark.parametrize(("place", "found"), [(9.0, 0.5), (-9.0, -0.5), (0.4, 0.4), (-0.4, -0.4)])
def test_descent_stays_between_factors_of_0_6_and_1_65(place: float, found: float) -> None:
    seen, asked = watched(lambda logs: float(abs(logs[0] - place)), dimensions=1)
    descend(seen)
    assert seen.best[0] == pytest.approx(found, abs=0.03) and max(abs(one[0]) for one in asked) <= 0.5


def test_where_nothing_is_better_the_start_is_kept() -> None:
    for search in (lambda seen: powell(seen, 2), descend):
        seen, _ = watched(lambda logs: float(np.abs(logs).sum()), dimensions=2)
        search(seen)  # type: ignore[no-untyped-call]
        assert seen.best.tolist() == pytest.approx([0.0, 0.0], abs=1e-6) and seen.least == pytest.approx(0.0, abs=1e-6)
