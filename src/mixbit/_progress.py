"""Progress bars with the time that is left; where the output is no terminal, one line when the work begins."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(label: str, total: int, *, quiet: bool = False) -> Iterator[Callable[[int, str], None]]:
    """Yields `advance(steps, text)`."""
    if quiet or not sys.stderr.isatty():
        if not quiet:
            sys.stderr.write(f"{label}: {total} steps\n")
        yield lambda _steps, _text: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=total)
        yield lambda steps, text: bar.update(task, advance=steps, description=f"{label} {text}")
