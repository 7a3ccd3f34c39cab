"""The space of a user's inputs: how they become what the network reads, and where they may lie."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mixbit.errors import DataError

__all__ = ["InputSpace"]

_NEAR = 1e-3
"""How far from a whole number, in pixels, a sum in float32 of a whole number of pixels can lie."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpace:
    """How inputs of the user's own unit become the network's: `z = (x - mean) / std`, channel by channel.

    Attacks, certificates and tests with noise work on `x`: for images, pixels in [0, 1].

    Attributes:
        mean: one number a channel, or one for all.
        std: the same, above 0.
        bounds: the least and the largest value that an input can have; None where every number is one.
        pixel_scale: inputs that a sensor gives are whole numbers divided by this, 255 for images of 8 bits; None where
            they are any numbers.

    Raises:
        DataError: numbers that are not finite, a `std` or a scale that is not above 0, or bounds in the wrong order.

    >>> space = InputSpace.of_images(mean=(0.5,), std=(0.25,))
    >>> z = space.enter(torch.tensor([[[[0.0, 1.0]]]]))
    >>> z.tolist(), space.leave(z).tolist(), space.clip(torch.tensor([-1.0, 0.5, 2.0])).tolist()
    ([[[[-2.0, 2.0]]]], [[[[0.0, 1.0]]]], [0.0, 0.5, 1.0])
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    bounds: tuple[float, float] | None = None
    pixel_scale: float | None = None

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        scale = 1.0 if self.pixel_scale is None else self.pixel_scale
        if len(self.mean) != len(self.std) or not self.mean:
            raise DataError(f"mean {self.mean} and std {self.std}: legal is as many of one as of the other, 1 or more.")
        if not all(math.isfinite(value) for value in (*self.mean, *self.std, scale)):
            raise DataError(f"mean {self.mean}, std {self.std}, pixel_scale {scale}: legal are finite numbers.")
        if min(*self.std, scale) <= 0:
            raise DataError(f"std {self.std}, pixel_scale {scale}: legal are numbers above 0.")
        if self.bounds is not None and not self.bounds[0] < self.bounds[1]:
            raise DataError(f"bounds {self.bounds}: legal is (least, largest) with the least below the largest.")

    @classmethod
    def of_images(cls, *, mean: tuple[float, ...], std: tuple[float, ...]) -> InputSpace:
        """Pixels of 8 bits divided by 255, normalised by `mean` and `std` on that scale."""
        return cls(mean=mean, std=std, bounds=(0.0, 1.0), pixel_scale=255.0)

    @property
    def plain(self) -> bool:
        """Whether inputs are the network's as they are."""
        return not any(self.mean) and all(value == 1.0 for value in self.std)

    def enter(self, x: Tensor) -> Tensor:
        """What the network reads: `(x - mean) / std` in float32, differentiable.

        Of whole pixels the numbers are bit for bit those of the data sets here, which normalise before they divide.

        Args:
            x: inputs `(N, C, ...)`.

        Raises:
            DataError: another number of channels.
        """
        x = x.to(torch.float32)
        if self.plain:
            return x
        mean, std = self._constants(x)
        return (x * (self.pixel_scale or 1.0) - mean) / std

    def leave(self, z: Tensor) -> Tensor:
        """Inputs in the user's unit: `z * std + mean`; what is a pixel but for float32's rounding is that pixel.

        Args:
            z: inputs of the network `(N, C, ...)`.

        Raises:
            DataError: another number of channels.
        """
        z = z.to(torch.float32)
        if self.plain:
            return z
        mean, std = self._constants(z)
        x = z * std + mean
        if self.pixel_scale is None:
            return x
        whole = x.round()
        return torch.where((x - whole).abs() <= _NEAR, whole, x) / self.pixel_scale

    def clip(self, x: Tensor) -> Tensor:
        """`x` cut at the bounds."""
        return x if self.bounds is None else x.clamp(*self.bounds)

    def _constants(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and std on the scale of pixels, shaped for inputs `(N, C, ...)`."""
        channels = like.shape[1] if like.dim() > 1 else 1
        if len(self.mean) not in (1, channels):
            raise DataError(
                f"inputs of shape {tuple(like.shape)} have {channels} channels, their space has {len(self.mean)}. "
                "Legal: (N, C, ...) with that many channels."
            )
        shape = (-1, *[1] * max(like.dim() - 2, 0))
        scale = self.pixel_scale or 1.0
        found = (torch.tensor(values, device=like.device).mul(scale).view(shape) for values in (self.mean, self.std))
        mean, std = found
        return mean, std
