"""The command line: parses, calls, prints. `mixbit.runs` does the work, `mixbit.report` says how it looks."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

from mixbit._heap import keep_freed_memory
from mixbit._io import file_error
from mixbit.cli import _choosing, _looking, _shipping, _supernet, _training  # noqa: F401  each registers its commands
from mixbit.cli._app import app, imports_first
from mixbit.errors import MixbitError, shown
from mixbit.report import Screen

__all__ = ["app", "main"]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0, 130 for an interruption, 2 for a wrong command or any `MixbitError`.

    A `MixbitError` is one message on standard error, without a traceback, and so is what the file system refuses and
    memory that is not there; other exceptions are bugs and keep theirs. Code of a model or task that leaves the program
    is an error, too: its status would pass for that of a command that is done.
    """
    keep_freed_memory()
    try:
        app(imports_first(sys.argv[1:] if arguments is None else arguments))
    except SystemExit as leaving:
        place = _place(leaving)
        if place is None:
            raise
        _fail(MixbitError(f"Code of the model or task left the program ({leaving.code!r}) in {place}. Take that out."))
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


def _place(leaving: SystemExit) -> str | None:
    """File and line of the statement that ended the process; None for the parser of commands, which ends them all."""
    last = leaving.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None or str(last.tb_frame.f_globals.get("__name__")).partition(".")[0] in ("click", "typer"):
        return None
    return f"{last.tb_frame.f_code.co_filename}:{last.tb_lineno}"


def _is_out_of_memory(error: Exception) -> bool:
    """PyTorch says it with a RuntimeError on the CPU, and with a subclass of it on a GPU."""
    return isinstance(error, MemoryError) or "allocate memory" in str(error) or "out of memory" in str(error)
