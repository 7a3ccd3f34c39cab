"""AutoAttack: four attacks one after the other, each on the images that are left.

Croce, Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks"
(ICML 2020).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mixbit._settings import Count, Positive
from mixbit.attacks._norms import Norm, norm_of
from mixbit.attacks._objectives import is_wrong, margin
from mixbit.attacks._streams import Streams
from mixbit.attacks._target import Target
from mixbit.attacks.apgd import Apgd, ApgdT
from mixbit.attacks.attack import Attack
from mixbit.attacks.fab import Fab
from mixbit.attacks.registry import register
from mixbit.attacks.square import Square

__all__ = ["AutoAttack"]

_ROUNDING = 1e-6
"""A point at the edge of the ball may be so far beyond it in float32."""


@register(
    "auto-attack",
    "APGD, targeted APGD, FAB and Square, each on what is left",
    source="Croce and Hein, ICML 2020",
    access="gradients",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class AutoAttack(Attack):
    """`apgd` on the cross-entropy, `apgd-t`, `fab` and `square`, in this order; `Found.by` says which broke an image.

    Attributes:
        eps: radius of the ball, in the unit of the input space. A point of FAB beyond it does not count.
        steps: of APGD, of targeted APGD towards each class, and of FAB towards each class.
        targets: classes that targeted APGD and FAB try.
        queries: of Square.
        ball: "Linf" or "L2".
    """

    eps: Positive = 8 / 255
    steps: Count = 100
    targets: Count = 9
    queries: Count = 5000
    ball: Literal["Linf", "L2"] = "Linf"

    @property
    def norm(self) -> Norm:
        """That of the ball."""
        return self.ball

    @property
    def radius(self) -> float | None:
        """The bound is `eps`."""
        return self.eps

    def parts(self, classes: int) -> list[Attack]:
        """The attacks in their order; `apgd-t` is left out where there are fewer than 4 classes.

        >>> [part.name for part in AutoAttack().parts(10)], [part.name for part in AutoAttack().parts(2)]
        (['apgd', 'apgd-t', 'fab', 'square'], ['apgd', 'fab', 'square'])
        """
        eps, steps, targets, ball = self.eps, self.steps, self.targets, self.ball
        targeted = ApgdT(eps=eps, steps=steps, targets=targets, ball=ball)
        return [
            Apgd(eps=eps, steps=steps, ball=ball),
            *([targeted] if classes >= targeted.least_classes else []),
            Fab(steps=steps, targets=targets, ball=ball, enough=eps),
            Square(eps=eps, queries=self.queries, ball=ball),
        ]

    def _perturb(self, target: Target, x: Tensor, y: Tensor, streams: Streams) -> Tensor:
        left = target.all_rows
        logits = target.logits(x, left)
        worst, least = x.clone(), margin(logits, y)
        for part in self.parts(logits.shape[1]):
            left = left[target.can_ask(left, 2)]  # one for the part, and one to ask what came of it
            if not len(left):
                break
            lent = target.part(left, keep=1)
            points = part._perturb(lent, x[left], y[left], streams.part(left))
            target.charge_for(left, lent)
            inside = norm_of(points - x[left], self.ball) <= self.eps * (1 + 1e-5) + _ROUNDING
            rows, points = left[inside], points[inside]
            if not len(rows):
                continue
            logits = target.logits(points, rows)
            gap, wrong = margin(logits, y[rows]), is_wrong(logits, y[rows])
            better = wrong | (gap < least[rows])
            worst[rows[better]], least[rows[better]] = points[better], gap[better]
            for row in rows[wrong].tolist():
                target.by[row] = part.name
            left = left[~torch.isin(left, rows[wrong])]
        return worst
