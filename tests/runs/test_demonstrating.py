"""The demo, shortened."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mixbit.runs import demonstrating

_FROM_FLOAT = ("search", "uniform", "random", "limpq")


def test_rows_share_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demonstrating, "FLOAT", {**demonstrating.FLOAT, "epochs": 1})
    monkeypatch.setattr(demonstrating, "SEARCH", {**demonstrating.SEARCH, "epochs": 1, "fraction": 0.2})
    monkeypatch.setattr(demonstrating, "FINE_TUNE", {**demonstrating.FINE_TUNE, "epochs": 1})
    done = demonstrating.demo(tmp_path, quiet=True)
    assert [one.name for one in done.outcomes] == ["float32", "uniform W3A3", "random", "limpq"]
    budget = done.outcomes[1].costs.bitops
    assert all(one.costs.bitops <= budget for one in done.outcomes[1:])
    assert all(path.is_file() for path in done.files)
    begun = {name: json.loads((tmp_path / name / "config.json").read_text()) for name in ("float", *_FROM_FLOAT)}
    assert {name: one["subject"]["weights"] for name, one in begun.items()} == {"float": None} | dict.fromkeys(
        _FROM_FLOAT, str(tmp_path / "float" / "model.safetensors")
    )
    assert begun["float"]["settings"] == demonstrating.FLOAT and begun["search"]["settings"] == demonstrating.SEARCH
    assert all(begun[name]["settings"] == demonstrating.FINE_TUNE for name in _FROM_FLOAT[1:])
    again = demonstrating.demo(tmp_path, quiet=True)
    assert again.outcomes == done.outcomes
