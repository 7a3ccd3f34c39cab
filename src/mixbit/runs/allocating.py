"""A policy from the scores in a run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from mixbit import _io
from mixbit.allocation import Allocation, RepairHow
from mixbit.allocation import allocate as choose
from mixbit.cost import Budget, Costs, LatencyTable, LayerBits, Macs, MemoryTable, Pins, costs, uniform_bits
from mixbit.errors import BudgetError, MixbitError
from mixbit.export.c import COptions, Footprint
from mixbit.integer import GraphRounding
from mixbit.network import Network, check_network
from mixbit.policy import LayerScores, Policy, Scores, resolve_pins
from mixbit.runs import _folder
from mixbit.runs._fitting import ON_DEVICE, choose_to_fit
from mixbit.runs.inspecting import open_model
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
    """Solve for the bits and write the policy.

    Args:
        source: run folder of a search, or a scores file with `network.json` beside it.
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
        BudgetError: a limit that cannot be read, or `flash` or `ram` where the folder does not say of which model the
            scores are.
    """
    folder = source if source.is_dir() else source.parent
    scores = Scores.load(folder / _folder.SCORES if source.is_dir() else source)
    network = read_network(folder)
    parsed, resolved = Budget.parse(budget), resolve_pins(network, pins, first_last)
    table = None if latency is None else LatencyTable.load(latency).check(network)
    subject = _subject(folder)

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


def read_network(folder: Path) -> Network:
    """The network that a search wrote beside its scores."""
    path = folder / _folder.NETWORK
    if not path.is_file():
        raise MixbitError(
            f"There is no {path}, so the costs of the layers are not known. Give the --run folder of a finished "
            "search, or write the network beside the scores: mixbit inspect MODEL --json network.json."
        )
    try:
        found = Network.from_json(_io.read_text(path))
        check_network(found)
    except MixbitError as cause:
        raise MixbitError(f"{path}: {cause}") from cause
    return found


def _subject(folder: Path) -> Subject | None:
    if not (folder / _folder.CONFIG).exists():
        return None
    return Subject.from_json(_folder.read(folder)["subject"])
