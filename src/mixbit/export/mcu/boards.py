"""The emulated boards: which core, which memory, which compiler flags, and how their clock counts instructions."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from mixbit.errors import ExportError, did_you_mean

__all__ = ["BOARDS", "Board", "Region", "find_board"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A piece of memory."""

    origin: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """A machine of QEMU."""

    name: str
    """As QEMU calls it."""
    core: str
    """As compilers call it: `cortex-m4`."""
    flags: tuple[str, ...]
    """Flags of the compiler and the linker for this core."""
    flash: Region
    ram: Region
    systick_hz: int
    """Ticks a second of SysTick on the processor clock."""

    @property
    def instructions_per_tick(self) -> Fraction:
        """Instructions of one SysTick tick, where every instruction takes a nanosecond (`-icount shift=0`).

        >>> find_board("cortex-m4").instructions_per_tick, find_board("cortex-m55").instructions_per_tick
        (Fraction(40, 1), Fraction(125, 4))
        """
        return Fraction(10**9, self.systick_hz)


_MPS2 = {
    "flash": Region(origin=0, size_bytes=4 << 20),
    "ram": Region(origin=0x20000000, size_bytes=4 << 20),
}

BOARDS = {
    board.core: board
    for board in (
        Board(name="mps2-an385", core="cortex-m3", flags=("-mcpu=cortex-m3",), systick_hz=25_000_000, **_MPS2),
        Board(
            name="mps2-an386",
            core="cortex-m4",
            flags=("-mcpu=cortex-m4", "-mfloat-abi=hard"),
            systick_hz=25_000_000,
            **_MPS2,
        ),
        Board(
            name="mps2-an500",
            core="cortex-m7",
            flags=("-mcpu=cortex-m7", "-mfloat-abi=hard"),
            systick_hz=25_000_000,
            **_MPS2,
        ),
        Board(
            name="mps3-an547",
            core="cortex-m55",
            flags=("-mcpu=cortex-m55", "-mfloat-abi=hard"),
            flash=Region(origin=0, size_bytes=512 << 10),
            ram=Region(origin=0x21000000, size_bytes=2 << 20),
            systick_hz=32_000_000,
        ),
    )
}
"""Core -> the board that stands for it."""


def find_board(name: str) -> Board:
    """The board of a core, or the board of that name.

    >>> find_board("cortex-m7").name, find_board("mps2-an386").core
    ('mps2-an500', 'cortex-m4')

    Raises:
        ExportError: there is none.
    """
    boards = BOARDS | {board.name: board for board in BOARDS.values()}
    if name not in boards:
        raise ExportError(f"no board {name!r}. Legal: {', '.join(boards)}.{did_you_mean(name, boards)}")
    return boards[name]
