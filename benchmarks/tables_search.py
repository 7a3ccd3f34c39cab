"""The table on agents in a toy, from results/ddpg.json."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from common import markdown, result, when_run
from toy_bits import BEST


@when_run("ddpg", "rows")
def ddpg() -> str:
    """Best of each seed, and what the last episodes are worth."""
    rows = result("ddpg")["rows"]
    table = []
    for name in dict.fromkeys(row["agent"] for row in rows):
        mine = sorted((row for row in rows if row["agent"] == name), key=lambda row: int(row["seed"]))
        best = ", ".join(f"{row['best']:.3f}" for row in mine)
        last, seconds = (statistics.fmean(row[key] for row in mine) for key in ("last", "cpu_s"))
        table.append((name, mine[0]["episodes"], best, f"{last:.2f}", f"{seconds:.0f} s"))
    columns = ("agent", ">episodes", ">best of each seed", ">mean of the last 20", ">CPU time")
    return markdown(columns, table) + f"\nThe best that there is: {BEST:.3f}.\n"


TABLES: dict[str, Callable[[], str]] = {"ddpg": ddpg}
