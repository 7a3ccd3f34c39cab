"""Where an evolution among sub-networks begins: uniform policies, and those of cheap methods at budgets between."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from mixbit import _distributed
from mixbit._progress import announce
from mixbit.allocation import AllocationSettings, decide
from mixbit.cost import Budget
from mixbit.errors import InfeasibleBudget, MixbitError
from mixbit.evaluation import reestimate_batch_norm
from mixbit.ledger import Ledger
from mixbit.methods._genes import COSTS, Genes
from mixbit.methods.registry import ScoreMethod, info, make
from mixbit.quantization import detach
from mixbit.supernet import Supernet, SupernetConfig, Uniform, select
from mixbit.task import Task

__all__ = ["Started", "Starts", "check_starts", "float_task", "ordered", "tables_digest"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """What one method gives an evolution to begin with."""

    genomes: list[list[int]] = field(default_factory=list)
    note: str = ""
    """Why there are none."""


def check_starts(names: Sequence[str]) -> None:
    """Find out before anything is trained whether these methods can be asked.

    Raises:
        MixbitError: an unknown method, one twice, or one that ends in no scores of bits or trains.
    """
    for name in names:
        found = info(name)
        offers = [one.name for one in fields(make(name))]
        if names.count(name) > 1 or found.kind != "score" or found.cost == "training" or "bits" not in offers:
            raise MixbitError(
                f"starts={list(names)}: {name!r} is none to start from. Legal: methods that end in scores, train "
                "nothing and take bits, each once: fit, limpq-init, sqnr and others of mixbit list methods."
            )


@dataclass(frozen=True, kw_only=True)
class Starts:
    """The first policies of an evolution in a supernet.

    Each method scores the supernet's own weights, in float, on images that train. The exact solver takes a policy from
    these scores for every cost of the search, at what the uniform networks of bits between the lowest and the highest
    use of it, and one for the limits.
    """

    supernet: Supernet
    genes: Genes
    names: tuple[str, ...]
    costs: tuple[str, ...]
    seed: int
    quiet: bool = False

    def rows(self, known: Ledger) -> tuple[NDArray[np.int64], list[str]]:
        """Genomes `(n, genes)` without repetition, the uniform ones first; and notes on methods that gave none.

        Args:
            known: method -> what it gave, so that a search that goes on begins where it began.
        """
        found, notes = [row.tolist() for row in self.genes.uniform()], []
        for name in self.names:
            if name not in known:
                found_here = self._of(name)
                # Sums in another order could tip a choice: the processes of one search begin with the same policies.
                shared = _distributed.bytes_of_first(lambda one=found_here: json.dumps(asdict(one)).encode())  # type: ignore[misc]
                known.put(name, json.loads(shared))
            started = known.read(name, Started)
            found += started.genomes
            notes += [started.note] if started.note else []
        return np.array(list(dict.fromkeys(map(tuple, found))), dtype=np.int64), notes

    def ledger(self, path: Path | None, of: Mapping[str, Any]) -> Ledger:
        """Where they are kept, with all that they depend on."""
        own = {"bits": self.genes.bits, "costs": list(self.costs), "limits": list(self.genes.limits), "seed": self.seed}
        return Ledger(path, "starts of an evolution", {**of, **own})

    def _of(self, name: str) -> Started:
        if not self.quiet:
            announce("starts", self.names.index(name), len(self.names), name)
        try:
            scores = _method(name, self.supernet.settings, self.seed).search(self._task, quiet=True)
            policies = [self._policy(scores, budget) for budget in self.budgets()]
        except MixbitError as error:  # what begins a search must not end it
            return Started(note=f"{name} gave no policies to start from: {error}")
        return Started(genomes=[one for one in policies if one is not None])

    @property
    def _task(self) -> Task:
        return float_task(self.supernet)

    def budgets(self) -> Iterator[Budget]:
        """What policies are asked for."""
        low, *between, high = self.genes.bits
        for cost in self.costs:
            for weight, tensor in [(bits, bits) for bits in between] or [(low, high)]:
                yield Budget.parse([f"{COSTS[cost].kind}={weight}x{tensor}"])
        if self.genes.budget is not None:
            yield self.genes.budget

    def _policy(self, scores: Any, budget: Budget) -> list[int] | None:
        settings = AllocationSettings.under(self.genes.terms, or_uniform=True)
        try:
            layers = decide(self.genes.network, scores, budget, settings).policy.layers
        except InfeasibleBudget:  # the scores leave options out
            return None
        return [int(gene) for gene in self.genes.genome(layers)]


def _method(name: str, supernet: SupernetConfig, seed: int) -> ScoreMethod:
    """With the bits and the ends of the supernet."""
    given = {"bits": supernet.bits, "first_last": supernet.first_last, "seed": seed}
    offers = {one.name for one in fields(make(name))}
    return make(name, {key: value for key, value in given.items() if key in offers}, kind="score")


def float_task(supernet: Supernet) -> Task:
    """The float network of a supernet's weights, with statistics of its norms from training images, and these images.

    Of norms with rows it has those of the highest bits.
    """
    model: nn.Module = copy.deepcopy(supernet.model)
    select(model, Uniform(supernet.settings.highest))
    detach(model)
    reestimate_batch_norm(model, supernet.judge.batches)
    return replace(supernet.settings.parts(supernet.task)[0], model=model)


def tables_digest(genes: Genes) -> dict[str, str]:
    """What costs depend on beside the network: digests of the tables, where there are any."""
    tables = {"latency": genes.terms.latency, "memory": genes.terms.memory}
    return {
        name: blake2b(repr(ordered(table)).encode(), digest_size=8).hexdigest()
        for name, table in tables.items()
        if table is not None
    }


def ordered(value: Any) -> Any:
    """With sets and mappings in an order that does not change from one process to the next."""
    if is_dataclass(value):
        return [(one.name, ordered(getattr(value, one.name))) for one in fields(value)]
    if isinstance(value, Mapping):
        return sorted(((ordered(key), ordered(one)) for key, one in value.items()), key=repr)
    if isinstance(value, set | frozenset):
        return sorted(map(ordered, value), key=repr)
    return [ordered(one) for one in value] if isinstance(value, list | tuple) else value
