"""Carlini and Wagner's attacks: the distance plus `c` times a misclassification is made small, in L2 and in Linf."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mixbit._settings import Count, NotNegative, Positive
from mixbit.attacks._minimise import Adam, Constants, Nearest, TanhSpace, hinge, is_found
from mixbit.attacks._norms import Norm, norm_of, per_image
from mixbit.attacks._streams import Streams
from mixbit.attacks._target import Target
from mixbit.attacks.attack import Attack
from mixbit.attacks.registry import register

__all__ = ["CarliniWagnerL2"]

_STEP = 2.0
"""Of descent in `w`: one over the largest curvature of the distance, which is 2 (half / width)^2."""
_SETTLED = 0.05
"""A point that moves by less than this part of its distance is where its `c` takes it."""


@register(
    "cw-l2",
    "least distance in L2 plus c times a misclassification, between bounds by tanh",
    source="Carlini and Wagner, S&P 2017",
    access="gradients",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class CarliniWagnerL2(Attack):
    """The nearest point in L2: the least of `|x' - x|^2 + c f(x')` over `w`, with `x' = middle + half tanh(w)`.

    `f = max(z_y - max of the other logits + confidence, 0)`, and `c` is the least that gives an adversarial point, by
    binary search. Distances are measured in widths of the input space, so that `c` has the same meaning in all.

    Attributes:
        steps: for each `c`: 10000 in the released code, 10 in the experiments of Costa and Pinto.
        searches: values of `c`, 9 in the released code.
        first_c: the first of them, 0.001 in the released code.
        confidence: by how much the other class must win, in logits.
        solver: "adam", the paper's, which makes all steps; or "descent" (ours), steps of the gradient that become
            smaller to the end. It needs a tenth of the steps, for Adam's first ones move all pixels alike; and it tries
            the next `c` as soon as this one is known to be enough, or to take the point nowhere else.
        lr: rate of Adam, in `w`.

    >>> import mixbit.testing.attacks as testing
    >>> predictor = testing.LinearPredictor(classes=2)
    >>> x = torch.full((1, 1, 4, 4), 0.5) + 0.02 * predictor.weight[0].sign()
    >>> found = CarliniWagnerL2(steps=10).run(predictor, x, torch.tensor([0]))
    >>> bool(found.success)
    True
    """

    steps: Count = 30
    searches: Count = 9
    first_c: Positive = 1e-3
    confidence: NotNegative = 0.0
    solver: Literal["descent", "adam"] = "descent"
    lr: Positive = 0.01

    @property
    def norm(self) -> Norm:
        """What it makes small is L2."""
        return "L2"

    def _perturb(self, target: Target, x: Tensor, y: Tensor, streams: Streams) -> Tensor:
        nearest, constants = Nearest(x), Constants(self.first_c, len(x))
        space = TanhSpace(*target.bounds)
        start = space.enter(x)
        for _ in range(self.searches):
            constants.narrow(self._minimise(target, space, x, start, constants.c, nearest))
        return nearest.points

    def _minimise(
        self, target: Target, space: TanhSpace, x: Tensor, start: Tensor, c: Tensor, nearest: Nearest
    ) -> Tensor:
        """Steps for one `c`; which images `(N,)` came to an adversarial point."""
        success, active, w = torch.zeros(len(x), dtype=torch.bool), target.all_rows, start
        adam = Adam(x) if self.solver == "adam" else None
        for at in range(self.steps):
            asking = target.can_ask(active)
            active, w = active[asking], w[asking]
            if not len(active):
                break
            points = space.leave(w)
            delta = points - x[active]
            slope, logits = target.gradient(points, active, lambda z, labels: hinge(z, labels, self.confidence))
            found = is_found(logits, target.y[active], self.confidence)
            distance = norm_of(delta, "L2")
            nearest.offer(active, points, distance, found)
            success[active] |= found
            gradient = space.slope(w) * (delta / (2 * space.half**2) + per_image(c[active], x) * slope)
            if adam is not None:
                w = w - self.lr * adam.direction(active, gradient)
                continue
            w = w - _STEP * (1 - at / self.steps) * gradient
            moved = norm_of(space.leave(w) - points, "L2")
            going = ~found & (moved > _SETTLED * distance)
            active, w = active[going], w[going]
        return success
