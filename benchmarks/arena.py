"""The arena: every search method on ResNet-20 and CIFAR-10, at equal budgets, with what each search took.

    python benchmarks/arena.py [--methods fit,hawq-v2] [--peers mct] [--seeds 0 1 2] [--epochs 1] [--fraction 0.5]

Every policy is fine-tuned from the same pretrained float weights with the same settings. Rows that the result file has
are reused, and the command says which; the others are made in a folder of runs/, where killed work goes on. Start it
several times to share the work, with the same arguments or with other methods, budgets and seeds. A row that was taken
out of the file is calibrated and fine-tuned anew. `--fresh` also searches anew; one process alone. Policies of other
toolkits in `benchmarks/peers/policies/` take part, with the time of their search from `benchmarks/peers/results/`.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

import records
from common import ROOT, cifar10, cifar10_folder, shared_data
from mixbit import methods, report, runs
from mixbit.cost import Budget
from mixbit.data import Part
from mixbit.policy import Policy
from mixbit.runs import _comparison
from mixbit.runs._lock import Busy, hold
from mixbit.task import Task

WEIGHTS = "cifar10_resnet20_akamaster.safetensors"
PEERS = ROOT / "benchmarks" / "peers"
BUDGETS = ("weight-bytes=10x", "bitops=3x3")
METHODS = (
    "uniform",
    "random",
    "random?seed=1",
    "random?seed=2",
    "map-size",
    "weight-entropy",
    "sqnr",
    "limpq-init",
    "one-at-a-time",
    "topological-entropy",
    "fit",
    "clado",
    "hawq-v2",
    "hawq-v3",
    "mpq-co",
    "limpq",
)


def peer_policies(names: Sequence[str] | None = None) -> dict[str, Path]:
    """Name -> policy file of another toolkit: all, or those that are named.

    Raises:
        SystemExit: there is no such policy.
    """
    found = {path.stem: path for path in sorted((PEERS / "policies").glob("*.json"))}
    wanted = [name for name in found if names is None or name in names]
    if unknown := sorted({*(names or ())} - {*found, "none"}):
        raise SystemExit(f"--peers: {', '.join(unknown)} is no policy. Legal: {', '.join(found)}, or none.")
    return {name: found[name] for name in wanted}


def peer_efforts() -> dict[str, runs.Effort]:
    """Name -> seconds of its search, where a result file has a row of that name (or is one of that name)."""
    rows: dict[str, dict[str, Any]] = {}
    for path in sorted((PEERS / "results").glob("*.json")):
        found = json.loads(path.read_text())
        rows |= {row.get("name", ""): row for row in found.get("rows", [found | {"name": path.stem}])}
    keys = ("cpu_seconds", "wall_seconds")
    known = {name: {key: rows.get(name, {}).get(key) for key in keys} for name in peer_policies()}
    return {name: runs.Effort(**values) for name, values in known.items() if any(values.values())}


def chosen_methods(text: str | None) -> list[str]:
    """Those asked for, or all that this version has."""
    if text is not None:
        return [name for name in text.split(",") if name]
    known = [name for name in METHODS if name.partition("?")[0] in methods.names()]
    for name in sorted({*METHODS} - {*known}):
        print(f"left out: this version has no method {name}")
    return known


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    found = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    found.add_argument("--methods", help="with commas between; METHOD?key=value for settings; '' for peers alone")
    found.add_argument("--peers", nargs="+", help="policies of other toolkits that take part, or none; default: all")
    found.add_argument("--seeds", type=int, nargs="+", default=[0], help="of calibration and fine-tuning")
    found.add_argument("--epochs", type=int, default=1, help="of fine-tuning, 0 for none")
    found.add_argument("--fraction", type=float, default=0.5, help="part of the training data in an epoch")
    found.add_argument("--precision", choices=["float32", "bf16"], default="float32", help="of fine-tuning")
    found.add_argument("--budgets", nargs="+", default=list(BUDGETS))
    found.add_argument("--threads", type=int, default=torch.get_num_threads(), help="1 if several processes run")
    records.arguments(found)
    return found


def tuning(given: argparse.Namespace) -> dict[str, Any] | None:
    """Settings of fine-tuning; a folder holds rows of one such set."""
    if not given.epochs:
        return None
    found = {"epochs": given.epochs, "precision": given.precision, "validate_every": 0}
    return found if given.fraction == 1.0 else {**found, "fraction": given.fraction}


TUNED = {"epochs": 1, "precision": "float32", "validate_every": 0, "fraction": 0.5}
"""What the table of fine-tuned methods shows."""


def file_of(settings: dict[str, Any] | None) -> str:
    """One result file a set of settings, so that a table never mixes them."""
    if settings is None:
        return "arena"
    return "arena_tuned" if settings == TUNED else f"arena_tuned_{records._short(settings)}"


@dataclass(kw_only=True)
class Arena:
    """Rows of the result file, and the run folder in which those that are missing are made."""

    results: records.Results
    subject: runs.Subject
    task: Task
    settings: dict[str, Any] | None
    policies: dict[str, Path]
    told: list[dict[str, Any]] = field(default_factory=list)
    """Names of the rows that are to be made."""
    failed: list[str] = field(default_factory=list)
    """Reasons of those that ended in an error."""

    @property
    def run(self) -> Path:
        """Rows of other settings, weights, data and versions have a folder of their own."""
        base = records.SMOKE if self.results.smoke else ROOT / "runs"
        return base / f"{self.results.name}-{records._short(self.results.depends)}"

    def names(self, entries: Sequence[str], budgets: Sequence[str], seeds: Sequence[int]) -> Iterator[dict[str, Any]]:
        """Of all rows; a policy that was made within one budget takes part in that one alone."""
        for seed, name, budget in product(seeds, (*entries, *self.policies), budgets):
            of = {"budget": budget, "name": name, "seed": seed}
            if name not in self.policies:
                yield of
            elif Policy.load(self.policies[name]).budget in ({}, Budget.parse(budget.split(",")).texts):
                yield {**of, "policy": records.digest(self.policies[name])}

    def make(self, missing: Sequence[dict[str, Any]]) -> None:
        """All rows that the file does not have."""
        self.told = list(missing)
        self._clear(missing)
        for entries, budgets, seeds in products(missing):
            runs.compare(
                self.subject,
                [name for name in entries if name not in self.policies],
                budgets,
                self.run,
                settings=self.settings,
                fine_tune=self.settings is not None,
                seeds=seeds,
                policies={name: path for name, path in self.policies.items() if name in entries},
                efforts=peer_efforts(),
                baselines=False,  # they are in the list, and another process may have them in its own
                task=self.task,
                tell=self._put,
            )

    def _put(self, row: runs.Row) -> None:
        """Write a row as soon as it is there, by the process that made it."""
        print(report.comparison_line(row), flush=True)
        found = row.to_json()
        if row.reason and (self.results.smoke or "traceback in" in row.reason):  # an error of ours is no result
            self.failed.append(row.reason)
            return
        of = next((of for of in self.told if all(found[key] == of[key] for key in ("budget", "name", "seed"))), None)
        if of is not None:
            self.results.put(of, found)

    def _clear(self, missing: Iterable[dict[str, Any]]) -> None:
        """What an earlier run left of rows that the file does not have: they are made anew. Killed work is no row."""
        if not (self.run / "config.json").exists():
            return
        gone, measured = dict[Path, None](), _comparison.measured(self.run)
        for of in missing:
            key = _comparison.row_key(of["budget"], of["name"], of["seed"])
            search = self.run / _comparison.SEARCH / _comparison.slug(of["name"])
            policy = self.policies.get(of["name"], search / "policies" / f"{_comparison.slug(of['budget'])}.json")
            if key in measured and policy.exists():
                trained = _comparison.accuracies_key(Policy.load(policy).layers, of["seed"])
                gone[self.run / trained] = None
            if key in measured and self.results.fresh:
                gone[search] = None
            measured.forget(key)
        for folder in gone:
            try:
                with hold(folder, wait=False):
                    measured.forget(folder.relative_to(self.run).as_posix())  # the accuracies of a fine-tuning
                    shutil.rmtree(folder)
            except Busy:
                print(f"{folder.name}: another process is at it")

    def facts(self) -> None:
        """Parts that are no rows. What a search took stays as the file has it, unless all is made anew."""
        found, old = runs.read_comparison(self.run), records.read(self.results.name, folder=self.results.folder)
        efforts, known = {name: one.to_json() for name, one in found.efforts.items()}, old.get("efforts", {})
        new = {*efforts} if self.results.fresh else {*efforts} - {*known}
        self.results.facts(
            epochs=(self.settings or {}).get("epochs", 0) * float((self.settings or {}).get("fraction", 1.0)),
            float_accuracy=found.float32.accuracy,
            settings=found.settings,
            efforts=dict(sorted((known | {name: efforts[name] for name in new}).items())),
            interrupted=sorted({*old.get("interrupted", [])} - new | {*found.interrupted} & new),
        )


def products(missing: Iterable[dict[str, Any]]) -> list[tuple[list[str], list[str], list[int]]]:
    """Names, budgets and seeds of few comparisons that make these rows and no other.

    >>> products([{"name": n, "budget": b, "seed": 0} for n in ("fit", "mct") for b in ("4x", "8x")])
    [(['fit', 'mct'], ['4x', '8x'], [0])]
    >>> products([{"name": "fit", "budget": "4x", "seed": 0}, {"name": "mct", "budget": "4x", "seed": 1}])
    [(['fit'], ['4x'], [0]), (['mct'], ['4x'], [1])]
    """
    places: dict[str, list[tuple[str, int]]] = {}
    for of in missing:
        places.setdefault(of["name"], []).append((of["budget"], of["seed"]))
    together: dict[tuple[tuple[str, int], ...], list[str]] = {}
    for name, found in places.items():
        together.setdefault(tuple(found), []).append(name)
    chosen = []
    for where, names in together.items():
        budgets, seeds = (list(dict.fromkeys(values)) for values in zip(*where, strict=True))
        if len(where) == len(budgets) * len(seeds):
            chosen.append((names, budgets, seeds))
        else:
            chosen += [(names, [budget], [seed]) for budget, seed in where]
    return chosen  # type: ignore[return-value]


def subject_of(*, smoke: bool) -> tuple[runs.Subject, Task]:
    """The published network on CIFAR-10; a few images for a smoke run."""
    subject = runs.Subject(
        model="resnet20",
        data=cifar10(),
        weights=shared_data() / "weights" / WEIGHTS,
    )
    task = subject.task()[0]
    if smoke:
        task = replace(task, train=Part(task.train, torch.arange(32)), test=Part(task.test, torch.arange(16)))
    return subject, task


def main() -> None:
    given = parser().parse_args()
    torch.set_num_threads(given.threads)
    if given.smoke:
        given.methods, given.peers, given.budgets = "uniform", ["mct"], ["weight-bytes=10x"]
    settings, (subject, task) = tuning(given), subject_of(smoke=given.smoke)
    results = records.Results(
        file_of(settings),
        settings=settings or {"epochs": 0},
        inputs={"weights": shared_data() / "weights" / WEIGHTS, "data": cifar10_folder()},
        fresh=given.fresh,
        smoke=given.smoke,
    )
    policies = peer_policies(given.peers)
    trained = {**settings, "batch_size": 16} if settings and given.smoke else settings
    arena = Arena(results=results, subject=subject, task=task, settings=trained, policies=policies)
    missing = results.plan(arena.names(chosen_methods(given.methods), given.budgets, given.seeds))
    if missing:
        arena.make([of for of in missing if not isinstance(of, str)])
        arena.facts()
    if arena.failed:
        raise SystemExit(f"{len(arena.failed)} rows ended in an error and are not written: {'; '.join(arena.failed)}")


if __name__ == "__main__":
    main()
