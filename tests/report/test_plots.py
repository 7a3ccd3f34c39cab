"""The plot is one file that holds all it needs."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from mixbit.errors import MissingExtra
from mixbit.report import pareto_front, pareto_plot
from tests.needs import need
from tests.report.arenas import comparison


def test_the_front_is_what_nothing_beats() -> None:
    points = [(2.0, 0.5), (1.0, 0.6), (3.0, 0.6), (3.0, 0.8), (4.0, 0.9)]
    assert pareto_front(points) == [(1.0, 0.6), (3.0, 0.8), (4.0, 0.9)]
    assert pareto_front([]) == []


def test_the_file_needs_no_network_and_holds_every_method(tmp_path: Path) -> None:
    need("plotly")
    text = pareto_plot(comparison(), tmp_path / "compare.html").read_text()
    assert not re.search(r'<script[^>]+src="http', text)
    data = text[text.rindex("Plotly.newPlot") :]
    names = re.findall(r'"name":"([\w-]+)"', data)
    assert set(names) == {"fit", "sqnr", "mct"}  # one that failed has no point
    assert "float32" in data and "weight bytes" in data and "BitOps" in data


def test_without_plotly_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly.subplots", None)
    with pytest.raises(MissingExtra, match=r"pip install 'mixbit\[report\]'") as caught:
        pareto_plot(comparison(), tmp_path / "compare.html")
    assert isinstance(caught.value.__cause__, ImportError)
    assert not (tmp_path / "compare.html").exists()
