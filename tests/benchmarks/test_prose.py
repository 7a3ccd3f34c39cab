"""Numbers in prose: made from result files by their keys, and what looks measured has a key or a kind."""

from __future__ import annotations

import doctest
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import common
import intervals
import numbers_arena
import numbers_export
import prose
import tables
import tables_supernet


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {"one": "9.5", "two": "90.63 and 90.59", "whole": "1,024"}.items():
        monkeypatch.setitem(prose.NUMBERS, name, lambda text=text: text)


@pytest.mark.parametrize(
    ("page", "wanted"),
    [
        ("takes 1<!-- n: one --> s", "takes 9.5<!-- n: one --> s"),
        ("at 2 and 7.25<!-- n: one --> s", "at 2 and 9.5<!-- n: one --> s"),
        ("**1 and 2<!-- n: two --> %**", "**90.63 and 90.59<!-- n: two --> %**"),
        ("5, 1 and 2<!-- n: two --> %", "5, 90.63 and 90.59<!-- n: two --> %"),
        ("90.63 and\n90.59<!-- n: two --> %", "90.63 and\n90.59<!-- n: two --> %"),
        ("(12,345<!-- n: whole --> of 2<!-- n: one -->)", "(1,024<!-- n: whole --> of 9.5<!-- n: one -->)"),
        ("| -1.5<!-- n: one --> % |", "| 9.5<!-- n: one --> % |"),
        ("`1<!-- n: one -->` 3<!-- n: given -->", "`1<!-- n: one -->` 3<!-- n: given -->"),
        ("```text\n1<!-- n: one -->\n```\n", "```text\n1<!-- n: one -->\n```\n"),
    ],
)
def test_as_many_numbers_are_replaced_as_the_key_makes(page: str, wanted: str) -> None:
    assert prose.filled(page) == wanted
    assert prose.filled(wanted) == wanted


def test_a_key_behind_no_number_is_told() -> None:
    with pytest.raises(ValueError, match="'9.5', and stands behind 'takes long'"):
        prose.filled("takes long<!-- n: one -->")
    with pytest.raises(ValueError, match=r"two --> makes '90.63 and 90.59'"):
        prose.filled("takes 4<!-- n: two -->")


def test_a_number_that_no_file_has_any_more_stays_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(prose.NUMBERS, "gone", lambda: str(common.row([], bits=4)))
    page, said = "a\n1<!-- n: gone --> s, 2<!-- n: one --> s", list[str]()
    assert prose.filled(page, tell=said.append) == "a\n1<!-- n: gone --> s, 9.5<!-- n: one --> s"
    assert said == [
        "line 2: <!-- n: gone --> cannot be made (LookupError: 0 rows have {'bits': 4}; one is asked for.). "
        "`make tables` tells what makes its file."
    ]
    with pytest.raises(ValueError, match="gone --> cannot be made"):
        prose.filled(page)


@pytest.mark.parametrize(
    "text",
    [
        "9.5", "1,024", "4096", "3 %", "3 points", "3 CPU seconds", "12 ms", "2 kB", "44 million instructions",
        "500 test images", "100 images", "3 times", "half a point", "four points", "three times", "ten percent",
        "+0.6", "89%", "2 GB", "7 B", "5 dB", "2.5",
    ],
)  # fmt: skip
def test_what_looks_measured(text: str) -> None:
    found = prose.undeclared(f"First.\n\n* It is\n  {text} here.\n")
    assert [(stray.line, "given" in str(stray)) for stray in found] == [(4, True)]
    assert prose.undeclared(f"It is {text} here. <!-- n: all given -->\n\nThen.") == []


@pytest.mark.parametrize(
    "text",
    [
        "8 bits", "20 layers", "ResNet-18 maps", "W4A4", "seed 0", "`9.5 s`", "## 3 points\n", "version 2.6.1",
        "in 2024.", "[x](a-1.5.md)", "<!-- 9.5 s -->", "```text\n9.5 s\n```\n", "[arXiv:2203.08368](https://a.b)",
        "Python 3.11", "images of 32 x 32 pixels", "MobileNetV1 0.25", "GCC 12.2", "3rd",
        "<!-- table: t -->\n9.5 s\n<!-- end of table -->",
    ],
)  # fmt: skip
def test_what_does_not(text: str) -> None:
    assert prose.undeclared(text) == []


def test_a_kind_is_of_its_number_or_of_its_block_alone() -> None:
    page = "1.5<!-- n: paper --> and 2.5\n\n* 3.5 and 4.5 <!-- n: all exact -->\n* 5.5\n\n"
    page += "| 6.5 |\n| 7.5 |\n<!-- n: all held -->\n"
    assert [stray.text for stray in prose.undeclared(page)] == ["2.5", "5.5"]
    assert [stray.text for stray in prose.undeclared("9.5<!-- n: one --> s and 3.5 s")] == ["3.5 s"]


def test_a_block_with_keys_has_a_kind_for_each_number() -> None:
    page = "9.5<!-- n: one --> s of 3 s <!-- n: all given -->\n\n9.5<!-- n: one --> s of 3<!-- n: given --> s\n"
    (stray,) = prose.undeclared(page)
    assert (stray.line, stray.text) == (1, "<!-- n: all given -->") and "block with keys" in stray.problem


def test_an_unknown_key_is_told() -> None:
    (stray,) = prose.undeclared("it takes\n9<!-- n: nothing --> s")
    assert (stray.line, stray.text) == (2, "<!-- n: nothing -->") and "no key" in stray.problem


def test_strays_name_page_line_and_number_and_keys_that_no_page_asks_for(tmp_path: Path) -> None:
    for name, text in {"a.md": "9.5<!-- n: one --> s", "b.md": "It takes\n8.5 s"}.items():
        (tmp_path / name).write_text(text)
    found = tables.strays(sorted(tmp_path.glob("*.md")))
    assert [line for line in found if "b.md" in line or "a.md" in line] == [
        f"{tmp_path / 'b.md'}, line 2: '8.5 s' has no key: give it one of benchmarks/prose.py, "
        "or its kind (given, paper, exact, held)."
    ]
    unused = {line.removesuffix(".").rpartition(" ")[2] for line in found if "no page asks for" in line}
    assert {"two", "whole"} <= unused and "one" not in unused


def test_all_kinds_can_be_given_and_none_is_a_key() -> None:
    assert not set(prose.KINDS) & set(prose.NUMBERS)
    assert all(prose.undeclared(f"3 %<!-- n: {kind} -->") == [] for kind in prose.KINDS)


def test_every_key_makes_numbers_alone() -> None:
    for key, make in prose.NUMBERS.items():
        text = make()
        assert prose._before(f"behind {text}", text) == text, (key, text)


@pytest.mark.parametrize("module", [common, intervals, numbers_arena, numbers_export, prose, tables_supernet])
def test_doctests(module: object) -> None:
    found = doctest.testmod(module)  # type: ignore[arg-type]
    assert found.attempted and not found.failed
