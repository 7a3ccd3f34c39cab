"""Hard limits on costs, in the user's own units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mixbit.cost._bits import Pins
from mixbit.cost._costs import Costs, Macs
from mixbit.cost._limit import KINDS, Limit, show_amount
from mixbit.errors import BudgetError, did_you_mean

if TYPE_CHECKING:
    from mixbit.cost._latency import LatencyTable
    from mixbit.cost._memory import MemoryTable
    from mixbit.network import Network

__all__ = ["Budget"]


@dataclass(frozen=True, slots=True)
class Budget:
    """One or more upper limits, at most one of each kind; all of them hold at once.

    >>> budget = Budget.parse(["bitops=3x4", "weight-bytes=12.2x"])
    >>> budget.texts
    {'bitops': '3x4', 'weight-bytes': '12.2x'}
    """

    limits: tuple[Limit, ...]

    @classmethod
    def parse(cls, texts: Sequence[str]) -> Budget:
        """Read limits such as `bitops=1.2G`; numbers are kept exactly, as fractions.

        Kinds: `bitops`, `weight-bytes`, `activation-bytes`; measured ones, for which a `LatencyTable` is needed later:
        `latency`, `instructions`; those of a device, for which a `MemoryTable` is: `flash`, `ram`. Values:

        * `1.2G`: k, M, G, T for BitOps and instructions; B, kB, MB, GB, kiB, MiB, GiB for bytes; a bare number is in
          ones; ns, us, ms, s for times;
        * `3x4`: what the uniform network of 3 weight and 4 activation bits uses under the same pins;
        * `1.5%`: of what the float32 network uses (1024 BitOps a MAC, 4 bytes a weight or activation, the
          measured time);
        * `12.2x`: what the float32 network uses, divided by 12.2.

        Raises:
            BudgetError: no limit, an unknown kind, a kind twice, or a value that is malformed, zero or negative.

        >>> Budget.parse(["bitop=3x4"])
        Traceback (most recent call last):
        mixbit.errors.BudgetError: 'bitop=3x4': the kind 'bitop' is unknown. Did you mean 'bitops'? Legal: ...
        """
        limits: dict[str, Limit] = {}
        for text in [texts] if isinstance(texts, str) else texts:
            kind, equals, value = (part.strip() for part in text.partition("="))
            if not equals or kind not in KINDS:
                raise _unknown_kind(text, kind, equals)
            if kind in limits:
                raise BudgetError(
                    f"{kind} is limited twice: {limits[kind].text!r} and {value[:60]!r}. Keep one of them."
                )
            limits[kind] = Limit.parse(kind, value)
        if not limits:
            raise BudgetError(f"The budget is empty. Give at least one limit: {_forms()}.")
        return cls(tuple(limits.values()))

    @property
    def texts(self) -> dict[str, str]:
        """Kind -> value, as the user wrote them."""
        return {limit.kind: limit.text for limit in self.limits}

    def resolve(
        self,
        network: Network,
        pins: Pins,
        macs: Macs = "exact",
        latency: LatencyTable | None = None,
        memory: MemoryTable | None = None,
    ) -> dict[str, int]:
        """The limits as whole numbers, by attribute of `Costs`: `bitops`, `weight_bits` (bytes times 8), ...

        A cost meets its limit when it is at most this number, so fractions are rounded down. `3x4` is the cost of the
        uniform network with the same `pins` and `macs`; `%` and `x` refer to the float32 network with the same `macs`.

        Raises:
            BudgetError: a limit without its table, or with one of another network, of another unit, or without what
                the limit refers to.

        >>> from mixbit.network import Layer, Network
        >>> fc = Layer(name="fc", kind="linear", parameter="fc.weight", weight_shape=(10, 64), groups=1, macs=640,
        ...     macs_limpq=640, input_shape=(64,), output_shape=(10,), input_tensor="x", output_tensor="y",
        ...     input_signed=True)
        >>> net = Network(layers=(fc,), tensors=(), steps=(), joins=(), skipped=(), other_macs=0)
        >>> Budget.parse(["bitops=3x4", "weight-bytes=12.2x"]).resolve(net, {})     # 640*3*4; 640*32/12.2 = 1678.7
        {'bitops': 7680, 'weight_bits': 1678}
        """
        return {limit.key: limit.resolve(network, pins, macs, latency, memory) for limit in self.limits}

    def slack(self, found: Costs, resolved: Mapping[str, int]) -> dict[str, float]:
        """What is left of each limit, by kind, in BitOps, bytes (eighths for weights) and units of the latency table.

        A negative number says that the limit is exceeded.

        Args:
            found: what `mixbit.cost.costs` says of a policy.
            resolved: what `resolve` says of this budget.
        """
        left = {limit: resolved[limit.key] - limit.used(found) for limit in self.limits}
        return {limit.kind: bits / 8 if limit.key == "weight_bits" else bits for limit, bits in left.items()}

    def check(self, found: Costs, resolved: Mapping[str, int]) -> None:
        """Compare exact costs with resolved limits.

        Raises:
            BudgetError: a limit is exceeded; the message gives use, limit and excess of each such limit.

        >>> budget = Budget.parse(["bitops=1k"])
        >>> budget.check(Costs(bitops=1_250, weight_bits=0, activation_bytes=0, peak_step=""), {"bitops": 1000})
        Traceback (most recent call last):
        mixbit.errors.BudgetError: The budget is exceeded: bitops=1k allows 1k and 1.25k is used, 250 too much.
        """
        over = []
        for limit in self.limits:
            allowed, used = resolved[limit.key], limit.used(found)
            if used > allowed:
                shown = [show_amount(limit.kind, value) for value in (allowed, used, used - allowed)]
                over.append(f"{limit.kind}={limit.text} allows {shown[0]} and {shown[1]} is used, {shown[2]} too much")
        if over:
            raise BudgetError(f"The budget is exceeded: {'; '.join(over)}.")


def _unknown_kind(text: str, kind: str, equals: str) -> BudgetError:
    if not equals:
        return BudgetError(f"{text[:60]!r} is not a limit: it has no '='. Legal: {_forms()}.")
    near = did_you_mean(kind, KINDS)
    return BudgetError(f"{text[:60]!r}: the kind {kind[:40]!r} is unknown.{near} Legal: {_forms()}.")


def _forms() -> str:
    return ", ".join(f"{name}={kind.example}" for name, kind in KINDS.items()) + ", and as values 3x4, 1.5%, 12.2x"
