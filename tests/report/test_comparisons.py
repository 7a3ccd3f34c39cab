"""The table of a comparison says what each method reached and what its search took."""

from __future__ import annotations

import json
from dataclasses import replace

from mixbit.metric import mean_absolute_error
from mixbit.report import comparison_line, comparison_table, comparison_tables
from mixbit.runs import Row
from tests.report.compared import comparison, judged_comparison


def test_one_table_a_budget() -> None:
    assert [table.title for table in comparison_tables(comparison())] == ["Within bitops=3x3", "Within bitops=6x6"]


def test_rows_stand_by_accuracy_under_the_float_network() -> None:
    table = comparison_table(comparison(), "bitops=3x3")
    assert [row[0] for row in table.rows] == ["float32", "fit", "sqnr", "mct (policy file)", "clado"]
    cells = [dict(zip(table.headings, row, strict=True)) for row in table.rows]
    assert cells[0]["calibrated"] == "97.00 %" and cells[0]["BitOps"] == "1.024 M"
    assert cells[1] == {
        "method": "fit",
        "fine-tuned": "91.00 ± 1.41 %",
        "seeds": "2",
        "calibrated": "30.00 %",
        "BitOps": "3.000 k",
        "weight bytes": "300 B",
        "slack": "1.500 k",
        "search CPU": "12.5 s",
        "images": "64",
        "forward": "96",
        "backward": "32",
    }
    assert cells[2]["fine-tuned"] == "90.00 %" and cells[2]["search CPU"] == "-"
    assert cells[3]["search CPU"] == "1 min 30 s" and cells[3]["images"] == "-"
    assert set(list(cells[4].values())[1:]) == {"-"}


def test_slack_has_the_unit_of_its_limit() -> None:
    found = comparison()
    slack = {"bitops": 1500.0, "weight-bytes": 2048.0, "activation-bytes": 64.0}
    found = replace(found, rows=tuple(replace(row, slack=slack) for row in found.rows))
    table = comparison_table(found, "bitops=3x3")
    assert table.rows[1][table.headings.index("slack")] == "1.500 k, 2.000 KiB, 64 B"


def test_notes_tell_what_the_numbers_hide() -> None:
    notes = comparison_table(comparison(), "bitops=3x3").notes
    assert "Same bits, one result: fit, sqnr." in notes
    assert any("last part alone: fit" in note for note in notes)
    assert "clado: ValueError: no such thing" in notes
    assert not any("Same bits" in note for note in comparison_table(comparison(), "bitops=6x6").notes)


def test_without_fine_tuning_there_is_no_fine_tuned_accuracy() -> None:
    found = comparison()
    bare = replace(found, rows=tuple(replace(row, tuned=None) for row in found.rows if not row.outside))
    table = comparison_table(bare, "bitops=3x3")
    assert table.rows[1][:4] == ("fit", "-", "2", "30.00 %")


def test_lines_of_a_log() -> None:
    row = comparison().rows[0]
    assert comparison_line(row) == "bitops=3x3  fit  seed 0: calibrated 25.00 %, fine-tuned 90.00 %"
    assert comparison_line(replace(row, tuned=None)).endswith("seed 0: calibrated 25.00 %")
    failed = Row(budget="bitops=1", name="fit", seed=2, reason="cannot be met")
    assert comparison_line(failed) == "bitops=1  fit  seed 2: cannot be met"


def test_where_less_is_better_the_least_stands_first_and_the_tables_say_of_what() -> None:
    metric = mean_absolute_error(unit="mm").info
    found = comparison()
    rows = tuple(replace(row, metric=metric) for row in found.rows)
    found = replace(found, float32=replace(found.float32, metric=metric), rows=rows)
    names = [one.name for one in found.results("bitops=3x3")]
    assert names == ["mct", "sqnr", "fit", "clado"]  # 0.88, 0.90, 0.91, and none
    table = comparison_table(found, "bitops=3x3")
    assert table.notes[0] == "fine-tuned, calibrated: mean absolute error, less is better."
    assert table.rows[0][3] == "0.97 mm" and table.rows[3][1] == "0.91 \u00b1 0.01414 mm"
    assert comparison_line(rows[0]) == "bitops=3x3  fit  seed 0: calibrated 0.25 mm, fine-tuned 0.9 mm"
    unknown = replace(found, float32=replace(found.float32, metric=replace(metric, larger_is_better=None)))
    assert [one.name for one in unknown.results("bitops=3x3")] == ["fit", "mct", "sqnr", "clado"]
    assert Row.from_json(json.loads(json.dumps(rows[0].to_json()))) == rows[0]


def test_a_supernets_judgement_has_its_columns_and_its_rank() -> None:
    table = comparison_table(judged_comparison(), "bitops=3x3")
    assert table.headings[:4] == ("method", "rank", "judged loss", "judged")
    assert [row[:5] for row in table.rows] == [
        ("float32", "", "0.0625", "97.00 %", "1.024 M"),
        ("mct (policy file)", "1", "0.125", "90.00 %", "2.000 k"),
        ("fit", "2", "0.25", "93.75 %", "3.000 k"),
        ("sqnr", "2", "0.25", "93.75 %", "3.000 k"),
        ("clado", "-", "-", "-", "-"),
    ]
    assert {len(row) for row in table.rows} == {len(table.headings)}
    told = "judged: in a trained supernet (blake2b:00ff), on 180 training images; rank by the loss. "
    assert table.notes[0].startswith(told) and "±" not in " ".join(table.notes)
    row = judged_comparison().rows[0]
    assert comparison_line(row) == "bitops=3x3  fit  seed 0: judged loss 0.25, judged 93.75 %"


def test_a_judgement_stands_beside_fine_tuning() -> None:
    found = judged_comparison()
    rows = tuple(replace(row, calibrated=0.5, tuned=0.75) for row in found.rows)
    trained = replace(found, settings={"epochs": 1}, rows=rows)
    table = comparison_table(trained, "bitops=3x3")
    cells = [dict(zip(table.headings, row, strict=True)) for row in table.rows]
    wanted = {"fine-tuned": "75.00 %", "calibrated": "50.00 %", "rank": "1", "judged": "90.00 %"}
    mct = next(one for one in cells if one["method"].startswith("mct"))
    assert wanted.items() <= mct.items() and cells[0]["calibrated"] == cells[0]["judged"] == "97.00 %"
    assert "±" in table.notes[1]
    metric = mean_absolute_error(unit="mm").info
    other = replace(found, float32=replace(found.float32, metric=metric))
    assert comparison_table(other, "bitops=3x3").notes[0] == "judged: mean absolute error, less is better."
