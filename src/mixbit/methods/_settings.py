"""Settings of a method as a score file holds them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def plain_settings(settings: DataclassInstance) -> dict[str, Any]:
    """JSON values: tuples become lists, so that what was saved equals what is read."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(settings).items()}
