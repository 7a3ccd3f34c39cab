"""What a file, a setting or a name may hold that nobody meant: the material of the malformed cases."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from typing import Any

FILES: dict[str, bytes] = {
    "empty": b"",
    "zero bytes": b"\0" * 100,
    "not utf-8": b"\xff\xfe{}",
    "byte order mark": b"\xef\xbb\xbf{}",
    "list": b"[]",
    "number": b"3",
    "text": b'"x"',
    "null": b"null",
    "true": b"true",
    "object": b"{}",
    "nan": b"NaN",
    "infinite": b'{"format": 1e999}',
    "deep list": b"[" * 100_000 + b"]" * 100_000,
    "deep object": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "digits": b"1" * 5000,
    "digits inside": b'{"format": ' + b"7" * 5000 + b"}",
    "key twice": b'{"format": "a", "format": "b"}',
    "surrogate": b'{"format": "\\ud800"}',
    "cut off": b'{"format": "mixbit-pol',
    "program": b"\x7fELF" + bytes(range(200)),
    "control characters": b'{"format": "a\\n\\u001b[31m"}',
    "long key": json.dumps({"k" * 100_000: 1}).encode(),
}
"""Contents that no reader takes."""

VALUES: dict[str, str] = {
    "text": "x",
    "nothing": "",
    "null": "null",
    "not a number": "NaN",
    "nan": "nan",
    "infinity": "Infinity",
    "beyond float": "1e400",
    "digits": "9" * 5000,
    "list": "[1]",
    "empty list": "[]",
    "object": "{}",
    "brace": "{",
    "deep": "[" * 100_000,
}
"""Texts that no number and no word takes."""


@dataclass(frozen=True)
class Change:
    """A copy of a document of the base runs with one value replaced or dropped."""

    document: str
    path: tuple[str | int, ...]
    to: Any = None
    drop: bool = False

    def text(self, documents: dict[str, Any]) -> bytes:
        """The file; the value `LAYER` in the path is the first layer's name, `DIGITS` stands for a huge number."""
        content = copy.deepcopy(documents[self.document])
        inner = content
        path = [next(iter(documents["scores"]["layers"])) if part == "LAYER" else part for part in self.path]
        for part in path[:-1]:
            inner = inner[part]
        if self.drop:
            del inner[path[-1]]
        else:
            inner[path[-1]] = self.to
        return json.dumps(content).encode().replace(b'"DIGITS"', b"9" * 5000)


def changed(document: str, *path: str | int, to: Any = None, drop: bool = False) -> Change:
    """Shorter to write in a table."""
    return Change(document, path, to, drop)
