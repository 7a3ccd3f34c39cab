"""Noise on bytes by exact inversion: every pixel has 256 values, so a noise is a table of transitions between them.

Row v of a table is the distribution of what a pixel of value v becomes, after clipping and truncation, on a grid of
2**-32. A pixel takes one random number of 32 bits and one look-up (Walker 1977, the alias method), where normal and
Poisson numbers take more of both. And it is the same on every machine: the random bits are those of Philox (Salmon et
al. 2011), the look-up is integer arithmetic, and the tables are made with nothing but additions, multiplications and
divisions of float64, which IEEE 754 fixes to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Words = npt.NDArray[np.uint32]

_COLUMN = 1 << 24  # of 2**32 by 256 columns
_DONE = 1 << 40
_CHUNK_PIXELS = 1 << 15  # what is worked on at once stays in a core's cache
_LEVELS = np.arange(256, dtype=np.float64)


def add_noise(kind: str, level: float, pixels: Pixels, indices: Sequence[int], stream: int) -> Pixels:
    """Noisy pixels, the shape of `pixels` (N, C, H, W); sample `indices[i]` has its own random numbers."""
    table = transitions(kind, level)
    noisy = np.empty_like(pixels)
    step = max(1, _CHUNK_PIXELS // max(1, pixels[:1].size))
    for first in range(0, len(pixels), step):
        part = slice(first, first + step)
        words = random_words(stream, indices[part], pixels[:1].size).reshape(pixels[part].shape)
        noisy[part] = _sample(table, pixels[part], words)
    return noisy


def random_words(stream: int, indices: Sequence[int], count: int) -> Words:
    """`count` random numbers of 32 bits for each index, (N, count): Philox 4x64 with key `stream`, counter `index`."""
    source = np.random.Philox(key=0)
    state: Any = source.state
    words = np.empty((len(indices), -(-count // 2)), dtype="<u8")
    for row, index in zip(words, indices, strict=True):
        # The third word of the counter: the first two count the blocks of this sample.
        state["state"] = {
            "counter": np.array([0, 0, index, 0], dtype=np.uint64),
            "key": np.array([stream, 0], np.uint64),
        }
        source.state = state
        row[:] = source.random_raw(row.size)
    return words.view("<u4")[:, :count]


def _sample(table: Words, pixels: Pixels, words: Words) -> Pixels:
    words = np.ascontiguousarray(words)
    column = words.view(np.uint8).reshape(*words.shape, 4)[..., 0]
    entry = table.take((pixels.astype(np.uint16) << 8) | column)
    # The upper 24 bits decide: below the entry's threshold the column itself, else its alias in the low byte.
    return np.where((words | 0xFF) < entry, column, entry.astype(np.uint8))


@cache
def transitions(kind: str, level: float) -> Words:
    """The alias table of a noise, (65536,): entry 256 * v + column is threshold << 8 | alias."""
    below = {"gaussian_noise": _gaussian, "shot_noise": _shot, "impulse_noise": _impulse, "speckle_noise": _speckle}
    return _alias_table(_counts(below[kind](level)))


def _gaussian(std: float) -> Floats:
    """P(result < k) of x + std * z: row v, column k - 1."""
    # It depends on k - v alone: 510 numbers instead of 65,280.
    distance = np.arange(-254, 256, dtype=np.float64)
    found: Floats = _normal_cdf(distance / (255 * std))
    return found[_distances() + 254]


def _speckle(std: float) -> Floats:
    """P(result < k) of x + x * std * z."""
    value = np.maximum(_LEVELS, 1e-9)[:, None]  # black stays black: all distances become infinite
    return _normal_cdf(_distances() / (std * value))


def _impulse(share: float) -> Floats:
    """P(result < k): black with half of `share`, white with the other half."""
    found: Floats = np.where(_distances() > 0, 1 - share / 2, share / 2)
    return found


def _shot(photons: float) -> Floats:
    """P(result < k) of Poisson(x * photons) / photons, which is below k if the count is below k * photons / 255."""
    rate = _LEVELS * photons / 255
    term = _exp_minus(rate)
    total = np.zeros(256)
    below = np.zeros((256, 255))
    count = 0
    for k in range(1, 256):
        while 255 * count < k * photons:
            total = total + term
            count += 1
            term = term * rate / count
        below[:, k - 1] = total
    return below


def _distances() -> npt.NDArray[np.int64]:
    """k - v for all v (rows) and k = 1 .. 255 (columns)."""
    found: npt.NDArray[np.int64] = np.arange(1, 256)[None, :] - np.arange(256)[:, None]
    return found


def _normal_cdf(x: Floats) -> Floats:
    """The normal distribution function by Marsaglia's series (2004): 1/2 + phi(x) (x + x^3/3 + x^5/15 + ...).

    >>> _normal_cdf(np.array([0.0, 1.0, -1.96, 40.0])).round(6).tolist()
    [0.5, 0.841345, 0.024998, 1.0]
    """
    near: Floats = np.clip(x, -7, 7)  # beyond is less than 2**-39
    square = near * near
    term = total = near
    for odd in range(3, 200, 2):
        term = term * square / odd
        total = total + term
    found: Floats = 0.5 + total * _exp_minus(square / 2) * 0.3989422804014327
    return found


def _exp_minus(x: Floats) -> Floats:
    """exp(-x) for 0 <= x < 700, to 12 digits. Not the library's: that differs from machine to machine in the last bit.

    >>> float(abs(_exp_minus(np.array([1.0])) - 0.36787944117144233)[0]) < 1e-13
    True
    """
    small = -x / 1024
    found = np.ones_like(x)
    for power in range(20, 0, -1):
        found = 1 + found * small / power
    for _ in range(10):
        found = found * found
    return found


def _counts(below: Floats) -> npt.NDArray[np.int64]:
    """Distributions as whole numbers that sum to 2**32 in every row, (256, 256), from P(result < k)."""
    edges = np.zeros((256, 257), dtype=np.int64)
    edges[:, 1:256] = np.floor(below.clip(0, 1) * 2.0**32 + 0.5).astype(np.int64)
    edges[:, 256] = 1 << 32
    return np.diff(edges, axis=1)


def _alias_table(counts: npt.NDArray[np.int64]) -> Words:
    """Walker's tables of all rows at once: the fullest column fills up the emptiest until all are level."""
    rows = np.arange(256)
    least, most = counts.copy(), counts.copy()  # what is left of each column; those that are done leave both races
    threshold, alias = np.zeros((2, 256, 256), dtype=np.int64)
    for _ in range(256):
        low, high = least.argmin(axis=1), most.argmax(axis=1)
        kept = least[rows, low]
        # A full column never looks at its alias but for the one number that 24 bits cannot say.
        alias[rows, low] = np.where(kept == _COLUMN, low, high)
        threshold[rows, low] = np.minimum(kept, _COLUMN - 1)
        least[rows, high] = most[rows, high] = most[rows, high] - (_COLUMN - kept)
        least[rows, low], most[rows, low] = _DONE, -_DONE
    return (threshold << 8 | alias).astype("<u4").ravel()
