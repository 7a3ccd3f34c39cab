"""What a search ended in, whatever it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from mixbit.cost import Budget
from mixbit.policy import Policy, Scores, Terms, WeightsFile
from mixbit.report import after_front, after_search, search_summary, search_tables
from mixbit.report.tables import bits_table, budget_table
from mixbit.runs import Picked, Searched
from tests.cli import tiny
from tests.report.test_entropy import scores as entropies
from tests.report.test_fronts import FRONT, NET, PICKED

BUDGET = Budget.parse(["bitops=4x4"])


def found(result: Any, **more: Any) -> Searched:
    return Searched(result=result, network=NET, files={}, subject=tiny.subject(), **more)


def test_scores_are_counted_and_their_entropies_shown() -> None:
    done = found(entropies())
    assert search_summary("te", done) == "te scored 1 of 2 layers."
    assert [table.rows[0][0] for table in search_tables(done)] == ["conv1"]
    plain = Scores(fingerprint=NET.fingerprint, method="fit", layers=entropies().layers)
    assert search_tables(found(plain)) == []


def test_a_policy_is_shown_with_what_it_uses() -> None:
    terms = Terms(pins={})
    used, limits = terms.costs(NET, PICKED.layers), terms.limits(NET, BUDGET)
    done = found(PICKED, budget=BUDGET, limits=limits, costs=used, pinned=("l0",))
    assert search_summary("random-search", done) == "random-search chose the bits of 2 layers within bitops=4x4."
    assert search_tables(done) == [bits_table(PICKED.layers, pinned=["l0"]), budget_table(BUDGET, used, limits)]


def test_a_front_is_shown_whole() -> None:
    assert search_summary("uniform-front", found(FRONT)) == "uniform-front measured 3 policies of 2 layers."
    (table,) = search_tables(found(FRONT))
    assert len(table.rows) == 3


def test_what_comes_next_follows_from_what_was_found() -> None:
    run = Path("runs/s")
    assert after_search(run, found(entropies())) == after_search(run)
    assert after_search(run, found(FRONT)) == ["mixbit", "front", "runs/s", *after_search(run)[3:]]
    assert after_search(run, found(PICKED))[:2] == ["mixbit", "train"]
    assert str(run / "policy.json") in after_search(run, found(PICKED))
    shown = Picked(front=FRONT, network=NET)
    words = ["--budget", "bitops=4x4", "--out", "runs/s/policy.json"]
    assert after_front(run / "front.json", shown)[3:] != [] and after_front(run / "front.json", shown)[-1].endswith(
        "policy.json"
    )
    assert after_front(tiny.place(), shown) == [
        "mixbit", "front", str(tiny.place()), *words[:3], str(tiny.place() / "policy.json")
    ]  # fmt: skip
    supernet = replace(FRONT, weights=WeightsFile(path="w", digest="blake2b:" + "0" * 32))
    assert after_search(run, found(supernet))[-2:] == ["--take", "runs/s-taken"]
    assert after_front(run / "front.json", Picked(front=supernet, network=NET))[-2:] == ["--take", "runs/s-taken"]
    taken = Picked(front=FRONT, network=NET, policy=PICKED, subject=tiny.subject(), files={Path("p.json"): ""})
    assert after_front(run, taken)[:2] == ["mixbit", "train"] and "p.json" in after_front(run, taken)
    assert isinstance(taken.policy, Policy)
