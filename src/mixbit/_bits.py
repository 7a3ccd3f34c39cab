"""Bit-widths: which are legal, the integers that they have, how they are written, and what an error says of them.

Weights have 1 to 8 bits, which a byte holds. Activations have 1 to 16: 16 bits are int16, beside 8-bit weights.

One bit that is signed has no zero: its two levels lie half a step below and above it, at the integers -1 and 1 of half
a step. That is `alpha * sign(x)` with `alpha = step / 2` (our completion).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, TypeAlias

from mixbit.errors import MixbitError

__all__ = [
    "ACTIVATION_BITS",
    "COMMON_BITS",
    "FLOAT_BITS",
    "WEIGHT_BITS",
    "Side",
    "check_bits",
    "describe_bits",
    "integer_range",
    "is_binary",
    "is_legal",
    "legal_bits",
    "option_pattern",
    "read_option",
    "read_product",
    "shared_bits",
]

Side: TypeAlias = Literal["weight", "activation"]

WEIGHT_BITS = range(1, 9)
ACTIVATION_BITS = range(1, 17)
COMMON_BITS = range(1, 9)
"""Legal on both sides: what a list of candidates may hold that weights and activations share."""
FLOAT_BITS = 32
"""What a tensor that is left in float32 counts as."""

_DIGITS = r"[0-9]{1,18}"


def legal_bits(side: Side) -> range:
    """Bit-widths of one side.

    >>> list(legal_bits("weight")) == list(range(1, 9)), 16 in legal_bits("activation")
    (True, True)
    """
    return WEIGHT_BITS if side == "weight" else ACTIVATION_BITS


def describe_bits(legal: range) -> str:
    """A range of bit-widths in words.

    >>> describe_bits(ACTIVATION_BITS)
    '1 to 16'
    """
    return f"{legal[0]} to {legal[-1]}"


def is_legal(bits: object, side: Side) -> bool:
    """Whether `bits` is a bit-width of that side; a bool is none.

    >>> is_legal(16, "activation"), is_legal(16, "weight"), is_legal(True, "weight")
    (True, False, False)
    """
    return isinstance(bits, int) and not isinstance(bits, bool) and bits in legal_bits(side)


def check_bits(bits: object, side: Side, *, error: type[MixbitError] = MixbitError, name: str = "") -> None:
    """Raise `error` unless `bits` is a legal bit-width of that side; `name` stands for it in the message.

    >>> check_bits(9, "weight")
    Traceback (most recent call last):
        ...
    mixbit.errors.MixbitError: weight_bits '9' is not legal. Legal: whole numbers 1 to 8.
    """
    if not is_legal(bits, side):
        said, legal = name or f"{side}_bits", describe_bits(legal_bits(side))
        raise error(f"{said} {str(bits)[:40]!r} is not legal. Legal: whole numbers {legal}.")


def integer_range(bits: int, *, signed: bool) -> tuple[int, int]:
    """Lowest and highest integer of a bit-width, in two's complement: full range if signed, from zero if not.

    One signed bit has -1 and 0 by that rule, whose levels are moved up by half a step: see `is_binary`.

    Raises:
        MixbitError: no bit-width of weights or activations.

    >>> integer_range(3, signed=True), integer_range(3, signed=False), integer_range(1, signed=True)
    ((-4, 3), (0, 7), (-1, 0))
    """
    if not is_legal(bits, "activation"):
        weights, activations = describe_bits(WEIGHT_BITS), describe_bits(ACTIVATION_BITS)
        raise MixbitError(
            f"bits={bits!r} is no bit-width that mixbit quantizes to. Legal: whole numbers {weights} for weights, "
            f"{activations} for activations."
        )
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def is_binary(qmin: float, qmax: float) -> bool:
    """Whether a range of integers is that of one signed bit: two levels, half a step below and above zero.

    >>> is_binary(*integer_range(1, signed=True)), is_binary(*integer_range(1, signed=False))
    (True, False)
    """
    return (qmin, qmax) == (-1, 0)


def shared_bits(activation_bits: Iterable[int | None]) -> int:
    """Bits of the tensors of a network that several layers, an add, a pool or the caller read, which are kept once.

    8, and 16 in a network of which any layer reads more than 8: what a sum of tensors of 8 bits has lost, no layer
    behind it gets back.

    Args:
        activation_bits: of all layers; None is float32.

    >>> shared_bits([4, 8, None]), shared_bits([4, 9])
    (8, 16)
    """
    return 16 if any(bits is not None and bits > 8 for bits in activation_bits) else 8


def read_option(text: str) -> tuple[int | None, int | None] | None:
    """Weight and activation bits of `W4A8`; 32 is float32, read as None. None where the text is not of that form.

    The numbers are as they were written: whether they are legal is for `check_bits` to say.

    >>> read_option("W1A16"), read_option("W8A32"), read_option("4x8")
    ((1, 16), (8, None), None)
    """
    found = re.fullmatch(rf"W({_DIGITS})A({_DIGITS})", text)
    if found is None:
        return None
    weight, activation = (None if int(part) == FLOAT_BITS else int(part) for part in found.groups())
    return weight, activation


def read_product(text: str) -> tuple[int, int] | None:
    """Weight and activation bits of a uniform network, `8x16`; None where the text is not of that form.

    >>> read_product("8x16"), read_product("12.2x")
    ((8, 16), None)
    """
    found = re.fullmatch(rf"({_DIGITS})\s*x\s*({_DIGITS})", text)
    return None if found is None else (int(found[1]), int(found[2]))


def option_pattern(legal: range) -> str:
    """A regular expression, without groups that count, of legal bits as text: no sign, no leading zero.

    >>> [text for text in ("1", "9", "16", "17", "06") if re.fullmatch(option_pattern(ACTIVATION_BITS), text)]
    ['1', '9', '16']
    """
    return f"(?:{'|'.join(map(str, reversed(legal)))})"
