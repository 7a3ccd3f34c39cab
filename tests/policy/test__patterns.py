"""Patterns of names: the same answers as Python's own matcher, and none that takes for ever."""

from __future__ import annotations

import fnmatch
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixbit.cost import LayerBits
from mixbit.errors import BudgetError
from mixbit.policy import resolve_pins
from mixbit.policy._patterns import matching
from tests.support import layer, network

NAMES = ["stem", "layer1.0.conv1", "layer1.0.conv2", "layer1.10.conv1", "layer2.0.down", "Head", "a[0]", ""]
EXPRESSIONS = [
    r"layer\d\..*", r"layer1\.0\.conv[12]", r".*conv1", r"(layer1|stem).*", r"[^l].*", r"\w+", r"\w+(\.\w+){2}",
    r"layer1\.(\d+\.)?conv\d", r"(?i)head", r"stem|Head", r"^stem$", r".*\bdown", r"(?!layer).*", r"(?=l).*2",
    r"(?:a|b)\[0\]", r"(?i)[^h]EAD", r"(?i)[h-i]\w*",

    r".{2,3}", r"[p-s]tem", r"[s-z]tem", r"[^p-s]tem", r"[t-z]tem", r"s{1}tem", r".{4}",
    r".{5,}", r".*?1", r"[a-z]+[0-9]\.[^c]+conv1", r"", r"(\w+\.?)+", r"(a*)*", r"\Astem\Z",
]  # fmt: skip


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_expressions_match_as_in_python(expression: str) -> None:
    assert matching(f"re:{expression}", NAMES) == [name for name in NAMES if re.fullmatch(expression, name)]


@given(st.from_regex(r"([ab.]|\(a\|b\)|[ab]\*|\(a\+b\?\)\*|\[ab\]){0,6}", fullmatch=True), st.text("ab", max_size=7))
def test_random_expressions_match_as_in_python(expression: str, name: str) -> None:
    assert bool(matching(f"re:{expression}", [name])) == bool(re.fullmatch(expression, name))


@pytest.mark.parametrize("glob", ["layer1*", "*.conv?", "layer[12].0.*", "*", "s?em", "layer[!1]*", "*+*"])
def test_globs_match_as_in_the_standard_library(glob: str) -> None:
    assert matching(glob, NAMES) == [name for name in NAMES if fnmatch.fnmatchcase(name, glob)]


@pytest.mark.parametrize(
    "expression", [r"(.*)*!", r"(\w+\.?)+!", r"((((a*)*)*)*)*!", ".*" * 30 + "!", "(a|a|ab)*!", "(a{1,99}){1,99}!"]
)
def test_no_pattern_takes_for_ever(expression: str) -> None:
    """Each of these would keep Python's own matcher busy for years."""
    assert matching(f"re:{expression}", ["a" * 60, "layer1.0.conv1." * 8]) == []


@pytest.mark.parametrize("pattern", [r"re:(a)\1", "re:(?<=a)b", "re:(", "re:(?i:a)", "re:" + "a" * 1000])
def test_what_cannot_be_matched_is_an_error(pattern: str) -> None:
    with pytest.raises(BudgetError, match="The pin"):
        matching(pattern, NAMES)


def test_pins_by_glob() -> None:
    net = network(
        [layer("stem", "x", "y"), layer("b.conv1", "y", "z"), layer("b.conv2", "z", "u"), layer("a[0]", "u", "v")]
    )
    four = LayerBits(4, 4)
    assert resolve_pins(net, {"b.*": four}, None) == {"b.conv1": four, "b.conv2": four}
    assert resolve_pins(net, {"a[0]": four}, None) == {"a[0]": four}, "an exact name is no glob"
    with pytest.raises(BudgetError, match=r"'c\*' matches no layer.*a glob"):
        resolve_pins(net, {"c*": four})
