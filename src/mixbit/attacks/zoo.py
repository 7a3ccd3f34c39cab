"""ZOO: the objective of Carlini and Wagner, descended along coordinates by differences of logits.

Chen, Zhang, Sharma, Yi and Hsieh, "ZOO: Zeroth Order Optimization Based Black-box Attacks to Deep Neural Networks
without Training Substitute Models" (AISec 2017).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mixbit._settings import Count, NotNegative, Positive
from mixbit.attacks._norms import Norm, norm_of
from mixbit.attacks._objectives import is_wrong, margin
from mixbit.attacks._streams import Streams
from mixbit.attacks._target import Target
from mixbit.attacks.attack import Attack
from mixbit.attacks.registry import register
from mixbit.data import InputSpace

__all__ = ["Zoo"]

_MEAN, _VARIANCE, _SMALL = 0.9, 0.999, 1e-8
"""Adam's constants."""
_UNKNOWN_GRID = 1e-4
"""Step of a difference, a part of the width of the input space, where inputs lie on no grid: the paper's."""
_POINTS = 256
"""Probes that are built together: more of them leave the processor's cache."""


@register(
    "zoo",
    "Carlini and Wagner's objective along coordinates, by differences of logits",
    source="Chen et al., AISec 2017",
    access="scores",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class Zoo(Attack):
    """The nearest point in L2: descent of `|x' - x|^2 + c max(z_y - max_{j != y} z_j, -confidence)`.

    A step draws coordinates, and estimates the second term's derivative for each by a symmetric difference,
    `(f(x' + h e_i) - f(x' - h e_i)) / 2 h`; the first term's is known. Each coordinate has an Adam of its own, which
    counts its own steps. `c` is searched by halving: lower where a point was found, higher (tenfold until one is) where
    not. On logits the second term is the paper's on logarithms of probabilities, as their sum of exponentials cancels.

    Attributes:
        steps: of each `c`.
        coordinates: drawn in each step, each of which costs two points; one more is the step's own.
        lr: of Adam, in the unit of the input space.
        step: `h` of the differences, in the unit of the input space. What the input's quantization rounds away has no
            difference: an integer network needs one step of its input or several. None for one step of the pixels of
            the space (ours), 1/255 of images, or 1e-4 of the width of a space without pixels.
        c: first weight of the margin.
        rounds: values of `c` that are tried.
        confidence: margin of another class at which its term ends.
        block: side of the squares of pixels that a coordinate moves together (attack-space reduction); 1 for none.
    """

    steps: Count = 50
    coordinates: Count = 128
    lr: Positive = 0.01
    step: Positive | None = None
    c: Positive = 0.01
    rounds: Count = 5
    confidence: NotNegative = 0.0
    block: Count = 1

    @property
    def norm(self) -> Norm:
        """It makes the distance in L2 small."""
        return "L2"

    def _perturb(self, target: Target, x: Tensor, y: Tensor, streams: Streams) -> Tensor:
        best, length = x.clone(), torch.full((len(x),), torch.inf)
        c, low, high = torch.full((len(x),), float(self.c)), torch.zeros(len(x)), torch.full((len(x),), torch.inf)
        for _ in range(self.rounds):
            found = self._descend(target, x, c, best, length, streams)
            high, low = torch.where(found, c, high), torch.where(found, low, c)
            c = torch.where(high.isinf(), 10 * c, (low + high) / 2)
        return best

    def _descend(self, target: Target, x: Tensor, c: Tensor, best: Tensor, length: Tensor, streams: Streams) -> Tensor:
        """One round; `best` keeps each image's nearest point of another class. Returns which found one `(N,)`."""
        moved = torch.zeros((len(x), *self._coarse(tuple(x.shape[1:])))).flatten(1)
        count, h = min(self.coordinates, moved.shape[1]), _difference(target.predictor.space, self.step)
        mean, variance, tried = torch.zeros_like(moved), torch.zeros_like(moved), torch.zeros_like(moved)
        found, rows = torch.zeros(len(x), dtype=torch.bool), target.all_rows
        for _ in range(self.steps):
            rows = rows[target.can_ask(rows, 2 * count + 1)]
            if not len(rows):
                break
            at = (rows[:, None], streams.choices(rows, moved.shape[1], count))
            slope = self._slopes(target, x, moved, c, at, h)
            tried[at] += 1
            mean[at] = _MEAN * mean[at] + (1 - _MEAN) * slope
            variance[at] = _VARIANCE * variance[at] + (1 - _VARIANCE) * slope.square()
            first, second = mean[at] / (1 - _MEAN ** tried[at]), variance[at] / (1 - _VARIANCE ** tried[at])
            moved[at] -= self.lr * first / (second.sqrt() + _SMALL)
            points = self._points(target, x[rows], moved[rows])
            wrong = is_wrong(target.logits(points, rows), target.y[rows])
            self._keep(points, norm_of(points - x[rows], "L2"), rows, wrong, best, length)
            anew = rows[wrong & ~found[rows]]
            mean[anew], variance[anew], tried[anew], found[anew] = 0.0, 0.0, 0.0, True
        return found

    def _keep(self, points: Tensor, far: Tensor, rows: Tensor, wrong: Tensor, best: Tensor, length: Tensor) -> None:
        better = wrong & (far < length[rows])
        best[rows[better]], length[rows[better]] = points[better], far[better]

    def _slopes(
        self, target: Target, x: Tensor, moved: Tensor, c: Tensor, at: tuple[Tensor, Tensor], h: float
    ) -> Tensor:
        """Derivatives of the objective for the coordinates drawn `(M, count)`."""
        rows, drawn = at[0].squeeze(1), at[1]
        count = drawn.shape[1]
        parts = []
        for some in torch.split(torch.arange(len(rows)), max(1, _POINTS // (2 * count))):
            images = rows[some].repeat_interleave(count)
            ends = []
            for sign in (1, -1):
                probes = moved[images]
                probes[torch.arange(len(probes)), drawn[some].flatten()] += sign * h
                ends.append(self._points(target, x[images], probes))
            logits = target.logits(torch.cat(ends), images.repeat(2))
            hinge = margin(logits, target.y[images.repeat(2)]).clamp_min(-self.confidence).view(2, -1)
            parts.append(((hinge[0] - hinge[1]) / (2 * h)).view(len(some), count))
        delta = self._points(target, x[rows], moved[rows]) - x[rows]
        return c[rows][:, None] * torch.cat(parts) + 2 * self._gathered(delta).gather(1, drawn)

    # ------------------------------------------------------------------------------------- the space of the attack

    def _coarse(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the variables of an image: one a number, or one a square."""
        if len(shape) != 3:
            return shape
        return shape[0], -(-shape[1] // self.block), -(-shape[2] // self.block)

    def _points(self, target: Target, x: Tensor, moved: Tensor) -> Tensor:
        """Images moved by their variables `(M, V)`, within the bounds."""
        delta = moved.view(-1, *self._coarse(tuple(x.shape[1:])))
        if x.dim() == 4 and self.block > 1:
            delta = delta.repeat_interleave(self.block, 2)[:, :, : x.shape[2]]
            delta = delta.repeat_interleave(self.block, 3)[..., : x.shape[3]]
        return target.clip(x + delta)

    def _gathered(self, delta: Tensor) -> Tensor:
        """Sums of perturbations `(M, ...)` over what each variable moves `(M, V)`."""
        if delta.dim() == 4 and self.block > 1:
            delta = torch.nn.functional.avg_pool2d(
                delta, self.block, ceil_mode=True, count_include_pad=False, divisor_override=1
            )
        return delta.flatten(1)


def _difference(space: InputSpace, step: float | None) -> float:
    """`h`: what was asked for, a step of the space's pixels, or a small part of its width.

    >>> _difference(InputSpace.of_images(mean=(0.5,), std=(0.5,)), None) * 255
    1.0
    >>> _difference(InputSpace(bounds=(0.0, 2.0)), None), _difference(InputSpace(bounds=(0.0, 2.0)), 0.5)
    (0.0002, 0.5)
    """
    if step is not None:
        return step
    if space.pixel_scale is not None:
        return 1 / space.pixel_scale
    low, high = space.clip(torch.tensor([-torch.inf, torch.inf], dtype=torch.float64)).tolist()
    width: float = high - low
    return _UNKNOWN_GRID * width
