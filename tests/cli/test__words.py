"""What is typed means what it says: texts and their values side by side, and every mistake with the right form."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mixbit.cli import _words
from mixbit.cost import LayerBits
from mixbit.errors import BudgetError, MixbitError


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (_words.shape, "3x224x112", (3, 224, 112)),
        (_words.shape, "7", (7,)),
        (_words.shape, "10x100", (10, 100)),  # a zero within a size is none
        (_words.bit_list, "4,2,8", (4, 2, 8)),  # in the order given
        (_words.bit_list, "4,4,2", (4, 2)),
        (_words.seeds, "3,0,3", (3, 0)),
        (_words.names, "limpq,fit", ["limpq", "fit"]),
        (_words.names, "limpq?bits=[4,2],fit,", ["limpq?bits=[4,2]", "fit"]),
        (_words.names, "a?x=[1,2]&y=[3,4],b?x=[5]", ["a?x=[1,2]&y=[3,4]", "b?x=[5]"]),
        (_words.names, "a?x=2,3,b?y=1", ["a?x=2,3", "b?y=1"]),
        (partial(_words.fractions, "--eps"), "0.01, 8/255,1e-3,0.01", (0.01, 8 / 255, 0.001)),
        (_words.word_list, " steps, bits ,steps,,", ("steps", "bits")),
        (_words.named_file, "mct=a=b.json", ("mct", Path("a=b.json"))),  # a path may hold =, a name not
        (_words.bits, "W3A5", LayerBits(3, 5)),
        (_words.bits, "W32A4", LayerBits(None, 4)),
        (_words.bits, "W8A32", LayerBits(8, None)),
        (_words.bits, "W32A32", LayerBits(None, None)),
        (_words.pin, "conv1=W2A7", ("conv1", LayerBits(2, 7))),
        (_words.pin, "re:(?=a|b).*=W3A4", ("re:(?=a|b).*", LayerBits(3, 4))),  # the last = counts
        (_words.pin, "re:x=*=W3A4", ("re:x=*", LayerBits(3, 4))),
    ],
)
def test_a_text_and_its_value(read: Callable[[str], Any], text: str, value: Any) -> None:
    found = read(text)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("read", "text", "form"),
    [
        (_words.shape, "3x0x8", "3x32x32"),
        (_words.shape, "3x", "3x32x32"),
        (_words.shape, "-3x8", "3x32x32"),
        (_words.shape, "", "3x32x32"),
        (_words.shape, "3x" + "9" * 19, "3x32x32"),
        (_words.bit_list, "4;3", "--bits '4;3' is no list of numbers. Write whole numbers with commas: 2,3,4,5,6."),
        (_words.bit_list, "4,,3", "2,3,4,5,6"),
        (_words.seeds, "1,-1", "--seeds '1,-1' is no list of numbers. Write whole numbers with commas: 0,1,2."),
        (_words.seeds, "", "0,1,2"),
        (_words.named_file, "=p.json", "NAME=FILE"),
        (_words.named_file, "mct=", "NAME=FILE"),
        (_words.named_file, "mct", "NAME=FILE"),
        *((partial(_words.fractions, "--eps"), text, "--eps") for text in ("", "1/0", "a", "0.1;2", "nan")),
        (_words.bits, "w3a4", "weight bits, then activation bits"),
        (_words.bits, "W3A4 ", "32 is float32"),
        (_words.bits, "W3", "Write W8A8"),
        (_words.pin, "=W8A8", "--pin '=W8A8' is no pin"),
        (_words.pin, "conv1", "NAME=W8A8"),
        (_words.pin, "conv1=8", "'8' are no bits"),
    ],
)
def test_a_mistake_shows_the_right_form(read: Callable[[str], Any], text: str, form: str) -> None:
    with pytest.raises(MixbitError) as caught:
        read(text)
    assert form in str(caught.value)
    if read in (_words.bits, _words.pin):
        assert isinstance(caught.value, BudgetError)


def test_numbers_name_their_own_option() -> None:
    assert _words.numbers("--severities", "5,1") == (5, 1)
    with pytest.raises(MixbitError, match="^--severities 'high' is no list of numbers"):
        _words.numbers("--severities", "high")


def test_a_name_is_given_once() -> None:
    pairs = [("a", 1), ("b", 2)]
    assert _words.once("--pin", pairs) == {"a": 1, "b": 2}
    with pytest.raises(MixbitError, match="^--pin 'a' is given twice. Give it once."):
        _words.once("--pin", [*pairs, ("a", 1)])


def test_settings_are_what_was_given_and_read_as_json() -> None:
    given = {"epochs": 0, "lr": None, "faithful": False, "bits": (4, 2)}
    extra = ["alpha=0.5", "norm=l2", "bits2=[4, 2]", "text=a=b", "on=true", "off=null"]
    assert _words.settings(given, extra) == {
        "epochs": 0, "faithful": False, "bits": (4, 2), "alpha": 0.5, "norm": "l2", "bits2": [4, 2], "text": "a=b",
        "on": True, "off": None,
    }  # fmt: skip
    assert _words.settings({"epochs": None}, None) == {}
    assert _words.settings({"epochs": None}, ["epochs=3"]) == {"epochs": 3}
    with pytest.raises(MixbitError, match="^--set 'epochs=3': epochs is given by its own option already. Give one."):
        _words.settings({"epochs": 3}, ["epochs=3"])
    for text in ("alpha", "=1"):
        with pytest.raises(MixbitError, match="--set: cannot read .* as --set key=value"):
            _words.settings({}, [text])
    with pytest.raises(MixbitError, match="Write each setting once"):
        _words.settings({}, ["a=1", "a=1"])
