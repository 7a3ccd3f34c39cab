"""What an exported ONNX file says of itself, in the model's metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mixbit.errors import ExportError
from mixbit.export._processors import PROMISES, Cpu, check_cpu

__all__ = ["FORMAT_VERSION", "METADATA_KEY", "Statement"]

FORMAT_VERSION = 1
METADATA_KEY = "mixbit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """Network, layers, and for which processors the file is.

    >>> said = Statement(fingerprint="sha256:01", layers={"conv": 8, "fc": 4}, cpu="vnni", needs_vnni=("conv",))
    >>> Statement.read({METADATA_KEY: said.to_json()}, "net.onnx") == said
    True
    """

    fingerprint: str
    layers: dict[str, int]
    """Name -> bits of its weights by the policy, in order of execution."""
    cpu: Cpu
    narrowed: tuple[str, ...] = ()
    """Layers whose weights were put on wider steps, so that no product saturates."""
    needs_vnni: tuple[str, ...] = ()
    """Layers whose products can saturate without VNNI."""

    def to_json(self) -> str:
        """Layers are named once, and by their place after that: names cost bytes."""
        place = {name: at for at, name in enumerate(self.layers)}
        content = {
            "version": FORMAT_VERSION,
            "fingerprint": self.fingerprint,
            "layers": list(self.layers.items()),
            "cpu": self.cpu,
            "promise": PROMISES[self.cpu],
            "narrowed": [place[name] for name in self.narrowed],
            "needs_vnni": [place[name] for name in self.needs_vnni],
        }
        return json.dumps(content, separators=(",", ":"))

    @classmethod
    def read(cls, metadata: Mapping[str, str], where: str) -> Statement | None:
        """The statement among a model's metadata; None of a file that says nothing of processors.

        Args:
            metadata: key -> text, as a runtime gives it.
            where: the file, for messages.

        Raises:
            ExportError: what is there cannot be read.
        """
        try:
            content = json.loads(metadata.get(METADATA_KEY, "{}"))
            return cls._of(content) if isinstance(content, dict) and "cpu" in content else None
        except ExportError as cause:
            raise ExportError(f"{where}: its metadata {METADATA_KEY!r} cannot be read: {cause}") from None
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as cause:
            raise ExportError(
                f"{where}: its metadata {METADATA_KEY!r} is not what mixbit export writes ({type(cause).__name__}). "
                "Export the file again."
            ) from cause

    @classmethod
    def _of(cls, content: Any) -> Statement:
        layers = {str(name): int(bits) for name, bits in content["layers"]}
        names = list(layers)
        narrowed, needing = (
            tuple(names[_place(at, len(names))] for at in content[key]) for key in ("narrowed", "needs_vnni")
        )
        cpu = check_cpu(content["cpu"])
        return cls(
            fingerprint=str(content["fingerprint"]), layers=layers, cpu=cpu, narrowed=narrowed, needs_vnni=needing
        )


def _place(at: Any, count: int) -> int:
    if type(at) is not int or not 0 <= at < count:
        raise IndexError(f"there is no layer {at!r} of {count}")
    return at
