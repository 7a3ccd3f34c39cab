"""A front as a table and as a plot: every point, what nothing beats, and what was picked."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mixbit.cost import Budget, LayerBits, cost_table
from mixbit.errors import MissingExtra
from mixbit.metric import MetricInfo
from mixbit.policy import Front, FrontPoint, Measured, Terms
from mixbit.report import front_plot, front_table
from tests.needs import need
from tests.support import chain

NET = chain((1000, 1000), (2000, 3000))
ERROR = MetricInfo(name="error", unit="dB", larger_is_better=False)


def point(bits: int, error: float, name: str = "") -> FrontPoint:
    layers = {one.name: LayerBits(bits, bits) for one in NET.layers}
    return FrontPoint(name=name, layers=layers, costs=cost_table(NET, layers), quality={"error": error, "loss": 1.0})


FRONT = Front(
    fingerprint=NET.fingerprint,
    points=(point(8, 0.1, "W8A8"), point(2, 0.5, "W2A2"), point(4, 0.6)),
    measured=Measured(metrics=(ERROR,), on="20 images"),
    method="by hand",
)
PICKED = FRONT.pick(Budget.parse(["bitops=4x4"]), NET, terms=Terms(pins={}))


def test_every_point_has_a_row_by_rising_bitops() -> None:
    table = front_table(FRONT)
    assert table.headings == ("policy", "error", "loss", "BitOps", "weight bytes", "peak activation bytes", "")
    assert [row[0] for row in table.rows] == ["W2A2", "number 2", "W8A8"]
    assert table.rows[0][1:5] == ("0.5 dB", "1", "16.00 k", "750 B")
    assert [row[-1] for row in table.rows] == ["best", "", "best"]  # less error is better
    assert "Measured on 20 images." in table.notes and table.title == "Front of by hand"


def test_what_was_picked_is_marked() -> None:
    assert [row[-1] for row in front_table(FRONT, PICKED).rows] == ["best, picked", "", "best"]


def test_where_the_direction_is_not_known_nothing_is_best(tmp_path: Path) -> None:
    odd = replace(FRONT, measured=replace(FRONT.measured, metrics=(replace(ERROR, larger_is_better=None),)))
    assert [row[-1] for row in front_table(odd).rows] == ["", "", ""]
    need("plotly")
    assert len(traces(front_plot(odd, tmp_path / "f.html"))) == 2


def traces(path: Path) -> list[dict[str, Any]]:
    text = path.read_text()
    data = text[text.rindex("Plotly.newPlot") :]
    return list(json.JSONDecoder().raw_decode(data, data.index("["))[0])


def test_the_plot_has_every_point_and_joins_the_best(tmp_path: Path) -> None:
    need("plotly")
    path = front_plot(FRONT, tmp_path / "f.html", PICKED)
    assert not re.search(r'<script[^>]+src="http', path.read_text())
    dots, line, by_bytes, by_bytes_line = traces(path)
    assert dots["x"] == [256_000, 16_000, 64_000] and dots["y"] == [0.1, 0.5, 0.6]
    assert dots["text"] == ["W8A8", "W2A2", "number 2"] and dots["marker"]["symbol"] == ["circle", "star", "circle"]
    assert (line["x"], line["y"]) == ([16_000, 256_000], [0.5, 0.1])
    assert by_bytes["x"] == [3000, 750, 1500] and by_bytes_line["x"] == [750, 3000]


def test_without_plotly_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly.subplots", None)
    with pytest.raises(MissingExtra, match=r"pip install 'mixbit\[report\]'"):
        front_plot(FRONT, tmp_path / "f.html")
    assert not (tmp_path / "f.html").exists()
