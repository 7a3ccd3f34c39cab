"""What a network takes on one device, layer by layer and option by option: measured once, used for any budget."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from mixbit import _io
from mixbit._bits import ACTIVATION_BITS, WEIGHT_BITS, describe_bits, read_option
from mixbit.cost._bits import LayerBits, check_layer_names
from mixbit.errors import BudgetError, PolicyError, did_you_mean

if TYPE_CHECKING:
    from mixbit.network import Network

__all__ = ["Device", "ExportCpu", "LatencyCheck", "LatencyTable", "LatencyUnit", "LayerLatency", "Part", "Timing"]

LatencyUnit: TypeAlias = Literal["ns", "instructions"]
"""Nanoseconds of one core's time, or instructions that a microcontroller executes."""
ExportCpu: TypeAlias = Literal["any", "vnni"]
"""As `mixbit export --cpu`: processors that a file is written for, which decides its kernels."""

_STRICT: dict[str, Any] = {"extra": "forbid"}
_INNERMOST = re.compile(r"[\[{]\n[^\[\]{}]*\n *[\]}]")
# 104 days in nanoseconds; sums over any number of layers stay exact in 64 bits.
_LARGEST = 2**53


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Repeated measurements of one thing, in the unit of the table.

    Raises:
        BudgetError: a value is negative, or not below 2^53.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    median: int
    spread: int
    """Interquartile range: half of the measurements lie within it."""

    def __post_init__(self) -> None:
        _check_amounts(median=self.median, spread=self.spread)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerLatency:
    """One layer: what it is, and what it takes at each option.

    Raises:
        BudgetError: there is no option, or one that is not written as `W3A4`.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    kind: str
    """The kind of operation, as `mixbit.network.Layer.kind`."""
    weight_shape: tuple[int, ...]
    groups: int
    input_shape: tuple[int, ...]
    """Shape of one sample's input, as `output_shape`: a layer on larger maps takes longer, with the same weights."""
    output_shape: tuple[int, ...]
    options: dict[str, Timing]
    """`W3A4` (3-bit weights, 4-bit input) -> what the layer takes then, its input brought to those bits included."""

    def __post_init__(self) -> None:
        wrong = [text for text in self.options if not _is_option(text)]
        if wrong or not self.options:
            found = f"the option {wrong[0][:40]!r}" if wrong else "no option at all"
            raise BudgetError(
                f"A latency table has {found} for a layer. Legal: W3A4, with {describe_bits(WEIGHT_BITS)} bits for "
                f"weights and {describe_bits(ACTIVATION_BITS)} for activations, or 32 for float32."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of the network that belongs to no layer: an add, a pool, the quantization of the input, a run's overhead.

    Raises:
        BudgetError: a value is negative, or not below 2^53.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    name: str
    kind: str
    """Kind of the operation, or `overhead`: what a run takes beyond all operations."""
    shape: tuple[int, ...]
    """Shape of one sample's result; empty for overhead."""
    uses: int = 1
    """How often a run does this; the numbers are those of all together."""
    median: int
    spread: int
    """Interquartile range, as in `Timing`."""

    def __post_init__(self) -> None:
        _check_amounts(median=self.median, spread=self.spread)


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyCheck:
    """The table's sum beside a measurement of the whole network, under a policy that the table was not made from."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    name: str
    bits: dict[str, str]
    """Bits of every layer, by its name: `W3A4`."""
    predicted: int
    measured: int
    spread: int
    """Interquartile range of the measurement."""

    @property
    def error_percent(self) -> float:
        """`100 (predicted - measured) / measured`.

        >>> LatencyCheck(name="random", bits={}, predicted=110, measured=100, spread=2).error_percent
        10.0
        """
        return 100.0 * (self.predicted - self.measured) / self.measured if self.measured else math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What was measured on."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    cpu: str
    """Model of the processor."""
    cores: int
    """That the machine has; `LatencyTable.threads` are used."""
    flags: tuple[str, ...] = ()
    """What its kernels can use, e.g. `avx2`, `avx512f`, `avx512_vnni`; empty where that is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyTable:
    """Measured cost of every layer at every option, and of the rest of the network.

    The cost of a policy is the sum of its layers' options and of all other parts, in whole units.

    Raises:
        BudgetError: no layer, another unit, or numbers that cannot be.

    >>> conv = LayerLatency(kind="linear", weight_shape=(10, 64), groups=1, input_shape=(64,), output_shape=(10,),
    ...     options={"W8A8": Timing(median=9_000, spread=90), "W4A8": Timing(median=9_000, spread=110)})
    >>> rest = Part(name="run", kind="overhead", shape=(), median=2_500, spread=40)
    >>> table = LatencyTable(fingerprint="sha256:0123456789abcdef", target="onnxruntime", unit="ns",
    ...     device=Device(cpu="a CPU", cores=2), runtime="onnxruntime", runtime_version="1.31.1", threads=1, batch=1,
    ...     repeats=50, layers={"fc": conv}, other=(rest,))
    >>> table.cost({"fc": LayerBits(4, 8)})
    11500
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    FORMAT: ClassVar[str] = "mixbit-latency"
    VERSION: ClassVar[int] = 1

    fingerprint: str
    """`Network.fingerprint` of the network that was measured."""
    target: str
    """What it ran on, e.g. `onnxruntime`."""
    unit: LatencyUnit
    device: Device
    runtime: str
    runtime_version: str
    threads: int
    """Threads of one inference, and so the cores that it can use."""
    batch: int
    """Samples of one run; all numbers are those of one run."""
    repeats: int
    """Runs that each median is of."""
    layers: dict[str, LayerLatency]
    """All layers, in execution order."""
    other: tuple[Part, ...]
    """What no layer accounts for, part by part."""
    float32: Timing | None = None
    """The float32 network on the same target, if it was measured."""
    checks: tuple[LatencyCheck, ...] = ()
    """How well the sums predict whole networks."""
    notes: tuple[str, ...] = ()
    """What a reader should know, e.g. that fewer bits bring no speed."""
    cpu: ExportCpu | None = None
    """Files for which processors were measured; None where there is no choice, and in tables of before there was."""
    kernels: dict[str, Timing] = field(default_factory=dict)
    """What each kernel of the runtime takes, by operation, types and shapes: layers of one geometry share theirs."""

    def __post_init__(self) -> None:
        if self.unit not in ("ns", "instructions"):
            raise BudgetError(f"The unit {self.unit!r} is not legal. Legal: 'ns', 'instructions'.")
        for name in ("threads", "batch", "repeats"):
            if getattr(self, name) < 1:
                raise BudgetError(f"{name} {getattr(self, name)!r} is not legal. Legal: a whole number from 1 up.")
        if not self.layers:
            raise BudgetError("The latency table has no layer. Build it with mixbit latency build.")

    @property
    def rest(self) -> int:
        """Sum of all that no layer accounts for."""
        return sum(part.median for part in self.other)

    @property
    def key(self) -> str:
        """The name of this cost in a policy: `latency_ns` or `latency_instructions`."""
        return f"latency_{self.unit}"

    def time(self, layer: str, bits: LayerBits) -> int:
        """What one layer takes at these bits, in the unit of the table.

        Raises:
            BudgetError: the layer or the option was not measured.
        """
        if layer not in self.layers:
            raise BudgetError(
                f"The latency table does not know the layer {layer!r}.{did_you_mean(layer, self.layers)} "
                "Build a table of this network: mixbit latency build."
            )
        found = self.layers[layer].options
        if str(bits) not in found:
            raise BudgetError(
                f"The latency table has no measurement of {layer!r} at {bits}. Measured: {', '.join(found)}. Allow "
                "these bits only (scores and pins), or build the table with more: mixbit latency build --bits."
            )
        return found[str(bits)].median

    def cost(self, layers: Mapping[str, LayerBits]) -> int:
        """What one run of the whole network takes: the sum over layers and all other parts, exact.

        Args:
            layers: bits of every layer, by name.

        Raises:
            BudgetError: a layer or an option was not measured.
        """
        return self.rest + sum(self.time(name, bits) for name, bits in layers.items())

    def check(self, network: Network) -> LatencyTable:
        """Make sure that the table is one of `network` at its input size.

        Returns:
            This table.

        Raises:
            BudgetError: it was measured on another network, or with inputs or outputs of another size.
        """
        remedy = "Build a table of this network: mixbit latency build."
        if self.fingerprint != network.fingerprint:
            raise BudgetError(
                f"The latency table was measured on another network: its fingerprint is {self.fingerprint!r}, this "
                f"network's is {network.fingerprint!r}. {remedy}"
            )
        check_layer_names(network, self.layers, "The latency table")
        for layer in network.layers:
            measured = self.layers[layer.name]
            for what, did, does, was, now in (
                ("inputs", "read", "reads", measured.input_shape, layer.input_shape),
                ("outputs", "gave", "gives", measured.output_shape, layer.output_shape),
            ):
                if was != now:
                    raise BudgetError(
                        f"The latency table was measured with {what} of another size: {layer.name} {did} "
                        f"{_shape(was)} and {does} {_shape(now)} here. {remedy}"
                    )
        return self

    def to_json(self) -> str:
        """The table as versioned JSON text; `from_json` reads it back to an equal object."""
        content = asdict(self)
        for found, one in zip(content["checks"], self.checks, strict=True):
            found["error_percent"] = round(one.error_percent, 2)
        text = json.dumps({"format": self.FORMAT, "version": self.VERSION, **content}, indent=1, ensure_ascii=False)
        # What holds nothing but numbers and texts goes on one line: one line an option.
        return _INNERMOST.sub(lambda found: re.sub(r"\s*\n\s*", " ", found[0]), text)

    @classmethod
    def from_json(cls, text: str) -> LatencyTable:
        """Read what `to_json` wrote.

        Raises:
            BudgetError: no JSON, another format, a newer version, a missing or unknown key, or a wrong value.
        """
        return _read(_io.parse_json(text, where="The latency table", error=BudgetError), "The text")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table as JSON, atomically."""
        _io.write_text(path, self.to_json() + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LatencyTable:
        """Read a table from a file.

        Raises:
            BudgetError: as `from_json`, or there is no such file.
        """
        return _read(_io.read_json(path, error=BudgetError), repr(str(path)))


def _read(content: Any, where: str) -> LatencyTable:
    body = _body(content, where)
    for one in body["checks"] if isinstance(body.get("checks"), list) else ():
        if isinstance(one, dict):
            one.pop("error_percent", None)  # for the reader of the file; it follows from the two numbers
    return _io.as_record(
        body,
        LatencyTable,
        where=f"{where}, a latency table,",
        remedy="Build it again: mixbit latency build.",
        error=BudgetError,
    )


def _body(content: Any, where: str) -> dict[str, Any]:
    """The table's own keys, once format and version were found to be ours."""
    found = content.get("format") if isinstance(content, dict) else type(content).__name__
    if found != LatencyTable.FORMAT:
        raise BudgetError(
            f"{where} is no latency table: its format is {str(found)[:60]!r}, legal is {LatencyTable.FORMAT!r}. Give "
            "what mixbit latency build wrote."
        )
    version = content.get("version")
    if version != LatencyTable.VERSION or isinstance(version, bool):
        raise BudgetError(
            f"{where} is a latency table of version {str(version)[:60]}; this mixbit reads {LatencyTable.VERSION}. "
            "Build it again, or upgrade mixbit."
        )
    return {key: value for key, value in content.items() if key not in ("format", "version")}


def _check_amounts(**amounts: int) -> None:
    for name, value in amounts.items():
        if not 0 <= value < _LARGEST:
            raise BudgetError(f"A latency table has the {name} {value}. Legal: whole numbers from 0 to below 2^53.")


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _is_option(text: str) -> bool:
    """Whether a text is bits as `LayerBits` writes them: `W08A8` would name an option twice."""
    pair = read_option(text)
    try:
        return pair is not None and str(LayerBits(*pair)) == text
    except PolicyError:
        return False
