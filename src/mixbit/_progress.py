"""How far a long piece of work is: a bar on a terminal, and lines at growing intervals in a log file.

Both go to standard error, and only from the first of several processes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

from mixbit import _distributed

Advance = Callable[[int, str], None]
"""`advance(steps, text)`: so many steps more are done, and what there is to say of the last one."""

Item = TypeVar("Item")

FIRST_SECONDS, LONGEST_SECONDS = 5.0, 30.0
"""The interval between two lines begins with the first and doubles up to the second."""

_open_bars: list[str] = []


@contextmanager
def progress_bar(
    label: str, total: int | None, *, done: int = 0, quiet: bool = False, brief: bool = False
) -> Iterator[Advance]:
    """Show how far a piece of work is.

    Args:
        label: what is done.
        total: number of steps; None where it is not known before the end.
        done: steps that an earlier process did, which say nothing of the time that is left.
        quiet: show nothing.
        brief: often done within seconds; a log file gets no line before the first interval is over.

    Yields:
        `advance(steps, text)`.
    """
    if quiet or _distributed.rank() != 0:
        yield lambda _steps, _text: None
    elif sys.stderr.isatty():
        with _bar(label, total, done) as advance:
            yield advance
    else:
        lines = Lines(label, total, done, brief=brief)
        try:
            yield lines.advance
        except BaseException:
            lines.end("stopped")
            raise
        lines.end("ended" if total is not None and lines.done < total else "done")


def watched(items: Iterable[Item], advance: Advance, count: Callable[[Item], int], text: str = "") -> Iterator[Item]:
    """Items as they are asked for; when the next one is, the last one counts as done.

    >>> [item for item in watched("ab", lambda steps, text: print(steps, text), len, "letters")]
    1 letters
    1 letters
    ['a', 'b']
    """
    for item in items:
        yield item
        advance(count(item), text)


def announce(label: str, done: int, total: int, text: str) -> None:
    """A line before part `done + 1` of work whose parts show their own progress; on a terminal these are enough."""
    if _distributed.rank() == 0 and not sys.stderr.isatty():
        _write(f"{label}: part {done + 1} of {total}: {text}")


class Lines:
    """The lines of one piece of work: when it begins, at intervals from 5 s up to 30 s, and when it ends.

    Args:
        label, total, done, brief: see `progress_bar`.
        write: takes a line without its end.
        clock: gives seconds.

    >>> now = iter([0.0, 4.0, 5.0, 9.0, 16.0, 20.0])
    >>> lines = Lines("run", 40, 0, write=print, clock=lambda: next(now))
    run: 40 steps
    >>> for step in range(4):
    ...     lines.advance(8, f"loss {step}")
    run: 16/40 (40 %) in 0:00:05, 0:00:07 left, loss 1
    run: 32/40 (80 %) in 0:00:16, 0:00:04 left, loss 3
    >>> lines.end("stopped")
    run: stopped, 32/40 in 0:00:20, loss 3
    """

    def __init__(
        self,
        label: str,
        total: int | None,
        done: int = 0,
        *,
        brief: bool = False,
        write: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.label, self.total, self.before, self.done = label, total, done, done
        self._write, self._clock = _write if write is None else write, clock
        self._interval, self._text = FIRST_SECONDS, ""
        self._begun = clock()
        self._due = self._begun + self._interval
        steps = "begins" if total is None else f"{total} steps"
        self._opening = f"{label}: {steps}" + (f", {done} of them done before" if done else "")
        if not brief:
            self._open()

    def _open(self) -> None:
        if self._opening:
            self._write(self._opening)
        self._opening = ""

    def advance(self, steps: int, text: str) -> None:
        """So many steps more are done."""
        self.done, self._text = self.done + steps, text
        now = self._clock()
        if now < self._due:
            return
        self._open()
        self._write(f"{self.label}: {self._share()} in {_spell(now - self._begun)}{self._left(now)}{self._said()}")
        self._interval = min(2 * self._interval, LONGEST_SECONDS)
        self._due = now + self._interval

    def end(self, how: str) -> None:
        """The last line; `how` is "done", "ended" (before the last step) or "stopped" (by an error)."""
        if self._opening:
            return
        self._write(f"{self.label}: {how}, {self._count()} in {_spell(self._clock() - self._begun)}{self._said()}")

    def _count(self) -> str:
        return f"{self.done} steps" if self.total is None else f"{self.done}/{self.total}"

    def _share(self) -> str:
        percent = f" ({100 * self.done // self.total} %)" if self.total else ""
        return f"{self._count()}{percent}"

    def _left(self, now: float) -> str:
        made = self.done - self.before
        if self.total is None or made <= 0 or self.done > self.total:
            return ""
        return f", {_spell((now - self._begun) / made * (self.total - self.done))} left"

    def _said(self) -> str:
        return f", {self._text}" if self._text else ""


def _spell(seconds: float) -> str:
    return str(timedelta(seconds=int(seconds)))


def _write(line: str) -> None:
    # A label may be the name of a file, whose bytes need not be text in the encoding of the stream.
    encoding = sys.stderr.encoding or "utf-8"
    sys.stderr.write(f"{line}\n".encode(encoding, "backslashreplace").decode(encoding))
    sys.stderr.flush()


@contextmanager
def _bar(label: str, total: int | None, done: int) -> Iterator[Advance]:
    """A bar with the time that is left; inside another bar it is not shown, as a terminal has one place for it."""
    if _open_bars:
        yield lambda _steps, _text: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    _open_bars.append(label)
    try:
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(label, total=total, completed=done)
            yield lambda steps, text: bar.update(task, advance=steps, description=f"{label} {text}")
    finally:
        _open_bars.pop()
