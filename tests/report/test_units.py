from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixbit.report import count, duration, percent, seconds, size


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.000 k"),
        (40_812_544, "40.81 M"),
        (55_313_000_000, "55.31 G"),
        (-2500, "-2.500 k"),
    ],
)
def test_count(value: int, text: str) -> None:
    assert count(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.000 KiB"), (8_359_641, "7.972 MiB")]
)
def test_size_uses_binary_prefixes(value: int, text: str) -> None:
    assert size(value) == text


@given(st.integers(min_value=1, max_value=10**17))
def test_count_is_right_to_four_digits(value: int) -> None:
    number, _, prefix = count(value).partition(" ")
    factor = 1000 ** ["", "k", "M", "G", "T", "P"].index(prefix)
    assert float(number) * factor == pytest.approx(value, rel=6e-4)


def test_percent_and_seconds() -> None:
    assert percent(0.5) == "50.00 %"
    assert [seconds(t) for t in (0.0005, 12.34, 61, 7300)] == ["0.5 ms", "12.3 s", "1 min 1 s", "2 h 1 min"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 ns"), (999, "999 ns"), (1_000, "1.000 us"), (12_345_678, "12.35 ms"), (-2_500, "-2.500 us")],
)
def test_duration(value: int, text: str) -> None:
    assert duration(value) == text


def test_seconds_at_the_edges() -> None:
    assert [seconds(t) for t in (0.999, 1, 59.94, 60, 3599, 3600)] == [
        "999.0 ms", "1.0 s", "59.9 s", "1 min 0 s", "59 min 59 s", "1 h 0 min",
    ]  # fmt: skip
    assert [count(v) for v in (999_000, 10**15, 10**18)] == ["999.0 k", "1.000 P", "1000. P"]
    assert [size(v) for v in (1025, 1024**4, -2048)] == ["1.001 KiB", "1.000 TiB", "-2.000 KiB"]
