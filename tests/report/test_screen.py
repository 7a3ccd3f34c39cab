from __future__ import annotations

import io
import shlex
from pathlib import Path

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
