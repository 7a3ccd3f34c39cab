"""Rows of benchmarks/results/kure.json, as its tables and the numbers in prose read them."""

from __future__ import annotations

from typing import Any

from common import result

SEED = 0
"""Of the runs that tables show."""


def profiles(network: str) -> dict[str, dict[str, Any]]:
    """Run name -> profile and facts of the weights."""
    return {row["run"]: row for row in result("kure")["runs"] if (row["network"], row["seed"]) == (network, SEED)}


def networks() -> list[str]:
    """In the order of the file."""
    return list(dict.fromkeys(row["network"] for row in result("kure")["runs"]))


def searches() -> list[dict[str, Any]]:
    """What the term does before a search: a row a method and budget."""
    return [row for row in result("kure")["search"] if row["seed"] == SEED]
