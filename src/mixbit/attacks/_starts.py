"""Where attacks on labels begin: a point of another class, and the boundary between it and the image."""

from __future__ import annotations

import torch
from torch import Tensor

from mixbit.attacks._norms import Norm, norm_of
from mixbit.attacks._streams import Streams
from mixbit.attacks._target import Target
from mixbit.errors import MixbitError

__all__ = ["bisect", "check_starts", "first_points", "halvings"]


def first_points(
    target: Target, x: Tensor, streams: Streams, tries: int, given: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """A point of another class for each image, where one is found.

    The points that are given are tried first, in their order, then random ones: uniform within the bounds in every
    number, as Brendel et al. draw them, and in turn in squares of 2, 4, 8 ... pixels up to the whole image (ours: a
    network can call all fine noise by one class, whose images would have no start).

    Args:
        target: answers for row i of `x`.
        x: images `(N, ...)`.
        streams: of the images.
        tries: random points that an image may ask for.
        given: starting points `(K, ...)`.

    Returns:
        Points `(N, ...)`, the image where none was found, and the rows that have one, in order.
    """
    points, active = x.clone(), target.all_rows
    first = 0 if given is None else len(given)
    for at in range(first + tries):
        active = active[target.can_ask(active)]
        if not len(active):
            break
        if given is not None and at < first:
            drawn = given[at].to(x).expand(len(active), *x.shape[1:])
        else:
            drawn = _random_points(target, streams, active, x, at - first)
        wrong = target.is_wrong(drawn, active)
        points[active[wrong]] = drawn[wrong]
        active = active[~wrong]
    none = torch.zeros(len(x), dtype=torch.bool)
    none[active] = True
    return points, (~none).nonzero().squeeze(1)


def _random_points(target: Target, streams: Streams, rows: Tensor, x: Tensor, at: int) -> Tensor:
    """The `at`-th try: squares of `2^(at mod levels)` pixels, each of one colour."""
    low, high = target.clip(torch.tensor([-torch.inf, torch.inf])).tolist()
    shape = tuple(x.shape[1:])
    if len(shape) != 3:
        return streams.uniform(rows, shape, low, high)
    channels, height, width = shape
    size: int = 2 ** (at % ((max(height, width) - 1).bit_length() + 1))
    drawn = streams.uniform(rows, (channels, -(-height // size), -(-width // size)), low, high)
    return drawn.repeat_interleave(size, 2)[:, :, :height].repeat_interleave(size, 3)[..., :width]


def bisect(target: Target, right: Tensor, points: Tensor, rows: Tensor, times: Tensor) -> None:
    """Halve the line between a right and a wrong point of each of the images, as often as it says; both in place.

    Args:
        target: answers for the images.
        right: the right end of each image `(N, ...)`.
        points: the wrong end, which ends next to the boundary.
        rows: the images that search `(M,)`.
        times: how often each of these halves its line `(M,)`.
    """
    for at in range(int(times.max()) if len(times) else 0):
        going = (times > at) & target.can_ask(rows)
        rows, times = rows[going], times[going]
        if not len(rows):
            return
        middle = (right[rows] + points[rows]) / 2
        wrong = target.is_wrong(middle, rows)
        points[rows[wrong]] = middle[wrong]
        right[rows[~wrong]] = middle[~wrong]


def halvings(x: Tensor, points: Tensor, within: float, norm: Norm = "L2") -> Tensor:
    """How often the line between each pair of points is halved until it is not longer than `within` `(N,)`.

    >>> halvings(torch.zeros(2, 1), torch.tensor([[1.0], [0.1]]), 0.25).tolist()
    [2, 0]
    """
    return (norm_of(points - x, norm) / within).clamp_min(1.0).log2().ceil().to(torch.int64)


def check_starts(starts: Tensor | None, x: Tensor, who: str) -> None:
    """Raise unless starting points are points of the shape of the images.

    Raises:
        MixbitError: another shape.
    """
    if starts is not None and starts.shape[1:] != x.shape[1:]:
        raise MixbitError(
            f"{who}: starting points of shape {tuple(starts.shape)} do not fit images of {tuple(x.shape[1:])}. "
            f"Legal: (K, {', '.join(map(str, x.shape[1:]))}), K points that each image tries in turn."
        )
