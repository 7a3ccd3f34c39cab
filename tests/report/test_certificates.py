"""Tables and curves of certificates."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from mixbit.errors import MissingExtra
from mixbit.report import certificate_plot, certificate_table
from mixbit.report.certificates import _curve
from tests.report.certified import FLOAT, FOUND, INT8


def test_a_row_has_every_radius_with_its_interval() -> None:
    table = certificate_table(FOUND)
    assert table.columns == (
        "network", ">smoothed", ">at 0.25", ">at 0.5", ">average radius", ">abstains", ">passes"
    )  # fmt: skip
    one, other = table.rows
    assert one[:4] == (FLOAT, "75.0 [19, 99]", "75.0 [19, 99]", "50.0 [7, 93]") and one[5:] == ("25.00 %", "120")
    assert other[:4] == (INT8, "50.0 [7, 93]", "50.0 [7, 93]", "25.0 [1, 81]")
    assert one[4].startswith("0.438 [") and "noise of sigma 0.5" in table.title
    assert "4 test images; 100 samples choose a class, 100 estimate" in table.notes[0]
    early = replace(FOUND, settings=replace(FOUND.settings, early=True))
    assert "at most 100 estimate" in certificate_table(early, "here").notes[0]
    assert certificate_table(early, "here").title.endswith(": here")
    for mode, way in (("both", "the better of two bounds"), ("irs", "the bound as published")):
        shown = replace(FOUND, settings=replace(FOUND.settings, shown=20, mode=mode))  # type: ignore[arg-type]
        assert certificate_table(shown).notes[-1] == (
            f"Float has all 100 samples; the others are shown 20 of them, and have {way}. Theirs took 480 passes in "
            "place of 800: 40.00 % saved."
        )
    alone = replace(shown, certified={FLOAT: FOUND.certified[FLOAT]})
    assert certificate_table(alone).notes[-1].endswith("and have the bound as published.")


def test_a_curve_is_the_certified_accuracy_over_the_radius(tmp_path: Path) -> None:
    curve = _curve(FLOAT, FOUND.certified[FLOAT], 1.2)
    at = dict(zip((round(x, 6) for x in curve.x), curve.y, strict=True))
    assert (at[0.0], at[0.2], at[0.3], at[0.6], at[1.1]) == (75, 75, 50, 25, 0)
    assert curve.name == FLOAT and curve.line.shape == "hv" and curve.error_y.array[0] == pytest.approx(24.4, abs=0.1)
    text = certificate_plot(FOUND, tmp_path / "c.html").read_text()
    for said in ("radius in L2, unit of the inputs", "certified accuracy in %", FLOAT, INT8):
        assert said in re.sub(r"\\u0025", "%", text)


def test_without_plotly_there_is_no_plot(tmp_path: Path) -> None:
    with mock.patch.dict("sys.modules", {"plotly": None}), pytest.raises(MissingExtra, match=r"mixbit\[report\]"):
        certificate_plot(FOUND, tmp_path / "c.html")
