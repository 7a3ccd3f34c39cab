"""Scores: the harm of giving a layer certain bits, measured once and used for any budget."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from mixbit import _io
from mixbit._bits import Side, describe_bits, is_legal, legal_bits
from mixbit.cost import LayerBits
from mixbit.errors import PolicyError, did_you_mean
from mixbit.policy._files import JSON, check_header, read_document
from mixbit.policy._policy import check_fingerprint
from mixbit.policy._program import Pairs, Program

if TYPE_CHECKING:
    from mixbit.network import Network

__all__ = ["LayerScores", "Scores"]


@dataclass(frozen=True, slots=True)
class LayerScores:
    """Harm of each option of one layer: bits -> harm, lower is better, finite.

    Raises:
        PolicyError: a curve is empty, has bits that are not legal on that side, or a harm that is not finite.
    """

    weight: dict[int, float]
    activation: dict[int, float]

    def __post_init__(self) -> None:
        _check_curve(self.weight, "weight")
        _check_curve(self.activation, "activation")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """A table of harm: what a search method found out, before any budget.

    The harm of layer l at (b_w, b_a) is activation[b_a] + alpha * weight[b_w] (LIMPQ's objective, with its alpha).

    >>> table = Scores(fingerprint="sha256:0123456789abcdef", method="limpq", alpha=2.0,
    ...     layers={"fc": LayerScores(weight={4: 0.1, 2: 0.5}, activation={4: 0.3, 2: 0.9})})
    >>> table.harm("fc", LayerBits(2, 4))       # 0.3 + 2 * 0.5
    1.3
    """

    FORMAT: ClassVar[str] = "mixbit-scores"
    VERSION: ClassVar[int] = 2
    """The newest that is read. A file without a program is written as version 1, which older mixbits read."""

    fingerprint: str
    """`Network.fingerprint` of the network that was measured."""
    layers: dict[str, LayerScores]
    method: str
    seed: int | None = None
    alpha: float = 1.0
    """Weight of the weight terms."""
    settings: dict[str, JSON] = field(default_factory=dict)
    """How the method was run."""
    program: Program = field(default_factory=Program)
    """What the allocation must respect beyond the sum of harms."""
    format: str = FORMAT
    version: int = VERSION

    def __post_init__(self) -> None:
        if not (math.isfinite(self.alpha) and self.alpha >= 0):
            raise PolicyError(f"alpha {self.alpha!r} is not legal. Legal: a finite number from 0 up.")
        _check_program(self.program, self.layers)

    def harm(self, layer: str, bits: LayerBits, *, alpha: float | None = None) -> float:
        """Harm of giving `layer` these bits, by itself; a side in float32 does none.

        Raises:
            PolicyError: the layer or the bits are not in the table.
        """
        if layer not in self.layers:
            raise PolicyError(f"There are no scores for the layer {layer!r}.{did_you_mean(layer, self.layers)}")
        found = self.layers[layer]
        weight = _at(found.weight, bits.weight_bits, f"{layer!r}, weight")
        activation = _at(found.activation, bits.activation_bits, f"{layer!r}, activation")
        return activation + (self.alpha if alpha is None else alpha) * weight

    def total(self, layers: Mapping[str, LayerBits]) -> float:
        """Harm of a policy: the sum over the layers that have scores, and the joint harm of `program.pairs`.

        Args:
            layers: layer name -> bits; layers without scores (pinned ones) count for nothing by themselves.

        Raises:
            PolicyError: a scored layer has bits that are not in the table.

        >>> pairs = Pairs((("a", "weight", 2), ("b", "weight", 2)), ((0.0, 0.25), (0.25, 0.0)))
        >>> curve = LayerScores(weight={4: 0.0, 2: 1.0}, activation={8: 0.0})
        >>> table = Scores(fingerprint="sha256:0123456789abcdef", method="by hand",
        ...     layers={"a": curve, "b": curve}, program=Program(pairs=pairs))
        >>> table.total({"a": LayerBits(2, 8), "b": LayerBits(2, 8), "pinned": LayerBits(8, 8)})       # 1 + 1 + 0.25
        2.25
        """
        alone = math.fsum(self.harm(name, bits) for name, bits in layers.items() if name in self.layers)
        return alone + (self.program.pairs.harm(layers) if self.program.pairs else 0.0)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the scores as JSON, atomically; version 1 where there is no program, else version 2."""
        layers = {
            name: {"weight": _to_file(found.weight), "activation": _to_file(found.activation)}
            for name, found in self.layers.items()
        }
        plain = self.program == Program()
        content = {"format": self.format, "version": 1 if plain else self.VERSION}
        content |= {key: getattr(self, key) for key in ("fingerprint", "method", "seed", "alpha", "settings")}
        program = {} if plain else {"program": _program_to_file(self.program)}
        _io.write_json(path, {**content, "layers": layers, **program})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Scores:
        """Read scores from a JSON file.

        Raises:
            PolicyError: the file is missing, malformed, of another format, newer than this mixbit, or holds illegal
                bits, a number that is not finite, or a program that does not fit its table.
        """
        from mixbit.policy._schema import ScoresFile

        found = read_document(path, ScoresFile, format=cls.FORMAT, version=cls.VERSION)
        if found.version == 1 and "program" in found.model_fields_set:
            raise PolicyError(f"{str(path)!r} is version 1 but has a 'program'. Legal: version 2.")
        # In memory a table is of the newest version; the file's own says only whether there is a program.
        content = {key: getattr(found, key) for key in ScoresFile.model_fields if key != "version"}
        layers = {
            name: LayerScores(_from_file(one.weight), _from_file(one.activation)) for name, one in found.layers.items()
        }
        try:
            return cls(**{**content, "layers": layers, "program": _program(found.program.model_dump())})
        except PolicyError as cause:
            raise PolicyError(f"{str(path)!r} is not a valid file: {cause}") from cause

    def check(self, network: Network) -> None:
        """Make sure that the table is one of `network`; it may leave layers out (pinned ones need no scores).

        Raises:
            PolicyError: another model, an unknown layer, another format or a newer version.
        """
        check_header(self.format, self.version, format=self.FORMAT, version=self.VERSION, where="scores")
        check_fingerprint(network, self.fingerprint, self.layers, "score table")
        legal = {layer.name for layer in network.layers}
        for name in self.layers:
            if name not in legal:
                near = did_you_mean(name, legal)
                raise PolicyError(f"The score table has the layer {name!r}, which this network does not have.{near}")


def _check_curve(curve: Mapping[int, float], kind: Side) -> None:
    if not curve:
        raise PolicyError(f"The {kind} scores of a layer are empty. Give the harm of at least one bit-width.")
    for bits, harm in curve.items():
        if not is_legal(bits, kind) or not math.isfinite(harm):
            legal = describe_bits(legal_bits(kind))
            raise PolicyError(f"The {kind} score at {bits!r} bits is {harm!r}. Legal: bits {legal}, finite harm.")


def _check_program(program: Program, layers: Mapping[str, LayerScores]) -> None:
    """A program may speak only of what the table holds."""
    for key, names in (("order", program.order), ("activation_order", program.activation_order or ())):
        for name in names:
            if name not in layers:
                raise PolicyError(f"{key}: there are no scores for the layer {name!r}.{did_you_mean(name, layers)}")
    for name, side, bits in program.pairs.variables if program.pairs else ():
        if name not in layers:
            raise PolicyError(f"pairs: there are no scores for the layer {name!r}.{did_you_mean(name, layers)}")
        legal = sorted(getattr(layers[name], side))
        if bits not in legal:
            raise PolicyError(f"pairs: there is no {side} score for {name!r} at {bits} bits. Legal: {legal}.")


def _program_to_file(program: Program) -> dict[str, Any]:
    """Without the order of inputs where there is none, so that older versions read it."""
    return {key: value for key, value in asdict(program).items() if key != "activation_order" or value is not None}


def _program(content: dict[str, Any]) -> Program:
    pairs = content["pairs"]
    found = Pairs(tuple(map(tuple, pairs["variables"])), tuple(map(tuple, pairs["matrix"]))) if pairs else None
    inputs = content["activation_order"]
    return Program(
        coupled=content["coupled"],
        order=tuple(content["order"]),
        activation_order=None if inputs is None else tuple(inputs),
        box=content["box"],
        pairs=found,
    )


def _at(curve: Mapping[int, float], bits: int | None, place: str) -> float:
    if bits is not None and bits not in curve:
        raise PolicyError(f"There is no score for {place} at {bits} bits. Legal: {sorted(curve)}.")
    return 0.0 if bits is None else curve[bits]


def _to_file(curve: Mapping[int, float]) -> dict[str, float]:
    return {str(bits): float(harm) for bits, harm in curve.items()}


def _from_file(curve: Mapping[str, float]) -> dict[int, float]:
    return {int(bits): harm for bits, harm in curve.items()}
