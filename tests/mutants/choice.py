"""Which mutants are tried: those on changed lines, or a seeded sample of every file that matters."""

from __future__ import annotations

import random
import re
import subprocess
from collections.abc import Collection, Iterator
from pathlib import Path

from tests.mirror import ROOT
from tests.mutants.mutant import Mutant
from tests.mutants.sites import Site, mutant_at, sites

# Where a mistake gives wrong numbers in silence. Patterns under src/mixbit.
AREAS = {
    "quantizers": ["quantizers/*.py", "quantization/*.py"],
    "training": ["training/*.py", "supernet/*.py", "_distributed.py", "task/_*.py"],
    "methods": ["methods/*.py", "sensitivity/*.py"],
    "allocation": ["allocation/*.py", "cost/*.py"],
    "lowering": ["integer/*.py", "export/*.py", "latency/*.py"],
    "data": ["data/memory.py", "data/images.py", "data/corruption.py", "data/mixed_quality.py", "data/_noise.py",
             "data/_blur.py", "data/_digital.py"],
    "c": ["export/c/kernels/*.c", "quantizers/*.c", "topology/*.c"],
}  # fmt: skip
LEAST = 2  # of every file, however short


def named_files(root: Path = ROOT) -> list[str]:
    """Every source of AREAS, from the root; faces of packages have no lines that could be wrong."""
    found = {
        path for patterns in AREAS.values() for pattern in patterns for path in (root / "src/mixbit").glob(pattern)
    }
    return sorted(str(path.relative_to(root)) for path in found if path.name != "__init__.py")


def area_of(file: str) -> str:
    """The area of a file, or "others"."""
    inside = Path(file).relative_to("src/mixbit")
    for name, patterns in AREAS.items():
        if any(inside.match(pattern) and inside.parent == Path(pattern).parent for pattern in patterns):
            return name
    return "others"


def changed_lines(base: str, root: Path = ROOT) -> dict[str, set[int]]:
    """File -> lines (from 1) of the working tree that the common ancestor with `base` does not have.

    Raises:
        ValueError: git does not know `base`.
    """

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)
        if done.returncode:
            raise ValueError(
                f"BASE={base}: {done.stderr.strip()}. Legal: a branch, a tag or a commit of this repository."
            )
        return done.stdout

    ancestor = git("merge-base", base, "HEAD").strip()
    return lines_of_diff(git("diff", "-U0", "--no-color", "--no-ext-diff", ancestor, "--", "src/mixbit"))


def lines_of_diff(text: str) -> dict[str, set[int]]:
    """File -> added lines of a diff without context."""
    found: dict[str, set[int]] = {}
    file = ""
    for line in text.splitlines():
        if line.startswith("+++ "):
            file = line[4:].removeprefix("b/")
        elif (hunk := re.match(r"@@ -\S+ \+(\d+)(?:,(\d+))? @@", line)) and file != "/dev/null":
            start, count = int(hunk[1]), int(hunk[2] or 1)
            found.setdefault(file, set()).update(range(start, start + count))
    return found


def drawn(file: str, source: str, count: int, seed: int, lines: Collection[int] | None = None) -> list[Mutant]:
    """`count` mutants of a file, or all that there are: one a line, the lines in random order, then a second one each.

    More of them are the same ones and others: a larger sample holds the smaller one. Which ones depends on the seed and
    the file alone. `lines` (from 1) leaves others out.
    """
    found: dict[str, Mutant] = {}
    for site in _in_turn(file, [site for site in sites(source) if lines is None or site.line in lines], seed):
        if len(found) >= count:
            break
        mutant = mutant_at(file, source, site)
        if mutant is not None:
            found.setdefault(mutant.key, mutant)
    return list(found.values())


def _in_turn(file: str, found: list[Site], seed: int) -> Iterator[Site]:
    dice = random.Random(f"{seed} {file}")
    by_line: dict[int, list[Site]] = {}
    for site in found:
        by_line.setdefault(site.line, []).append(site)
    # Kinds first, then the place of that kind: a line with ten numbers is not ten times as likely a wrong number.
    queues = [_by_kind(sites_of_line, dice) for sites_of_line in by_line.values()]
    dice.shuffle(queues)
    while queues:
        for queue in queues:
            yield queue.pop(0)
        queues = [queue for queue in queues if queue]


def _by_kind(found: list[Site], dice: random.Random) -> list[Site]:
    kinds: dict[str, list[Site]] = {}
    for site in found:
        kinds.setdefault(re.sub("(?<=[a-z])_[A-Z].*", "", site.operator), []).append(site)
    for rows in kinds.values():
        dice.shuffle(rows)
    order = sorted(kinds)
    dice.shuffle(order)
    turns = max(map(len, kinds.values()), default=0)
    return [kinds[kind][turn] for turn in range(turns) for kind in order if turn < len(kinds[kind])]


def shares(weights: dict[str, int], count: int) -> dict[str, int]:
    """How many of `count` fall to each file: by the square root of its weight, and LEAST at least.

    The root, so that long files do not crowd out short ones. None where a file weighs nothing.

    >>> shares({"long": 400, "short": 4, "empty": 0}, 22)
    {'long': 20, 'short': 2, 'empty': 0}
    """
    roots = {name: weight**0.5 for name, weight in weights.items()}
    total = sum(roots.values()) or 1.0
    return {
        name: min(weights[name], max(LEAST, round(count * root / total))) if root else 0 for name, root in roots.items()
    }
