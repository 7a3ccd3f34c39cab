"""QFA (Bai et al., BatchQuant: Quantized-for-all Architecture Search with Robust Quantizer, NeurIPS 2021), bits alone.

A network is trained once, at all bit-widths together; evolution then looks for the sub-networks that are not to be
beaten in the costs that count and in the quality that the network itself measures, without training any of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn

from mixbit import _distributed
from mixbit._settings import Bits, Count, Epochs, NotNegative, Part, Positive, Range, Seed, Share, check, read
from mixbit.allocation import project
from mixbit.cost import Budget, LayerBits
from mixbit.data import Split, hold_out
from mixbit.errors import MixbitError
from mixbit.evaluation import Metrics
from mixbit.ledger import Ledger, content_of
from mixbit.methods._settings import plain_settings
from mixbit.methods.registry import register
from mixbit.metric import LOSS
from mixbit.models import write_weights
from mixbit.network import Network
from mixbit.policy import Front, FrontPoint, Measured, Terms, WeightsFile, pin_note, resolve_pins
from mixbit.search import Evolution
from mixbit.sensitivity.judging import bits_text
from mixbit.supernet import NormRows, SandwichStep, SubnetJudge, SupernetConfig, build_supernet, settle
from mixbit.task import Task
from mixbit.training import TrainConfig, train

__all__ = ["WEIGHTS", "Qfa", "settings_of", "subnet"]

WEIGHTS = "supernet.safetensors"
"""File of the run folder: the network that all points of the front share."""

Cost = Literal["bitops", "weight_bytes", "activation_bytes"]


@register(
    "qfa",
    "sub-networks of a network trained at all bit-widths, found by evolution",
    source="Bai et al., NeurIPS 2021",
    cost="training",
    kind="front",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class Qfa:
    """A network trained at all bit-widths at once, and the front of its sub-networks.

    The architecture stays as it is (the authors' elastic kernels, widths and depths are not here). Each step trains the
    lowest bits, the highest, and random ones (`mixbit.supernet.SandwichStep`). Quality is measured on training images
    that are held out; the norms of each sub-network get statistics of their own from others.

    Attributes:
        bits, first_last, passes, float_share, norms, per_channel, activations, calibration_images: of the supernet, see
            `mixbit.supernet.SupernetConfig`.
        epochs: of its training.
        batch_size: samples of one step.
        lr: peak learning rate; gradients are sums over the passes.
        step_lr: that of step sizes; None takes `lr`.
        weight_decay: of weights.
        label_smoothing: of the loss on labels.
        distill: weight of the divergence from the float network against that loss.
        fraction: part of the training images that is used.
        precision: "float32", or "bf16" autocast.
        costs: what the front weighs against quality, one or two of "bitops", "weight_bytes", "activation_bytes".
        limits: budgets as text that every policy of the search keeps, e.g. "bitops=5x5"; the nearest policy within is
            taken for one that does not (exact projection).
        by: the quality: least "loss", or best "metric" of the task.
        population: policies that survive a generation.
        generations: of the evolution, the first one included.
        held_out: part of the training images that judges, and trains nothing.
        statistics_images: training images that the norms' statistics of a sub-network are made from.
        seed: of all draws.
    """

    bits: tuple[Bits, ...] = (8, 6, 5, 4, 3, 2)
    first_last: bool = False
    passes: Annotated[int, Range(least=2, most=64)] = 4
    float_share: Share = 0.0
    norms: NormRows = "shared"
    per_channel: bool = True
    activations: Literal["lsq", "pact", "dorefa", "batchquant"] = "lsq"
    calibration_images: Count = 256
    epochs: Epochs = 6
    batch_size: Count = 128
    lr: Positive = 0.01
    step_lr: Positive | None = 0.001
    weight_decay: NotNegative = 3e-5
    label_smoothing: Share = 0.0
    distill: Share = 0.5
    fraction: Part = 1.0
    precision: Literal["float32", "bf16"] = "float32"
    costs: tuple[Cost, ...] = ("bitops",)
    limits: tuple[str, ...] = ()
    by: Literal["loss", "metric"] = "loss"
    population: Annotated[int, Range(least=2, most=10_000)] = 32
    generations: Count = 12
    held_out: Part = 0.1
    statistics_images: Count = 1280
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)
        self.supernet()
        if not 1 <= len(self.costs) <= 2 or len(set(self.costs)) != len(self.costs):
            raise MixbitError(f"costs={list(self.costs)}. Legal: one or two of bitops, weight_bytes, activation_bytes.")
        if self.held_out >= 1:
            raise MixbitError(f"held_out={self.held_out} leaves nothing to train on. Legal: above 0 and below 1.")
        if self.limits:
            Budget.parse(self.limits)

    def supernet(self) -> SupernetConfig:
        """What the network offers."""
        names = ("bits", "first_last", "passes", "float_share", "norms", "per_channel", "activations")
        given = {name: getattr(self, name) for name in (*names, "calibration_images", "seed")}
        return SupernetConfig(**given)

    def training(self) -> TrainConfig:
        """The settings of its training in the terms of the one loop."""
        names = ("epochs", "batch_size", "lr", "step_lr", "weight_decay", "label_smoothing", "distill", "fraction")
        given = {name: getattr(self, name) for name in (*names, "precision", "seed")}
        return TrainConfig(**given, bn_samples=0)

    def search(self, task: Task, *, run: Path | None = None, quiet: bool = False) -> Front:
        """Train, evolve, and give the front; with a run folder a killed search goes on where it was.

        Raises:
            InfeasibleBudget: no policy keeps the limits.
            DataError: training data of which no part can be held out.
            StaleRun: the run folder was begun with other settings, another model or other images.
        """
        if self.by == "metric":
            task.info.directed()
        part, held = self.parts(task)
        space = _Genes(task.network, self)
        space.check()
        model = build_supernet(part, self.supernet())
        judge = self.judge(model, part, held)
        self._train(model, part, judge, run, quiet)
        return self._front(task, space, judge, run, len(held), quiet)

    def parts(self, task: Task) -> tuple[Task, Split]:
        """The task with what trains, and the training images that judge.

        Raises:
            DataError: training data of which no part can be held out.
        """
        rest, held = hold_out(task.train, self.held_out, seed=self.seed)
        return replace(task, train=rest), held

    def judge(self, model: nn.Module, task: Task, held: Split) -> SubnetJudge:
        """What measures sub-networks, with batches of the training's own size for the statistics."""
        count = max(1, self.statistics_images // self.batch_size)
        batches = task.train.batches(self.batch_size, seed=self.seed, shuffle=True, augment=True, drop_last=True)
        return SubnetJudge(
            model, (x for (x, _), _ in zip(batches, range(count), strict=False)), held, task.objective,
            batch_size=2 * self.batch_size, precision=self.precision,
        )  # fmt: skip

    def _train(self, model: nn.Module, task: Task, judge: SubnetJudge, run: Path | None, quiet: bool) -> None:
        def validate(bits: Any) -> Metrics:
            judge.forget()
            return judge(bits)

        step = SandwichStep(model, task.network, self.supernet(), validate)
        train(
            model, task.train, None, self.training(), run=run, teacher=task.model if self.distill else None,
            loss=task.objective, step=step, penalty=task.penalty, quiet=quiet, label="supernet",
        )  # fmt: skip
        judge.forget()
        if run is not None and _distributed.rank() == 0:
            write_weights(run / WEIGHTS, model.state_dict())
        _distributed.barrier()

    def _front(self, task: Task, space: _Genes, judge: SubnetJudge, run: Path | None, held: int, quiet: bool) -> Front:
        of = {"supernet": content_of(list(judge.model.state_dict().values())), "held out": held}
        known = Ledger(None if run is None else run / "sub-networks.jsonl", "sub-networks of a supernet", of)

        def evaluate(genomes: NDArray[np.int64]) -> NDArray[np.float64]:
            return np.array([self._values(task, space, judge, known, genome) for genome in genomes])

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
                on=f"{held} training images that trained nothing (seed {self.seed})",
            ),
            method="qfa",
            seed=self.seed,
            settings=plain_settings(self),
            weights=None if run is None else WeightsFile.of(run / WEIGHTS, run),
            notes=[
                *([] if self.first_last else [pin_note(resolve_pins(task.network))]),
                f"{found.evaluations} sub-networks were measured",
            ],
        )

    def _values(
        self, task: Task, space: _Genes, judge: SubnetJudge, known: Ledger, genome: NDArray[np.int64]
    ) -> list[float]:
        """Quality and costs of a genome; what was measured is kept by its bits."""
        layers = space.layers(genome)
        key = bits_text(layers)
        if key not in known:
            measured = judge(layers)
            known.put(key, {**measured.values, LOSS.name: measured.loss})
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


def settings_of(front: Front) -> Qfa:
    """How a front of this method was made.

    Raises:
        MixbitError: it is of another method.
    """
    if front.method != "qfa":
        raise MixbitError(f"the front is of {front.method!r}. Legal: one of mixbit search qfa.")
    return read(Qfa, front.settings, room="the front's settings")


def subnet(task: Task, front: Front, weights: Path, layers: Mapping[str, LayerBits]) -> nn.Module:
    """A sub-network as an ordinary quantized network: the weights that all share, and statistics of its own.

    Args:
        task: what the front was made for.
        front: of this method.
        weights: the file of `front.weights`.
        layers: bits of every layer, all of them among those that the network was trained at.

    Raises:
        MixbitError: a front of another method, or bits that it was not trained at.
    """
    settings = settings_of(front)
    part, held = settings.parts(task)
    model = build_supernet(part, settings.supernet())
    model.load_state_dict(load_file(weights))
    settings.judge(model, part, held).recalibrate(layers)
    settle(model)
    return model


class _Genes:
    """Bits as genes: one for each layer's weights, and one for each tensor that layers read."""

    def __init__(self, network: Network, settings: Qfa) -> None:
        self.network, self.bits = network, sorted(settings.bits)
        self.terms = Terms(pins={}) if settings.first_last else Terms()
        self.budget = Budget.parse(settings.limits) if settings.limits else None
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
