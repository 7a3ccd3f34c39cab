"""Chains of numbers that must not rise: brute force, thresholds, and orders that nothing keeps."""

from __future__ import annotations

from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from mixbit.allocation import _ordered, solve
from mixbit.allocation._ordered import Chain, keeps, solve_ordered
from mixbit.errors import InfeasibleBudget, PolicyError

Problem = tuple[list[Any], dict[str, list[Any]], dict[str, int], list[Chain]]


def drawn(seed: int, groups: int = 5, rows: int = 2) -> Problem:
    """Ragged groups of up to 4 options; one chain through most groups, one through some."""
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 5, groups)
    scores = [random.normal(size=size) for size in sizes]
    costs = {f"limit {row}": [random.integers(0, 50, size) for size in sizes] for row in range(rows)}
    limits = {name: int(sum(row.mean() for row in table)) for name, table in costs.items()}
    chains = []
    for length in (groups - 1, 2):
        order = tuple(random.permutation(groups)[:length].tolist())
        chains.append(Chain(order, tuple(random.choice([2, 3, 4, 6], sizes[group]) for group in order)))
    return scores, costs, limits, chains


def brute_force(problem: Problem) -> float | None:
    scores, costs, limits, chains = problem
    best = None
    for choice in product(*(range(len(row)) for row in scores)):
        used = {name: sum(int(row[o]) for row, o in zip(table, choice, strict=True)) for name, table in costs.items()}
        falling = all(
            later <= earlier
            for chain in chains
            for earlier, later in pairwise(v[choice[g]] for g, v in zip(chain.groups, chain.values, strict=True))
        )
        if falling and all(used[name] <= limit for name, limit in limits.items()):
            total = sum(float(row[o]) for row, o in zip(scores, choice, strict=True))
            best = total if best is None else min(best, total)
    return best


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 2))
def test_equals_brute_force(seed: int, rows: int) -> None:
    problem = drawn(seed, rows=rows)
    scores, costs, limits, chains = problem
    expected = brute_force(problem)
    if expected is None:
        with pytest.raises((InfeasibleBudget, PolicyError)):
            solve_ordered(scores, costs, limits, chains)
        return
    found = solve_ordered(scores, costs, limits, chains)
    assert found.objective == pytest.approx(expected, abs=1e-9)
    assert found.proven
    assert found.bound == found.objective
    assert min(found.slack.values()) >= 0
    assert all(keeps(chain, found.choice) for chain in chains)


def test_without_chains_it_is_the_plain_problem() -> None:
    scores, costs, limits, _ = drawn(3)
    assert solve_ordered(scores, costs, limits, []).choice == solve(scores, costs, limits).choice


def test_the_nearest_limits_under_the_order_can_be_met() -> None:
    """The later layer has no less than 4 bits, so the earlier one cannot go to 2."""
    chain = Chain((0, 1), (np.array([2, 4]), np.array([4, 8])))
    scores, costs = [[1.0, 0.0], [1.0, 0.0]], {"bits": [[2, 4], [4, 8]], "layers": [[1, 1], [1, 1]]}
    with pytest.raises(InfeasibleBudget, match="No choice keeps the order and the limits") as caught:
        solve_ordered(scores, costs, {"bits": 7, "layers": 2}, [chain])
    assert caught.value.nearest == {"bits": 8, "layers": 2}
    assert solve_ordered(scores, costs, {"bits": 8, "layers": 2}, [chain]).choice == (1, 0)


def test_an_order_that_no_bits_keep() -> None:
    chain = Chain((0, 1), (np.array([2, 3]), np.array([4, 8])))
    with pytest.raises(PolicyError, match="no bits that the layers offer keep it, whatever the budget"):
        solve_ordered([[1.0, 0.0], [1.0, 0.0]], {"bits": [[2, 3], [4, 8]]}, {"bits": 100}, [chain])


def test_a_choice_beyond_a_limit_is_cut_off_and_the_proof_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """HiGHS's tolerance made large: its first answers break the limit by one."""
    real, seen = _ordered._run, []

    def loose(model: Any, objective: Any, cuts: Any, skip: Any) -> Any:
        wide = _ordered.Problem(
            model.problem.scores,
            model.problem.costs,
            tuple(limit + 1 for limit in model.problem.limits),
            model.problem.limit_names,
            model.problem.names,
        )
        seen.append(len(cuts))
        return real(
            _ordered._Model(wide, model.chains, model.group, model.option, model.order, 1e18), objective, cuts, skip
        )

    monkeypatch.setattr(_ordered, "_run", loose)
    # By itself the second layer would take the higher bits.
    chain = Chain((0, 1), (np.array([2, 3, 4]), np.array([2, 3, 4])))
    scores, costs = [[3.0, 2.0, 1.0], [9.0, 5.0, 0.0]], {"bits": [[2, 3, 4], [2, 3, 4]]}
    found = solve_ordered(scores, costs, {"bits": 7}, [chain])
    assert found.choice == (2, 1)
    assert found.proven
    assert seen == [0, 1]


def test_the_time_limit_is_highss(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []
    real = optimize.milp

    def spy(*args: Any, **named: Any) -> Any:
        given.append(named["options"]["time_limit"])
        return real(*args, **named)

    monkeypatch.setattr(optimize, "milp", spy)
    chain = Chain((0, 1), (np.array([2, 3, 4]), np.array([2, 3, 4])))
    costs = {"bits": [[2, 3, 4], [2, 3, 4]]}
    solve_ordered([[3.0, 2.0, 1.0], [9.0, 5.0, 0.0]], costs, {"bits": 7}, [chain], time_limit_s=500.0)
    assert given and all(300 < seconds <= 500 for seconds in given)


def test_a_search_that_ran_out_of_time_is_not_proven() -> None:
    random = np.random.default_rng(0)
    scores = [random.normal(size=20) for _ in range(60)]
    costs = {f"limit {row}": [random.integers(0, 10**6, 20) for _ in range(60)] for row in range(3)}
    limits = {name: sum(int(row.mean()) for row in table) for name, table in costs.items()}
    chain = Chain(tuple(range(60)), tuple(random.integers(2, 9, 20) for _ in range(60)))
    try:
        found = solve_ordered(scores, costs, limits, [chain], time_limit_s=1.0)
    except InfeasibleBudget as error:
        assert "not proven" in str(error)
        return
    assert found.bound <= found.objective
    assert found.proven == (found.gap == 0)
    assert found.gap == pytest.approx((found.objective - found.bound) / abs(found.objective))
    assert min(found.slack.values()) >= 0
