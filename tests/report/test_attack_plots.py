"""The plot of attacks is one file that holds all it needs."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mixbit.errors import MissingExtra
from mixbit.report import attack_plot
from tests.needs import need
from tests.report.attacked import FLOAT, FOUND, INT8, PICTURE


def figures(path: Path) -> list[list[dict[str, Any]]]:
    """Traces of each figure of the page."""
    text = path.read_text()
    begins = [match.end() for match in re.finditer(r"Plotly\.newPlot\(\s*\"[\w-]+\",\s*", text)]
    return [json.JSONDecoder().raw_decode(text, at)[0] for at in begins]


def test_accuracy_falls_from_the_clean_one_over_the_radius(tmp_path: Path) -> None:
    need("plotly")
    path = attack_plot(FOUND, tmp_path / "attack.html")
    assert not re.search(r'<script[^>]+src="http', path.read_text()) and "pgd in Linf" in path.read_text()
    curves = figures(path)[0]
    lines = {one["name"]: list(zip(one["x"], one["y"], strict=True)) for one in curves}
    assert lines[FLOAT] == [(0.0, 80.0), (0.01, 60.0), (0.1, 40.0)]
    assert lines[INT8] == [(0.0, 70.0), (0.01, 50.0), (0.1, 30.0)]
    assert curves[0]["error_y"]["array"] == pytest.approx([10.0] * 3) == curves[0]["error_y"]["arrayminus"]
    assert [one["showlegend"] for one in curves] == [True, True]


def test_transfer_is_a_heat_map(tmp_path: Path) -> None:
    need("plotly")
    maps = figures(attack_plot(FOUND, tmp_path / "attack.html"))[1:4]
    assert [one[0]["type"] for one in maps] == ["heatmap"] * 3
    assert (maps[0][0]["x"], maps[0][0]["y"], maps[0][0]["z"]) == ([FLOAT, INT8], [FLOAT], [[50.0, 25.0]])
    assert maps[2][0]["z"] == [[50.0, None]]


def test_pictures_stand_beside_their_originals_and_differences(tmp_path: Path) -> None:
    need("plotly")
    path = attack_plot(FOUND, tmp_path / "attack.html")
    grey = figures(path)[4]
    assert [one["z"] for one in grey] == [[[0, 255], [128, 128]], [[26, 255], [128, 76]], [[191, 128], [128, 0]]]
    assert "pgd at 0.1: float says 8" in path.read_text() and "difference, up to 0.2" in path.read_text()
    colour = replace(PICTURE, image=PICTURE.image.repeat(3, 1, 1), point=torch.zeros(3, 2, 2))
    pictures = figures(attack_plot(replace(FOUND, pictures=(colour,)), path))[4]
    assert pictures[0]["type"] == "image" and pictures[0]["z"][0] == [[0, 0, 0], [255, 255, 255]]


def test_without_radii_and_pictures_there_is_less_to_draw(tmp_path: Path) -> None:
    need("plotly")
    nearest = [one for one in FOUND.results if one.radius is None]
    path = attack_plot(replace(FOUND, results=tuple(nearest), pictures=(), transfers={}), tmp_path / "attack.html")
    assert figures(path) == []


def test_needs_plotly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(MissingExtra, match=r"mixbit\[report\]"):
        attack_plot(FOUND, tmp_path / "attack.html")
