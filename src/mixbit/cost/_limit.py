"""One limit of a budget: its text, its exact value, and how amounts are shown in the unit that the user chose."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

from mixbit._bits import ACTIVATION_BITS, WEIGHT_BITS, describe_bits, read_product
from mixbit.cost._bits import LayerBits, Pins, uniform_bits
from mixbit.cost._costs import Costs, Macs, costs, float_costs
from mixbit.errors import BudgetError, did_you_mean

if TYPE_CHECKING:
    from mixbit.cost._latency import LatencyTable
    from mixbit.cost._memory import MemoryTable
    from mixbit.network import Network

__all__ = ["KINDS", "ON_DEVICE", "Limit", "read_bytes", "show_amount"]

DECIMAL = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
TIMES = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9}
BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "kiB": 2**10, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
NUMBER = r"[0-9]{1,30}(?:\.[0-9]{0,30})?(?:[eE][+-]?[0-9]{1,2})?"
_UNIFORM = (
    f"bits of a uniform network must be {describe_bits(WEIGHT_BITS)} for weights and {describe_bits(ACTIVATION_BITS)} "
    "for activations"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What can be limited."""

    attribute: str
    """Name in `Costs`, and key of `Budget.resolve`."""
    units: dict[str, int]
    scale: int
    """Base units (those of `attribute`) in one of the unit 1."""
    shown: tuple[str, ...]
    """Units for amounts whose limit has no unit of its own."""
    example: str
    measured: Literal["ns", "instructions"] | None = None
    """Unit of the latency table that it is read from; None is counted, without a table."""
    on_device: bool = False
    """Read from a memory table."""


_SIZES = {"": 1, **BYTES}
_SIZES_SHOWN = ("B", "kiB", "MiB", "GiB")
KINDS = {
    "bitops": Kind(attribute="bitops", units=DECIMAL, scale=1, shown=("", "k", "M", "G", "T"), example="1.2G"),
    "weight-bytes": Kind(attribute="weight_bits", units=_SIZES, scale=8, shown=_SIZES_SHOWN, example="8MiB"),
    "activation-bytes": Kind(attribute="activation_bytes", units=_SIZES, scale=1, shown=_SIZES_SHOWN, example="64kB"),
    "latency": Kind(attribute="latency", units=TIMES, scale=1, shown=tuple(TIMES), example="12ms", measured="ns"),
    "instructions": Kind(
        attribute="latency",
        units=DECIMAL,
        scale=1,
        shown=("", "k", "M", "G", "T"),
        example="12M",
        measured="instructions",
    ),
    "flash": Kind(attribute="flash_bytes", units=_SIZES, scale=1, shown=_SIZES_SHOWN, example="256kB", on_device=True),
    "ram": Kind(attribute="ram_bytes", units=_SIZES, scale=1, shown=_SIZES_SHOWN, example="64kB", on_device=True),
}

ON_DEVICE = tuple(name for name, kind in KINDS.items() if kind.on_device)
"""Kinds of limits that depend on how a network is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """An upper limit on one cost, as the user wrote it.

    Exactly one of `uniform` and `number` counts: `3x4` has the first, all other forms have the second.
    """

    kind: str
    """bitops, weight-bytes, activation-bytes, latency, instructions, flash or ram."""
    text: str
    """The value as written, e.g. `12.2x`."""
    number: Fraction = Fraction(0)
    unit: str = ""
    """A unit of the kind, `%` or `x`."""
    uniform: tuple[int, int] | None = None

    @classmethod
    def parse(cls, kind: str, text: str) -> Limit:
        """Read the value of one limit; no rounding takes place.

        Raises:
            BudgetError: the value is malformed, has an unknown unit, or is zero or negative.

        >>> Limit.parse("weight-bytes", "12.2x").number
        Fraction(61, 5)
        """
        pair = read_product(text)
        if pair is not None:
            if pair[0] not in WEIGHT_BITS or pair[1] not in ACTIVATION_BITS:
                raise _wrong(kind, text, _UNIFORM)
            return cls(kind=kind, text=text, uniform=pair)
        parts = re.fullmatch(rf"([+-]?)({NUMBER})\s*([^\s0-9.+-]\S*)?", text)
        if parts is None:
            raise _wrong(kind, text, "it is not a number with a unit")
        number, unit = Fraction(parts[2]), parts[3] or ""
        legal = [*KINDS[kind].units, "%", "x"]
        if unit not in legal:
            why = f"the unit {unit!r} is unknown.{_near_unit(unit, legal)}" if unit else "it has no unit."
            raise _wrong(kind, text, why, end="")
        if parts[1] == "-" or number == 0:
            raise _wrong(kind, text, "a limit must be above zero")
        return cls(kind=kind, text=text, number=number, unit=unit)

    @property
    def key(self) -> str:
        """The attribute of `Costs` that this limits."""
        return KINDS[self.kind].attribute

    def used(self, found: Costs) -> int:
        """What `found` uses of this, in base units (BitOps, bits, bytes, nanoseconds or instructions).

        Raises:
            BudgetError: it is read from a table, and `found` was made without that.
        """
        value: int | None = getattr(found, self.key)
        if value is None:
            raise self._no_table()
        return value

    def resolve(
        self,
        network: Network,
        pins: Pins,
        macs: Macs,
        latency: LatencyTable | None = None,
        memory: MemoryTable | None = None,
    ) -> int:
        """The largest legal cost in base units, rounded down; see `Budget.resolve`."""
        if KINDS[self.kind].measured is not None:
            self._check_table(network, latency)
        else:
            latency = None  # what is counted has a value for all bits, measured or not
        if KINDS[self.kind].on_device:
            self._check_memory(network, memory)
        else:
            memory = None
        if self.uniform is not None:
            bits = uniform_bits(network, LayerBits(*self.uniform), pins)
            return self.used(costs(network, bits, macs=macs, latency=latency, memory=memory))
        if self.unit in ("%", "x"):
            full = self.used(float_costs(network, macs=macs, latency=latency))
            return int(full * self.number / 100 if self.unit == "%" else full / self.number)
        kind = KINDS[self.kind]
        return int(self.number * kind.units[self.unit] * kind.scale)

    def _no_table(self) -> BudgetError:
        if KINDS[self.kind].on_device:
            return BudgetError(
                f"{self.kind}={self.text} needs a memory table: what a device holds beside the weights depends on how "
                "the network is written. mixbit allocate makes one from the run folder of a search; in Python, give "
                "memory=mixbit.export.c.memory_table(...)."
            )
        return BudgetError(
            f"{self.kind}={self.text} needs a latency table: what a network takes is measured, not counted. Build one "
            "with mixbit latency build, and give it: --latency TABLE to mixbit allocate, latency= in Python."
        )

    def _check_memory(self, network: Network, memory: MemoryTable | None) -> None:
        """Raise `BudgetError` unless the table is one of `network` and holds what this limit refers to."""
        if memory is None:
            raise self._no_table()
        memory.check(network)
        if self.uniform is None and self.unit in ("%", "x"):
            raise BudgetError(
                f"{self.kind}={self.text} refers to the float32 network, which has no form on the device. Write "
                f"{self.kind}={KINDS[self.kind].example} or {self.kind}=8x8."
            )

    def _check_table(self, network: Network, latency: LatencyTable | None) -> None:
        """Raise `BudgetError` unless the table is one of `network` and holds what this limit refers to."""
        if latency is None:
            raise self._no_table()
        latency.check(network)
        fitting = next(name for name, kind in KINDS.items() if kind.measured == latency.unit)
        if fitting != self.kind:
            raise BudgetError(
                f"{self.kind}={self.text}: the latency table of {latency.target} is in {latency.unit}. "
                f"Write {fitting}={KINDS[fitting].example}."
            )
        if self.uniform is None and self.unit in ("%", "x") and latency.float32 is None:
            raise BudgetError(
                f"{self.kind}={self.text} refers to the float32 network, which the latency table does not hold. Write "
                f"{fitting}={KINDS[fitting].example} or {fitting}=8x8, or build the table with the float32 network."
            )

    def show(self, value: int, full: int) -> str:
        """`value` base units in the unit of this limit, so that the text, given as a limit, allows `value`.

        Args:
            value: BitOps, bits, bytes, nanoseconds or instructions.
            full: what the float32 network uses.

        >>> Limit.parse("bitops", "0.1G").show(231_416_001, 0)
        '0.2315G'
        >>> Limit.parse("weight-bytes", "12.2x").show(1000, 12_345)     # rounded down: less compression is allowed
        '12.34x'
        """
        if self.unit == "%" and full:
            return f"{_digits(Fraction(100 * value, full))}%"
        if self.unit == "x" and value:
            return f"{_digits(Fraction(full, value), up=False)}x"
        unit = self.unit if self.uniform is None and self.unit in KINDS[self.kind].units else None
        return show_amount(self.kind, value, unit or None)


def read_bytes(text: str) -> int:
    """A size with its unit; shares of something have no meaning here.

    Raises:
        BudgetError: it is no number of bytes.

    >>> read_bytes("256kB"), read_bytes("1.5 KiB"), read_bytes("64")
    (256000, 1536, 64)
    """
    limit = Limit.parse("activation-bytes", text)
    if limit.unit not in ("", *BYTES) or limit.uniform is not None:
        raise BudgetError(f"{text!r} is no size. Write a number of bytes with a unit: {', '.join(BYTES)}; e.g. 256kB.")
    return int(limit.number * BYTES.get(limit.unit, 1))


def show_amount(kind: str, value: int, unit: str | None = None) -> str:
    """`value` base units of `kind` in `unit`, or in the largest that fits, rounded up to four digits.

    >>> show_amount("bitops", 55_313_000_000), show_amount("weight-bytes", 8 * 2**20)
    ('55.32G', '1MiB')
    """
    table = KINDS[kind]
    amount = Fraction(value, table.scale)
    if unit is None:
        unit = [one for one in table.shown if one == table.shown[0] or abs(amount) >= table.units[one]][-1]
    return f"{_digits(amount / table.units[unit])}{unit}"


def _digits(value: Fraction, *, up: bool = True) -> str:
    """Plain decimal notation with at least four significant digits, rounded in the given direction."""
    places = 0
    while places < 12 and abs(value) * 10**places < 1000:
        places += 1
    scaled = value * 10**places
    whole = -(-scaled.numerator // scaled.denominator) if up else scaled.numerator // scaled.denominator
    text = f"{abs(whole):0{places + 1}d}"
    text = f"{text[:-places]}.{text[-places:]}".rstrip("0").rstrip(".") if places else text
    return f"-{text}" if whole < 0 else text


def _near_unit(unit: str, legal: list[str]) -> str:
    """Units differ in case most often, which the usual distance of words does not forgive."""
    same = [one for one in legal if one and one.lower() == unit.lower()]
    longer = [one for one in legal if len(unit) == 1 and one.lower() == f"{unit}b".lower()]
    return f" Did you mean {(same + longer)[0]!r}?" if same + longer else did_you_mean(unit, legal)


def _wrong(kind: str, text: str, why: str, end: str = ".") -> BudgetError:
    """The error that shows every legal form of `kind`."""
    table = KINDS[kind]
    return BudgetError(
        f"{kind}={text[:60]!s}: {why}{end} Legal: {table.example} (units {', '.join(filter(None, table.units))}), "
        f"3x4 (what the uniform W3A4 network uses), 1.5% (of float32), 12.2x (float32 divided by 12.2)."
    )
