"""One at a time: what the task's loss rises by when one side of one layer is quantized and all else stays in float.

The plainest sensitivity there is: no gradient, no assumption about the shape of the loss, one number an option. It
serves as the diagonal of CLADO and as the reference that cheaper scores are held against. What two quantized layers do
together is not seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from mixbit._settings import Amount, Bits, Count, Seed, check
from mixbit.methods._baseline import ladder, make_scores
from mixbit.methods.registry import register
from mixbit.policy import LayerScores, Scores
from mixbit.quantizers import RuleName
from mixbit.sensitivity.measuring import (
    Chunk,
    Measure,
    Measuring,
    Row,
    RowSums,
    Variable,
    calibration_images,
    contents,
    first_images,
    not_scored,
)
from mixbit.sensitivity.perturbation import Perturbation, searched_layers
from mixbit.task import Task

__all__ = ["OneAtATime"]


@register(
    "one-at-a-time",
    "rise of the loss with one side of one layer quantized",
    source="ours; the diagonal of CLADO, Deng et al., DAC 2025, arXiv 2307.05657",
    cost="forward",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class OneAtATime:
    """Loss increase of every single choice, on a fixed set of training images.

    `harm(l, side, b) = L(side of layer l at b bits, all else float) - L(float)`, with `L` the task's loss averaged over
    the images, or with `measure="kl"` the divergence `sum_c p_c log(p_c / q_c)` of the class probabilities from the
    float network's, which needs no label and is 0 for the float network.

    The loss may fall: such harms stay negative in the table, for allocation sees to curves that are not monotone. Those
    that fall by more than a hundredth of the largest rise are listed in the settings under `decreases`.

    Every run starts at the layer that it changes, from the kept state of the float network.

    Attributes:
        bits: candidate bit-widths of weights and activations.
        images: training images, the first of a shuffled pass without augmentation.
        measure: "loss" or "kl".
        batch_size: images that go through the network together.
        cache_mib: limit of the kept states; fewer images go together where they would take more.
        per_channel: one weight step an output channel.
        rule: how steps are chosen.
        step_images: the first so many of the images set the steps of inputs.
        first_last: also score the first and the last layer.
        seed: of the choice of images.
    """

    bits: tuple[Bits, ...] = (8, 6, 5, 4, 3, 2)
    images: Count = 1024
    measure: Measure = "loss"
    batch_size: Count = 128
    cache_mib: Amount = 1024
    per_channel: bool = True
    rule: RuleName = "mse"
    step_images: Count = 32
    first_last: bool = False
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)

    def search(self, task: Task, *, run: Path | None = None, quiet: bool = False) -> Scores:
        """Measure every option; with a run folder a killed search goes on at the layer where it was.

        Raises:
            MixbitError: a setting is not legal, or a loss is not finite.
            StaleRun: the run folder holds a partial measurement of other settings, another model or other images.
        """
        bits = ladder(self.bits)
        x, y = calibration_images(task, self.images, self.seed)
        probe = Perturbation(
            task,
            bits,
            bits,
            first_images(x, self.step_images),
            first_last=self.first_last,
            per_channel=self.per_channel,
            weight_rule=self.rule,
            activation_rule=self.rule,
        )
        measuring = Measuring(
            task, probe, x, y, measure=self.measure, base={}, batch_size=self.batch_size, cache_mib=self.cache_mib
        )
        sums = RowSums(run, "one-at-a-time", asdict(self) | contents(task.model, [(x, y)]))
        measuring.fill(sums, self._rows(measuring), label="one at a time", quiet=quiet)
        return self._scores(task, probe, measuring, sums)

    def _variables(self, layer: str) -> list[Variable]:
        """The options of a layer: its weights, then its input."""
        bits = ladder(self.bits)
        return [(layer, "weight", b) for b in bits] + [(layer, "activation", b) for b in bits]

    def _rows(self, measuring: Measuring) -> dict[str, Row]:
        """One row for the float network, and one a layer."""

        def row(layer: str) -> Row:
            def measure(chunk: Chunk) -> list[float]:
                state = chunk.states[layer]
                return [measuring.run(state, [variable], chunk)[0] for variable in self._variables(layer)]

            return measure

        return {"": measuring.base_loss} | {layer: row(layer) for layer in measuring.suffix.order}

    def _scores(self, task: Task, probe: Perturbation, measuring: Measuring, sums: RowSums) -> Scores:
        base = sums.rows[""][0] / measuring.images
        harms: dict[Variable, float] = {}
        for layer in measuring.suffix.order:
            for variable, total in zip(self._variables(layer), sums.rows[layer], strict=True):
                harms[variable] = total / measuring.images - base
        searched = [layer.name for layer in searched_layers(task.network, first_last=self.first_last)]
        return make_scores(
            task.network,
            self,
            method="one-at-a-time",
            layers={la.name: self._curves(la.name, harms) for la in probe.layers},
            found={
                "base_loss": base,
                "decreases": decreases(harms),
                "not_scored": not_scored(task, probe, searched),
                **measuring.describe(sums.work),
            },
        )

    def _curves(self, layer: str, harms: Mapping[Variable, float]) -> LayerScores:
        bits = ladder(self.bits)
        return LayerScores(
            weight={b: harms[layer, "weight", b] for b in bits},
            activation={b: harms[layer, "activation", b] for b in bits},
        )


def decreases(harms: Mapping[Variable, float], share: float = 0.01) -> list[str]:
    """Choices that make the loss fall by more than a share of the largest rise, as text.

    >>> decreases({("a", "weight", 8): -0.02, ("a", "weight", 2): 1.0})
    ['a (weight) at 8 bits: -0.02']
    """
    largest = max(harms.values(), default=0.0)
    return [
        f"{layer} ({side}) at {bits} bits: {harm:.4g}"
        for (layer, side, bits), harm in harms.items()
        if harm < 0 and -harm > share * largest
    ]
