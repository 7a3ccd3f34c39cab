"""The uniform networks as a front: what every mixed policy is measured against, at every budget."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Literal

from mixbit._settings import Bits, Count, Seed, check
from mixbit.cost import LayerBits
from mixbit.methods._baseline import ladder
from mixbit.methods._settings import plain_settings
from mixbit.methods.registry import register
from mixbit.network import Network
from mixbit.policy import Front, FrontPoint, Policy, Terms, pin_note, resolve_pins
from mixbit.sensitivity.judging import Judge
from mixbit.task import Task

__all__ = ["UniformFront"]


@register(
    "uniform-front",
    "the uniform networks, each measured after calibration",
    source="ours",
    cost="forward",
    kind="front",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class UniformFront:
    """Every uniform network of the candidate bits with its costs and its measured quality.

    The float weights are calibrated and measured as they are, not trained: so many points cost seconds, and fine-tuning
    moves all of them. Images that judge are of the training split, and not those of calibration.

    Attributes:
        bits: candidate bit-widths of weights and activations.
        pairs: "equal" for W2A2, W3A3 and so on, "all" for every pair of weight and activation bits.
        first_last: give the first and the last layer the same bits as well, instead of 8.
        images: training images to measure on.
        calibration_images: further ones, for the steps of activations.
        batch_size: images that go through the network together.
        seed: of the choice of images.
    """

    bits: tuple[Bits, ...] = (8, 6, 5, 4, 3, 2)
    pairs: Literal["equal", "all"] = "equal"
    first_last: bool = False
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
        *,
        terms: Terms = Terms(),  # noqa: B008 (frozen)
        run: Path | None = None,
        quiet: bool = False,
    ) -> Front:
        """Measure every network; with a run folder a killed search goes on with what is not measured yet.

        Args:
            task: model, data, loss and metrics.
            terms: tables of times and memory, by which points tell what they cost.
            run: folder for what is measured.
            quiet: no progress bar.

        Raises:
            BudgetError: a table of another network, or without the candidate bits.
            MixbitError: a measurement is not finite.
            StaleRun: the run folder holds measurements of other settings, another model or other images.
        """
        network, policies = task.network, list(self._policies(task.network))
        tables = [terms.cost_table(network, policy.layers) for policy in policies]  # before anything is measured
        judge = Judge(
            task,
            images=self.images,
            calibration_images=self.calibration_images,
            batch_size=self.batch_size,
            seed=self.seed,
        )
        of = {key: value for key, value in asdict(self).items() if key in ("images", "calibration_images", "seed")}
        found = judge.quality(policies, judge.ledger(run, "uniform-front", of), label="uniform front", quiet=quiet)
        points = tuple(
            FrontPoint(
                name=policy.method.removeprefix("uniform "),
                layers=policy.layers,
                quality=quality,
                costs=table,
            )
            for policy, quality, table in zip(policies, found, tables, strict=True)
        )
        return Front(
            fingerprint=network.fingerprint,
            points=points,
            measured=judge.measured,
            method="uniform-front",
            seed=self.seed,
            settings=plain_settings(self),
            notes=[] if self.first_last else [pin_note(resolve_pins(network))],
        )

    def _policies(self, network: Network) -> Iterator[Policy]:
        """From the fewest bits to the most."""
        rising = ladder(self.bits)
        pins: dict[str, LayerBits] | None = {} if self.first_last else None
        for weight, activation in product(rising, rising) if self.pairs == "all" else zip(rising, rising, strict=True):
            yield Policy.uniform(network, weight, activation, pins)
