"""Bytes that a kernel needs beside its input and its result. They must agree with the C sources."""

from __future__ import annotations

from mixbit.export.c._options import Kernels

GROUP = 16
"""Inputs to which the columns of the `dsp` kernels are rounded up."""


def conv(
    kernels: Kernels,
    *,
    kernel: tuple[int, int],
    channels: int,
    direct: bool,
) -> int:
    """`mixbit_conv`: a column of one place, unless the place itself is the column.

    `dsp`: two columns as bytes, and as 16-bit pairs.
    """
    length = kernel[0] * kernel[1] * channels
    if kernels == "dsp":
        return 6 * _padded(length)
    return 0 if direct else length


def depthwise(kernels: Kernels, *, taps: int, channels: int, direct: bool) -> int:
    """`mixbit_depthwise`: the unpacked taps of one channel.

    `dsp`: a pointer a tap, all unpacked weights, one place of padding, and the gathered inputs of a place unless they
    can be read where they are. Channels are those of the output, rounded up to a multiple of four.
    """
    if kernels == "dsp":
        wide = -(-channels // 4) * 4
        return 4 * taps + wide * (taps + 1 + (0 if direct else taps))
    return taps


def linear(kernels: Kernels, *, features: int, direct: bool) -> int:
    """`mixbit_linear`: the gathered features, unless they lie side by side.

    `dsp`: a column as bytes, and as 16-bit pairs.
    """
    if kernels == "dsp":
        return 3 * _padded(features)
    return 0 if direct else features


def _padded(length: int) -> int:
    return -(-length // GROUP) * GROUP
