"""Copies of the tree in which sources are broken and mended again, each with a server of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.mirror import ROOT
from tests.mutants import server
from tests.mutants.server import HEAVY

BUILT = ("quantizers", "topology")  # rooms whose C files are built into the package, not written out


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one run of the tests: what ended it, how long it took, the first case that failed."""

    status: int | str
    seconds: float
    cpu: float
    tail: str

    @property
    def verdict(self) -> str:
        """`noticed` or `survived`.

        A source that compiles and cannot be imported, a crash and an endless run are noticed: no tests are green then.
        """
        return "survived" if self.status in (0, 5) else "noticed"  # 5: there is no test at all

    @property
    def how(self) -> str:
        """What noticed it: a test, the import, the time limit, a crash."""
        return {1: "test", 2: "import", 4: "import", "cpu": "time limit", "wall": "time limit"}.get(
            self.status, str(self.status)
        )


class Workshop:
    """One copy of the tree and its server. Not for two threads at once.

    Args:
        folder: where the copy goes; what is there is replaced.
        root: the tree that is copied: what git knows or would add, and built libraries.
        heavy: modules that the server imports once.
    """

    def __init__(self, folder: Path, root: Path = ROOT, heavy: Sequence[str] = HEAVY) -> None:
        self.folder, self.tree = folder, folder / "tree"
        shutil.rmtree(folder, ignore_errors=True)
        copy_tree(root, self.tree)
        if (root.parent / "shared").is_dir():  # reference material is looked for beside the repository
            (folder / "shared").symlink_to(root.parent / "shared")
        self.server = self._start(heavy)

    def _start(self, heavy: Sequence[str]) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(self.tree / "src"), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-P", str(Path(server.__file__)), str(self.tree), *heavy]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=self.tree, env=environment, stdin=pipe, stdout=pipe, text=True)

    def test(self, tests: list[str], *, cpu: float, wall: float, write: bool = False) -> Outcome:
        """Run tests on the copy as it stands."""
        question: dict[str, Any] = {"tests": tests, "cpu": cpu, "wall": wall, "write": write}
        assert self.server.stdin is not None and self.server.stdout is not None
        self.server.stdin.write(json.dumps(question) + "\n")
        self.server.stdin.flush()
        answer = self.server.stdout.readline()
        if not answer:
            raise RuntimeError(f"The server of {self.folder} ended with {self.server.wait()}.")
        outcome = Outcome(**json.loads(answer))
        if outcome.status == server.OWN_ERROR:
            raise RuntimeError(f"pytest did not start in {self.folder}: {outcome.tail}")
        return outcome

    def try_out(self, file: str, text: str, tests: list[str], *, cpu: float, wall: float) -> Outcome:
        """Run tests with another text in one file, and put the old one back."""
        path = self.tree / file
        whole = path.read_text()
        try:
            self._put(path, text)
            return self.test(tests, cpu=cpu, wall=wall)
        finally:
            self._put(path, whole)

    def _put(self, path: Path, text: str) -> None:
        """Write a source; nothing that was compiled of the old one may stay."""
        path.write_text(text)
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
            compiled.unlink()
        if path.suffix == ".c" and path.parent.name in BUILT:
            self._build()

    def _build(self) -> None:
        command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
        subprocess.run(command, cwd=self.tree, check=True, capture_output=True)

    def close(self) -> None:
        """End the server and remove the copy."""
        with suppress(OSError, AttributeError):
            self.server.stdin.close()  # type: ignore[union-attr]
        self.server.kill()
        self.server.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def copy_tree(root: Path, target: Path) -> None:
    """What git knows or would add, as it stands in the working tree, and built libraries."""
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\0")
    built = [str(path.relative_to(root)) for path in (root / "src").rglob("*.so")]
    for name in [*filter(None, names), *built]:
        if (root / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, target / name)
