"""What policy and score files may hold. Imported when a file is read: pydantic is slow to load."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from mixbit._bits import ACTIVATION_BITS, WEIGHT_BITS, describe_bits, option_pattern

WeightBits = Annotated[int, Field(ge=WEIGHT_BITS[0], le=WEIGHT_BITS[-1])]
ActivationBits = Annotated[int, Field(ge=ACTIVATION_BITS[0], le=ACTIVATION_BITS[-1])]
# JSON keys are text; "06" or "6 " would name an option twice.
WeightKey = Annotated[str, Field(pattern=rf"\A{option_pattern(WEIGHT_BITS)}\z")]
ActivationKey = Annotated[str, Field(pattern=rf"\A{option_pattern(ACTIVATION_BITS)}\z")]
Fingerprint = Annotated[str, Field(pattern=r"\Asha256:[0-9a-f]{16}\z")]
Seed = Annotated[int, Field(ge=0, lt=2**64)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
WeightCurve = Annotated[dict[WeightKey, float], Field(min_length=1)]
ActivationCurve = Annotated[dict[ActivationKey, float], Field(min_length=1)]


class Strict(BaseModel):
    """Types are not converted, and unknown keys are errors."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


def _keys(legal: range) -> str:
    """The keys of a curve in words."""
    return f'"{legal[0]}" to "{legal[-1]}"'


LEGAL = {
    "version": "a version that this mixbit reads",
    "fingerprint": "'sha256:' and 16 hex digits; `Policy.uniform(network, 8, 8).save(path)` writes a file to edit",
    "layers": "an object with an entry for every layer",
    "method": "a text",
    "seed": "a whole number from 0 to 2^64 - 1, or null",
    "macs": "'exact' or 'limpq'",
    "budget": 'an object of texts, such as {"bitops": "3x4"}',
    "costs": "an object of finite numbers, whole ones below 2^63",
    "notes": "a list of texts",
    "alpha": "a finite number from 0 up",
    "weight_bits": f"a whole number {describe_bits(WEIGHT_BITS)}, or null for float32",
    "activation_bits": f"a whole number {describe_bits(ACTIVATION_BITS)}, or null for float32",
    "weight": f"an object from bits {_keys(WEIGHT_BITS)} to finite harm, at least one",
    "activation": f"an object from bits {_keys(ACTIVATION_BITS)} to finite harm, at least one",
}
"""What a value may be, in words: top-level keys, and keys of a layer's entry."""

_BOTH = f"{describe_bits(WEIGHT_BITS)} or {describe_bits(ACTIVATION_BITS)}"
LEGAL_PROGRAM = {
    "coupled": "true or false",
    "order": "a list of layer names",
    "activation_order": "a list of layer names, or null",
    "box": "true or false",
    "pairs": "an object with variables and matrix, or null",
    "variables": f'a list of [layer, "weight" or "activation", bits {_BOTH}]',
    "matrix": "a list of rows of finite numbers, one row and one column a variable",
}
"""What is legal for the keys of `program` and of its `pairs`."""


class Document(Strict):
    """What both kinds of file share."""

    ENTRY: ClassVar[tuple[str, ...]]
    """Keys of a layer's entry."""

    @classmethod
    def legal(cls, place: list[str]) -> str:
        """What the value at a location may be."""
        if place[0] != "layers" or len(place) == 1:
            return LEGAL.get(place[0], "an object of JSON values")
        return LEGAL[place[2]] if len(place) > 2 else f"an object with {' and '.join(cls.ENTRY)}"

    @classmethod
    def keys(cls, place: list[str]) -> list[str]:
        """The keys that an object may have in which `place` is an unknown one."""
        return list(cls.model_fields) if len(place) == 1 else list(cls.ENTRY)

    @classmethod
    def depth(cls, place: list[str]) -> int:
        """How much of a location is in the file; the rest are names of a union's members or of a key."""
        return 4 if place[0] == "layers" else 2


class LayerBitsFile(Strict):
    """Bits of one layer."""

    weight_bits: WeightBits | None
    activation_bits: ActivationBits | None


class PolicyFile(Document):
    """A mixbit-policy document, version 1. Everything after `layers` may be left out by hand."""

    ENTRY = ("weight_bits", "activation_bits")

    format: Literal["mixbit-policy"]
    version: Literal[1]
    fingerprint: Fingerprint
    layers: Annotated[dict[str, LayerBitsFile], Field(min_length=1)]
    method: str = "by hand"
    seed: Seed | None = None
    macs: Literal["exact", "limpq"] = "exact"
    budget: dict[str, str] = {}
    costs: dict[str, Count | float] = {}
    allocation: dict[str, JsonValue] = {}
    notes: list[str] = []


class _LayerScores(Strict):
    weight: WeightCurve
    activation: ActivationCurve


class _Pairs(Strict):
    # JSON has lists alone: the tuple of a variable must take one, but its members stay strict.
    variables: list[Annotated[tuple[str, Literal["weight", "activation"], ActivationBits], Field(strict=False)]]
    matrix: list[list[float]]


class _Program(Strict):
    coupled: bool = False
    order: list[str] = []
    activation_order: list[str] | None = None
    box: bool = False
    pairs: _Pairs | None = None


class ScoresFile(Document):
    """A mixbit-scores document: version 1, or version 2 with a `program`."""

    ENTRY = ("weight", "activation")

    format: Literal["mixbit-scores"]
    version: Literal[1, 2]
    fingerprint: Fingerprint
    method: str
    seed: Seed | None = None
    alpha: Annotated[float, Field(ge=0)] = 1.0
    layers: Annotated[dict[str, _LayerScores], Field(min_length=1)]
    settings: dict[str, JsonValue] = {}
    program: _Program = _Program()

    @classmethod
    def legal(cls, place: list[str]) -> str:
        """As for every document, and what the parts of a program may be."""
        known = [LEGAL_PROGRAM[key] for key in place[1:3] if key in LEGAL_PROGRAM]
        if place[0] != "program":
            return super().legal(place)
        return known[-1] if known else f"an object with some of {', '.join(_Program.model_fields)}"

    @classmethod
    def keys(cls, place: list[str]) -> list[str]:
        """As for every document, and the keys of a program and of its pairs."""
        if place[0] != "program" or len(place) == 1:
            return super().keys(place)
        return list((_Program if len(place) == 2 else _Pairs).model_fields)

    @classmethod
    def depth(cls, place: list[str]) -> int:
        """As for every document; a program is the file's down to one entry of a matrix."""
        return 5 if place[0] == "program" else super().depth(place)
