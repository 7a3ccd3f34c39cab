"""Policies under limits of a device: chosen by a table, then laid out as C, which has the last word."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from mixbit.allocation import Allocation
from mixbit.cost import Budget, MemoryTable
from mixbit.errors import BudgetError, InfeasibleBudget
from mixbit.export import GraphRounding
from mixbit.export.c import COptions, Footprint, memory_table, predict
from mixbit.network import Network
from mixbit.policy import Policy
from mixbit.runs._lowering import lower_at
from mixbit.runs.inspecting import OpenedModel

__all__ = ["ON_DEVICE", "choose_to_fit"]

ON_DEVICE = ("flash", "ram")
"""Limits that depend on how a network is written."""
_TRIES = 8


def choose_to_fit(
    opened: OpenedModel,
    network: Network,
    budget: Budget,
    options: COptions,
    choose: Callable[[MemoryTable], tuple[Policy, Allocation]],
    rounding: GraphRounding = "single",
) -> tuple[Policy, Allocation, MemoryTable, Footprint]:
    """A policy whose C was laid out and found to fit.

    The table's RAM is the sum of what is needed at a step. Where tensors cannot be placed without gaps, the arena is
    larger; the difference is then counted to every step, and the policy is chosen anew.

    Args:
        opened: the model that the scores are of; its weights do not matter.
        network: as the scores know it.
        budget: limits on flash, RAM or both, among others.
        options: how the network will be written.
        choose: the best policy by a table.
        rounding: of the export; some roundings take more code.

    Returns:
        The policy, how the solver came to it, the table by which it was found, and what its C takes.

    Raises:
        BudgetError: the model is not that of the scores.
        InfeasibleBudget: no policy was found that fits.
    """
    if opened.network.fingerprint != network.fingerprint:
        raise BudgetError("The model that the scores' folder names is another one now. Search again, then allocate.")
    lower = lower_at(opened, rounding)
    memory = memory_table(network, lower, options=options)
    for _ in range(_TRIES):
        policy, allocation = choose(memory)
        found = predict(lower(policy.layers), options=options)
        excess = found.ram_bytes - memory.ram(network, policy.layers)
        if excess <= 0 or not _exceeds(found.ram_bytes, network, budget, memory):
            return policy, allocation, memory, found
        memory = replace(memory, ram_margin=memory.ram_margin + excess)
    raise InfeasibleBudget(
        f"ram={budget.texts['ram']}: {_TRIES} policies whose tensors would fit one by one need gaps between them; the "
        f"arena of the last takes {found.ram_bytes} bytes. Raise the limit.",
        nearest={"ram": found.ram_bytes},
        blocking=[],
    )


def _exceeds(ram_bytes: int, network: Network, budget: Budget, memory: MemoryTable) -> bool:
    limits = [limit for limit in budget.limits if limit.kind == "ram"]
    return any(ram_bytes > limit.resolve(network, {}, "exact", memory=memory) for limit in limits)
