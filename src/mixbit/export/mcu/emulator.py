"""A program on an emulated board: files in, files out, an exit code, and a clock that counts instructions."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mixbit.errors import ExportError
from mixbit.export.mcu._tools import EMULATOR, find_tool
from mixbit.export.mcu.image import Image

__all__ = ["FAULT", "Run", "run"]

FAULT = 250
"""Exit code of a program that left its memory or met an instruction that its core lacks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a program did."""

    exit_code: int
    files: dict[str, bytes]
    """Files that the program wrote, by name."""
    log: str
    """What the program printed."""


def run(image: Image, inputs: Mapping[str, bytes] | None = None, *, timeout_s: float = 600.0) -> Run:
    """Run a program under QEMU until it ends.

    Every instruction takes one nanosecond of the board's time (`-icount shift=0`), whatever the host does meanwhile, so
    SysTick counts instructions and two runs count alike. Instructions are not cycles: nothing waits for the flash, and
    no two are issued at once.

    Args:
        image: of `mixbit.export.mcu.build`.
        inputs: name -> content of files that the program can open.
        timeout_s: seconds on this machine.

    Raises:
        ExportError: the emulator is not installed or fails, or the program does not end in time.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name, content in (inputs or {}).items():
            (Path(folder) / name).write_bytes(content)
        code, log = _emulate(image, folder, timeout_s)
        written = {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.name not in (inputs or {})}
    return Run(exit_code=code, files=written, log=log)


def _emulate(image: Image, folder: str, timeout_s: float) -> tuple[int, str]:
    command = [find_tool(EMULATOR), "-M", image.board.name, "-nographic", "-monitor", "none", "-serial", "none"]
    command += ["-semihosting-config", "enable=on,target=native", "-icount", "shift=0", "-kernel"]
    try:
        done = subprocess.run(
            [*command, str(image.path.resolve())],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as cause:
        raise ExportError(
            f"the program on {image.board.name} did not end within {timeout_s:g} s. Give it fewer inputs or more time."
        ) from cause
    log = done.stdout.decode(errors="replace")
    if done.returncode < 0:
        raise ExportError(
            f"{EMULATOR} for {image.board.name} failed with signal {-done.returncode}: {log.strip()[:500]}"
        )
    return done.returncode, log
