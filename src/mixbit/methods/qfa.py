"""QFA (Bai et al., BatchQuant: Quantized-for-all Architecture Search with Robust Quantizer, NeurIPS 2021), bits alone.

A network is trained once, at all bit-widths together; evolution then looks for the sub-networks that are not to be
beaten in the costs that count and in the quality that the network itself measures, without training any of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from mixbit._progress import Advance, progress_bar
from mixbit._settings import Count, Range, check, read
from mixbit.cost import Budget, LayerBits
from mixbit.errors import MixbitError
from mixbit.ledger import Ledger, content_of
from mixbit.methods._genes import COSTS, Cost, Genes
from mixbit.methods._settings import plain_settings
from mixbit.methods._starts import Starts, check_starts, tables_digest
from mixbit.methods.registry import register
from mixbit.metric import LOSS
from mixbit.policy import Front, FrontPoint, Measured, Terms, WeightsFile, pin_note, resolve_pins
from mixbit.search import Evolution
from mixbit.sensitivity.judging import bits_text
from mixbit.supernet import (
    SubnetJudge,
    Supernet,
    SupernetConfig,
    SupernetTraining,
    load_supernet,
    settle,
    train_supernet,
)
from mixbit.task import Task

__all__ = ["EVOLUTION", "Qfa", "settings_of", "subnet"]

EVOLUTION = ("costs", "limits", "by", "starts", "population", "generations")
"""Settings of the evolution alone: what a search in a trained supernet takes, beside its seed."""


@register(
    "qfa",
    "sub-networks of a network trained at all bit-widths, found by evolution",
    source="Bai et al., NeurIPS 2021",
    cost="training",
    kind="front",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class Qfa(SupernetTraining):
    """A network trained at all bit-widths at once, and the front of its sub-networks.

    The architecture stays as it is (the authors' elastic kernels, widths and depths are not here). Each step trains the
    lowest bits, the highest, and random ones (`mixbit.supernet.SandwichStep`). Quality is measured on training images
    that are held out; the norms of each sub-network get statistics of their own from others.

    Attributes:
        bits, first_last, passes, float_share, norms, per_channel, activations, calibration_images: of the supernet, see
            `mixbit.supernet.SupernetConfig`.
        epochs, batch_size, lr, step_lr, weight_decay, label_smoothing, distill, fraction, precision: of its training,
            see `mixbit.supernet.SupernetTraining`.
        held_out, held_out_seed, statistics_images: images that judge, and those of the statistics, see there.
        costs: what the front weighs against quality, one or two of "bitops", "weight_bytes", "activation_bytes";
            "latency" or "instructions" by a table of measured times; "flash_bytes", "ram_bytes" by a table of memory.
        limits: budgets as text that every policy of the search keeps, e.g. "bitops=5x5"; the nearest policy within is
            taken for one that does not (exact projection).
        by: the quality: least "loss", or best "metric" of the task.
        starts: score methods whose policies the evolution begins with, beside all pairs of uniform bits; they score the
            supernet's own weights.
        population: policies that survive a generation.
        generations: of the evolution, the first one included.
        seed: of all draws, those of `held_out_seed` excepted.
    """

    costs: tuple[Cost, ...] = ("bitops",)
    limits: tuple[str, ...] = ()
    by: Literal["loss", "metric"] = "loss"
    starts: tuple[str, ...] = ("fit", "limpq-init")
    population: Annotated[int, Range(least=2, most=10_000)] = 32
    generations: Count = 12

    def __post_init__(self) -> None:
        check(self)
        SupernetTraining.__post_init__(self)
        if not 1 <= len(self.costs) <= 2 or len(set(self.costs)) != len(self.costs):
            raise MixbitError(f"costs={list(self.costs)}. Legal: one or two of {', '.join(COSTS)}, each once.")
        check_starts(self.starts)
        if self.limits:
            Budget.parse(self.limits)

    def supernet(self) -> SupernetTraining:
        """What the network offers and how it is trained, without the evolution."""
        return SupernetTraining(**{one.name: getattr(self, one.name) for one in fields(SupernetTraining)})

    def search(
        self,
        task: Task,
        *,
        terms: Terms = Terms(),  # noqa: B008 (frozen)
        run: Path | None = None,
        quiet: bool = False,
    ) -> Front:
        """Train, evolve, and give the front; with a run folder a killed search goes on where it was.

        Args:
            task: model, data, loss and metrics.
            terms: tables of times and memory, which costs and limits in these units need.
            run: folder for the supernet and what is measured.
            quiet: no progress bar.

        Raises:
            BudgetError: a cost or a limit without its table.
            InfeasibleBudget: no policy keeps the limits.
            DataError: training data of which no part can be held out.
            StaleRun: the run folder was begun with other settings, another model or other images.
        """
        self.genes(task, self, terms)
        supernet = train_supernet(task, self.supernet(), run=run, quiet=quiet)
        return self.evolve(supernet, terms=terms, run=run, quiet=quiet)

    def evolve(
        self,
        supernet: Supernet,
        *,
        terms: Terms = Terms(),  # noqa: B008 (frozen)
        run: Path | None = None,
        quiet: bool = False,
    ) -> Front:
        """The front of a supernet that is trained; of this method's settings those of its own alone have a say.

        Args:
            supernet: of `mixbit.supernet.train_supernet`, or `load_supernet`.
            terms: as in `search`.
            run: folder for what is measured, which a killed search goes on from.
            quiet: no progress bar.

        Raises:
            InfeasibleBudget: no policy keeps the limits.
            StaleRun: the run folder was begun with other settings or another supernet.
        """
        genes = self.genes(supernet.task, supernet.settings, terms)
        of = {
            "supernet": content_of(list(supernet.model.state_dict().values())),
            "held out": len(supernet.held_out),
        }
        asked = Starts(supernet=supernet, genes=genes, names=self.starts, costs=self.costs, seed=self.seed, quiet=quiet)
        start = asked.rows(asked.ledger(None if run is None else run / "starts.jsonl", of | tables_digest(genes)))
        with progress_bar("sub-networks", None, quiet=quiet, brief=True) as advance:
            return self._front(supernet, genes, of, start, run, advance)

    def genes(self, task: Task, supernet: SupernetConfig, terms: Terms = Terms()) -> Genes:  # noqa: B008 (frozen)
        """What is searched among, asked before anything is trained or loaded.

        Raises:
            BudgetError: a cost or a limit without its table.
            InfeasibleBudget: no policy keeps the limits; with the nearest feasible ones and what blocks them.
            MixbitError: a quality without a direction.
        """
        if self.by == "metric":
            task.info.directed()
        space = Genes(task.network, supernet, self.limits, terms)
        space.check(self.costs)
        return space

    def _front(
        self,
        supernet: Supernet,
        space: Genes,
        of: dict[str, Any],
        start: tuple[NDArray[np.int64], list[str]],
        run: Path | None,
        advance: Advance,
    ) -> Front:
        task, judge, trained = supernet.task, supernet.judge, supernet.settings
        known = Ledger(None if run is None else run / "sub-networks.jsonl", "sub-networks of a supernet", of)

        def evaluate(genomes: NDArray[np.int64]) -> NDArray[np.float64]:
            return np.array([self._values(task, space, judge, known, genome, advance) for genome in genomes])

        better: Literal["min", "max"] = "min" if self.by == "loss" or not task.info.larger_is_better else "max"
        evolution = Evolution(
            options=space.options,
            objectives=(better, *["min"] * len(self.costs)),  # type: ignore[arg-type]
            population=self.population,
            generations=self.generations,
            seed=self.seed,
        )
        found = evolution.run(
            evaluate,
            start=start[0],
            repair=space.repair if self.limits else None,
            at_once=1,
            ledger=None if run is None else run / "evolution.jsonl",
            depends={**of, "limits": list(self.limits), "by": self.by, "costs": list(self.costs)}
            | tables_digest(space),
        )
        chosen = [found.genomes[row] for row in found.front]
        return Front(
            fingerprint=task.network.fingerprint,
            points=tuple(self._points(space, known, chosen)),
            measured=Measured(
                metrics=tuple(one.info for one in task.objective.metrics or ()) or (LOSS,),
                on=supernet.on,
            ),
            method="qfa",
            seed=self.seed,
            settings={
                **{name: value for name, value in plain_settings(self).items() if name in EVOLUTION},
                "supernet": plain_settings(trained),
            },
            weights=None if run is None or supernet.weights is None else WeightsFile.of(supernet.weights, run),
            notes=[
                *([] if trained.first_last else [pin_note(resolve_pins(task.network))]),
                f"{found.evaluations} sub-networks were measured",
                *start[1],
            ],
        )

    def _values(
        self,
        task: Task,
        space: Genes,
        judge: SubnetJudge,
        known: Ledger,
        genome: NDArray[np.int64],
        advance: Advance,
    ) -> list[float]:
        """Quality and costs of a genome; what was measured is kept by its bits."""
        layers = space.layers(genome)
        key = bits_text(layers)
        if key not in known:
            measured = judge(layers)
            known.put(key, {**measured.values, LOSS.name: measured.loss})
            advance(1, f"loss {measured.loss:.3f}")
        quality = known.read(key, dict[str, float])
        return [
            quality[LOSS.name if self.by == "loss" else task.info.name],
            *(float(cost) for cost in self._used(space, layers)),
        ]

    def _used(self, space: Genes, layers: Mapping[str, LayerBits]) -> tuple[int, ...]:
        """Of each cost of the search."""
        found = space.terms.costs(space.network, layers)
        return tuple(getattr(found, COSTS[name].attribute) for name in self.costs)

    def _points(self, space: Genes, known: Ledger, genomes: Sequence[NDArray[np.int64]]) -> Iterator[FrontPoint]:
        """Of the front, from the cheapest."""
        found = []
        for genome in genomes:
            layers = space.layers(genome)
            costs = space.terms.cost_table(space.network, layers)
            quality = known.read(bits_text(layers), dict[str, float])
            found.append((self._used(space, layers), FrontPoint(layers=layers, quality=quality, costs=costs)))
        yield from (point for _, point in sorted(found, key=lambda one: one[0]))


def settings_of(front: Front) -> SupernetTraining:
    """How the supernet of a front of this method was trained.

    Raises:
        MixbitError: it is of another method.
    """
    if front.method != "qfa":
        raise MixbitError(f"the front is of {front.method!r}. Legal: one of mixbit search qfa.")
    return read(SupernetTraining, front.settings.get("supernet"), room="the front's settings")


def subnet(task: Task, front: Front, weights: Path, layers: Mapping[str, LayerBits]) -> nn.Module:
    """A sub-network as an ordinary quantized network: the weights that all share, and statistics of its own.

    Args:
        task: what the front was made for.
        front: of this method.
        weights: the file of `front.weights`, in the folder of its supernet.
        layers: bits of every layer, all of them among those that the network was trained at.

    Raises:
        MixbitError: a front of another method, or bits that it was not trained at.
    """
    settings_of(front)
    supernet = load_supernet(task, weights.parent)
    supernet.judge.recalibrate(layers)
    settle(supernet.model)
    return supernet.model
