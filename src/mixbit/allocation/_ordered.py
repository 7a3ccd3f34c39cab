"""Multiple choice under an order: numbers of the chosen options that must not rise from one layer to the next.

One binary column an option, solved by HiGHS. An order is one row for every threshold t, "the later layer has at least
t only if the earlier one has": the linear relaxation of these rows is tighter than that of one row with the numbers
themselves. Objective and rows are scaled, the gap is set to zero, and the answer is checked in exact integers; a
choice that HiGHS's tolerance let through is cut off by itself, so that a proof stays one.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mixbit.allocation._infeasible import check_each_limit, unproven_error
from mixbit.allocation._milp import quiet_stdout
from mixbit.allocation._problem import Floats, Ints, Problem, build
from mixbit.allocation.solver import Allocation, solve
from mixbit.errors import InfeasibleBudget, MixbitError, PolicyError

__all__ = ["Chain", "any_ordered", "keeps", "solve_ordered"]

# The sum of all groups' score ranges in the objective that HiGHS sees, whose absolute gap is 1e-6.
_SCALE = 1e4
_ABSOLUTE_GAP = 1e-6
_OPTIMAL, _INFEASIBLE = 0, 2  # scipy's status numbers
_MOST_CUTS = 50


@dataclass(frozen=True, slots=True)
class Chain:
    """Numbers that must not rise: `values[i]` of the chosen option of `groups[i]`, from first to last."""

    groups: tuple[int, ...]
    values: tuple[Ints, ...]
    """One array a link, one entry an option of its group."""


def keeps(chain: Chain, choice: Sequence[int] | Ints) -> bool:
    """Whether a choice keeps the order.

    >>> falling = Chain((0, 1), (np.array([2, 4]), np.array([2, 4])))
    >>> keeps(falling, [1, 0]), keeps(falling, [0, 1])
    (True, False)
    """
    found = [int(values[choice[group]]) for group, values in zip(chain.groups, chain.values, strict=True)]
    return all(later <= earlier for earlier, later in itertools.pairwise(found))


@dataclass(frozen=True, slots=True)
class _Model:
    """All options as columns, and what they must keep."""

    problem: Problem
    chains: Sequence[Chain]
    group: Ints
    option: Ints
    order: Any
    """Sparse rows of the order, each at most 0."""
    deadline: float


@dataclass(frozen=True, slots=True)
class _Found:
    choice: Ints | None
    bound: float
    """In the caller's unit; -inf where HiGHS has none."""
    proven: bool
    """The choice is optimal, or there is none."""


def solve_ordered(
    scores: Sequence[npt.ArrayLike],
    costs: Mapping[str, Sequence[npt.ArrayLike]],
    limits: Mapping[str, int],
    chains: Sequence[Chain],
    *,
    names: Sequence[str] | None = None,
    time_limit_s: float = 60.0,
) -> Allocation:
    """As `mixbit.allocation.solve`, for choices that keep every chain.

    Raises:
        BudgetError: malformed tables.
        InfeasibleBudget: nothing that keeps the chains meets the limits.
        PolicyError: nothing keeps the chains, whatever the limits.
    """
    started = time.perf_counter()
    problem = build(scores, costs, limits, names)
    check_each_limit(problem)
    free = solve(scores, costs, limits, names=names, time_limit_s=time_limit_s)
    if all(keeps(chain, free.choice) for chain in chains):
        return free
    model = _model(problem, chains, started + time_limit_s)
    found = _minimum(model, problem.scores)
    if found.choice is None:
        raise _no_choice(model, time_limit_s) if found.proven else unproven_error(problem, time_limit_s)
    return _allocation(problem, found, free.bound, started)


def any_ordered(
    costs: Mapping[str, Sequence[npt.ArrayLike]],
    limits: Mapping[str, int],
    chains: Sequence[Chain],
    *,
    minimised: bool,
    deadline: float,
) -> Ints | None:
    """A choice that keeps every chain and all limits, or None where there is none.

    Args:
        costs: name -> one array a group.
        limits: name -> limit.
        chains: the orders.
        minimised: the choice with least of the first limit, which is then no limit.
        deadline: of `time.perf_counter`.
    """
    scores = [np.zeros(len(np.asarray(one))) for one in next(iter(costs.values()))]
    problem = build(scores, costs, limits, None)
    least = problem.costs[0] if minimised else np.zeros_like(problem.costs[0])
    return _minimum(_model(problem, chains, deadline), least, skip=0 if minimised else None).choice


def _model(problem: Problem, chains: Sequence[Chain], deadline: float) -> _Model:
    group, option = np.nonzero(np.isfinite(problem.scores))
    return _Model(problem, chains, group, option, _order_rows(chains, group, option), deadline)


def _order_rows(chains: Sequence[Chain], group: Ints, option: Ints) -> Any:
    from scipy.sparse import csr_array

    entries: list[tuple[int, int, int]] = []
    count = 0
    for chain in chains:
        for link in range(len(chain.groups) - 1):
            (before, above), (after, values) = (
                (np.flatnonzero(group == chain.groups[at]), chain.values[at]) for at in (link, link + 1)
            )
            for threshold in np.unique(values)[1:] if len(above) else ():
                entries += [(count, int(c), 1) for c in after if values[option[c]] >= threshold]
                entries += [(count, int(c), -1) for c in before if above[option[c]] >= threshold]
                count += 1
            lowest = values.min()
            if (above < lowest).any():  # at least the lowest that the later layer offers
                entries += [(count, int(c), 1) for c in before if above[option[c]] < lowest]
                count += 1
    rows, columns, data = (np.array(part) for part in zip(*entries, strict=True)) if entries else ([], [], [])
    # Two links of one group put two entries into one place; they add up.
    sparse: Any = csr_array
    return sparse((data, (rows, columns)), shape=(count, len(group)), dtype=np.float64)


def _minimum(model: _Model, objective: Floats | Ints, skip: int | None = None) -> _Found:
    """The choice of least total `objective` (n, m) that keeps all chains and all limits but the one numbered `skip`."""
    columns = objective[model.group, model.option].astype(np.float64)
    low = np.full(len(model.problem.names), np.inf)
    np.minimum.at(low, model.group, columns)
    gain = columns - low[model.group]
    high = np.zeros_like(low)
    np.maximum.at(high, model.group, gain)
    unit = (high.sum() or 1.0) / _SCALE
    cuts: list[Ints] = []
    while len(cuts) <= _MOST_CUTS:
        result = _run(model, gain / unit, cuts, skip)
        bound = _bound(result, low.sum(), unit)
        if result.x is None:
            return _Found(None, bound, result.status == _INFEASIBLE)
        taken = np.flatnonzero(result.x > 0.5)
        choice = model.option[taken]
        whole = np.array_equal(model.group[taken], np.arange(len(low)))
        if whole and _feasible(model, choice, skip):
            return _Found(choice, bound, result.status == _OPTIMAL)
        cuts.append(taken)
    return _Found(None, bound, False)


def _run(model: _Model, objective: Floats, cuts: Sequence[Ints], skip: int | None) -> Any:
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    count, problem = len(model.group), model.problem
    one_each = csr_array((np.ones(count), (model.group, np.arange(count))))
    constraints = [LinearConstraint(one_each, 1, 1), LinearConstraint(model.order, -np.inf, 0)]
    for row, limit in enumerate(problem.limits):
        if row != skip:
            unit = max(1.0, float(limit)) / 1000.0
            use = problem.costs[row, model.group, model.option][None] / unit
            constraints.append(LinearConstraint(use, -np.inf, limit / unit))
    for taken in cuts:
        cut = np.zeros((1, count))
        cut[0, taken] = 1.0
        constraints.append(LinearConstraint(cut, -np.inf, len(taken) - 1))
    with quiet_stdout():
        return milp(
            objective,
            integrality=np.ones(count, dtype=np.int64),
            bounds=Bounds(0, 1),
            constraints=constraints,
            options={"mip_rel_gap": 0.0, "time_limit": max(0.1, model.deadline - time.perf_counter())},
        )


def _bound(result: Any, low: float, unit: float) -> float:
    dual = getattr(result, "mip_dual_bound", None)
    return -np.inf if dual is None or not np.isfinite(dual) else float(low + (dual - _ABSOLUTE_GAP) * unit)


def _feasible(model: _Model, choice: Ints, skip: int | None) -> bool:
    used = list(model.problem.used(choice).values())
    within = [
        row == skip or use <= limit for row, (use, limit) in enumerate(zip(used, model.problem.limits, strict=True))
    ]
    return all(within) and all(keeps(chain, choice) for chain in model.chains)


def _allocation(problem: Problem, found: _Found, free_bound: float, started: float) -> Allocation:
    if found.choice is None:
        raise MixbitError("Internal error: an allocation without a choice. Please report it.")
    objective, used = problem.objective(found.choice), problem.used(found.choice)
    bound = objective if found.proven else min(objective, max(found.bound, free_bound))
    return Allocation(
        choice=tuple(found.choice.tolist()),
        objective=objective,
        bound=bound,
        gap=(objective - bound) / (abs(objective) or 1.0),
        slack={name: limit - used[name] for name, limit in zip(problem.limit_names, problem.limits, strict=True)},
        used=used,
        solver="milp",
        proven=found.proven,
        seconds=time.perf_counter() - started,
    )


def _no_choice(model: _Model, time_limit_s: float) -> MixbitError:
    """Which limits would do, each with the others as they are."""
    problem = model.problem
    if not _any_choice(model):
        return PolicyError(
            "order: no bits that the layers offer keep it, whatever the budget. Score lower bits for the layers that "
            "come late in the order, or higher ones for those that come early."
        )
    nearest: dict[str, float] = dict(zip(problem.limit_names, problem.smallest(), strict=True))
    ways = []
    for row, name in enumerate(problem.limit_names):
        found = _minimum(model, np.where(np.isfinite(problem.scores), problem.costs[row], 0), skip=row)
        if found.choice is not None:
            nearest[name] = problem.used(found.choice)[name]
            ways.append(f"{name!r} raised from {problem.limits[row]} to {nearest[name]}")
    if not ways and time.perf_counter() > model.deadline:
        return unproven_error(problem, time_limit_s)
    remedy = f"With the others as they are, this would do: {'; or '.join(ways)}." if ways else "Raise several of them."
    return InfeasibleBudget(f"No choice keeps the order and the limits. {remedy}", nearest=nearest, blocking=[])


def _any_choice(model: _Model) -> bool:
    """Whether some choice keeps the chains where nothing is limited."""
    problem = model.problem
    free = Problem(problem.scores, problem.costs[:0], (), (), problem.names)
    unlimited = _Model(free, model.chains, model.group, model.option, model.order, model.deadline)
    return _minimum(unlimited, np.zeros_like(problem.costs[0])).choice is not None
