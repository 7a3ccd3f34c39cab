"""Where a source can be mistaken: the operators of cosmic-ray and our own, less the places that cannot matter.

Left out: docstrings and annotations, `__all__`, what only a type checker reads, error messages and warnings, how a
class is made (`@dataclass(slots=True)`), what only says how a thing looks (`__repr__`), and caches.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.mutants.mutant import Mutant, between, is_legal, scopes
from tests.mutants.operators import OPERATORS

# Of cosmic-ray's operators, those that make a mistake somebody could make. `a + b` -> `a << b` is none.
BINARY = ["Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul", "Mod_FloorDiv", "Pow_Mul", "RShift_LShift",
          "LShift_RShift", "BitAnd_BitOr", "BitOr_BitAnd"]  # fmt: skip
COMPARISON = ["Eq_NotEq", "NotEq_Eq", "Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt", "Lt_GtE", "GtE_Lt", "Gt_LtE", "LtE_Gt",
              "Is_IsNot", "IsNot_Is"]  # fmt: skip
OTHERS = ["AddNot", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd",
          "ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "NumberReplacer", "RemoveDecorator",
          "ZeroIterationForLoop", "ReplaceUnaryOperator_Delete_Not", "ReplaceUnaryOperator_USub_UAdd"]  # fmt: skip
COSMIC = [
    *(f"ReplaceBinaryOperator_{name}" for name in BINARY),
    *(f"ReplaceComparisonOperator_{name}" for name in COMPARISON),
    *OTHERS,
]

Position = tuple[int, int]  # line from 1, column from 0
IDLE_DECORATORS = re.compile(
    r"dataclass|cache|overload|override|final|abstractmethod|runtime_checkable|wraps|deprecated|model_validator|field_validator"
)
LARGE = 999
IDLE_FUNCTIONS = {"__repr__", "__str__", "extra_repr", "__rich_repr__"}
IDLE_KEYWORDS = {"stacklevel", "strict", "help", "rich_help_panel"}


@dataclass(frozen=True, slots=True)
class Site:
    """One change that is possible at one place; `make` does it: the whole source after it."""

    line: int
    operator: str
    make: Callable[[], str] = field(compare=False)


def sites(source: str) -> list[Site]:
    """Every legal place of a source, by line. A site may still prove illegal when it is made."""
    tree = ast.parse(source)
    idle = _idle(tree, source)
    found = [*_cosmic(source), *_ours(tree, source)]
    kept = [site for start, end, site in found if not any(a <= start and end <= b for a, b in idle)]
    return sorted(kept, key=lambda site: (site.line, site.operator))


def mutant_at(file: str, source: str, site: Site) -> Mutant | None:
    """The mutant of a site, or None where it changes nothing or cannot be compiled."""
    changed = site.make()
    if changed == source or not is_legal(changed) or _same_code(source, changed):
        return None
    index, old, new = between(source, changed)
    if site.operator.endswith("Mul_Div") and re.search(r"(^|[(,])\s*/\s*,", new):  # the star of a signature
        return None
    where = scopes(source)
    same = [
        at
        for at in range(index)
        if where[at] == where[index] and "\n".join(source.splitlines()[at : at + old.count("\n") + 1]) == old
    ]
    return Mutant(file, where[index], site.operator, old.strip(), new.strip(), len(same))


def apply(mutant: Mutant, source: str) -> str | None:
    """The source with the mutant in it, or None where its lines are no longer there."""
    lines, where = source.splitlines(), scopes(source)
    height = mutant.old.count("\n") + 1
    found = [
        at
        for at in range(len(lines) - height + 1)
        if "\n".join(lines[at : at + height]).strip() == mutant.old and where[at] == mutant.where
    ]
    if mutant.count >= len(found):
        return None
    at = found[mutant.count]
    indent = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
    return "\n".join([*lines[:at], indent + mutant.new, *lines[at + height :]]) + "\n"


def _same_code(source: str, changed: str) -> bool:
    return ast.dump(ast.parse(source)) == ast.dump(ast.parse(changed))


def _cosmic(source: str) -> Iterator[tuple[Position, Position, Site]]:
    """By top-level statement: the tool parses what it changes anew for every change."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.operators.provider import OperatorProvider

    provider, lines = OperatorProvider(), source.splitlines()
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Import | ast.ImportFrom | ast.Expr):
            continue
        first = min([statement.lineno, *(one.lineno for one in getattr(statement, "decorator_list", []))]) - 1
        last = statement.end_lineno or first
        part = "\n".join(lines[first:last]) + "\n"
        nodes = list(ast_nodes(get_ast(part)))
        for name in COSMIC:
            operator = provider[name]()
            places = [place for node in nodes for place in operator.mutation_positions(node)]
            for occurrence, ((start, left), (end, right)) in enumerate(places):

                def make(
                    name: str = name, part: str = part, at: int = occurrence, a: int = first, b: int = last
                ) -> str:
                    changed = mutate_code(part, provider[name](), at) or part
                    return "\n".join([*lines[:a], changed.rstrip("\n"), *lines[b:]]) + "\n"

                yield (start + first, left), (end + first, right), Site(start + first, name, make)


def _ours(tree: ast.Module, source: str) -> Iterator[tuple[Position, Position, Site]]:
    known = set(re.findall(r"[A-Za-z_]\w*", source))
    for node in ast.walk(tree):
        for operator in OPERATORS:
            for replaced, text in operator(node, known):
                start, end = _span(replaced, source)

                def make(start: Position = start, end: Position = end, text: str = text) -> str:
                    return _splice(source, start, end, text)

                yield start, end, Site(start[0], operator.__name__, make)


def _splice(source: str, start: Position, end: Position, text: str) -> str:
    lines = source.splitlines()
    head, tail = lines[start[0] - 1][: start[1]], lines[end[0] - 1][end[1] :]
    return "\n".join([*lines[: start[0] - 1], head + text + tail, *lines[end[0] :]]) + "\n"


def _span(node: ast.AST, source: str) -> tuple[Position, Position]:
    """Of a node, in characters; the tree counts bytes."""
    lines = source.splitlines()

    def place(line: int, column: int) -> Position:
        return line, len(lines[line - 1].encode()[:column].decode())

    return place(node.lineno, node.col_offset), place(node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]


def _idle(tree: ast.Module, source: str) -> list[tuple[Position, Position]]:
    """Places where a change cannot matter to a user's numbers."""
    found = [_span(node, source) for node in _idle_nodes(tree)]
    # A decorator begins at its sign and takes its line with it.
    marked = [node for node in ast.walk(tree) for node in getattr(node, "decorator_list", []) if _is_idle(node)]
    spans = [_span(node, source) for node in marked]
    return found + [((start, column - 1), (end + 1, 0)) for (start, column), (end, _) in spans]


def _is_idle(decorator: ast.AST) -> bool:
    return IDLE_DECORATORS.search(ast.unparse(decorator)) is not None


def _idle_nodes(tree: ast.Module) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _idle_of_function(node)
        elif isinstance(node, ast.AnnAssign):
            yield node.annotation
        elif isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr | ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.ExceptHandler) and node.type is not None:
            yield node.type
        elif isinstance(node, ast.Constant) and isinstance(node.value, int) and abs(node.value) > LARGE:
            yield node  # one more or less of a size is no mistake that could matter
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from node.body
            yield node.test
        elif isinstance(node, ast.Call):
            warns = ast.unparse(node.func) in ("warnings.warn", "cast", "TypeVar", "field")
            yield from ([node] if warns else [k for k in node.keywords if k.arg in IDLE_KEYWORDS])
    for statement in tree.body:  # names of types, __all__
        if isinstance(statement, ast.Assign):
            named, value = ast.unparse(statement.targets[0]), statement.value
            union = isinstance(value, ast.BinOp) and isinstance(value.op, ast.BitOr)
            if named.startswith("__") or union or isinstance(value, ast.Subscript):
                yield statement


def _idle_of_function(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[ast.AST]:
    arguments = node.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    yield from (one.annotation for one in every if one is not None and one.annotation is not None)
    if node.returns is not None:
        yield node.returns
    if node.name in IDLE_FUNCTIONS:
        yield node
