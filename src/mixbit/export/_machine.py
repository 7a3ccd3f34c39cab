"""The processor of this machine, as far as it decides how fast a runtime is."""

from __future__ import annotations

import platform
from pathlib import Path

__all__ = ["machine_flags", "machine_name"]

_FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8", "asimddp", "i8mm")


def machine_name() -> str:
    """Model of this machine's processor."""
    return _cpuinfo().get("model name", "") or platform.processor() or platform.machine()


def machine_flags() -> tuple[str, ...]:
    """What this processor has of the instructions that decide which kernels a runtime takes; empty off Linux."""
    found = _cpuinfo()
    there = (found.get("flags") or found.get("Features", "")).split()
    return tuple(flag for flag in _FLAGS if flag in there)


def _cpuinfo() -> dict[str, str]:
    """Of the first core, as Linux tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(errors="replace").split("\n\n")[0].splitlines() if path.exists() else []
    parts = (line.partition(":") for line in lines)
    return {key.strip(): value.strip() for key, _, value in parts}
