"""From scores and a budget to a policy: the last step of every method that ends in a score table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mixbit.allocation._box import solve_box
from mixbit.allocation._explain import infeasible, jointly_infeasible, notes
from mixbit.allocation._groups import Group, LayerOptions, build_groups
from mixbit.allocation._layouts import solve_with_layouts
from mixbit.allocation._ordered import solve_ordered
from mixbit.allocation._programs import chains, joint_harms, program_facts, program_notes
from mixbit.allocation._rows import Row, build_rows
from mixbit.allocation._widths import Solved, solve_with_code
from mixbit.allocation.quadratic import solve_pairs
from mixbit.allocation.repair import RepairHow, repair_monotone
from mixbit.allocation.solver import Allocation, SolverName, solve
from mixbit.cost import Budget, LatencyTable, LayerBits, Macs, MemoryTable, Pins, cost_table, costs, layer_macs
from mixbit.cost._bits import width
from mixbit.errors import BudgetError, InfeasibleBudget, PolicyError, did_you_mean
from mixbit.policy import LayerScores, Policy, Program, Scores, resolve_pins

if TYPE_CHECKING:
    from mixbit.network import Layer, Network

__all__ = ["allocate"]


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
) -> tuple[Policy, Allocation]:
    """The policy of least total harm that meets every limit of the budget, in exact integers.

    Minimises sum over free layers of activation[b_a] + alpha * weight[b_w] (LIMPQ's integer programme, for any number
    of limits). Bit options are those of the score table. Pinned layers have one option, add no harm, and are counted in
    every cost.

    `scores.program` changes that (see `mixbit.policy.Program`): `coupled` gives weights and activation of a free layer
    the same bits, tied layers all bits; `order` lets no free layer have fewer bits than one after it, solved exactly;
    `box` rounds the solution in real bits down, as OMPQ; `pairs` adds joint harms, those with pinned layers too.

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
    >>> net = capture(torch.nn.Sequential(torch.nn.Linear(64, 10)), torch.zeros(1, 64))
    >>> table = LayerScores(weight={4: 0.1, 2: 0.5}, activation={4: 0.3, 2: 0.9})
    >>> scores = Scores(fingerprint=net.fingerprint, method="by hand", alpha=2.0, layers={"0": table})
    >>> policy, found = allocate(net, scores, Budget.parse(["bitops=6k"]), pins={})
    >>> str(policy.layers["0"]), round(found.objective, 9), policy.costs["bitops"]     # 0.9 + 2 * 0.1, and 640 * 4 * 2
    ('W4A2', 1.1, 5120)
    """
    pins = resolve_pins(network) if pins is None else _checked_pins(network, pins)
    scores.check(network)
    alpha = _checked_alpha(scores.alpha if alpha is None else alpha)
    program = scores.program
    repair = "none" if program.pairs else repair
    options = layer_options(network, scores, pins, alpha=alpha, repair=repair)
    limits = budget.resolve(network, pins, macs, latency, memory)
    times = latency if "latency" in limits else None
    device = memory if not limits.keys().isdisjoint(("flash_bytes", "ram_bytes")) else None
    keep_all = bool(program.order or program.box or program.pairs)

    def solved(choices: Mapping[str, LayerOptions], device: MemoryTable | None) -> Solved:
        groups = build_groups(
            network, choices, tied=ties, macs=macs, limited=limits, keep_all=keep_all, latency=times, memory=device
        )
        rows = build_rows(network, groups, limits, 0 if times is None else times.rest, device)
        if any(row.least > row.limit for row in rows):
            raise infeasible(network, budget, groups, rows, pins, macs, times, device)
        try:
            return groups, _solve(network, groups, rows, program, choices, solver, macs=macs, exact=exact)
        except InfeasibleBudget as error:
            raise jointly_infeasible(budget, rows, error, ordered=bool(program.order)) from error

    def sums(choices: Mapping[str, LayerOptions], device: MemoryTable | None) -> Solved:
        if device is not None and "flash_bytes" in limits:
            return solve_with_code(choices, device, limits["flash_bytes"], solved)
        return solved(choices, device)

    if device is not None and device.layouts:
        groups, allocation = solve_with_layouts(network, options, device, limits, sums, tied=ties)
    else:
        groups, allocation = sums(options, device)
    layers = _chosen(network, groups, allocation)
    found = costs(network, layers, macs=macs, latency=latency, memory=memory)
    budget.check(found, limits)
    policy = Policy(
        fingerprint=network.fingerprint,
        layers=layers,
        method=scores.method,
        seed=scores.seed,
        macs=macs,
        budget=budget.texts,
        costs=cost_table(network, layers, macs=macs, latency=latency, memory=memory),
        allocation={
            **{key: getattr(allocation, key) for key in ("objective", "bound", "gap", "proven", "solver")},
            "alpha": alpha,
            "ties": ties,
            "repair": repair,
            "slack": dict(budget.slack(found, limits)),
            **program_facts(program),
            **({} if latency is None or latency.cpu is None else {"latency_cpu": latency.cpu}),
        },
        notes=notes(network, options, scores, groups, layers, ties=ties, latency=latency)
        + program_notes(scores, options, allocation),
    )
    return policy, allocation


def _checked_pins(network: Network, pins: Pins) -> dict[str, LayerBits]:
    """Pins in execution order."""
    names = [layer.name for layer in network.layers]
    for name in pins:
        if name not in names:
            raise BudgetError(
                f"The pin {name!r} is no layer of this network.{did_you_mean(name, names)} Give exact names; "
                "`mixbit.policy.resolve_pins` makes them from patterns."
            )
    return {name: pins[name] for name in names if name in pins}


def _checked_alpha(alpha: float) -> float:
    if not (math.isfinite(alpha) and alpha >= 0):
        raise BudgetError(f"alpha {alpha!r} is not legal. Legal: a finite number from 0 up.")
    return alpha


def layer_options(
    network: Network, scores: Scores, pins: Pins, *, alpha: float, repair: RepairHow
) -> dict[str, LayerOptions]:
    """What every layer may choose from, after repair: harm of weights times alpha, and harm of activations.

    Raises:
        PolicyError: a layer is neither pinned nor in the table.
    """
    missing = [layer.name for layer in network.layers if layer.name not in pins and layer.name not in scores.layers]
    if missing:
        raise PolicyError(
            f"There are no scores for {len(missing)} layers that are not pinned: {', '.join(missing[:5])}"
            f"{', ...' if len(missing) > 5 else ''}. Score them, or pin them."
        )
    free = _coupled if scores.program.coupled else _free
    return {
        layer.name: _pinned(layer, pins[layer.name])
        if layer.name in pins
        else free(layer, scores.layers[layer.name], alpha, repair)
        for layer in network.layers
    }


def _pinned(layer: Layer, bits: LayerBits) -> LayerOptions:
    weight, activation = [(width(bits.weight_bits), 0.0)], [(width(bits.activation_bits), 0.0)]
    return LayerOptions(layer=layer, weight=weight, activation=activation, pinned=True)


def _free(layer: Layer, table: LayerScores, alpha: float, repair: RepairHow) -> LayerOptions:
    weight = [(bits, alpha * harm) for bits, harm in _repaired(table.weight, repair)]
    return LayerOptions(layer=layer, weight=weight, activation=_repaired(table.activation, repair))


def _coupled(layer: Layer, table: LayerScores, alpha: float, repair: RepairHow) -> LayerOptions:
    """One decision for both sides: the bits that both offer, at the sum of their harms.

    The sum stands on the side of the weights alone: a choice of equal bits never takes one side without the other.
    """
    curve = {bits: harm + alpha * table.weight[bits] for bits, harm in table.activation.items() if bits in table.weight}
    if not curve:
        raise PolicyError(
            f"{layer.name}: weight and activation must have the same bits, but are scored at {sorted(table.weight)} "
            f"and {sorted(table.activation)}. Score both sides at the same bits, or pin the layer."
        )
    weight = _repaired(curve, repair)
    activation = [(bits, 0.0) for bits, _ in weight]
    return LayerOptions(layer=layer, weight=weight, activation=activation, coupled=True)


def _repaired(curve: Mapping[int, float], repair: RepairHow) -> list[tuple[int, float]]:
    """The curve after repair, without forbidden options."""
    harms = repair_monotone(list(curve), list(curve.values()), repair)
    return [(bits, float(harm)) for bits, harm in zip(curve, harms, strict=True) if math.isfinite(harm)]


def _solve(
    network: Network,
    groups: Sequence[Group],
    rows: Sequence[Row],
    program: Program,
    options: Mapping[str, LayerOptions],
    solver: SolverName,
    *,
    macs: Macs,
    exact: bool,
) -> Allocation:
    """By the solver that the program asks for."""
    if program.box:
        counts: dict[str, dict[str, int]] = {
            "bitops": {layer.name: layer_macs(layer, macs) for layer in network.layers},
            "weight_bits": {layer.name: layer.weights for layer in network.layers},
        }
        return solve_box(groups, rows, counts, chains(groups, options, program.order))
    costs = {row.name: row.costs for row in rows}
    limits = {row.name: row.limit for row in rows}
    names, scores = [group.name for group in groups], [group.score for group in groups]
    if program.pairs:
        own, joint = joint_harms(groups, program.pairs)
        return solve_pairs(own, joint, costs, limits, names=names, exact=exact)
    if program.order:
        return solve_ordered(scores, costs, limits, chains(groups, options, program.order), names=names)
    return solve(scores, costs, limits, names=names, solver=solver)


def _chosen(network: Network, groups: Sequence[Group], allocation: Allocation) -> dict[str, LayerBits]:
    """Bits of every layer, in execution order."""
    found: dict[str, LayerBits] = {}
    for group, option in zip(groups, allocation.choice, strict=True):
        found.update(group.chosen(option))
    return {layer.name: found[layer.name] for layer in network.layers}
