"""Several processes on one run folder: whoever holds the lock of a part of the work does it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mixbit import _io


class Busy(Exception):
    """Another process does this part at the moment."""


@contextmanager
def hold(folder: Path, *, wait: bool) -> Iterator[None]:
    """Keep `folder` to this process for the block; the system lets go of it when the process dies.

    Where the system has no such locks (Windows), nothing is kept and one process at a time is right.

    Raises:
        Busy: another process holds it, and `wait` is False.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    _io.make_folder(folder)
    with _io.filesystem(folder / ".lock"):
        file = (folder / ".lock").open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy from None
        yield
