"""`solve` by every solver: the shipped contract, brute force on random problems, bad input, infeasible budgets."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixbit.allocation import Allocation, repair_monotone, solve
from mixbit.allocation import solver as solver_module
from mixbit.allocation._search import Effort
from mixbit.errors import BudgetError, InfeasibleBudget
from mixbit.testing.solvers import Instance, SolverCases, brute_force, instance
from tests.support import shared

SOLVERS = ["auto", "dp", "milp", "relax"]
EVERY = pytest.mark.parametrize("solver", SOLVERS)


class TestAuto(SolverCases):
    def solve(self, scores, costs, limits) -> Allocation:  # type: ignore[no-untyped-def]
        return solve(scores, costs, limits)


class TestDp(SolverCases):
    def solve(self, scores, costs, limits) -> Allocation:  # type: ignore[no-untyped-def]
        return solve(scores, costs, limits, solver="dp")


class TestMilp(SolverCases):
    def solve(self, scores, costs, limits) -> Allocation:  # type: ignore[no-untyped-def]
        return solve(scores, costs, limits, solver="milp")


class TestRelax(SolverCases):
    exact = False

    def solve(self, scores, costs, limits) -> Allocation:  # type: ignore[no-untyped-def]
        return solve(scores, costs, limits, solver="relax")


# --------------------------------------------------------------------------------------------------- properties


@st.composite
def problems(draw: st.DrawFn) -> Instance:
    """Ragged tables of up to 5 groups and 3 limits: ties, zero costs, negative and huge scores, forbidden options."""
    sizes = draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))
    score = st.sampled_from([0.0, 1.0, 2.5, -3.0, 1e8, math.inf]) | st.floats(-1e3, 1e3)
    scores = [np.array(draw(st.lists(score, min_size=size, max_size=size))) for size in sizes]
    for row in scores:
        if not np.isfinite(row).any():
            row[draw(st.integers(0, len(row) - 1))] = 0.0
    largest = draw(st.sampled_from([1, 5, 1000, 10**13]))
    costs, limits = {}, {}
    for name in ("a", "b", "c")[: draw(st.integers(0, 3))]:
        cost = st.integers(0, largest)
        costs[name] = [np.array(draw(st.lists(cost, min_size=size, max_size=size))) for size in sizes]
        limits[name] = draw(st.integers(0, sum(int(row.max()) for row in costs[name])))
    return scores, costs, limits


@settings(max_examples=150, deadline=None, derandomize=True)
@given(problem=problems(), solver=st.sampled_from(SOLVERS))
def test_agrees_with_brute_force(problem: Instance, solver: str) -> None:
    scores, costs, limits = problem
    best = brute_force(scores, costs, limits)
    try:
        answer = solve(scores, costs, limits, solver=solver)  # type: ignore[arg-type]
    except InfeasibleBudget:
        assert best is None
        return
    assert best is not None
    # Scores of 1e8 are worth less than a grid step of 1 each; a thousand times finer is asked for here.
    allowed = 1e-9 * max(1.0, max(abs(row[np.isfinite(row)]).max() for row in scores))
    assert best - allowed <= answer.objective
    assert answer.bound <= best + allowed
    if answer.proven:
        assert answer.objective <= best + allowed
    assert answer.proven or solver == "relax"
    assert all(left >= 0 for left in answer.slack.values())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(problem=problems(), exponent=st.integers(-30, 30))
def test_a_power_of_two_as_scale_changes_nothing(problem: Instance, exponent: int) -> None:
    """Exact scaling: the grid is the same, so is the choice, ties and all."""
    scores, costs, limits = problem
    try:
        choice = solve(scores, costs, limits).choice
    except InfeasibleBudget:
        return
    assert solve([row * 2.0**exponent for row in scores], costs, limits).choice == choice


@pytest.mark.parametrize("seed", range(4))
def test_solvers_agree_beyond_brute_force(seed: int) -> None:
    """30 groups, three limits: the list search and HiGHS prove the same optimum, and relax brackets it."""
    scores, costs, limits = instance(seed, limits=1 + seed % 3, groups=30, tightness=0.3)
    exact, highs, quick = (solve(scores, costs, limits, solver=name) for name in ("dp", "milp", "relax"))  # type: ignore[arg-type]
    assert exact.proven
    assert highs.proven
    assert exact.solver == "dp"
    assert highs.solver == "milp"
    assert math.isclose(exact.objective, highs.objective, rel_tol=1e-12)
    assert quick.bound <= exact.objective * (1 + 1e-12) <= quick.objective * (1 + 1e-11)


def test_a_huge_score_does_not_make_the_others_vanish() -> None:
    """LIMPQ's code forbids options by writing 1e8 into the table; scores of order 1e-7 beside it still count."""
    scores = [np.array([3e-7, 1e-7, 0.0]), np.array([1e8, 2e-7, 1e-7]), np.array([5e-7, 4e-7, 1e8])]
    costs = {"bits": [np.array([1, 2, 3])] * 3}
    answer = solve(scores, costs, {"bits": 6})
    best = brute_force(scores, costs, {"bits": 6})
    assert best is not None
    assert math.isclose(answer.objective, best, rel_tol=1e-9)


def test_differences_below_the_grid_still_count_where_there_is_room() -> None:
    scores = [np.array([1e6, 0.0]), np.array([1e-9, 0.0])]
    answer = solve(
        scores, {"bits": [np.array([1, 2]), np.array([1, 2])], "x": [np.array([0, 9])] * 2}, {"bits": 4, "x": 18}
    )
    assert answer.choice == (1, 1)
    tight = solve([*scores, np.array([1.0, 0.0])], {"bits": [np.array([1, 3])] * 3}, {"bits": 7})
    assert tight.choice == (1, 0, 1)


@EVERY
def test_differences_below_the_grid_are_taken_where_they_cost_no_room(solver: str) -> None:
    """A step of the grid is 9e-13 here, since the first group stays at its dear option."""
    answer = solve([[1.0, 0.0], [1e-13, 0.0]], {"bits": [[0, 5], [0, 1]]}, {"bits": 2}, solver=solver)  # type: ignore[arg-type]
    assert (answer.choice, answer.objective) == ((0, 1), 1.0)


def test_small_scores_beside_a_huge_one_are_chosen_together() -> None:
    """The largest gain, 6 for 3 bits, is not part of the best choice, 5 and 5 for 2 bits each."""
    scores, costs = [[6e-7, 0.0], [5e-7, 0.0], [5e-7, 0.0], [1e8, 0.0]], [[0, 3], [0, 2], [0, 2], [0, 0]]
    assert solve(scores, {"bits": costs}, {"bits": 4}).objective == 6e-7


@EVERY
def test_many_rows_of_which_few_bind(solver: str) -> None:
    """One row a step of a schedule, as for peak memory: tensors live for two steps each."""
    random = np.random.default_rng(0)
    groups = 40
    scores = [np.sort(random.exponential(size=5))[::-1] for _ in range(groups)]
    sizes = random.integers(100, 5000, groups)
    bits = np.array([2, 3, 4, 6, 8])
    costs = {
        f"step {step}": [size * bits * int(group in (step, step + 1)) for group, size in enumerate(sizes)]
        for step in range(groups - 1)
    }
    limits = dict.fromkeys(costs, 20_000)
    answer = solve(scores, costs, limits, solver=solver)  # type: ignore[arg-type]
    reference = solve(scores, costs, limits, solver="milp")
    assert answer.proven or solver == "relax"
    assert reference.proven
    assert answer.objective >= reference.objective - 1e-9
    assert not answer.proven or math.isclose(answer.objective, reference.objective)
    assert min(answer.slack.values()) >= 0


# --------------------------------------------------------------------------------------------------- edge cases


@EVERY
def test_groups_without_a_choice(solver: str) -> None:
    scores = [np.array([5.0]), np.array([1.0, 0.0])]
    answer = solve(scores, {"bits": [np.array([7]), np.array([1, 2])]}, {"bits": 8}, solver=solver)  # type: ignore[arg-type]
    assert (answer.choice, answer.slack, answer.proven) == ((0, 0), {"bits": 0}, True)


def test_zero_costs_equal_costs_and_a_zero_limit() -> None:
    scores = [np.array([1.0, 0.0]), np.array([0.0, 1.0])]
    assert solve(scores, {"bits": [np.array([0, 0])] * 2}, {"bits": 0}).choice == (1, 0)
    assert solve(scores, {"bits": [np.array([3, 3])] * 2}, {"bits": 6}).choice == (1, 0)
    assert solve(scores, {"bits": [np.array([0, 4])] * 2}, {"bits": 0}).choice == (0, 0)


def test_no_groups() -> None:
    assert solve([], {"bits": []}, {"bits": 0}).choice == ()
    with pytest.raises(InfeasibleBudget):
        solve([], {"bits": []}, {"bits": -1})


def test_a_limit_that_does_not_bind_is_left_out() -> None:
    scores, costs, limits = instance(2, groups=12)
    extra = {"loose": [row * 1000 for row in costs["limit 0"]]}
    answer = solve(scores, {**costs, **extra}, {**limits, "loose": 10**30})
    assert answer.choice == solve(scores, costs, limits).choice
    assert answer.slack["loose"] == 10**30 - answer.used["loose"]


def test_costs_without_a_limit_are_ignored() -> None:
    scores, costs, limits = instance(2)
    assert solve(scores, {**costs, "other": None}, limits).used.keys() == limits.keys()  # type: ignore[dict-item]


def test_objective_and_gap_of_negative_scores() -> None:
    """HAWQ-V3's objective is negative: the gain of 8 bits over 4."""
    answer = solve([[-3.0, 0.0], [-2.0, 0.0]], {"bits": [[8, 4], [8, 4]]}, {"bits": 12})
    assert (answer.choice, answer.objective, answer.gap) == ((0, 1), -3.0, 0.0)


def test_auto_hands_over_to_highs_and_to_the_relaxation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few groups go to HiGHS when the lists grow too long, many to relax, with the bound of both."""
    scores, costs, limits = instance(0, limits=2, groups=25, tightness=0.25)
    best = solve(scores, costs, limits)
    assert best.solver == "dp"
    monkeypatch.setattr(solver_module, "Effort", lambda **given: Effort(**{**given, "entries": 3}))
    second = solve(scores, costs, limits)
    assert (second.solver, second.proven) == ("milp", True)
    assert math.isclose(second.objective, best.objective, rel_tol=1e-12)
    monkeypatch.setattr(solver_module, "_MILP_GROUPS", 0)
    third = solve(scores, costs, limits)
    assert third.solver in ("relax", "dp")
    assert third.bound <= best.objective * (1 + 1e-12)
    assert third.objective >= best.objective * (1 - 1e-12)


def test_a_time_limit_gives_an_answer_with_an_honest_gap() -> None:
    scores, costs, limits = instance(1, limits=3, groups=300)
    answer = solve(scores, costs, limits, time_limit_s=0.2)
    assert answer.seconds < 5
    assert answer.bound <= answer.objective
    assert answer.proven == (answer.gap == 0)
    assert answer.gap == pytest.approx((answer.objective - answer.bound) / answer.objective)


# -------------------------------------------------------------------------------------------------- infeasible


def test_a_limit_below_the_cheapest_options_names_value_and_groups() -> None:
    scores = [[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]
    costs = {"bits": [[2, 4], [90, 180], [8, 16]], "bytes": [[1, 2]] * 3}
    with pytest.raises(InfeasibleBudget, match=r"'bits' is 99.*still 100.*conv2 \(90%\)") as caught:
        solve(scores, costs, {"bits": 99, "bytes": 6}, names=["conv1", "conv2", "fc"])
    assert caught.value.nearest == {"bits": 100, "bytes": 3}
    assert caught.value.blocking == ["conv2"]


def test_groups_that_block_are_those_of_half_the_use_and_five_at_most() -> None:
    """40 of 80 is half; of ten equal groups five are half, and of twelve no more than five are named."""
    for uses, blocking in ((([40] + [4] * 10), 1), ([10] * 9, 5), ([10] * 8, 4), ([10] * 12, 5), ([1, 2, 30, 28], 2)):
        with pytest.raises(InfeasibleBudget) as caught:
            solve([[0.0]] * len(uses), {"bits": [[use] for use in uses]}, {"bits": 1})
        ranked = sorted(range(len(uses)), key=lambda at: -uses[at])
        assert caught.value.blocking == [f"group {at}" for at in ranked[:blocking]], uses


@EVERY
def test_limits_that_clash_say_how_far_to_raise_each(solver: str) -> None:
    """Each limit is feasible alone: cheap in a is dear in b."""
    scores = [[0.0, 0.0]] * 3
    costs = {"a": [[1, 5]] * 3, "b": [[7, 2]] * 3}
    limits = {"a": 6, "b": 10}
    with pytest.raises(
        InfeasibleBudget, match="each limit can be met alone, but not 'b' and 'a' together|'a' and 'b'"
    ) as caught:
        solve(scores, costs, limits, solver=solver)  # type: ignore[arg-type]
    # b <= 10 allows at most 0 cheap-in-a groups (7 + 2 + 2 = 11), so a is 15; a <= 6 forces at least 3 of them.
    assert caught.value.nearest == {"a": 15, "b": 21}
    for name in limits:
        raised = {**limits, name: int(caught.value.nearest[name])}
        assert solve(scores, costs, raised).slack[name] == 0


@settings(max_examples=60, deadline=None, derandomize=True)
@given(problem=problems())
def test_nearest_values_are_reachable_and_smallest(problem: Instance) -> None:
    scores, costs, limits = problem
    try:
        solve(scores, costs, limits)
    except InfeasibleBudget as error:
        together = "together" in str(error)
        for name, value in error.nearest.items():
            others = limits if together and f"{name!r} raised" in str(error) else {}
            assert brute_force(scores, costs, {**others, name: int(value)}) is not None
            assert brute_force(scores, costs, {**others, name: int(value) - 1}) is None


# --------------------------------------------------------------------------------------------------- bad input

GOOD: tuple[Sequence[Sequence[float]], Mapping[str, Sequence[Sequence[int]]]] = (
    [[1.0, 0.0], [1.0, 0.0]],
    {"bits": [[1, 2], [1, 2]]},
)


@pytest.mark.parametrize(
    ("scores", "costs", "limits", "message"),
    [
        ([[1.0, math.nan], [1.0]], {}, {}, "scores of first: option 1 is nan"),
        ([[1.0], [-math.inf]], {}, {}, "scores of second: option 0 is -inf"),
        ([[1.0], [math.inf, math.inf]], {}, {}, "scores of second: all 2 options are forbidden"),
        ([[1.0], []], {}, {}, "scores of second: got shape"),
        ([[[1.0]], [1.0]], {}, {}, r"scores of first: got shape \(1, 1\)"),
        ([["x"], [1.0]], {}, {}, "scores of first: could not convert"),
        ([[1.0, -1e308], [1.7e308, -1e308]], {}, {}, "overflow float64"),
        (*GOOD, {"bit": 3}, "limit 'bit' has no costs.*Did you mean 'bits'"),
        (*GOOD, {"bits": 3.5}, "limit 'bits': got 3.5. Limits are exact integers"),
        (*GOOD, {"bits": True}, "limit 'bits': got True"),
        (GOOD[0], {"bits": [[1, 2]]}, {"bits": 3}, "got 1 rows for 2 groups"),
        (GOOD[0], {"bits": [[1, 2], [1]]}, {"bits": 3}, r"of second: got shape \(1,\), but the group has 2 scores"),
        (GOOD[0], {"bits": [[1, 2], [1, -2]]}, {"bits": 3}, "of second: got -2. Costs must not be negative"),
        (GOOD[0], {"ms": [[1, 2], [1.5, 2.5]]}, {"ms": 3}, "of second: got dtype float64.*in a fine enough unit"),
        (GOOD[0], {"bits": [[1, 2**62], [1, 2**62]]}, {"bits": 3}, r"add up to .* more than 2\^62"),
        (GOOD[0], {"bits": [[1, 2**63], [1, 2]]}, {"bits": 3}, r"more than 2\^62"),
        (GOOD[0], {"bits": [[1, 2**80], [1, 2]]}, {"bits": 3}, r"more than 2\^62"),
        (GOOD[0], {"bits": [[1, None], [1, 2]]}, {"bits": 3}, "got dtype object"),
    ],
)
def test_bad_tables_name_the_group(scores, costs, limits, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(BudgetError, match=message):
        solve(scores, costs, limits, names=["first", "second"])


def test_bad_options_of_the_call() -> None:
    with pytest.raises(BudgetError, match="solver: got 'milpp'.*Did you mean 'milp'"):
        solve(*GOOD, {"bits": 3}, solver="milpp")  # type: ignore[arg-type]
    with pytest.raises(BudgetError, match="names: got 1 for 2 groups"):
        solve(*GOOD, {"bits": 3}, names=["one"])
    with pytest.raises(BudgetError, match="time_limit_s: got 0"):
        solve(*GOOD, {"bits": 3}, time_limit_s=0)


def test_nothing_heavy_is_imported_for_one_limit() -> None:
    """scipy's optimizers cost a tenth of a second; one limit needs none of them."""
    code = (
        "import sys; from mixbit.allocation import solve; "
        "solve([[1.0, 0.0], [2.0, 0.0]], {'b': [[1, 2], [1, 2]]}, {'b': 3}); "
        "sys.exit('scipy.optimize' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, check=False).returncode == 0


# ------------------------------------------------------------------------------------------------ the real case


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_limpq_resnet50_tables_give_the_published_policy(solver: str, scale: float) -> None:
    """52 layers x 25 options under BitOps and weight bits: all 104 bits, the objective 4.617391 of 4-digit scores."""
    settings_ = json.loads(shared("fixtures", "limpq_resnet50_policy.json").read_text())
    layers = json.loads(shared("fixtures", "resnet50_layers.json").read_text())
    bits = settings_["bits"]
    scores, bitops, weight_bits = [], [], []
    with shared("fixtures", "limpq_resnet50_indicators.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            weight, act = (repair_monotone(bits, [float(row[f"{side}{b}"]) for b in bits]) for side in "wa")
            scores.append(scale * np.add.outer(settings_["alpha"] * weight, act).ravel())
            bitops.append(layers[row["layer"]]["macs_limpq"] * np.outer(bits, bits).ravel())
            weight_bits.append(layers[row["layer"]]["params"] * np.repeat(bits, len(bits)))
    first_and_last = 9408 + 2048000
    total = first_and_last + sum(layer["params"] for layer in layers.values())
    answer = solve(
        scores,
        {"bitops": bitops, "weight-bits": weight_bits},
        {
            "bitops": 12 * sum(layer["macs_limpq"] for layer in layers.values()),
            "weight-bits": math.floor(32 * total / settings_["compression_ratio"]) - 8 * first_and_last,
        },
        solver=solver,  # type: ignore[arg-type]
    )
    assert [bits[option // 5] for option in answer.choice] == list(settings_["weight_bits"].values())
    assert [bits[option % 5] for option in answer.choice] == list(settings_["activation_bits"].values())
    assert answer.objective == pytest.approx(scale * 4.617391, rel=1e-7)
    assert answer.proven or solver == "relax"


@pytest.mark.bench
@pytest.mark.parametrize(("groups", "limits", "target_s"), [(19, 1, 0.010), (52, 2, 0.3), (2000, 1, 1.0)])
def test_time_to_a_proven_optimum(groups: int, limits: int, target_s: float) -> None:
    """Log-uniform MACs and weights, scores that halve with every bit; the figures are benchmarks/allocation.py's."""
    random = np.random.default_rng(groups)
    bits = np.arange(2, 7)
    scores = [np.add.outer(*random.lognormal(-3, 0.5, (2, 1)) / 1.8**bits).ravel() for _ in range(groups)]
    macs, weights = np.exp(random.uniform(9, 19, (2, groups))).astype(np.int64)
    costs = {
        "bitops": [count * np.outer(bits, bits).ravel() for count in macs],
        "weight-bits": [count * np.repeat(bits, 5) for count in weights],
    }
    bounds = {"bitops": 12 * int(macs.sum()), "weight-bits": 29 * int(weights.sum()) // 10}
    kept = dict(list(bounds.items())[:limits])
    answers = [solve(scores, costs, kept) for _ in range(5)]
    assert all(answer.proven for answer in answers)
    assert sorted(answer.seconds for answer in answers)[2] <= target_s
