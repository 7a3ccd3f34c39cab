"""Common corruptions of images: noise, blur and digital, in five severities, as in CIFAR-10-C and ImageNet-C.

Hendrycks & Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations", ICLR 2019
(arXiv:1903.12261). Constants and conventions are the published ones: pixels in [0, 1], clipped, times 255, cut to
bytes by truncation. The random numbers are ours, so images are like those of the published files, not the same; and
arithmetic is exact where the original rounds in floating point, so a byte can differ by one where the exact result is
a whole number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mixbit.data import _blur, _digital, _noise
from mixbit.data._levels import GROUPS, LEVELS, NUMBERS, Scale
from mixbit.data.order import key
from mixbit.errors import DataError, did_you_mean

__all__ = [
    "CLEAN",
    "GROUPS",
    "KINDS",
    "SEVERITIES",
    "SMALL_PIXELS",
    "STANDARD_KINDS",
    "Quality",
    "Scale",
    "check_kind",
    "check_severity",
    "corrupt",
    "default_scale",
    "level_of",
]

CLEAN = "clean"
"""The kind that changes nothing; its severity is 0."""
KINDS: tuple[str, ...] = tuple(NUMBERS)
"""All corruptions; `GROUPS` says which are noise, blur and digital."""
STANDARD_KINDS: tuple[str, ...] = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "gaussian_blur",
    "defocus_blur",
    "jpeg",
    "pixelate",
    "contrast",
)
"""What an evaluation takes if nothing else is asked for; our choice of the paper's list."""
SEVERITIES: tuple[int, ...] = (1, 2, 3, 4, 5)
SMALL_PIXELS = 64
"""Images whose shorter side is at most this long get CIFAR-10-C's constants, larger ones ImageNet-C's."""

_NOISE = 6
_FIXED = -1  # stands for the epoch where draws do not depend on it

Images = TypeVar("Images", Tensor, npt.NDArray[np.uint8])


class Quality(NamedTuple):
    """What was done to an image.

    >>> Quality("clean"), Quality("jpeg", 3)
    (Quality(kind='clean', severity=0), Quality(kind='jpeg', severity=3))
    """

    kind: str
    severity: int = 0


def corrupt(
    images: Images,
    kind: str,
    severity: int,
    *,
    indices: Sequence[int] | Tensor | None = None,
    seed: int = 0,
    epoch: int | None = None,
    scale: Scale | None = None,
) -> Images:
    """Corrupted copies of images.

    The result is a function of image, kind, severity, scale, seed, index and epoch alone: neither the other images of
    the batch nor their number, the process or the machine change a byte. (For `jpeg` the machine must have the same
    libjpeg.)

    Args:
        images: (C, H, W) or (N, C, H, W), uint8, a tensor on any device or a NumPy array.
        kind: one of `KINDS`, or "clean".
        severity: 1 (slight) to 5 (strong); 0 for "clean".
        indices: number of each sample in its data set, N of them; 0 .. N - 1 if not given. Equal numbers draw equal
            noise.
        seed: another seed is another draw of the noise.
        epoch: another epoch is another draw; None is one more, meant for test data, whose noise never changes.
        scale: whose constants, "cifar" or "imagenet"; `default_scale` of the image size if not given.

    Returns:
        As `images`: the same shape, type and device, contiguous.

    Raises:
        DataError: images of another type or shape, an unknown kind or scale, a severity that is not 1 to 5, or a kind
            that cannot be done with this number of channels (`saturate` needs 3, `jpeg` 1 or 3).
        MissingExtra: `jpeg` and `pixelate` need pillow.

    >>> grey = torch.full((1, 4, 4), 100, dtype=torch.uint8)
    >>> corrupt(grey, "gaussian_noise", 5)[0, 0].tolist()
    [113, 139, 88, 132]
    >>> corrupt(grey, "gaussian_blur", 5)[0, 0].tolist()
    [100, 100, 100, 100]
    """
    check_severity(kind, severity)
    pixels = _as_batch(images)
    numbers = _as_numbers(indices, len(pixels))
    if kind == CLEAN or not pixels.size:
        done = pixels.copy()
    else:
        level = level_of(kind, severity, scale or default_scale(*pixels.shape[2:]))
        stream = key(_NOISE, seed, _FIXED if epoch is None else epoch, NUMBERS[kind], severity)
        done = _apply(kind, level, pixels, numbers, stream)
    return _as_given(done, images)


def level_of(kind: str, severity: int, scale: Scale) -> Any:
    """The published constant, or constants, of a corruption.

    Raises:
        DataError: an unknown kind or scale, or a severity that is not 1 to 5.

    >>> level_of("gaussian_noise", 3, "cifar"), level_of("gaussian_noise", 1, "imagenet")
    (0.08, 0.08)
    >>> level_of("gaussian_noise", 6, "cifar")
    Traceback (most recent call last):
    mixbit.errors.DataError: gaussian_noise has severity 6; it must be 1, 2, 3, 4 or 5.
    """
    check_severity(kind, severity)
    if kind == CLEAN:
        return None
    if scale not in LEVELS[kind]:
        raise DataError(f"Unknown scale {scale!r} of corruptions; there are: cifar, imagenet.")
    return LEVELS[kind][scale][severity - 1]


def default_scale(height: int, width: int) -> Scale:
    """The published set whose constants suit images of that size: our completion, since each is published for one size.

    >>> default_scale(32, 32), default_scale(224, 160)
    ('cifar', 'imagenet')
    """
    return "cifar" if min(height, width) <= SMALL_PIXELS else "imagenet"


def check_kind(kind: str) -> None:
    """Raise `DataError` if that is neither one of `KINDS` nor "clean"."""
    if kind not in NUMBERS and kind != CLEAN:
        known = ", ".join((CLEAN, *KINDS))
        raise DataError(f"Unknown corruption {kind!r}; there are: {known}.{did_you_mean(kind, (CLEAN, *KINDS))}")


def check_severity(kind: str, severity: int) -> None:
    """Raise `DataError` unless the kind is known and the severity 1 to 5, or 0 for "clean"."""
    check_kind(kind)
    if kind == CLEAN and severity != 0:
        raise DataError(f"clean has severity {severity!r}; it must be 0.")
    whole = isinstance(severity, int | np.integer) and not isinstance(severity, bool)
    if kind != CLEAN and not (whole and severity in SEVERITIES):
        raise DataError(f"{kind} has severity {severity!r}; it must be 1, 2, 3, 4 or 5.")


def _apply(kind: str, level: Any, pixels: _noise.Pixels, indices: list[int], stream: int) -> _noise.Pixels:
    if kind in GROUPS["noise"]:
        return _noise.add_noise(kind, level, pixels, indices, stream)
    levels = level if isinstance(level, tuple) else (level,)
    if kind == "motion_blur":
        radius, sigma = levels
        return _blur.motion_blur(pixels, radius, sigma, indices, stream)
    found: _noise.Pixels = getattr(_blur if kind in GROUPS["blur"] else _digital, kind)(pixels, *levels)
    return found


def _as_batch(images: Tensor | npt.NDArray[np.uint8]) -> _noise.Pixels:
    """(N, C, H, W) in memory, contiguous."""
    if isinstance(images, Tensor):
        typed = images.dtype == torch.uint8
        pixels = images.detach().cpu().numpy() if typed else np.empty(0)
    else:
        pixels = np.asarray(images)
        typed = pixels.dtype == np.uint8
    if not typed or images.ndim not in (3, 4):
        shape = tuple(images.shape)
        raise DataError(f"Corruptions need uint8 images (C, H, W) or (N, C, H, W), got {images.dtype} {shape}.")
    return np.ascontiguousarray(pixels if pixels.ndim == 4 else pixels[None])


def _as_numbers(indices: Sequence[int] | Tensor | None, count: int) -> list[int]:
    if indices is None:
        return list(range(count))
    numbers = indices.tolist() if isinstance(indices, Tensor) else [int(index) for index in indices]
    if len(numbers) != count or min(numbers, default=0) < 0:
        raise DataError(f"{count} images need as many indices from 0, got {len(numbers)}: {numbers[:5]}.")
    return numbers


def _as_given(pixels: _noise.Pixels, images: Images) -> Images:
    shaped = pixels.reshape(images.shape)
    if isinstance(images, Tensor):
        return torch.from_numpy(shaped).to(images.device)
    return shaped
