"""Carlini and Wagner's attacks: the distance plus `c` times a misclassification is made small, in L2 and in Linf."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from mixbit._settings import Count, NotNegative, Positive, Range
from mixbit.attacks._minimise import Adam, Constants, CutSpace, Nearest, TanhSpace, hinge, is_found
from mixbit.attacks._norms import Norm, norm_of, per_image
from mixbit.attacks._streams import Streams
from mixbit.attacks._target import Target
from mixbit.attacks.attack import Attack
from mixbit.attacks.registry import register

__all__ = ["CarliniWagnerL2", "CarliniWagnerLinf"]

_STEP = 2.0
"""Of descent, in half widths: one over the curvature of the distance, which is 2 (half / width)^2."""
_SETTLED = 0.05
"""A point that moves by less than this part of its distance is where its `c` takes it."""
_BISECTIONS = 4
"""Of the line from an image to its point: they leave an eighth of `within` open."""
_STEPS_TO_TAU = 10
"""A step of the attack in Linf is at most `tau` divided by this, or it would leap over the box that it shall reach."""


@register(
    "cw-l2",
    "least distance in L2 plus c times a misclassification",
    source="Carlini and Wagner, S&P 2017",
    access="gradients",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class CarliniWagnerL2(Attack):
    """The nearest point in L2: the least of `|x' - x|^2 + c f(x')`.

    `f = max(z_y - max of the other logits + confidence, 0)`, and `c` is the least that gives an adversarial point, by
    binary search. Distances are measured in widths of the input space, so that `c` has the same meaning in all.

    Attributes:
        steps: for each `c`: 10000 in the released code. This and the next two are those of Costa and Pinto.
        searches: values of `c` at the most, 9 in the released code.
        first_c: the first of them, 0.001 in the released code.
        within: an image is done when its `c` is known to this part of itself (ours); 0 for all searches. Solver
            "descent" then draws the point back to the image as far as it stays adversarial.
        confidence: by how much the other class must win, in logits.
        solver: "adam", the paper's, which makes all steps, in `w` with `x' = middle + half tanh(w)`; or "descent"
            (ours), steps of the gradient that become smaller to the end, cut at the bounds. It needs a tenth of the
            steps, for Adam's first ones move all pixels alike; it tries the next `c` as soon as this one is known to be
            enough, or to take the point nowhere else; and it moves pixels at the bounds, where tanh is flat.
        lr: rate of Adam, in `w`.

    >>> import mixbit.testing.attacks as testing
    >>> predictor = testing.LinearPredictor(classes=2)
    >>> x = torch.full((1, 1, 4, 4), 0.5) + 0.02 * predictor.weight[0].sign()
    >>> found = CarliniWagnerL2(steps=10).run(predictor, x, torch.tensor([0]))
    >>> bool(found.success)
    True
    """

    steps: Count = 10
    searches: Count = 10
    first_c: Positive = 0.01
    within: NotNegative = 0.05
    confidence: NotNegative = 0.0
    solver: Literal["descent", "adam"] = "descent"
    lr: Positive = 0.01

    @property
    def norm(self) -> Norm:
        """What it makes small is L2."""
        return "L2"

    def _perturb(self, target: Target, x: Tensor, y: Tensor, streams: Streams) -> Tensor:
        nearest, constants = Nearest(x), Constants(self.first_c, len(x))
        space = TanhSpace(*target.bounds) if self.solver == "adam" else CutSpace(*target.bounds)
        start = space.enter(x)
        for _ in range(self.searches):
            rows = constants.open(self.within)
            if not len(rows):
                break
            constants.narrow(self._minimise(target, space, x, rows, start[rows], constants.c, nearest))
        if self.solver == "descent":
            self._draw_back(target, x, nearest)
        return nearest.points

    def _draw_back(self, target: Target, x: Tensor, nearest: Nearest) -> None:
        """Bring points nearer along the straight line to their image, by bisection of what `within` left open."""
        rows = nearest.distances.isfinite().nonzero().squeeze(1)
        line = nearest.points - x
        low, high = torch.full((len(x),), 1 - 2 * self.within).clamp_min(0), torch.ones(len(x))
        for _ in range(_BISECTIONS if self.within else 0):
            rows = rows[target.can_ask(rows)]
            if not len(rows):
                break
            middle = (low + high) / 2
            points = target.clip(x[rows] + per_image(middle[rows], x) * line[rows])
            found = is_found(target.logits(points, rows), target.y[rows], self.confidence)
            high[rows[found]], low[rows[~found]] = middle[rows[found]], middle[rows[~found]]
            nearest.offer(rows, points, norm_of(points - x[rows], "L2"), found)

    def _minimise(
        self,
        target: Target,
        space: TanhSpace | CutSpace,
        x: Tensor,
        active: Tensor,
        w: Tensor,
        c: Tensor,
        nearest: Nearest,
    ) -> Tensor:
        """Steps of the active images for one `c`; which images `(N,)` came to an adversarial point."""
        success = torch.zeros(len(x), dtype=torch.bool)
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
                w = space.move(w, self.lr * adam.direction(active, gradient))
                continue
            w = space.move(w, _STEP * (1 - at / self.steps) * gradient)
            moved = norm_of(space.leave(w) - points, "L2")
            going = ~found & (moved > _SETTLED * distance)
            active, w = active[going], w[going]
        return success


@register(
    "cw-linf",
    "c times a misclassification plus what sticks out of a box that shrinks",
    source="Carlini and Wagner, S&P 2017",
    access="gradients",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class CarliniWagnerLinf(Attack):
    """The nearest point in Linf: the least of `c f(x') + sum of max(|x'_i - x_i| - tau, 0)`, round by round.

    `f` is that of `CarliniWagnerL2`. A round makes steps of Adam. It succeeds at the first
    adversarial point within `tau`, which then becomes smaller than that point's distance; else `c` is doubled. The next
    round goes on from the point reached, with a new Adam. `tau` is in widths of the input space, 1 at first.

    Attributes:
        steps: of a round: 1000 in the released code, 10 in the experiments of Costa and Pinto.
        bounds: "cut" (ours), at the end of each step; or "tanh", the paper's `w` with `x' = middle + half tanh(w)`, in
            which a black or white pixel hardly moves.
        lr: largest rate of Adam, in half widths or in `w`; a step is a tenth of `tau` at most (ours).
        shrink: `tau` is this part of the nearest distance.
        first_c: 0.00001 in the released code, whose first doublings change nothing but the time.
        largest_c: an image is given up where no smaller one leads to an adversarial point.
        patience: rounds that may fail one after another when a point has been found (ours).
        confidence: by how much the other class must win, in logits.

    >>> import mixbit.testing.attacks as testing
    >>> predictor = testing.LinearPredictor(classes=2)
    >>> x = torch.full((1, 1, 4, 4), 0.5) + 0.02 * predictor.weight[0].sign()
    >>> found = CarliniWagnerLinf().run(predictor, x, torch.tensor([0]))
    >>> bool(found.success), float((found.points - x).abs().max()) < 0.05
    (True, True)
    """

    steps: Count = 10
    bounds: Literal["cut", "tanh"] = "cut"
    lr: Positive = 0.01
    shrink: Annotated[float, Range(above=0, below=1)] = 0.9
    first_c: Positive = 0.1
    largest_c: Positive = 20.0
    patience: Count = 2
    confidence: NotNegative = 0.0

    @property
    def norm(self) -> Norm:
        """What it makes small is Linf."""
        return "Linf"

    def _perturb(self, target: Target, x: Tensor, y: Tensor, streams: Streams) -> Tensor:
        nearest, adam, rounds = Nearest(x), Adam(x), _Rounds(self, len(x))
        space = (TanhSpace if self.bounds == "tanh" else CutSpace)(*target.bounds)
        active = target.all_rows
        w = space.enter(x)
        while True:
            active = active[target.can_ask(active)]
            if not len(active):
                return nearest.points
            at = w[active]
            points = space.leave(at)
            slope, logits = target.gradient(points, active, lambda z, labels: hinge(z, labels, self.confidence))
            delta = (points - x[active]) / (2 * space.half)
            found, distance = is_found(logits, target.y[active], self.confidence), norm_of(delta, "Linf")
            nearest.offer(active, points, distance, found)
            adam.forget(rounds.end(active, found, distance))
            c, tau = per_image(rounds.c[active], x), per_image(rounds.tau[active], x)
            outside = delta.sign() * (delta.abs() > tau) / (2 * space.half)
            step = adam.direction(active, space.slope(at) * (c * slope + outside))
            w[active] = space.move(at, (2 * tau / _STEPS_TO_TAU).clamp(max=self.lr) * step)
            active = active[rounds.going(active, nearest.distances[active].isfinite())]


class _Rounds:
    """How each image's round goes: `c` and `tau` `(N,)`, steps made, and rounds that failed since the last success."""

    def __init__(self, attack: CarliniWagnerLinf, images: int) -> None:
        self.attack = attack
        self.c, self.tau = torch.full((images,), attack.first_c), torch.ones(images)
        self._steps, self._failed = (torch.zeros(images, dtype=torch.int64) for _ in range(2))

    def end(self, rows: Tensor, found: Tensor, distance: Tensor) -> Tensor:
        """End the rounds that have succeeded or made all steps; the images whose next one begins."""
        success = found & (distance < self.tau[rows])
        nearer = rows[success]
        self.tau[nearer] = self.attack.shrink * distance[success]
        self._failed[nearer] = 0
        failure = rows[~success & (self._steps[rows] == self.attack.steps)]
        self.c[failure] *= 2
        self._failed[failure] += 1
        over = torch.cat([nearer, failure])
        self._steps[over] = 0
        self._steps[rows] += 1
        return over

    def going(self, rows: Tensor, found: Tensor) -> Tensor:
        """Which images have another round to make, or are within one; `found`: whether they have a point."""
        patient = ~found | (self._failed[rows] < self.attack.patience)
        return patient & (self.c[rows] <= self.attack.largest_c)
