"""One small mistake: a few lines of one file, in other words. Its name is made of content and survives moves."""

from __future__ import annotations

import ast
import difflib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mutant:
    """`old` becomes `new` in one file.

    Args:
        file: from the repository's root: `src/mixbit/cost/_budget.py`.
        where: qualified name of the function or class around it, or the empty text at the top of a module.
        operator: what was done, as the tool calls it.
        old: whole lines of the file, without the indentation of the first.
        new: what takes their place.
        count: which of several such places within `where`, from 0.
    """

    file: str
    where: str
    operator: str
    old: str
    new: str
    count: int = 0

    @property
    def key(self) -> str:
        """The same after lines above it came or went."""
        place = f" #{self.count + 1}" if self.count else ""
        return f"{self.file} | {self.where} | {self.operator} | {self.old} -> {self.new}{place}"


def between(source: str, changed: str) -> tuple[int, str, str]:
    """(index of the first line, old lines, new lines) of the one place where two texts differ.

    >>> between("a\\nb\\nc\\n", "a\\nB\\nc\\n")
    (1, 'b', 'B')
    """
    before, after = source.splitlines(), changed.splitlines()
    codes = [
        code
        for code in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
        if code[0] != "equal"
    ]
    first, last = codes[0], codes[-1]
    return first[1], "\n".join(before[first[1] : last[2]]), "\n".join(after[first[3] : last[4]])


def scopes(source: str) -> list[str]:
    """Line (from 0) -> qualified name of the innermost function or class around it."""
    found = [""] * (source.count("\n") + 2)

    def name(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            inner = prefix
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inner = f"{prefix}.{child.name}".lstrip(".")
                found[child.lineno - 1 : child.end_lineno] = [inner] * ((child.end_lineno or 0) - child.lineno + 1)
            name(child, inner)

    name(ast.parse(source), "")
    return found


def is_legal(source: str) -> bool:
    """Whether Python can compile it; what cannot be compiled is no mistake that anybody keeps."""
    try:
        compile(source, "mutant", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return False
    return True
