"""Doctests in the running text of docstrings become code blocks on the API pages.

Griffe reads doctests under a heading `Examples:` only. mixbit's docstrings put them where they explain something, and
there their brackets would be read as links.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import griffe

FLAGS = re.compile(r"\s*# doctest: .*$")


def fenced(text: str) -> str:
    """The text with every doctest, up to the next empty line, in a ```pycon fence.

    >>> print(fenced("Twice two.\\n\\n>>> 2 * 2\\n4\\n\\nDone."))
    Twice two.
    <BLANKLINE>
    ```pycon
    >>> 2 * 2
    4
    ```
    <BLANKLINE>
    Done.
    """
    return "\n".join(_fenced(text.split("\n")))


def _fenced(lines: list[str]) -> Iterator[str]:
    inside: str | None = None
    for line in lines:
        indent = line[: len(line) - len(line.lstrip())]
        if inside is None and line.lstrip().startswith(">>> "):
            inside = indent
            yield inside + "```pycon"
        elif inside is not None and not line.strip():
            yield inside + "```"
            inside = None
        yield FLAGS.sub("", line)
    if inside is not None:
        yield inside + "```"


class DoctestFences(griffe.Extension):
    """Applies `fenced` to every docstring."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called by griffe for every object that it has read."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)
