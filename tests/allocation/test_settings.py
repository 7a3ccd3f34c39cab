"""What an allocation is asked for: every setting does what it says, against a look at all policies and against sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import pytest

from mixbit.allocation import AllocationSettings, allocate
from mixbit.cost import Budget, LayerBits
from mixbit.errors import BudgetError, InfeasibleBudget
from mixbit.policy import LayerScores, Pairs, Policy, Program, Scores, Terms
from mixbit.testing.options import OptionCases, OptionRow, fields_of
from tests.allocation.by_hand import ENDS, NETWORK, SCORES
from tests.support import best_by_enumeration, random_latency, random_memory

PLENTY = ("bitops=2M",)


def allocated(scores: Scores = SCORES, budget: Sequence[str] = ("bitops=4x4",), **settings: Any) -> Policy:
    return allocate(NETWORK, scores, Budget.parse(budget), AllocationSettings(**settings))[0]


def objective(scores: Scores = SCORES, budget: Sequence[str] = ("bitops=4x4",), **settings: Any) -> float:
    return float(allocated(scores, budget, **settings).allocation["objective"])  # type: ignore[arg-type]


def best(scores: Scores = SCORES, *, ties: bool = True, budget: Sequence[str] = ("bitops=4x4",), **tables: Any) -> Any:
    """The least harm of all policies, by looking at each."""
    least = best_by_enumeration(NETWORK, scores, Budget.parse(budget), ENDS, ties=ties, **tables)
    return pytest.approx(least, rel=1e-9)


def improving() -> Scores:
    """Weights of `left` do less harm at 4 bits than at 8."""
    odd = replace(SCORES.layers["left"], weight={8: 0.3, 4: 0.1, 2: 0.5})
    return replace(SCORES, layers={**SCORES.layers, "left": odd})


def with_pairs() -> Scores:
    """Harms that two layers do together."""
    names = [("left", "weight", 4), ("deep", "weight", 4), ("right", "weight", 4), ("deep", "weight", 2)]
    matrix = [[0.0] * 4 for _ in names]
    for (one, other), harm in {(0, 1): 0.5, (2, 3): 0.2, (0, 2): 0.1}.items():
        matrix[one][other] = matrix[other][one] = harm
    pairs = Pairs(tuple(names), tuple(map(tuple, matrix)))  # type: ignore[arg-type]
    return replace(SCORES, program=Program(pairs=pairs))


def solver_of_noise(or_uniform: bool) -> str:
    """What solved a budget that only bits meet which the repair takes away."""
    noisy = LayerScores(weight={4: 1.0, 3: 0.5}, activation={4: 1.0, 3: 0.5})
    scores = replace(SCORES, layers=dict.fromkeys(SCORES.layers, noisy))
    try:
        return str(allocated(scores, ("bitops=3x3",), or_uniform=or_uniform).allocation["solver"])
    except InfeasibleBudget:
        return "nothing"


def exactly(*wanted: object) -> Any:
    return lambda *found: found == wanted


TIMES, MEMORY = random_latency(NETWORK, rest=7), random_memory(NETWORK)


class TestAllocationSettings(OptionCases):
    owner = AllocationSettings
    options = fields_of(AllocationSettings)
    rows = (
        OptionRow("pins", (None, {**ENDS, "deep": LayerBits(3, 5)}), lambda v: str(allocated(pins=v).layers["deep"]),
                  lambda a, b: a != b and b == "W3A5"),
        OptionRow("pins", ({"re:.*t": LayerBits(2, 4)}, {"le*": LayerBits(2, 4)}),
                  lambda v: [n for n, one in allocated(pins=v).layers.items() if one == LayerBits(2, 4)],
                  exactly(["first", "left", "right", "last"], ["left"]), says="patterns"),
        OptionRow("pins", (None, {}), lambda v: [allocated(pins=v).layers[name] for name in ENDS] == [*ENDS.values()],
                  exactly(True, False), says="the ends at 8 bits by default"),
        OptionRow("first_last", (LayerBits(8, 8), LayerBits(4, 6)),
                  lambda v: [str(allocated(first_last=v).layers[name]) for name in ("first", "last")],
                  exactly(["W8A8", "W8A8"], ["W4A6", "W4A6"])),
        OptionRow("first_last", (LayerBits(2, 2), None),
                  lambda v: str(allocated(pins={"first": LayerBits(8, 8)}, first_last=v).layers["last"]),
                  lambda a, b: a == "W2A2" != b, says="beside pins, none unless it is said"),
        OptionRow("ties", (True, False), lambda v: objective(ties=v),
                  lambda a, b: a == best() and b == best(ties=False) and b < a),
        OptionRow("ties", (True, False),
                  lambda v: len({allocated(ties=v).layers[name].activation_bits for name in ("left", "right")}) == 1,
                  exactly(True, False), says="the bits themselves"),
        OptionRow("alpha", (None, 0.05), lambda v: objective(alpha=v),
                  lambda a, b: a == best() and b == best(replace(SCORES, alpha=0.05)) and b < a),
        OptionRow("macs", ("exact", "limpq"), lambda v: allocated(macs=v).costs["bitops"],
                  lambda a, b: a <= 16 * 6500 + 64 * 900 < b <= 16 * 9000 + 64 * 900),
        # 1.5 times what is left of 0.3, 0.1, 0.5: 4 bits are taken away, or smoothed with 8, or left
        OptionRow("repair", ("forbid", "isotonic"), lambda v: objective(improving(), PLENTY, repair=v),
                  exactly(pytest.approx(0.45), pytest.approx(0.3))),
        OptionRow("repair", ("forbid", "none"), lambda v: objective(improving(), PLENTY, repair=v),
                  exactly(pytest.approx(0.45), pytest.approx(0.15)), says="none"),
        OptionRow("solver", ("dp", "milp"),
                  lambda v: [allocated(solver=v).allocation[key] for key in ("solver", "objective")],
                  lambda a, b: a[0].startswith("dp") and b[0].startswith("milp") and a[1] == best() and b[1] == best()),
        OptionRow("exact", (False, True), lambda v: allocated(with_pairs(), exact=v).allocation["proven"],
                  exactly(False, True)),
        OptionRow("or_uniform", (False, True), solver_of_noise, exactly("nothing", "uniform")),
        OptionRow("latency", (None, TIMES), lambda v: allocated(latency=v).costs.get("latency_ns"),
                  lambda a, b: a is None and b == TIMES.cost(allocated().layers)),
        OptionRow("memory", (None, MEMORY), lambda v: allocated(memory=v).costs.get("flash_bytes"),
                  lambda a, b: a is None and b == MEMORY.flash(allocated().layers)),
    )  # fmt: skip


def test_terms_become_settings_with_all_that_they_say() -> None:
    terms = Terms(pins={"left": LayerBits(2, 2)}, first_last=LayerBits(4, 4), ties=False, macs="limpq", latency=TIMES)
    found = AllocationSettings.under(terms, exact=True)
    assert {one.name: getattr(found, one.name) for one in fields(Terms)} == {
        one.name: getattr(terms, one.name) for one in fields(Terms)
    }
    assert found.exact and found.repair == "forbid" and found.pinned(NETWORK) == terms.pinned(NETWORK)


@pytest.mark.parametrize("alpha", [-1.0, float("nan"), float("inf"), True])
def test_a_weight_that_is_no_weight(alpha: float) -> None:
    with pytest.raises(BudgetError, match=r"allocate: alpha=.* is illegal. Legal: a number from 0 up"):
        AllocationSettings(alpha=alpha)
