"""What a front's file may hold. Imported when a file is read: pydantic is slow to load."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, JsonValue

from mixbit.policy._schema import LEGAL, Count, Document, Fingerprint, LayerBitsFile, Seed, Strict


class _Metric(Strict):
    name: Annotated[str, Field(min_length=1)]
    unit: str
    larger_is_better: bool | None


class _Measured(Strict):
    metrics: Annotated[list[_Metric], Field(min_length=1)]
    on: str
    data: str = ""


class _Weights(Strict):
    path: Annotated[str, Field(min_length=1)]
    digest: str


class _Point(Strict):
    name: str = ""
    quality: Annotated[dict[str, float], Field(min_length=1)]
    costs: dict[str, Count | float] = Field(default_factory=dict)
    layers: Annotated[dict[str, LayerBitsFile], Field(min_length=1)]


LEGAL_FRONT = {
    "points": "a list of policies, at least one, each an object with quality and layers",
    "measured": "an object with metrics and on",
    "metrics": "a list, each an object with name, unit and larger_is_better",
    "larger_is_better": "true, false or null",
    "on": "a text",
    "data": "a text",
    "weights": "an object with path and digest, or null",
    "path": "a path from the folder of the file",
    "digest": "a text",
    "name": "a text",
    "unit": "a text",
    "quality": "an object of finite numbers, at least one",
    "settings": "an object of JSON values",
}
"""What a value may be, in words, by its key at any depth."""


class FrontFile(Document):
    """A mixbit-front document, version 1."""

    ENTRY = ("weight_bits", "activation_bits")
    PARTS: ClassVar[dict[str, type[Strict]]] = {
        "measured": _Measured, "metrics": _Metric, "weights": _Weights, "points": _Point, "layers": LayerBitsFile
    }  # fmt: skip

    format: Literal["mixbit-front"]
    version: Literal[1]
    fingerprint: Fingerprint
    method: str = "by hand"
    seed: Seed | None = None
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    measured: _Measured
    weights: _Weights | None = None
    notes: list[str] = Field(default_factory=list)
    points: Annotated[list[_Point], Field(min_length=1)]

    @classmethod
    def legal(cls, place: list[str]) -> str:
        """What the value at a location may be: by the last key of it that is known."""
        known = [text for key in place if (text := LEGAL_FRONT.get(key) or LEGAL.get(key)) is not None]
        return known[-1] if known else "an object of JSON values"

    @classmethod
    def keys(cls, place: list[str]) -> list[str]:
        """The keys that an object may have in which `place` is an unknown one."""
        inside = [cls.PARTS[key] for key in place[:-1] if key in cls.PARTS]
        return list((inside[-1] if inside else cls).model_fields)

    @classmethod
    def depth(cls, place: list[str]) -> int:
        """How much of a location is in the file; a number of a cost has two names of a union's members after it."""
        return 5 if place[0] == "points" and "layers" in place else 4
