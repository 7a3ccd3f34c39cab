"""How far two score tables, or two policies, of one architecture say the same."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from mixbit.cost import LayerBits
from mixbit.errors import PolicyError
from mixbit.policy._program import Side
from mixbit.policy._scores import LayerScores, Scores

__all__ = ["PolicyDistance", "policy_distance", "rank_correlation"]

SIDES: tuple[Side, ...] = ("weight", "activation")


@dataclass(frozen=True, slots=True)
class PolicyDistance:
    """How far two policies are apart, over the layers that both have."""

    mean_bits: float
    """Mean of `|difference|` of the bits over layers and sides; float32 counts as 32."""
    equal_share: float
    """Share of layers with equal bits on both sides, 0 to 1."""
    layers: int


def rank_correlation(one: Scores, other: Scores) -> dict[Side, dict[int, float | None]]:
    """Spearman's rank correlation of the layers' harms in two tables, per side and bit-width.

    It says whether the two tables put the layers in the same order, at each bit-width by itself; +1 is the same order.

    Returns:
        Side -> bits -> correlation, over the layers and bits that both tables have. None where there are fewer than
        three such layers, or all harms of a table are equal: there is no order then.

    Raises:
        PolicyError: the tables have no layer in common.

    >>> def table(*harms):
    ...     layers = {name: LayerScores({2: h}, {2: 0.0}) for name, h in zip("abcd", harms)}
    ...     return Scores(fingerprint="sha256:0123456789abcdef", method="by hand", layers=layers)
    >>> rank_correlation(table(1, 2, 3, 4), table(10, 20, 40, 30))      # 1 - 6 * 2 / (4 * 15)
    {'weight': {2: 0.8}, 'activation': {2: None}}
    """
    names = _common(one.layers, other.layers)
    first, second = ([table.layers[name] for name in names] for table in (one, other))
    return {
        side: {
            bits: _spearman(_harms(first, side, bits), _harms(second, side, bits))
            for bits in _shared_bits([*first, *second], side)
        }
        for side in SIDES
    }


def policy_distance(one: Mapping[str, LayerBits], other: Mapping[str, LayerBits]) -> PolicyDistance:
    """Mean difference of bits, and the share of layers with the same bits.

    Raises:
        PolicyError: the policies have no layer in common.

    >>> a = {"conv": LayerBits(4, 4), "fc": LayerBits(8, 8)}
    >>> policy_distance(a, {"conv": LayerBits(3, 6), "fc": LayerBits(8, 8)})        # (1 + 2 + 0 + 0) / 4
    PolicyDistance(mean_bits=0.75, equal_share=0.5, layers=2)
    """
    names = _common(one, other)
    steps = [abs(a - b) for name in names for a, b in zip(_widths(one[name]), _widths(other[name]), strict=True)]
    equal = sum(one[name] == other[name] for name in names)
    return PolicyDistance(mean_bits=sum(steps) / len(steps), equal_share=equal / len(names), layers=len(names))


def _common(one: Mapping[str, object], other: Mapping[str, object]) -> list[str]:
    names = [name for name in one if name in other]
    if not names:
        raise PolicyError("There is no layer that both have: nothing to compare. Give two of one architecture.")
    return names


def _harms(tables: list[LayerScores], side: Side, bits: int) -> list[float]:
    return [getattr(table, side)[bits] for table in tables]


def _shared_bits(tables: list[LayerScores], side: Side) -> list[int]:
    """Bit-widths that every layer of both tables has, from the most to the fewest."""
    sets = [set(getattr(table, side)) for table in tables]
    return sorted(set.intersection(*sets), reverse=True)


def _spearman(one: list[float], other: list[float]) -> float | None:
    if len(one) < 3 or len(set(one)) == 1 or len(set(other)) == 1:
        return None
    from scipy.stats import spearmanr

    found = float(spearmanr(one, other).statistic)
    return round(found, 12) if math.isfinite(found) else None


def _widths(bits: LayerBits) -> tuple[int, int]:
    return bits.weight_bits or 32, bits.activation_bits or 32
