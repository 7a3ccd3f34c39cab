"""What every option must do: its value changes what it says it changes, in the direction that it says.

Inherit `OptionCases` in a test module and write one row an option: two legal values, what is seen with each, all else
equal, and how the two must stand to each other. An option without a row fails, and so does a row without its option:

    class TestMyOptions(OptionCases):
        owner = MyMethod
        options = fields_of(MyMethod)
        rows = (
            OptionRow("seed", (0, 1), seen=lambda value: draws(seed=value), holds=unlike),
            OptionRow("images", (8, 16), seen=lambda value: images_read(value), holds=lambda a, b: (a, b) == (8, 16)),
        )

A row is worth what it can notice: `unlike` alone passes when the option does *something*. Where the option promises a
number or a direction, say that (`lower`, `higher`, or a function of the two). Break the line that applies the option
once, and see the row fail.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from mixbit.errors import MixbitError

if TYPE_CHECKING:
    import click
    from _typeshed import DataclassInstance

__all__ = ["OptionCases", "OptionRow", "alike", "fields_of", "flags_of", "higher", "lower", "unlike"]


@dataclass(frozen=True, slots=True)
class OptionRow:
    """One option, two values, and what must come of them.

    Args:
        option: a field's name, or a flag as it is typed (`--lr`); an argument of a command by its name (`model`).
        values: two legal values; the first is best the default.
        seen: value -> what a user sees with it, all else equal: a number, a tensor, a policy, a text.
        holds: (seen with the first, seen with the second) -> whether the promise is kept.
        says: the promise in words, for the message; tells apart several rows of one option.
    """

    option: str
    values: tuple[Any, Any]
    seen: Callable[[Any], Any]
    holds: Callable[[Any, Any], bool]
    says: str = ""

    @property
    def label(self) -> str:
        """For the test's name."""
        return f"{self.option}: {self.says}" if self.says else self.option


def alike(first: Any, second: Any) -> bool:
    """Whether two things are the same to the bit; tensors and arrays within dicts and sequences too.

    >>> alike({"a": torch.zeros(2)}, {"a": torch.zeros(2)}), alike([1.0], [1.0, 2.0])
    (True, False)
    """
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(alike(value, second[key]) for key, value in first.items())
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return np.array_equal(first, second)
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        return len(first) == len(second) and all(map(alike, first, second))
    return bool(first == second)


def unlike(first: Any, second: Any) -> bool:
    """Whether anything in the two differs."""
    return not alike(first, second)


def lower(first: Any, second: Any) -> bool:
    """Whether the second is the smaller one.

    >>> lower(2.0, 1.0), lower(1.0, 1.0)
    (True, False)
    """
    return bool(second < first)


def higher(first: Any, second: Any) -> bool:
    """Whether the second is the larger one."""
    return bool(second > first)


def fields_of(settings: type[DataclassInstance]) -> tuple[str, ...]:
    """The options of a settings class: all fields.

    >>> from mixbit.methods import Uniform
    >>> fields_of(Uniform)
    ('bits', 'first_last', 'seed')
    """
    return tuple(field.name for field in fields(settings))


def flags_of(command: click.Command) -> tuple[str, ...]:
    """The options and arguments of a command as they are typed; a pair `--ties/--no-ties` by its first half.

    >>> import typer
    >>> from mixbit.cli import app
    >>> flags_of(typer.main.get_command(app).commands["demo"])
    ('--run',)
    """
    return tuple(parameter.opts[0] for parameter in command.params)


class OptionCases:
    """Cases that hold for the options of a settings class or a command.

    Attributes:
        owner: whose options: the class, or the command as it is typed.
        options: their names (`fields_of`, `flags_of`).
        rows: one or more for each.
        elsewhere: option -> `tests/file.py::test` that holds what two values cannot show.
    """

    owner: ClassVar[type | str]
    options: ClassVar[Collection[str]] = ()
    rows: ClassVar[Sequence[OptionRow]] = ()
    elsewhere: ClassVar[Mapping[str, str]] = {}

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """One case a row."""
        if "option_row" in metafunc.fixturenames:
            metafunc.parametrize("option_row", self.rows, ids=[row.label for row in self.rows])

    def test_every_option_has_a_row(self) -> None:
        owner = self.owner if isinstance(self.owner, str) else self.owner.__name__
        missing = [name for name in self.options if name not in {row.option for row in self.rows} | set(self.elsewhere)]
        assert not missing, (
            f"{owner}: no test shows what {', '.join(missing)} changes. Add an OptionRow for each to `rows` of "
            f"{type(self).__name__} in {type(self).__module__}: two values, what is seen with them, what must hold."
        )

    def test_every_row_has_its_option(self) -> None:
        gone = sorted(({row.option for row in self.rows} | set(self.elsewhere)) - set(self.options))
        assert not gone, f"{type(self).__name__} has rows for {', '.join(gone)}. There are {', '.join(self.options)}."

    def test_the_option_does_what_it_says(self, option_row: OptionRow) -> None:
        first, second = (option_row.seen(value) for value in option_row.values)
        assert option_row.holds(first, second), (
            f"{option_row.label} at {option_row.values[0]!r} and {option_row.values[1]!r} gives\n{first}\nand\n{second}"
        )

    def test_a_value_of_no_kind_is_refused(self) -> None:
        """By a settings class, with the field's name, when it is made; a command reads what is typed."""
        if isinstance(self.owner, str):
            return
        first = {row.option: row.values[0] for row in self.rows}
        needed = {one.name: first[one.name] for one in fields(self.owner) if _is_required(one)}
        for name in (one.name for one in fields(self.owner) if one.init):
            try:
                self.owner(**{**needed, name: object()})
            except MixbitError as error:
                assert name in str(error), f"{self.owner.__name__}: {name} is refused by a message without its name"
            else:
                raise AssertionError(
                    f"{self.owner.__name__} takes any object for {name}. Call check(self) of mixbit._settings in "
                    "__post_init__, or refuse what is not legal there."
                )


def _is_required(one: Field[Any]) -> bool:
    return one.init and one.default is MISSING and one.default_factory is MISSING
