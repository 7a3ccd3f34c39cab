"""DeepFool: steps onto the nearest boundary of a network that is taken to be linear."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mixbit._settings import Count, NotNegative
from mixbit.attacks._norms import Norm, per_image
from mixbit.attacks._objectives import others
from mixbit.attacks._streams import Streams
from mixbit.attacks._target import Target
from mixbit.attacks.attack import Attack
from mixbit.attacks.registry import register

__all__ = ["DeepFool"]

_BEYOND = 1e-4
"""Added to the length of every step, as a part of the width of the input space: the released code's 1e-4 of [0, 1]."""
_QUERIES = 2
"""Points that a step asks for: one with gradients, and the one that it comes to."""


@register(
    "deepfool",
    "steps onto the nearest boundary of the linearised network",
    source="Moosavi-Dezfooli et al., CVPR 2016",
    access="gradients",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class DeepFool(Attack):
    """The nearest point in L2, step by step onto the nearest boundary `z_k = z_y`, as if the logits `z` were linear.

    With `f_k = z_k - z_y` and `w_k` its gradient at `x'`, the class is the one of the least `|f_k| / |w_k|`, the step
    `|f_k| / |w_k|^2 w_k`, and the next point `x' = clip(x + (1 + overshoot) sum of steps)`, until its class is not `y`.

    Attributes:
        overshoot: part by which the sum of the steps is made longer, 0.02 in the paper.
        steps: at most, 50 in the released code.
        rivals: classes other than the label whose boundaries are looked at, those of the largest logits; None for all.
            Each costs a pass back in every step. The released code looks at 9.

    >>> import mixbit.testing.attacks as testing
    >>> predictor = testing.LinearPredictor(classes=2)
    >>> x = torch.full((1, 1, 4, 4), 0.5) + 0.02 * predictor.weight[0].sign()
    >>> found = DeepFool(overshoot=0.01).run(predictor, x, torch.tensor([0]))
    >>> bool(found.success), found.gradients.tolist()
    (True, [1])
    """

    overshoot: NotNegative = 0.02
    steps: Count = 50
    rivals: Count | None = 9

    @property
    def norm(self) -> Norm:
        """What it makes small is L2."""
        return "L2"

    def _perturb(self, target: Target, x: Tensor, y: Tensor, streams: Streams) -> Tensor:
        nearest, points, total, active = x.clone(), x, torch.zeros_like(x), target.all_rows
        for _ in range(self.steps):
            asking = target.can_ask(active, _QUERIES)
            points, total, active = points[asking], total[asking], active[asking]
            if not len(active):
                break
            total = total + self._onto_nearest(target, points, active)
            points = target.clip(x[active] + (1 + self.overshoot) * total)
            wrong = target.is_wrong(points, active)
            nearest[active[wrong]] = points[wrong]
            points, total, active = points[~wrong], total[~wrong], active[~wrong]
        return nearest

    def _onto_nearest(self, target: Target, points: Tensor, active: Tensor) -> Tensor:
        """The step from each point onto the boundary that is nearest by its linearised logits."""

        def gaps(logits: Tensor) -> Tensor:
            """`f_k` of the rivals `(N, K)`."""
            y = target.y[active]
            count = min(self.rivals or logits.shape[1], logits.shape[1] - 1)
            return others(logits, y).topk(count, dim=1).values - logits.gather(1, y[:, None])

        w, logits = target.gradients_of(points, active, lambda logits: list(gaps(logits).unbind(1)))
        lengths = torch.linalg.vector_norm(w.flatten(2), dim=2).clamp_min(1e-12)
        far, at = (gaps(logits).t().abs() / lengths).min(0)
        chosen, (low, high) = (at, torch.arange(len(active))), target.bounds
        return per_image((far + _BEYOND * (high - low)) / lengths[chosen], points) * w[chosen]
