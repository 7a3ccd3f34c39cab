"""Several processes on one run folder: whoever holds the lock of a part of the work does it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from mixbit import _io


class Busy(Exception):
    """Another process does this part at the moment."""


@contextmanager
def hold(folder: Path, *, wait: bool) -> Iterator[None]:
    """Keep `folder` to this process for the block; the system lets go of it when the process dies.

    Raises:
        Busy: another process holds it, and `wait` is False.
    """
    _io.make_folder(folder)
    with ExitStack() as stack:
        try:
            stack.enter_context(_io.locked(folder / ".lock", wait=wait))
        except BlockingIOError:
            raise Busy from None
        yield
