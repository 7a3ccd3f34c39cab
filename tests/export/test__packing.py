"""Packed weights: dense to the byte, in the layout that the text says, and the same integers again."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixbit.errors import ExportError
from mixbit.export._packing import PACKED_BITS, fields, pack, packed_bytes, unpack


def integers(bits: int, shape: tuple[int, ...], seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    if bits == 1:
        return random.choice(np.array([-1, 1], np.int8), shape)
    return random.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), shape).astype(np.int8)


@settings(deadline=None)
@given(st.sampled_from(PACKED_BITS), st.lists(st.integers(0, 7), min_size=1, max_size=4), st.integers(0, 99))
def test_unpack_undoes_pack(bits: int, sizes: list[int], seed: int) -> None:
    weight = integers(bits, tuple(sizes), seed)
    blobs = pack(weight, bits)
    found = unpack(blobs, bits, weight.shape)
    assert found.dtype == np.int8 and np.array_equal(found, weight)
    assert sum(blob.nbytes for blob in blobs) == packed_bytes(weight.size, bits)


@pytest.mark.parametrize("bits", PACKED_BITS)
def test_fields_add_up_to_the_bits(bits: int) -> None:
    assert sum(fields(bits)) == bits


@given(st.sampled_from(PACKED_BITS), st.integers(0, 10**9))
def test_bytes_are_those_of_the_bits_and_less_than_one_more_a_field(bits: int, count: int) -> None:
    exact = math.ceil(count * bits / 8)
    assert exact <= packed_bytes(count, bits) < exact + len(fields(bits))


def test_layout_by_hand() -> None:
    # u = q + 4 = 0, 7, 4, 5, 2, 1; low two bits 0, 3, 0, 1, 2, 1 in two bytes, so value i goes with value i + 2, i + 4.
    low, high = pack(np.array([-4, 3, 0, 1, -2, -3]), 3)
    assert low.tolist() == [0b00_10_00_00, 0b00_01_01_11]
    # The high bits are 0, 1, 1, 1, 0, 0: one byte, value i in bit i.
    assert high.tolist() == [0b001110]


@pytest.mark.parametrize("bits", [8, 0])
def test_other_bits_are_an_error(bits: int) -> None:
    with pytest.raises(ExportError, match=rf"weights of {bits} bits cannot be packed. Legal: 1 to 7"):
        pack(np.zeros(3, np.int8), bits)


def test_one_bit_holds_minus_one_and_one_alone() -> None:
    # Two bytes of eight planes: value i is in byte i % 2, bit i // 2.
    found = pack(np.array([-1, 1, 1, -1, 1, 1, 1, 1, -1]), 1)
    assert [one.tolist() for one in found] == [[0b0000_1110, 0b0000_1101]]
    with pytest.raises(ExportError, match="weights of 1 bit must be -1 or 1"):
        pack(np.array([1, 0]), 1)


@pytest.mark.parametrize("outlier", [-5, 4])
def test_integers_that_do_not_fit_are_an_error(outlier: int) -> None:
    with pytest.raises(ExportError, match=r"do not fit 3 bits. Legal: -4 to 3"):
        pack(np.array([0, outlier]), 3)


def test_blobs_of_another_count_are_an_error() -> None:
    blobs = pack(np.zeros(9, np.int8), 3)
    with pytest.raises(ExportError, match=r"blobs of \[3, 2\] bytes, legal for 20 x 3 bits is \[5, 3\]"):
        unpack(blobs, 3, (20,))
