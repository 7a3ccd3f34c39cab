"""GeoDA: the normal of the boundary from the classes of probes, and the boundary along it.

Rahmati, Moosavi-Dezfooli, Frossard and Dai, "GeoDA: a geometric framework for black-box adversarial attacks"
(CVPR 2020).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from mixbit._settings import Count, Part, Positive
from mixbit.attacks._dct import check_sub_dim, noise
from mixbit.attacks._norms import Norm, norm_of, per_image
from mixbit.attacks._starts import bisect, check_starts, first_points, halvings
from mixbit.attacks._streams import Streams
from mixbit.attacks._target import Target
from mixbit.attacks.attack import Attack
from mixbit.attacks.registry import register

__all__ = ["GeoDA"]

_PROBES = 32
"""Probes of an image that go through the network together; part of how numbers are drawn."""
_GROWTH, _GROWTHS = 1.5, 8
"""How the radius along a normal grows until its end is of another class, and how often before it is given up."""


@register(
    "geoda",
    "the boundary's normal from the classes of smooth probes, and the boundary along it",
    source="Rahmati et al., CVPR 2020",
    access="labels",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class GeoDA(Attack):
    """As if the boundary were flat: the nearest point lies along its normal.

    At a point `x'` next to the boundary, probes `x' + sigma eta` with `eta` normal in a subspace of low frequencies
    tell the normal: `w = sum (c_i - mean c) eta_i`, with `c_i` 1 where the probe is of another class, else 0. The next
    point is where the ray from the image along the sum of all `w` so far crosses the boundary (for Linf, along its
    signs). A later step has more probes, `N_t` in proportion to `decay^(-2 t / 3)`, the paper's optimal split.

    Attributes:
        budget: points that an image asks for, but for the last few of a search.
        first: probes of the first step, which says how many steps the budget is split into.
        decay: lambda, how much nearer a step comes by the paper's model; 1 gives all steps the same probes.
        sub_dim: lowest frequencies of each side that probes are drawn from, at most the side of the images; None for
            three quarters of the smaller side (ours).
        sigma: standard deviation of a probe in a pixel, in the unit of the input space; as large as the step of a
            quantized input, or no probe is told from another.
        tol: length of the line that a search for the boundary ends with, in the norm.
        ball: norm of the distance, "L2" or "Linf".
        tries: random starting points that an image may ask for, see `first_points`.
        starts: points `(K, ...)` that each image tries as its start in turn, before random ones.
    """

    budget: Count = 4000
    first: Count = 80
    decay: Part = 0.6
    sub_dim: Count | None = None
    sigma: Positive = 0.005
    tol: Positive = 1e-3
    ball: Literal["L2", "Linf"] = "L2"
    tries: Count = 100
    starts: Tensor | None = field(default=None, compare=False)

    @property
    def norm(self) -> Norm:
        """That of the distance."""
        return self.ball

    def _perturb(self, target: Target, x: Tensor, y: Tensor, streams: Streams) -> Tensor:
        sub_dim = self._sub_dim(x)
        check_starts(self.starts, x, f"attack {self.name!r}")
        points, rows = first_points(target, x, streams, self.tries, self.starts)
        before = target.queries.clone()
        bisect(target, x.clone(), points, rows, halvings(x[rows], points[rows], self.tol, self.norm))
        nearest, normal, searched = points.clone(), torch.zeros_like(x), target.queries - before
        shares = self._shares(target)
        for step in range(len(shares)):
            counts = self._counts(target, rows, shares[step:], searched[rows])
            rows, counts = rows[counts > 0], counts[counts > 0]
            if not len(rows):
                break
            normal[rows] += self._normal(target, points, rows, counts, sub_dim, streams)
            before = target.queries.clone()
            self._to_boundary(target, x, points, rows, normal[rows])
            searched = target.queries - before
            better = norm_of(points - x, self.norm) < norm_of(nearest - x, self.norm)
            nearest[better] = points[better]
        return nearest

    def _sub_dim(self, x: Tensor) -> int | None:
        """Frequencies a side: None where the inputs have none and nobody asked for some."""
        if self.sub_dim is None and x.dim() == 4:
            return max(1, 3 * min(x.shape[2:]) // 4)
        check_sub_dim(self.sub_dim, x, f"attack {self.name!r}")
        return self.sub_dim

    def _limit(self, target: Target) -> int:
        return self.budget if target.limit is None else min(self.budget, target.limit)

    def _shares(self, target: Target) -> Tensor:
        """What each step has of all probes, in proportion `(steps,)`: as many steps as begin with `first` probes."""
        growth, shares = self.decay ** (-2 / 3), [1.0]
        while self.first * (sum(shares) + growth * shares[-1]) <= self._limit(target):
            shares.append(growth * shares[-1])
        return torch.tensor(shares)

    def _counts(self, target: Target, rows: Tensor, shares: Tensor, searched: Tensor) -> Tensor:
        """Probes of each row for the first of these steps, if each search asks as often as the last one did `(M,)`."""
        left = self._limit(target) - target.queries[rows] - searched * len(shares)
        return (left * shares[0] / shares.sum()).floor().clamp_min(0).to(torch.int64)

    def _normal(
        self, target: Target, points: Tensor, rows: Tensor, counts: Tensor, sub_dim: int | None, streams: Streams
    ) -> Tensor:
        """`sum (c_i - mean c) eta_i` over the probes of each row `(M, ...)`: it points to other classes."""
        wrongs, every, share = torch.zeros_like(points[rows]), torch.zeros_like(points[rows]), torch.zeros(len(rows))
        for at in range(0, int(counts.max()), _PROBES):
            going = (counts > at).nonzero().squeeze(1)
            images = rows[going]
            asked = at + torch.arange(_PROBES) < counts[going][:, None]
            eta = noise(streams, images, tuple(points.shape[1:]), sub_dim, _PROBES)
            probes = target.clip(points[images][:, None] + self.sigma * eta)
            wrong = torch.zeros(asked.shape)
            wrong[asked] = target.is_wrong(probes[asked], images.repeat_interleave(asked.sum(1))).to(wrong.dtype)
            wrongs[going] += torch.einsum("np,np...->n...", wrong, eta)
            every[going] += torch.einsum("np,np...->n...", asked.to(eta.dtype), eta)
            share[going] += wrong.sum(1)
        return wrongs - per_image(share / counts, every) * every

    def _to_boundary(self, target: Target, x: Tensor, points: Tensor, rows: Tensor, normal: Tensor) -> None:
        """Move the points of the rows to where the rays from their images cross the boundary, in place.

        A ray on which nothing of another class is found leaves its point where it is.
        """
        ray = normal.sign() if self.norm == "Linf" else normal
        ray = ray / per_image(norm_of(ray, self.norm), ray).clamp_min(1e-30)
        radius = norm_of(points[rows] - x[rows], self.norm)
        right, wrong = x.clone(), points.clone()
        going, crossed = torch.arange(len(rows)), torch.zeros(len(rows), dtype=torch.bool)
        for _ in range(_GROWTHS):
            going = going[target.can_ask(rows[going])]
            if not len(going):
                break
            images = rows[going]
            tried = target.clip(x[images] + per_image(radius[going], x) * ray[going])
            is_wrong = target.is_wrong(tried, images)
            wrong[images[is_wrong]], right[images[~is_wrong]] = tried[is_wrong], tried[~is_wrong]
            crossed[going[is_wrong]] = True
            going = going[~is_wrong]
            radius[going] *= _GROWTH
        rows = rows[crossed]
        bisect(target, right, wrong, rows, halvings(right[rows], wrong[rows], self.tol, self.norm))
        points[rows] = wrong[rows]
