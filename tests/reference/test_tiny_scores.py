"""Scores of order 1e-7, on which HiGHS and CBC give wrong "optimal" answers and a peer's allocator ignores its budget.

Sensitivities of a ResNet-20 with 4, 8 or 16 bits a layer. Effective bits = 16 * cost / sum of the largest costs.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from mixbit.allocation import Allocation, SolverName, solve
from tests.support import shared

OPTIMA = {5: 2.834977e-07, 6: 1.573512e-07, 8: 2.336337e-08}


@pytest.fixture(scope="module")
def table() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(shared("fixtures", "tiny_scores_resnet20.json").read_text())["cands"]
    return content


def allocated(table: dict[str, Any], bits: int, scale: float, solver: SolverName = "auto") -> Allocation:
    scores = [np.array(one["scores"]) * scale for one in table.values()]
    costs = [np.array(one["costs"]).astype(np.int64) for one in table.values()]
    limit = bits * sum(int(row.max()) for row in costs) // 16
    return solve(scores, {"bytes": costs}, {"bytes": limit}, names=list(table), solver=solver)


@pytest.mark.parametrize("solver", ["auto", "dp", "milp", "relax"])
@pytest.mark.parametrize("bits", OPTIMA)
def test_the_policy_does_not_depend_on_the_scale(table: dict[str, Any], bits: int, solver: SolverName) -> None:
    answers = [allocated(table, bits, scale, solver) for scale in (1.0, 1e-6, 1e6)]
    assert len({answer.choice for answer in answers}) == 1
    assert all(answer.proven for answer in answers)
    assert answers[0].objective == pytest.approx(OPTIMA[bits], rel=1e-6)


@pytest.mark.parametrize("bits", OPTIMA)
def test_the_budget_is_used_to_within_one_option_step(table: dict[str, Any], bits: int) -> None:
    answer = allocated(table, bits, 1.0)
    rows = [np.array(one["costs"]).astype(np.int64) for one in table.values()]
    steps = [
        int(row[option + 1] - row[option])
        for row, option in zip(rows, answer.choice, strict=True)
        if option + 1 < len(row)
    ]
    assert 0 <= answer.slack["bytes"] < max(steps)
    total = sum(int(row.max()) for row in rows)
    assert bits - 16 * answer.used["bytes"] / total == pytest.approx(16 * answer.slack["bytes"] / total, abs=1e-3)
    # And what is left would not pay for any better option.
    for one, row, option in zip(table.values(), rows, answer.choice, strict=True):
        better = [other for other in range(len(row)) if one["scores"][other] < one["scores"][option]]
        assert all(row[other] - row[option] > answer.slack["bytes"] for other in better)
