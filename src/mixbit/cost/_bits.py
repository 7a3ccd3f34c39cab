"""Bits of one layer, and pins: layers whose bits are given beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from mixbit._bits import FLOAT_BITS, Side, describe_bits, is_legal, legal_bits
from mixbit.errors import PolicyError, did_you_mean

if TYPE_CHECKING:
    from mixbit.network import Network

__all__ = ["FLOAT_BITS", "LayerBits", "Pins", "check_layer_names", "uniform_bits", "width"]

_SIDES: tuple[Side, ...] = ("weight", "activation")


@dataclass(frozen=True, slots=True)
class LayerBits:
    """Bits of a layer's weights and of its input tensor; None leaves that side in float32.

    Raises:
        PolicyError: a value is neither None nor a legal bit-width: 1 to 8 for weights, 1 to 16 for activations.

    >>> LayerBits(3, 4)
    LayerBits(weight_bits=3, activation_bits=4)
    >>> str(LayerBits(8, None))
    'W8A32'
    """

    weight_bits: int | None
    activation_bits: int | None

    def __post_init__(self) -> None:
        for side, bits in zip(_SIDES, (self.weight_bits, self.activation_bits), strict=True):
            if bits is not None and not is_legal(bits, side):
                legal = describe_bits(legal_bits(side))
                raise PolicyError(
                    f"{side}_bits {str(bits)[:40]!r} is not legal. Legal: whole numbers {legal}, "
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
