"""Uniform bits as a method: the scores whose optimum is the network that is as even as the budget allows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mixbit._settings import Bits, Seed, check
from mixbit.methods._baseline import ladder, make_scores
from mixbit.methods.registry import register
from mixbit.policy import LayerScores, Scores
from mixbit.sensitivity.perturbation import searched_layers
from mixbit.task import Task

__all__ = ["Uniform"]


@register("uniform", "the lowest bits of any layer as high as the budget allows", source="ours", cost="none")
@dataclass(frozen=True, slots=True, kw_only=True)
class Uniform:
    """The max-min policy: as few layers as possible at the fewest bits, then at the next, and so on.

    Harm of either side of every layer: `K^-r`, where `r` is the rank of the bits among the candidates, from 0 for the
    fewest, and `K` is one more than twice the number of scored layers. One side at rank r does more harm than all
    others together at rank r + 1, so the sum compares policies lexicographically. At the BitOps of a uniform network
    the optimum is that network, for every other has a side below its bits or costs more; between two of them as many
    sides as fit are raised. Under `weight-bytes` alone inputs cost nothing and get the most bits.

    The harms span `K^(number of candidates - 1)`. Up to 128 layers with six candidates that is within the solver's grid
    of 2^-40; beyond, the finest steps (7 against 8 bits where some layers sit at 2) are decided by local improvement.
    An `alpha` other than 1 at allocation breaks the balance of the two sides.

    Attributes:
        bits: candidate bit-widths of weights and activations.
        first_last: also score the first and the last layer.
        seed: unused; every method has one.
    """

    bits: tuple[Bits, ...] = (8, 6, 5, 4, 3, 2)
    first_last: bool = False
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)

    def search(self, task: Task, *, run: Path | None = None, quiet: bool = False) -> Scores:
        """Write the scores; nothing is measured."""
        layers = searched_layers(task.network, first_last=self.first_last)
        base = 2 * len(layers) + 1
        curve = even_harm(ladder(self.bits), base)
        table = {layer.name: LayerScores(dict(curve), dict(curve)) for layer in layers}
        return make_scores(task.network, self, method="uniform", layers=table, found={"base": base})


def even_harm(bits: list[int], base: int) -> dict[int, float]:
    """Harm `base^-rank` of rising bits.

    >>> even_harm([2, 4, 8], 10)
    {2: 1.0, 4: 0.1, 8: 0.01}
    """
    return {width: float(base) ** -rank for rank, width in enumerate(bits)}
