"""The application itself: its version, and that every word of every command is explained."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import typer

from mixbit import cli
from mixbit._version import __version__
from mixbit.cli import _app
from mixbit.models import loading
from mixbit.testing.options import OptionCases, OptionRow, flags_of
from tests.cli import tiny
from tests.cli.typed import exactly, typed

APP: Any = typer.main.get_command(cli.app)


def imported(words: list[str]) -> str:
    """What a file says when it is run, before the methods are listed."""
    file = tiny.place() / "says.py"
    file.write_text("print('said')\n")
    loading._IMPORTED.clear()
    said = typed("list", "methods", "fit", *(str(file) if word.endswith(".py") else word for word in words))
    return said.partition("Methods")[0] if said.startswith("said") else ""


class TestAppOptions(OptionCases):
    """The version is printed and nothing else done."""

    owner = "mixbit"
    options = flags_of(APP)
    rows = (
        OptionRow("--version", (["--help"], ["--version"]),
                  lambda words: typed(*words) == f"mixbit {__version__}\n", exactly(False, True)),
        OptionRow("--import", ([], ["--import", "says.py"]), imported, exactly("", "said\n")),
    )  # fmt: skip


def commands(command: click.Command, words: str) -> Iterator[tuple[str, click.Command]]:
    """All commands and groups, as they are typed."""
    yield words, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, f"{words} {name}")


def test_every_argument_and_option_of_every_command_is_explained() -> None:
    found = dict(commands(APP, "mixbit"))
    assert {"mixbit latency build", "mixbit train", "mixbit verify"} <= set(found)
    silent = [
        f"{words} {parameter.name}"
        for words, command in found.items()
        for parameter in command.params
        if not getattr(parameter, "help", None)
    ]
    assert silent == []
    assert [words for words, command in found.items() if not command.help] == []


def test_help_is_short_and_long_and_the_answer_to_no_words() -> None:
    assert typed("-h") == typed("--help") and typed("latency", "-h") == typed("latency", "--help")
    assert "Usage" in typed(code=2) and "Usage" in typed("latency", code=2)


def test_weights_that_were_not_given_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    _app.note_weights(None)
    assert capsys.readouterr().out.startswith("Note: no --weights")
    _app.note_weights(Path("w.pth"))
    assert capsys.readouterr().out == ""
