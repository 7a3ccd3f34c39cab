"""Patterns of names, matched in time that grows with pattern times name squared, whatever the pattern.

Python's `re` tries one way after the other, so that `(.*)*!` on a name of thirty letters never ends for those who wait.
Here the parsed expression is walked with sets of positions instead (Thompson 1968): which way led there is forgotten,
and no position is looked at twice. That is exact for a whole match of everything but references back.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from typing import Any

from mixbit.errors import BudgetError

__all__ = ["matching"]

_LONGEST = 500
_CATEGORIES = {
    "CATEGORY_DIGIT": r"\d",
    "CATEGORY_NOT_DIGIT": r"\D",
    "CATEGORY_SPACE": r"\s",
    "CATEGORY_NOT_SPACE": r"\S",
    "CATEGORY_WORD": r"\w",
    "CATEGORY_NOT_WORD": r"\W",
}


def matching(pattern: str, names: Sequence[str]) -> list[str]:
    """Names that a pattern matches as a whole, in their order.

    Args:
        pattern: `re:` and a regular expression, or a glob: `*` for anything, `?` for one character, `[abc]` for one of
            several.
        names: among which to look.

    Raises:
        BudgetError: no regular expression, too long a pattern, or one that needs a reference back.

    >>> matching("block*.conv?", ["block1.conv1", "block1.conv10", "fc"])
    ['block1.conv1']
    >>> matching(r"re:(\\w+\\.?)+1", ["block1.conv1", "block1.conv2"])
    ['block1.conv1']
    """
    if len(pattern) > _LONGEST:
        raise BudgetError(f"The pin {pattern[:80]!r}... has {len(pattern)} characters. Legal: up to {_LONGEST}.")
    regular = pattern.startswith("re:")
    text = pattern.removeprefix("re:") if regular else _of_glob(pattern)
    try:
        parsed: Any = re._parser.parse(text)  # type: ignore[attr-defined]
        re.compile(text)
        ignore_case = bool(parsed.state.flags & re.IGNORECASE)
        return [name for name in names if len(name) in _Walk(name, ignore_case=ignore_case).sequence(parsed, 0)]
    except (re.error, OverflowError, RecursionError) as cause:
        raise BudgetError(f"The pin {pattern[:80]!r} is no regular expression: {cause}.") from cause
    except _Unsupported as cause:
        raise BudgetError(
            f"The pin {pattern[:80]!r} holds {cause}, which has no place in a pattern of names. Legal: characters, "
            "classes, groups, alternatives, repetitions, anchors and looking ahead; or a glob such as 'block*.conv?'."
        ) from cause


def _of_glob(pattern: str) -> str:
    """A glob as an expression; brackets are a class, all else but `*` and `?` stands for itself."""
    parts = re.split(r"(\*|\?|\[!?[^\]]+\])", pattern)
    return "".join(fnmatch.translate(part)[4:-3] if at % 2 else re.escape(part) for at, part in enumerate(parts))


class _Unsupported(Exception):
    """An operator that the walk does not know."""


class _Walk:
    """Positions of one name that parts of an expression can end at."""

    def __init__(self, name: str, *, ignore_case: bool) -> None:
        self._name, self._ignore_case = name, ignore_case
        self._known: dict[tuple[int, int], frozenset[int]] = {}

    def sequence(self, items: Any, start: int) -> frozenset[int]:
        """Where a sequence of operators can end that begins at `start`."""
        key = id(items), start
        if key not in self._known:
            ends = frozenset([start])
            for kind, value in items:
                ends = frozenset(end for at in ends for end in self._ends(str(kind), value, at))
            self._known[key] = ends
        return self._known[key]

    def _ends(self, kind: str, value: Any, at: int) -> frozenset[int]:
        if kind in ("LITERAL", "NOT_LITERAL", "ANY", "IN"):
            fits = at < len(self._name) and self._is_in(kind, value, self._name[at])
            return frozenset([at + 1] if fits else [])
        if kind == "BRANCH":
            return frozenset(end for branch in value[1] for end in self.sequence(branch, at))
        if kind == "SUBPATTERN":
            if value[1] or value[2]:
                raise _Unsupported("flags for a part")
            return self.sequence(value[3], at)
        if kind in ("MAX_REPEAT", "MIN_REPEAT"):
            return self._repeated(value[2], value[0], value[1], at)
        if kind == "AT":
            return frozenset([at] if self._is_at(str(value), at) else [])
        if kind in ("ASSERT", "ASSERT_NOT") and value[0] > 0:
            ahead = len(self.sequence(value[1], at)) > 0
            return frozenset([at] if ahead == (kind == "ASSERT") else [])
        raise _Unsupported(kind.lower().replace("_", " "))

    def _repeated(self, body: Any, least: int, most: int, start: int) -> frozenset[int]:
        """Positions only grow, so a set that no longer changes stays as it is."""
        ends = frozenset([start])
        for _ in range(least):
            after = frozenset(end for at in ends for end in self.sequence(body, at))
            if after == ends:
                break
            ends = after
        found, new = set(ends), set(ends)
        for _ in range(min(most - least, len(self._name) + 1)):
            new = {end for at in new for end in self.sequence(body, at)} - found
            if not new:
                break
            found |= new
        return frozenset(found)

    def _is_in(self, kind: str, value: Any, character: str) -> bool:
        if kind == "ANY":
            return character != "\n"
        cases = {character, character.swapcase()} if self._ignore_case else {character}
        if kind != "IN":
            same = any(ord(one) == value for one in cases)
            return same == (kind == "LITERAL")
        negated = any(str(item) == "NEGATE" for item, _ in value)
        return any(_is_one(str(item), of, one) for item, of in value for one in cases) != negated

    def _is_at(self, place: str, at: int) -> bool:
        if place in ("AT_BEGINNING", "AT_BEGINNING_STRING"):
            return at == 0
        if place in ("AT_END", "AT_END_STRING"):
            return at == len(self._name)
        if place in ("AT_BOUNDARY", "AT_NON_BOUNDARY"):
            before, after = (bool(re.match(r"\w", self._name[i : i + 1])) for i in (at - 1, at))
            return ((before and at > 0) != after) == (place == "AT_BOUNDARY")
        raise _Unsupported(place.lower())


def _is_one(item: str, of: Any, character: str) -> bool:
    """Whether a character is what one entry of a class says."""
    if item == "LITERAL":
        return bool(ord(character) == of)
    if item == "RANGE":
        return bool(of[0] <= ord(character) <= of[1])
    return item == "CATEGORY" and bool(re.match(_CATEGORIES[str(of)], character))
