"""Malformed commands, settings and files: one message, exit status 2, no traceback, no wait.

A part of the cases runs with the suite; `make fuzz` runs them all.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from mixbit import cli
from tests.fuzz.cases import Case, all_cases
from tests.fuzz.junk import Change

LIMIT_S = 60
"""None takes over two; a case that waits for ever must end, and nothing depends on how fast the machine is."""
EVERY = 7
"""Of each group, the share that runs with the suite."""


class Hangs(BaseException):
    """No `except Exception` on the way may catch it."""


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """End a block that does not end."""

    def over(_signal: int, _frame: FrameType | None) -> None:
        raise Hangs(f"over {seconds} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def parameters() -> Iterator[Any]:
    """The cases; of each group the first and every so manieth are part of the suite."""
    seen: Counter[str] = Counter()
    names: Counter[str] = Counter()
    for case in all_cases():
        marks = () if seen[case.group] % EVERY == 0 else (pytest.mark.fuzz,)
        seen[case.group] += 1
        names[case.id] += 1
        yield pytest.param(case, marks=marks, id=case.id if names[case.id] == 1 else f"{case.id} ({names[case.id]})")


def prepare(case: Case, folder: Path, base: Path, documents: dict[str, Any]) -> list[str]:
    """The files of a case in its folder, and its words with the places filled in."""
    if case.like is not None:
        shutil.copytree(base / case.like, folder, dirs_exist_ok=True)
    for name, text in case.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text.text(documents) if isinstance(text, Change) else text)
    if any("@/pipe" in word for word in case.words):
        os.mkfifo(folder / "pipe")
    return [word.replace("@", str(folder), 1).replace("%", str(base), 1) for word in case.words]


@pytest.mark.parametrize("case", list(parameters()))
def test_malformed_input_is_one_message(
    case: Case, base: Path, documents: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = prepare(case, tmp_path, base, documents)
    with pytest.raises(SystemExit) as ended, limited(LIMIT_S):
        cli.main(words)
    out, err = capsys.readouterr()
    assert ended.value.code == 2, out + err
    assert "Error" in err and "Traceback" not in out + err
    assert len(err) < 4000, "a message for a person to read"


def test_what_the_cases_are_made_of_is_in_order(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each refusal above is of what its case changed, and not of what all share."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["allocate", str(base / "search"), "--budget", "bitops=3x3", "--out", str(tmp_path / "policy.json")])
    assert ended.value.code == 0, capsys.readouterr().err
    assert (tmp_path / "policy.json").is_file()


def test_every_group_has_a_case_in_the_suite() -> None:
    found = list(parameters())
    groups = {parameter.values[0].group for parameter in found}
    fast = [parameter for parameter in found if not parameter.marks]
    assert groups == {parameter.values[0].group for parameter in fast}
    assert 60 <= len(fast) <= 140 and len(found) > 500
