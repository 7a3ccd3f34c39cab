"""APGD: projected gradient descent with momentum whose step halves itself where it makes no progress.

Croce, Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks"
(ICML 2020), sections 3 and 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mixbit._settings import Count, Positive
from mixbit.attacks._norms import Norm, norm_of, per_image, project
from mixbit.attacks._objectives import cross_entropy, dlr, is_wrong, margin, ranked_others, targeted_dlr
from mixbit.attacks._streams import Streams
from mixbit.attacks._target import Target
from mixbit.attacks.attack import Attack
from mixbit.attacks.registry import register

__all__ = ["Apgd", "ApgdT"]

Objective = Callable[[Tensor, Tensor], Tensor]
"""What is made large: of logits `(M, C)` and the rows of the images `(M,)`, one number an image."""

_MOMENTUM = 0.75
"""Weight of the new step beside the last one: alpha of the paper."""

_PROGRESS = 0.75
"""Share of steps between two checkpoints that must have raised the objective: rho of the paper."""


@register(
    "apgd",
    "projected gradient descent with momentum and a step that halves itself",
    source="Croce and Hein, ICML 2020",
    access="gradients",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class Apgd(Attack):
    """Ascent of a loss within `|x' - x| <= eps` and the bounds, with momentum, from a random point at the ball's edge.

    A step is `z = P(x' + step * direction(grad loss(x')))`, then `x' <- P(x' + 0.75 (z - x') + 0.25 (x' - last x'))`.
    The step begins at `2 eps`. At checkpoints it is halved, and the search goes back to its best point, if fewer than
    0.75 of the steps since the last one raised the loss, or if neither the step nor the best loss has changed since.

    Attributes:
        eps: radius of the ball, in the unit of the input space.
        steps: of one start.
        restarts: starts.
        ball: "Linf" or "L2".
        loss: "cross-entropy", or "dlr": the margin divided by the largest logit less the third one, which does not
            change with the scale of the logits; it needs 3 classes.
    """

    eps: Positive = 8 / 255
    steps: Count = 100
    restarts: Count = 1
    ball: Literal["Linf", "L2"] = "Linf"
    loss: Literal["cross-entropy", "dlr"] = "cross-entropy"

    @property
    def norm(self) -> Norm:
        """That of the ball."""
        return self.ball

    @property
    def radius(self) -> float | None:
        """The bound is `eps`."""
        return self.eps

    @property
    def least_classes(self) -> int:
        """The ratio has three logits."""
        return 3 if self.loss == "dlr" else 2

    def _perturb(self, target: Target, x: Tensor, y: Tensor, streams: Streams) -> Tensor:
        loss = cross_entropy if self.loss == "cross-entropy" else dlr
        ascent = _Ascent(target, x, y, eps=self.eps, steps=self.steps, ball=self.ball)
        active = target.all_rows
        for _ in range(self.restarts):
            active = ascent.run(active, streams, lambda logits, rows: loss(logits, y[rows]))
        return ascent.worst


@register(
    "apgd-t",
    "APGD towards each of the likeliest other classes",
    source="Croce and Hein, ICML 2020",
    access="gradients",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class ApgdT(Attack):
    """APGD on the targeted difference of logits ratio, for each of the classes `t` that are likeliest beside the label.

    The ratio is `(z_t - z_y) / (z_1 - (z_3 + z_4) / 2)` with `z_1 >= z_2 >= ...` the logits in order. An image that is
    wrong, as whichever class, is done.

    Attributes:
        eps: radius of the ball, in the unit of the input space.
        steps: towards one class.
        targets: classes that are tried, the likeliest first.
        restarts: starts for each of them.
        ball: "Linf" or "L2".
    """

    eps: Positive = 8 / 255
    steps: Count = 100
    targets: Count = 9
    restarts: Count = 1
    ball: Literal["Linf", "L2"] = "Linf"

    @property
    def norm(self) -> Norm:
        """That of the ball."""
        return self.ball

    @property
    def radius(self) -> float | None:
        """The bound is `eps`."""
        return self.eps

    @property
    def least_classes(self) -> int:
        """The ratio has four logits."""
        return 4

    def _perturb(self, target: Target, x: Tensor, y: Tensor, streams: Streams) -> Tensor:
        ascent = _Ascent(target, x, y, eps=self.eps, steps=self.steps, ball=self.ball)
        active = target.all_rows
        if not bool(target.can_ask(active).all()):
            return ascent.worst
        ranks = ranked_others(target.logits(x, active), y)
        for towards in ranks.T[: self.targets]:

            def ratio(logits: Tensor, rows: Tensor, towards: Tensor = towards) -> Tensor:
                return targeted_dlr(logits, y[rows], towards[rows])

            for _ in range(self.restarts):
                active = ascent.run(active, streams, ratio)
        return ascent.worst


class _Ascent:
    """Starts of APGD, which keep each image's point of the least margin.

    Args:
        target: the network.
        x: images `(N, ...)`.
        y: labels `(N,)`.
        eps, steps, ball: see `Apgd`.
    """

    def __init__(
        self, target: Target, x: Tensor, y: Tensor, *, eps: float, steps: int, ball: Literal["Linf", "L2"]
    ) -> None:
        self.target, self.x, self.y = target, x, y
        self.eps, self.steps, self.ball = eps, steps, ball
        self.worst, self.least = x.clone(), torch.full((len(x),), torch.inf)
        self.checkpoints = _checkpoints(steps)

    def run(self, active: Tensor, streams: Streams, objective: Objective) -> Tensor:
        """One start for the images `active` `(M,)`; returns those that go on, right and able to ask."""
        active = active[self.target.can_ask(active)]
        if not len(active):
            return active
        state = self._begin(active, streams)
        for at in range(self.steps + 1):
            state = state.only(self.target.can_ask(state.rows))
            if not len(state.rows):
                break
            state = self._seen(state, objective, last=at == self.steps)
            if not len(state.rows):
                break
            if at in self.checkpoints:
                self._check(state, self.checkpoints[at])
            if at < self.steps:
                self._step(state, first=at == 0)
        return state.rows

    def _begin(self, rows: Tensor, streams: Streams) -> _State:
        """At the edge of the ball, in a direction that is uniform (Linf) or normal (L2)."""
        shape = tuple(self.x.shape[1:])
        delta = streams.uniform(rows, shape, -1, 1) if self.ball == "Linf" else streams.normal(rows, shape)
        delta = self.eps * delta / per_image(norm_of(delta, self.ball), delta).clamp_min(1e-12)
        points, worst = self.target.clip(self.x[rows] + delta), torch.full((len(rows),), -torch.inf)
        length = torch.full((len(rows),), 2 * self.eps)
        return _State(
            rows=rows,
            points=points,
            before=points,
            gradient=torch.zeros_like(points),
            value=worst.clone(),
            best=points.clone(),
            best_gradient=torch.zeros_like(points),
            most=worst,
            length=length,
            raised=torch.zeros(len(rows)),
            length_then=length.clone(),
            most_then=torch.full((len(rows),), -torch.inf),
        )

    def _seen(self, state: _State, objective: Objective, *, last: bool) -> _State:
        """What the network says of the points; images that are wrong leave."""
        rows, points = state.rows, state.points
        if last:  # no gradient is needed
            logits, state.gradient = self.target.logits(points, rows), points
        else:
            found, logits = self.target.gradients_of(points, rows, lambda logits: [objective(logits, rows)])
            state.gradient = found[0]
        gap = margin(logits, self.y[rows])
        wrong = is_wrong(logits, self.y[rows])
        better = wrong | (gap < self.least[rows])
        self.worst[rows[better]], self.least[rows[better]] = points[better], gap[better]
        value = objective(logits, rows)
        state.raised += value > state.value
        state.value = value
        more = value > state.most
        state.most = torch.where(more, value, state.most)
        state.best = torch.where(per_image(more, points), points, state.best)
        state.best_gradient = torch.where(per_image(more, points), state.gradient, state.best_gradient)
        return state.only(~wrong)

    def _check(self, state: _State, since: int) -> None:
        """Half the step, from the best point, where the two conditions of the paper say so."""
        slow = state.raised < _PROGRESS * since
        stuck = (state.length == state.length_then) & (state.most <= state.most_then)
        halve = slow | stuck
        state.length_then, state.most_then = state.length, state.most
        state.length = torch.where(halve, state.length / 2, state.length)
        state.points = torch.where(per_image(halve, state.points), state.best, state.points)
        state.gradient = torch.where(per_image(halve, state.points), state.best_gradient, state.gradient)
        state.raised = torch.zeros_like(state.raised)

    def _step(self, state: _State, *, first: bool) -> None:
        x, points = self.x[state.rows], state.points
        if self.ball == "Linf":
            direction = state.gradient.sign()
        else:
            direction = state.gradient / per_image(norm_of(state.gradient, "L2"), x).clamp_min(1e-30)
        moved = self._projected(x, points + per_image(state.length, x) * direction)
        if not first:
            moved = self._projected(
                x, points + _MOMENTUM * (moved - points) + (1 - _MOMENTUM) * (points - state.before)
            )
        state.before, state.points = points, moved

    def _projected(self, x: Tensor, points: Tensor) -> Tensor:
        return self.target.clip(x + project(points - x, self.ball, self.eps))


@dataclass(slots=True, kw_only=True)
class _State:
    """A start, of `M` images: the points of now and of before, the best of them, and what the step hangs on.

    Attributes:
        rows: which images.
        points, before, gradient, value: of now.
        best, best_gradient, most: of the largest value.
        length: of the step.
        raised: steps since the last checkpoint that raised the value.
        length_then, most_then: at the last checkpoint.
    """

    rows: Tensor
    points: Tensor
    before: Tensor
    gradient: Tensor
    value: Tensor
    best: Tensor
    best_gradient: Tensor
    most: Tensor
    length: Tensor
    raised: Tensor
    length_then: Tensor
    most_then: Tensor

    def only(self, kept: Tensor) -> _State:
        """Those images alone."""
        if bool(kept.all()):
            return self
        return _State(**{name: getattr(self, name)[kept] for name in self.__dataclass_fields__})


def _checkpoints(steps: int) -> dict[int, int]:
    """Steps after which the step size is judged, and how many came since the last: `ceil(p_j steps)` of the paper.

    >>> _checkpoints(100)
    {22: 22, 41: 19, 57: 16, 70: 13, 80: 10, 87: 7, 93: 6, 99: 6}
    """
    found: dict[int, int] = {}
    last, now = 0.0, 0.22
    at = 0
    while now <= 1:
        place = math.ceil(round(now * steps, 9))
        if place > at:
            found[place], at = place - at, place
        last, now = now, now + max(now - last - 0.03, 0.06)
    return found
