"""Things that are chosen by name: methods, networks, exporters."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Generic, TypeVar

from mixbit.errors import MixbitError, did_you_mean

T = TypeVar("T")


class Registry(Generic[T]):
    """Names and what they stand for; a name is given once.

    Args:
        kind: what is in it, in the words of messages: `exporter`.
        error: the class of its errors.

    >>> registry = Registry[int]("number")
    >>> registry.enter("one", 1)
    >>> registry.find("one"), registry.names("o*")
    (1, ['one'])
    """

    def __init__(self, kind: str, error: type[MixbitError] = MixbitError) -> None:
        self.kind, self._error, self._entries = kind, error, dict[str, T]()

    def enter(self, name: str, entry: T) -> None:
        """Enter one under a name.

        Raises:
            MixbitError: the name is taken.
        """
        if name in self._entries:
            raise self._error(f"{self.kind} {name!r} is registered already. Choose another name.")
        self._entries[name] = entry

    def find(self, name: str) -> T:
        """What stands under a name.

        Raises:
            MixbitError: nothing; the message has the legal names and the nearest.
        """
        if name not in self._entries:
            legal = ", ".join(self.names())
            raise self._error(f"{self.kind} {name!r} is unknown.{did_you_mean(name, self._entries)} Legal: {legal}.")
        return self._entries[name]

    def names(self, pattern: str = "*") -> list[str]:
        """Sorted names that match a shell pattern."""
        return sorted(name for name in self._entries if fnmatchcase(name, pattern))

    def leave(self, name: str) -> None:
        """Take one out again, as tests do."""
        self._entries.pop(name, None)

    def copy(self) -> Registry[T]:
        """Another one with the same entries: what is entered there is not entered here."""
        other = Registry[T](self.kind, self._error)
        other._entries = dict(self._entries)
        return other

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self._entries
