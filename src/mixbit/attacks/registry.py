"""The attacks by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_args

from mixbit import _settings
from mixbit.attacks._entries import ATTACKS, Access, Info, names
from mixbit.attacks.attack import Attack
from mixbit.errors import MixbitError

__all__ = ["Info", "info", "make", "names", "register"]

_A = TypeVar("_A", bound=type[Attack])


def register(name: str, summary: str, *, source: str, access: Access) -> Callable[[_A], _A]:
    """Class decorator that enters an attack under `name`, and tells the class both; a taken name is an error."""
    if access not in get_args(Access):
        raise MixbitError(f"attack {name!r}: access {access!r} is not legal. Legal: {', '.join(get_args(Access))}.")

    def enter(cls: _A) -> _A:
        ATTACKS.enter(name, (cls, Info(name=name, summary=summary, source=source, access=access)))
        cls.name, cls.access = name, access
        return cls

    return enter


def info(name: str) -> Info:
    """What a list shows of the attack.

    >>> info("pgd").access
    'gradients'
    """
    return ATTACKS.find(name)[1]


def make(name: str, settings: Mapping[str, Any] | None = None) -> Attack:
    """The attack of that name with these settings; lists stand for tuples.

    Raises:
        MixbitError: an unknown name or setting, with the nearest legal one, or a value that the setting does not take.

    >>> make("pgd", {"eps": 0.01}).radius
    0.01
    """
    cls: type[Any] = ATTACKS.find(name)[0]
    made: Attack = _settings.read(cls, settings or {}, room=f"attack {name!r}")
    return made
