"""Weights as bit fields."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixbit.errors import ExportError
from mixbit.export.c.packing import BITS, pack_fields, pack_rows, row_bytes, unpack_fields


@given(st.integers(1, 8), st.integers(0, 70), st.integers(0, 9))
def test_what_is_packed_comes_back(bits: int, count: int, seed: int) -> None:
    half = 2 ** (bits - 1)
    values = np.random.default_rng(seed).integers(-half, half, count) * (2 if bits == 1 else 1) + (bits == 1)
    packed = pack_fields(values, bits)
    assert len(packed) == -(-count * bits // 8)
    assert np.array_equal(unpack_fields(packed, count, bits), values)


@pytest.mark.parametrize(
    ("bits", "values", "wanted"),
    [
        (1, [1, -1, -1, 1, 1, 1, 1, 1, -1], [0b00000110, 0b1]),
        (2, [0, 1, -2, -1, 1], [0b11_10_01_00, 0b01]),
        (3, [1, 2, 3, -4], [0b11_010_001, 0b100_0]),
        (4, [1, -8, 7], [0b1000_0001, 0b0111]),
        (5, [1, -1], [0b111_00001, 0b11]),
        (8, [-1, 2], [255, 2]),
    ],
)
def test_low_bits_come_first(bits: int, values: list[int], wanted: list[int]) -> None:
    assert pack_fields(np.array(values), bits).tolist() == wanted


def test_every_row_begins_at_a_byte_or_a_word() -> None:
    weight = np.random.default_rng(0).integers(-4, 4, (5, 9))
    for alignment, wide in ((1, 4), (4, 4)):
        rows = pack_rows(weight, 3, alignment=alignment)
        assert rows.shape == (5, wide)
        assert all(np.array_equal(unpack_fields(row, 9, 3), wanted) for row, wanted in zip(rows, weight, strict=True))
    assert [row_bytes(27, 4, alignment) for alignment in (1, 2, 4)] == [14, 14, 16]


@pytest.mark.parametrize(("bits", "value"), [(2, 2), (2, -3), (4, 8), (8, -129)])
def test_what_does_not_fit_is_refused(bits: int, value: int) -> None:
    with pytest.raises(ExportError, match=f"do not fit {bits} bits. Legal: {-(2 ** (bits - 1))} to"):
        pack_fields(np.array([0, value]), bits)


@pytest.mark.parametrize("bits", [0, 9])
def test_other_bits_are_refused(bits: int) -> None:
    assert bits not in BITS
    with pytest.raises(ExportError, match="Legal: 1 to 8"):
        pack_fields(np.zeros(3), bits)


@pytest.mark.parametrize("value", [0, 2, -2])
def test_one_bit_holds_minus_one_and_one_alone(value: int) -> None:
    with pytest.raises(ExportError, match="integers of 1 bit must be -1 or 1"):
        pack_fields(np.array([1, value, -1]), 1)
