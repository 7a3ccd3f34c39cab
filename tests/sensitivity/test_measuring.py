"""Partial measurements: what a killed search had is what the next one begins with."""

from __future__ import annotations

from pathlib import Path

from mixbit.sensitivity.measuring import Ledger
from mixbit.sensitivity.suffix import Work


def test_a_ledger_goes_on_with_its_sums_and_the_work_behind_them(tmp_path: Path) -> None:
    rows = [("", [1.0], Work(8.0, 8.0)), ("a", [1.5, 2.5], Work(16.0, 4.0)), ("a", [0.5, 1.0], Work(16.0, 3.0))]
    for number, (row, values, work) in enumerate(rows):  # killed after every row
        ledger = Ledger(tmp_path, "search", {"images": 8})
        assert ledger.done == number
        ledger.put(row, values, work)
    found = Ledger(tmp_path, "search", {"images": 8})
    assert (found.done, found.sums) == (3, {"": [1.0], "a": [2.0, 3.5]})
    assert found.work == Work(passes=40.0, done=15.0)
