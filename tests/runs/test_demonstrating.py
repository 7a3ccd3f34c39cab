"""The demo, shortened."""

from __future__ import annotations

from pathlib import Path

import pytest

from mixbit.runs import demonstrating


def test_rows_share_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demonstrating, "FLOAT", {**demonstrating.FLOAT, "epochs": 1})
    monkeypatch.setattr(demonstrating, "SEARCH", {**demonstrating.SEARCH, "epochs": 1, "fraction": 0.2})
    monkeypatch.setattr(demonstrating, "FINE_TUNE", {**demonstrating.FINE_TUNE, "epochs": 1})
    done = demonstrating.demo(tmp_path, quiet=True)
    assert [one.name for one in done.outcomes] == ["float32", "uniform W3A3", "random", "limpq"]
    budget = done.outcomes[1].costs.bitops
    assert all(one.costs.bitops <= budget for one in done.outcomes[1:])
    assert all(path.is_file() for path in done.files)
    again = demonstrating.demo(tmp_path, quiet=True)
    assert again.outcomes == done.outcomes
