"""FAB: steps to the linearised boundary that are drawn back to the image.

Croce, Hein, "Minimally distorted adversarial examples with a fast adaptive boundary attack" (ICML 2020), in its
targeted form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from mixbit._settings import Amount, Count, Part, Positive, Range
from mixbit.attacks._hyperplane import Ball, towards_hyperplane
from mixbit.attacks._norms import Norm, norm_of, per_image
from mixbit.attacks._objectives import is_wrong, margin, ranked_others
from mixbit.attacks._streams import Streams
from mixbit.attacks._target import Target
from mixbit.attacks.attack import Attack
from mixbit.attacks.registry import register

__all__ = ["Fab"]

_DEPTH = 1e-3
"""Margin behind the boundary, as a share of the image's own, at which the last search aims: points at which rounding
decides are none."""


@register(
    "fab",
    "steps to the linearised boundary, drawn back to the image, towards each of the likeliest classes",
    source="Croce and Hein, ICML 2020",
    access="gradients",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class Fab(Attack):
    """The nearest point of another class, from a walk along the boundary towards each of the likeliest classes.

    Of the boundary to the class as it is linearised at the point, `d` leads to it from the point, `d_0` from the image,
    within the bounds and as short as the norm allows. The next point is `(1 - a) (x' + overshoot d) + a (x + overshoot
    d_0)` with `a = min(|d| / (|d| + |d_0|), most_pull)`. One that is wrong is kept if it is nearer than the last, and
    drawn back: `x' <- (1 - back) x + back x'`.

    Attributes:
        steps: towards one class.
        targets: classes that are tried, the likeliest first.
        restarts: starts towards each class; those after the first are random points near the image, no farther than
            half the distance found so far.
        ball: norm that is made small: "Linf", "L2" or "L1".
        overshoot: eta of the paper, 1 or more.
        most_pull: alpha_max, how far a step is drawn towards the image's own projection at most.
        back: beta, the share of the way from the image that is left when a point is wrong.
        final: steps of the search for the boundary between the image and the point, at the end.
        enough: an image whose point is as near as this is done; None makes all steps.
    """

    steps: Count = 100
    targets: Count = 9
    restarts: Count = 1
    ball: Ball = "Linf"
    overshoot: Annotated[float, Range(least=1)] = 1.05
    most_pull: Part = 0.1
    back: Part = 0.9
    final: Amount = 3
    enough: Positive | None = None

    @property
    def norm(self) -> Norm:
        """That which is made small."""
        return self.ball

    def _perturb(self, target: Target, x: Tensor, y: Tensor, streams: Streams) -> Tensor:
        best, least = x.clone(), torch.full((len(x),), torch.inf)
        active = target.all_rows
        if not bool(target.can_ask(active).all()):
            return best
        logits = target.logits(x, active)
        ranks = ranked_others(logits, y)
        for towards in ranks.T[: self.targets]:
            for start in range(self.restarts):
                if not len(active):
                    break
                points = x[active] if start == 0 else self._random_start(target, x, active, least, streams)
                active = self._walk(target, x, points, active, towards, best, least)
        if self.final:
            self._search(target, x, best, least, margin(logits, y))
        return best

    def _walk(
        self, target: Target, x: Tensor, points: Tensor, active: Tensor, towards: Tensor, best: Tensor, least: Tensor
    ) -> Tensor:
        """Towards one class; `best` keeps each image's point at the `least` distance. Returns the images that go on."""
        for _ in range(self.steps):
            asking = target.can_ask(active, 2)
            points, active = points[asking], active[asking]
            if not len(active):
                break
            normals, gaps = self._boundary(target, points, active, towards[active])
            points = self._stepped(target, x[active], points, normals, gaps)
            wrong = is_wrong(target.logits(points, active), target.y[active])
            length = norm_of(points - x[active], self.ball)
            nearer = wrong & (length < least[active])
            best[active[nearer]], least[active[nearer]] = points[nearer], length[nearer]
            pulled = (1 - self.back) * x[active] + self.back * points
            points = torch.where(per_image(wrong, points), pulled, points)
            if self.enough is not None:
                left = least[active] > self.enough
                points, active = points[left], active[left]
        return active

    def _boundary(self, target: Target, points: Tensor, rows: Tensor, towards: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient of `z_t - z_y` at the points `(M, ...)`, and its value `(M,)`."""
        y = target.y[rows]

        def gap(logits: Tensor, y: Tensor) -> Tensor:
            return (logits.gather(1, towards[:, None]) - logits.gather(1, y[:, None])).squeeze(1)

        normals, logits = target.gradient(points, rows, gap)
        return normals, gap(logits, y)

    def _stepped(self, target: Target, x: Tensor, points: Tensor, normals: Tensor, gaps: Tensor) -> Tensor:
        # The plane is normals . (z - points) + gaps = 0, for the image as for the point.
        own = gaps + ((x - points) * normals).flatten(1).sum(1)
        bounds = target.predictor.space.bounds or (-torch.inf, torch.inf)
        here = towards_hyperplane(points, normals, gaps, self.ball, bounds)
        there = towards_hyperplane(x, normals, own, self.ball, bounds)
        first, second = norm_of(here, self.ball), norm_of(there, self.ball)
        pull = (first / (first + second).clamp_min(1e-30)).clamp_max(self.most_pull)
        pull = per_image(pull, points)
        return target.clip((1 - pull) * (points + self.overshoot * here) + pull * (x + self.overshoot * there))

    def _random_start(self, target: Target, x: Tensor, rows: Tensor, least: Tensor, streams: Streams) -> Tensor:
        """A random direction, at half the distance of the best point; at a tenth of the bounds' where there is none."""
        delta = streams.normal(rows, tuple(x.shape[1:]))
        low, high = target.predictor.space.bounds or (0.0, 1.0)
        none = norm_of(torch.full_like(x[:1], (high - low) / 10), self.ball)
        length = torch.where(least[rows].isfinite(), least[rows] / 2, none) * streams.uniform(rows, ())
        return target.clip(x[rows] + per_image(length / norm_of(delta, self.ball).clamp_min(1e-30), delta) * delta)

    def _search(self, target: Target, x: Tensor, best: Tensor, least: Tensor, gap: Tensor) -> None:
        """Regula falsi for a margin of 0 between image and point; what is wrong and nearer is kept.

        Args:
            target: the network.
            x: images `(N, ...)`.
            best: their points, which are replaced.
            least: distances, infinite where nothing was found.
            gap: margins of the images `(N,)`.
        """
        rows = least.isfinite().nonzero().squeeze(1)
        inside, outside = x[rows], best[rows]
        above, below, depth = gap[rows], torch.full((len(rows),), torch.nan), _DEPTH * gap[rows]
        for at in range(self.final + 1):
            asking = target.can_ask(rows)
            rows, inside, outside, above, below, depth = (
                part[asking] for part in (rows, inside, outside, above, below, depth)
            )
            if not len(rows):
                break
            share = torch.ones_like(above) if at == 0 else ((above + depth) / (above - below)).clamp(0, 1)
            middle = inside + per_image(share, inside) * (outside - inside)
            found = margin(target.logits(middle, rows), target.y[rows])
            behind = (found <= -depth / 2) if at else torch.ones_like(asking)[asking]
            best[rows[behind]] = middle[behind]
            outside = torch.where(per_image(behind, middle), middle, outside)
            inside = torch.where(per_image(behind, middle), inside, middle)
            above, below = torch.where(behind, above, found), torch.where(behind, found, below)
