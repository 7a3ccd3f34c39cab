"""The plot is one file that holds all it needs."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mixbit.errors import MissingExtra
from mixbit.metric import mean_absolute_error
from mixbit.report import pareto_front, pareto_plot
from tests.needs import need
from tests.report.compared import comparison, judged_comparison


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


def traces(path: Path) -> list[dict[str, Any]]:
    text = path.read_text()
    data = text[text.rindex("Plotly.newPlot") :]
    return list(json.JSONDecoder().raw_decode(data, data.index("["))[0])


def test_every_point_stands_at_its_costs_and_its_mean_with_its_spread(tmp_path: Path) -> None:
    need("plotly")
    found = traces(pareto_plot(comparison(), tmp_path / "compare.html"))
    dots = {(one["name"], one["xaxis"]): one for one in found if one["mode"] == "markers"}
    fit = dots["fit", "x"]
    assert fit["x"] == [3000, 6000] and dots["fit", "x2"]["x"] == [300, 600]
    assert fit["y"] == pytest.approx([91.0, 95.0]) and dots["fit", "x2"]["y"] == fit["y"]
    assert fit["error_y"]["array"] == pytest.approx([100 * 0.02 / 2**0.5, 0.0])
    assert fit["text"] == ["within bitops=3x3, 2 seeds", "within bitops=6x6, 1 seeds"]
    assert dots["mct", "x"]["marker"]["symbol"] == "diamond" and fit["marker"]["symbol"] == "circle"
    assert [one["name"] for one in found if one.get("showlegend")] == ["fit", "mct", "sqnr"]
    fronts = {one["xaxis"]: one for one in found if one["mode"] == "lines"}
    assert fronts["x"]["x"] == [2000, 3000, 6000] and fronts["x2"]["x"] == [250, 300, 600]
    assert fronts["x"]["y"] == fronts["x2"]["y"] == pytest.approx([88.0, 91.0, 95.0])
    assert '"y0":97.0' in (tmp_path / "compare.html").read_text().replace(" ", "")  # the float network


def test_what_a_supernet_alone_judged_stands_at_the_metric_there(tmp_path: Path) -> None:
    need("plotly")
    found = traces(pareto_plot(judged_comparison(), tmp_path / "compare.html"))
    (mct,) = (one for one in found if one["mode"] == "markers" and (one["name"], one["xaxis"]) == ("mct", "x"))
    assert mct["y"] == pytest.approx([90.0]) and mct["text"] == ["within bitops=3x3, judged in a supernet"]


def test_the_front_of_a_metric_goes_the_way_that_is_better(tmp_path: Path) -> None:
    need("plotly")
    metric = mean_absolute_error(unit="mm").info
    found = comparison()
    found = replace(
        found,
        float32=replace(found.float32, metric=metric),
        rows=tuple(replace(row, metric=metric) for row in found.rows),
    )
    lines = [one for one in traces(pareto_plot(found, tmp_path / "p.html")) if one["mode"] == "lines"]
    assert [one["x"] for one in lines] == [[2000], [250]]  # the cheapest has the least error
    unknown = replace(found, float32=replace(found.float32, metric=replace(metric, larger_is_better=None)))
    assert not [one for one in traces(pareto_plot(unknown, tmp_path / "p.html")) if one["mode"] == "lines"]


def test_a_front_falls_where_less_is_better() -> None:
    points = [(2.0, 0.5), (1.0, 0.6), (3.0, 0.6), (3.0, 0.2)]
    assert pareto_front(points, larger_is_better=False) == [(1.0, 0.6), (2.0, 0.5), (3.0, 0.2)]
    assert pareto_front([(1.0, 0.5), (1.0, 0.7), (2.0, 0.7)]) == [(1.0, 0.7)]
