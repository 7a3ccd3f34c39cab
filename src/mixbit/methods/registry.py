"""The published search methods by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeVar, get_args

from mixbit import _settings
from mixbit.errors import MixbitError, did_you_mean
from mixbit.policy import Scores
from mixbit.task import Task

__all__ = ["CostClass", "Info", "Method", "info", "make", "names", "register"]

CostClass = Literal["none", "weights", "forward", "gradient", "curvature", "training"]
"""What a search needs: nothing, the weights alone, forward passes, first or second derivatives, or training."""


class Method(Protocol):
    """One published way from a task to scores; a frozen dataclass whose fields are its settings."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def search(self, task: Task, *, run: Path | None = None, quiet: bool = False) -> Scores:
        """Scores of every searched layer; with a run folder a killed search goes on where it was."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """What a list of methods shows of one."""

    name: str
    summary: str
    """What it does, in one line."""
    source: str
    """The publication, or "ours"."""
    cost: CostClass
    """What its search needs."""


_METHODS: dict[str, tuple[type[Method], Info]] = {}
_M = TypeVar("_M", bound=type)


def register(name: str, summary: str, *, source: str, cost: CostClass) -> Callable[[_M], _M]:
    """Class decorator that enters a method under `name`; a name that is taken is an error."""
    if cost not in get_args(CostClass):
        raise MixbitError(
            f"method {name!r}: cost class {cost!r} is not legal. Legal: {', '.join(get_args(CostClass))}."
        )

    def enter(cls: _M) -> _M:
        if name in _METHODS:
            raise MixbitError(f"method {name!r} is registered already. Choose another name.")
        _METHODS[name] = (cls, Info(name=name, summary=summary, source=source, cost=cost))
        return cls

    return enter


def names(pattern: str = "*") -> list[str]:
    """Registered methods that match a glob.

    >>> names("limpq*")
    ['limpq', 'limpq-init']
    """
    return sorted(n for n in _METHODS if fnmatch(n, pattern))


def info(name: str) -> Info:
    """What a list shows of the method.

    >>> info("limpq-init").cost
    'forward'
    """
    return _find(name)[1]


def make(name: str, settings: Mapping[str, Any] | None = None) -> Method:
    """The method of that name with these settings; lists stand for tuples.

    Raises:
        MixbitError: an unknown name or setting, with the nearest legal one, or a value that the setting does not take.
    """
    return _settings.read(_find(name)[0], settings or {}, room=f"method {name!r}")


def _find(name: str) -> tuple[type[Method], Info]:
    if name not in _METHODS:
        raise MixbitError(f"method {name!r} is unknown.{did_you_mean(name, _METHODS)} Legal: {', '.join(names())}.")
    return _METHODS[name]
