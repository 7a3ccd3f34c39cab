"""The policy within a budget that is nearest to wished bits: how a search keeps its hard limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mixbit.allocation.allocator import allocate
from mixbit.allocation.settings import AllocationSettings
from mixbit.cost import Budget
from mixbit.errors import BudgetError
from mixbit.policy import LayerScores, Policy, Program, Scores, Terms

if TYPE_CHECKING:
    from mixbit.network import Network

__all__ = ["project"]


def project(
    network: Network,
    wished: Mapping[str, tuple[float, float]],
    budget: Budget,
    *,
    bits: Sequence[int],
    terms: Terms = Terms(),  # noqa: B008 (frozen)
    coupled: bool = False,
) -> Policy:
    """The legal policy of least squared distance from `wished`, by the exact solver of `allocate`.

    Minimises `sum (b_w - wished_w)^2 + (b_a - wished_a)^2` over the layers that are not pinned, within all limits. A
    search that acts in bits (an agent's actions, a mutated genome) is so brought back under its budget with as little
    change as can be, and what is within it already stays as it is.

    Args:
        network: the captured network.
        wished: weight and activation bits of every layer that is not pinned, whole or not.
        budget: hard limits.
        bits: what a layer may have.
        terms: pins, ties and tables.
        coupled: weights and activation of a free layer get the same bits.

    Returns:
        The policy; its `allocation` holds the squared distance as `objective`.

    Raises:
        InfeasibleBudget: no policy meets the budget; with the nearest feasible limits and the layers that block them.
        BudgetError: a layer without a wish, or no bits to choose from.

    >>> import torch
    >>> from mixbit.network import capture
    >>> net = capture(torch.nn.Sequential(torch.nn.Linear(64, 10)), torch.zeros(1, 64))
    >>> found = project(net, {"0": (4.0, 2.2)}, Budget.parse(["bitops=4k"]), bits=(2, 3, 4), terms=Terms(pins={}))
    >>> str(found.layers["0"]), round(found.allocation["objective"], 2)         # 640 * 3 * 2; (3 - 4)^2 + (2 - 2.2)^2
    ('W3A2', 1.04)
    """
    pins = terms.pinned(network)
    free = [layer.name for layer in network.layers if layer.name not in pins]
    missing = [name for name in free if name not in wished]
    if missing or not bits:
        what = f"no wish for {', '.join(missing[:5])}" if missing else "no bits"
        raise BudgetError(f"projection: {what}. Give bits to choose from, and two wished ones for every free layer.")
    table = {name: LayerScores(*({b: (b - wish) ** 2 for b in bits} for wish in wished[name])) for name in free}
    program = Program(coupled=coupled)
    scores = Scores(fingerprint=network.fingerprint, method="projection", layers=table, program=program)
    return allocate(network, scores, budget, AllocationSettings.under(terms, repair="none"))[0]
