"""The committed result files: all in one form, every row has a maker, and how many of these fall short."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import records

FOLDERS = (ROOT / "benchmarks" / "results", ROOT / "benchmarks" / "peers" / "results")

# Makers of an older form, known by the header of the whole file, and those of a tree with changes that no commit
# holds. Both numbers may only fall.
BY_FILE = 30
UNCOMMITTED = 25


def files() -> Iterator[tuple[Path, dict[str, Any]]]:
    """All but tables of scores, which have a form of their own."""
    for folder in FOLDERS:
        for path in sorted(folder.glob("*.json")):
            found = json.loads(path.read_text())
            if found.get("format") != "mixbit-scores":
                yield path, found


def makers() -> list[dict[str, Any]]:
    return [maker for _, found in files() for maker in found["made"]]


def test_every_part_and_row_has_a_maker() -> None:
    for path, found in files():
        assert found["form"] == records.FORM, path.name
        for rows in records.tables(found).values():
            assert all(records.maker(found, row)["commit"] for row in rows), path.name
        for part in set(found) - {*records.HEAD} - set(records.tables(found)):
            for name, _ in records._pieces(part, found[part]):
                assert records.maker(found, name)["commit"], f"{path.name}: {name}"


def test_makers_say_all_that_is_asked_of_them() -> None:
    wanted = {"command", "commit", "uncommitted", "machine", "versions"}
    short = [maker for maker in makers() if maker.get("by") != "file" and not wanted <= set(maker)]
    assert short == []
    machines = [maker["machine"] for maker in makers() if maker.get("by") != "file"]
    assert all({"cpu", "flags", "load"} <= set(one) for one in machines)
    assert not any(maker.get("smoke") for maker in makers())


def test_results_that_fall_short_are_counted() -> None:
    by_file = sum(maker.get("by") == "file" for maker in makers())
    uncommitted = sum(maker["uncommitted"] for maker in makers())
    assert (by_file, uncommitted) == (BY_FILE, UNCOMMITTED), "made anew from a clean tree? Then lower the number."


def test_no_two_rows_of_one_key_differ() -> None:
    assert {path.name: records.conflicts(found) for path, found in files() if records.conflicts(found)} == {}
