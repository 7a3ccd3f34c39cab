"""Every option of every settings class, data source and command has a row that notices when it stops to work."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import click
import numpy as np
import pytest
import torch
import typer

from mixbit.cli import app
from mixbit.data import sources
from mixbit.testing.options import OptionCases, OptionRow, alike, fields_of, higher, unlike
from tests.support import ROOT

# ------------------------------------------------------------------------------------------------ who has options


def settings_classes() -> Iterator[str]:
    """Public dataclasses that check themselves as settings, read from the syntax tree."""
    for path in sorted((ROOT / "src" / "mixbit").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and _checks_itself(node):
                yield node.name


def _checks_itself(node: ast.ClassDef) -> bool:
    """Whether the class, made as a dataclass, calls `check(self, ...)`."""
    made = any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)
    calls = [call for call in ast.walk(node) if isinstance(call, ast.Call)]
    return made and any(
        ast.unparse(call.func).rpartition(".")[2] == "check" and "self" in map(ast.unparse, call.args) for call in calls
    )


def commands(command: click.Command, words: str) -> Iterator[tuple[str, click.Command]]:
    """Commands as they are typed, groups that take options of their own included."""
    if command.params:
        yield words, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, f"{words} {name}")


def owners() -> set[str]:
    """All who have options: settings classes, kinds of data, commands."""
    return {*settings_classes(), *sources(), *(name for name, _ in commands(typer.main.get_command(app), "mixbit"))}


@cache
def tables() -> dict[str, tuple[Path, ast.ClassDef]]:
    """Owner -> where its table stands: the classes in tests/ that name an `owner`."""
    found = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        if "OptionCases" not in (text := path.read_text()):
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef) and (owner := _owner(node)):
                found[owner] = path, node
    return found


def _owner(node: ast.ClassDef) -> str | None:
    """What the class body assigns to `owner`: a name, or a text."""
    for line in node.body:
        if isinstance(line, ast.Assign) and [ast.unparse(target) for target in line.targets] == ["owner"]:
            value = line.value
            return str(value.value) if isinstance(value, ast.Constant) else ast.unparse(value).rpartition(".")[2]
    return None


def test_everyone_with_options_has_a_table() -> None:
    missing = owners() - set(tables())
    assert not missing, (
        f"No table of options for {', '.join(sorted(missing))}. Write a class that inherits OptionCases of "
        "mixbit.testing.options, with `owner`, `options` and `rows`, in the test file of its module "
        "(docs/contributing.md has one)."
    )


def test_tests_named_elsewhere_are_there() -> None:
    """`elsewhere` points at `tests/x/test_y.py::test_z` or `...::Class::test_z`."""
    wrong = []
    for path, node in tables().values():
        for text in (call.value for call in ast.walk(node) if isinstance(call, ast.Constant)):
            if isinstance(text, str) and text.startswith("tests/") and "::" in text:
                file, _, name = text.partition("::")
                wanted = f"def {name.rpartition('::')[2]}("
                if not (ROOT / file).is_file() or wanted not in (ROOT / file).read_text():
                    wrong.append(f"{path.name}: {text}")
    assert wrong == []


def test_the_search_for_owners_finds_them() -> None:
    found = owners()
    assert {"TrainConfig", "Limpq", "KurtosisConfig", "digits", "mixbit", "mixbit latency build"} <= found


# --------------------------------------------------------------------------------------------------- the contract


@dataclass(frozen=True)
class Toy:
    """Two options, of which `scale` multiplies."""

    scale: float = 1.0
    seed: int = 0


class TestToy(OptionCases):
    """The contract on options that do what they say."""

    options = fields_of(Toy)
    rows = (
        OptionRow("scale", (1.0, 3.0), seen=lambda value: 2 * Toy(scale=value).scale, holds=higher),
        OptionRow("seed", (0, 1), seen=lambda value: Toy(seed=value).seed, holds=unlike),
    )
    owner = "toy"


def test_an_option_without_a_row_is_named() -> None:
    cases = type("Half", (OptionCases,), {"owner": Toy, "options": fields_of(Toy), "rows": TestToy.rows[:1]})()
    with pytest.raises(AssertionError, match="Toy: no test shows what seed changes. Add an OptionRow"):
        cases.test_every_option_has_a_row()
    cases.test_every_row_has_its_option()


def test_a_row_without_its_option_is_named() -> None:
    cases = type("Old", (OptionCases,), {"owner": Toy, "options": ("seed",), "rows": TestToy.rows})()
    with pytest.raises(AssertionError, match="Old has rows for scale. There are seed"):
        cases.test_every_row_has_its_option()


def test_an_option_that_does_nothing_fails() -> None:
    row = OptionRow("scale", (1.0, 3.0), seen=lambda value: 2, holds=higher, says="multiplies")
    with pytest.raises(AssertionError, match=r"scale: multiplies at 1.0 and 3.0 gives\n2"):
        TestToy().test_the_option_does_what_it_says(row)


def test_settings_that_take_anything_are_named() -> None:
    cases = type("Lax", (OptionCases,), {"owner": Toy, "options": fields_of(Toy), "rows": TestToy.rows})()
    with pytest.raises(AssertionError, match="Toy takes any object for scale. Call check"):
        cases.test_a_value_of_no_kind_is_refused()


def test_what_a_row_points_at_must_hold_elsewhere() -> None:
    cases = type("Elsewhere", (OptionCases,), {"owner": Toy, "options": fields_of(Toy), "rows": TestToy.rows[:1]})()
    type(cases).elsewhere = {"seed": "tests/testing/test_options.py::test_alike_looks_inside"}
    cases.test_every_option_has_a_row()
    cases.test_every_row_has_its_option()


def test_alike_looks_inside() -> None:
    one = {"a": [torch.ones(2), np.arange(3)], "b": (1, "x")}
    same = {"a": [torch.ones(2), np.arange(3)], "b": (1, "x")}
    assert alike(one, same)
    for other in ([torch.zeros(2), np.arange(3)], [torch.ones(2), np.arange(4)], [torch.ones(2)]):
        assert unlike(one, {**same, "a": other})
    assert unlike(one, {"a": one["a"]}) and unlike(torch.ones(2), None)
