"""Makes tables of the pages anew, by the commands of `registry`: `make table-NAME`, `make tables`.

    python benchmarks/remake.py NAME ... [--fresh] [--smoke]      tables, or the targets bench, bench-arena, ...
    python benchmarks/remake.py --list

Every command says what its result file has, which it reuses, and what it makes; one that was stopped goes on where it
was. At the end the pages are filled from the result files. `--smoke` runs seconds' worth of each command, writes to
runs/smoke/ and leaves the pages as they are.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence

import records
from registry import ENTRIES, GROUPS, NEEDS, Entry, Step


def entries(names: Iterable[str]) -> dict[str, Entry]:
    """Entries of tables and targets, each set of commands once.

    Raises:
        SystemExit: an unknown name.
    """
    found: dict[str, Entry] = {}
    for name in names:
        for table in GROUPS.get(name, (name,)):
            if table not in ENTRIES:
                raise SystemExit(
                    f"There is no table {name!r}. Legal: {', '.join(sorted(ENTRIES))}; or all of a target: "
                    f"{', '.join(GROUPS)}. make tables lists what each needs and takes."
                )
            if ENTRIES[table] not in found.values():
                found[table] = ENTRIES[table]
    return found


def missing(entry: Entry) -> list[str]:
    """What is not on this machine, with the remedy."""
    gone = [NEEDS[name] for name in entry.needs if not NEEDS[name].there()]
    return [f"{one.text} ({one.remedy})" for one in gone]


def steps(chosen: dict[str, Entry]) -> list[Step]:
    """All commands in order, each once: tables may begin with the same training."""
    return list(dict.fromkeys(step for entry in chosen.values() for step in entry.steps))


def words(step: Step, *, smoke: bool = False, fresh: bool = False) -> list[str]:
    """Of the process: interpreter, script, arguments with their environment variables filled in."""
    script, *rest = os.path.expandvars(step.smoke if smoke else step.words).split()
    more = ["--fresh"] if fresh else []
    return [str(step.python or sys.executable), f"benchmarks/{script}", *rest, *more]


def run(chosen: dict[str, Entry], *, smoke: bool, fresh: bool) -> None:
    """Every command, one by one.

    Raises:
        SystemExit: one fails.
    """
    todo = steps(chosen)
    lines = list(dict.fromkeys(tuple(words(step, smoke=smoke, fresh=fresh)) for step in todo))
    for number, line in enumerate(lines, 1):
        print(f"[{number}/{len(lines)}] {shown(line)}", flush=True)
        code = subprocess.run(line, cwd=records.ROOT, env={"OMP_NUM_THREADS": "1", **os.environ}).returncode
        if code:
            raise SystemExit(
                f"{shown(line)} ended with exit status {code}. What it finished is kept: the same command goes on."
            )


def shown(line: Sequence[str]) -> str:
    """A command as it is typed at the repository's root."""
    peers = ".venv-peers/bin/python" if ".venv-peers" in line[0] else "python"
    return " ".join([peers, *line[1:]])


def listing() -> str:
    """All tables with what they take, what they need and their commands."""
    blocks: dict[Entry, list[str]] = {}
    for name, entry in ENTRIES.items():
        blocks.setdefault(entry, []).append(name)
    return "\n".join(_block(names, entry) for entry, names in blocks.items())


def _block(names: Sequence[str], entry: Entry) -> str:
    needs = ", ".join(NEEDS[name].text for name in entry.needs) or "nothing beside make"
    lines = [f"{', '.join(names)}", f"  takes {entry.cost}; needs {needs}"]
    lines += [f"  {step.shown}" for step in entry.steps]
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    found = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    found.add_argument("names", nargs="*", metavar="NAME", help="tables, or targets such as bench-arena")
    found.add_argument("--list", action="store_true", help="all tables, what they need and take")
    records.arguments(found)
    return found


def main() -> None:
    given = parser().parse_args()
    if given.list or not given.names:
        print(listing())
        return
    chosen = entries(given.names)
    for name, entry in chosen.items():
        print(_block([name], entry))
        if gone := missing(entry):
            raise SystemExit(f"{name} needs what is not here: {'; '.join(gone)}.")
    run(chosen, smoke=given.smoke, fresh=given.fresh)
    if not given.smoke:
        subprocess.run([sys.executable, "benchmarks/tables.py", "--write"], cwd=records.ROOT, check=True)
        print("The pages are filled from the result files.")


if __name__ == "__main__":
    main()
