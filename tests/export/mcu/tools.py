"""What tests on emulated boards share: the mark, and programs written by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from mixbit.export.mcu import Board, Image, build
from mixbit.export.mcu._tools import missing_tools

_MISSING = missing_tools()


def needs_board(test: object) -> object:
    """Marks a test that compiles for a board and runs on it."""
    reason = f"needs {', '.join(_MISSING)}: make setup-mcu installs compiler and emulator"
    return pytest.mark.mcu(pytest.mark.skipif(bool(_MISSING), reason=reason)(test))


def program(folder: Path, board: Board, source: str, **settings: object) -> Image:
    """A program of one file."""
    (folder / "source").mkdir(parents=True)
    (folder / "source" / "main.c").write_text(source)
    return build(folder / "source", board, into=folder / "build", **settings)  # type: ignore[arg-type]
