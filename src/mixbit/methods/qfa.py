"""QFA (Bai et al., BatchQuant: Quantized-for-all Architecture Search with Robust Quantizer, NeurIPS 2021), bits alone.

A network is trained once, at all bit-widths together; evolution then looks for the sub-networks that are not to be
beaten in the costs that count and in the quality that the network itself measures, without training any of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from mixbit._progress import Advance, progress_bar
from mixbit._settings import Count, Range, check, read
from mixbit.allocation import project
from mixbit.cost import Budget, LayerBits
from mixbit.errors import MixbitError
from mixbit.ledger import Ledger, content_of
from mixbit.methods._settings import plain_settings
from mixbit.methods.registry import register
from mixbit.metric import LOSS
from mixbit.network import Network
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

EVOLUTION = ("costs", "limits", "by", "population", "generations")
"""Settings of the evolution alone: what a search in a trained supernet takes, beside its seed."""

Cost = Literal["bitops", "weight_bytes", "activation_bytes"]


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
        costs: what the front weighs against quality, one or two of "bitops", "weight_bytes", "activation_bytes".
        limits: budgets as text that every policy of the search keeps, e.g. "bitops=5x5"; the nearest policy within is
            taken for one that does not (exact projection).
        by: the quality: least "loss", or best "metric" of the task.
        population: policies that survive a generation.
        generations: of the evolution, the first one included.
        seed: of all draws, those of `held_out_seed` excepted.
    """

    costs: tuple[Cost, ...] = ("bitops",)
    limits: tuple[str, ...] = ()
    by: Literal["loss", "metric"] = "loss"
    population: Annotated[int, Range(least=2, most=10_000)] = 32
    generations: Count = 12

    def __post_init__(self) -> None:
        check(self)
        SupernetTraining.__post_init__(self)
        if not 1 <= len(self.costs) <= 2 or len(set(self.costs)) != len(self.costs):
            raise MixbitError(f"costs={list(self.costs)}. Legal: one or two of bitops, weight_bytes, activation_bytes.")
        if self.limits:
            Budget.parse(self.limits)

    def supernet(self) -> SupernetTraining:
        """What the network offers and how it is trained, without the evolution."""
        return SupernetTraining(**{one.name: getattr(self, one.name) for one in fields(SupernetTraining)})

    def search(self, task: Task, *, run: Path | None = None, quiet: bool = False) -> Front:
        """Train, evolve, and give the front; with a run folder a killed search goes on where it was.

        Raises:
            InfeasibleBudget: no policy keeps the limits.
            DataError: training data of which no part can be held out.
            StaleRun: the run folder was begun with other settings, another model or other images.
        """
        self.genes(task, self)
        return self.evolve(train_supernet(task, self.supernet(), run=run, quiet=quiet), run=run, quiet=quiet)

    def evolve(self, supernet: Supernet, *, run: Path | None = None, quiet: bool = False) -> Front:
        """The front of a supernet that is trained; of this method's settings those of its own alone have a say.

        Args:
            supernet: of `mixbit.supernet.train_supernet`, or `load_supernet`.
            run: folder for what is measured, which a killed search goes on from.
            quiet: no progress bar.

        Raises:
            InfeasibleBudget: no policy keeps the limits.
            StaleRun: the run folder was begun with other settings or another supernet.
        """
        genes = self.genes(supernet.task, supernet.settings)
        with progress_bar("sub-networks", None, quiet=quiet, brief=True) as advance:
            return self._front(supernet, genes, run, advance)

    def genes(self, task: Task, supernet: SupernetConfig) -> _Genes:
        """What is searched among, asked before anything is trained or loaded.

        Raises:
            InfeasibleBudget: no policy keeps the limits; with the nearest feasible ones and what blocks them.
            MixbitError: a quality without a direction.
        """
        if self.by == "metric":
            task.info.directed()
        space = _Genes(task.network, supernet, self.limits)
        space.check()
        return space

    def _front(self, supernet: Supernet, space: _Genes, run: Path | None, advance: Advance) -> Front:
        task, judge, trained, held = supernet.task, supernet.judge, supernet.settings, len(supernet.held_out)
        of = {"supernet": content_of(list(judge.model.state_dict().values())), "held out": held}
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
            start=space.uniform(),
            repair=space.repair if self.limits else None,
            at_once=1,
            ledger=None if run is None else run / "evolution.jsonl",
            depends={**of, "limits": list(self.limits), "by": self.by, "costs": list(self.costs)},
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
            ],
        )

    def _values(
        self,
        task: Task,
        space: _Genes,
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
        costs = space.terms.cost_table(task.network, layers)
        return [
            quality[LOSS.name if self.by == "loss" else task.info.name],
            *(float(costs[name]) for name in self.costs),
        ]

    def _points(self, space: _Genes, known: Ledger, genomes: Sequence[NDArray[np.int64]]) -> Iterator[FrontPoint]:
        """Of the front, from the cheapest."""
        found = []
        for genome in genomes:
            layers = space.layers(genome)
            costs = space.terms.cost_table(space.network, layers)
            quality = known.read(bits_text(layers), dict[str, float])
            found.append((costs[self.costs[0]], FrontPoint(layers=layers, quality=quality, costs=costs)))
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


class _Genes:
    """Bits as genes: one for each layer's weights, and one for each tensor that layers read."""

    def __init__(self, network: Network, supernet: SupernetConfig, limits: Sequence[str] = ()) -> None:
        self.network, self.bits = network, sorted(supernet.bits)
        self.terms = Terms(pins={}) if supernet.first_last else Terms()
        self.budget = Budget.parse(limits) if limits else None
        self.pins = self.terms.pinned(network)
        self.free = [layer for layer in network.layers if layer.name not in self.pins]
        tensors = list(dict.fromkeys(layer.input_tensor for layer in self.free))
        self.tensors = [tensors.index(layer.input_tensor) for layer in self.free]

    @property
    def options(self) -> tuple[int, ...]:
        """Choices of each gene."""
        return (len(self.bits),) * (len(self.free) + len(set(self.tensors)))

    def check(self) -> None:
        """Raise `InfeasibleBudget` before anything is trained, where no policy keeps the limits."""
        if self.budget is not None and self.free:
            self.repair(np.zeros(len(self.options), dtype=np.int64))

    def layers(self, genome: NDArray[np.int64]) -> dict[str, LayerBits]:
        """Bits of all layers, in execution order."""
        weights, tensors = genome[: len(self.free)], genome[len(self.free) :]
        own = {
            layer.name: LayerBits(self.bits[weights[at]], self.bits[tensors[self.tensors[at]]])
            for at, layer in enumerate(self.free)
        }
        return {layer.name: self.pins.get(layer.name) or own[layer.name] for layer in self.network.layers}

    def genome(self, layers: dict[str, LayerBits]) -> NDArray[np.int64]:
        """The genes of a policy of these bits."""
        found = np.zeros(len(self.options), dtype=np.int64)
        for at, layer in enumerate(self.free):
            chosen = layers[layer.name]
            found[at] = self.bits.index(chosen.weight_bits or 0)
            found[len(self.free) + self.tensors[at]] = self.bits.index(chosen.activation_bits or 0)
        return found

    def uniform(self) -> NDArray[np.int64]:
        """Every pair of weight and activation bits, for all layers."""
        rows = [
            [weight] * len(self.free) + [tensor] * len(set(self.tensors))
            for weight, tensor in product(range(len(self.bits)), repeat=2)
        ]
        return np.array(rows, dtype=np.int64)

    def repair(self, genome: NDArray[np.int64]) -> NDArray[np.int64]:
        """The nearest genome whose policy keeps the limits; one that does so already is itself."""
        assert self.budget is not None
        layers = self.layers(genome)
        used = self.terms.costs(self.network, layers)
        if min(self.budget.slack(used, self.terms.limits(self.network, self.budget)).values()) >= 0:
            return genome
        wished = {
            layer.name: (float(layers[layer.name].weight_bits or 0), float(layers[layer.name].activation_bits or 0))
            for layer in self.free
        }
        return self.genome(project(self.network, wished, self.budget, bits=self.bits, terms=self.terms).layers)
