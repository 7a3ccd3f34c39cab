"""What tests on emulated boards share: programs written by hand."""

from __future__ import annotations

from pathlib import Path

from mixbit.export.mcu import Board, Image, build


def program(folder: Path, board: Board, source: str, **settings: object) -> Image:
    """A program of one file."""
    (folder / "source").mkdir(parents=True)
    (folder / "source" / "main.c").write_text(source)
    return build(folder / "source", board, into=folder / "build", **settings)  # type: ignore[arg-type]
