"""What searches by episodes have in common: a judge of a formula, kills, and rows of the options that all have."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from mixbit.cost import Budget
from mixbit.methods import EpisodeRecord, _tuning, read_episodes
from mixbit.methods._episodes import Episodic, Search
from mixbit.methods._walk import Walk
from mixbit.network import Network
from mixbit.policy import Policy, Terms
from mixbit.search import Ddpg
from mixbit.sensitivity.judging import bits_of
from mixbit.task import Task
from mixbit.testing.options import OptionRow, higher, unlike
from mixbit.training import TrainConfig
from tests.methods import seen

BUDGET = Budget.parse(["bitops=3x3"])
WIDE = Budget.parse(["bitops=8x8"])


class Formula:
    """A judge without a network: more bits are better, those of the first free layer most."""

    on = "a formula"

    def __init__(self, fails_at: int | None = None) -> None:
        self.of: Mapping[str, Any] = {"formula": 1}
        self.measured: list[str] = []
        self.fails_at = fails_at

    def measure(self, policy: Policy) -> dict[str, float]:
        if len(self.measured) == self.fails_at:
            raise KeyboardInterrupt
        self.measured.append(" ".join(map(str, policy.layers.values())))
        bits = [one.weight_bits * (len(policy.layers) - at) for at, one in enumerate(policy.layers.values())]  # type: ignore[operator]
        bits += [one.activation_bits for one in policy.layers.values()]  # type: ignore[misc]
        return {"bits": float(sum(bits))}

    def reward(self, found: Mapping[str, float]) -> float:
        return found["bits"] / 100

    def headline(self, found: Mapping[str, float]) -> str:
        return f"{found['bits']:g} bits,"


class Short(Episodic):
    """A small agent, for searches of a formula."""

    __slots__ = ()

    @property
    def agent(self) -> Ddpg:
        return Ddpg(
            episodes=self.episodes, warmup=self.warmup, noise_decay=self.noise_decay, seed=self.seed, hidden=(8, 8),
            batch=8,
        )  # fmt: skip


def searched(
    network: Network,
    run: Path | None = None,
    judge: Formula | None = None,
    *,
    budget: Budget = BUDGET,
    terms: Terms = Terms(),  # noqa: B008
    name: str = "formula",
    **settings: Any,
) -> tuple[Policy, Search]:
    """A search of a formula: what it ends in, and itself."""
    asked = Short(**{"episodes": 12, "warmup": 4, "bits": (8, 4, 3, 2), **settings})
    walk = Walk(network, budget, terms, asked.bits, share_bits=asked.share_bits, within=asked.within, fill=asked.fill)
    search = Search(name, asked, walk, judge or Formula(), run)
    return search.best(quiet=True), search


def records(method: Any, task: Task, name: str, budget: Budget = WIDE) -> list[EpisodeRecord]:
    """Episodes of a method's search."""
    with tempfile.TemporaryDirectory() as folder:
        method.search(task, budget, run=Path(folder), quiet=True)
        return read_episodes(Path(folder) / f"{name}-episodes.jsonl")


def trainings(method: Any, task: Task) -> list[TrainConfig]:
    """Settings of the trainings before policies are judged; nothing is trained."""
    found: list[TrainConfig] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(_tuning, "train", lambda _model, _rest, _test, config, **_: found.append(config))
        method.search(task, WIDE, quiet=True)
    return found


def free_sides(rows: list[EpisodeRecord], network: Network) -> set[int | None]:
    """Bits that free layers were given."""
    pins = Terms().pinned(network)
    layers = [(name, bits) for row in rows for name, bits in bits_of(row.bits, network).items()]
    return {side for name, bits in layers if name not in pins for side in (bits.weight_bits, bits.activation_bits)}


def rows(short: Callable[..., Any], task: Callable[[], Task], name: str) -> tuple[OptionRow, ...]:
    """Of the options that all searches by episodes have.

    Args:
        short: settings -> the method, with few episodes and images.
        task: what is searched, without ties.
        name: of the method.
    """

    def of(budget: Budget = WIDE, **settings: Any) -> list[EpisodeRecord]:
        return records(short(**settings), task(), name, budget)

    def agents(**settings: Any) -> list[list[float]]:
        return [row.actions for row in of(**settings)]

    def seeds(a: list[list[float]], b: list[list[float]]) -> bool:
        return unlike(a, b) and a == agents()

    return (
        OptionRow("bits", ((8, 2), (6, 3)), lambda v: free_sides(of(bits=v), task().network),
                  lambda a, b: (a, b) == ({8, 2}, {6, 3})),
        OptionRow("episodes", (5, 7), lambda v: len(of(episodes=v)), lambda a, b: (a, b) == (5, 7)),
        OptionRow("warmup", (2, 4), lambda v: [row.delta is None for row in of(warmup=v)].count(True),
                  lambda a, b: (a, b) == (2, 4)),
        OptionRow("noise_decay", (None, 1.0), lambda v: of(noise_decay=v)[-1].delta, higher),
        OptionRow("share_bits", (False, True), lambda v: len(of(share_bits=v)[0].actions),
                  lambda a, b: (a, b) == (2 * len(seen.SEARCHED), len(seen.SEARCHED))),
        OptionRow("fill", (False, True), lambda v: sum(row.costs["bitops"] for row in of(BUDGET, fill=v)), higher),
        OptionRow("within", ("wall", "project"), lambda v: [row.bits for row in of(BUDGET, within=v)], unlike),
        OptionRow("epochs", (0, 2), lambda v: {one.epochs for one in trainings(short(epochs=v, **BATCH), task())},
                  lambda a, b: (a, b) == (set(), {2})),
        OptionRow("train_images", (20_000, 2),
                  lambda v: trainings(short(epochs=1, train_images=v, **BATCH), task())[0].fraction,
                  lambda a, b: a == 1 and 0 < b < 1),
        OptionRow("lr", (1e-3, 0.5), lambda v: trainings(short(epochs=1, lr=v, **BATCH), task())[0].lr,
                  lambda a, b: (a, b) == (1e-3, 0.5)),
        OptionRow("seed", (0, 5), lambda v: agents(seed=v), seeds),
    )  # fmt: skip


BATCH = {"batch_size": 2}
ELSEWHERE = {"action_map": "tests/methods/test__walk.py::test_actions_between_two_choices_go_where_the_map_says"}
"""Both maps differ where an action lies on a boundary alone."""
