"""Blurs on bytes in exact arithmetic: weights are whole numbers, so no sum is ever rounded, in any order.

Truncation makes a last bit of a float visible: without this, a constant image could darken by one, and two machines
could differ. Products and sums stay below 2**53, where float64 holds every whole number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from mixbit.data._noise import Floats, Pixels, random_words

_UNIT = 2.0**20  # one, in units of a weight
_ZOOM_UNIT = 2.0**16  # 31 layers of 2**8 * 2**16 * 2**16 fit
_CHUNK_PIXELS = 1 << 17


def gaussian_blur(pixels: Pixels, sigma: float) -> Pixels:
    """Separable, cut at 4 sigma, edges repeated: what scikit-image's `gaussian` does."""
    from scipy.ndimage import correlate1d

    kernel = gaussian_kernel(sigma, int(4 * sigma + 0.5))

    def blur(part: Pixels) -> Floats:
        rows = correlate1d(part.astype(np.float64), kernel, axis=-2, mode="nearest")
        found: Floats = correlate1d(rows, kernel, axis=-1, mode="nearest")
        return found

    return _in_chunks(pixels, blur, _UNIT * _UNIT)


def gaussian_kernel(sigma: float, radius: int) -> Floats:
    """(2 * radius + 1,) whole numbers that sum to 2**20.

    >>> (gaussian_kernel(1.0, 4) / 2**20).round(4).tolist()
    [0.0001, 0.0044, 0.054, 0.242, 0.3989, 0.242, 0.054, 0.0044, 0.0001]
    """
    return _whole(np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2), radius)


def defocus_blur(pixels: Pixels, radius: float, alias: float) -> Pixels:
    """A disk, smoothed by a Gaussian of 3 or 5 taps; edges are mirrored, as OpenCV's `filter2D` does."""
    from scipy.ndimage import correlate

    kernel = disk(radius, alias)

    def blur(part: Pixels) -> Floats:
        found: Floats = correlate(part.astype(np.float64), kernel[None, None], mode="mirror")
        return found

    return _in_chunks(pixels, blur, _UNIT)


@cache
def disk(radius: float, alias: float) -> Floats:
    """The kernel of the defocus blur, whole numbers; 2**20 is 1.

    From a radius of 8 on, the published kernels touch the border of their array, where the smoothing mirrors them: they
    sum to a little more than 1 and the image becomes brighter (8: by 1.3 %). That is kept, since the images of
    ImageNet-C were made so.
    """
    from scipy.ndimage import correlate1d

    reach = max(8, int(radius))
    line = np.arange(-reach, reach + 1)
    inside = (line[:, None] ** 2 + line**2 <= radius**2).astype(np.float64)
    taps = gaussian_kernel(alias, 1 if radius <= 8 else 2)
    smooth = correlate1d(correlate1d(inside, taps, axis=0, mode="mirror"), taps, axis=1, mode="mirror")
    found: Floats = np.floor(smooth / (inside.sum() * _UNIT) + 0.5)
    used = int(np.abs(np.argwhere(found) - reach).max())
    found = found[reach - used : reach + used + 1, reach - used : reach + used + 1].copy()
    if radius < 8:
        found[used, used] += _UNIT - found.sum()
    return found


def motion_blur(pixels: Pixels, radius: int, sigma: float, indices: Sequence[int], stream: int) -> Pixels:
    """ImageMagick's motion blur at an angle from -45 to 45 degrees, drawn for each sample; rounded to nearest."""
    taps = 2 * radius + 1
    weights = _whole(np.exp(-0.5 * (np.arange(taps) / sigma) ** 2), 0)
    draws = random_words(stream, indices, 1)[:, 0]
    blurred = np.empty_like(pixels)
    for image, draw, out in zip(pixels, draws.tolist(), blurred, strict=True):
        offsets = _offsets(taps, math.radians(90 * draw / 2**32 - 45))
        out[:] = (_along(image, weights, offsets) + _UNIT / 2) // _UNIT
    return blurred


def _offsets(taps: int, angle: float) -> list[tuple[int, int]]:
    """(row, column) of every tap on the line from a pixel."""
    return [(math.ceil(i * math.sin(angle) - 0.5), math.ceil(i * math.cos(angle) - 0.5)) for i in range(taps)]


def _along(image: Pixels, weights: Floats, offsets: list[tuple[int, int]]) -> Floats:
    """The weighted sum of shifted images; edges are repeated."""
    reach, (height, width) = len(offsets), image.shape[1:]
    padded = np.pad(image, ((0, 0), (reach, reach), (reach, reach)), mode="edge").astype(np.float64)
    total = np.zeros(image.shape)
    for weight, (row, column) in zip(weights, offsets, strict=True):
        total += weight * padded[:, reach + row : reach + row + height, reach + column : reach + column + width]
    return total


def zoom_blur(pixels: Pixels, count: int, hundredths: int) -> Pixels:
    """The mean of the image and of `count` zooms into its middle, linearly interpolated as `scipy.ndimage.zoom`."""
    height, width = pixels.shape[2:]
    pairs = [(_zoom(height, factor), _zoom(width, factor)) for factor in zoom_factors(count, hundredths)]

    def blur(part: Pixels) -> Floats:
        image = part.astype(np.float64)
        total: Floats = image * _ZOOM_UNIT**2
        for rows, columns in pairs:
            total += rows @ image @ columns.T
        return total

    return _in_chunks(pixels, blur, _ZOOM_UNIT**2 * (count + 1))


def zoom_factors(count: int, hundredths: int) -> list[float]:
    """The factors of `numpy.arange(1, stop, step)` to the last bit, for on some lengths the published sizes hang on it.

    >>> zoom_factors(3, 1)
    [1.0, 1.01, 1.02]
    """
    distance = (1 + hundredths / 100) - 1
    return [1 + i * distance for i in range(count)]


@cache
def _zoom(size: int, factor: float) -> Floats:
    """The (size, size) matrix that cuts the middle out of a line and stretches it to the old length."""
    cut = math.ceil(size / factor)
    first = (size - cut) // 2
    stretched = round(cut * factor)
    matrix = np.zeros((size, size))
    for row in range(size):
        place = row + (stretched - size) // 2
        whole, rest = divmod(place * (cut - 1), max(1, stretched - 1))
        share = float(round(rest * int(_ZOOM_UNIT) / max(1, stretched - 1)))
        matrix[row, first + whole] += _ZOOM_UNIT - share
        if rest:
            matrix[row, first + whole + 1] += share
    return matrix


def _whole(weights: Floats, centre: int) -> Floats:
    """Weights as whole numbers that sum to 2**20; what rounding leaves goes to `centre`."""
    found: Floats = np.floor(weights / weights.sum() * _UNIT + 0.5)
    found[centre] += _UNIT - found.sum()
    return found


def _in_chunks(pixels: Pixels, blur: Callable[[Pixels], Floats], unit: float) -> Pixels:
    """Blur a few images at a time, so that their float64 copies stay in the cache, and truncate to bytes."""
    blurred = np.empty_like(pixels)
    step = max(1, _CHUNK_PIXELS // max(1, pixels[:1].size))
    for first in range(0, len(pixels), step):
        part = slice(first, first + step)
        blurred[part] = np.minimum(np.floor(blur(pixels[part]) / unit), 255)
    return blurred
