"""What the baselines share: a score table with its settings as they go into the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

from mixbit.errors import MixbitError
from mixbit.methods._settings import plain_settings
from mixbit.network import Network
from mixbit.policy import LayerScores, Program, Scores


class Settings(Protocol):
    """A baseline's settings: a dataclass with a seed."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def seed(self) -> int:
        """Seed of the draws."""
        ...


def make_scores(
    network: Network,
    settings: Settings,
    *,
    method: str,
    layers: Mapping[str, LayerScores],
    program: Program | None = None,
    found: Mapping[str, Any] | None = None,
) -> Scores:
    """The score table of a baseline; `found` is what the search has to say beside its settings."""
    plain = plain_settings(settings)
    return Scores(
        fingerprint=network.fingerprint,
        method=method,
        seed=settings.seed,
        layers=dict(layers),
        settings=plain | dict(found or {}),
        program=program or Program(),
    )


def ladder(bits: Sequence[int]) -> list[int]:
    """Candidate bits from the fewest to the most.

    Raises:
        MixbitError: none, or one twice.
    """
    if not bits or len(set(bits)) != len(bits):
        raise MixbitError(f"bits={list(bits)} is no list of candidates. Give at least one bit-width, and none twice.")
    return sorted(bits)
