"""What to say when nothing meets the limits: the nearest feasible values and the groups in the way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mixbit.allocation._dp import exact_by_rows
from mixbit.allocation._problem import Ints, Problem
from mixbit.allocation._search import Effort
from mixbit.errors import InfeasibleBudget

__all__ = ["check_each_limit", "joint_error", "unproven_error"]

_MOST_NAMES = 5


def check_each_limit(problem: Problem) -> None:
    """Raise `InfeasibleBudget` if some limit is below what every group's cheapest option uses together."""
    least = dict(zip(problem.limit_names, problem.smallest(), strict=True))
    broken = [row for row, name in enumerate(problem.limit_names) if least[name] > problem.limits[row]]
    if not broken:
        return
    blocking, texts = [], []
    for row in broken:
        name = problem.limit_names[row]
        cheapest = np.where(np.isfinite(problem.scores), problem.costs[row], np.iinfo(np.int64).max).argmin(axis=1)
        groups, shares = _largest_users(problem, row, cheapest)
        blocking += [group for group in groups if group not in blocking]
        texts.append(
            f"limit {name!r} is {problem.limits[row]}, but with every group at its cheapest option it is still "
            f"{least[name]}; most of that is {shares}."
        )
    raise InfeasibleBudget(
        f"No choice meets the budget: {' '.join(texts)} Raise the limit to that value or more, or allow cheaper "
        "options there.",
        nearest=least,
        blocking=blocking,
    )


def joint_error(problem: Problem, rows: Sequence[int], effort: Effort) -> InfeasibleBudget:
    """The error for limits that can be met one by one but not together; `rows` are limits that already clash."""
    nearest: dict[str, float] = dict(zip(problem.limit_names, problem.smallest(), strict=True))
    blocking: list[str] = []
    ways = []
    for row in rows:
        choice = _cheapest_under_others(problem, row, effort)
        if choice is None:
            continue
        name = problem.limit_names[row]
        nearest[name] = problem.used(choice)[name]
        ways.append(f"{name!r} raised from {problem.limits[row]} to {nearest[name]}")
        blocking += [group for group in _largest_users(problem, row, choice)[0] if group not in blocking]
    clash = " and ".join(repr(problem.limit_names[row]) for row in rows)
    remedy = f"With the others as they are, this would do: {'; or '.join(ways)}." if ways else "Raise several of them."
    return InfeasibleBudget(
        f"No choice meets the budget: each limit can be met alone, but not {clash} together. {remedy}",
        nearest=nearest,
        blocking=blocking,
    )


def unproven_error(problem: Problem, time_limit_s: float) -> InfeasibleBudget:
    """The error for a search that ended without a feasible choice and without a proof that there is none."""
    return InfeasibleBudget(
        f"No feasible choice was found in {time_limit_s:g} s, and it is not proven that there is none. Raise a "
        "limit or the time limit.",
        nearest=dict(zip(problem.limit_names, problem.smallest(), strict=True)),
        blocking=[],
    )


def _cheapest_under_others(problem: Problem, row: int, effort: Effort) -> Ints | None:
    """The choice that uses least of one limit among those that meet all others."""
    instance, _ = problem.instance()
    return exact_by_rows(instance.minimising(row), effort)[0].choice


def _largest_users(problem: Problem, row: int, choice: Ints) -> tuple[list[str], str]:
    """The groups that make up half of what a choice uses of a limit, at most five, and the same as text."""
    use = problem.costs[row][np.arange(len(choice)), choice].astype(np.float64)
    order = np.argsort(-use, kind="stable")
    total = max(1.0, float(use.sum()))
    count = int(np.searchsorted(use[order].cumsum(), total / 2)) + 1
    order = order[: min(count, _MOST_NAMES)]
    names = [problem.names[group] for group in order]
    return names, ", ".join(f"{name} ({use[group] / total:.0%})" for name, group in zip(names, order, strict=True))
