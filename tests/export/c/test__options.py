"""What each option of the written C changes: bytes, files and recorded inputs, by closed forms."""

from __future__ import annotations

import re
from functools import cache
from typing import Any, ClassVar

import numpy as np
import pytest

from mixbit.errors import ExportError
from mixbit.export.c import COptions, footprint, plan_memory, render_c
from mixbit.export.c._program import build_program
from mixbit.integer import IntegerGraph
from mixbit.testing.options import OptionCases, OptionRow, fields_of
from tests.export.graphs import Builder

PLACES, CHANNELS, TAPS = 5 * 6, 7, 3 * 3 * 3
"""Of the convolution: 7 rows of 27 weights of 3 bits."""


@cache
def network() -> IntegerGraph:
    """A map of 4 bits that an addition at 8 bits keeps alive while a convolution reads a copy of 4 bits."""
    b = Builder((3, 5, 6))
    b.rounding = "single"
    x = b.conv(b.first, CHANNELS, weight_bits=3, bits=8)
    narrow = b.requantize(x, bits=4)
    y = b.conv(narrow, CHANNELS, weight_bits=8, bits=8)
    y = b.add(y, x, bits=2)
    return b.finish(b.linear(b.flatten(y), 5, weight_bits=4, bits=None))


def files(**options: Any) -> dict[str, str]:
    return render_c(network(), options=COptions(**options))


def kernels(value: Any) -> tuple[list[str], str, list[int]]:
    """Second kernels, the line that switches them on, and scratch bytes by layer."""
    written = files(kernels=value)
    second = sorted(name for name in written if name.endswith("_dsp.c"))
    switch = next(line for line in written["mixbit_config.h"].splitlines() if "define MIXBIT_DSP" in line)
    program = build_program(network(), COptions(kernels=value))
    return second, switch, [step.printed.scratch_bytes for step in program.steps]


def kernels_differ(plain: Any, dsp: Any) -> bool:
    features = CHANNELS * PLACES
    up = {length: -(-length // 16) * 16 for length in (TAPS, 9 * CHANNELS, features)}
    names = [f"kernels/mixbit_{name}_dsp.c" for name in ("conv", "linear", "rows")]
    return bool(
        plain == ([], "#define MIXBIT_DSP 0", [TAPS, 9 * CHANNELS, 0, 0])
        and dsp == (names, "#define MIXBIT_DSP 1", [6 * up[TAPS], 6 * up[9 * CHANNELS], 0, 3 * up[features]])
    )


def weight_bytes(alignment: int) -> int:
    """Rows of 27 weights of 3 bits, of 63 of 8 bits and of 210 of 4 bits, each rounded up."""
    rows = {11: CHANNELS, 63: CHANNELS, 105: 5}
    return sum(-(-row // alignment) * alignment * count for row, count in rows.items())


def stored_bits(value: Any) -> list[int]:
    """Container of each tensor, as written: the input, the convolutions' maps, the sum and its vector."""
    tensors = build_program(network(), COptions(pack_activations=value, fold_requantize=False)).tensors
    return [one.bits for one in tensors.values()]


def folding(value: Any) -> tuple[list[str], int, int]:
    """Operations that are called, table bytes, arena bytes."""
    options = COptions(fold_requantize=value)
    steps = build_program(network(), options).steps
    found = footprint(network(), options=options)
    return [step.op.kind for step in steps], found.table_bytes, plan_memory(network(), options=options).arena_bytes


def recorded(value: Any) -> list[int]:
    """Numbers that the self-test records: inputs, outputs, checksums by layer."""
    text = re.sub(r"/\*.*?\*/", "", files(vectors=value)["selftest_vectors.h"].partition("selftest_layers")[0])
    return [text.count(",") - text.count("},"), text.count("},"), text.count(f"#define SELFTEST_VECTORS {value}\n")]


def recording(count: int) -> list[int]:
    steps = len(build_program(network(), COptions()).steps)
    return [count * (3 * PLACES + 5 + steps), 3 * count, 1]


class TestCOptions(OptionCases):
    """What is written, byte by byte."""

    owner = COptions
    options = fields_of(COptions)
    rows = (
        OptionRow("kernels", ("plain", "dsp"), seen=kernels, holds=kernels_differ, says="files and scratch"),
        OptionRow(
            "row_alignment",
            (1, 4),
            seen=lambda value: footprint(network(), options=COptions(row_alignment=value)).weight_bytes,
            holds=lambda one, four: (one, four) == (weight_bytes(1), weight_bytes(4)),
            says="bytes of a row",
        ),
        OptionRow(
            "row_alignment",
            (1, 4),
            seen=lambda value: files(row_alignment=value)["weights.h"],
            holds=lambda one, four: "model_0_weights[77]" in one and "model_0_weights[84]" in four,
            says="arrays as written",
        ),
        OptionRow(
            "pack_activations",
            (False, True),
            seen=stored_bits,
            holds=lambda off, on: (off, on) == ([8, 8, 8, 8, 8, 8], [8, 8, 4, 8, 2, 2]),
            says="containers",
        ),
        OptionRow(
            "pack_activations",
            (False, True),
            seen=lambda value: "MIXBIT_PACKED_ACTIVATIONS 1" in files(pack_activations=value)["mixbit_config.h"],
            holds=lambda off, on: (off, on) == (False, True),
            says="kernels that unpack",
        ),
        OptionRow(
            "fold_requantize",
            (True, False),
            seen=folding,
            holds=lambda on, off: (
                on[:2] == (["Conv", "Conv", "Add", "Linear"], 256)
                and off[:2] == (["Conv", "Requantize", "Conv", "Add", "Linear"], 0)
                and on[2] < off[2]
            ),
            says="a table for a copy",
        ),
        OptionRow(
            "vectors", (2, 3), seen=recorded, holds=lambda two, three: (two, three) == (recording(2), recording(3))
        ),
    )
    elsewhere: ClassVar = {
        "cmsis_nn": "tests/export/c/test_cmsis_nn.py::test_layers_of_8_bits_are_handed_over_and_the_others_say_why"
    }


def test_what_is_written_without_a_word_of_the_user() -> None:
    """Plain C99 of bytes, without requantized copies, with two recorded inputs."""
    said = COptions(
        kernels="plain", row_alignment=1, pack_activations=False, fold_requantize=True, cmsis_nn=None, vectors=2
    )
    assert COptions() == said
    assert render_c(network()) == render_c(network(), options=said)


@pytest.mark.parametrize(("option", "legal", "illegal"), [("vectors", (1, 10_000), (0, 10_001))])
def test_bounds(option: str, legal: tuple[int, ...], illegal: tuple[int, ...]) -> None:
    for value in legal:
        COptions(**{option: value})
    for value in illegal:
        with pytest.raises(ExportError, match=f"{option}={value} is illegal"):
            COptions(**{option: value})


def test_the_first_samples_are_recorded() -> None:
    samples = np.linspace(-1, 1, 4 * 3 * PLACES, dtype=np.float32).reshape(4, 3, 5, 6)
    three = render_c(network(), options=COptions(vectors=3), samples=samples)["selftest_vectors.h"]
    assert three == render_c(network(), options=COptions(vectors=3), samples=samples[:3])["selftest_vectors.h"]
    assert three != render_c(network(), options=COptions(vectors=3), samples=samples[1:])["selftest_vectors.h"]
