"""CPU time of our searches beside that of Sony's model-compression-toolkit, in one run and in turns.

    python benchmarks/peers/mixbit_search.py [--rounds 3] [--methods limpq-init sqnr ...] [--budget 10x] [--threads 1]
        [--fresh | --smoke]

Ours is timed with everything that a user needs from a float model to a policy: capture, search with default settings,
and allocation of 8-bit activations under the budget. The toolkit's time is given twice: of its one public call, which
also builds the quantized model, and of the search inside it. Imports and the reading of data count for nobody. All rows
are one measurement, made together.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any

import torch
import torchvision_shim  # noqa: F401 (before the toolkit, which imports torchvision)

# isort: split
import mct
from subject import BUDGET, Clock, Subject, float_model, records, sources

from mixbit import methods
from mixbit.allocation import allocate
from mixbit.errors import MixbitError
from mixbit.policy import LayerScores, Policy, Scores
from mixbit.task import Task

MCT_IMAGES = 32
"""The toolkit's default."""

Search = Callable[[], tuple[dict[str, Clock], Policy]]
"""From a float model to a policy, with the clocks of its parts."""


@dataclass(slots=True)
class Spent:
    """Clocks of one contestant, one a round, by part; and what it found."""

    parts: list[dict[str, Clock]] = field(default_factory=list)
    policy: Policy | None = None
    failure: str = ""

    def row(self) -> dict[str, Any]:
        """CPU seconds of every part: the least of all rounds, the first round, and all."""
        whole = [one["whole"].cpu for one in self.parts]
        best = self.parts[whole.index(min(whole))]
        return {
            "cpu_seconds": min(whole),
            "cpu_seconds_first": whole[0],
            "cpu_seconds_all": whole,
            "wall_seconds": min(one["whole"].wall for one in self.parts),
            "parts_cpu_seconds": {name: clock.cpu for name, clock in best.items() if name != "whole"},
        }


def search_mct(subject: Subject) -> tuple[dict[str, Clock], Policy]:
    """One search by the toolkit."""
    found = mct.run(subject, [x for x, _ in subject.images(MCT_IMAGES, mct.BATCH)])
    method = f"mct {version('model-compression-toolkit')}"
    return {"whole": found.whole, "search": found.search}, subject.policy(found.bits, method=method, seed=0)


def search_ours(subject: Subject, name: str) -> tuple[dict[str, Clock], Policy]:
    """One search by one of our methods: from the float model to a policy."""
    clocks = {part: Clock() for part in ("whole", "capture", "search", "allocate")}
    model = float_model()
    with clocks["whole"].running():
        with clocks["capture"].running():
            task = Task(model=model, train=subject.dataset.train, test=subject.dataset.test)
        with clocks["search"].running():
            scores = methods.make(name, kind="score").search(task, quiet=True)
        with clocks["allocate"].running():
            policy, _ = allocate(task.network, with_activations(scores, 8), subject.budget)
    return clocks, policy


def with_activations(scores: Scores, bits: int) -> Scores:
    """The same table with one choice of activation bits, as the other toolkits have it; weights keep all of theirs."""
    layers = {name: LayerScores(weight=one.weight, activation={bits: 0.0}) for name, one in scores.layers.items()}
    return replace(scores, layers=layers, program=replace(scores.program, coupled=False))


def contestants(subject: Subject, names: list[str]) -> dict[str, Search]:
    """Everybody's search by name, the toolkit first."""
    ours = {name: functools.partial(search_ours, subject, name) for name in names}
    return {"mct": functools.partial(search_mct, subject), **ours}


def play(searches: dict[str, Search], spent: dict[str, Spent]) -> None:
    """One round; one of ours that fails is not tried again, and says why."""
    for name, search in searches.items():
        if spent[name].failure:
            continue
        try:
            clocks, spent[name].policy = search()
        except MixbitError as cause:
            spent[name].failure = f"{type(cause).__name__}: {cause}"
            print(name, spent[name].failure, flush=True)
            continue
        spent[name].parts.append(clocks)
        print(f"{name:24s} {clocks['whole'].cpu:8.2f} s CPU", flush=True)


def rows_of(spent: dict[str, Spent]) -> list[dict[str, Any]]:
    """A row a contestant, with its ratio to both times of the toolkit."""
    theirs = spent["mct"].row()
    rows = []
    for name, one in spent.items():
        head = {"cost": "forward" if name == "mct" else methods.info(name).cost}
        if one.failure or one.policy is None:
            rows.append(head | {"failure": one.failure})
            continue
        found = one.row()
        found["ratio"] = found["cpu_seconds"] / theirs["cpu_seconds"]
        found["ratio_to_search_alone"] = found["cpu_seconds"] / theirs["parts_cpu_seconds"]["search"]
        found["costs"] = one.policy.costs
        found["bits"] = {layer: bits.weight_bits for layer, bits in one.policy.layers.items()}
        rows.append(head | found)
    return rows


def chosen_methods(names: list[str] | None) -> list[str]:
    """The methods asked for, or all that end in scores and do not train the network."""
    return names or [name for name in methods.names(kind="score") if methods.info(name).cost != "training"]


def played(subject: Subject, names: list[str], rounds: int) -> list[dict[str, Any]]:
    """All rounds."""
    searches = contestants(subject, names)
    spent = {name: Spent() for name in searches}
    for _ in range(rounds):
        play(searches, spent)
    return rows_of(spent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", help="of mixbit; all but those that train, if not given")
    parser.add_argument("--budget", default=BUDGET, help="of weight bytes, as mixbit writes it")
    parser.add_argument("--threads", type=int, default=1)
    records.arguments(parser)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.smoke:
        given.rounds, given.methods = 1, ["uniform"]
    chosen = chosen_methods(given.methods)
    settings = {"rounds": given.rounds, "budget": given.budget, "threads": given.threads, "mct_images": MCT_IMAGES}
    results = records.Results(
        "peers_search",
        settings={**settings, "methods": sorted(chosen)},
        inputs=sources(),
        libraries=mct.PACKAGES,
        fresh=given.fresh,
        smoke=given.smoke,
    )
    names = [{"name": name} for name in ("mct", *chosen)]
    subject = Subject.load(given.budget)
    if results.plan(names):
        facts = {"rounds": given.rounds, "mct_images": MCT_IMAGES, "versions": records.versions(mct.PACKAGES)}
        results.facts(budget=subject.budget.texts, limit_bytes=subject.limit_bits / 8, **facts)
    for row in results.group(names, lambda: played(subject, chosen, given.rounds)):
        print(row["name"].ljust(24), row.get("failure") or f"{row['cpu_seconds']:8.2f} s CPU  {row['ratio']:.3f}")


if __name__ == "__main__":
    main()
