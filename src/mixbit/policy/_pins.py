"""From names and patterns to exact layers whose bits are given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mixbit.cost import LayerBits
from mixbit.errors import BudgetError, did_you_mean
from mixbit.policy._patterns import matching

if TYPE_CHECKING:
    from mixbit.network import Network

__all__ = ["resolve_pins"]


def resolve_pins(
    network: Network,
    patterns: Mapping[str, LayerBits] | None = None,
    first_last: LayerBits | None = LayerBits(8, 8),  # noqa: B008 (frozen, so a shared default is safe)
) -> dict[str, LayerBits]:
    """Exact layer name -> bits of every pinned layer, in execution order.

    Args:
        network: the captured network.
        patterns: an exact layer name; a glob such as `block*.conv1`; or `re:` and a regular expression that must match
            the whole name -> bits. An exact name wins over a pattern.
        first_last: bits of the first and the last layer in execution order, unless `patterns` says otherwise; None pins
            neither.

    Raises:
        BudgetError: a pattern matches no layer or is no regular expression, or two patterns give a layer different
            bits.

    >>> from types import SimpleNamespace
    >>> names = ("stem", "block.conv1", "block.conv2", "fc")
    >>> net = SimpleNamespace(layers=[SimpleNamespace(name=name) for name in names])
    >>> {name: str(bits) for name, bits in resolve_pins(net, {"re:block.*1": LayerBits(4, 4)}).items()}
    {'stem': 'W8A8', 'block.conv1': 'W4A4', 'fc': 'W8A8'}
    """
    names = [layer.name for layer in network.layers]
    pins = {name: first_last for name in names[:1] + names[-1:] if first_last is not None}
    pins.update(_by_expression(names, patterns or {}))
    for pattern, bits in (patterns or {}).items():
        if not _is_pattern(pattern, names):
            if pattern not in names:
                raise _no_match(pattern, names)
            pins[pattern] = bits
    return {name: pins[name] for name in names if name in pins}


def _by_expression(names: list[str], patterns: Mapping[str, LayerBits]) -> dict[str, LayerBits]:
    found: dict[str, tuple[str, LayerBits]] = {}
    for pattern, bits in patterns.items():
        if not _is_pattern(pattern, names):
            continue
        matched = matching(pattern, names)
        if not matched:
            raise _no_match(pattern, names)
        for name in matched:
            other, earlier = found.setdefault(name, (pattern, bits))
            if earlier != bits and name not in patterns:
                raise BudgetError(
                    f"The layer {name!r} is pinned at {earlier} by {other!r} and at {bits} by {pattern!r}. "
                    "Pin it by its exact name, which wins over patterns, or narrow one of the two."
                )
    return {name: bits for name, (_, bits) in found.items()}


def _is_pattern(pattern: str, names: list[str]) -> bool:
    return pattern.startswith("re:") or (pattern not in names and any(mark in pattern for mark in "*?["))


def _no_match(pattern: str, names: list[str]) -> BudgetError:
    near = did_you_mean(pattern.removeprefix("re:"), names)
    return BudgetError(
        f"The pin {pattern[:80]!r} matches no layer.{near} Legal: an exact layer name, a glob ('block*.conv1'), or "
        f"'re:' and a regular expression that matches a whole name; the network has {len(names)} layers "
        f"({', '.join(names[:3])}, ...)."
    )
