"""The shortest way from a point to a hyperplane within bounds, for the norms L1, L2 and Linf."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

__all__ = ["Ball", "towards_hyperplane"]

Ball = Literal["Linf", "L2", "L1"]


def towards_hyperplane(
    points: Tensor, normals: Tensor, gaps: Tensor, ball: Ball, bounds: tuple[float, float]
) -> Tensor:
    """The shortest `d` with `normal . d = -gap` and `point + d` within the bounds; where there is none, the farthest.

    For Linf every number moves by the same length, for L2 in proportion to the normal, for L1 those of the largest
    normal move first; each until it is at its bound. Croce, Hein (ICML 2020), section 2.

    Args:
        points: `(N, ...)`.
        normals: of the hyperplanes, `(N, ...)`.
        gaps: what the linear function has at the points, `(N,)`; 0 on the hyperplane.
        ball: the norm in which the way is short.
        bounds: least and largest number of a point.

    >>> grey, normal = torch.tensor([[0.5, 0.5]]), torch.tensor([[4.0, 2.0]])
    >>> towards_hyperplane(grey, normal, torch.tensor([-1.0]), "L2", (0.0, 1.0))
    tensor([[0.2000, 0.1000]])
    >>> towards_hyperplane(grey, normal, torch.tensor([-2.4]), "Linf", (0.0, 1.0))
    tensor([[0.4000, 0.4000]])
    >>> towards_hyperplane(grey, normal, torch.tensor([-2.4]), "L1", (0.0, 1.0))
    tensor([[0.5000, 0.2000]])
    """
    x, steep, low_high = points.flatten(1), normals.flatten(1).abs(), bounds
    signs = -normals.flatten(1).sign() * gaps.sign()[:, None]
    room = torch.where(signs > 0, low_high[1] - x, x - low_high[0]).clamp_min(0)
    lengths = _greedy(steep, room, gaps.abs()) if ball == "L1" else _together(steep, room, gaps.abs(), ball)
    return (signs * lengths).view(points.shape)


def _together(steep: Tensor, room: Tensor, wanted: Tensor, ball: Ball) -> Tensor:
    """`min(t * speed, room)` with the `t` at which `steep . lengths` is what is wanted.

    That sum is concave in `t`, and linear but where a number reaches its bound: Newton's steps from 0 never pass the
    solution, and end at it when the numbers at their bounds are all known.
    """
    speed = torch.ones_like(steep) if ball == "Linf" else steep
    reach = torch.where(steep > 0, room / speed.clamp_min(1e-30), 0.0)
    most, slope = steep * room, steep * speed
    time, full = torch.zeros_like(wanted), reach <= 0
    while True:
        rate = slope.masked_fill(full, 0).sum(1)
        missing = (wanted - most.masked_fill(~full, 0).sum(1)).clamp_min(0)
        # All are at their bounds: no time is enough, and none is needed.
        time = torch.maximum(time, torch.where(rate > 0, missing / rate.clamp_min(1e-30), time))
        now = full | (reach <= time[:, None])
        if torch.equal(now, full):
            return torch.minimum(time[:, None] * speed, room) * (steep > 0)
        full = now


def _greedy(steep: Tensor, room: Tensor, wanted: Tensor) -> Tensor:
    """The steepest numbers go to their bounds, one after the other, the last of them as far as is needed."""
    order = steep.argsort(dim=1, descending=True, stable=True)
    slope, most = steep.gather(1, order), (steep * room).gather(1, order)
    before = most.cumsum(1) - most
    gain = torch.minimum((wanted[:, None] - before).clamp_min(0), most)
    return torch.zeros_like(steep).scatter(1, order, gain / slope.clamp_min(1e-30))
