"""What every benchmark shares: where the real data are, and how a result file is written."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import records
from mixbit import _io

ROOT = records.ROOT
RESULTS = records.RESULTS
CIFAR10 = "cifar-10-batches-bin"
RECORD_BYTES = 1 + 3 * 32 * 32
SMOKE_RECORDS = 256


def shared_data() -> Path:
    """The folder of real data and weights: MIXBIT_DATA, or ../shared/data beside the repository."""
    folder = Path(os.environ.get("MIXBIT_DATA", ROOT.parent / "shared" / "data"))
    if not folder.exists():
        sys.exit(f"{folder} does not exist. Set MIXBIT_DATA to the folder with weights/ and cifar10/.")
    return folder


def unpacked_data() -> Path:
    """Where the data sets lie as their standard binary files; unpacked on first use into an ignored folder."""
    folder = ROOT / "runs" / "data"
    if not (folder / CIFAR10 / "test_batch.bin").exists():
        subprocess.run([sys.executable, str(shared_data() / "unpack.py"), str(folder)], check=True)
    return folder


def smoking() -> bool:
    """Whether this process is a smoke run: asked before arguments are parsed, and far from where they are."""
    return "--smoke" in sys.argv


def cifar10_folder() -> Path:
    """The six files of CIFAR-10; for a smoke run the first `SMOKE_RECORDS` images of each, in files of their own."""
    whole = unpacked_data() / CIFAR10
    if not smoking():
        return whole
    few = ROOT / "runs" / f"data-of-{SMOKE_RECORDS}" / CIFAR10
    few.mkdir(parents=True, exist_ok=True)
    for path in whole.glob("*_batch*.bin"):
        if not (few / path.name).exists():
            with path.open("rb") as file, _io.new_file(few / path.name) as temporary:
                temporary.write_bytes(file.read(SMOKE_RECORDS * RECORD_BYTES))
    return few


def cifar10(**settings: object) -> str:
    """CIFAR-10 as mixbit's commands name it, with settings such as `size`.

    Args:
        settings: of `mixbit.data.cifar10`.
    """
    given = {**settings, **({"records": SMOKE_RECORDS} if smoking() else {})}
    query = "&".join(f"{name}={value}" for name, value in given.items())
    return f"cifar10:{cifar10_folder().resolve()}" + (f"?{query}" if query else "")


def write_result(
    name: str,
    payload: dict[str, Any],
    *,
    seed: int | list[int],
    libraries: Sequence[str] = ("torch",),
    smoke: bool = False,
    **made: Any,
) -> Path:
    """Write the parts of a result file; those that stand in it already, unchanged, keep what made them.

    Args:
        name: of the file, without `.json`.
        payload: all parts.
        seed: of what is new.
        libraries: distributions that it depends on.
        smoke: not the result: marked, and in the folder of smoke runs.
        made: more of what is new, such as `settings`.
    """
    marked = {"smoke": True, "folder": records.SMOKE} if smoke else {}
    return records.save(name, payload, seed=seed, versions=records.versions(libraries), **marked, **made)


def result(name: str) -> dict[str, Any]:
    """A result file with one row of each name, the one that was made last; see `records`."""
    return records.current(records.read(name))


def ran_on(found: dict[str, Any], made: Iterable[dict[str, Any] | str]) -> str:
    """Processor and load of what made these rows, or the parts of these paths.

    >>> made = [{"machine": {"cpu": "Xeon", "load": 1.2}}, {"machine": {"cpu": "EPYC"}}]
    >>> ran_on({"made": made, "made_by": {"all": 1}}, [{"made": 0}, {"made": 0}, "all"])
    'EPYC, load not recorded; Xeon, load 1.2'
    """
    machines = [records.maker(found, one)["machine"] for one in made]
    whole = found.get("load_average")  # of files of an older form, a number or three
    whole = whole[0] if isinstance(whole, list) else whole
    loads = [one.get("load", one.get("load_1_min", whole)) for one in machines]
    texts = ("not recorded" if load is None else f"{load:.1f}" for load in loads)
    return "; ".join(sorted({f"{one.get('cpu')}, load {text}" for one, text in zip(machines, texts, strict=True)}))


def row(rows: Iterable[dict[str, Any]], **named: Any) -> dict[str, Any]:
    """The one row of these names.

    Raises:
        LookupError: there is none, or there are several.

    >>> row([{"bits": 4, "ms": 1.5}, {"bits": 8, "ms": 2.5}], bits=8)["ms"]
    2.5
    """
    found = [one for one in rows if all(one.get(name) == value for name, value in named.items())]
    if len(found) != 1:
        raise LookupError(f"{len(found)} rows have {named}; one is asked for.")
    return found[0]


def markdown(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table; columns whose title begins with `>` are aligned right."""
    titles = list(columns)
    lines = ["| " + " | ".join(t.removeprefix(">") for t in titles) + " |"]
    lines.append("| " + " | ".join("---:" if t.startswith(">") else "---" for t in titles) + " |")
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def when_run(name: str, part: str) -> Callable[[Callable[[], str]], Callable[[], str]]:
    """A table of one part of a result file; where that was not run yet, it says so."""

    def around(table: Callable[[], str]) -> Callable[[], str]:
        def made() -> str:
            there = part in result(name)
            return table() if there else "Not run yet.\n"

        return made

    return around
