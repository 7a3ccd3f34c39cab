"""Try mutants side by side, each against its mirror, and go on where a killed survey stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tests.mirror import ROOT, mirror_of
from tests.mutants.ledger import LISTED, Ledger, stamp
from tests.mutants.mutant import Mutant
from tests.mutants.server import HEAVY
from tests.mutants.sites import apply
from tests.mutants.workshop import Outcome, Workshop

# A clean run may take this long before it counts as one that hangs.
CLEAN_CPU, CLEAN_WALL = 900.0, 3600.0


class RedBaseline(Exception):
    """Tests that fail, or do not run, without any mistake: nothing could be learnt of mutants."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One mutant and what came of it."""

    mutant: Mutant
    outcome: Outcome


class Survey:
    """A set of mutants, their mirrors, and workshops.

    Args:
        folder: for copies of the tree and the ledger.
        workers: how many workshops.
        root: the tree.
        mirror: a source's tests.
        heavy: modules that are imported once.
        tell: called with one line now and then.
    """

    def __init__(
        self,
        folder: Path,
        *,
        workers: int = 2,
        root: Path = ROOT,
        mirror: Callable[[Path], list[Path]] = mirror_of,
        heavy: Sequence[str] = HEAVY,
        tell: Callable[[str], Any] = print,
    ) -> None:
        self.folder, self.workers, self.root, self.tell = folder, workers, root, tell
        self.mirror_of, self.heavy = mirror, heavy
        self.ledger = Ledger(folder / "state.json")
        self._shops: SimpleQueue[Workshop] = SimpleQueue()
        self._lock = threading.Lock()
        self._mirrors: dict[str, list[str]] = {}

    def mirror(self, file: str) -> list[str]:
        """Test files of a source, from the root."""
        if file not in self._mirrors:
            self._mirrors[file] = [str(test.relative_to(self.root)) for test in self.mirror_of(self.root / file)]
        return self._mirrors[file]

    def run(self, mutants: Sequence[Mutant]) -> list[Trial]:
        """What came of each; results of an earlier survey are taken where nothing changed.

        Raises:
            RedBaseline: a test of a mirror fails without any mistake.
        """
        missing = [mutant for mutant in mutants if self.ledger.get("mutants", mutant.key, self._mark(mutant)) is None]
        self.tell(f"{len(mutants)} mutants, {len(mutants) - len(missing)} known from before.")
        if missing:
            try:
                for number in range(self.workers):
                    self._shops.put(Workshop(self.folder / f"copy{number}", self.root, self.heavy))
                self._check_baselines(missing)
                self._each(missing, self._try)
            finally:
                while not self._shops.empty():
                    self._shops.get().close()
        found = ((mutant, self.ledger.get("mutants", mutant.key, self._mark(mutant))) for mutant in mutants)
        return [Trial(mutant, outcome) for mutant, outcome in found if outcome is not None]

    def _each(self, jobs: Iterable[Any], work: Callable[[Workshop, Any], None]) -> None:
        """Each job in whichever workshop is free; the first error ends all."""

        def one(job: Any) -> None:
            shop = self._shops.get()
            try:
                work(shop, job)
            finally:
                self._shops.put(shop)

        with ThreadPoolExecutor(self.workers) as pool:
            running = [pool.submit(one, job) for job in jobs]
            try:
                for future in running:
                    future.result()
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    # ------------------------------------------------------------------------------------------------ clean runs

    def _check_baselines(self, mutants: Sequence[Mutant]) -> None:
        tests = sorted({test for mutant in mutants for test in self.mirror(mutant.file)})
        sources = [path for path in sorted((self.root / "src").rglob("*")) if path.suffix in (".py", ".c", ".h")]
        whole = stamp(sources)
        marks = {test: whole + stamp([self.root / test]) for test in tests}
        self._clean_marks = marks
        known = {test: self.ledger.get("clean", test, marks[test]) for test in tests}
        unknown = [test for test, outcome in known.items() if outcome is None or outcome.verdict == "noticed"]
        self.tell(f"{len(tests)} test files; a clean run of {len(unknown)} of them comes first.")

        def clean(shop: Workshop, test: str) -> None:
            outcome = shop.test([test], cpu=CLEAN_CPU, wall=CLEAN_WALL, write=True)
            with self._lock:
                self.ledger.put("clean", test, marks[test], outcome)

        self._each(unknown, clean)
        red = {test: outcome for test in tests if (outcome := self._clean(test)).status not in (0, 5)}
        if red:
            told = "\n".join(f"  {test}: {outcome.status}, {outcome.tail}" for test, outcome in red.items())
            raise RedBaseline(f"These fail without any mistake. Mend them first:\n{told}")

    def _clean(self, test: str) -> Outcome:
        outcome = self.ledger.get("clean", test, self._clean_marks[test])
        if outcome is None:
            raise RuntimeError(f"{test} was not run.")
        return outcome

    # --------------------------------------------------------------------------------------------------- mutants

    def _mark(self, mutant: Mutant) -> str:
        return stamp(self.root / name for name in dict.fromkeys([mutant.file, *self.mirror(mutant.file)]))

    def _try(self, shop: Workshop, mutant: Mutant) -> None:
        source = (self.root / mutant.file).read_text()
        text = source.replace(mutant.old, mutant.new) if mutant.operator == LISTED else apply(mutant, source)
        if text is None:
            raise ValueError(f"Not there any more: {mutant.key}")
        tests = sorted(self.mirror(mutant.file), key=lambda test: self._clean(test).cpu)
        clean = [self._clean(test) for test in tests]
        # A mistake that never ends is cut off: three times the work of the clean run, and some for what is imported.
        cpu, wall = 15 + 3 * sum(one.cpu for one in clean), 120 + 10 * sum(one.seconds for one in clean)
        outcome = shop.try_out(mutant.file, text, tests, cpu=cpu, wall=wall)
        with self._lock:
            self.ledger.put("mutants", mutant.key, self._mark(mutant), outcome)
        self.tell(f"{outcome.verdict:8} {outcome.cpu:6.1f} s  {mutant.key[:200]!r}")
