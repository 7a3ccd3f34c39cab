from __future__ import annotations

import pytest

from mixbit.report import Table

TABLE = Table(title="Costs", columns=("name", ">bytes"), rows=(("weights", "640"), ("peak", "64")), notes=("exact",))


def test_plain_aligns_text_left_and_numbers_right() -> None:
    assert TABLE.plain().splitlines() == [
        "Costs",
        "name     bytes",
        "-------  -----",
        "weights    640",
        "peak        64",
        "exact",
    ]


def test_plain_without_rows_and_title_is_the_heading() -> None:
    assert Table(columns=("a", "bb"), rows=()).plain().splitlines() == ["a  bb", "-  --"]


def test_headings_hide_the_alignment_mark() -> None:
    assert TABLE.headings == ("name", "bytes")
    assert [TABLE.right_aligned(column) for column in (0, 1)] == [False, True]


def test_a_short_row_is_refused() -> None:
    with pytest.raises(ValueError, match="1 cells; the table has 2"):
        Table(columns=("a", "b"), rows=(("only",),))
