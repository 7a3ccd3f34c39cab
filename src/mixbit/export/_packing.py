"""Weights of 1 to 7 bits as dense bytes that a few ordinary operations of a runtime take apart.

An integer `q` of `b` bits is stored as `u = q + 2^(b-1)`, of 1 bit, which is -1 or 1, as `(q + 1) / 2`, in fields of
4, 2 and 1 bits: 3 bits are a field of 2 and one of 1. Each field has its own bytes. They hold it in planes: with
`8 / f` values of `f` bits a byte and `B` bytes, byte `i` holds the values `i`, `i + B`, `i + 2B`, ..., the first in its
lowest bits. A shift and a mask of all bytes at once then give one plane, and the planes one after the other are the
values.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mixbit.errors import ExportError
from mixbit.integer.arithmetic import Array

__all__ = ["PACKED_BITS", "fields", "offset", "pack", "packed_bytes", "unpack"]

PACKED_BITS = range(1, 8)
"""Bits that are packed; 8 bits are bytes already."""


def fields(bits: int) -> tuple[int, ...]:
    """Widths of the fields of a number of `bits`, from its low end.

    >>> [fields(bits) for bits in (3, 4, 7)]
    [(2, 1), (4,), (4, 2, 1)]

    Raises:
        ExportError: `bits` is not 1 to 7.
    """
    if bits not in PACKED_BITS:
        raise ExportError(f"weights of {bits} bits cannot be packed. Legal: 1 to 7; 8 bits are bytes already.")
    return tuple(width for width in (4, 2, 1) if bits & width)


def offset(bits: int) -> int:
    """What is added to an integer of `bits` to make it non-negative."""
    return 1 << (bits - 1)


def packed_bytes(count: int, bits: int) -> int:
    """Bytes of `count` packed integers: `count * bits / 8`, each field rounded up.

    >>> packed_bytes(9, 3)                                                     # 18 bits and 9 bits
    5
    """
    return sum(_field_bytes(count, width) for width in fields(bits))


def _field_bytes(count: int, width: int) -> int:
    return -(-count * width // 8)


def pack(weight: Array, bits: int) -> tuple[Array, ...]:
    """The bytes of each field of `fields(bits)`.

    Args:
        weight: integers of `bits` bits in two's complement, any shape; taken in C order.
        bits: 1 to 7.

    Returns:
        One uint8 array `(ceil(count * width / 8),)` a field.

    Raises:
        ExportError: a weight is outside of the range, or `bits` is not 1 to 7.

    >>> [blob.tolist() for blob in pack(np.array([-4, -3, 3]), 3)]             # u = 000, 001, 111 in binary
    [[52], [4]]
    """
    widths, zero = fields(bits), offset(bits)
    u = weight.astype(np.int64).ravel() + zero
    if bits == 1:
        if not np.isin(u, (0, 2)).all():
            raise ExportError("weights of 1 bit must be -1 or 1. Lower the network again with the bits of its policy.")
        u //= 2
    if u.size and (u.min() < 0 or u.max() >= 2 * zero):
        raise ExportError(
            f"weights from {u.min() - zero} to {u.max() - zero} do not fit {bits} bits. "
            f"Legal: {-zero} to {zero - 1}. Lower the network again with the bits of its policy."
        )
    packed, low = [], 0
    for width in widths:
        packed.append(_planes((u >> low) & (2**width - 1), width))
        low += width
    return tuple(packed)


def _planes(values: Array, width: int) -> Array:
    planes, size = 8 // width, _field_bytes(values.size, width)
    padded = np.zeros(planes * size, np.uint8)
    padded[: values.size] = values
    shifts = np.arange(planes, dtype=np.uint8)[:, None] * width
    found: Array = np.bitwise_or.reduce(padded.reshape(planes, size) << shifts, axis=0)
    return found.astype(np.uint8)


def unpack(blobs: Sequence[Array], bits: int, shape: tuple[int, ...]) -> Array:
    """What `pack` packed, int8 of `shape`.

    >>> unpack(pack(np.array([[-4, -3, 3]]), 3), 3, (1, 3)).tolist()
    [[-4, -3, 3]]

    Raises:
        ExportError: the blobs are not those of so many integers.
    """
    count = int(np.prod(shape))
    sizes = [_field_bytes(count, width) for width in fields(bits)]
    if [len(blob) for blob in blobs] != sizes:
        raise ExportError(
            f"blobs of {[len(blob) for blob in blobs]} bytes, legal for {count} x {bits} bits is {sizes}."
        )
    u, low = np.zeros(count, np.int64), 0
    for blob, width in zip(blobs, fields(bits), strict=True):
        shifts = np.arange(8 // width, dtype=np.uint8)[:, None] * width
        planes = (np.asarray(blob)[None] >> shifts) & (2**width - 1)
        u |= planes.ravel()[:count].astype(np.int64) << low
        low += width
    found: Array = (u * (2 if bits == 1 else 1) - offset(bits)).astype(np.int8).reshape(shape)
    return found
