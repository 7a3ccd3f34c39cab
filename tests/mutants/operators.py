"""Mistakes that a mutation tool does not make by itself: flags that reach nothing, sums for means, two axes swapped.

cosmic-ray turns comparisons, arithmetic, numbers, booleans and loops (`sites.py`). Each operator here is a function
from a node to the texts that could stand in its place, as (node that is replaced, text).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator

Edit = tuple[ast.AST, str]
Operator = Callable[[ast.AST, set[str]], Iterator[Edit]]

# Words that people take for each other. A name is changed only to one that its file knows.
PAIRS = [
    ("min", "max"), ("amin", "amax"), ("argmin", "argmax"), ("minimum", "maximum"), ("sum", "mean"), ("any", "all"),
    ("floor", "ceil"), ("height", "width"), ("weight", "activation"), ("weights", "activations"), ("low", "high"),
    ("lower", "upper"), ("left", "right"), ("top", "bottom"), ("first", "last"), ("first", "second"), ("start", "end"),
    ("row", "column"), ("rows", "columns"), ("old", "new"), ("before", "after"), ("source", "target"), ("mean", "std"),
    ("input", "output"), ("inputs", "outputs"), ("rank", "world"), ("partition", "rpartition"),
    ("update", "setdefault"), ("cumsum", "cumprod"), ("add_", "sub_"), ("log2", "log"), ("exp", "log"),
    ("width", "length"),
]  # fmt: skip
ALWAYS = {("min", "max"), ("amin", "amax"), ("any", "all"), ("sum", "mean"), ("partition", "rpartition")}
SWAP = {one: other for pair in reversed(PAIRS) for one, other in (pair, pair[::-1])}

# Calls that a careless hand leaves out: `x.clamp(min=0)` -> `x`, `sorted(x)` -> `list(x)`.
DROPPED_METHODS = {
    "abs",
    "clamp",
    "clamp_",
    "clip",
    "sqrt",
    "square",
    "round",
    "softmax",
    "copy",
    "clone",
    "strip",
    "detach_",
}
SYMMETRIC = {"isinstance", "issubclass", "min", "max", "suppress", "set"} | {
    f"{room}.{name}" for room in ("np", "torch") for name in ("minimum", "maximum", "allclose", "isclose")
}
DROPPED_FUNCTIONS = {
    "abs": "",
    "round": "",
    "sorted": "list",
    "reversed": "list",
    "set": "list",
    "float": "",
    "deepcopy": "",
}


def drop_keyword(node: ast.AST, _: set[str]) -> Iterator[Edit]:
    """`f(x, clip=c)` -> `f(x)`: the option reaches nothing."""
    if isinstance(node, ast.Call):
        for keyword in node.keywords:
            if keyword.arg is not None:
                kept = [other for other in node.keywords if other is not keyword]
                yield node, ast.unparse(ast.Call(node.func, node.args, kept))


def swap_arguments(node: ast.AST, _: set[str]) -> Iterator[Edit]:
    """`f(a, b)` -> `f(b, a)`, of names alone: other things are seldom taken for each other."""
    if not isinstance(node, ast.Call) or len(node.args) < 2 or ast.unparse(node.func) in SYMMETRIC:
        return
    first, second, *rest = node.args
    if all(isinstance(one, ast.Name | ast.Attribute) for one in (first, second)) and ast.dump(first) != ast.dump(
        second
    ):
        yield node, ast.unparse(ast.Call(node.func, [second, first, *rest], node.keywords))


def stand_condition(node: ast.AST, _: set[str]) -> Iterator[Edit]:
    """`if c:` -> `if True:` and `if False:`; also of a conditional expression."""
    if isinstance(node, ast.If | ast.IfExp):
        yield from ((node.test, text) for text in ("True", "False"))


def drop_operand(node: ast.AST, _: set[str]) -> Iterator[Edit]:
    """`a and b` -> `a`, `b`; `a + b` -> `a`, `b`."""
    if isinstance(node, ast.BoolOp):
        for value in node.values:
            kept = [other for other in node.values if other is not value]
            yield node, f"({ast.unparse(ast.BoolOp(node.op, kept) if len(kept) > 1 else kept[0])})"
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub | ast.Mult | ast.Div | ast.FloorDiv):
        yield from ((node, f"({ast.unparse(side)})") for side in (node.left, node.right))


def drop_statement(node: ast.AST, _: set[str]) -> Iterator[Edit]:
    """A call for its effect, or `x += y`, that is not made."""
    calls = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    if calls or isinstance(node, ast.AugAssign):
        yield node, "pass"


def drop_call(node: ast.AST, _: set[str]) -> Iterator[Edit]:
    """`x.clamp(min=0)` -> `x`, `torch.clamp(x, min=0)` -> `x`, `abs(x)` -> `x`."""
    if not isinstance(node, ast.Call):
        return
    if isinstance(node.func, ast.Attribute) and node.func.attr in DROPPED_METHODS:
        function = isinstance(node.func.value, ast.Name) and node.func.value.id in ("torch", "np", "F", "math")
        if not function or node.args:
            yield node, ast.unparse(node.args[0] if function else node.func.value)
    elif isinstance(node.func, ast.Name) and node.func.id in DROPPED_FUNCTIONS and len(node.args) == 1:
        yield node, f"{DROPPED_FUNCTIONS[node.func.id]}({ast.unparse(node.args[0])})"


def swap_word(node: ast.AST, known: set[str]) -> Iterator[Edit]:
    """`stride_height` -> `stride_width`, `min` -> `max`, where the file knows the other."""
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None
    if name is None or (isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)):
        return
    words = re.split(r"(_)", name)
    for index, word in enumerate(words):
        other = SWAP.get(word)
        if other is None:
            continue
        text = "".join([*words[:index], other, *words[index + 1 :]])
        if text in known or (len(words) == 1 and ((word, other) in ALWAYS or (other, word) in ALWAYS)):
            yield node, f"{ast.unparse(node.value)}.{text}" if isinstance(node, ast.Attribute) else text


def swap_axes(node: ast.AST, _: set[str]) -> Iterator[Edit]:
    """Two entries of a tuple of two in each other's place: heights and widths, left and right."""
    if isinstance(node, ast.Tuple) and len(node.elts) == 2 and isinstance(node.ctx, ast.Load):
        first, second = node.elts
        if ast.dump(first) != ast.dump(second):
            yield node, f"({ast.unparse(second)}, {ast.unparse(first)})"


OPERATORS: tuple[Operator, ...] = (
    drop_keyword, swap_arguments, stand_condition, drop_operand, drop_statement, drop_call, swap_word, swap_axes,
)  # fmt: skip
