"""The processor, from what Linux tells of it on several machines."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from mixbit.export import _machine
from mixbit.export._machine import machine_flags, machine_name

X86 = """processor\t: 0
model name\t: Some CPU @ 2.00GHz
flags\t\t: fpu avx2 avx512f avx512_vnni

processor\t: 1
model name\t: Other
flags\t\t: fpu amx_int8
"""
ARM = """processor\t: 0
BogoMIPS\t: 50.00
Features\t: fp asimd asimddp i8mm
"""


@pytest.mark.parametrize(
    ("text", "name", "flags"),
    [
        (X86, "Some CPU @ 2.00GHz", ("avx2", "avx512f", "avx512_vnni")),
        (ARM, "", ("asimddp", "i8mm")),
        ("", "", ()),
        (None, "", ()),
    ],
)
def test_name_and_flags_are_those_of_the_first_core(
    text: str | None, name: str, flags: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(_machine, "Path", lambda _: tmp_path / "cpuinfo")
    assert machine_flags() == flags
    for processor, machine in (("chip", "arch"), ("", "arch")):
        monkeypatch.setattr(platform, "processor", lambda told=processor: told)
        monkeypatch.setattr(platform, "machine", lambda told=machine: told)
        assert machine_name() == (name or processor or machine)
