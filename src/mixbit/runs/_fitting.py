"""Policies under limits of a device: chosen by a table, then laid out as C, which has the last word."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from mixbit.allocation import Allocation
from mixbit.cost import Budget, Limit, MemoryTable, Pins
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
    pins: Pins,
    rounding: GraphRounding = "single",
) -> tuple[Policy, Allocation, MemoryTable, Footprint]:
    """A policy whose C was laid out and found to fit.

    The table is a sum of parts. Where tensors cannot be placed without gaps, or readers of one tensor want different
    bits, the layout takes more; the difference is then counted to all policies, and one is chosen anew.

    Args:
        opened: the model that the scores are of; its weights do not matter.
        network: as the scores know it.
        budget: limits on flash, RAM or both, among others.
        options: how the network will be written.
        choose: the best policy by a table.
        pins: under which a limit such as `3x4` is meant.
        rounding: of the export; some roundings take more code.

    Returns:
        The policy, how the solver came to it, the table by which it was found, and what its C takes.

    Raises:
        BudgetError: the model is not that of the scores.
        InfeasibleBudget: no policy was found that fits.
    """
    if opened.network.fingerprint != network.fingerprint:
        raise BudgetError("The model that the scores' folder names is another one now. Search again, then allocate.")
    lower = lower_at(opened, rounding, apart=True)
    memory = memory_table(network, lower, options=options)
    limits = {limit.kind: limit.resolve(network, pins, "exact", memory=memory) for limit in _on_device(budget)}
    for _ in range(_TRIES):
        policy, allocation = choose(memory)
        found = predict(lower(policy.layers), options=options)
        used = {"flash": found.flash_bytes, "ram": found.ram_bytes}
        if all(used[kind] <= limit for kind, limit in limits.items()):
            return policy, allocation, memory, found
        memory = replace(
            memory,
            rest=memory.rest + max(0, found.flash_bytes - memory.flash(policy.layers)),
            ram_margin=memory.ram_margin + max(0, found.ram_bytes - memory.ram(network, policy.layers)),
        )
    raise InfeasibleBudget(
        f"{_TRIES} policies that fit by the sum of their parts were laid out, and none fits: the last takes "
        f"{used['flash']} bytes of flash and {used['ram']} of RAM. Raise the limits.",
        nearest=used,
        blocking=[],
    )


def _on_device(budget: Budget) -> list[Limit]:
    return [limit for limit in budget.limits if limit.kind in ON_DEVICE]
