"""The table of attacks, which the attacks themselves name in messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from mixbit._registry import Registry

__all__ = ["ATTACKS", "Access", "Info", "names"]

Access = Literal["gradients", "scores", "labels"]
"""What an attack needs of a network: gradients (white box), logits, or the class alone (both black box)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """What a list of attacks shows of one."""

    name: str
    summary: str
    """What it does, in one line."""
    source: str
    """The publication."""
    access: Access
    """What it needs of the network."""


ATTACKS = Registry[tuple[type[Any], Info]]("attack")


def names(pattern: str = "*", *, access: Access | None = None) -> list[str]:
    """Registered attacks that match a glob; of one kind of access, or of all.

    >>> from mixbit import attacks
    >>> attacks.names("pg*"), attacks.names("pg*", access="labels")
    (['pgd'], [])
    """
    return [name for name in ATTACKS.names(pattern) if access in (None, ATTACKS.find(name)[1].access)]
