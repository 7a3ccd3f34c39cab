"""What an attack may ask of a network, and what each image has asked so far."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mixbit.errors import MixbitError
from mixbit.inference import Predictor

__all__ = ["Target"]

_AT_ONCE = 256
"""Points that go through the network together: an attack may ask for many an image, and of twice as many the maps of a
small network leave the cache."""


class Target:
    """The network under attack as its attacker sees it: `N` images, each of which pays for what it asks.

    Points come as `(M, ...)` with `rows` `(M,)`, the image of each; an image may ask for several points at once.

    Args:
        predictor: the network.
        y: labels `(N,)`.
        limit: points that an image may ask for; None for any number.
    """

    def __init__(self, predictor: Predictor, y: Tensor, limit: int | None = None) -> None:
        self.predictor, self.y, self.limit = predictor, y, limit
        self.queries = torch.zeros(len(y), dtype=torch.int64)
        """Points of which each image got logits."""
        self.gradients = torch.zeros(len(y), dtype=torch.int64)
        """Gradients that each image got; each comes with a query."""
        self.by = [""] * len(y)
        """Name of the attack that broke each image, of one that is made of several."""

    @property
    def all_rows(self) -> Tensor:
        """Every image once, in order: what an attack begins with."""
        return torch.arange(len(self.y))

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the largest number of an input."""
        found = self.predictor.space.bounds
        if found is None:
            raise RuntimeError("an attack has begun on an input space without bounds")
        return found

    def clip(self, points: Tensor) -> Tensor:
        """Points cut at the bounds of the input space."""
        return self.predictor.space.clip(points)

    def can_ask(self, rows: Tensor, count: int = 1) -> Tensor:
        """Which of the rows `(M,)` may ask for so many points more."""
        if self.limit is None:
            return torch.ones(len(rows), dtype=torch.bool)
        return self.queries[rows] + count <= self.limit

    def part(self, rows: Tensor, *, keep: int = 0) -> Target:
        """What an attack on some of the images may ask: what these have left, but for `keep` points."""
        found = Target(self.predictor, self.y[rows], None if self.limit is None else self.limit - keep)
        found.queries, found.gradients = self.queries[rows], self.gradients[rows]
        return found

    def charge_for(self, rows: Tensor, part: Target) -> None:
        """These images pay for what was asked of their `part`."""
        self.queries[rows], self.gradients[rows] = part.queries, part.gradients

    def logits(self, points: Tensor, rows: Tensor) -> Tensor:
        """Logits `(M, C)`, without gradients.

        Raises:
            MixbitError: they are not finite.
        """
        self._charge(rows)
        with torch.no_grad():
            parts = [self.predictor.logits(part) for part in torch.split(points, _AT_ONCE)]
        return self._checked(torch.cat(parts))

    def is_wrong(self, points: Tensor, rows: Tensor) -> Tensor:
        """Whether the class of each point is not its image's label: all that an attack on labels may ask."""
        return self.logits(points, rows).argmax(1) != self.y[rows]

    def gradient(
        self, points: Tensor, rows: Tensor, objective: Callable[[Tensor, Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Gradient of `objective(logits, labels)` with respect to the points, and the logits.

        Returns:
            Gradients of the shape of `points`, and logits `(M, C)`, both without a graph.

        Raises:
            MixbitError: they are not finite.
        """
        gradients, logits = self.gradients_of(points, rows, lambda found: [objective(found, self.y[rows])])
        return gradients[0], logits

    def gradients_of(
        self, points: Tensor, rows: Tensor, objectives: Callable[[Tensor], list[Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Gradients of several functions of the same logits `(K, M, ...)`: one pass forward, one back for each."""
        with torch.enable_grad():
            x = points.detach().requires_grad_()
            logits = self.predictor.logits(x)
            values = objectives(logits)
            last = len(values) - 1
            found = [torch.autograd.grad(value.sum(), x, retain_graph=at < last)[0] for at, value in enumerate(values)]
        self._charge(rows)
        self.gradients.index_add_(0, rows, torch.full((len(rows),), len(values)))
        return self._checked(torch.stack(found), "gradients"), self._checked(logits.detach())

    def _charge(self, rows: Tensor) -> None:
        self.queries.index_add_(0, rows, torch.ones(len(rows), dtype=torch.int64))
        if self.limit is not None and int(self.queries.max()) > self.limit:
            raise RuntimeError("an attack has asked for more points than its images may")

    def _checked(self, found: Tensor, what: str = "logits") -> Tensor:
        if not bool(torch.isfinite(found).all()):
            raise MixbitError(
                f"{self.predictor.name} gives {what} with NaN or infinity. Check the network: an attack on it says "
                "nothing."
            )
        return found
