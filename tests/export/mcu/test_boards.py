"""The table of boards."""

from __future__ import annotations

from fractions import Fraction

import pytest

from mixbit.errors import ExportError
from mixbit.export.mcu import BOARDS, find_board


def test_boards_are_found_by_core_and_by_name() -> None:
    for core, board in BOARDS.items():
        assert find_board(core) is find_board(board.name) is board


def test_an_unknown_board_is_an_error_with_the_legal_ones() -> None:
    with pytest.raises(ExportError, match=r"cortex-m5.*mps2-an386.*Did you mean 'cortex-m55'"):
        find_board("cortex-m5")


def test_memories_do_not_overlap() -> None:
    for board in BOARDS.values():
        assert board.flash.origin + board.flash.size_bytes <= board.ram.origin


def test_ticks_are_whole_nanoseconds_of_the_clock() -> None:
    assert {board.instructions_per_tick for board in BOARDS.values()} == {Fraction(40), Fraction(125, 4)}
