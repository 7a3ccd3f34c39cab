"""From C files to a program for a board, and what it takes of flash and RAM."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mixbit import _io
from mixbit.errors import ExportError
from mixbit.export.mcu._linker import MODEL_FOLDER, linker_script
from mixbit.export.mcu._tools import COMPILER, SIZE, find_tool, run_tool
from mixbit.export.mcu.boards import Board

__all__ = ["FIRMWARE", "FLAGS", "Image", "Sizes", "build", "compile_sources", "section_sizes"]

FIRMWARE = Path(__file__).parent / "firmware"
"""Startup code and the programs that run a model on a board."""
FLAGS = ("-std=c99", "-O2", "-Wall", "-Wextra", "-ffunction-sections", "-fdata-sections")
"""Flags of the compiler for every file."""
_FIRMWARE_FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-ffunction-sections", "-fdata-sections")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Bytes of an image by section.

    >>> sizes = Sizes(text=900, rodata=100, data=24, bss=4096)
    >>> sizes.flash, sizes.ram
    (1024, 4120)
    """

    text: int
    """Bytes of machine code."""
    rodata: int
    """Constants, among them the weights."""
    data: int
    """Variables with a value at the start: in RAM, and their values in flash."""
    bss: int
    """Variables that start as zero, among them the arena."""

    @property
    def flash(self) -> int:
        """`text + rodata + data`."""
        return self.text + self.rodata + self.data

    @property
    def ram(self) -> int:
        """`data + bss`, without the stack."""
        return self.data + self.bss


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A program for a board."""

    path: Path
    """Path of the ELF file."""
    board: Board
    model: Sizes
    """Sizes of the model's own files, as far as the program uses them."""
    total: Sizes
    """With the startup code, the program around the model, and the C library."""


def build(
    folder: Path,
    board: Board,
    *,
    into: Path,
    sources: Sequence[Path] | None = None,
    program: Sequence[Path] = (),
    include: Sequence[Path] = (),
    defines: Iterable[str] = (),
    flags: Sequence[str] = FLAGS,
    objects: Sequence[Path] = (),
) -> Image:
    """Compile a folder of C files for a board and link them with the startup code.

    Functions and constants that nothing uses are left out of the image.

    Args:
        folder: the model; it is on the search path of headers.
        board: see `mixbit.export.mcu.find_board`.
        into: folder for objects, map and image; it is made.
        sources: C files of the model; None takes all of the folder.
        program: further C files, whose sizes do not count as the model's; one of all files has `main`.
        include: further folders of headers.
        defines: for the preprocessor, `NAME` or `NAME=VALUE`.
        flags: of the compiler, for the model and the program.
        objects: of the model, compiled before, see `compile_sources`.

    Raises:
        ExportError: there is no C file, the compiler is not installed, a file does not compile, or the program does not
            fit into the board's memory.
    """
    mine = sorted(folder.glob("*.c")) if sources is None else list(sources)
    if not (mine or program):
        raise ExportError(f"{folder} holds no C file. Give the folder that the export wrote.")
    headers, defines, script = (folder, *include), tuple(defines), into / "board.ld"
    compiled = [*objects]
    for files, options, part in (
        (mine, flags, MODEL_FOLDER),
        (program, flags, "program"),
        ([FIRMWARE / "startup.c"], _FIRMWARE_FLAGS, "firmware"),
    ):
        compiled += compile_sources(files, board, into=into / part, include=headers, defines=defines, flags=options)
    _io.write_text(script, linker_script(board))
    image = into / "image.elf"
    link = [
        "-nostartfiles",
        "--specs=rdimon.specs",
        f"-T{script}",
        "-Wl,--gc-sections",
        f"-Wl,-Map={into / 'image.map'}",
    ]
    # The linker warns of a segment that is both writable and executable, as flash without an operating system is.
    link += ["-Wl,--no-warn-rwx-segments"] if _knows_rwx() else []
    run_tool(
        [find_tool(COMPILER), *board.flags, *link, *map(str, compiled), "-o", str(image)], what=f"link for {board.name}"
    )
    sections = section_sizes(image)
    model = _sizes(sections, prefix=f".{MODEL_FOLDER}")
    return Image(path=image, board=board, model=model, total=_sum(model, _sizes(sections, prefix="")))


def compile_sources(
    sources: Sequence[Path],
    board: Board,
    *,
    into: Path,
    include: Sequence[Path] = (),
    defines: Iterable[str] = (),
    flags: Sequence[str] = FLAGS,
) -> list[Path]:
    """Compile C files for a board.

    Args:
        sources: C files.
        board: as in `build`.
        into: folder for objects, which is made. Those below a folder named `model` count as the model's.
        include: folders of headers, beside the board's own.
        defines: as in `build`.
        flags: as in `build`.

    Returns:
        The objects, one a source.

    Raises:
        ExportError: the compiler is not installed, or a file does not compile.
    """
    into.mkdir(parents=True, exist_ok=True)
    shared = [*board.flags, *flags, *(f"-D{name}" for name in defines), *(f"-I{one}" for one in (*include, FIRMWARE))]
    objects = [into / f"{source.stem}.o" for source in sources]
    for source, to in zip(sources, objects, strict=True):
        run_tool([find_tool(COMPILER), *shared, "-c", str(source), "-o", str(to)], what=f"compile {source}")
    return objects


@cache
def _knows_rwx() -> bool:
    """Since binutils 2.39."""
    return "--no-warn-rwx-segments" in run_tool(
        [find_tool(COMPILER), "-Wl,--help"], what="ask the linker for its options"
    )


def section_sizes(path: Path) -> dict[str, int]:
    """Section -> bytes of an ELF file."""
    text = run_tool([find_tool(SIZE), "-A", "-d", str(path)], what=f"read the sizes of {path}")
    rows = (line.split() for line in text.splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) == 3 and row[0].startswith(".")}


def _sizes(sections: Mapping[str, int], *, prefix: str) -> Sizes:
    text, rodata, data, bss = (sections.get(f"{prefix}.{name}", 0) for name in ("text", "rodata", "data", "bss"))
    if not prefix:
        text += sections.get(".vectors", 0)
        rodata += sections.get(".ARM.exidx", 0)
    return Sizes(text=text, rodata=rodata, data=data, bss=bss)


def _sum(first: Sizes, second: Sizes) -> Sizes:
    return Sizes(
        text=first.text + second.text,
        rodata=first.rodata + second.rodata,
        data=first.data + second.data,
        bss=first.bss + second.bss,
    )
