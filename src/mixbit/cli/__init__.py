"""The command line: parses, calls, prints. `mixbit.runs` does the work, `mixbit.report` says how it looks."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

from mixbit._heap import keep_freed_memory
from mixbit._io import file_error
from mixbit.cli import _choosing, _looking, _shipping, _training  # noqa: F401  each registers its commands
from mixbit.cli._app import app
from mixbit.errors import MixbitError, shown
from mixbit.report import Screen

__all__ = ["app", "main"]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0, 130 for an interruption, 2 for a wrong command or any `MixbitError`.

    A `MixbitError` is one message on standard error, without a traceback, and so is what the file system refuses and
    memory that is not there; other exceptions are bugs and keep theirs.
    """
    keep_freed_memory()
    try:
        app(arguments)
    except MixbitError as error:
        _fail(error)
    except OSError as error:
        if error.errno is None:
            raise
        _fail(file_error(error))
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        _fail(MixbitError(f"Out of memory: {shown(str(error))}. Take smaller images, batches or models."))
    raise SystemExit(0)


def _fail(error: MixbitError) -> NoReturn:
    Screen(sys.stderr).error(f"Error: {error}")
    raise SystemExit(2) from None


def _is_out_of_memory(error: Exception) -> bool:
    """PyTorch says it with a RuntimeError on the CPU, and with a subclass of it on a GPU."""
    return isinstance(error, MemoryError) or "allocate memory" in str(error) or "out of memory" in str(error)
