"""The table on two ways to make a latency table, from results/latency_ways.json."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from common import markdown, result, when_run
from intervals import of_median
from latency_ways import BEFORE, SAME, WAYS
from records import maker


def _mean(errors: Sequence[float]) -> float:
    return statistics.fmean(map(abs, errors))


def _largest(errors: Sequence[float]) -> float:
    return max(map(abs, errors))


def _cell(values: Sequence[float]) -> str:
    low, high = of_median(values)
    span = f" ({low:.1f} to {high:.1f})" if len(values) > 1 else ""
    return f"{statistics.median(values):.1f} %{span}"


def means(way: str, when: str) -> list[float]:
    """Of the policies' errors without their signs, in percent, one a repetition."""
    return [_mean(row["errors_percent"][f"{way}, {when}"]) for row in result("latency_ways")["rows"]]


def ways() -> str:
    """Errors of both ways, with the policies in the same rounds and after."""
    found: dict[str, Any] = result("latency_ways")
    errors = {
        (way, when): [row["errors_percent"][f"{way}, {when}"] for row in found["rows"]]
        for when in (SAME, BEFORE)
        for way in WAYS
    }
    rows = [
        (way, when, len(several), *(_cell([of(one) for one in several]) for of in (_mean, _largest)))
        for (way, when), several in errors.items()
    ]
    columns = ("sums of", "measured", ">repetitions", ">mean error of a repetition", ">largest")
    loads = sorted({row["load"] for row in found["rows"]})
    load = f"{loads[0]:.1f}" if len(loads) == 1 else f"{loads[0]:.1f} to {loads[-1]:.1f}"
    one = maker(found, found["rows"][0])
    policies = len(found["rows"][0]["errors_percent"][f"{WAYS[0]}, {SAME}"])
    spans = "with intervals of 95 %" if len(found["rows"]) > 5 else "with the least and the largest"
    more = f", medians over the repetitions {spans}" if len(found["rows"]) > 1 else ""
    note = f"{policies} policies of {one['settings']['network']}{more}. {one['machine']['cpu']}, load {load}.\n"
    return markdown(columns, rows) + "\n" + note


TABLES: dict[str, Callable[[], str]] = {"latency_ways": when_run("latency_ways", "rows")(ways)}
