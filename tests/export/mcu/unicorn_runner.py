"""Exported networks on an emulated Cortex-M4 from two packages of PyPI, where no compiler and no QEMU can be installed.

ziglang brings a C compiler and a linker for the core, unicorn a model of it. Nothing is emulated around the core: a
call of the network is a jump, and its result is read from memory. unicorn is under the GPL and for tests alone.
"""

from __future__ import annotations

import importlib.util
import itertools
import shutil
import struct
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mixbit.export.mcu import find_board

FREESTANDING = Path(__file__).parent / "freestanding"
_FLAGS = ("-std=c99", "-O2", "-Wall", "-ffunction-sections", "-fdata-sections", "-DMODEL_HOOK")
_FLASH, _RAM, _REGION = 0x10000, 0x20000000, 4 << 20
_EXIT = _FLASH + _REGION  # mapped, and holds nothing: an inference that returns here has ended
_TIMEOUT_US = 120_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Inference:
    """What one inference did."""

    output: bytes
    layers: list[bytes]
    """What each layer wrote."""
    instructions: list[int]
    """Of each layer, with the call of the hook."""
    total: int


def compile_zig(folder: Path, into: Path) -> Path:
    """The ELF file of a written folder, by clang and lld of the ziglang package."""
    ziglang = importlib.util.find_spec("ziglang")
    assert ziglang is not None and ziglang.origin is not None
    zig, headers = [sys.executable, "-m", "ziglang"], Path(ziglang.origin).parent / "lib" / "include"
    # `zig cc` takes one source a call, and linking through it gives an empty image without a word.
    compiler = [*zig, "clang", "-target", "thumb-none-eabi", "-mcpu=cortex-m4", "-mfloat-abi=soft", *_FLAGS]
    compiler += ["-nostdinc", f"-isystem{headers}", f"-I{FREESTANDING}"]
    return _compile(folder, into, compiler, [*zig, "ld.lld"], [FREESTANDING / "string.c"])


def compile_gcc(folder: Path, into: Path) -> Path:
    """The same by the compiler and the C library that `mixbit.export.mcu` uses under QEMU."""
    gcc = [str(shutil.which("arm-none-eabi-gcc")), *find_board("cortex-m4").flags]
    return _compile(
        folder, into, [*gcc, *_FLAGS], [*gcc, "-nostartfiles", "--specs=nosys.specs", "-Wl,--no-warn-rwx"], []
    )


def _compile(folder: Path, into: Path, compiler: list[str], linker: list[str], more: list[Path]) -> Path:
    into.mkdir(parents=True, exist_ok=True)
    sources = [folder / "model.c", folder / "weights.c", *sorted((folder / "kernels").glob("*.c")), *more]
    sources += [FREESTANDING / "program.c"]
    _call([*compiler, f"-I{folder}", f"-I{folder / 'kernels'}", "-c", *map(str, sources)], into)
    objects = [f"{source.stem}.o" for source in sources]
    _call([*linker, f"-T{FREESTANDING / 'program.ld'}", *objects, "-o", "program.elf"], into)
    return into / "program.elf"


def _call(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class Core:
    """A Cortex-M4 with a program in its memory."""

    def __init__(self, image: Path) -> None:
        import unicorn
        from unicorn import arm_const

        self._registers = arm_const
        self._emulator = unicorn.Uc(unicorn.UC_ARCH_ARM, unicorn.UC_MODE_THUMB | unicorn.UC_MODE_MCLASS)
        self._emulator.ctl_set_cpu_model(arm_const.UC_CPU_ARM_CORTEX_M4)
        elf = Elf.read(image)
        self._symbols = elf.symbols
        self._emulator.mem_map(_FLASH, _REGION + 0x1000)
        self._emulator.mem_map(_RAM, _REGION)
        for address, content in elf.segments:
            self._emulator.mem_write(address, content)
        self._emulator.hook_add(unicorn.UC_HOOK_CODE, self._step)
        self._count, self._marks = 0, list[tuple[int, bytes]]()
        self._blocks: dict[int, range] = {}
        self._lengths: dict[int, int] = {}
        self._block = range(0)

    def infer(self, stored: bytes, output_bytes: int) -> Inference:
        """Run the network once on an input as it lies in memory."""
        self._count, self._marks = 0, []
        self._emulator.mem_write(self._symbols["input"], stored)
        self._set("SP", _RAM + _REGION)
        self._set("LR", _EXIT | 1)
        self._emulator.emu_start(self._symbols["infer"] | 1, _EXIT, timeout=_TIMEOUT_US)
        assert (self._get("PC"), self._get("R0")) == (_EXIT, 0)
        counts = [at for at, _ in self._marks]
        return Inference(
            output=bytes(self._emulator.mem_read(self._symbols["output"], output_bytes)),
            layers=[content for _, content in self._marks[1:]],
            instructions=[after - before for before, after in itertools.pairwise(counts)],
            total=self._count,
        )

    def _step(self, _: Any, address: int, size: int, __: Any) -> None:
        """Before every instruction, but those of an if-then block whose condition does not hold.

        A core takes time for these as well, and QEMU counts them. So a block is counted as a whole when it begins.
        """
        if address in self._block:
            return
        if address == self._symbols["model_hook"] & ~1:
            content = bytes(self._emulator.mem_read(self._get("R1"), self._get("R2")))
            self._marks.append((self._count, content))
        if address not in self._blocks:
            self._blocks[address] = self._block_at(address) if size == 2 else range(0)
        self._block = self._blocks[address]
        self._count += 1 + self._lengths.get(address, 0)

    def _block_at(self, address: int) -> range:
        """The addresses that an if-then instruction governs: up to four instructions of two or four bytes."""
        word = self._half(address)
        if word >> 8 != 0xBF or not word & 0xF:
            return range(0)
        at, count = address + 2, 4 - ((word & -word).bit_length() - 1)
        for _ in range(count):
            at += 4 if self._half(at) >> 11 in (0b11101, 0b11110, 0b11111) else 2
        self._lengths[address] = count
        return range(address + 2, at)

    def _half(self, address: int) -> int:
        return int.from_bytes(self._emulator.mem_read(address, 2), "little")

    def _get(self, register: str) -> int:
        return int(self._emulator.reg_read(getattr(self._registers, f"UC_ARM_REG_{register}")))

    def _set(self, register: str, value: int) -> None:
        self._emulator.reg_write(getattr(self._registers, f"UC_ARM_REG_{register}"), value)


@dataclass(frozen=True, slots=True)
class Elf:
    """What is loaded of a 32-bit ELF file, and where its names are."""

    segments: list[tuple[int, bytes]] = field(default_factory=list)
    symbols: dict[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Elf:
        """Program headers of type LOAD, and the symbol table."""
        raw, found = path.read_bytes(), cls()
        programs, sections = struct.unpack_from("<II", raw, 28)
        program_size, program_count, section_size, section_count = struct.unpack_from("<HHHH", raw, 42)
        for at in range(programs, programs + program_size * program_count, program_size):
            kind, offset, address, _, size = struct.unpack_from("<5I", raw, at)
            if kind == 1 and size:
                found.segments.append((address, raw[offset : offset + size]))
        headers = [struct.unpack_from("<10I", raw, sections + section_size * at) for at in range(section_count)]
        for header in headers:
            if header[1] == 2:
                found.symbols.update(_symbols(raw, header, headers[header[6]]))
        return found


def _symbols(raw: bytes, table: tuple[int, ...], names: tuple[int, ...]) -> dict[str, int]:
    found = {}
    for at in range(table[4], table[4] + table[5], 16):
        name, value = struct.unpack_from("<II", raw, at)
        start = names[4] + name
        found[raw[start : raw.index(b"\0", start)].decode()] = value
    return found
