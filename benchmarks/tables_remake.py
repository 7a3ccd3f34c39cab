"""The table of all tables, from the registry of their commands; `tables.py` puts it into the page."""

from __future__ import annotations

from collections.abc import Callable

from common import markdown
from registry import ENTRIES, NEEDS, Entry


def remake() -> str:
    """What makes each table: commands, needs, and time."""
    blocks: dict[Entry, list[str]] = {}
    for name, entry in ENTRIES.items():
        blocks.setdefault(entry, []).append(name)
    rows = [
        (
            ", ".join(f"`{name}`" for name in names),
            "<br>".join(f"`{step.shown.removeprefix('python benchmarks/')}`" for step in entry.steps),
            ", ".join(NEEDS[need].text for need in entry.needs) or "-",
            entry.cost,
        )
        for entry, names in blocks.items()
    ]
    return markdown(("`make table-`", "`python benchmarks/`", "needs", "takes, about"), rows)


TABLES: dict[str, Callable[[], str]] = {"remake": remake}
