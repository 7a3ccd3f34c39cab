"""The command line: parses, calls, prints. `mixbit.runs` does the work, `mixbit.report` says how it looks."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

from mixbit._heap import keep_freed_memory
from mixbit.cli import _choosing, _looking, _shipping, _training  # noqa: F401  each registers its commands
from mixbit.cli._app import app
from mixbit.errors import MixbitError
from mixbit.report import Screen

__all__ = ["app", "main"]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0, 1 for an interruption, 2 for a wrong command or any `MixbitError`.

    A `MixbitError` is one message on standard error, without a traceback; other exceptions are bugs and keep theirs.
    """
    keep_freed_memory()
    try:
        app(arguments)
    except MixbitError as error:
        Screen(sys.stderr).error(f"Error: {error}")
        raise SystemExit(2) from None
    raise SystemExit(0)
