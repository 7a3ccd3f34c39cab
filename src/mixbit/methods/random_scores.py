"""Random scores: what a budget gives to a table that knows nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random

from mixbit._settings import Bits, Seed, check
from mixbit.methods._baseline import ladder, make_scores
from mixbit.methods.registry import register
from mixbit.policy import LayerScores, Scores
from mixbit.sensitivity.perturbation import searched_layers
from mixbit.task import Task

__all__ = ["RandomScores"]


@register(
    "random", "random harm that falls with bits: a random policy that uses its budget up", source="ours", cost="none"
)
@dataclass(frozen=True, slots=True, kw_only=True)
class RandomScores:
    """Harm of each side of each layer: as many uniform random numbers as candidates, the largest at the fewest bits.

    Every seed is one table, and a table gives every budget one policy, on the budget's boundary as far as bits are
    whole. It is not drawn evenly from all feasible policies: costs count, so wide layers get fewer bits, as with every
    method. `mixbit.allocation.random_policy` draws without a table.

    Attributes:
        bits: candidate bit-widths of weights and activations.
        first_last: also score the first and the last layer.
        seed: of the draws; give several to see the spread.
    """

    bits: tuple[Bits, ...] = (8, 6, 5, 4, 3, 2)
    first_last: bool = False
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)

    def search(self, task: Task, *, run: Path | None = None, quiet: bool = False) -> Scores:
        """Draw the scores; nothing is measured."""
        random, rising = Random(self.seed), ladder(self.bits)
        table = {
            layer.name: LayerScores(falling_harm(rising, random), falling_harm(rising, random))
            for layer in searched_layers(task.network, first_last=self.first_last)
        }
        return make_scores(task.network, self, method="random", layers=table)


def falling_harm(bits: list[int], random: Random) -> dict[int, float]:
    """Random harm of rising bits, falling.

    >>> {width: round(harm, 3) for width, harm in falling_harm([2, 4, 8], Random(0)).items()}
    {2: 0.844, 4: 0.758, 8: 0.421}
    """
    return dict(zip(bits, sorted((random.random() for _ in bits), reverse=True), strict=True))
