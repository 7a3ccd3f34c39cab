"""A policy from what a search left in a run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from mixbit.allocation import Allocation, RepairHow
from mixbit.allocation import allocate as choose
from mixbit.cost import Budget, Costs, LatencyTable, LayerBits, Macs, MemoryTable, Pins, costs, uniform_bits
from mixbit.errors import BudgetError
from mixbit.export.c import COptions, Footprint
from mixbit.integer import GraphRounding
from mixbit.network import Network
from mixbit.policy import LayerScores, Policy, Scores, Terms, resolve_pins
from mixbit.runs._fitting import ON_DEVICE, choose_to_fit
from mixbit.runs._sources import read_network, result_of, subject_of
from mixbit.runs.inspecting import open_model
from mixbit.runs.picking import pick
from mixbit.runs.subject import Subject

__all__ = ["Allocated", "allocate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocated:
    """A policy, how the solver came to it, and what it uses of each limit."""

    policy: Policy
    allocation: Allocation | None
    """None for a policy that a front had, or that was searched under the budget."""
    pinned: tuple[str, ...]
    budget: Budget
    limits: dict[str, int]
    costs: Costs
    subject: Subject | None
    """What the scores were found on, if the run folder says so."""
    footprint: Footprint | None = None
    """The policy as C, each layer with an input step of its own, as after training; None without such a limit."""


def allocate(
    source: Path,
    budget: Sequence[str],
    out: Path,
    *,
    pins: Mapping[str, LayerBits] | None = None,
    first_last: LayerBits | None = LayerBits(8, 8),  # noqa: B008 (frozen)
    ties: bool = True,
    alpha: float | None = None,
    macs: Macs = "exact",
    repair: RepairHow = "forbid",
    exact: bool = False,
    latency: Path | None = None,
    c_options: COptions | None = None,
    rounding: GraphRounding = "single",
) -> Allocated:
    """Solve for the bits and write the policy; from a front, pick; a policy that was searched is taken as it is.

    Args:
        source: run folder of a search, or a scores or front file with `network.json` beside it.
        budget: limits as text, see `mixbit.cost.Budget.parse`.
        out: the policy file.
        pins: layer name or `re:` pattern -> bits.
        first_last: bits of the first and the last layer, or None to search them too.
        ties, alpha, macs, repair, exact: see `mixbit.allocation.allocate`. Where the repair leaves nothing within the
            budget, the best uniform network is taken, with a note.
        latency: a table of measured times, for limits on them; see `mixbit.runs.build_latency`.
        c_options: how the network will be written as C, for limits on `flash` and `ram`; default as `export_c`.
        rounding: how the C will round, for the same limits.

    Raises:
        InfeasibleBudget: no policy meets the budget.
        BudgetError: a policy that was searched under another budget, or an option that says how to choose from scores
            where there are none.
        BudgetError: a limit that cannot be read, or `flash` or `ram` where the folder does not say of which model the
            scores are.
    """
    kind, path = result_of(source)
    folder = path.parent
    if kind != "score":
        given = {"pins": dict(pins or {}), "ties": ties, "alpha": alpha, "macs": macs, "repair": repair, "exact": exact}
        _only_of_scores(path, given)
        taken = _from_front if kind == "front" else _as_searched
        return taken(path, budget, out, first_last, latency)
    scores = Scores.load(path)
    network = read_network(folder)
    parsed, resolved = Budget.parse(budget), resolve_pins(network, pins, first_last)
    table = None if latency is None else LatencyTable.load(latency).check(network)
    subject = subject_of(folder)

    def chosen(memory: MemoryTable | None, only: Mapping[str, LayerBits] | None = None) -> tuple[Policy, Allocation]:
        return choose(
            network,
            scores if only is None else _at(scores, only),
            parsed,
            pins=resolved,
            ties=ties,
            alpha=alpha,
            macs=macs,
            repair=repair if only is None else "none",
            exact=exact,
            latency=table,
            memory=memory,
            or_uniform=only is None,
        )

    memory, footprint = None, None
    if parsed.texts.keys().isdisjoint(ON_DEVICE):
        policy, allocation = chosen(None)
    else:
        options = COptions(kernels="dsp") if c_options is None else c_options
        opened = open_model(_needed(subject, folder))
        policy, allocation, memory, footprint = choose_to_fit(
            opened, network, parsed, options, chosen, resolved, rounding, _candidates(network, scores, resolved)
        )
    policy.save(out)
    return Allocated(
        policy=policy,
        allocation=allocation,
        pinned=tuple(resolved),
        budget=parsed,
        limits=parsed.resolve(network, resolved, macs, table, memory),
        costs=costs(network, policy.layers, macs=macs, latency=table, memory=memory),
        subject=subject,
        footprint=footprint,
    )


def _at(scores: Scores, layers: Mapping[str, LayerBits]) -> Scores:
    """The scores of one choice alone."""
    found = {
        name: LayerScores(
            weight={bits: harm for bits, harm in one.weight.items() if bits == layers[name].weight_bits},
            activation={bits: harm for bits, harm in one.activation.items() if bits == layers[name].activation_bits},
        )
        for name, one in scores.layers.items()
    }
    return replace(scores, layers=found)


def _candidates(network: Network, scores: Scores, pins: Pins) -> list[dict[str, LayerBits]]:
    """What is laid out before a limit is said to be out of reach: the lowest bits, and uniform networks."""
    free = {name: one for name, one in scores.layers.items() if name not in pins}
    if not free:
        return []
    sides = [[set(one.weight) for one in free.values()], [set(one.activation) for one in free.values()]]
    both = [sorted(set.intersection(*side)) for side in sides]
    uniform = [
        uniform_bits(network, LayerBits(w, a), pins) for w, a in product(*both) if w == a or w == a == both[0][0]
    ]
    lowest = {name: LayerBits(min(one.weight), min(one.activation)) for name, one in free.items()}
    return [{layer.name: (dict(pins) | lowest)[layer.name] for layer in network.layers}, *uniform]


def _needed(subject: Subject | None, folder: Path) -> Subject:
    if subject is None:
        raise BudgetError(
            f"{' and '.join(ON_DEVICE)} need the model, and {folder} does not say which it is. Give the --run folder "
            "of a search; in Python, mixbit.allocation.allocate takes memory=."
        )
    return subject


_USUAL = {"pins": {}, "ties": True, "alpha": None, "macs": "exact", "repair": "forbid", "exact": False}
"""Options that say how to choose from scores, as they are where nothing is said."""


def _only_of_scores(path: Path, given: Mapping[str, object]) -> None:
    """Raise `BudgetError` for such options where there is nothing to choose."""
    named = [key for key, value in given.items() if value != _USUAL[key]]
    if named:
        raise BudgetError(f"{', '.join(named)}: no effect on {path}, which holds no scores. Leave that out.")


def _from_front(
    path: Path, budget: Sequence[str], out: Path, first_last: LayerBits | None, latency: Path | None
) -> Allocated:
    Budget.parse(budget)  # an empty one is an error here, and picks nothing there
    found = pick(path, budget, out, first_last=first_last, latency=latency)
    assert found.policy is not None and found.budget is not None and found.costs is not None
    return Allocated(
        policy=found.policy,
        allocation=None,
        pinned=found.pinned,
        budget=found.budget,
        limits=found.limits,
        costs=found.costs,
        subject=found.subject,
    )


def _as_searched(
    path: Path, budget: Sequence[str], out: Path, first_last: LayerBits | None, latency: Path | None
) -> Allocated:
    """The policy itself, if it is within the budget; of another budget there has to be another search."""
    network = read_network(path.parent)
    table = None if latency is None else LatencyTable.load(latency).check(network)
    terms, parsed = Terms(pins=resolve_pins(network, None, first_last), latency=table), Budget.parse(budget)
    policy = Policy.load(path).check(network, table)
    used, limits = terms.costs(network, policy.layers), terms.limits(network, parsed)
    try:
        parsed.check(used, limits)
    except BudgetError as error:
        under = ", ".join(f"{kind}={text}" for kind, text in policy.budget.items()) or "no budget"
        raise BudgetError(
            f"{error} {path} holds a policy that {policy.method} searched under {under}; another budget is another "
            f"search: mixbit search {policy.method} ... --budget ..., in a folder of its own."
        ) from error
    policy.save(out)
    return Allocated(
        policy=policy,
        allocation=None,
        pinned=tuple(name for name, bits in terms.pinned(network).items() if policy.layers[name] == bits),
        budget=parsed,
        limits=limits,
        costs=used,
        subject=subject_of(path.parent),
    )
