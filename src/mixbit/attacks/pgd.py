"""Projected gradient descent: steps along the sign of the gradient, cut at a ball around the image.

Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks" (ICLR 2018).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mixbit._settings import Count, Positive
from mixbit.attacks._norms import Norm, norm_of, per_image, project
from mixbit.attacks._objectives import cross_entropy, is_wrong, margin
from mixbit.attacks._streams import Streams
from mixbit.attacks._target import Target
from mixbit.attacks.attack import Attack
from mixbit.attacks.registry import register

__all__ = ["Pgd"]


@register(
    "pgd",
    "steps along the gradient's sign within a ball, from random starts",
    source="Madry et al., ICLR 2018",
    access="gradients",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class Pgd(Attack):
    """Ascent of a loss within `|x' - x| <= eps` and the bounds: `x' <- P(x' + step * direction(grad loss(x')))`.

    The direction is the sign of the gradient for Linf, and the gradient divided by its length for L2. The first of the
    starts is the image itself, the others are drawn from the ball. What counts is the point of the least margin.

    Attributes:
        eps: radius of the ball, in the unit of the input space.
        step: length of a step; None for a tenth of `eps`, as the experiments of Costa and Pinto have it.
        steps: of one start.
        restarts: starts.
        ball: "Linf" or "L2".
        loss: "margin", which does not vanish where the network is sure (ours as the default), or "cross-entropy", the
            paper's.
        early: an image whose point is wrong leaves the batch. Without, all steps of all starts are made, which finds
            points farther behind the boundary; they pass to other networks more often.
    """

    eps: Positive = 8 / 255
    step: Positive | None = None
    steps: Count = 20
    restarts: Count = 20
    ball: Literal["Linf", "L2"] = "Linf"
    loss: Literal["margin", "cross-entropy"] = "margin"
    early: bool = True

    @property
    def norm(self) -> Norm:
        """That of the ball."""
        return self.ball

    @property
    def radius(self) -> float | None:
        """The bound is `eps`."""
        return self.eps

    def _perturb(self, target: Target, x: Tensor, y: Tensor, streams: Streams) -> Tensor:
        worst, least = x.clone(), torch.full((len(x),), torch.inf)
        active = target.all_rows
        for start in range(self.restarts):
            points = x[active] if start == 0 else self._random_start(target, x, active, streams)
            active = self._ascend(target, x, points, active, worst, least)
            if not len(active):
                break
        return worst

    def _ascend(
        self, target: Target, x: Tensor, points: Tensor, active: Tensor, worst: Tensor, least: Tensor
    ) -> Tensor:
        """One start; `worst` keeps each image's point of the `least` margin. Returns the images that go on."""
        for at in range(self.steps + 1):
            asking = target.can_ask(active)
            points, active = points[asking], active[asking]
            if not len(active):
                break
            last = at == self.steps
            gradient, logits = self._value(target, points, active) if last else self._gradient(target, points, active)
            found = margin(logits, target.y[active])
            better = found < least[active]
            worst[active[better]], least[active[better]] = points[better], found[better]
            if self.early:
                right = ~is_wrong(logits, target.y[active])
                points, active, gradient = points[right], active[right], gradient[right]
            if not last and len(active):
                points = self._stepped(target, x[active], points, gradient)
        return active

    def _gradient(self, target: Target, points: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        return target.gradient(points, active, self._loss)

    def _value(self, target: Target, points: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        """After the last step no gradient is needed."""
        return points, target.logits(points, active)

    def _loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return -margin(logits, y) if self.loss == "margin" else cross_entropy(logits, y)

    def _stepped(self, target: Target, x: Tensor, points: Tensor, gradient: Tensor) -> Tensor:
        length = self.eps / 10 if self.step is None else self.step
        if self.ball == "Linf":
            direction = gradient.sign()
        else:
            direction = gradient / per_image(norm_of(gradient, "L2"), gradient).clamp_min(1e-30)
        return target.clip(x + project(points + length * direction - x, self.ball, self.eps))

    def _random_start(self, target: Target, x: Tensor, active: Tensor, streams: Streams) -> Tensor:
        """Uniform in the ball of Linf; of L2 a random direction at a length whose square is uniform."""
        shape = tuple(x.shape[1:])
        if self.ball == "Linf":
            return target.clip(x[active] + streams.uniform(active, shape, -self.eps, self.eps))
        delta = streams.normal(active, shape)
        length = self.eps * streams.uniform(active, ()).sqrt() / norm_of(delta, "L2")
        return target.clip(x[active] + per_image(length, delta) * delta)
