"""JSMA: pixels are raised two at a time, those that a saliency map of all pairs names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mixbit._settings import Part, Positive
from mixbit.attacks._norms import Norm
from mixbit.attacks._objectives import is_wrong, others
from mixbit.attacks._streams import Streams
from mixbit.attacks._target import Target
from mixbit.attacks.attack import Attack
from mixbit.attacks.registry import register

__all__ = ["Jsma", "most_salient_pair"]

_FRONT = 256
"""Numbers that are paired at most, so that the table of pairs stays small; commonly there are 10 to 40."""


@register(
    "jsma",
    "raises the two most salient numbers at a time, towards a class",
    source="Papernot et al., EuroS&P 2016",
    access="gradients",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class Jsma(Attack):
    """Few changed numbers: in each step the pair `p, q` of the largest `A B` is raised by `theta`, cut at the bound.

    `A` is the sum over the pair of the gradient of the target's logit, `B` that of the other logits' sum, with its sign
    changed; both must be above 0. Numbers at the upper bound are no longer looked at.

    Attributes:
        theta: by how much a number is raised in a step, in the unit of the input space.
        gamma: largest part of the numbers of an image that may be changed.
        towards: the target: "second", the class of the second largest logit, or a "random" one other than the label.

    >>> import mixbit.testing.attacks as testing
    >>> predictor = testing.LinearPredictor(classes=2)
    >>> x = torch.full((1, 1, 4, 4), 0.5) + 0.02 * predictor.weight[0].sign()
    >>> found = Jsma(theta=0.3).run(predictor, x, torch.tensor([0]))
    >>> bool(found.success), int((found.points != x).sum()) <= 4
    (True, True)
    """

    theta: Positive = 0.08
    gamma: Part = 1.0
    towards: Literal["second", "random"] = "second"

    @property
    def norm(self) -> Norm:
        """What it makes small is L0."""
        return "L0"

    def _perturb(self, target: Target, x: Tensor, y: Tensor, streams: Streams) -> Tensor:
        nearest, active = x.clone(), target.all_rows
        goal = self._goals(target, x, streams)
        points, high = x, target.bounds[1]
        while True:
            asking = target.can_ask(active)
            active, points = active[asking], points[asking]
            if not len(active):
                return nearest
            a, b, logits = self._saliency(target, points, active, goal[active])
            wrong = is_wrong(logits, target.y[active])
            nearest[active[wrong]] = points[wrong]
            flat = points.flatten(1)
            pair, there = most_salient_pair(a, b, flat < high)
            raised = flat.scatter(1, pair, (flat.gather(1, pair) + self.theta).clamp(max=high))
            changed = (raised != x[active].flatten(1)).sum(1)
            moved = (raised != flat).any(1)  # a theta below the rounding of float32 moves nothing
            going = ~wrong & there & moved & (changed <= self.gamma * flat.shape[1])
            active, points = active[going], raised.view_as(points)[going]

    def _goals(self, target: Target, x: Tensor, streams: Streams) -> Tensor:
        """The class that each image is led to `(N,)`; costs one query."""
        rows = target.all_rows
        rivals = others(target.logits(x, rows), target.y)
        if self.towards == "second":
            return rivals.argmax(1)
        drawn = streams.integers(rows, rivals.shape[1] - 1)
        return drawn + (drawn >= target.y)

    def _saliency(self, target: Target, points: Tensor, active: Tensor, goal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The gradient of the target's logit, minus that of the others' sum `(N, numbers)` each, and the logits."""

        def both(logits: Tensor) -> list[Tensor]:
            wanted = logits.gather(1, goal[:, None]).squeeze(1)
            return [wanted, wanted - logits.sum(1)]

        (a, b), logits = target.gradients_of(points, active, both)
        return a.flatten(1), b.flatten(1), logits


def most_salient_pair(a: Tensor, b: Tensor, usable: Tensor) -> tuple[Tensor, Tensor]:
    """The pair of usable numbers with the largest `(a_p + a_q) (b_p + b_q)`, both sums above 0, row by row.

    A number that two others exceed in `a` and in `b` is in no such pair, so that few are left to be paired.

    Args:
        a: `(N, numbers)`.
        b: `(N, numbers)`.
        usable: `(N, numbers)`, bool.

    Returns:
        The pairs `(N, 2)`, and whether there is one `(N,)`.

    >>> most_salient_pair(torch.tensor([[1.0, 3.0, -1.0]]), torch.tensor([[2.0, 1.0, 9.0]]), torch.ones(1, 3) > 0)
    (tensor([[1, 2]]), tensor([True]))
    """
    nothing = torch.full_like(a, -torch.inf)
    a, order = torch.where(usable, a, nothing).sort(dim=1, descending=True, stable=True)
    b = torch.where(usable, b, nothing).gather(1, order)
    front = (b > _second_before(b)) & usable.gather(1, order)
    count = max(2, min(_FRONT, int(front.sum(1).max()), front.shape[1]))
    at = front.to(torch.int8).sort(dim=1, descending=True, stable=True).indices[:, :count]
    a, b, front = a.gather(1, at), b.gather(1, at), front.gather(1, at)
    sums = [one[:, :, None] + one[:, None, :] for one in (a, b)]
    legal = (sums[0] > 0) & (sums[1] > 0) & (front[:, :, None] & front[:, None, :]).triu(1)
    value, best = torch.where(legal, sums[0] * sums[1], -torch.inf).flatten(1).max(1)
    pair = torch.stack([best // count, best % count], 1)
    return order.gather(1, at.gather(1, pair)), value > 0


def _second_before(b: Tensor) -> Tensor:
    """The second largest of all that come before each number `(N, numbers)`; minus infinity for the first two."""
    none = torch.full_like(b[:, :1], -torch.inf)
    largest = torch.cat([none, b.cummax(1).values[:, :-1]], 1)
    second = torch.minimum(b, largest).cummax(1).values
    return torch.cat([none, second[:, :-1]], 1)
