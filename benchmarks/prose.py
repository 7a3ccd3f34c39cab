"""The numbers in prose: one that speaks of a measurement has its key behind it, and is made from a result file.

    FIT needs 9<!-- n: arena.fit_cpu --> seconds; the two stand at 90.63 and 90.59<!-- n: tuned.level --> %.

`NUMBERS` makes the text of every key. `python benchmarks/tables.py --write` puts it in the place of what stands before
the comment: as many numbers as it has. What looks like a measurement and is none is declared, with its kind, behind the
number or once for its paragraph, list item or table, where that has no keys:

    images of 32<!-- n: given --> x 32 pixels; at most 100 draws in 20 seconds. <!-- n: all given -->

Like a measurement look: every number with a decimal point or four digits, and every number or word for one before a
unit (`UNIT`). Code, headings, links, versions and generated tables are not read. `undeclared` finds what has neither.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numbers_arena
import numbers_certification
import numbers_devices
import numbers_export
import numbers_kure
import numbers_topology

KINDS = {
    "given": "a setting, a limit, a goal, a definition or an example",
    "paper": "a number of a paper or of released code, which is named beside it",
    "exact": "follows by arithmetic from what stands on the page, or is counted",
    "held": "a bound that a test of the suite holds",
}

NUMBERS: dict[str, Callable[[], str]] = {
    **numbers_arena.NUMBERS,
    **numbers_certification.NUMBERS,
    **numbers_devices.NUMBERS,
    **numbers_export.NUMBERS,
    **numbers_kure.NUMBERS,
    **numbers_topology.NUMBERS,
}

TABLE = re.compile(r"<!-- table: \w+ -->.*?<!-- end of table -->", re.DOTALL)
CODE = re.compile(r"^( *)(```+).*?^\1\2 *$|``.+?``|`[^`]*`", re.DOTALL | re.MULTILINE)
NO_PROSE = re.compile(
    r"\]\([^)]*\)|\[(?:arXiv|doi|OpenReview)[^\]]*|^#.*?$|<!--(?! n: ).*?-->|"
    r"\d+(?:\.\d+){2,}|\b(?:Python|GCC|Runtime|ONNX|arXiv|MobileNetV\d|section)\s+\d+\.\d+|\b(?:19|20)\d\d\b(?![,.]\d)",
    re.DOTALL | re.MULTILINE,
)
COMMENT = re.compile(r"<!-- n: (?P<whole>all )?(?P<key>[\w.-]+) -->")
DIGITS = r"(?<![\w.,])(?<!\w-)(?<!\d x )[+±-]?\d+(?:,\d{3})*(?:\.\d+)?(?![\w])"
BETWEEN = r"\s*%?(?:,\s+and|,|;|\s+(?:and|or|to|against))\s+"
UNIT = (
    r"(?:%|percent|points?|[numk]?s|dB|seconds?|minutes?|hours?|times|[kMG]?i?B|bytes?|instructions?|images?|photographs?|"
    r"keywords|maps?|inputs?|graphs?|elements)(?!\w)"
)
BEFORE_UNIT = r"\s+(?:(?:CPU|wall|test|training|random|real|million|[MGT])\s+)?"
WORD = r"(?:half|a|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty)"
LOOKS_MEASURED = re.compile(
    rf"(?P<number>{DIGITS})(?P<unit>{BEFORE_UNIT}{UNIT}|\s*%|\s+of\s+(?:the\s+)?\d)?|"
    rf"(?P<words>\b(?:half\s+a|a\s+quarter\s+of\s+a|{WORD})\s+points?\b|\b(?:{WORD}|many)\s+(?:times|percent|seconds|minutes|hours)\b|"
    rf"\b(?:a|one|two|three|four)\s+(?:third|quarter|fifth|sixth|seventh|eighth|ninth|hundredth)s?\b|\b\w+fold\b(?<!\bfold)(?<!unfold))"
)
BLOCK_ENDS = re.compile(r"\n(?=[ \t]*\n|[ \t]*(?:[*-]|\d+\.) )")


@dataclass(frozen=True)
class Stray:
    """A number of a page that has no key and no kind, or a comment that fits nothing."""

    line: int
    text: str
    problem: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.text!r} {self.problem}"


def made(key: str) -> str:
    """The text of a key.

    Raises:
        ValueError: the result file lacks what it is made of.
    """
    try:
        return NUMBERS[key]()
    except (LookupError, OSError, statistics.StatisticsError, ZeroDivisionError) as error:
        why = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"<!-- n: {key} --> cannot be made ({why}). `make tables` tells what makes its file."
        ) from error


def filled(text: str, *, tell: Callable[[str], None] | None = None) -> str:
    """A page with its numbers made anew.

    Args:
        text: of the page.
        tell: takes the message of a key that cannot be made; its number stays. Without it that is an error.

    >>> NUMBERS["doctest.two"] = lambda: "90.63 and 90.59"
    >>> filled("They have 1 at 80.00 and 90.59<!-- n: doctest.two --> %.")
    'They have 1 at 90.63 and 90.59<!-- n: doctest.two --> %.'
    >>> del NUMBERS["doctest.two"]
    """
    parts, end = [], 0
    for comment in comments(text):
        if comment["key"] not in NUMBERS:
            continue
        try:
            new = made(comment["key"])
            old = _before(text[end : comment.start()], new)
            if old is None:
                behind = text[: comment.start()][-30:]
                raise ValueError(f"<!-- n: {comment['key']} --> makes {new!r}, and stands behind {behind!r}.")
        except ValueError as error:
            if tell is None:
                raise
            tell(f"line {_line(text, comment.start())}: {error}")
            continue
        same = " ".join(old.split()) == new
        parts += [text[end : comment.start() - len(old)], old if same else new, comment[0]]
        end = comment.end()
    return "".join([*parts, text[end:]])


def comments(text: str) -> Iterator[re.Match[str]]:
    """All keys and kinds of a page, without those that are shown as code."""
    return COMMENT.finditer(_blank(text, CODE))


def keys(text: str) -> set[str]:
    """The keys on a page."""
    return {comment["key"] for comment in comments(text)} - set(KINDS)


def undeclared(text: str) -> list[Stray]:
    """What looks like a measurement and has no key and no kind, and comments that fit nothing.

    >>> page = "It takes 9.5 s on 2 cores, half a point<!-- n: given --> more; 3<!-- n: guess --> maps"
    >>> for stray in undeclared(page):
    ...     print(stray)
    line 1: '<!-- n: guess -->' is no key of benchmarks/prose.py and no kind (given, paper, exact, held).
    line 1: '9.5 s' has no key: give it one of benchmarks/prose.py, or its kind (given, paper, exact, held).
    """
    kinds = ", ".join(KINDS)
    found = [
        Stray(_line(text, comment.start()), comment[0], f"is no key of benchmarks/prose.py and no kind ({kinds}).")
        for comment in comments(text)
        if comment["key"] not in NUMBERS and comment["key"] not in KINDS
    ]
    found += [
        Stray(_line(text, comment.start()), comment[0], "is of a block with keys: give each number its kind.")
        for comment in comments(text)
        if comment["whole"] and keys(text[_block(text, comment.start()) : comment.start()])
    ]
    rest = _blank(_declared(text), TABLE, CODE, NO_PROSE, COMMENT)
    for match in LOOKS_MEASURED.finditer(rest):
        if match["words"] or match["unit"] or re.search(r"\d[.,]\d|^\d{4,}$", match["number"]):
            problem = f"has no key: give it one of benchmarks/prose.py, or its kind ({kinds})."
            found.append(Stray(_line(text, match.start()), " ".join(match[0].split()), problem))
    return sorted(found, key=lambda stray: stray.line)


def _declared(text: str) -> str:
    """Without what has a key or a kind."""
    for comment in comments(text):
        end = comment.start()
        if comment["whole"]:
            start = _block(text, end)
        else:
            new = made(comment["key"]) if comment["key"] in NUMBERS else "0"
            start = end - len(_before(text[:end], new) or _last_word(text[:end]))
        text = text[:start] + re.sub(r"[^\n]", "_", text[start:end]) + text[end:]
    return text


def _block(text: str, end: int) -> int:
    """Where the paragraph, list item or table begins that reaches to a place."""
    return max((one.end() for one in BLOCK_ENDS.finditer(text, 0, end)), default=0)


def _last_word(text: str) -> str:
    """Such as the unit of a number that is a word."""
    return text[len(text.rstrip("%").rstrip()) :] or text[text.rfind(" ") + 1 :]


def _before(text: str, new: str) -> str | None:
    """The end of a text that has as many numbers as `new`."""
    count = len(re.findall(DIGITS, new))
    old = re.search(rf"{DIGITS}(?:{BETWEEN}{DIGITS}){{{count - 1}}}$", text)
    return old[0] if old else None


def _blank(text: str, *patterns: re.Pattern[str]) -> str:
    """With spaces for what a pattern finds, so that places stay."""
    for pattern in patterns:
        text = pattern.sub(lambda match: _spaces(match[0]), text)
    return text


def _spaces(text: str) -> str:
    return re.sub(r"[^\n]", " ", text)


def _line(text: str, place: int) -> int:
    return text.count("\n", 0, place) + 1
