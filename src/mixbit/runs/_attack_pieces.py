"""What attacks on one run came to, piece by piece: a ledger, and beside it a file of points for each piece."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixbit.attacks import Found
from mixbit.errors import WeightsError
from mixbit.ledger import Ledger, content_of
from mixbit.models import read_weights, write_weights

LEDGER, POINTS = "attacks.jsonl", "points"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attacked:
    """One attack on one network and some of the images; the points are in a file of their own."""

    right: tuple[bool, ...]
    success: tuple[bool, ...]
    queries: tuple[int, ...]
    gradients: tuple[int, ...]
    points: str
    content: str
    by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """The class that a network gives each of some points."""

    classes: tuple[int, ...]
    content: str


class Pieces:
    """The pieces of one run; a piece is there when its line is, and its points are those that the line says.

    Args:
        folder: of the ledger.
        settings: what every piece depends on.

    Raises:
        StaleRun: the folder holds attacks on other weights or images, or of another seed.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self._ledger = Ledger(folder / LEDGER, "attacks on a run", settings)
        self._points = dict[str, Tensor]()

    def has_attack(self, key: str) -> bool:
        """Whether an attack is known, with its points."""
        return key in self._ledger and self._read_points(key) is not None

    def attack(self, key: str, name: str, make: Callable[[], Found]) -> Found:
        """The attack of that key; if it is not known, `make` makes it, and it is kept."""
        if not self.has_attack(key):
            self._keep(key, name, make())
        found = self._ledger.read(key, _Attacked)
        return Found(
            points=self._points[key],
            right=torch.tensor(found.right),
            success=torch.tensor(found.success),
            queries=torch.tensor(found.queries),
            gradients=torch.tensor(found.gradients),
            by=found.by,
        )

    def _keep(self, key: str, name: str, found: Found) -> None:
        """First the points, then the line that speaks of them."""
        file = f"{POINTS}/{name}-{blake2b(key.encode(), digest_size=8).hexdigest()}.safetensors"
        write_weights(self.folder / file, {POINTS: found.points})
        piece = _Attacked(
            right=tuple(found.right.tolist()),
            success=tuple(found.success.tolist()),
            queries=tuple(found.queries.tolist()),
            gradients=tuple(found.gradients.tolist()),
            by=found.by,
            points=file,
            content=content_of([found.points]),
        )
        self._ledger.put(key, asdict(piece))
        self._points[key] = found.points

    def _read_points(self, key: str) -> Tensor | None:
        """None where the file is gone, or is not that of the line: the piece is made again."""
        if key not in self._points:
            piece = self._ledger.read(key, _Attacked)
            try:
                points = read_weights(self.folder / piece.points).get(POINTS)
            except WeightsError:
                return None
            if points is None or content_of([points]) != piece.content:
                return None
            self._points[key] = points
        return self._points[key]

    def has_classes(self, key: str, points: Tensor) -> bool:
        """Whether the classes of these points are known."""
        return key in self._ledger and self._ledger.read(key, _Seen).content == content_of([points])

    def classes(self, key: str, points: Tensor, make: Callable[[], Tensor]) -> Tensor:
        """The class that a network gives each point `(N,)`; if they are not known, `make` says, and they are kept."""
        if not self.has_classes(key, points):
            seen = _Seen(classes=tuple(make().tolist()), content=content_of([points]))
            self._ledger.put(key, asdict(seen))
        return torch.tensor(self._ledger.read(key, _Seen).classes)
