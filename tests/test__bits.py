"""The home of bit-widths: legal ranges, integers, texts and messages."""

import re

import pytest

from mixbit._bits import (
    ACTIVATION_BITS,
    COMMON_BITS,
    WEIGHT_BITS,
    Side,
    check_bits,
    integer_range,
    is_binary,
    is_legal,
    option_pattern,
    read_option,
    read_product,
)
from mixbit.cost import LayerBits
from mixbit.errors import BudgetError, MixbitError


def test_the_common_bits_are_legal_on_both_sides_and_no_others_are() -> None:
    assert [bits for bits in range(-1, 40) if is_legal(bits, "weight")] == list(range(1, 9))
    assert [bits for bits in range(-1, 40) if is_legal(bits, "activation")] == list(range(1, 17))
    assert set(COMMON_BITS) == set(WEIGHT_BITS) & set(ACTIVATION_BITS)


@pytest.mark.parametrize(
    ("bits", "side", "message"),
    [
        (9, "weight", "weight_bits '9' is not legal. Legal: whole numbers 1 to 8."),
        (17, "activation", "activation_bits '17' is not legal. Legal: whole numbers 1 to 16."),
        (True, "weight", "weight_bits 'True' is not legal"),
        (2.0, "activation", "activation_bits '2.0' is not legal"),
    ],
)
def test_what_is_not_legal_is_said_with_the_legal_range(bits: object, side: Side, message: str) -> None:
    with pytest.raises(BudgetError, match=re.escape(message)):
        check_bits(bits, side, error=BudgetError)


def test_a_range_has_as_many_integers_as_its_bits_can_tell_apart() -> None:
    for bits in ACTIVATION_BITS:
        for signed in (True, False):
            low, high = integer_range(bits, signed=signed)
            assert high - low + 1 == 2**bits
            assert (low < 0) == signed
            assert is_binary(low, high) == (bits == 1 and signed)
    with pytest.raises(MixbitError, match="bits=17 is no bit-width .* 1 to 8 for weights, 1 to 16 for activations"):
        integer_range(17, signed=True)


def test_every_option_is_read_as_it_is_written() -> None:
    for weight in (*WEIGHT_BITS, None):
        for activation in (*ACTIVATION_BITS, None):
            assert read_option(str(LayerBits(weight, activation))) == (weight, activation)
    assert read_product("1x16") == (1, 16)
    assert read_product("8 x 9") == (8, 9)


@pytest.mark.parametrize("text", ["w4a8", "W4", "W4A", "W4A8 ", "W-4A8", "W4.0A8", "W٤A8", "4x8", "W4xA8", ""])
def test_other_texts_are_no_option(text: str) -> None:
    assert read_option(text) is None


@pytest.mark.parametrize("text", ["x4", "3x", "3X4", "3x4x5", "-3x4", "W3A4", "3 4", ""])
def test_other_texts_are_no_product(text: str) -> None:
    assert read_product(text) is None


def test_the_pattern_of_a_key_takes_two_digits_and_no_other_way_to_write_a_number() -> None:
    taken = [text for text in map(str, range(30)) if re.fullmatch(option_pattern(ACTIVATION_BITS), text)]
    assert taken == [str(bits) for bits in range(1, 17)]
    assert not any(re.fullmatch(option_pattern(ACTIVATION_BITS), text) for text in ("06", "+6", "6 ", "6\n", "1.0"))
