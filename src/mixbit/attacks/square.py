"""Square: random search with square patches, which asks for logits alone.

Andriushchenko, Croce, Flammarion, Hein, "Square Attack: a query-efficient black-box adversarial attack via random
search" (ECCV 2020).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mixbit._settings import Count, Part, Positive
from mixbit.attacks._norms import Norm, norm_of, per_image
from mixbit.attacks._objectives import is_wrong, margin
from mixbit.attacks._streams import Streams
from mixbit.attacks._target import Target
from mixbit.attacks.attack import Attack
from mixbit.attacks.registry import register
from mixbit.errors import MixbitError

__all__ = ["Square"]

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries, of 10 000, after which patches have half the area."""

_BLOCK = 64
"""Queries whose random numbers an image draws at once: one call instead of many."""

_TILES = 5
"""The first point of the ball of L2 has so many tiles along a side."""


@register(
    "square",
    "random square patches at the edge of a ball, kept where the margin falls",
    source="Andriushchenko et al., ECCV 2020",
    access="scores",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class Square(Attack):
    """Random search for the least margin within `|x' - x| <= eps` and the bounds; a query changes one patch.

    The patch covers the share `p` of the image, which is halved as the search goes on. For Linf the first point has
    vertical stripes of `eps` or `-eps`, and a patch has one of both in each channel; for L2 the patch is a bump beside
    a dent, to which the budget of a second patch is moved. A point that is no better is forgotten.

    Attributes:
        eps: radius of the ball, in the unit of the input space.
        queries: points that an image asks for at most. The schedule of `p` is made for 10 000, and rescaled to these,
            as the authors' code does.
        p: share of the image that the first patches cover; 0.8 is that of the authors' AutoAttack.
        ball: "Linf" or "L2"; L2 takes images alone, of 3 pixels a side or more.
    """

    eps: Positive = 8 / 255
    queries: Count = 5000
    p: Part = 0.8
    ball: Literal["Linf", "L2"] = "Linf"

    @property
    def norm(self) -> Norm:
        """That of the ball."""
        return self.ball

    @property
    def radius(self) -> float | None:
        """The bound is `eps`."""
        return self.eps

    def _perturb(self, target: Target, x: Tensor, y: Tensor, streams: Streams) -> Tensor:
        shape, planes = x.shape[1:], _planes(x)
        patches = (_Corners if self.ball == "Linf" else _Bumps)(target, planes, self.eps)
        active = target.all_rows
        best, least = patches.first(streams), torch.full((len(x),), torch.inf)
        candidate, numbers = best, torch.empty(len(x), _BLOCK, patches.numbers)
        for at in range(self.queries):
            asking = target.can_ask(active)
            active, candidate = active[asking], candidate[asking]
            if not len(active):
                break
            logits = target.logits(candidate.view(-1, *shape), active)
            found, wrong = margin(logits, y[active]), is_wrong(logits, y[active])
            better = wrong | (found < least[active])
            best[active[better]], least[active[better]] = candidate[better], found[better]
            active = active[~wrong]
            if at % _BLOCK == 0 and len(active):
                numbers[active] = streams.uniform(active, (_BLOCK, patches.numbers))
            candidate = patches.changed(best[active], active, self._share(at), numbers[active, at % _BLOCK])
        return best.view(x.shape)

    def _share(self, at: int) -> float:
        """Share of the image that the change after query `at` covers; the first is made at 0."""
        rescaled = int(at / self.queries * 10_000)
        halvings = sum(rescaled > after for after in _HALVINGS)
        return math.ldexp(self.p, -halvings)


def _planes(x: Tensor) -> Tensor:
    """Inputs as images `(N, C, H, W)`: those of one dimension have one row, without channels one channel (ours)."""
    if x.dim() == 4:
        return x
    if x.dim() in (2, 3):
        return x.reshape(len(x), x.shape[1] if x.dim() == 3 else 1, 1, x.shape[-1])
    raise MixbitError(
        f"attack 'square' got inputs of shape {tuple(x.shape)}, legal is (N, C, H, W), (N, C, L), (N, F)."
    )


class _Patches(ABC):
    """Where a search begins, and what it tries next.

    Args:
        target: knows the bounds.
        x: images `(N, C, H, W)`.
        eps: radius of the ball.
    """

    numbers: int
    """Random numbers from 0 to 1 that an image needs for a query."""

    def __init__(self, target: Target, x: Tensor, eps: float) -> None:
        self.target, self.x, self.eps = target, x, eps
        self.channels, self.height, self.width = x.shape[1:]

    @abstractmethod
    def first(self, streams: Streams) -> Tensor:
        """The first point of every image `(N, C, H, W)`."""

    @abstractmethod
    def changed(self, best: Tensor, rows: Tensor, share: float, numbers: Tensor) -> Tensor:
        """`best` `(M, C, H, W)` of the images `rows` `(M,)`, changed in a patch; with `numbers` `(M, self.numbers)`."""

    def _window(self, sides: tuple[int, int], places: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Index of a window in each of `M` images; where, `(M, 2)` from 0 to 1, says of all its places which."""
        height, width = sides
        top = (places[:, 0] * (self.height - height + 1)).long()
        left = (places[:, 1] * (self.width - width + 1)).long()
        lines, columns = top[:, None] + torch.arange(height), left[:, None] + torch.arange(width)
        images, channels = torch.arange(len(places)), torch.arange(self.channels)
        return images[:, None, None, None], channels[:, None, None], lines[:, None, :, None], columns[:, None, None, :]


class _Corners(_Patches):
    """Corners of the ball of Linf: every number is moved by `eps` or `-eps`, and cut at the bounds."""

    def __init__(self, target: Target, x: Tensor, eps: float) -> None:
        super().__init__(target, x, eps)
        self.numbers = 2 + self.channels

    def first(self, streams: Streams) -> Tensor:
        stripes = streams.signs(self.target.all_rows, (self.channels, 1, self.width))
        return self.target.clip(self.x + self.eps * stripes)

    def changed(self, best: Tensor, rows: Tensor, share: float, numbers: Tensor) -> Tensor:
        window = self._window(_sides(share, self.height, self.width), numbers[:, :2])
        found = best.clone()
        found[window] = self.target.clip(self.x[rows][window] + self.eps * _signs(numbers[:, 2:]))
        return found


class _Bumps(_Patches):
    """Points at the edge of the ball of L2, but for the bounds: sums of bumps beside dents."""

    def __init__(self, target: Target, x: Tensor, eps: float) -> None:
        super().__init__(target, x, eps)
        self.numbers = 5 + self.channels
        if min(self.height, self.width) < 3:
            raise MixbitError(
                f"attack 'square' in L2 got inputs as images of {self.height} x {self.width}, legal is 3 x 3 or more. "
                "Take ball='Linf'."
            )

    def first(self, streams: Streams) -> Tensor:
        side = max(min(self.height, self.width) // _TILES, 1)
        lines, columns = self.height // side, self.width // side
        every = self.target.all_rows
        turned = streams.integers(every, 2, (1, lines, columns)).bool()[..., None, None]
        signs = streams.signs(every, (self.channels, lines, columns))[..., None, None]
        bump = _bump(side)
        tiles = (torch.where(turned, bump.T, bump) * signs).transpose(3, 4).flatten(4, 5).flatten(2, 3)
        delta = torch.zeros_like(self.x)
        top, left = (self.height - lines * side) // 2, (self.width - columns * side) // 2
        delta[:, :, top : top + lines * side, left : left + columns * side] = tiles
        return self._at_the_edge(self.x, delta)

    def changed(self, best: Tensor, rows: Tensor, share: float, numbers: Tensor) -> Tensor:
        side = self._side(share)
        place, other = (self._window((side, side), numbers[:, at : at + 2]) for at in (0, 2))
        x = self.x[rows]
        delta = best - x
        unused = (self.eps**2 - norm_of(delta, "L2") ** 2).clamp_min(0) / self.channels
        old = delta[place]
        budget = per_image(unused, old) + _square_sum(old)
        delta[place] = 0  # what both windows have counts once
        budget = budget + _square_sum(delta[other])
        delta[other] = 0
        bump = _bump(side)
        bump = torch.where(per_image(numbers[:, 4] < 0.5, old), bump.T, bump) * _signs(numbers[:, 5:])
        new = bump + old / _square_sum(old).sqrt().clamp_min(1e-10)
        delta[place] = new * (budget / _square_sum(new).clamp_min(1e-20)).sqrt()
        return self._at_the_edge(x, delta)

    def _side(self, share: float) -> int:
        """An odd number of pixels from 3 on, which the image has."""
        side = max(round(math.sqrt(share * self.height * self.width)), 3)
        most = min(self.height, self.width)
        return min(side + (side % 2 == 0), most - (most % 2 == 0))

    def _at_the_edge(self, x: Tensor, delta: Tensor) -> Tensor:
        length = per_image(norm_of(delta, "L2"), delta).clamp_min(1e-10)
        return self.target.clip(x + self.eps / length * delta)


def _sides(share: float, height: int, width: int) -> tuple[int, int]:
    """Of a square that covers the share of an image; where the image is too narrow, of a rectangle (ours).

    >>> _sides(0.25, 8, 8), _sides(0.8, 40, 10), _sides(1e-6, 8, 8), _sides(0.5, 1, 16)
    ((4, 4), (32, 10), (1, 1), (1, 8))
    """
    area = share * height * width
    side, narrow = max(round(math.sqrt(area)), 1), min(height, width)
    if side <= narrow:
        return side, side
    wide = round(area / narrow)
    return (narrow, wide) if height <= width else (wide, narrow)


def _signs(numbers: Tensor) -> Tensor:
    """-1 or 1 a channel, of numbers `(M, C)` from 0 to 1, shaped `(M, C, 1, 1)`."""
    return torch.where(numbers < 0.5, -1.0, 1.0)[..., None, None]


def _square_sum(window: Tensor) -> Tensor:
    """Sum of squares in each channel, `(M, C, 1, 1)`."""
    return window.square().sum((2, 3), keepdim=True)


def _bump(side: int) -> Tensor:
    """A bump over a dent of the same length, `(side, side)`, of length 1 together (section 3.3 of the paper).

    >>> bump = _bump(5)
    >>> bool((bump[:2] > 0).all()), bool((bump[2:] < 0).all()), round(float(bump.norm()), 4)
    (True, True, 1.0)
    """
    upper = side // 2
    both = torch.cat([_pyramid(upper, side), -_pyramid(side - upper, side)])
    found: Tensor = both / both.norm()
    return found


def _pyramid(height: int, width: int) -> Tensor:
    """Sums of `1 / (k + 1)^2` over the squares around the middle that hold a pixel, k being their distance from it."""
    middle = (height // 2, width // 2)
    lines, columns = (torch.arange(length) - at for length, at in zip((height, width), middle, strict=True))
    distance = torch.maximum(lines.abs()[:, None], columns.abs())
    parts = 1 / torch.arange(1, max(middle) + 2, dtype=torch.float32) ** 2
    mass = parts.flip(0).cumsum(0).flip(0)[distance]
    found: Tensor = mass / mass.norm().clamp_min(1e-10)
    return found
