"""Random search: the best of many random policies within a budget, each measured. What any search must beat that
measures as many.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from random import Random
from typing import Literal

from mixbit._settings import Bits, Count, Seed, check
from mixbit.allocation import project
from mixbit.allocation.random_policy import random_policy
from mixbit.cost import Budget
from mixbit.methods._baseline import ladder
from mixbit.methods._settings import plain_settings
from mixbit.methods.registry import register
from mixbit.network import Network
from mixbit.policy import Policy, Terms, pin_note
from mixbit.sensitivity.judging import Judge, bits_text
from mixbit.task import Task

__all__ = ["RandomSearch"]

_PATIENCE = 20
"""Draws in a row that bring nothing new, after which there is taken to be nothing new."""


@register(
    "random-search",
    "the best of many random policies within the budget",
    source="ours",
    cost="forward",
    kind="policy",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class RandomSearch:
    """Draws policies that use the budget up, calibrates and measures each, and keeps the best.

    Two draws: `raise` starts at the fewest bits and raises random sides until nothing fits
    (`mixbit.allocation.random_policy`); `project` draws the bits of every side evenly and takes the nearest policy
    within the budget, by the exact solver (`mixbit.allocation.project`). What was drawn before is not measured again,
    so all of `trials` are different; where a budget leaves fewer, fewer are measured, with a note.

    The network is not trained. Images that judge are of the training split, and not those of calibration.

    Attributes:
        bits: candidate bit-widths of weights and activations.
        trials: policies that are measured.
        draw: how they are drawn.
        by: what is best: the least "loss", or the best "metric" of the task.
        images: training images to measure on.
        calibration_images: further ones, for the steps of activations.
        batch_size: images that go through the network together.
        seed: of the draws and of the choice of images.
    """

    bits: tuple[Bits, ...] = (8, 6, 5, 4, 3, 2)
    trials: Count = 32
    draw: Literal["raise", "project"] = "raise"
    by: Literal["loss", "metric"] = "loss"
    images: Count = 1024
    calibration_images: Count = 256
    batch_size: Count = 256
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)
        ladder(self.bits)

    def search(
        self,
        task: Task,
        budget: Budget,
        *,
        terms: Terms = Terms(),  # noqa: B008 (frozen)
        run: Path | None = None,
        quiet: bool = False,
    ) -> Policy:
        """The best of the drawn policies; with a run folder a killed search goes on with what is not measured yet.

        Raises:
            InfeasibleBudget: no policy meets the budget; with the nearest feasible limits and the layers that block.
            MixbitError: a measurement is not finite, or `by="metric"` where it is not known which way is better.
            StaleRun: the run folder holds measurements of other settings, another model or other images.
        """
        if self.by == "metric":
            task.info.directed()
        drawn = list(islice(self._drawn(task.network, budget, terms), self.trials))
        judge = Judge(
            task,
            images=self.images,
            calibration_images=self.calibration_images,
            batch_size=self.batch_size,
            seed=self.seed,
        )
        # More trials, and another budget, measure further policies in the same way.
        of = {key: value for key, value in asdict(self).items() if key in ("images", "calibration_images", "seed")}
        found = judge.quality(drawn, judge.ledger(run, "random-search", of), label="random search", quiet=quiet)
        values = [one["loss"] if self.by == "loss" else task.info.gain(0.0, one[task.info.name]) for one in found]
        best = min(range(len(drawn)), key=values.__getitem__)
        return self._finished(task, drawn[best], found, best, judge, terms)

    def _drawn(self, network: Network, budget: Budget, terms: Terms) -> Iterator[Policy]:
        """Different policies, as long as there are any."""
        random = Random(self.seed)
        free = [layer.name for layer in network.layers if layer.name not in terms.pinned(network)]
        seen: set[str] = set()
        missed = 0
        while missed < _PATIENCE:
            policy = self._draw(network, budget, terms, free, random)
            missed = missed + 1 if bits_text(policy.layers) in seen else 0
            if not missed:
                seen.add(bits_text(policy.layers))
                yield policy

    def _draw(self, network: Network, budget: Budget, terms: Terms, free: list[str], random: Random) -> Policy:
        if self.draw == "project":
            wished = {name: (float(random.choice(self.bits)), float(random.choice(self.bits))) for name in free}
            return project(network, wished, budget, bits=self.bits, terms=terms)
        return random_policy(
            network,
            budget,
            bits=self.bits,
            pins=terms.pinned(network),
            ties=terms.ties,
            macs=terms.macs,
            seed=random.getrandbits(32),
            latency=terms.latency,
            memory=terms.memory,
        )

    def _finished(
        self, task: Task, policy: Policy, found: list[dict[str, float]], best: int, judge: Judge, terms: Terms
    ) -> Policy:
        """The policy with what there is to say of the search."""
        name = "loss" if self.by == "loss" else task.info.name
        values = [one[name] for one in found]
        notes = [
            f"the best of {len(values)} random policies: {name} {values[best]:.4g} on {judge.measured.on}; the median "
            f"is {statistics.median(values):.4g}"
        ]
        if len(values) < self.trials:
            notes.append(
                f"{_PATIENCE} draws in a row gave nothing new, so {len(values)} of {self.trials} were measured"
            )
        pins = terms.pinned(task.network)
        return replace(
            policy,
            method="random-search",
            seed=self.seed,
            allocation={
                "solver": "random-search",
                "objective": values[best],
                "evaluations": len(values),
                "quality": dict(found[best]),
                "settings": plain_settings(self),
                **terms.facts,
            },
            notes=([pin_note(pins)] if pins else []) + notes,
        )
