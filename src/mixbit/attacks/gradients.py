"""Gradients of the input, exact and estimated: whether they vanish, explode, or point elsewhere than in float.

Costa and Pinto name the vanishing and exploding of estimated gradients and their misalignment. Their code takes
differences of 1e-5 at integer inputs, which says how the cast rounds; differences of whole input steps on de-quantized
outputs are our completion.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mixbit.attacks._norms import per_image
from mixbit.attacks._target import Target
from mixbit.errors import MixbitError
from mixbit.inference import Predictor, need_gradients

__all__ = ["Alignment", "Density", "Value", "alignment", "density", "estimated_gradients", "exact_gradients"]

Value = Literal["logit", "probability", "cross-entropy"]
"""Of what the gradient is: the label's logit, its probability, or the loss."""

_AT_ONCE = 256
"""Coordinates whose differences are asked for together."""


def _of_label(values: Tensor, y: Tensor) -> Tensor:
    return values.gather(1, y[:, None]).squeeze(1)


_VALUES: dict[Value, Callable[[Tensor, Tensor], Tensor]] = {
    "logit": _of_label,
    "probability": lambda logits, y: _of_label(logits.softmax(1), y),
    "cross-entropy": lambda logits, y: F.cross_entropy(logits, y, reduction="none"),
}


def exact_gradients(predictor: Predictor, x: Tensor, y: Tensor, value: Value = "logit") -> Tensor:
    """Gradients by autograd; of a fake-quantized network straight through its rounding.

    Args:
        predictor: one with gradients.
        x: images `(N, ...)` in the unit of its space.
        y: labels `(N,)`.
        value: of what.

    Returns:
        `(N, ...)`, the unit of the value by the unit of the input.

    Raises:
        MixbitError: the Predictor has no gradients.
    """
    need_gradients(predictor, "exact_gradients")
    target = Target(predictor, y)
    return target.gradient(x, target.all_rows, _VALUES[value])[0]


def estimated_gradients(
    predictor: Predictor, x: Tensor, y: Tensor, *, step: float, coordinates: Tensor, value: Value = "logit"
) -> Tensor:
    """Central differences `(f(x + h e_i) - f(x - h e_i)) / 2h`, as an attacker without gradients estimates them.

    At the bounds of the input space a point is cut, and the difference is divided by what is left between the two.

    Args:
        predictor: any.
        x: images `(N, ...)`.
        y: labels `(N,)`.
        step: h, in the unit of the input space; an integer network sees nothing of less than half a step of its input
            grid, see `InputGrid.step`.
        coordinates: which numbers of an image `(D,)`, counted through the flattened image.
        value: of what.

    Returns:
        `(N, D)`.

    Raises:
        MixbitError: a step that is not above 0, or coordinates that an image does not have.

    >>> from mixbit.testing.attacks import LinearPredictor
    >>> network = LinearPredictor(differentiable=False)
    >>> x, y = torch.full((1, 1, 4, 4), 0.5), torch.tensor([2])
    >>> found = estimated_gradients(network, x, y, step=0.01, coordinates=torch.tensor([0, 5]))
    >>> torch.allclose(found[0], network.weight[2].flatten()[[0, 5]], rtol=1e-3)
    True
    """
    size = x[0].numel()
    if not step > 0 or int(coordinates.min()) < 0 or int(coordinates.max()) >= size:
        raise MixbitError(
            f"step={step}, coordinates from {int(coordinates.min())} to {int(coordinates.max())}. Legal: a step above "
            f"0, and coordinates of 0 to {size - 1}."
        )
    target = Target(predictor, y)
    found = torch.empty(len(x), len(coordinates))
    for row in range(len(x)):
        for at in range(0, len(coordinates), _AT_ONCE):
            part = coordinates[at : at + _AT_ONCE]
            found[row, at : at + len(part)] = _differences(target, x[row], row, part, step, value)
    return found


def _differences(target: Target, image: Tensor, row: int, part: Tensor, step: float, value: Value) -> Tensor:
    """Of one image, at some coordinates."""
    count = torch.arange(len(part))
    both = image.flatten().repeat(2, len(part), 1)
    both[0, count, part] += step
    both[1, count, part] -= step
    both = target.clip(both)
    points = both.view(2 * len(part), *image.shape)
    logits = target.logits(points, torch.full((len(points),), row))
    above, below = _VALUES[value](logits, target.y[row].expand(len(points))).view(2, -1).double()
    found: Tensor = (above - below) / (both[0, count, part] - both[1, count, part]).double()
    return found.float()


@dataclass(frozen=True, slots=True, kw_only=True)
class Density:
    """How much of a gradient is there.

    Attributes:
        zeros: share of the numbers that are exactly 0.
        all_zero: share of the images whose gradient is 0 throughout: it has vanished.
        mean: mean of |g| over all numbers.
        largest: the largest |g|: where it is far above the float network's, it explodes.
    """

    zeros: float
    all_zero: float
    mean: float
    largest: float


def density(gradients: Tensor) -> Density:
    """Shares of zeros, and sizes.

    Args:
        gradients: `(N, D)` or `(N, ...)`.

    >>> density(torch.tensor([[0.0, 0.0], [0.0, -4.0]]))
    Density(zeros=0.75, all_zero=0.5, mean=1.0, largest=4.0)
    """
    flat = gradients.flatten(1)
    zero = flat == 0
    return Density(
        zeros=float(zero.double().mean()),
        all_zero=float(zero.all(1).double().mean()),
        mean=float(flat.abs().double().mean()),
        largest=float(flat.abs().max()),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """How far two gradients agree, image by image.

    Attributes:
        cosine: of the angle between the two `(N,)`; 0 where either is all zero.
        sign: share of the numbers that have the same sign in both, of those that are not 0 in either `(N,)`; NaN
            where there is none.
    """

    cosine: Tensor
    sign: Tensor

    @property
    def mean_cosine(self) -> float:
        """Mean over images of the cosine."""
        return float(self.cosine.mean())

    @property
    def mean_sign(self) -> float:
        """Mean over images that have numbers to compare; NaN without one."""
        return float(np.nanmean(self.sign.numpy())) if bool((~self.sign.isnan()).any()) else float("nan")


def alignment(first: Tensor, second: Tensor) -> Alignment:
    """Cosine and agreement of signs of two gradients `(N, ...)` of the same images.

    Raises:
        MixbitError: their shapes differ.

    >>> found = alignment(torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([[1.0, 5.0, -2.0]]))
    >>> round(found.mean_cosine, 3), found.mean_sign
    (-0.245, 0.5)
    """
    if first.shape != second.shape:
        raise MixbitError(f"gradients {tuple(first.shape)} and {tuple(second.shape)}: legal is one shape.")
    one, two = (found.flatten(1).double() for found in (first, second))
    one, two = (found / per_image(found.norm(dim=1), found).clamp_min(1e-300) for found in (one, two))
    both = (one != 0) & (two != 0)
    same = ((one.sign() == two.sign()) & both).sum(1).double() / both.sum(1)
    return Alignment(cosine=(one * two).sum(1), sign=same)
