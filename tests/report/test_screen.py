from __future__ import annotations

import io
import re
import shlex
from pathlib import Path

import pytest

from mixbit.report import Screen, Table

TABLE = Table(title="T", columns=("layer", ">bits"), rows=(("conv1[bold]", "8"),), notes=("a note",))


def written(*, rich: bool | None = None, silent: bool = False) -> tuple[Screen, io.StringIO]:
    stream = io.StringIO()
    return Screen(stream, rich=rich, silent=silent), stream


def test_a_pipe_gets_plain_text() -> None:
    screen, stream = written()
    screen.show(TABLE)
    assert stream.getvalue() == TABLE.plain() + "\n\n"


def test_a_terminal_gets_colour_and_every_cell_as_it_is() -> None:
    screen, stream = written(rich=True)
    screen.show(TABLE)
    text = stream.getvalue()
    assert "\x1b[" in text
    assert all(word in text for word in ("conv1[bold]", "8", "a note"))


def test_next_command_can_be_pasted() -> None:
    screen, stream = written()
    words = ["mixbit", "allocate", "my runs/a", "--pin", "re:a.*=W8A8"]
    screen.next(words)
    assert shlex.split(stream.getvalue().removeprefix("Next: ")) == words


def test_files_are_listed_with_their_meaning() -> None:
    screen, stream = written()
    screen.files({Path("a.json"): "one", Path("long/b.json"): "two"})
    assert stream.getvalue().splitlines() == ["Wrote a.json       one", "Wrote long/b.json  two"]


def test_errors_are_red_in_a_terminal_only() -> None:
    for rich, expected in ((True, "\x1b[31mno\x1b[0m\n"), (False, "no\n")):
        screen, stream = written(rich=rich)
        screen.error("no")
        assert stream.getvalue() == expected


def test_a_silent_screen_writes_nothing() -> None:
    for rich in (True, False):
        screen, stream = written(rich=rich, silent=True)
        screen.show(TABLE)
        screen.say("a")
        screen.next("b")
        assert stream.getvalue() == ""


def test_only_the_first_process_speaks_and_output_is_where_it_is_now(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    screen.say("a\nb")
    assert capsys.readouterr().out == "a\nb\n"
    screen.files({})
    assert capsys.readouterr().out == ""


def test_a_drawing_aligns_numbers_right_and_has_its_notes_below() -> None:
    screen, stream = written(rich=True)
    screen.show(Table(title="T", columns=("layer", ">bits"), rows=(("a", "8"), ("bcd", "16")), notes=("one", "two")))
    plain = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    assert lines[0] == "T" and lines[-2:] == ["one", "two"]
    rows = [line for line in plain.splitlines() if re.search(r"\b(8|16)\b", line)]
    assert len({line.rstrip().rindex(line.rstrip()[-1]) for line in rows}) == 1
