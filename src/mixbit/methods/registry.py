"""The published search methods by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from mixbit.errors import MixbitError, did_you_mean
from mixbit.policy import Scores
from mixbit.task import Task

__all__ = ["Method", "make", "names", "register", "summary"]


class Method(Protocol):
    """One published way from a task to scores; a frozen dataclass whose fields are its settings."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def search(self, task: Task, *, run: Path | None = None, quiet: bool = False) -> Scores:
        """Scores of every searched layer; with a run folder a killed search goes on where it was."""
        ...


_METHODS: dict[str, tuple[type[Method], str]] = {}
_M = TypeVar("_M", bound=type)


def register(name: str, summary: str) -> Callable[[_M], _M]:
    """Class decorator that enters a method under `name`; a name that is taken is an error."""

    def enter(cls: _M) -> _M:
        if name in _METHODS:
            raise MixbitError(f"method {name!r} is registered already. Choose another name.")
        _METHODS[name] = (cls, summary)
        return cls

    return enter


def names(pattern: str = "*") -> list[str]:
    """Registered methods that match a glob.

    >>> names("limpq*")
    ['limpq', 'limpq-init']
    """
    return sorted(n for n in _METHODS if fnmatch(n, pattern))


def summary(name: str) -> str:
    """One line on the method, with its source."""
    return _find(name)[1]


def make(name: str, settings: Mapping[str, Any] | None = None) -> Method:
    """The method of that name with these settings; unknown names and settings are errors that offer the nearest."""
    cls, _ = _find(name)
    legal = [f.name for f in fields(cls)]
    for key in settings or {}:
        if key not in legal:
            raise MixbitError(
                f"method {name!r} has no setting {key!r}.{did_you_mean(key, legal)} Legal: {', '.join(legal)}."
            )
    return cls(**(settings or {}))


def _find(name: str) -> tuple[type[Method], str]:
    if name not in _METHODS:
        raise MixbitError(f"method {name!r} is unknown.{did_you_mean(name, _METHODS)} Legal: {', '.join(names())}.")
    return _METHODS[name]
