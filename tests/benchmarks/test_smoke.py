"""Smoke versions of all benchmarks: seconds, marked, with the columns of the result file, and never written over it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.smoke import WITHOUT_SMOKE
from tests.needs import need
from tests.support import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import records
import registry

# What an entry needs, as tests call it.
NEEDS = {
    "data": ("shared",),
    "compiler": ("gcc",),
    "emulator": ("board",),
    "oracles": ("ripser", "ai_edge_litert"),
    "peers": ("peers",),
    "pymoo": ("pymoo",),
    "foolbox": ("foolbox",),
    "cmsis-nn": (),  # the smoke version goes without
    "stable-baselines3": (),  # likewise
    "quiet": (),
}


def commands() -> dict[str, tuple[list[str], set[str], set[str]]]:
    """Script -> its smoke commands in order, what they need, and the result files that they make some of."""
    found: dict[str, tuple[list[str], set[str], set[str]]] = {}
    for entry in registry.ENTRIES.values():
        for step in entry.steps:
            lines, needs, makes = found.setdefault(step.script, ([], set(), set()))
            lines += [step.smoke] if step.smoke not in lines else []
            needs |= set(entry.needs)
            makes |= {Path(file).stem for file in entry.makes}
    return found


COMMANDS = commands()


def contents() -> dict[str, str]:
    """Of all that a real run would write."""
    folders = (ROOT / "benchmarks" / "results", ROOT / "benchmarks" / "peers")
    paths = [path for folder in folders for path in folder.rglob("*.json")]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def run(line: str, folder: Path, warm: str) -> None:
    python = str(registry.PEERS) if line.startswith("peers/") else "python"
    environment = {**os.environ, "PATH": warm, "MIXBIT_SMOKE": str(folder), "OMP_NUM_THREADS": "1"}
    told = subprocess.run(
        [python, *f"benchmarks/{line}".split()], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800
    )
    assert told.returncode == 0, f"{line}\n{told.stdout[-2000:]}\n{told.stderr[-4000:]}"


LONG = {
    "against.py", "attack_findings.py", "certification.py", "cifar10_resnet20.py", "export_c.py", "kure.py",
    "limpq_step.py", "mcu_counts.py", "mlperf_tiny.py", "rl_policies.py", "supernet.py", "transfer.py",
}  # fmt: skip
"""Smoke runs of more than four seconds, a minute together: `make bench` runs them, the gate the others."""


def cases() -> Iterator[Any]:
    """The scripts; those of other toolkits run in an environment that only `make bench-peers` makes, and with it."""
    assert COMMANDS.keys() >= LONG
    for name in COMMANDS:
        if name not in WITHOUT_SMOKE:
            marks = [pytest.mark.bench] if name.startswith("peers/") or name in LONG else []
            yield pytest.param(name, id=name, marks=marks)


@pytest.mark.slow
@pytest.mark.parametrize("script", [*cases()])
def test_smoke(script: str, warm: str, tmp_path: Path) -> None:
    lines, needs, makes = COMMANDS[script]
    need(*(name for one in sorted(needs) for name in NEEDS[one]))
    before = contents()
    for line in lines:
        run(line, tmp_path, warm)
    assert contents() == before
    names = {path.stem for path in tmp_path.glob("*.json")}
    assert names and names <= makes
    for name in names:
        found = records.read(name, folder=tmp_path)
        assert found["made"] and all(maker["smoke"] for maker in found["made"]), name
        known = {part: rows for part, rows in found.items() if not is_pending(name, part)}
        assert list(differences(known, records.read(name, folder=real(name)))) == []


def is_pending(name: str, part: str) -> bool:
    """Whether a part of a result file was not run yet, so that there is nothing to compare with."""
    names = {f"results/{name}.json", f"results/{name}.json#{part}"}
    return any(names & {*entry.pending} for entry in registry.ENTRIES.values())


def real(name: str) -> Path:
    """The folder of a committed result file."""
    peers = ROOT / "benchmarks" / "peers" / "results"
    return peers if (peers / f"{name}.json").exists() else records.RESULTS


def columns(row: dict[str, Any]) -> set[str]:
    return {*row} - {"made", "key"}


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> Iterator[str]:
    """Where a smoke file is not built like the committed one: rows and parts have at least its columns."""
    for part in set(found) - {*records.HEAD}:
        if part not in wanted:
            yield f"{part} is not in the result file"
        elif part in records.tables(found):
            known = [columns(row) for row in wanted[part]]
            yield from (
                f"{part}: no row has the columns {sorted(row)}"
                for row in map(columns, found[part])
                if not any(one <= row for one in known)
            )
        else:
            yield from _pieces(part, found[part], wanted[part])


def _pieces(part: str, found: object, wanted: object) -> Iterator[str]:
    known = dict(records._pieces(part, wanted))
    for path, piece in records._pieces(part, found):
        others = [known[path]] if path in known else list(known.values())
        fits = any(not isinstance(one, dict) or (isinstance(piece, dict) and {*one} <= {*piece}) for one in others)
        if not fits:
            yield f"{path} has other parts than the result file's: {[*piece] if isinstance(piece, dict) else piece}"


def test_differences_are_seen() -> None:
    wanted = {"made": [{}], "made_by": {}, "rows": [{"case": 1, "ms": 2, "made": 0}], "steps": {"a": {"ms": 1, "n": 2}}}
    assert list(differences(wanted, wanted)) == []
    assert list(differences({"rows": [{"case": 1, "ms": 2, "seed": 0}]}, wanted)) == []
    assert list(differences({"steps": {"b": {"ms": 1, "n": 2}}}, wanted)) == []
    for changed in ({"rows": [{"case": 1}]}, {"steps": {"a": {"ms": 1}}}, {"steps": {"b": {"ms": 1}}}, {"more": 1}):
        assert len(list(differences(changed, wanted))) == 1
