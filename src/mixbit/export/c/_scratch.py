"""Bytes that a kernel needs beside its input and its result. They must agree with the C sources."""

from __future__ import annotations

from mixbit.export.c._options import Kernels

GROUP = 16
"""Inputs to which the columns of the `dsp` kernels are rounded up."""
POINTER = 4
"""Bytes of a pointer on the cores that have the `dsp` kernels."""


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
        return POINTER * taps + wide * (taps + 1 + (0 if direct else taps))
    return taps


def linear(kernels: Kernels, *, features: int, direct: bool) -> int:
    """`mixbit_linear`: the gathered features, unless they lie side by side.

    `dsp`: a column as bytes, and as 16-bit pairs.
    """
    if kernels == "dsp":
        return 3 * _padded(features)
    return 0 if direct else features


def cmsis_conv(*, kernel: tuple[int, int], channels: int) -> int:
    """CMSIS-NN's `arm_convolve_s8`, with and without the DSP extension: two columns of int16, each a multiple of four.

    >>> cmsis_conv(kernel=(3, 3), channels=3)
    112
    """
    return 4 * (-(-kernel[0] * kernel[1] * channels // 4) * 4)


def cmsis_depthwise(*, kernel: tuple[int, int], channels: int, padding: tuple[int, int]) -> int:
    """CMSIS-NN's `arm_depthwise_conv_wrapper_s8` for one output a channel: a place as int16, but none for 3x3.

    >>> [cmsis_depthwise(kernel=(size, size), channels=8, padding=(1, 1)) for size in (3, 5)]
    [0, 400]
    """
    return 0 if kernel == (3, 3) and max(padding) <= 1 else 2 * kernel[0] * kernel[1] * channels


def _padded(length: int) -> int:
    return -(-length // GROUP) * GROUP
