"""From what was typed to arguments; each mistake is an error that shows the right form."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mixbit._settings import read_pairs, read_value
from mixbit.errors import BudgetError, MixbitError, shown

if TYPE_CHECKING:
    from mixbit.cost import LayerBits


Value = TypeVar("Value")
_WHOLE = r"\d{1,18}"
"""Digits of a whole number below 2^63."""


def shape(text: str) -> tuple[int, ...]:
    """Sizes with x between."""
    if re.fullmatch(rf"{_WHOLE}(x{_WHOLE})*", text) is None or "0" in text.split("x"):
        raise MixbitError(
            f"--input {shown(text)} is no shape. Write sizes from 1 up with x between, without the batch: 3x32x32."
        )
    return tuple(int(part) for part in text.split("x"))


def bit_list(text: str) -> tuple[int, ...]:
    """Bit-widths with commas between."""
    return numbers("--bits", text, like="2,3,4,5,6")


def names(text: str) -> list[str]:
    """Methods or attacks between commas, but for the commas within a list: `limpq?bits=[4,2],fit`.

    No name begins with a digit: the 2 of `limpq?bits=4,2` stays with it, whose error then says how lists are written.
    """
    return [one for one in re.split(r",(?![^\[]*\])(?!\s*\d)", text) if one]


def seeds(text: str) -> tuple[int, ...]:
    """Numbers with commas between, each once."""
    return numbers("--seeds", text)


def numbers(option: str, text: str, *, like: str = "0,1,2") -> tuple[int, ...]:
    """Each once, in the order given."""
    if re.fullmatch(rf"{_WHOLE}(,{_WHOLE})*", text) is None:
        raise MixbitError(f"{option} {shown(text)} is no list of numbers. Write whole numbers with commas: {like}.")
    return tuple(dict.fromkeys(int(part) for part in text.split(",")))


def fractions(option: str, text: str) -> tuple[float, ...]:
    """Numbers with commas between, in decimals or as a fraction, each once: `0.01,8/255`."""
    found = []
    for part in text.split(","):
        try:
            found.append(float(Fraction("".join(part.split()))))
        except (ValueError, ZeroDivisionError, OverflowError):
            raise MixbitError(
                f"{option} {shown(text)} is no list of numbers. Write decimals or fractions with commas: 0.01,8/255."
            ) from None
    return tuple(dict.fromkeys(found))


def once(option: str, pairs: Iterable[tuple[str, Value]]) -> dict[str, Value]:
    """By name; a name that is given twice is an error, for one of the two would be lost."""
    found: dict[str, Value] = {}
    for name, value in pairs:
        if name in found:
            raise MixbitError(f"{option} {shown(name)} is given twice. Give it once.")
        found[name] = value
    return found


def word_list(text: str) -> tuple[str, ...]:
    """Words with commas between, each once."""
    return tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def named_file(text: str) -> tuple[str, Path]:
    """Read `NAME=FILE` into a name and a path."""
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise MixbitError(f"--policy {shown(text)} is no named policy. Write NAME=FILE: mct=policies/mct.json.")
    return name, Path(path)


def pin(text: str) -> tuple[str, LayerBits]:
    """`NAME=W8A8`; a regular expression may hold `=` itself, so the last one counts."""
    name, equals, what = text.rpartition("=")
    if not equals or not name:
        raise BudgetError(
            f"--pin {shown(text)} is no pin. Write NAME=W8A8, or re:PATTERN=W8A8 for all layers that match."
        )
    return name, bits(what)


def bits(text: str) -> LayerBits:
    """`W8A8`; 32 is float32."""
    from mixbit._bits import read_option
    from mixbit.cost import LayerBits

    found = read_option(text)
    if found is None:
        raise BudgetError(f"{shown(text)} are no bits. Write W8A8: weight bits, then activation bits; 32 is float32.")
    return LayerBits(*found)


def pair(text: str) -> LayerBits:
    """`4x8`, weight bits and activation bits of a uniform network; or `W4A8`."""
    from mixbit._bits import read_option, read_product
    from mixbit.cost import LayerBits

    found = read_product(text) or read_option(text)
    if found is None:
        raise MixbitError(f"--bits {shown(text)} are no bits. Write weight bits, x, activation bits: 4x4.")
    return LayerBits(*found)


def edges(text: str) -> LayerBits | None:
    """Bits of the first and the last layer; None for `free`."""
    return None if text == "free" else bits(text)


def settings(given: Mapping[str, Any], extra: Sequence[str] | None) -> dict[str, Any]:
    """Options that were given, and `--set` pairs; a value is JSON, or else text."""
    found = {key: value for key, value in given.items() if value is not None}
    for key, value in read_pairs(extra or (), where="--set", form="--set key=value").items():
        if key in found:
            raise MixbitError(f"--set {shown(f'{key}={value}')}: {key} is given by its own option already. Give one.")
        found[key] = read_value(value)
    return found
