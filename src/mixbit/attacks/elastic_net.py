"""EAD: the elastic-net distance plus `c` times a misclassification is made small, so that few pixels move."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mixbit._settings import Count, NotNegative, Positive
from mixbit.attacks._minimise import Constants, Nearest, hinge, is_found
from mixbit.attacks._norms import Norm, norm_of, per_image
from mixbit.attacks._streams import Streams
from mixbit.attacks._target import Target
from mixbit.attacks.attack import Attack
from mixbit.attacks.registry import register

__all__ = ["ElasticNet"]

_QUERIES = 2
"""Points that a step asks for: the one with momentum, for its gradient, and the one that the step comes to."""


@register(
    "ead",
    "least elastic-net distance, which moves few pixels, plus c times a misclassification",
    source="Chen et al., AAAI 2018",
    access="gradients",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class ElasticNet(Attack):
    """The least of `|x' - x|_2^2 + beta |x' - x|_1 + c f(x')` within the bounds, by FISTA.

    `f = max(z_y - max of the other logits + confidence, 0)`, and `c` is the least that gives an adversarial point, by
    binary search. A step goes down the gradient of all but the L1 norm, from a point with momentum, and then shrinks
    the perturbation: pixels that moved by `beta` or less are put back, the others come nearer by `beta`.
    Perturbations are measured in widths of the input space, so that `c`, `beta` and `lr` have the same meaning in all.

    Attributes:
        beta: weight of the L1 norm, 0.001 in the released code.
        rule: which of the adversarial points is the nearest: "EN" by the elastic-net distance, "L1" by the L1 norm.
        steps: for each `c`: 10000 in the released code, 10 in the experiments of Costa and Pinto.
        searches: values of `c`, 9 in the released code.
        first_c: the first of them, 0.001 in the released code.
        lr: length of the first step, 0.01 in the released code; it falls to 0 with the root of the steps that are left.
        confidence: by how much the other class must win, in logits.

    >>> import mixbit.testing.attacks as testing
    >>> predictor = testing.LinearPredictor(classes=2)
    >>> x = torch.full((1, 1, 4, 4), 0.5) + 0.02 * predictor.weight[0].sign()
    >>> found = ElasticNet(beta=0.01).run(predictor, x, torch.tensor([0]))
    >>> bool(found.success), int((found.points != x).sum()) < 16
    (True, True)
    """

    beta: NotNegative = 1e-3
    rule: Literal["EN", "L1"] = "EN"
    steps: Count = 100
    searches: Count = 9
    first_c: Positive = 1e-3
    lr: Positive = 0.01
    confidence: NotNegative = 0.0

    @property
    def norm(self) -> Norm:
        """The part of the distance that makes it a norm of few pixels is L1."""
        return "L1"

    def _perturb(self, target: Target, x: Tensor, y: Tensor, streams: Streams) -> Tensor:
        nearest, constants = Nearest(x), Constants(self.first_c, len(x))
        for _ in range(self.searches):
            constants.narrow(self._minimise(target, x, constants.c, nearest))
        return nearest.points

    def _minimise(self, target: Target, x: Tensor, c: Tensor, nearest: Nearest) -> Tensor:
        """FISTA for one `c`; which images `(N,)` came to an adversarial point."""
        success, active = torch.zeros(len(x), dtype=torch.bool), target.all_rows
        points = ahead = x
        for at in range(self.steps):
            asking = target.can_ask(active, _QUERIES)
            active, points, ahead = active[asking], points[asking], ahead[asking]
            if not len(active):
                break
            before, points = points, self._stepped(target, x[active], ahead, active, c[active], at)
            ahead = points + at / (at + 3) * (points - before)
            found = is_found(target.logits(points, active), target.y[active], self.confidence)
            nearest.offer(active, points, self._distance(target, points - x[active]), found)
            success[active] |= found
        return success

    def _stepped(self, target: Target, x: Tensor, ahead: Tensor, active: Tensor, c: Tensor, at: int) -> Tensor:
        """A step down the gradient from the point with momentum, shrunk towards the image."""
        low, high = target.bounds
        width = high - low
        slope, _ = target.gradient(ahead, active, lambda z, labels: hinge(z, labels, self.confidence))
        lr = self.lr * (1 - at / self.steps) ** 0.5
        delta = ahead - x
        delta = delta - lr * (2 * delta + per_image(c, x) * slope * width**2)
        return target.clip(x + F.softshrink(delta, self.beta * width))

    def _distance(self, target: Target, delta: Tensor) -> Tensor:
        """What the rule calls near, in widths."""
        low, high = target.bounds
        delta = delta / (high - low)
        ones = norm_of(delta, "L1")
        return ones if self.rule == "L1" else norm_of(delta, "L2").square() + self.beta * ones
