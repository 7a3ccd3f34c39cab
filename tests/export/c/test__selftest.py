"""What the self-test records: inputs over the whole range, and names as C reads them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from mixbit.errors import ExportError
from mixbit.export.c import COptions, build_program
from mixbit.export.c._selftest import _literal, checksum, recorded
from mixbit.integer import executor
from tests.export.graphs import Builder, rounded
from tests.needs import needs


@pytest.mark.parametrize("bits", [1, 2, 3, 8])
@pytest.mark.parametrize("signed", [False, True])
def test_inputs_that_nobody_gave_reach_both_ends(bits: int, signed: bool) -> None:
    b = Builder((30, 4), bits=max(bits, 1 + signed), signed=signed)
    graph = rounded(b.finish(b.linear(b.flatten(b.first), 2, bits=None)), "single")
    program = build_program(graph, COptions(vectors=40))
    found = recorded(program, None)
    stored, grid = executor.trace(graph, found)[program.input], graph.grid(program.input)
    assert found.shape == (40, 30, 4) and (stored.min(), stored.max()) == (grid.qmin, grid.qmax)
    assert len(np.unique(stored)) == grid.qmax - grid.qmin + 1
    given = np.random.default_rng(0).standard_normal((50, 30, 4))
    assert np.array_equal(recorded(program, given), given[:40].astype(np.float32))
    assert len(recorded(program, given[:3])) == 3
    for wrong in (given[:0], given[:, :3]):
        with pytest.raises(ExportError, match=r"legal is \(N, 30, 4\), N > 0"):
            recorded(program, wrong)


@needs("gcc")
def test_names_are_what_c_makes_of_them(tmp_path: Path) -> None:
    """With the trigraphs of C99, one of which would be a backslash."""
    names = ["plain.0", 'quoted "so"', "back\\slash", "what??/", "??(??)", "%s"]
    (tmp_path / "a.c").write_text(
        "#include <stdio.h>\nint main(void)\n{\n"
        + "".join(f'    puts("{_literal(name)}");\n' for name in names)
        + "    return 0;\n}\n"
    )
    subprocess.run(["gcc", "-std=c99", "-w", "-o", tmp_path / "a", tmp_path / "a.c"], check=True)
    printed = subprocess.run([tmp_path / "a"], check=True, capture_output=True, text=True).stdout
    assert printed.splitlines() == names


@pytest.mark.parametrize(("raw", "wanted"), [(b"", 0x811C9DC5), (b"a", 0xE40C292C), (b"foobar", 0xBF9CF968)])
def test_checksums_are_those_of_the_authors_of_fnv(raw: bytes, wanted: int) -> None:
    assert checksum(raw) == wanted
