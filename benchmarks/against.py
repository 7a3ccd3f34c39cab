"""Is this tree slower than another commit? The same work in both, in turns, in processes of their own.

    python benchmarks/against.py --base COMMIT [--rounds 5] [--workloads allocation capture] [--fresh | --smoke]

The base is checked out beside this tree and its kernels are compiled. CPU seconds are compared: the ratio is the median
of those of neighbouring runs, with its interval over the rounds. Instructions per product are counted, not timed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import records
from against_work import WORKLOADS

WORK = records.ROOT / "benchmarks" / "against_work.py"
REPEATS = 3


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """A working tree of a commit, with its compiled files."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "base"
        git = ["git", "-C", str(records.ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), commit], check=True)
        try:
            build(tree)
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def build(tree: Path) -> None:
    """Compile the C files of a tree where they stand, or take what was compiled here of the same files."""
    sources = [path.relative_to(records.ROOT) for path in (records.ROOT / "src" / "mixbit").glob("*/_*.c")]
    compiled = list((records.ROOT / "src" / "mixbit").glob("*/_*.so"))
    if compiled and all(_same(tree / path, records.ROOT / path) for path in sources):
        for path in compiled:
            shutil.copy(path, tree / path.relative_to(records.ROOT))
        return
    done = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace"], cwd=tree, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"The base cannot be compiled: {done.stderr.strip().splitlines()[-1]}")


def _same(one: Path, other: Path) -> bool:
    return one.exists() and one.read_bytes() == other.read_bytes()


def measured(tree: Path, workload: str, repeats: int, *more: str) -> list[float]:
    """What one process finds in a tree."""
    environment = {**os.environ, "PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(WORK), workload, str(repeats), *more]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{workload} failed in {tree}: {done.stderr.strip().splitlines()[-1]}")
    found = json.loads(done.stdout.splitlines()[-1])
    if not found["mixbit"].startswith(str(tree)):
        raise SystemExit(f"{workload} ran {found['mixbit']} and not the code of {tree}.")
    values: list[float] = found["found"]
    return values


def compared(base: Path, workload: str, rounds: int, repeats: int, *more: str) -> dict[str, Any]:
    """Both trees in turns; the one that begins changes with the round."""
    found: dict[str, list[float]] = {"base": [], "now": []}
    trees = {"base": base, "now": records.ROOT}
    for number in range(rounds):
        for name in sorted(trees, reverse=bool(number % 2)):
            found[name].append(min(measured(trees[name], workload, repeats, *more)))
    ratios = [now / then for now, then in zip(found["now"], found["base"], strict=True)]
    return {
        "base": statistics.median(found["base"]),
        "now": statistics.median(found["now"]),
        "ratio": statistics.median(ratios),
        "least": min(ratios),
        "most": max(ratios),
        "rounds": rounds,
    }


def commit_of(name: str) -> str:
    """The full name of a commit."""
    done = subprocess.run(
        ["git", "-C", str(records.ROOT), "rev-parse", "--verify", f"{name}^{{commit}}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"--base {name}: {done.stderr.strip()}. Legal: a commit of this repository.")
    return done.stdout.strip()


def main() -> None:
    """Compare, and write a row a workload."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="HEAD", help="the commit to compare with")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workloads", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS))
    records.arguments(parser)
    args = parser.parse_args()
    base = commit_of(args.base)
    chosen, rounds, repeats, more = args.workloads, args.rounds, REPEATS, list[str]()
    if args.smoke:
        chosen, rounds, repeats, more = ["allocation"], 1, 1, ["small"]
    results = records.Results(
        "against",
        settings={"rounds": rounds, "repeats": repeats, "base": base, "now": records.commit()["commit"]},
        libraries=("torch", "numpy", "scipy"),
        fresh=args.fresh,
        smoke=args.smoke,
    )
    with checked_out(base) as tree:
        for workload in chosen:
            make = partial(compared, tree, workload, rounds, repeats, *more)
            row = results.row({"workload": workload}, make)
            print(f"{workload:<26} {row['ratio']:.3f} ({row['least']:.3f} to {row['most']:.3f})")


if __name__ == "__main__":
    main()
