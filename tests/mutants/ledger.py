"""What is known of mutants: results that a killed run left, and verdicts on survivors."""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.mirror import ROOT
from tests.mutants.mutant import Mutant
from tests.mutants.workshop import Outcome

HERE = Path(__file__).resolve().parent
LISTED = "listed"  # the operator of a mistake that a table of ours names


def stamp(paths: Iterable[Path]) -> str:
    """Of the contents of files, whatever their names."""
    found = hashlib.sha256()
    for path in paths:
        found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()[:16]


class Ledger:
    """Results by the key of the mutant and the contents that they were found with; written whole after each one.

    A result holds until its source, or a test of its mirror, is another.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, dict[str, Any]] = {"clean": {}, "mutants": {}}
        if path.exists():
            self.found.update(json.loads(path.read_text()))

    def get(self, kind: str, key: str, mark: str) -> Outcome | None:
        """What was found of `key` with these contents, or None."""
        entry = self.found[kind].get(key)
        return Outcome(**entry["outcome"]) if entry is not None and entry["stamp"] == mark else None

    def put(self, kind: str, key: str, mark: str, outcome: Outcome) -> None:
        """Keep it, on disk too."""
        fields = {name: getattr(outcome, name) for name in ("status", "seconds", "cpu", "tail")}
        self.found[kind][key] = {"stamp": mark, "outcome": fields}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_suffix(".part")
        beside.write_text(json.dumps(self.found, indent=1))
        os.replace(beside, self.path)


def judged(path: Path = HERE / "survivors.toml") -> dict[str, str]:
    """Key of a survivor -> why it is harmless: no test could, or need, tell it from the code as it stands.

    Raises:
        ValueError: an entry without a reason, or the same mutant twice.
    """
    found: dict[str, str] = {}
    for row in tomllib.loads(path.read_text()).get("harmless", []):
        reason = str(row.pop("reason", "")).strip()
        key = Mutant(**row).key
        if not reason or key in found:
            raise ValueError(f"{path.name}: {'no reason' if not reason else 'twice'}: {key}")
        found[key] = reason
    return found


def as_toml(mutant: Mutant) -> str:
    """An entry for survivors.toml, its reason still to be written."""
    rows = [
        ("file", mutant.file),
        ("where", mutant.where),
        ("operator", mutant.operator),
        ("old", mutant.old),
        ("new", mutant.new),
    ]
    lines = ["[[harmless]]", *(f"{name} = {json.dumps(text, ensure_ascii=False)}" for name, text in rows)]
    lines += [f"count = {mutant.count}"] if mutant.count else []
    return "\n".join([*lines, 'reason = ""', ""])


def listed(path: Path = HERE / "c.toml", root: Path = ROOT) -> list[Mutant]:
    """Mistakes in C, which no tool makes: a table of ours. `where` is the id of the row.

    Raises:
        ValueError: a text that is not there exactly once.
    """
    found = []
    for row in tomllib.loads(path.read_text())["mutant"] if path.exists() else []:
        times = (root / row["file"]).read_text().count(row["old"])
        if times != 1:
            raise ValueError(f"{path.name}, {row['id']}: {row['old']!r} is {times} times in {row['file']}.")
        found.append(Mutant(row["file"], row["id"], LISTED, row["old"], row["new"]))
    return found
