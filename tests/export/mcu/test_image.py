"""Compiling and linking for a board, and the sizes that are read from the image."""

from __future__ import annotations

from pathlib import Path

import pytest

from mixbit.errors import ExportError
from mixbit.export.mcu import BOARDS, Sizes, build, find_board
from mixbit.export.mcu._linker import linker_script
from tests.export.mcu.tools import program
from tests.needs import needs

SOURCE = """
static const unsigned char constants[1000] = {1};
static unsigned char zeros[2000];
static unsigned char values[300] = {7};
int not_used(int x) { return x * 3; }
const unsigned char not_read[500] = {1};
int main(int count, char **words) { (void)words; return constants[count] + zeros[count]++ + values[count]++; }
"""


@needs("board")
@pytest.mark.parametrize("core", BOARDS)
def test_sizes_are_those_of_what_is_used(tmp_path: Path, core: str) -> None:
    image = program(tmp_path, find_board(core), SOURCE)
    sizes = image.model
    assert (sizes.rodata, sizes.data, sizes.bss) == (1000, 304, 2000)  # variables are rounded up to 8 bytes
    assert 0 < sizes.text < 100
    assert (sizes.flash, sizes.ram) == (sizes.text + 1304, 2304)
    assert image.total.flash > sizes.flash and image.total.bss >= sizes.bss


@needs("board")
def test_the_program_around_a_model_does_not_count(tmp_path: Path) -> None:
    model, main = tmp_path / "model", tmp_path / "main.c"
    model.mkdir()
    (model / "model.c").write_text("const char weights[64] = {1}; int infer(int x) { return weights[x]; }")
    main.write_text("static char buffer[4096]; int infer(int x);\nint main(void) { return infer(buffer[1]++); }")
    image = build(model, find_board("cortex-m4"), into=tmp_path / "build", program=[main])
    assert (image.model.rodata, image.model.bss) == (64, 0)
    assert image.total.bss >= 4096


@needs("board")
def test_a_program_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"(?s)link for mps3-an547.*RAM"):
        program(
            tmp_path, find_board("cortex-m55"), "char big[2080000]; int main(int n, char **w) { return big[n] + !w; }"
        )


@needs("board")
def test_a_file_that_does_not_compile_is_an_error_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"(?s)compile .*main\.c.*error"):
        program(tmp_path, find_board("cortex-m4"), "int main(void) { return }")


def test_no_source_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="holds no C file"):
        build(tmp_path, find_board("cortex-m4"), into=tmp_path / "build")


def test_a_missing_compiler_is_an_error_that_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        ExportError, match=r"arm-none-eabi-gcc is not on the path.*make setup-mcu.*libnewlib-arm-none-eabi"
    ):
        program(tmp_path, find_board("cortex-m4"), SOURCE)


def test_the_linker_script_has_the_board_s_memory() -> None:
    script = linker_script(find_board("cortex-m55"))
    assert "RAM (rwx) : ORIGIN = 0x21000000, LENGTH = 0x200000" in script
    assert "FLASH (rx) : ORIGIN = 0x0, LENGTH = 0x80000" in script


def test_sizes_add_up() -> None:
    sizes = Sizes(text=1, rodata=2, data=4, bss=8)
    assert (sizes.flash, sizes.ram) == (7, 12)
