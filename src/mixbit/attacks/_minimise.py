"""What attacks share that make small a distance plus `c` times a misclassification."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from mixbit.attacks._norms import per_image
from mixbit.attacks._objectives import is_wrong, margin

__all__ = ["Adam", "Constants", "CutSpace", "Nearest", "TanhSpace", "hinge", "is_found"]

_INSIDE = 1 - 1e-6
"""Images are drawn so much towards the middle of the bounds, where `atanh` is finite: the released code's 0.999999."""
_GROWTH = 10.0


class Nearest:
    """The nearest adversarial point of each image so far; the image itself at first, at an infinite distance."""

    def __init__(self, x: Tensor) -> None:
        self.points, self.distances = x.clone(), torch.full((len(x),), torch.inf)

    def offer(self, rows: Tensor, points: Tensor, distances: Tensor, found: Tensor) -> Tensor:
        """Keep the points that are adversarial (`found`) and nearer; returns which they are `(len(rows),)`."""
        kept = found & (distances < self.distances[rows])
        self.points[rows[kept]], self.distances[rows[kept]] = points[kept], distances[kept]
        return kept


class Constants:
    """Binary search for the least `c` that gives an adversarial point, image by image.

    Until one does, `c` grows tenfold; then it is in the middle of the largest that failed and the least that did not.

    >>> constants = Constants(1.0, 2)
    >>> for _ in range(2):
    ...     constants.narrow(constants.c > 4)
    ...     print(constants.c.tolist())
    [10.0, 10.0]
    [5.5, 5.5]
    """

    def __init__(self, first: float, images: int) -> None:
        self.c = torch.full((images,), first)
        self._failed, self._enough = torch.zeros(images), torch.full((images,), torch.inf)

    def open(self, within: float) -> Tensor:
        """The images `(M,)` whose `c` is not known to a part `within` of itself."""
        return (self._enough.isinf() | (self._enough - self._failed > within * self._enough)).nonzero().squeeze(1)

    def narrow(self, success: Tensor) -> None:
        """What came of the `c` of each image; of those that are not open any more it does not matter."""
        self._failed = torch.where(success, self._failed, self.c)
        self._enough = torch.where(success, self.c, self._enough)
        middle = (self._failed + self._enough) / 2
        self.c = torch.where(self._enough.isinf(), self.c * _GROWTH, middle)


@dataclass(frozen=True, slots=True)
class TanhSpace:
    """Points between bounds as any numbers: `x = middle + half * tanh(w)`.

    >>> space = TanhSpace(0.0, 1.0)
    >>> round(float(space.leave(space.enter(torch.tensor(0.25)))), 5), space.slope(torch.tensor(0.0)).item()
    (0.25, 0.5)
    """

    low: float
    high: float

    @property
    def half(self) -> float:
        """Half the width of the space, how far points lie from its middle at most."""
        return (self.high - self.low) / 2

    def enter(self, x: Tensor) -> Tensor:
        """`w` of points within the bounds."""
        return torch.atanh((x - (self.low + self.high) / 2) / self.half * _INSIDE)

    def leave(self, w: Tensor) -> Tensor:
        """The points within the bounds that `w` stands for."""
        return torch.clamp((self.low + self.high) / 2 + self.half * torch.tanh(w), self.low, self.high)

    def slope(self, w: Tensor) -> Tensor:
        """Derivative of the points with respect to `w`."""
        return self.half * (1 - torch.tanh(w).square())

    def move(self, w: Tensor, change: Tensor) -> Tensor:
        """`w` after a step."""
        return w - change


@dataclass(frozen=True, slots=True)
class CutSpace:
    """Points that are cut at the bounds after each step: a pixel that lies at a bound moves as far as any other.

    `w` are the points themselves, so what does not move keeps its value to the bit. Steps are in half widths of the
    space, as those of `TanhSpace` are around its middle.

    >>> space = CutSpace(0.0, 1.0)
    >>> space.move(torch.tensor([0.0, 0.5]), torch.tensor([0.1, -0.1])).tolist()
    [0.0, 0.550000011920929]
    """

    low: float
    high: float

    @property
    def half(self) -> float:
        """Half the width of the space."""
        return (self.high - self.low) / 2

    def enter(self, x: Tensor) -> Tensor:
        """`w` of points within the bounds."""
        return x.clone()

    def leave(self, w: Tensor) -> Tensor:
        """The points that `w` stands for."""
        return w

    def slope(self, w: Tensor) -> Tensor:
        """By how much a point moves for a step of 1."""
        return torch.full((), self.half)

    def move(self, w: Tensor, change: Tensor) -> Tensor:
        """`w` after a step."""
        return (w - self.half * change).clamp(self.low, self.high)


@dataclass(slots=True)
class Adam:
    """Adam (Kingma and Ba, 2015) with its usual constants, for rows of a tensor of which some may be finished."""

    like: Tensor
    _mean: Tensor = field(init=False)
    _square: Tensor = field(init=False)
    _steps: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self._mean, self._square = torch.zeros_like(self.like), torch.zeros_like(self.like)
        self._steps = torch.zeros(len(self.like))

    def forget(self, rows: Tensor) -> None:
        """These rows begin anew."""
        self._mean[rows], self._square[rows], self._steps[rows] = 0.0, 0.0, 0.0

    def direction(self, rows: Tensor, gradient: Tensor) -> Tensor:
        """What is subtracted from these rows, but for the learning rate."""
        self._steps[rows] += 1
        self._mean[rows] = mean = torch.lerp(gradient, self._mean[rows], 0.9)
        self._square[rows] = square = torch.lerp(gradient.square(), self._square[rows], 0.999)
        steps = per_image(self._steps[rows], gradient)
        return mean / (1 - 0.9**steps) / ((square / (1 - 0.999**steps)).sqrt() + 1e-8)


def hinge(logits: Tensor, y: Tensor, confidence: float) -> Tensor:
    """The misclassification `f = max(z_y - max of the other logits + confidence, 0)`.

    >>> hinge(torch.tensor([[3.0, 1.0], [1.0, 3.0]]), torch.tensor([0, 0]), 0.5)
    tensor([2.5000, 0.0000])
    """
    return (margin(logits, y) + confidence).clamp_min(0)


def is_found(logits: Tensor, y: Tensor, confidence: float) -> Tensor:
    """Whether another class wins, by the confidence or more."""
    return is_wrong(logits, y) & (margin(logits, y) <= -confidence)
