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
from mixbit._settings import Bits, Count, Part, Positive, Range, Share
from mixbit.cost import MAX_BITS, MIN_BITS
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
    *(("bits", value) for value in (4, (1,), (9,), (4.0,), (True,), "42", None, {4: 2}, ((4,),))),
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


def test_bits_are_those_of_the_cost_model() -> None:
    assert Bits.__metadata__ == (Range(least=MIN_BITS, most=MAX_BITS),)  # type: ignore[attr-defined]


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
