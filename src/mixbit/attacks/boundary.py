"""The boundary attack: a random walk along the boundary and towards the image, by classes alone.

Brendel, Rauber and Bethge, "Decision-Based Adversarial Attacks: Reliable Attacks Against Black-Box Machine Learning
Models" (ICLR 2018).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from mixbit._settings import Amount, Count, NotNegative, Part
from mixbit.attacks._dct import check_sub_dim, noise
from mixbit.attacks._norms import Norm, norm_of, per_image
from mixbit.attacks._starts import bisect, check_starts, first_points
from mixbit.attacks._streams import Streams
from mixbit.attacks._target import Target
from mixbit.attacks.attack import Attack
from mixbit.attacks.registry import register

__all__ = ["Boundary"]

_RATE = 0.1
"""How much a size learns from one trial: it grows or shrinks by at most a tenth."""
_SIDEWAYS, _NEARER = 0.3, 0.4
"""Shares of the first and of the second half-steps that are to stay in another class, under the paper's rule."""
_COUPLED = 0.12
"""Share of whole steps that are to stay in another class, where the two sizes are coupled: see `Boundary`."""


@register(
    "boundary",
    "a random walk along the boundary, towards the image",
    source="Brendel et al., ICLR 2018",
    access="labels",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class Boundary(Attack):
    """From a point `x'` of another class: a random step on the sphere around the image, and a step towards the image.

    With `d = |x' - x|`, the first is `delta d` long, orthogonal to `x' - x`, and cut back onto the sphere of radius
    `d`; the second takes `epsilon d` off the radius. The end of both is the new point, if it is of another class.
    Under the paper's rule two points are asked for: after the first half-step, and where that is of another class,
    after the second; each size grows or shrinks by how often its half-step stays in another class.

    Ours, as the default: `epsilon = delta^2 / 2`, and one point is asked for. At a flat boundary, with `t` the
    deviation that a random step needs to outweigh both the step towards the image and the sphere's own curvature, the
    gain of a step is `epsilon Q(t)` with `t` proportional to `epsilon / delta + delta / 2`; of all pairs of sizes that
    need the same `t` that one gains most, and `t^2 Q(t)` is largest where 0.12 of the steps succeed.

    Attributes:
        steps: of each image.
        delta: first length of the step on the sphere, a part of the distance.
        epsilon: first length of the step towards the image, a part of the distance; for the paper's rule.
        rule: "coupled" (ours) or "paper".
        converged: an image leaves the batch when its `epsilon` is below this; 0 for never.
        tries: random starting points that an image may ask for, see `first_points`.
        halvings: of the line from the starting point to the image, before the walk (ours); 0 is the paper's.
        sub_dim: lowest frequencies of each side that the steps are drawn from (ours), at most the side; None, the
            paper's, for steps that are independent in every number.
        starts: points `(K, ...)` that each image tries as its start in turn, before random ones.
    """

    steps: Count = 2000
    delta: Part = 0.1
    epsilon: Part = 0.1
    rule: Literal["coupled", "paper"] = "coupled"
    converged: NotNegative = 1e-7
    tries: Count = 100
    halvings: Amount = 10
    sub_dim: Count | None = None
    starts: Tensor | None = field(default=None, compare=False)

    @property
    def norm(self) -> Norm:
        """It makes the distance in L2 small."""
        return "L2"

    def _perturb(self, target: Target, x: Tensor, y: Tensor, streams: Streams) -> Tensor:
        check_sub_dim(self.sub_dim, x, f"attack {self.name!r}")
        check_starts(self.starts, x, f"attack {self.name!r}")
        points, rows = first_points(target, x, streams, self.tries, self.starts)
        bisect(target, x.clone(), points, rows, torch.full((len(rows),), self.halvings))
        coupled = self.rule == "coupled"
        delta, epsilon = torch.full((len(x),), self.delta), torch.full((len(x),), self.epsilon)
        for _ in range(self.steps):
            if coupled:
                epsilon = delta.square() / 2
            rows = rows[target.can_ask(rows, 1 if coupled else 2) & (epsilon[rows] >= self.converged)]
            if not len(rows):
                break
            eta = noise(streams, rows, tuple(x.shape[1:]), self.sub_dim)[:, 0]
            sideways = target.clip(_on_sphere(x[rows], points[rows], delta[rows], eta))
            nearer = sideways + per_image(epsilon[rows], x) * (x[rows] - sideways)  # between the two: within the bounds
            if coupled:
                wrong = target.is_wrong(nearer, rows)
                _learn(delta, rows, wrong, _COUPLED)
            else:
                wrong = self._both(target, rows, sideways, nearer, delta, epsilon)
            points[rows[wrong]] = nearer[wrong]
        return points

    def _both(
        self, target: Target, rows: Tensor, sideways: Tensor, nearer: Tensor, delta: Tensor, epsilon: Tensor
    ) -> Tensor:
        """The paper's rule: which of the rows have both half-steps in another class; the sizes learn, in place."""
        wrong = target.is_wrong(sideways, rows)
        _learn(delta, rows, wrong, _SIDEWAYS)
        if bool(wrong.any()):
            going = rows[wrong]
            both = target.is_wrong(nearer[wrong], going)
            _learn(epsilon, going, both, _NEARER)
            wrong[wrong.clone()] = both
        return wrong


def _on_sphere(x: Tensor, points: Tensor, delta: Tensor, eta: Tensor) -> Tensor:
    """A step along `eta`, orthogonal to `points - x` and `delta |points - x|` long, cut back onto the sphere about `x`.

    Args:
        x: images `(M, ...)`.
        points: on the spheres.
        delta: lengths of the steps, parts of the radius `(M,)`.
        eta: directions `(M, ...)` of any length.
    """
    away = points - x
    radius = norm_of(away, "L2").clamp_min(1e-30)
    along = (eta * away).flatten(1).sum(1) / radius.square()
    eta = eta - per_image(along, x) * away
    away = away + per_image(delta * radius / norm_of(eta, "L2").clamp_min(1e-30), x) * eta
    return x + per_image(radius / norm_of(away, "L2").clamp_min(1e-30), x) * away


def _learn(sizes: Tensor, rows: Tensor, stayed: Tensor, wanted: float) -> None:
    """Sizes of the rows grow where a trial stayed in another class and shrink where not, in place.

    By `exp(rate (stayed - wanted))`, so that a size rests where that share of its trials stays; none is above 1.
    """
    sizes[rows] = (sizes[rows] * torch.exp(_RATE * (stayed.to(sizes.dtype) - wanted))).clamp_max(1.0)
