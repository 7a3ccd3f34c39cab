"""The plot of shifted quantizers is one file that holds all it needs."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from mixbit.errors import MissingExtra
from mixbit.report.shift_plots import shift_plot
from tests.needs import need
from tests.report.sweeps import bit_sweep, step_sweep

STEPS = {
    "plain": step_sweep({2.0: 0.1, 1.0: 0.9, 0.5: 0.3, 0.98: 0.8, 1.25: 0.6}),
    "KURE": step_sweep({0.5: 0.2, 1.0: 0.88, 2.0: 0.7}, trained=0.88),
}
BITS = {"plain": bit_sweep({None: 0.5, 2: 0.1, 4: 0.9, 8: 0.7})}


def traces(path: Path) -> list[dict[str, Any]]:
    text = path.read_text()
    data = text[text.rindex("Plotly.newPlot") :]
    return list(json.JSONDecoder().raw_decode(data, data.index("["))[0])


def lines(path: Path, axis: str) -> dict[str, list[tuple[float, float]]]:
    """Model -> points of its line in the panel of that x axis."""
    return {
        one["name"]: list(zip(one["x"], one["y"], strict=True))
        for one in traces(path)
        if one["xaxis"] == axis and one["mode"] == "lines+markers"
    }


def test_the_sides_of_1_have_a_panel_each(tmp_path: Path) -> None:
    need("plotly")
    path = shift_plot(STEPS, tmp_path / "shift.html", bits=BITS)
    assert not re.search(r'<script[^>]+src="http', path.read_text())
    assert lines(path, "x")["plain"] == [(0.5, 30.0), (0.98, 80.0), (1.0, 90.0)]
    assert lines(path, "x2")["plain"] == [(1.0, 90.0), (1.25, 60.0), (2.0, 10.0)]
    assert lines(path, "x2")["KURE"] == [(1.0, 88.0), (2.0, 70.0)]
    assert path.read_text().count('"type":"log"') == 2


def test_bits_end_in_float_and_the_star_is_where_it_was_trained(tmp_path: Path) -> None:
    need("plotly")
    path = shift_plot(STEPS, tmp_path / "shift.html", bits=BITS)
    assert [y for _, y in lines(path, "x3")["plain"]] == pytest.approx([10.0, 90.0, 70.0, 50.0])
    stars = [one for one in traces(path) if one["mode"] == "markers" and one["x"]]
    assert {one["marker"]["symbol"] for one in stars} == {"star"}
    assert sorted((one["xaxis"], one["x"][0], one["y"][0]) for one in stars) == [
        ("x", 1.0, 88.0), ("x", 1.0, 90.0), ("x2", 1.0, 88.0), ("x2", 1.0, 90.0), ("x3", 4.0, 90.0)
    ]  # fmt: skip
    assert [one["name"] for one in traces(path) if one["showlegend"]] == ["plain", "KURE"]


def test_without_bits_there_are_two_panels(tmp_path: Path) -> None:
    need("plotly")
    path = shift_plot(STEPS, tmp_path / "shift.html")
    assert {one["xaxis"] for one in traces(path)} == {"x", "x2"}


def test_a_model_with_bits_alone_is_in_the_legend(tmp_path: Path) -> None:
    need("plotly")
    path = shift_plot({}, tmp_path / "shift.html", bits={"float": bit_sweep({4: 0.9}, trained_bits=None)})
    assert [one["name"] for one in traces(path) if one["showlegend"]] == ["float"]
    assert [one["x"] for one in traces(path) if one["mode"] == "markers"] == [[]]


def test_without_plotly_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly.subplots", None)
    with pytest.raises(MissingExtra, match=r"pip install 'mixbit\[report\]'") as caught:
        shift_plot(STEPS, tmp_path / "shift.html")
    assert isinstance(caught.value.__cause__, ImportError)
    assert not (tmp_path / "shift.html").exists()
