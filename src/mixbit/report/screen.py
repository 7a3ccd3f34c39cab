"""Where the command line writes: rich in a terminal, plain text into files and pipes."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from mixbit.report.table import Table

__all__ = ["Screen"]


class Screen:
    """Prints tables and lines to one stream.

    Args:
        stream: default standard output, looked up at every write so that redirection works.
        rich: draw with colour and frames; default: whether the stream is a terminal.
        silent: write nothing, for the other processes of a distributed run.

    >>> Screen().next("mixbit", "allocate", "my runs/scores.json", "--budget", "bitops=3x3")
    Next: mixbit allocate 'my runs/scores.json' --budget bitops=3x3
    """

    def __init__(self, stream: TextIO | None = None, *, rich: bool | None = None, silent: bool = False) -> None:
        self._stream = stream
        self._rich = rich
        self._silent = silent
        self.also: list[str] = []
        """What the command of today was given that every next one needs, too."""

    @property
    def stream(self) -> TextIO:
        """The stream that is written to."""
        return sys.stdout if self._stream is None else self._stream

    @property
    def is_rich(self) -> bool:
        """Whether tables are drawn with colour and frames."""
        return self.stream.isatty() if self._rich is None else self._rich

    def say(self, text: str) -> None:
        """One line (or several) of plain text."""
        if not self._silent:
            self.stream.write(text + "\n")

    def show(self, table: Table) -> None:
        """A table, with an empty line behind it."""
        if not self.is_rich:
            self.say(table.plain() + "\n")
        elif not self._silent:
            self._draw(table)

    def files(self, files: Mapping[Path, str]) -> None:
        """Where the results are: path and what it holds."""
        width = max((len(str(path)) for path in files), default=0)
        for path, meaning in files.items():
            self.say(f"Wrote {path!s:{width}}  {meaning}")

    def next(self, *words: str | Sequence[str]) -> None:
        """The command to type next, quoted so that it can be pasted into a shell."""
        flat = [part for word in words for part in ([word] if isinstance(word, str) else word)]
        self.say(f"Next: {shlex.join([*flat, *self.also])}")

    def error(self, text: str) -> None:
        """One message in red, where the stream has colours."""
        self.say(f"\x1b[31m{text}\x1b[0m" if self.is_rich else text)

    def _draw(self, table: Table) -> None:
        from rich import box
        from rich.console import Console
        from rich.table import Table as Drawn
        from rich.text import Text

        drawn = Drawn(title=table.title or None, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
        for column, heading in enumerate(table.headings):
            right = table.right_aligned(column)
            drawn.add_column(heading, justify="right" if right else "left", no_wrap=right, overflow="fold")
        for row in table.rows:
            drawn.add_row(*(Text(cell) for cell in row))
        console = Console(file=self.stream, force_terminal=True, highlight=False)
        console.print(drawn)
        for note in table.notes:
            console.print(Text(note, style="dim"))
