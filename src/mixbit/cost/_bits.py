"""Bits of one layer, and pins: layers whose bits are given beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from mixbit.errors import PolicyError, did_you_mean

if TYPE_CHECKING:
    from mixbit.network import Network

__all__ = ["FLOAT_BITS", "MAX_BITS", "MIN_BITS", "LayerBits", "Pins", "check_layer_names", "uniform_bits", "width"]

MIN_BITS = 2
MAX_BITS = 8
FLOAT_BITS = 32
"""What a tensor that is left in float32 counts as."""


@dataclass(frozen=True, slots=True)
class LayerBits:
    """Bits of a layer's weights and of its input tensor; None leaves that side in float32.

    Raises:
        PolicyError: a value is neither None nor a whole number from 2 to 8.

    >>> LayerBits(3, 4)
    LayerBits(weight_bits=3, activation_bits=4)
    >>> str(LayerBits(8, None))
    'W8A32'
    """

    weight_bits: int | None
    activation_bits: int | None

    def __post_init__(self) -> None:
        for name, bits in (("weight_bits", self.weight_bits), ("activation_bits", self.activation_bits)):
            if bits is not None and not (isinstance(bits, int) and MIN_BITS <= bits <= MAX_BITS):
                raise PolicyError(
                    f"{name} {str(bits)[:40]!r} is not legal. Legal: whole numbers {MIN_BITS} to {MAX_BITS}, "
                    "or None (null in a file) to leave that side in float32."
                )

    def __str__(self) -> str:
        return f"W{width(self.weight_bits)}A{width(self.activation_bits)}"


Pins: TypeAlias = Mapping[str, LayerBits]
"""Exact layer name -> its bits."""


def width(bits: int | None) -> int:
    """Bits as costs count them: float32 is 32.

    >>> width(3), width(None)
    (3, 32)
    """
    return FLOAT_BITS if bits is None else bits


def uniform_bits(network: Network, bits: LayerBits, pins: Pins) -> dict[str, LayerBits]:
    """All layers at `bits`, but the pinned ones at theirs, in execution order."""
    return {layer.name: pins.get(layer.name, bits) for layer in network.layers}


def check_layer_names(network: Network, names: Mapping[str, object], what: str) -> None:
    """Raise `PolicyError` unless `names` are exactly the layers of `network`; `what` opens the message."""
    legal = {layer.name: None for layer in network.layers}
    unknown = [name for name in names if name not in legal]
    if unknown:
        others = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        raise PolicyError(
            f"{what} names the layer {unknown[0]!r}{others}, which this network does not have."
            f"{did_you_mean(unknown[0], legal)} It has {len(legal)} layers; `mixbit inspect` lists them."
        )
    missing = [name for name in legal if name not in names]
    if missing:
        raise PolicyError(
            f"{what} has no bits for {len(missing)} of {len(legal)} layers: {', '.join(missing[:5])}"
            f"{', ...' if len(missing) > 5 else ''}. Give each of them bits, or null for float32."
        )
