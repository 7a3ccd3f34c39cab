"""What the tables of quantizer shift say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mixbit.network import Skipped
from mixbit.report.shifts import shift_summary_table, shift_table
from mixbit.robustness.quantizer_shift import ShiftSummary
from tests.report.sweeps import bit_sweep, step_sweep


def test_models_side_by_side_with_a_star_at_the_trained_step() -> None:
    table = shift_table(
        {"plain": step_sweep({1.25: 0.5, 1.0: 0.9, 0.8: 0.7}), "KURE": step_sweep({0.8: 0.6, 1.25: 0.88}, trained=0.89)}
    )
    assert table.columns == ("step / trained step", ">plain", ">KURE")
    assert table.rows == (
        ("as trained", "90.00 %", "89.00 %"),
        ("0.8", "70.00 %", "60.00 %"),
        ("1", "90.00 % *", ""),
        ("1.25", "50.00 %", "88.00 %"),
    )


def test_notes_say_what_was_shifted_and_what_not() -> None:
    notes = shift_table({"plain": step_sweep({1.0: 0.9})}).notes
    assert notes[0].startswith("Accuracy on 100 images")
    assert notes[1:] == ("plain: with bias correction.", "plain: not shifted are fc (in float).")


def test_five_of_those_that_were_not_shifted_are_named() -> None:
    left = [Skipped(name=f"fc{at}", reason="in float") for at in range(8)]
    found = {
        count: shift_table({"plain": replace(step_sweep({1.0: 0.9}), left=tuple(left[:count]))}) for count in (5, 8)
    }
    assert found[5].notes[-1].endswith("fc3 (in float), fc4 (in float).")
    assert found[8].notes[-1].endswith("fc3 (in float), fc4 (in float) and 3 more.")


def test_float_is_the_last_row_and_the_trained_bits_have_the_star() -> None:
    rows = shift_table({"plain": bit_sweep({None: 0.2, 8: 0.8, 4: 0.9, 2: 0.1})}).rows
    assert [row[0] for row in rows] == ["as trained", "2", "4", "8", "float"]
    assert [row[1] for row in rows if "*" in row[1]] == ["90.00 % *"]


def test_sweeps_of_two_kinds_make_no_table() -> None:
    with pytest.raises(ValueError, match="qat-bits"):
        shift_table({"a": step_sweep({1.0: 0.9}), "b": bit_sweep({4: 0.9})})
    with pytest.raises(ValueError, match="one protocol"):
        shift_table({})


def summary(factors: tuple[float, ...], area: float | None) -> ShiftSummary:
    return ShiftSummary(
        as_trained=0.9,
        step_mean=0.8,
        step_worst=0.7,
        smaller_steps=0.5,
        larger_steps=None,
        factors=factors,
        power_of_two=0.6,
        bits_area=area,
    )


def test_the_summary_has_a_dash_for_what_was_not_measured() -> None:
    table = shift_summary_table({"plain": summary((0.8, 1.0), None)})
    assert table.rows == (("plain", "90.00 %", "80.00 %", "70.00 %", "50.00 %", "-", "60.00 %", "-"),)
    assert len(table.notes) == 1


def test_sweeps_over_other_factors_do_not_compare() -> None:
    found = {"plain": summary((0.8, 1.0), 0.5), "KURE": summary((0.5, 1.0), 0.5)}
    assert "do not compare" in shift_summary_table(found).notes[1]
