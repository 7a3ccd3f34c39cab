"""From scores and a budget to a policy: the last step of every method that ends in a score table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mixbit.allocation._assignment import Assignment, layer_options
from mixbit.allocation._explain import notes
from mixbit.allocation._groups import Group
from mixbit.allocation._programs import program_facts, program_notes
from mixbit.allocation.repair import RepairHow
from mixbit.allocation.solver import Allocation, SolverName
from mixbit.cost import Budget, LatencyTable, LayerBits, Macs, MemoryTable, Pins
from mixbit.errors import BudgetError
from mixbit.policy import Policy, Scores, Terms

if TYPE_CHECKING:
    from mixbit.network import Network

__all__ = ["allocate", "layer_options"]


def allocate(
    network: Network,
    scores: Scores,
    budget: Budget,
    *,
    pins: Pins | None = None,
    ties: bool = True,
    alpha: float | None = None,
    macs: Macs = "exact",
    repair: RepairHow = "forbid",
    solver: SolverName = "auto",
    exact: bool = False,
    latency: LatencyTable | None = None,
    memory: MemoryTable | None = None,
    or_uniform: bool = False,
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
        pins: exact layer name -> bits; None pins the first and the last layer at 8 bits, `{}` pins nothing
            (`mixbit.policy.resolve_pins` makes them from patterns).
        ties: layers that read one tensor share its activation bits; the harm of sharing is the sum of their harms, over
            the bits that all of them offer. Pinned layers keep their own bits, with a note where that breaks a tie. Off
            reproduces papers that give each layer its own.
        alpha: weight of the weight terms; None takes that of the scores.
        macs: "exact", or "limpq" for the counting of LIMPQ's released code.
        repair: what happens to options that look better than one with more bits, for each layer's weights and
            activations by itself: "forbid" takes them away (as LIMPQ), "isotonic" smooths the curve, "none" keeps them.
            Coupled, it looks at the sum of both; a program with pairs skips it, since a single harm is not the whole.
        solver: see `mixbit.allocation.solve`; a program with an order, a box or pairs has its own.
        exact: prove the optimum of a program with pairs (small networks), where a local search is the default.
        latency: measured times of this network; limits on `latency` need them, and the policy tells its own.
        memory: a device's flash and RAM; limits on `flash` and `ram` need it, and the policy tells its own.
        or_uniform: where the repair took away so many bits that nothing is left within the budget, take the best
            uniform network that is within it by the scores as they are, with a note, as `mixbit allocate` does.

    Returns:
        The policy, and how the solver came to it (its groups are sets of layers that are decided together).

    Raises:
        InfeasibleBudget: no policy meets the budget; with the nearest feasible limits and the layers that block them.
        PolicyError: the scores are of another model, leave a free layer out, or do not fit their program; or tied
            layers (coupled: both sides of a layer) have no bits in common.
        BudgetError: a pin is no layer of the network; or a limit needs a table that is not there: none, one of
            another network, or one without an option that the scores offer.

    One layer of 640 MACs; W4A4 would take 10.24k BitOps:

    >>> import torch
    >>> from mixbit.network import capture
    >>> from mixbit.policy import LayerScores
    >>> net = capture(torch.nn.Sequential(torch.nn.Linear(64, 10)), torch.zeros(1, 64))
    >>> table = LayerScores(weight={4: 0.1, 2: 0.5}, activation={4: 0.3, 2: 0.9})
    >>> scores = Scores(fingerprint=net.fingerprint, method="by hand", alpha=2.0, layers={"0": table})
    >>> policy, found = allocate(net, scores, Budget.parse(["bitops=6k"]), pins={})
    >>> str(policy.layers["0"]), round(found.objective, 9), policy.costs["bitops"]     # 0.9 + 2 * 0.1, and 640 * 4 * 2
    ('W4A2', 1.1, 5120)
    """
    terms = Terms(pins=pins, ties=ties, macs=macs, latency=latency, memory=memory)
    pins = terms.pinned(network)
    scores.check(network)
    alpha = _checked_alpha(scores.alpha if alpha is None else alpha)
    program = scores.program
    repair = "none" if program.pairs else repair
    limits = terms.limits(network, budget)
    assignment = Assignment(
        network=network,
        scores=scores,
        budget=budget,
        limits=limits,
        pins=pins,
        ties=ties,
        alpha=alpha,
        macs=macs,
        repair=repair,
        solver=solver,
        exact=exact,
        latency=latency,
        memory=memory,
        or_uniform=or_uniform,
    )
    groups, allocation, instead = assignment.best()
    options = assignment.options
    layers = _chosen(network, groups, allocation)
    found = terms.costs(network, layers)
    budget.check(found, limits)
    policy = Policy(
        fingerprint=network.fingerprint,
        layers=layers,
        method=scores.method,
        seed=scores.seed,
        macs=macs,
        budget=budget.texts,
        costs=terms.cost_table(network, layers),
        allocation={
            **{key: getattr(allocation, key) for key in ("objective", "bound", "gap", "proven", "solver")},
            "alpha": alpha,
            "ties": ties,
            "repair": repair,
            "slack": dict(budget.slack(found, limits)),
            **program_facts(program),
            **terms.facts,
        },
        notes=notes(network, options, scores, groups, layers, ties=ties, latency=latency)
        + program_notes(scores, options, allocation)
        + instead,
    )
    return policy, allocation


def _checked_alpha(alpha: float) -> float:
    if not (math.isfinite(alpha) and alpha >= 0):
        raise BudgetError(f"alpha {alpha!r} is not legal. Legal: a finite number from 0 up.")
    return alpha


def _chosen(network: Network, groups: Sequence[Group], allocation: Allocation) -> dict[str, LayerBits]:
    """Bits of every layer, in execution order."""
    found: dict[str, LayerBits] = {}
    for group, option in zip(groups, allocation.choice, strict=True):
        found.update(group.chosen(option))
    return {layer.name: found[layer.name] for layer in network.layers}
