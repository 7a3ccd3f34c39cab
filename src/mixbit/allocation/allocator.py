"""From scores and a budget to a policy: the last step of every method that ends in a score table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mixbit.allocation._assignment import Assignment, layer_options
from mixbit.allocation._explain import notes
from mixbit.allocation._groups import Group
from mixbit.allocation._programs import program_facts, program_notes
from mixbit.allocation.settings import AllocationSettings
from mixbit.allocation.solver import Allocation
from mixbit.cost import Budget, Costs, LayerBits, Pins
from mixbit.policy import Policy, Scores

if TYPE_CHECKING:
    from mixbit.network import Network

__all__ = ["Decision", "allocate", "decide", "layer_options"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A policy, how the solver came to it, and the numbers of its budget, each worked out once."""

    policy: Policy
    allocation: Allocation
    pins: Pins
    """Exact layer name -> bits, of the layers that were not free."""
    limits: Mapping[str, int]
    """The budget in whole numbers, see `mixbit.cost.Budget.resolve`."""
    costs: Costs
    """What the policy uses, in exact integers."""


def allocate(
    network: Network,
    scores: Scores,
    budget: Budget,
    settings: AllocationSettings = AllocationSettings(),  # noqa: B008 (frozen)
) -> tuple[Policy, Allocation]:
    """The policy of least total harm that meets every limit of the budget, in exact integers.

    Minimises sum over free layers of activation[b_a] + alpha * weight[b_w] (LIMPQ's integer programme, for any number
    of limits). Bit options are those of the score table. Pinned layers have one option, add no harm, and are counted in
    every cost.

    `scores.program` changes that (see `mixbit.policy.Program`): `coupled` gives weights and activation of a free layer
    the same bits, tied layers all bits; `order` lets no free layer have fewer bits than one after it, solved exactly;
    `box` solves in real bits, as OMPQ, and rounds down (ours); `pairs` adds joint harms, those with pinned layers too.

    Args:
        network: the captured network.
        scores: harm of every option, for at least all layers that are not pinned.
        budget: one or more limits.
        settings: pins, ties, tables of times and memory, and how the choice is made.

    Returns:
        The policy, and how the solver came to it (its groups are sets of layers that are decided together).

    Raises:
        InfeasibleBudget: no policy meets the budget; with the nearest feasible limits and the layers that block them.
        PolicyError: the scores are of another model, leave a free layer out, or do not fit their program; or tied
            layers (coupled: both sides of a layer) have no bits in common.
        BudgetError: a pin matches no layer of the network; or a limit needs a table that is not there: none, one of
            another network, or one without an option that the scores offer.

    One layer of 640 MACs; W4A4 would take 10.24k BitOps:

    >>> import torch
    >>> from mixbit.network import capture
    >>> from mixbit.policy import LayerScores
    >>> net = capture(torch.nn.Sequential(torch.nn.Linear(64, 10)), torch.zeros(1, 64))
    >>> table = LayerScores(weight={4: 0.1, 2: 0.5}, activation={4: 0.3, 2: 0.9})
    >>> scores = Scores(fingerprint=net.fingerprint, method="by hand", alpha=2.0, layers={"0": table})
    >>> policy, found = allocate(net, scores, Budget.parse(["bitops=6k"]), AllocationSettings(pins={}))
    >>> str(policy.layers["0"]), round(found.objective, 9), policy.costs["bitops"]     # 0.9 + 2 * 0.1, and 640 * 4 * 2
    ('W4A2', 1.1, 5120)
    """
    found = decide(network, scores, budget, settings)
    return found.policy, found.allocation


def decide(
    network: Network,
    scores: Scores,
    budget: Budget,
    settings: AllocationSettings = AllocationSettings(),  # noqa: B008 (frozen)
) -> Decision:
    """What `allocate` does, with the numbers that it found on the way.

    Args:
        network: as in `allocate`.
        scores: as in `allocate`.
        budget: as in `allocate`.
        settings: as in `allocate`.

    Raises:
        MixbitError: as `allocate`.
    """
    pins = settings.pinned(network)
    scores.check(network)
    alpha = scores.alpha if settings.alpha is None else settings.alpha
    repair = "none" if scores.program.pairs else settings.repair
    limits = budget.resolve(network, pins, settings.macs, settings.latency, settings.memory)
    assignment = Assignment(
        network=network,
        scores=scores,
        budget=budget,
        limits=limits,
        pins=pins,
        alpha=alpha,
        repair=repair,
        settings=settings,
    )
    groups, allocation, instead = assignment.best()
    options = assignment.options
    layers = _chosen(network, groups, allocation)
    found = settings.costs(network, layers)
    budget.check(found, limits)
    latency = settings.latency
    policy = Policy(
        fingerprint=network.fingerprint,
        layers=layers,
        method=scores.method,
        seed=scores.seed,
        macs=settings.macs,
        budget=budget.texts,
        costs=settings.cost_table(network, layers, found),
        allocation={
            **{key: getattr(allocation, key) for key in ("objective", "bound", "gap", "proven", "solver")},
            "alpha": alpha,
            "ties": settings.ties,
            "repair": repair,
            "slack": dict(budget.slack(found, limits)),
            **program_facts(scores.program),
            **settings.facts,
        },
        notes=notes(network, options, scores, groups, layers, ties=settings.ties, latency=latency)
        + program_notes(scores, options, allocation)
        + instead,
    )
    return Decision(policy=policy, allocation=allocation, pins=pins, limits=limits, costs=found)


def _chosen(network: Network, groups: Sequence[Group], allocation: Allocation) -> dict[str, LayerBits]:
    """Bits of every layer, in execution order."""
    found: dict[str, LayerBits] = {}
    for group, option in zip(groups, allocation.choice, strict=True):
        found.update(group.chosen(option))
    return {layer.name: found[layer.name] for layer in network.layers}
