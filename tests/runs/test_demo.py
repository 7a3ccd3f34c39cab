"""The demo, shortened."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mixbit.runs import demo as run_demo


def test_rows_share_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    demo = sys.modules["mixbit.runs.demo"]
    monkeypatch.setattr(demo, "FLOAT", {**demo.FLOAT, "epochs": 1})
    monkeypatch.setattr(demo, "SEARCH", {**demo.SEARCH, "epochs": 1, "fraction": 0.2})
    monkeypatch.setattr(demo, "FINE_TUNE", {**demo.FINE_TUNE, "epochs": 1})
    done = run_demo(tmp_path, quiet=True)
    assert [one.name for one in done.outcomes] == ["float32", "uniform W3A3", "random", "limpq"]
    budget = done.outcomes[1].costs.bitops
    assert all(one.costs.bitops <= budget for one in done.outcomes[1:])
    assert all(path.is_file() for path in done.files)
    again = run_demo(tmp_path, quiet=True)
    assert again.outcomes == done.outcomes
