"""How a tensor lies in a device's memory: container, offset, order of its elements."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mixbit.errors import ExportError
from mixbit.export.c.packing import pack_fields, row_bytes, unpack_fields
from mixbit.integer.arithmetic import Array, Grid
from mixbit.integer.graph import Tensor

_FARTHEST_ZERO = 1024
"""Beyond, an addition's 20 more digits would not fit int32. Zero points of real quantizers lie among the integers."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stored:
    """A tensor in memory. Its stored integer is `q - offset`, which fits a signed container of `bits`."""

    name: str
    shape: tuple[int, ...]
    grid: Grid
    bits: int
    """Bits of the container: 16, 8, 4 or 2."""
    order: Array
    """Element of the reference's tensor (channels first, C order) at each place in memory."""

    @property
    def offset(self) -> int:
        """What is taken from an integer before it is stored."""
        return offset(self.grid, self.bits)

    @property
    def zero(self) -> int:
        """The zero point as it is stored; may lie outside of the container where no padding needs it."""
        return self.grid.zero_point - self.offset

    @property
    def low(self) -> int:
        """The lowest stored integer."""
        return self.grid.qmin - self.offset

    @property
    def high(self) -> int:
        """The highest integer that is stored."""
        return self.grid.qmax - self.offset

    def holds(self, value: int) -> bool:
        """Whether a stored integer fits whole bytes: 8 bits, or 16 where the container has them."""
        half = 1 << (max(self.bits, 8) - 1)
        return -half <= value < half

    @property
    def numel(self) -> int:
        """Elements of one sample."""
        return len(self.order)

    @property
    def size_bytes(self) -> int:
        """Bytes of one sample."""
        return row_bytes(self.numel, self.bits)

    def to_bytes(self, q: Array) -> bytes:
        """Integers of one sample, of the reference's shape, as they lie in memory."""
        stored = q.reshape(-1)[self.order] - self.offset
        if self.bits == 16:
            return stored.astype("<i2").tobytes()
        return stored.astype(np.int8).tobytes() if self.bits == 8 else pack_fields(stored, self.bits).tobytes()

    def from_bytes(self, raw: bytes) -> Array:
        """The reverse, int32 of the reference's shape."""
        wide = self.bits == 16
        values = (
            np.frombuffer(raw, "<i2") if wide else unpack_fields(np.frombuffer(raw, np.uint8), self.numel, self.bits)
        )
        found = np.empty(self.numel, np.int32)
        found[self.order] = values.astype(np.int32) + self.offset
        return found.reshape(self.shape)


def offset(grid: Grid, bits: int) -> int:
    """8 and 16 bits keep the quantizer's integers where they fit; fewer move the lowest to the container's lowest."""
    if bits < 8:
        return grid.qmin + (1 << (bits - 1))
    return grid.centre


def container(grid: Grid, *, packed: bool) -> int:
    """Bits of the container of a grid."""
    return container_bits(grid.bits) if packed or grid.bits > 8 else 8


def container_bits(bits: int) -> int:
    """The narrowest container of an element of so many bits.

    >>> container_bits(3), container_bits(5)
    (4, 8)
    """
    return next((wide for wide in (2, 4, 8) if bits <= wide), 16)


def channels_last(shape: tuple[int, ...]) -> Array:
    """Element of the reference at each place in memory."""
    elements = np.arange(int(np.prod(shape))).reshape(shape)
    return np.moveaxis(elements, 0, -1).ravel()


def stored(tensor: Tensor, *, packed: bool, order: Array | None = None) -> Stored:
    """A tensor's place in memory.

    Raises:
        ExportError: its integers do not fit their container, or it is float32.
    """
    grid = tensor.grid
    if grid is None:
        raise ExportError(f"{tensor.name}: a float32 tensor in the middle of the network has no form in C.")
    found = Stored(
        name=tensor.name,
        shape=tensor.shape,
        grid=grid,
        bits=container(grid, packed=packed),
        order=channels_last(tensor.shape) if order is None else order,
    )
    if not (found.holds(found.low) and found.holds(found.high)):
        raise ExportError(
            f"{tensor.name}: integers from {grid.qmin} to {grid.qmax} do not fit {max(found.bits, 8)} bits."
        )
    if abs(found.zero) > _FARTHEST_ZERO and not (found.bits == 16 and found.holds(found.zero)):
        raise ExportError(f"{tensor.name}: the zero point {grid.zero_point} is far outside of its integers.")
    return found


def strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Elements from one index to the next of each dimension, channels last.

    >>> strides((3, 4, 5))
    (1, 15, 3)
    """
    places = [int(np.prod(shape[axis + 1 :])) * shape[0] for axis in range(1, len(shape))]
    return (1, *places)
