"""Programs on emulated boards: exit codes, files, faults, time limits, and the count of instructions."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import pytest

from mixbit.errors import ExportError
from mixbit.export.mcu import BOARDS, find_board, run
from mixbit.export.mcu.emulator import FAULT
from tests.export.mcu.tools import program
from tests.needs import needs

ECHO = """
#include "board.h"
int main(void) {
  static char bytes[300];
  int from = board_open("in", "rb"), to = board_open("out", "wb");
  size_t count = board_read(from, bytes, sizeof bytes);
  bytes[0] = (char)(bytes[0] + 1);
  board_write(to, bytes, count);
  board_close(to);
  board_log("echoed\\n");
  return board_open("nothing", "rb") < 0 ? 42 : 1;
}
"""

COUNTED = """
#include "board.h"
/* Two instructions a turn. */
static void turn(uint32_t times) { __asm__ volatile("1: subs %0, %0, #1\\n bne 1b" : "+r"(times) : : "cc"); }
int main(void) {
  uint64_t found[4];
  board_start_ticks();
  found[0] = board_ticks();
  turn(TURNS);
  found[1] = board_ticks();
  turn(2 * TURNS);
  found[2] = board_ticks();
  found[3] = board_stack_used();
  int to = board_open("ticks", "wb");
  board_write(to, found, sizeof found);
  board_close(to);
  return 0;
}
"""


@needs("board")
@pytest.mark.parametrize("core", BOARDS)
def test_files_go_in_and_out_and_the_exit_code_comes_back(tmp_path: Path, core: str) -> None:
    content = bytes(range(256))
    found = run(program(tmp_path, find_board(core), ECHO), {"in": content})
    assert found.exit_code == 42
    assert found.files == {"out": b"\x01" + content[1:]}
    assert found.log == "echoed\n"


@needs("board")
def test_a_c_library_may_be_used(tmp_path: Path) -> None:
    main = 'FILE *f = fopen("a", "w"); fprintf(f, "%.2f", 1.5); printf("b"); return 3;'
    source = f"#include <stdio.h>\nint main(void) {{ {main} }}"
    found = run(program(tmp_path, find_board("cortex-m4"), source))
    assert (found.exit_code, found.files, found.log) == (3, {"a": b"1.50"}, "b")


@needs("board")
@pytest.mark.parametrize("core", BOARDS)
def test_a_loop_of_known_length_is_counted_exactly(tmp_path: Path, core: str) -> None:
    """To one tick, and a handful of instructions around the loop."""
    board = find_board(core)
    first, second, _ = _count(tmp_path, core, 100_000)
    assert abs(first * board.instructions_per_tick - 200_000) <= board.instructions_per_tick
    assert abs(second * board.instructions_per_tick - 400_000) <= board.instructions_per_tick


@needs("board")
def test_the_count_goes_on_when_the_counter_overflows(tmp_path: Path) -> None:
    """2^24 ticks of 40 instructions are 671 million; here it has 16 bits, and overflows twice in the second loop.

    The handler takes a few instructions.
    """
    first, second, _ = _count(tmp_path, "cortex-m4", 1_500_000, "SYSTICK_PERIOD=0x10000u")
    assert first == pytest.approx(75_000, abs=3)
    assert second == pytest.approx(150_000, abs=3)


@needs("board")
def test_two_runs_count_alike(tmp_path: Path) -> None:
    image = program(tmp_path, find_board("cortex-m7"), COUNTED, defines=["TURNS=12345"])
    assert run(image).files == run(image).files


@needs("board")
def test_the_stack_in_use_is_told(tmp_path: Path) -> None:
    *_, little = _count(tmp_path / "little", "cortex-m4", 10)
    hungry = "__attribute__((noinline)) void turn(uint32_t n) { volatile char on_stack[5000]; on_stack[0] = (char)n; }"
    image = program(
        tmp_path,
        find_board("cortex-m4"),
        COUNTED.replace("static void turn(", f"{hungry}\nvoid gone("),
        defines=["TURNS=1"],
    )
    assert 5000 <= _ticks(run(image).files["ticks"])[-1] < 5200
    assert 0 < little < 200


@needs("board")
@pytest.mark.parametrize("core", BOARDS)
def test_a_fault_ends_the_program(tmp_path: Path, core: str) -> None:
    found = run(program(tmp_path, find_board(core), "int main(void) { return *(volatile int *)0xF0000000; }"))
    assert found.exit_code == FAULT
    assert "fault" in found.log


@needs("board")
def test_a_program_that_does_not_end_is_stopped(tmp_path: Path) -> None:
    image = program(tmp_path, find_board("cortex-m3"), 'int main(void) { for (;;) __asm__ volatile(""); }')
    with pytest.raises(ExportError, match=r"did not end within 0\.5 s"):
        run(image, timeout_s=0.5)


@needs("board")
def test_a_missing_emulator_is_an_error_that_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = program(tmp_path, find_board("cortex-m4"), ECHO)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ExportError, match=r"qemu-system-arm is not on the path.*make setup-mcu"):
        run(image)


def _count(folder: Path, core: str, turns: int, *defines: str) -> tuple[Fraction, Fraction, int]:
    """Ticks of the two loops, and the stack in use."""
    found = run(program(folder, find_board(core), COUNTED, defines=[f"TURNS={turns}", *defines]))
    start, middle, end, stack = _ticks(found.files["ticks"])
    return Fraction(middle - start), Fraction(end - middle), stack


def _ticks(raw: bytes) -> tuple[int, ...]:
    return struct.unpack("<4Q", raw)
