"""Weights as rows of bit fields, low bits first, as the C kernels read them.

A field of 1 bit holds 0 for the integer 1 and 1 for the integer -1: in two's complement it is `(w - 1) / 2`.
"""

from __future__ import annotations

import numpy as np

from mixbit._bits import WEIGHT_BITS, describe_bits
from mixbit.errors import ExportError
from mixbit.integer.arithmetic import Array

__all__ = ["BITS", "pack_fields", "pack_rows", "row_bytes", "unpack_fields"]

BITS = WEIGHT_BITS
"""Bits of a field."""


def row_bytes(count: int, bits: int, alignment: int = 1) -> int:
    """Bytes of a row of `count` fields, rounded up to whole bytes and then to `alignment`.

    >>> row_bytes(27, 4), row_bytes(27, 4, 4), row_bytes(9, 3)
    (14, 16, 4)
    """
    whole = -(-count * bits // 8)
    return -(-whole // alignment) * alignment


def pack_fields(values: Array, bits: int) -> Array:
    """Integers as one stream of two's complement fields, the first in the lowest bits of the first byte.

    Args:
        values: integers that fit `bits` bits, any shape; taken in C order.
        bits: 1 to 8.

    Returns:
        uint8 `(ceil(count * bits / 8),)`; the bits behind the last field are zero.

    Raises:
        ExportError: `bits` is not 1 to 8, or a value does not fit.

    >>> pack_fields(np.array([1, -1, -4]), 3).tolist()                   # 100 111 001 in binary, from the right
    [57, 1]
    """
    found: Array = _pack(np.asarray(values).reshape(1, -1), bits)[0]
    return found


def pack_rows(weight: Array, bits: int, *, alignment: int = 1) -> Array:
    """Each row of a matrix on its own, rounded up to `alignment` bytes.

    Args:
        weight: integers `(rows, fields)`.
        bits: 1 to 8.
        alignment: 1 or more bytes.

    Returns:
        uint8 `(rows, row_bytes(fields, bits, alignment))`.

    Raises:
        ExportError: as `pack_fields`.

    >>> pack_rows(np.array([[1, -1, 0], [-2, 1, 1]]), 2).tolist()
    [[13], [22]]
    """
    packed = _pack(weight, bits)
    wide = row_bytes(weight.shape[1], bits, alignment)
    return np.pad(packed, ((0, 0), (0, wide - packed.shape[1])))


def unpack_fields(packed: Array, count: int, bits: int) -> Array:
    """The integers of a stream, int8 `(count,)`.

    >>> unpack_fields(np.array([57, 1], np.uint8), 3, 3).tolist()
    [1, -1, -4]
    """
    digits = np.unpackbits(np.asarray(packed, np.uint8), bitorder="little")[: count * bits].reshape(count, bits)
    raw = digits.astype(np.int64) @ (1 << np.arange(bits))
    found: Array = np.where(raw >= 1 << (bits - 1), raw - (1 << bits), raw).astype(np.int8)
    return found if bits > 1 else 2 * found + 1


def _pack(rows: Array, bits: int) -> Array:
    if bits not in BITS:
        raise ExportError(f"fields of {bits} bits cannot be packed. Legal: {describe_bits(BITS)}.")
    values, half = rows.astype(np.int64), 1 << (bits - 1)
    if bits == 1:
        if not (np.abs(values) == 1).all():
            raise ExportError("integers of 1 bit must be -1 or 1. Lower the network again with the bits of its policy.")
        values = (values - 1) // 2
    if values.size and (values.min() < -half or values.max() >= half):
        raise ExportError(
            f"integers from {values.min()} to {values.max()} do not fit {bits} bits. Legal: {-half} to {half - 1}. "
            "Lower the network again with the bits of its policy."
        )
    digits = (values[..., None] >> np.arange(bits)) & 1
    found: Array = np.packbits(digits.reshape(len(rows), -1).astype(np.uint8), axis=1, bitorder="little")
    return found
