"""A policy from a front in a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mixbit.cost import Budget, Costs, LatencyTable, LayerBits
from mixbit.errors import BudgetError, PolicyError
from mixbit.export.c import COptions, Footprint
from mixbit.integer import GraphRounding
from mixbit.network import Network
from mixbit.policy import Front, Policy, Terms, resolve_pins
from mixbit.runs import _folder
from mixbit.runs._device import check_c, layouts_of
from mixbit.runs._sources import read_network, subject_of
from mixbit.runs.subject import Subject
from mixbit.supernet.training import WEIGHTS as SUPERNET

__all__ = ["Picked", "pick"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Picked:
    """A front with costs that were counted anew, and the policy that was picked from it, if there was a budget."""

    front: Front
    network: Network
    policy: Policy | None = None
    budget: Budget | None = None
    limits: dict[str, int] = field(default_factory=dict)
    """The budget in whole numbers."""
    costs: Costs | None = None
    """What the policy uses."""
    pinned: tuple[str, ...] = ()
    """Layers of the policy that have the bits which the budget takes for pinned."""
    weights: Path | None = None
    """What all points were measured with, found to be unchanged."""
    footprint: Footprint | None = None
    """The policy as C, each layer with an input step of its own, as after training; None without such a limit."""
    subject: Subject | None = None
    """What the front was measured on, if the folder says so."""
    files: dict[Path, str] = field(default_factory=dict)


def pick(
    source: Path,
    budget: Sequence[str] = (),
    out: Path | None = None,
    *,
    by: str | None = None,
    first_last: LayerBits | None = LayerBits(8, 8),  # noqa: B008 (frozen)
    latency: Path | None = None,
    c_options: COptions | None = None,
    rounding: GraphRounding = "single",
) -> Picked:
    """Read a front, check it, and write the best measured policy within a budget.

    Args:
        source: run folder of a search that ended in a front, or the front's file with `network.json` beside it.
        budget: limits as text; without one nothing is picked.
        out: the policy file.
        by: what is best, a name of what was measured; None for the metric.
        first_last: bits of the first and the last layer in the uniform network that a limit such as `bitops=3x4` is
            the cost of; None for those of all others.
        latency: a table of measured times, for limits on them.
        c_options: how the network will be written as C, for limits on `flash` and `ram`; default as `export_c`.
        rounding: how the C will round, for the same limits.

    Raises:
        InfeasibleBudget: no policy of the front meets the budget; with the nearest one, and the limits that block.
        PolicyError: the front is of another model, or its weights are not those that it was measured with.
        BudgetError: a limit that cannot be read or counted; or a place to write to and no budget.
    """
    folder, path = (source, source / _folder.FRONT) if source.is_dir() else (source.parent, source)
    if not path.is_file() and (folder / SUPERNET).is_file():
        raise PolicyError(
            f"{folder} holds a trained supernet, and no front yet: mixbit search qfa {folder} --run FRONT."
        )
    front, network = Front.load(path), read_network(folder)
    table = None if latency is None else LatencyTable.load(latency).check(network)
    check_c(Budget.parse(budget) if budget else None, c_options, rounding)
    if not budget:
        if out is not None or by is not None:
            raise BudgetError("Without a budget nothing is picked. Give --budget bitops=3x3, or leave out and by out.")
        return Picked(front=front.check(network, table), network=network, **_of_folder(front, folder))
    parsed = Budget.parse(budget)
    terms = Terms(pins=resolve_pins(network, None, first_last), latency=table)
    layouts = layouts_of(folder, network, parsed, terms, c_options, rounding)
    if layouts is not None:
        layouts.search(lambda counted: front.pick(parsed, network, by=by, terms=counted))
        terms = layouts.terms  # with what was laid out: the same policy is the best by it
    found, known = front.choose(parsed, network, by=by, terms=terms), _of_folder(front, folder)
    policy = found.policy
    if out is not None:
        policy.save(out)
    return Picked(
        front=front.check(network, table, found.used),
        network=network,
        policy=policy,
        budget=parsed,
        limits=dict(found.limits),
        costs=found.costs,
        pinned=tuple(name for name, bits in terms.pinned(network).items() if policy.layers[name] == bits),
        footprint=None if layouts is None else layouts.lay_out(policy.layers),
        files={} if out is None else {out: "the policy; edit it by hand if you like"},
        **known,
    )


def _of_folder(front: Front, folder: Path) -> dict[str, Any]:
    """The weights of a front, found to be unchanged, and what it was measured on."""
    weights = None if front.weights is None else front.weights.check(folder)
    return {"weights": weights, "subject": subject_of(folder)}
