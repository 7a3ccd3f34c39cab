"""JSMA: pixels are raised two at a time, those that a saliency map names."""

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

__all__ = ["Jsma", "most_salient", "most_salient_pair"]

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
    """Few changed numbers: in each step the two most salient are raised by `theta`, cut at the bound.

    Numbers at the upper bound are no longer looked at.

    Attributes:
        saliency: of which numbers it is the largest: "pairs", the paper's, is the pair `p, q` of the largest `A B`, `A`
            being the sum over the pair of the gradient of the target's logit, `B` that of the other logits' sum with
            its sign changed, both above 0; "lead" (ours) is the gradient of how far the target's logit is above the
            label's, above 0, which takes one pass back and fewer numbers.
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

    saliency: Literal["lead", "pairs"] = "lead"
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
            flat = points.flatten(1)
            pair, there, logits = self._salient(target, points, active, goal[active], flat < high)
            wrong = is_wrong(logits, target.y[active])
            nearest[active[wrong]] = points[wrong]
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

    def _salient(
        self, target: Target, points: Tensor, active: Tensor, goal: Tensor, usable: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Two of the usable numbers `(N, 2)`, whether there are any `(N,)`, and the logits."""

        def lead(logits: Tensor) -> list[Tensor]:
            return [_of(logits, goal) - _of(logits, target.y[active])]

        def both(logits: Tensor) -> list[Tensor]:
            wanted = _of(logits, goal)
            return [wanted, wanted - logits.sum(1)]

        slopes, logits = target.gradients_of(points, active, lead if self.saliency == "lead" else both)
        slopes = slopes.flatten(2)
        if self.saliency == "lead":
            pair, there = most_salient(slopes[0], usable)
        else:
            pair, there = most_salient_pair(slopes[0], slopes[1], usable)
        return pair, there, logits


def _of(logits: Tensor, classes: Tensor) -> Tensor:
    """The logit of one class a row."""
    return logits.gather(1, classes[:, None]).squeeze(1)


def most_salient(slope: Tensor, usable: Tensor) -> tuple[Tensor, Tensor]:
    """The two usable numbers of the largest gradients above 0, row by row; where there is one alone, it twice.

    Args:
        slope: `(N, numbers)`.
        usable: `(N, numbers)`, bool.

    Returns:
        The numbers `(N, 2)`, and whether there is one `(N,)`.

    >>> slope = torch.tensor([[1.0, 3.0, 2.0], [-1.0, 5.0, 4.0]])
    >>> most_salient(slope, torch.tensor([[True, True, True], [True, True, False]]))
    (tensor([[1, 2],
            [1, 1]]), tensor([True, True]))
    """
    values, at = torch.where(usable, slope, -torch.inf).topk(min(2, slope.shape[1]), dim=1)
    first, last = at[:, 0], torch.where(values[:, -1] > 0, at[:, -1], at[:, 0])
    return torch.stack([first, last], 1), values[:, 0] > 0


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
