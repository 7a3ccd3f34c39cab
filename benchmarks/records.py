"""Result files whose every row says how it was made.

A result file is JSON: parts, and `made`, the list of all that made some of it. A part that is a list of rows has the
place of the maker in each row; of the others (`{"networks": {"resnet20": ...}}`) `made_by` has it by name, and `keys`
the key, where the part has one:

    {"form": 2, "made": [{"command": ..., "commit": ..., ...}, ...],
     "rows": [{"made": 0, "key": "...", "accuracy": 0.9}],
     "made_by": {"networks.resnet20": 1}, "keys": {"networks.resnet20": "..."}, "names": {"rows": ["case"]}, ...}

`names` says by what rows of a list are told from each other: of two that agree in them, made under other settings or
versions, the later one is what tables show (`current`).

A maker is a command at a commit, on a machine, with libraries of some versions; it has the settings, and digests of the
weights and data that went in. A row is reused only where its key is the same: name, settings, weights and data by
content, versions. It then keeps its own maker. Parts of a file that are no rows go the same way (`Results.part`).

>>> import tempfile
>>> folder = Path(tempfile.mkdtemp())
>>> results = Results("speed", folder=folder, libraries=("numpy",), settings={"rounds": 3})
>>> results.row({"case": "small", "seed": 0}, lambda: {"ms": 1.5}, tell=print)["ms"]
made: case=small, seed=0
1.5
>>> results.row({"case": "small", "seed": 0}, lambda: {"ms": 9.9}, tell=print)["ms"]              # not measured again
reused: case=small, seed=0 (of ...)
1.5
>>> changed = Results("speed", folder=folder, libraries=("numpy",), settings={"rounds": 9})
>>> changed.row({"case": "small", "seed": 0}, lambda: {"ms": 1.4}, tell=print)["ms"]              # another setting
made: case=small, seed=0
1.4
>>> [row["ms"] for row in read("speed", folder=folder)["rows"]]
[1.5, 1.4]
>>> maker(read("speed", folder=folder), changed.rows()[0])["settings"]
{'rounds': 9}
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SMOKE = Path(os.environ.get("MIXBIT_SMOKE", ROOT / "runs" / "smoke"))
FORM = 2
HEAD = ("form", "made", "made_by", "keys", "names")

# What a result depends on: results themselves are written by the run, and no change of them makes it another.
CODE = ("src", "benchmarks", "setup.py", "constraints.txt", ":!benchmarks/results", ":!benchmarks/peers/results")
FLAGS = (
    "avx2", "fma", "f16c", "avx512f", "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_int8", "amx_bf16", "asimd",
    "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip

Row = dict[str, Any]


class Results:
    """One result file, and the rows that this process adds to it.

    Args:
        name: of the file, without `.json`.
        table: which of the file's lists of rows.
        settings: what all rows of this process have in common; part of their keys.
        inputs: name -> file or folder of weights and data; their content is part of the keys.
        libraries: distributions that the rows depend on; their versions are part of the keys.
        fresh: make all rows anew.
        smoke: a few seconds' worth, to see that the command runs: written to `runs/smoke/` (or the folder named by
            MIXBIT_SMOKE), marked, and never among the results.
        folder: of result files.
    """

    def __init__(
        self,
        name: str,
        *,
        table: str = "rows",
        settings: Mapping[str, Any] | None = None,
        inputs: Mapping[str, Path] | None = None,
        libraries: Sequence[str] = ("torch",),
        fresh: bool = False,
        smoke: bool = False,
        folder: Path | None = None,
    ) -> None:
        self.name, self.table, self.fresh = name, table, fresh
        self.folder = SMOKE if smoke else folder or RESULTS
        self.smoke = {"smoke": True} if smoke else {}
        self.depends = {
            "settings": json.loads(json.dumps(dict(settings or {}))),
            "inputs": {what: digest(path) for what, path in (inputs or {}).items()},
            "versions": versions(libraries),
        }
        self._here: set[str] = set()
        self._planned: list[Mapping[str, Any]] = []

    def key(self, of: Mapping[str, Any] | str) -> str:
        """Of a row with that name, or of a part of that path."""
        return _short({"of": of if isinstance(of, str) else dict(of), **self.depends})

    def find(self, of: Mapping[str, Any] | str) -> Any:
        """The row of that name, or the part of that path, which may be reused; None if there is none."""
        wanted = self.key(of)
        if self.fresh and wanted not in self._here:
            return None
        if not isinstance(of, str):
            rows = read(self.name, folder=self.folder).get(self.table, [])
            return next((row for row in rows if row.get("key") == wanted), None)
        found = read(self.name, folder=self.folder)
        if found.get("keys", {}).get(of) != wanted:
            return None
        part, _, name = of.partition(".")
        return found[part][name] if name else found[part]

    def rows(self) -> list[Row]:
        """All rows of the file that were made under these settings, inputs and versions."""
        found = read(self.name, folder=self.folder)
        same = {
            place for place, made in enumerate(found["made"]) if all(made.get(k) == v for k, v in self.depends.items())
        }
        return [row for row in found.get(self.table, []) if row["made"] in same and "key" in row]

    def row(
        self, of: Mapping[str, Any], make: Callable[[], Mapping[str, Any]], *, tell: Callable[[str], Any] = print
    ) -> Row:
        """The row of that name: from the file, or made now and written.

        Args:
            of: what tells this row from the others, such as policy, budget and seed; stands in the row.
            make: measures; its numbers stand in the row as well. What it had begun when it was killed is not written.
            tell: takes the line that says which it was.
        """
        found = self.find(of)
        if found is not None:
            made = maker(read(self.name, folder=self.folder), found)
            tell(f"reused: {_words(of)} (of {made.get('commit')}, {made['machine'].get('cpu')})")
            return found
        begun = conditions()
        values = make()
        return self.put(of, values, begun=begun, tell=tell)

    def group(
        self,
        names: Sequence[Mapping[str, Any]],
        make: Callable[[], Sequence[Mapping[str, Any]]],
        *,
        tell: Callable[[str], Any] = print,
    ) -> list[Row]:
        """Rows that are one measurement, taken in turns: all of them from the file, or all made now, written at once.

        Args:
            names: of the rows.
            make: measures; the values of each row, in order.
            tell: takes a line for each row.
        """
        found = [self.find(of) for of in names]
        if None not in found and len({row["made"] for row in found}) == 1:
            return [self.row(of, dict, tell=tell) for of in names]
        begun = conditions()
        rows = self._put(list(zip(names, make(), strict=True)), begun)
        for of in names:
            tell(f"made: {_words(of)}")
        return rows

    def put(
        self,
        of: Mapping[str, Any],
        values: Mapping[str, Any],
        *,
        begun: Mapping[str, Any] | None = None,
        tell: Callable[[str], Any] = print,
    ) -> Row:
        """Add a row that was made by this process, in the place of one with the same key."""
        (row,) = self._put([(of, values)], begun)
        tell(f"made: {_words(of)}")
        return row

    def _put(
        self, named: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], begun: Mapping[str, Any] | None
    ) -> list[Row]:
        """All at once."""
        rows = [{**of, **json.loads(json.dumps(dict(values))), "key": self.key(of)} for of, values in named]
        with _locked(self.folder / f"{self.name}.json"):
            found = read(self.name, folder=self.folder)
            now = _placed(found["made"], {**self.smoke, **provenance(begun), **self.depends})
            keys, names = {row["key"] for row in rows}, found.setdefault("names", {})
            named_by = dict.fromkeys([*names.get(self.table, []), *(name for of, _ in named for name in of)])
            names[self.table] = list(named_by)
            others = [one for one in found.get(self.table, []) if one.get("key") not in keys]
            for row in rows:
                row["made"] = now
            for row in rows:
                _insert(others, row, list(named[0][0]), self._planned)
            found[self.table] = others
            _write(self.name, found, folder=self.folder)
        self._here |= keys
        return rows

    def part(self, path: str, make: Callable[[], Any], *, tell: Callable[[str], Any] = print) -> Any:
        """A part that is no row, such as `networks.resnet20` or `cost`: from the file, or made now and written whole.

        What is measured together, in turns, is one part or one row: half of it is never replaced.

        >>> import tempfile
        >>> results = Results("step", folder=Path(tempfile.mkdtemp()), libraries=())
        >>> results.part("eager", lambda: {"float": {"ms": 390}, "W4A4": {"ms": 392}}, tell=print)["float"]
        made: eager
        {'ms': 390}
        >>> results.part("eager", lambda: {"float": {"ms": 400}, "W4A4": {"ms": 410}}, tell=print)["float"]
        reused: eager (of ...)
        {'ms': 390}
        """
        return self.parts([path], lambda: {path: make()}, tell=tell)[path]

    def parts(
        self, paths: Sequence[str], make: Callable[[], Mapping[str, Any]], *, tell: Callable[[str], Any] = print
    ) -> dict[str, Any]:
        """Parts that are one measurement, by path: all of them from the file, or all made now, written at once."""
        found = {path: self.find(path) for path in paths}
        content = read(self.name, folder=self.folder)
        if None not in found.values():
            makers = {path: _maker_of_part(content, path) for path in paths}
            if all(made == makers[paths[0]] for made in makers.values()):
                for path, made in makers.items():
                    tell(f"reused: {path} (of {made.get('commit')}, {made['machine'].get('cpu')})")
                return found
        begun, values = conditions(), json.loads(json.dumps(dict(make())))
        with _locked(self.folder / f"{self.name}.json"):
            content = read(self.name, folder=self.folder)
            now = _placed(content["made"], {**self.smoke, **provenance(begun), **self.depends})
            for path in paths:
                _set(content, path, values[path], now)
                content["keys"] = {**content.get("keys", {}), path: self.key(path)}
            _write(self.name, content, folder=self.folder)
        for path in paths:
            self._here.add(self.key(path))
            tell(f"made: {path}")
        return values

    def facts(self, **values: Any) -> None:
        """Set parts that are no rows."""
        save(self.name, values, others=True, folder=self.folder, **self.smoke, **self.depends)

    def plan(
        self, names: Iterable[Mapping[str, Any] | str], *, tell: Callable[[str], Any] = print
    ) -> list[Mapping[str, Any] | str]:
        """Say which rows and parts are in the file and will be reused; returns the names of those to be made."""
        wanted = list(names)
        self._planned += [of for of in wanted if not isinstance(of, str)]
        missing = [of for of in wanted if self.find(of) is None]
        tell(f"{self.name}.json: {len(wanted) - len(missing)} rows are reused, {len(missing)} are made.")
        for of in missing:
            tell(f"  to make: {_words(of)}")
        for row, _ in conflicts(read(self.name, folder=self.folder)):
            said = {name: value for name, value in row.items() if isinstance(value, str | int) and name != "made"}
            tell(f"  two rows of one key differ, the first is reused, --fresh makes one of them: {_words(said)}")
        return missing


def arguments(parser: argparse.ArgumentParser) -> None:
    """What every script takes."""
    parser.add_argument("--fresh", action="store_true", help="make rows anew that the result file has")
    parser.add_argument("--smoke", action="store_true", help="seconds, on a few images, written to runs/smoke/")


# ------------------------------------------------------------------------------------------------------ provenance


def provenance(begun: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Command, commit and machine of this process, now; `load` at the row's beginning if that is given."""
    return {
        "command": command(),
        **commit(),
        "machine": {**machine(), **(begun or conditions())},
    }


def command() -> str:
    """As it is typed at the repository's root."""
    script = Path(sys.argv[0]).resolve()
    shown = script.relative_to(ROOT) if script.is_relative_to(ROOT) else Path(script.name)
    return " ".join(["python", str(shown), *sys.argv[1:]])


def commit() -> dict[str, Any]:
    """Of the checkout; `uncommitted` where code that the result depends on has changes that no commit holds."""

    def git(*words: str) -> str | None:
        run = subprocess.run(["git", *words], capture_output=True, text=True, cwd=ROOT, check=False)
        return run.stdout.strip() if run.returncode == 0 else None

    found, changes = git("rev-parse", "--short=7", "HEAD"), git("status", "--porcelain", "--", *CODE)
    return {"commit": found or "unknown", "uncommitted": changes != "" or found is None}


def machine() -> dict[str, Any]:
    """Processor with the flags that decide on kernels, cores and Python."""
    lines = _cpuinfo()
    flags = next((ln.split(":", 1)[1].split() for ln in lines if ln.lower().startswith(("flags", "features"))), [])
    return {
        "cpu": next((ln.split(":", 1)[1].strip() for ln in lines if ln.startswith("model name")), platform.processor()),
        "flags": [flag for flag in FLAGS if flag in flags],
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **_torch_state(),
    }


def _torch_state() -> dict[str, Any]:
    """Threads and the instruction set that PyTorch uses, where it is loaded."""
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    return {"torch_threads": torch.get_num_threads(), "capability": torch.backends.cpu.get_cpu_capability()}


def conditions() -> dict[str, Any]:
    """What else the machine does: processes that want to run, over the last minute, this one included."""
    return {"load": round(os.getloadavg()[0], 1)}


def versions(libraries: Iterable[str]) -> dict[str, str]:
    """Distribution -> version, without what a build adds to it.

    >>> sorted(versions(["numpy", "scipy"]))
    ['numpy', 'scipy']
    """
    return {name: metadata.version(name).partition("+")[0] for name in sorted(set(libraries))}


def digest(path: Path) -> str:
    """Of a file's content, or of all files of a folder with their names.

    Raises:
        FileNotFoundError: there is neither.
    """
    if path.is_dir():
        parts = [(str(one.relative_to(path)), digest(one)) for one in sorted(path.rglob("*")) if one.is_file()]
        return _short(parts)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


# ----------------------------------------------------------------------------------------------------------- files


def read(name: str, *, folder: Path | None = None) -> dict[str, Any]:
    """A result file; an empty one where there is none, and one of the older form with its header as maker of all.

    >>> import tempfile
    >>> read("none", folder=Path(tempfile.mkdtemp()))
    {'form': 2, 'made': [], 'made_by': {}}
    """
    path = (folder or RESULTS) / f"{name}.json"
    if not path.exists():
        return {"form": FORM, "made": [], "made_by": {}}
    found = dict(json.loads(path.read_text()))
    return found if found.get("form") == FORM else _from_older(found)


def save(
    name: str, parts: Mapping[str, Any], *, others: bool = False, folder: Path | None = None, **conditions: Any
) -> Path:
    """Write the parts of a result file. What is equal to what stands there keeps its maker; the rest is made now.

    Args:
        name: of the file, without `.json`.
        parts: by name.
        others: keep the parts of the file that are not among `parts`.
        folder: of result files.
        conditions: what the maker has beside command, commit and machine: seed, settings, inputs, versions.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> path = save("step", {"eager": {"float": {"ms": 390}, "W4A4": {"ms": 392}}}, seed=0, folder=folder)
    >>> path = save("step", {"eager": {"float": {"ms": 390}, "W4A4": {"ms": 391}}}, seed=1, folder=folder)
    >>> found = read("step", folder=folder)
    >>> maker(found, "eager.float")["seed"], maker(found, "eager.W4A4")["seed"]
    (0, 1)
    """
    folder = folder or RESULTS
    with _locked(folder / f"{name}.json"):
        old = read(name, folder=folder)
        found = {**old, **parts} if others else {**{key: old[key] for key in HEAD if key in old}, **parts}
        found["made_by"] = dict(old["made_by"]) if others else {}
        keys = {path: key for path, key in old.get("keys", {}).items() if _same(path, old, found)}
        found = {**{part: value for part, value in found.items() if part != "keys"}, **({"keys": keys} if keys else {})}
        now = _placed(found["made"], {**provenance(), **conditions})
        for part, value in parts.items():
            if _is_table(value):
                found[part] = [{**row, "made": _known(row, old.get(part), now)} for row in value]
                continue
            for path, piece in _pieces(part, value):
                known = old["made_by"].get(path) if dict(_pieces(part, old.get(part))).get(path) == piece else None
                found["made_by"][path] = now if known is None else known
        return _write(name, found, folder=folder)


def _same(path: str, old: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Whether a part is as it was."""
    part, _, name = path.partition(".")
    was, now = (one.get(part, {}).get(name) if name else one.get(part) for one in (old, found))
    return bool(was == now)


def _within(one: str, path: str) -> bool:
    """Whether a piece is the part of that path, or in it."""
    return one == path or one.startswith(f"{path}.")


def _set(found: dict[str, Any], path: str, value: object, now: int) -> None:
    """The part of that path, made by the maker at that place."""
    part, _, name = path.partition(".")
    found[part] = {**found.get(part, {}), name: value} if name else value
    found["made_by"] = {one: at for one, at in found["made_by"].items() if not _within(one, path)}
    if _is_table(found[part]):
        found[part] = [{**row, "made": now} for row in found[part]]
    else:
        found["made_by"] |= {one: now for one, _ in _pieces(part, found[part]) if _within(one, path)}


def _is_table(value: object) -> bool:
    """Whether a part is a list of rows."""
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _pieces(part: str, value: object) -> list[tuple[str, Any]]:
    """What has a maker of its own in a part that is no list of rows, by path."""
    if isinstance(value, dict) and value and all(isinstance(one, dict) for one in value.values()):
        return [(f"{part}.{name}", one) for name, one in value.items()]
    return [(part, value)]


def _known(row: Row, old: object, now: int) -> int:
    """The maker of an equal row of the file, or the one of now."""
    rows = old if isinstance(old, list) else []
    return next((int(one["made"]) for one in rows if isinstance(one, dict) and _values(one) == _values(row)), now)


def _from_older(found: dict[str, Any]) -> dict[str, Any]:
    """Header, then parts: the header is of the last command that wrote the file, not of each row."""
    head = {name: found.pop(name) for name in ("command", "commit", "seed", "machine") if name in found}
    text = str(head.get("commit", "unknown"))
    made = {**head, "commit": text.rstrip("+"), "uncommitted": text.endswith("+"), "by": "file"}
    made_by = {}
    for part, value in found.items():
        if _is_table(value):
            found[part] = [{"made": 0, **row} for row in value]
        else:
            made_by |= dict.fromkeys((path for path, _ in _pieces(part, value)), 0)
    return {"form": FORM, "made": [made], "made_by": made_by, **found}


def _write(name: str, found: Mapping[str, Any], *, folder: Path) -> Path:
    """Whole or not at all, without makers that made nothing of what is left."""
    path = folder / f"{name}.json"
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(_tidy(found), indent=1) + "\n")
    temporary.replace(path)
    return path


def maker(found: Mapping[str, Any], row: Mapping[str, Any] | str) -> dict[str, Any]:
    """What made a row, or the part of that path, of a file that was read."""
    place = found["made_by"][row] if isinstance(row, str) else row["made"]
    return dict(found["made"][place])


def current(found: Mapping[str, Any]) -> dict[str, Any]:
    """A file with one row of each name: where there are several, the one that was made last."""
    names = found.get("names", {})
    return {part: latest(value, *names[part]) if part in names else value for part, value in found.items()}


def latest(rows: Iterable[Row], *names: str) -> list[Row]:
    """Of rows that agree in these names, the one that was made last: made under other settings or versions, say.

    >>> latest([{"case": "a", "made": 0, "ms": 1}, {"case": "b", "made": 0}, {"case": "a", "made": 1, "ms": 2}], "case")
    [{'case': 'a', 'made': 1, 'ms': 2}, {'case': 'b', 'made': 0}]
    """
    found: dict[str, Row] = {}
    for row in rows:
        name = json.dumps([row.get(one) for one in names], sort_keys=True)
        if name not in found or row["made"] >= found[name]["made"]:
            found[name] = row
    return list(found.values())


def _maker_of_part(found: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Of a part that was measured whole."""
    if _is_table(found.get(path)):
        return maker(found, found[path][0])
    return maker(found, next(one for one in found["made_by"] if _within(one, path)))


def tables(found: Mapping[str, Any]) -> dict[str, list[Row]]:
    """All parts that are lists of rows."""
    return {part: value for part, value in found.items() if part not in HEAD and _is_table(value)}


def conflicts(found: Mapping[str, Any]) -> list[tuple[Row, Row]]:
    """Rows with one key that say different things: of two clones, say. Both are kept, and this tells."""
    pairs = []
    for rows in tables(found).values():
        first: dict[str, Row] = {}
        for row in rows:
            other = first.setdefault(row.get("key", ""), row)
            if row.get("key") and other is not row and _values(other) != _values(row):
                pairs.append((other, row))
    return pairs


def merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Two files as one: rows of both, each with its own maker; of other parts that both have, that of `other` wins.

    Rows that are equal but for their maker are kept once, that of `one`; those of one key that differ are both kept.
    """
    found = json.loads(json.dumps(dict(one)))
    for part, value in other.items():
        if part in tables(other) and part not in other.get("keys", {}):
            here = found.setdefault(part, [])
            known = [_values(row) for row in here]
            new = [row for row in value if _values(row) not in known]
            here += [{**row, "made": _placed(found["made"], maker(other, row))} for row in new]
        elif part not in HEAD:
            _merge_part(found, other, part)
    keys = {path: key for path, key in one.get("keys", {}).items() if _same(path, one, found)} | other.get("keys", {})
    head = {"keys": keys, "names": one.get("names", {}) | other.get("names", {})}
    return dict(_tidy(found | {part: value for part, value in head.items() if value}))


def _merge_part(found: dict[str, Any], other: Mapping[str, Any], part: str) -> None:
    """A dict of parts, such as networks, has those of both; what was measured together stays together."""
    if _is_table(other[part]):
        found[part] = [{**row, "made": _placed(found["made"], maker(other, row))} for row in other[part]]
        return
    pieces = [path for path, _ in _pieces(part, other[part])]
    apart = pieces != [part] and isinstance(found.get(part), dict) and part not in other.get("keys", {})
    if apart:
        found[part] |= other[part]
    else:
        found[part] = other[part]
        found["made_by"] = {path: at for path, at in found["made_by"].items() if not _within(path, part)}
    for path in pieces:
        found["made_by"][path] = _placed(found["made"], maker(other, path))


def _values(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "made"}


def _tidy(found: Mapping[str, Any]) -> dict[str, Any]:
    """Without makers that made nothing."""
    rows = {part: [dict(row) for row in table] for part, table in tables(found).items()}
    used = sorted({*(row["made"] for table in rows.values() for row in table), *found["made_by"].values()})
    place = {old: new for new, old in enumerate(used)}
    for row in (row for table in rows.values() for row in table):
        row["made"] = place[row["made"]]
    made_by = {path: place[old] for path, old in found["made_by"].items()}
    return {**found, **rows, "made": [found["made"][old] for old in used], "made_by": made_by}


def _placed(made: list[dict[str, Any]], new: dict[str, Any]) -> int:
    """The place of a maker in the list, to which it is added if it is not there."""
    if new not in made:
        made.append(new)
    return made.index(new)


def _insert(rows: list[Row], row: Row, names: Sequence[str], planned: Sequence[Mapping[str, Any]]) -> None:
    """Where the plan has it: by rows of its own name, else behind the one before it, else before the one behind it."""

    def name(one: Mapping[str, Any]) -> str:
        return json.dumps([one.get(part) for part in names], sort_keys=True)

    there, order, own = [name(one) for one in rows], [name(one) for one in planned], name(row)
    at = order.index(own) if own in order else len(order)
    before = [one for one in (own, *(reversed(order[:at]) if own in order else ())) if one in there]
    behind = [one for one in order[at + 1 :] if one in there]
    if before:
        rows.insert(len(there) - there[::-1].index(before[0]), row)
    else:
        rows.insert(there.index(behind[0]) if behind else len(rows), row)


def _short(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _words(of: Mapping[str, Any] | str) -> str:
    if isinstance(of, str):
        return of
    return ", ".join(f"{name}={value}" for name, value in of.items() if not isinstance(value, list | dict))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One writer at a time: several processes may share the rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
