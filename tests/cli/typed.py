"""Commands as they are typed, in this process: what they say, and what they hand to `mixbit.runs`."""

from __future__ import annotations

import contextlib
import inspect
import io
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from mixbit import cli, runs


def typed(*words: str | Path, code: int = 0) -> str:
    """Output of a command that must end with `code`; standard error follows standard output."""
    out, err = io.StringIO(), io.StringIO()
    ended: object = None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main([str(word) for word in words])
        except SystemExit as leaving:
            ended = leaving.code
    said = out.getvalue() + err.getvalue()
    assert ended == code, said
    return said


def next_of(said: str) -> list[str]:
    """The command that a command recommends, without `mixbit`."""
    (line,) = [line for line in said.splitlines() if line.startswith("Next: mixbit ")]
    return shlex.split(line.removeprefix("Next: mixbit "))


def written(said: str) -> list[Path]:
    """The files that a command says it wrote."""
    return [Path(line.split()[1]) for line in said.splitlines() if line.startswith("Wrote ")]


class _Enough(Exception):
    """The function was called."""


def handed(function: str, *words: str | Path) -> dict[str, Any]:
    """What a command hands to `mixbit.runs.<function>`, which is not run: every argument by name, defaults too."""
    signature, found = inspect.signature(getattr(runs, function)), dict[str, Any]()

    def record(*arguments: object, **named: object) -> None:
        bound = signature.bind(*arguments, **named)
        bound.apply_defaults()
        found.update(bound.arguments)
        raise _Enough

    with mock.patch.object(runs, function, record), contextlib.suppress(_Enough):
        typed(*words)
    assert found, f"{' '.join(map(str, words))} does not come as far as runs.{function}"
    return found


def gives(function: str, result: object, *words: str | Path, code: int = 0) -> str:
    """What a command says of a result that `mixbit.runs.<function>` did not have to work for."""
    with mock.patch.object(runs, function, return_value=result):
        return typed(*words, code=code)


def exactly(first: object, second: object) -> Callable[[Any, Any], bool]:
    """For an `OptionRow`: what must be seen with its two values."""

    def holds(one: Any, other: Any) -> bool:
        return bool(one == first and other == second)

    return holds


def option(flag: str, value: object) -> list[str]:
    """`--flag value`; nothing for None, which is the default, and the flag alone for True."""
    if value is None:
        return []
    return [flag] if value is True else [flag, str(value)]
