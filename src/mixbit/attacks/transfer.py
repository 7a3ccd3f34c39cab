"""Points that were made on one network, tried on others.

Of a pair it is the share of the images that both have right whose point the second has wrong: images that one of them
had wrong anyway say nothing of the transfer. The source's own success is on the diagonal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mixbit.attacks.attack import check_logits
from mixbit.attacks.measures import Interval, interval_of_mean
from mixbit.errors import MixbitError
from mixbit.inference import Predictor

__all__ = ["TransferMatrix", "classes_of", "transfer_matrix"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferMatrix:
    """Shares of points that pass from one network to another; a source a row, a target a column.

    Attributes:
        sources: networks on which points were made.
        targets: networks on which they were tried.
        shares: a row a source; None where no image is right on both.
        images: how many are right on both, likewise.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    shares: tuple[tuple[Interval | None, ...], ...]
    images: tuple[tuple[int, ...], ...]

    def share(self, source: str, target: str) -> Interval | None:
        """Find the share of one pair."""
        return self.shares[self.sources.index(source)][self.targets.index(target)]


def classes_of(predictor: Predictor, points: Tensor) -> Tensor:
    """The class that a network gives each point `(N,)`, the first of the largest logits.

    Args:
        predictor: any; no gradients are asked for.
        points: `(N, ...)` in the unit of its input space.

    Raises:
        MixbitError: logits that are not finite, or not of two classes or more.
    """
    with torch.no_grad():
        logits = predictor.logits(points)
    check_logits(predictor, logits)
    return logits.argmax(1)


def transfer_matrix(
    right: Mapping[str, Sequence[bool]], wrong: Mapping[tuple[str, str], Sequence[bool]], *, seed: int = 0
) -> TransferMatrix:
    """The matrix of all pairs that were tried.

    Args:
        right: name of a network -> whether it has each image right.
        wrong: (source, target) -> whether the target has each of the source's points wrong; all targets of a source.
        seed: of the intervals.

    Raises:
        MixbitError: a pair is missing.

    >>> right = {"float": [True, True, True, False], "int8": [True, True, False, True]}
    >>> wrong = {("float", "float"): [True] * 4, ("float", "int8"): [True, False, True, True]}
    >>> found = transfer_matrix(right, wrong)
    >>> found.sources, found.targets, found.share("float", "int8").value, found.images
    (('float',), ('float', 'int8'), 0.5, ((3, 2),))
    """
    sources = tuple(dict.fromkeys(source for source, _ in wrong))
    targets = tuple(name for name in right if any(name == target for _, target in wrong))
    missing = [(source, target) for source in sources for target in targets if (source, target) not in wrong]
    if missing:
        raise MixbitError(f"points of {missing[0][0]} were not tried on {missing[0][1]}. Give every pair.")
    both = [[np.array(right[source]) & np.array(right[target]) for target in targets] for source in sources]
    return TransferMatrix(
        sources=sources,
        targets=targets,
        shares=tuple(
            tuple(
                interval_of_mean(wrong[source, target], shared, seed=seed) if shared.any() else None
                for target, shared in zip(targets, row, strict=True)
            )
            for source, row in zip(sources, both, strict=True)
        ),
        images=tuple(tuple(int(shared.sum()) for shared in row) for row in both),
    )
