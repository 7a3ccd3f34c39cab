"""What a search ended in, for people: scores, a policy under a budget, or a front."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mixbit.policy import Front, Scores
from mixbit.report.entropy import entropy_table
from mixbit.report.episodes import episodes_table
from mixbit.report.fronts import front_table
from mixbit.report.table import Table
from mixbit.report.tables import bits_table, budget_table

if TYPE_CHECKING:
    from mixbit.runs import Searched

__all__ = ["search_summary", "search_tables"]


def search_summary(method: str, found: Searched) -> str:
    """What a search ended in, in one line."""
    layers = len(found.network.layers)
    if isinstance(found.result, Scores):
        return f"{method} scored {len(found.result.layers)} of {layers} layers."
    if isinstance(found.result, Front):
        return f"{method} measured {len(found.result.points)} policies of {layers} layers."
    within = ", ".join(f"{kind}={text}" for kind, text in found.result.budget.items())
    return f"{method} chose the bits of {layers} layers within {within}."


def search_tables(found: Searched) -> list[Table]:
    """What there is to look at: of scores the entropies, if they are such; all of a policy or a front; episodes."""
    if isinstance(found.result, Scores):
        entropies = entropy_table(found.result)
        return [] if entropies is None else [entropies]
    if isinstance(found.result, Front):
        return [front_table(found.result)]
    tables = [bits_table(found.result.layers, pinned=found.pinned)]
    if found.budget is not None and found.costs is not None:
        tables.append(budget_table(found.budget, found.costs, found.limits))
    return [*tables, *([episodes_table(found.episodes)] if found.episodes else [])]
