"""A policy from what a search left in a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mixbit.allocation import Allocation, AllocationSettings, decide
from mixbit.cost import Budget, Costs, LatencyTable, LayerBits
from mixbit.errors import BudgetError
from mixbit.export.c import COptions, Footprint, allocate_to_fit
from mixbit.integer import GraphRounding
from mixbit.policy import Policy, Scores, Terms, resolve_pins
from mixbit.runs._device import C_OPTIONS, check_c, is_on_device, layouts_of, lower_of
from mixbit.runs._sources import read_network, result_of, subject_of
from mixbit.runs.picking import pick
from mixbit.runs.subject import Subject

__all__ = ["Allocated", "allocate"]

DEFAULT = AllocationSettings(or_uniform=True)
"""What an allocation of a run is asked for where nothing else is said."""
_ENDS_AT = LayerBits(8, 8)


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
    settings: AllocationSettings = DEFAULT,
    *,
    latency: Path | None = None,
    c_options: COptions | None = None,
    rounding: GraphRounding = "single",
) -> Allocated:
    """Solve for the bits and write the policy; from a front, pick; a policy that was searched is taken as it is.

    Args:
        source: run folder of a search, or a scores or front file with `network.json` beside it.
        budget: limits as text, see `mixbit.cost.Budget.parse`.
        out: the policy file.
        settings: see `mixbit.allocation.AllocationSettings`. By default the best uniform network is taken, with a note,
            where the repair leaves nothing within the budget.
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
    check_c(Budget.parse(budget), c_options, rounding)
    kind, path = result_of(source)
    folder = path.parent
    if kind != "score":
        _only_of_scores(path, settings)
        taken = _from_front if kind == "front" else _as_searched
        ends = _ENDS_AT if settings.pins is None and settings.first_last is None else settings.first_last
        return taken(path, budget, out, ends, latency, c_options, rounding)
    scores = Scores.load(path)
    network = read_network(folder)
    parsed, subject = Budget.parse(budget), subject_of(folder)
    if latency is not None:
        settings = replace(settings, latency=LatencyTable.load(latency).check(network))
    footprint = None
    if not is_on_device(parsed):
        found = decide(network, scores, parsed, settings)
    else:
        lower = lower_of(folder, network, rounding)
        options = C_OPTIONS if c_options is None else c_options
        fitted = allocate_to_fit(network, scores, parsed, lower, settings, options=options)
        found, footprint = fitted.decision, fitted.footprint
    found.policy.save(out)
    return Allocated(
        policy=found.policy,
        allocation=found.allocation,
        pinned=tuple(found.pins),
        budget=parsed,
        limits=dict(found.limits),
        costs=found.costs,
        subject=subject,
        footprint=footprint,
    )


def _only_of_scores(path: Path, settings: AllocationSettings) -> None:
    """Raise `BudgetError` for settings that say how to choose from scores, where there is nothing to choose."""
    of_scores = ("ties", "alpha", "macs", "repair", "solver", "exact")
    named = ["pins"] if settings.pins else []
    named += [name for name in of_scores if getattr(settings, name) != getattr(DEFAULT, name)]
    if named:
        raise BudgetError(f"{', '.join(named)}: no effect on {path}, which holds no scores. Leave that out.")


def _from_front(
    path: Path,
    budget: Sequence[str],
    out: Path,
    first_last: LayerBits | None,
    latency: Path | None,
    c_options: COptions | None,
    rounding: GraphRounding,
) -> Allocated:
    Budget.parse(budget)  # an empty one is an error here, and picks nothing there
    found = pick(path, budget, out, first_last=first_last, latency=latency, c_options=c_options, rounding=rounding)
    assert found.policy is not None and found.budget is not None and found.costs is not None
    return Allocated(
        policy=found.policy,
        allocation=None,
        pinned=found.pinned,
        budget=found.budget,
        limits=found.limits,
        costs=found.costs,
        subject=found.subject,
        footprint=found.footprint,
    )


def _as_searched(
    path: Path,
    budget: Sequence[str],
    out: Path,
    first_last: LayerBits | None,
    latency: Path | None,
    c_options: COptions | None,
    rounding: GraphRounding,
) -> Allocated:
    """The policy itself, if it is within the budget; of another budget there has to be another search."""
    network = read_network(path.parent)
    table = None if latency is None else LatencyTable.load(latency).check(network)
    terms, parsed = Terms(pins=resolve_pins(network, None, first_last), latency=table), Budget.parse(budget)
    policy = Policy.load(path)
    policy.check_layers(network)
    layouts = layouts_of(path.parent, network, parsed, terms, c_options, rounding)
    footprint = None if layouts is None else layouts.lay_out(policy.layers)
    terms = terms if layouts is None else layouts.terms
    used, limits = terms.costs(network, policy.layers), terms.limits(network, parsed)
    policy = policy.check(network, table, used if policy.macs == terms.macs else None)
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
        footprint=footprint,
    )
