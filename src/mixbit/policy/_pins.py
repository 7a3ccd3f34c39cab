"""From names and patterns to exact layers whose bits are given."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mixbit.cost import LayerBits
from mixbit.errors import BudgetError, did_you_mean

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
        patterns: an exact layer name, or `re:` and a regular expression that must match the whole name -> bits. An
            exact name wins over an expression.
        first_last: bits of the first and the last layer in execution order, unless `patterns` says otherwise; None pins
            neither.

    Raises:
        BudgetError: a pattern matches no layer or is no regular expression, or two expressions give a layer different
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
        if not pattern.startswith("re:"):
            if pattern not in names:
                raise _no_match(pattern, names)
            pins[pattern] = bits
    return {name: pins[name] for name in names if name in pins}


def _by_expression(names: list[str], patterns: Mapping[str, LayerBits]) -> dict[str, LayerBits]:
    found: dict[str, tuple[str, LayerBits]] = {}
    for pattern, bits in patterns.items():
        if not pattern.startswith("re:"):
            continue
        matched = [name for name in names if _compiled(pattern).fullmatch(name)]
        if not matched:
            raise _no_match(pattern, names)
        for name in matched:
            other, earlier = found.setdefault(name, (pattern, bits))
            if earlier != bits and name not in patterns:
                raise BudgetError(
                    f"The layer {name!r} is pinned at {earlier} by {other!r} and at {bits} by {pattern!r}. "
                    "Pin it by its exact name, which wins over expressions, or narrow one of the two."
                )
    return {name: bits for name, (_, bits) in found.items()}


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern.removeprefix("re:"))
    except (re.error, OverflowError, RecursionError) as cause:
        raise BudgetError(f"The pin {pattern[:80]!r} is no regular expression: {cause}.") from cause


def _no_match(pattern: str, names: list[str]) -> BudgetError:
    near = did_you_mean(pattern.removeprefix("re:"), names)
    return BudgetError(
        f"The pin {pattern[:80]!r} matches no layer.{near} Legal: an exact layer name, or 're:' and a regular "
        f"expression that matches a whole name; the network has {len(names)} layers ({', '.join(names[:3])}, ...)."
    )
