"""Evolution of integer genomes towards a front: NSGA-II with hard limits kept by repair."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixbit._settings import LARGEST_COUNT, Count, Range, Seed, Share, check, check_value
from mixbit.errors import MixbitError, shown
from mixbit.ledger import Ledger
from mixbit.search import _nsga2
from mixbit.search._nsga2 import Genomes, Indices, Values
from mixbit.search.pareto import MOST_OBJECTIVES, hypervolume, non_dominated

__all__ = ["Evolution", "Found"]

Genome = NDArray[np.int64]
"""`(genes,)`."""

_TRIES = 10
"""So often a generation draws children for the room that is left, and then as often strangers."""
_MARGIN = 0.1
"""Of the first generation's range, by which the reference lies beyond its worst values, so that the ends count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What an evolution has found, so far or in the end. Rows are in the order in which they were evaluated."""

    genomes: Genomes
    """`(n, genes)`, all that were evaluated, each once."""
    values: Values
    """`(n, objectives)`, as `evaluate` gave them."""
    front: Indices
    """Rows that no other row beats, rising; of rows with equal values the first."""
    population: Indices
    """Rows that would be the parents of the next generation, rising."""
    history: tuple[float, ...]
    """After each generation, the hypervolume of all that was evaluated, in the units of the objectives."""
    reference: tuple[float, ...]
    """What the hypervolume is counted from."""

    @property
    def evaluations(self) -> int:
        """How many genomes were evaluated, those that the ledger knew included."""
        return len(self.genomes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evolution:
    """NSGA-II (Deb et al. 2002) for genomes of whole numbers.

    A generation's parents win tournaments of two: the earlier front first, then the less crowded. Children take genes
    of both and mutate; those that are known already are dropped, and others drawn. Of parents and children together the
    best fronts survive, and the last one that has room loses its most crowded, one after the other. Where nothing new
    is found any more, strangers drawn at random come in, and where these are known as well the search ends early.

    What a generation draws depends on the seed and its number alone. So a killed search goes on from its ledger with
    the numbers of an unbroken one, bit for bit, and a search of more generations begins as the shorter one did.

    Attributes:
        options: how many choices each gene has; it is the number of one, from 0, and a gene of one choice stays at 0.
            Where choices have an order, as bits have, number them so: a mutation takes the next one half of the time.
        objectives: "min" or "max" for each, one to three.
        population: genomes that survive a generation, and children that it makes.
        generations: populations that are evaluated, the first one included: at most `population * generations`
            evaluations, and more only if the start has more than a population.
        crossover: share of children that have two parents, each gene of either with even odds (uniform crossover).
        mutation: probability of each gene to change to another choice; None takes one gene in every second child.
        seed: of all that is drawn.

    Raises:
        MixbitError: a value that is not legal.

    The number of ones against a value that wants the first two genes alone; four genomes are not to be beaten:

    >>> def evaluate(genomes):
    ...     return np.stack([genomes.sum(axis=1), genomes[:, 0] + 2 * genomes[:, 1]], axis=1)
    >>> found = Evolution(options=(2,) * 6, objectives=("min", "max"), population=8, generations=6).run(evaluate)
    >>> sorted(found.genomes[found.front].tolist())
    [[0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0]]
    """

    options: tuple[Count, ...]
    objectives: tuple[Literal["min", "max"], ...]
    population: Annotated[int, Range(least=2, most=LARGEST_COUNT)] = 50
    generations: Count = 20
    crossover: Share = 0.9
    mutation: Share | None = None
    seed: Seed = 0

    def __post_init__(self) -> None:
        """Check types and ranges; lists are taken as tuples."""
        for name in ("options", "objectives"):
            if isinstance(value := getattr(self, name), list):
                object.__setattr__(self, name, tuple(value))
        check(self, room="evolution")
        if not any(count > 1 for count in self.options):
            raise MixbitError(
                f"evolution: options={shown(self.options)} leave nothing to choose. Legal: at least one gene of two or "
                "more choices."
            )
        if not 1 <= len(self.objectives) <= MOST_OBJECTIVES:
            raise MixbitError(
                f"evolution: objectives={shown(self.objectives)} are {len(self.objectives)}. Legal: one to "
                f"{MOST_OBJECTIVES}; keep the others within limits by repair."
            )

    def run(
        self,
        evaluate: Callable[[Genomes], ArrayLike],
        *,
        start: ArrayLike | None = None,
        repair: Callable[[Genome], ArrayLike] | None = None,
        at_once: int | None = None,
        ledger: Path | None = None,
        depends: Mapping[str, Any] | None = None,
        on_generation: Callable[[Found], None] | None = None,
    ) -> Found:
        """Search; no genome is evaluated twice.

        Args:
            evaluate: genomes `(n, genes)`, all of them new -> values `(n, objectives)`, finite.
            start: genomes `(n, genes)` that the first generation has for certain; it is filled up at random.
            repair: a genome -> the one that keeps the hard limits, to be evaluated in its place; the start's too.
            at_once: genomes that `evaluate` is given together, and that a kill can lose; None for all of a generation.
            ledger: the file that a killed search goes on from.
            depends: for the ledger, all that values and repair depend on and that is not said here: digests of weights
                and images, limits.
            on_generation: told what was found after each generation.

        Raises:
            MixbitError: the start, a repaired genome or values are not as they should be.
            StaleRun: the ledger was begun with another seed, start, or other settings; only `generations` may differ.

        Several processes that search together each evaluate all genomes, and must get the same values.
        """
        check_value("at_once", at_once, Count | None, room="evolution")
        first = np.zeros((0, len(self.options)), dtype=np.int64) if start is None else self._checked(start, "The start")
        kept = Ledger(ledger, "an evolution", {**self._settings(first), "depends": dict(depends or {})})
        search = _Search(self, evaluate, repair, at_once, kept)
        for found in search.generations(first):
            if on_generation is not None:
                on_generation(found)
        return found

    def _settings(self, start: Genomes) -> dict[str, Any]:
        """What a search depends on; one of more generations goes on where one of fewer ended."""
        known = {key: value for key, value in asdict(self).items() if key != "generations"}
        known["options"] = [int(count) for count in self.options]
        return {**known, "start": f"blake2b:{blake2b(start.tobytes(), digest_size=8).hexdigest()}"}

    def _checked(self, genomes: ArrayLike, what: str) -> Genomes:
        """Genomes as whole numbers within their options.

        Raises:
            MixbitError: they are not.
        """
        try:
            found = np.asarray(genomes)
        except ValueError:  # rows of unequal length
            found = np.empty(0, dtype=object)
        genes = len(self.options)
        if found.ndim != 2 or found.shape[1] != genes or not np.issubdtype(found.dtype, np.integer):
            raise MixbitError(
                f"{what} is of {found.dtype} and the shape {found.shape}. Legal: whole numbers, (n, {genes}), a gene a "
                "column."
            )
        wrong = np.argwhere((found < 0) | (found >= np.array(self.options)))
        if len(wrong):
            row, gene = (int(at) for at in wrong[0])
            raise MixbitError(
                f"{what} has {shown(found[row].tolist())}: gene {gene} is {found[row, gene]}. Legal: 0 to "
                f"{self.options[gene] - 1}."
            )
        return found.astype(np.int64)


class _Search:
    """One search: what is known, and where it is kept."""

    def __init__(
        self,
        asked: Evolution,
        evaluate: Callable[[Genomes], ArrayLike],
        repair: Callable[[Genome], ArrayLike] | None,
        at_once: int | None,
        ledger: Ledger,
    ) -> None:
        self.asked, self.evaluate, self.repair, self.at_once, self.ledger = asked, evaluate, repair, at_once, ledger
        self.options = np.array(asked.options, dtype=np.int64)
        self.signs = np.array([1.0 if one == "min" else -1.0 for one in asked.objectives])
        self.rate = 0.5 / int((self.options > 1).sum()) if asked.mutation is None else asked.mutation
        self.genomes = np.zeros((0, len(self.options)), dtype=np.int64)
        self.values = np.zeros((0, len(self.signs)))
        self.known: set[bytes] = set()

    @property
    def losses(self) -> Values:
        """The values with less as better."""
        losses: Values = self.values * self.signs
        return losses

    def generations(self, start: Genomes) -> Iterator[Found]:
        """What was found after each generation, until the last, or until nothing new is found."""
        population, reference = np.arange(0), np.zeros(0)
        history: tuple[float, ...] = ()
        for number in range(self.asked.generations):
            before = len(self.genomes)
            self._add(self._kept(number, start, population))
            if len(self.genomes) == before:
                return
            losses = self.losses
            alive = np.concatenate([population, np.arange(before, len(losses))])
            room = min(self.asked.population, len(alive))
            population = alive[_nsga2.survivors(losses[alive], room)]
            if not number:
                reference = losses.max(axis=0) + _MARGIN * np.ptp(losses, axis=0)
            front = non_dominated(losses)
            history = (*history, hypervolume(losses[front], reference))
            yield Found(
                genomes=self.genomes.copy(),
                values=self.values.copy(),
                front=front,
                population=population.copy(),
                history=history,
                reference=tuple((reference * self.signs).tolist()),
            )

    # -- who is evaluated

    def _kept(self, number: int, start: Genomes, population: Indices) -> Genomes:
        """The new genomes of a generation, as the ledger has them, or drawn and put there."""
        key = f"generation {number}"
        if key not in self.ledger:
            self.ledger.put(key, self._new(number, start, population).tolist())
        genomes = self.ledger.read(key, list[list[int]])
        where = f"{self.ledger.path or 'The ledger'}, key {key!r},"
        return self.asked._checked(np.array(genomes, dtype=np.int64).reshape(-1, len(self.options)), where)

    def _new(self, number: int, start: Genomes, population: Indices) -> Genomes:
        """Genomes that are not known, repaired: the start, children, strangers; as many as there is room for."""
        rng = np.random.default_rng([self.asked.seed, number])
        found: dict[bytes, Genome] = {}
        self._take(found, start, len(start))
        for turn in range(2 * _TRIES):
            room = self.asked.population - len(found)
            if room <= 0:
                break
            strange = turn >= _TRIES or not len(population)
            batch = _nsga2.drawn(self.options, room, rng) if strange else self._children(population, room, rng)
            self._take(found, batch, room)
        return np.array([*found.values()], dtype=np.int64).reshape(-1, len(self.options))

    def _children(self, population: Indices, count: int, rng: np.random.Generator) -> Genomes:
        one, other = _nsga2.parents(self.losses[population], 2 * count, rng).reshape(2, count)
        genomes = self.genomes[population]
        children = _nsga2.crossed(genomes[one], genomes[other], self.asked.crossover, rng)
        return _nsga2.mutated(children, self.options, self.rate, rng)

    def _take(self, found: dict[bytes, Genome], genomes: Genomes, room: int) -> None:
        """Add those that are new, before and after repair."""
        for genome in genomes:
            if self.repair is not None and genome.tobytes() not in self.known:
                repaired = np.asarray(self.repair(genome))
                genome = self.asked._checked(repaired[None], "A repaired genome")[0]
            if genome.tobytes() not in self.known:
                found.setdefault(genome.tobytes(), genome)

    # -- what they are worth

    def _add(self, genomes: Genomes) -> None:
        """Evaluate what the ledger does not know, piece by piece, and add all in their order."""
        names = [_name(genome) for genome in genomes]
        todo = [at for at, name in enumerate(names) if name not in self.ledger]
        size = self.at_once or max(1, len(todo))
        for first in range(0, len(todo), size):
            part = todo[first : first + size]
            values = self._values(self.evaluate(genomes[part]), genomes[part], "evaluate")
            for at, row in zip(part, values.tolist(), strict=True):
                self.ledger.put(names[at], row)
        known = self._values([self.ledger[name] for name in names], genomes, str(self.ledger.path or "The ledger"))
        self.genomes, self.values = np.concatenate([self.genomes, genomes]), np.concatenate([self.values, known])
        self.known |= {genome.tobytes() for genome in genomes}

    def _values(self, given: ArrayLike, genomes: Genomes, who: str) -> Values:
        """Values of genomes as finite numbers.

        Raises:
            MixbitError: they are not.
        """
        wanted = (len(genomes), len(self.signs))
        legal = f"Legal: {wanted}, a row a genome and a column an objective."
        try:
            values = np.array(given, dtype=np.float64)
        except (TypeError, ValueError) as cause:
            raise MixbitError(f"{who} gave no table of numbers: {cause}. {legal}") from cause
        if not len(genomes):
            return values.reshape(wanted)
        if values.shape != wanted:
            raise MixbitError(f"{who} gave values of the shape {values.shape} for {len(genomes)} genomes. {legal}")
        wrong = np.argwhere(~np.isfinite(values))
        if len(wrong):
            row, column = (int(at) for at in wrong[0])
            raise MixbitError(
                f"{who} gave {values[row, column]} as objective {column} of the genome {shown(genomes[row].tolist())}. "
                "Legal: finite numbers; let repair keep such genomes out, or give them a value that is worse than all."
            )
        return values


def _name(genome: Genome) -> str:
    """What a genome is called in the ledger."""
    return " ".join(map(str, genome.tolist()))
