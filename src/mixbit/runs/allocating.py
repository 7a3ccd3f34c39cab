"""A policy from the scores in a run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mixbit.allocation import Allocation, RepairHow
from mixbit.allocation import allocate as choose
from mixbit.cost import Budget, Costs, LatencyTable, LayerBits, Macs, costs
from mixbit.errors import MixbitError
from mixbit.network import Network
from mixbit.policy import Policy, Scores, resolve_pins
from mixbit.runs import _folder
from mixbit.runs.subject import Subject

__all__ = ["Allocated", "allocate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocated:
    """A policy, how the solver came to it, and what it uses of each limit."""

    policy: Policy
    allocation: Allocation
    pinned: tuple[str, ...]
    budget: Budget
    limits: dict[str, int]
    costs: Costs
    subject: Subject | None
    """What the scores were found on, if the run folder says so."""


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
) -> Allocated:
    """Solve for the bits and write the policy.

    Args:
        source: run folder of a search, or a scores file with `network.json` beside it.
        budget: limits as text, see `mixbit.cost.Budget.parse`.
        out: the policy file.
        pins: layer name or `re:` pattern -> bits.
        first_last: bits of the first and the last layer, or None to search them too.
        ties, alpha, macs, repair, exact: see `mixbit.allocation.allocate`.
        latency: a table of measured times, for limits on them; see `mixbit.runs.build_latency`.
    """
    folder = source if source.is_dir() else source.parent
    scores = Scores.load(folder / _folder.SCORES if source.is_dir() else source)
    network = read_network(folder)
    parsed, resolved = Budget.parse(budget), resolve_pins(network, pins, first_last)
    table = None if latency is None else LatencyTable.load(latency).check(network)
    policy, allocation = choose(
        network,
        scores,
        parsed,
        pins=resolved,
        ties=ties,
        alpha=alpha,
        macs=macs,
        repair=repair,
        exact=exact,
        latency=table,
    )
    policy.save(out)
    return Allocated(
        policy=policy,
        allocation=allocation,
        pinned=tuple(resolved),
        budget=parsed,
        limits=parsed.resolve(network, resolved, macs, table),
        costs=costs(network, policy.layers, macs=macs, latency=table),
        subject=_subject(folder),
    )


def read_network(folder: Path) -> Network:
    """The network that a search wrote beside its scores."""
    path = folder / _folder.NETWORK
    if not path.is_file():
        raise MixbitError(
            f"There is no {path}, so the costs of the layers are not known. Give the --run folder of a finished "
            "search, or write the network beside the scores: mixbit inspect MODEL --json network.json."
        )
    return Network.from_json(path.read_text())


def _subject(folder: Path) -> Subject | None:
    if not (folder / _folder.CONFIG).exists():
        return None
    return Subject.from_json(_folder.read(folder)["subject"])
