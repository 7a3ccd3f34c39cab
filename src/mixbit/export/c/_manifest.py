"""What a written folder says of itself, read back by the schema that wrote it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixbit._io import read_record
from mixbit._settings import read
from mixbit.errors import ExportError, MixbitError
from mixbit.export.c._options import COptions
from mixbit.integer.graph import GraphRounding

__all__ = ["MANIFEST", "CalledLibrary", "Manifest", "read_manifest"]

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class CalledLibrary:
    """What the folder calls of CMSIS-NN."""

    path: str
    rounding: str
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The keys of `manifest.json` that are read back; the others are for people."""

    fingerprint: str
    options: dict[str, Any]
    roundings: dict[str, GraphRounding]
    """Kind of operation -> how its results round."""
    cmsis_nn: CalledLibrary | None = None

    def c_options(self) -> COptions:
        """How the folder was written.

        Raises:
            ExportError: options that this mixbit does not have.
        """
        try:
            return read(COptions, self.options, room=f"the options of {MANIFEST}")
        except MixbitError as cause:
            raise ExportError(f"{cause} Export again with --to c.") from cause


def read_manifest(folder: Path) -> Manifest:
    """Read a folder's `manifest.json`.

    Raises:
        ExportError: there is none, or mixbit did not write it.
    """
    return read_record(folder / MANIFEST, Manifest, remedy="Export again with --to c.", error=ExportError)
