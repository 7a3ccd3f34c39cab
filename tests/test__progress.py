"""Progress in log files and on terminals."""

from __future__ import annotations

import os
import sys

import pytest

from mixbit import _distributed, _progress
from mixbit._progress import Lines, announce, progress_bar


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def lines_of(total: int | None, done: int, at: list[float]) -> list[str]:
    """The lines of work that takes a step at each of these seconds, until its end at the last of them."""
    clock, said = Clock(), list[str]()
    lines = Lines("work", total, done, write=said.append, clock=clock)
    for second in at:
        clock.now = 100.0 + second
        lines.advance(1, f"loss {second:g}")
    lines.end("done")
    return said


def test_intervals_grow_to_half_a_minute() -> None:
    said = lines_of(200, 0, [float(second) for second in range(1, 201)])
    seconds = [float(line.rsplit(" ", 1)[1]) for line in said[1:-1]]
    assert seconds == [5, 15, 35, 65, 95, 125, 155, 185]
    assert said[0] == "work: 200 steps" and said[-1] == "work: done, 200/200 in 0:03:20, loss 200"


def test_steps_of_an_earlier_process_do_not_count_as_fast() -> None:
    said = lines_of(200, 100, [10.0, 20.0])
    assert said[:2] == [
        "work: 200 steps, 100 of them done before",
        "work: 101/200 (50 %) in 0:00:10, 0:16:30 left, loss 10",
    ]


@pytest.mark.parametrize("total", [None, 1])
def test_no_end_is_promised_where_none_is_known(total: int | None) -> None:
    said = lines_of(total, 0, [1.0, 6.0])
    assert len(said) == 3 and "left" not in said[1]


@pytest.mark.parametrize(("seconds", "count"), [(4.0, 0), (6.0, 3)])
def test_brief_work_is_silent_unless_it_takes_long(seconds: float, count: int) -> None:
    clock, said = Clock(), list[str]()
    lines = Lines("verify", 2, brief=True, write=said.append, clock=clock)
    clock.now += seconds
    lines.advance(2, "")
    lines.end("done")
    assert len(said) == count


def test_long_times_have_hours() -> None:
    assert "in 2:00:00, 4 days" in lines_of(50, 0, [7200.0])[1]


def test_a_log_file_gets_a_first_and_a_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("search", 3) as advance:
        advance(2, "layer b")
    with pytest.raises(KeyError), progress_bar("search", 3) as advance:
        raise KeyError
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "search: 3 steps",
        "search: ended, 2/3 in 0:00:00, layer b",
        "search: 3 steps",
        "search: stopped, 0/3 in 0:00:00",
    ]


def test_silence_where_it_is_asked_for_and_on_all_ranks_but_the_first(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with progress_bar("search", 3, quiet=True) as advance:
        advance(1, "")
    monkeypatch.setattr(_distributed, "rank", lambda: 1)
    with progress_bar("search", 3) as advance:
        advance(1, "")
    announce("compare", 0, 2, "limpq")
    assert capsys.readouterr().err == ""


def test_bars_within_a_bar_stay_away(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A terminal has one place for a bar; a second one would be an error of rich."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress_bar("[outer]", None, done=1) as outer, progress_bar("inner", 3) as inner:
        inner(1, "")
        outer(1, "[text]")
        announce("compare", 0, 2, "limpq")
    assert not _progress._open_bars
    said = capsys.readouterr().err
    assert "inner" not in said and "part 1 of 2" not in said and "[outer] [text]" in said


def test_a_label_of_bytes_that_are_no_text_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Such is the name of a file that another encoding made."""
    with progress_bar(os.fsdecode(b"run\xff"), 1) as advance:
        advance(1, "")
    assert r"run\udcff: done, 1/1" in capsys.readouterr().err
