"""The compiler and the emulator: programs of the system, found on the path."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from mixbit.errors import ExportError

__all__ = ["COMPILER", "EMULATOR", "PACKAGES", "SIZE", "find_tool", "missing_tools", "run_tool", "version_of"]

COMPILER = "arm-none-eabi-gcc"
SIZE = "arm-none-eabi-size"
EMULATOR = "qemu-system-arm"
PACKAGES = ("gcc-arm-none-eabi", "libnewlib-arm-none-eabi", "qemu-system-arm")
"""Packages of Debian and Ubuntu that the tools are in."""


def missing_tools() -> list[str]:
    """Programs that are not on the path."""
    return [name for name in (COMPILER, SIZE, EMULATOR) if shutil.which(name) is None]


def find_tool(name: str) -> str:
    """Path of a program.

    Raises:
        ExportError: it is not installed.
    """
    found = shutil.which(name)
    if found is None:
        raise ExportError(
            f"{name} is not on the path. Install it: make setup-mcu in a checkout, or on Debian and Ubuntu "
            f"apt-get install --no-install-recommends {' '.join(PACKAGES)}."
        )
    return found


def version_of(name: str) -> str:
    """Version of an installed program, the first number that it tells: `12.2.1`."""
    text = run_tool([find_tool(name), "--version"], what=f"ask {name} for its version")
    found = re.search(r"\d+\.\d+(\.\d+)?", text.splitlines()[0].replace("rel", ""))
    return found[0] if found else "unknown"


def run_tool(command: Sequence[str], *, what: str, cwd: Path | None = None) -> str:
    """Standard output of a program that must succeed.

    Raises:
        ExportError: it failed; the message holds the start of what it printed.
    """
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", cwd=cwd, check=False)
    if done.returncode != 0:
        told = "\n".join((done.stderr or done.stdout).strip().splitlines()[:12])
        raise ExportError(f"could not {what}: {Path(command[0]).name} ended with {done.returncode}.\n{told}")
    return done.stdout
