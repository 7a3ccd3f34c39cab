"""Settings are checked by their annotations, wherever they come from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixbit import _settings
from mixbit._bits import COMMON_BITS
from mixbit._settings import Amount, Bits, Count, Epochs, NotNegative, Part, Positive, Range, Seed, Share, Side, fits
from mixbit.errors import DataError, MixbitError


@dataclass(frozen=True, kw_only=True)
class Example:
    """One field of every kind."""

    images: Count = 8
    rate: Positive = 0.1
    share: Share | None = None
    rule: Literal["mse", "minmax"] = "mse"
    bits: tuple[Bits, ...] = (4, 2)
    clamp: tuple[float, float] | None = None
    on: bool = False
    name: str = ""

    def __post_init__(self) -> None:
        _settings.check(self)


LEGAL: list[dict[str, Any]] = [
    {"images": 1, "rate": 1, "share": 0, "rule": "minmax"},
    {"images": np.int64(3), "rate": np.float32(0.5)},
    {"bits": (), "clamp": (0, 1.5), "on": True, "name": "x"},
    {"share": None, "clamp": None},
]
ILLEGAL: list[tuple[str, Any]] = [
    *(("images", value) for value in (0, -1, 1.0, 1.5, True, "8", None, math.nan, 10**24, 10**5000, [], {})),
    *(("rate", value) for value in (0, -0.1, math.nan, math.inf, -math.inf, 10**400, True, "0.1", None, [0.1])),
    *(("share", value) for value in (-0.1, 1.1, math.nan, "half")),
    *(("rule", value) for value in ("mean", "", None, 0, ["mse"])),
    *(("bits", value) for value in (4, (0,), (9,), (4.0,), (True,), "42", None, {4: 2}, ((4,),))),
    *(("clamp", value) for value in ((1.0,), (1.0, 2.0, 3.0), (math.nan, 1.0), 1.0, (1, "x"))),
    *(("on", value) for value in (0, 1, "true", None, [])),
    *(("name", value) for value in (0, None, b"x", ["x"])),
]


@pytest.mark.parametrize("given", LEGAL)
def test_what_the_annotation_allows(given: dict[str, Any]) -> None:
    for name, value in given.items():
        assert getattr(Example(**given), name) == value


@pytest.mark.parametrize(
    ("name", "value"), ILLEGAL, ids=(f"{name}-{number}" for number, (name, _) in enumerate(ILLEGAL))
)
def test_what_it_does_not_allow_is_one_error_from_python_and_from_a_file(name: str, value: Any) -> None:
    with pytest.raises(MixbitError, match=f"^{name}=.* is illegal.* Legal: "):
        Example(**{name: value})
    as_json = list(value) if isinstance(value, tuple) else value
    with pytest.raises(MixbitError, match=f"^the run: {name}=.* is illegal.* Legal: "):
        _settings.read(Example, {name: as_json}, room="the run")


def test_lists_stand_for_tuples_in_files_alone() -> None:
    assert _settings.read(Example, {"bits": [8, 2], "clamp": [0, 1]}, room="x") == Example(bits=(8, 2), clamp=(0, 1))
    with pytest.raises(MixbitError, match="bits="):
        Example(bits=[8, 2])  # type: ignore[arg-type]


@pytest.mark.parametrize("values", [[], None, 5, "x", [["images", 1]]])
def test_settings_are_an_object(values: object) -> None:
    with pytest.raises(MixbitError, match="are no settings. Legal: an object"):
        _settings.read(Example, values, room="the run")


def test_unknown_settings_offer_the_nearest() -> None:
    with pytest.raises(MixbitError, match="the run has no setting 'image'. Did you mean 'images'. Legal: images, rate"):
        _settings.read(Example, {"image": 1}, room="the run")


def test_nearest_word_is_offered_for_values() -> None:
    with pytest.raises(MixbitError, match="Did you mean 'minmax'"):
        Example(rule="minmx")  # type: ignore[arg-type]


@given(st.floats() | st.integers() | st.booleans() | st.none() | st.text(max_size=3))
def test_a_share_is_a_finite_number_from_0_to_1(value: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    assert _settings.fits(Share, value) == (number and 0 <= value <= 1)
    assert _settings.fits(Part, value) == (number and 0 < value <= 1)


def test_bits_are_those_that_weights_and_activations_share() -> None:
    assert Bits.__metadata__ == (Range(least=COMMON_BITS[0], most=COMMON_BITS[-1]),)  # type: ignore[attr-defined]


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 5000, '{"a":' * 50_000])
def test_values_that_no_reader_takes(text: str) -> None:
    with pytest.raises(MixbitError, match="nested too deeply, or a whole number of thousands of digits"):
        _settings.read_value(text)


@pytest.mark.parametrize("pairs", [["a"], ["=1"], ["a=1", "a=2"], [""]])
def test_pairs_are_given_once(pairs: list[str]) -> None:
    with pytest.raises(DataError, match="it: cannot read .* as key=value"):
        _settings.read_pairs(pairs, where="it", form="key=value", error=DataError)


def load(*, size: Count = 1, crop: Part = 1.0, mean: Sequence[float] = (), part: str = "") -> None:
    """Something that takes options."""


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("size", text) for text in ("x", "1.5", "9" * 5000, "0")),
        *(("crop", text) for text in ("nan", "1e999")),
        *(("mean", text) for text in ("nan,0", "", "a", "1,,")),
    ],
)
def test_typed_options_are_checked_by_the_functions_annotations(name: str, text: str) -> None:
    with pytest.raises(DataError, match=f"it: {name} is .*; it must be a "):
        _settings.read_options(load, {name: text}, where="it", error=DataError)


def test_text_stays_text() -> None:
    assert _settings.read_options(load, {"part": "1e3"}, where="it", error=DataError) == {"part": "1e3"}


@pytest.mark.parametrize(
    ("bounds", "inside", "outside", "words"),
    [
        (Range(least=1), [1, 2, 1e9], [0, 0.999, -1], "from 1 up"),
        (Range(least=0, most=1), [0, 0.5, 1], [-0.001, 1.001], "from 0 to 1"),
        (Range(above=0), [1e-9, 5], [0, -1], "above 0"),
        (Range(above=0, most=1), [0.1, 1], [0, 1.001], "above 0, at most 1"),
        (Range(above=0, below=1), [0.1, 0.999], [0, 1], "above 0, below 1"),
        (Range(least=1, below=2), [1, 1.5], [0.5, 2, 3], "from 1 up, below 2"),
        (Range(), [-1e9, 0, 1e9], [], ""),
    ],
)
def test_bounds_hold_to_the_number_and_are_told(
    bounds: Range, inside: list[float], outside: list[float], words: str
) -> None:
    assert [bounds.holds(value) for value in inside] == [True] * len(inside)
    assert [bounds.holds(value) for value in outside] == [False] * len(outside)
    assert bounds.words() == words


def test_the_kinds_that_settings_share() -> None:
    """Each at its two ends, and one beyond."""
    ends: list[tuple[Any, int, int]] = [
        (Count, 1, 10**9), (Amount, 0, 10**9), (Epochs, 1, 10**6), (Seed, 0, 2**63 - 1), (Side, 1, 4096), (Bits, 1, 8),
    ]  # fmt: skip
    for kind, least, most in ends:
        assert fits(kind, least) and fits(kind, most) and not fits(kind, least - 1) and not fits(kind, most + 1)
    assert fits(Share, 0) and fits(Share, 1) and not fits(Share, 1.01) and not fits(Share, -0.01)
    assert fits(Part, 1) and not fits(Part, 0) and fits(NotNegative, 0) and not fits(Positive, 0)
    assert fits(int, 2**63 - 1) and not fits(int, 2**63) and not fits(int, -(2**63))


def test_whole_numbers_that_were_typed_stay_whole() -> None:
    def load(*, size: Count = 1, rate: float = 0.0, sizes: tuple[Count, ...] = ()) -> None: ...

    texts = {"size": "16", "rate": "3", "sizes": "1,2"}
    found = _settings.read_options(load, texts, where="it", error=MixbitError)
    assert found == {"size": 16, "rate": 3, "sizes": (1, 2)} and isinstance(found["size"], int)
    with pytest.raises(MixbitError, match="size is '1.5'; it must be a whole number from 1 to"):
        _settings.read_options(load, {"size": "1.5"}, where="it", error=MixbitError)
