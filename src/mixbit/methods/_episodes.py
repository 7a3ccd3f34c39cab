"""Searches by an agent that chooses bits layer by layer: episodes, what is kept of them, and going on after a kill."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike
from safetensors import SafetensorError
from safetensors.numpy import load, save

from mixbit import _distributed, _io
from mixbit._progress import progress_bar
from mixbit._settings import Amount, Bits, Count, Part, Positive, Seed
from mixbit.errors import MixbitError, StaleRun
from mixbit.ledger import Ledger
from mixbit.methods._settings import plain_settings
from mixbit.methods._starts import ordered
from mixbit.methods._walk import Walk, Within
from mixbit.policy import Policy, pin_note
from mixbit.search import ActionMap, Agent, Ddpg, Episode
from mixbit.sensitivity.judging import bits_of, bits_text

__all__ = ["EpisodeRecord", "Episodic", "Judging", "Search", "read_episodes"]

EPISODES, AGENT = "episodes.jsonl", "agent.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeRecord:
    """What is kept of an episode.

    Attributes:
        number: from 0.
        bits: of all layers in their order, as measured, within the limits.
        actions: as the agent drew them.
        delta: their noise; None where they were drawn evenly.
        reward: of the policy.
        quality: what was measured of it.
        costs: what it uses, see `Policy.costs`.
        new: whether it was measured in this episode; an earlier one may have had the same bits.
        seconds: of the episode.
        agent_seconds: of these the agent's own.
    """

    number: int
    bits: str
    actions: list[float]
    delta: float | None
    reward: float
    quality: dict[str, float]
    costs: dict[str, int | float]
    new: bool
    seconds: float
    agent_seconds: float


def read_episodes(path: Path) -> list[EpisodeRecord]:
    """Episodes of the last search that a file holds; none where there is no file.

    Raises:
        MixbitError: a line that is no episode.
    """
    if not path.exists():
        return []
    lines = _io.read_text(path).splitlines(keepends=True)[1:]
    found: dict[str, dict[int, EpisodeRecord]] = {}
    for line in (one for one in lines if one.endswith("\n")):  # the last may be cut off
        entry = _io.parse_json(line, where=str(path))
        search, _, _ = entry["key"].partition(", ")
        one = _io.as_record(entry["value"], EpisodeRecord, where=str(path), remedy="Remove the file.")
        of = found.pop(search, {})
        found[search] = of | {one.number: one}
    return list(found.popitem()[1].values()) if found else []


@dataclass(frozen=True, slots=True, kw_only=True)
class Episodic:
    """Settings that searches by episodes have in common; see the methods."""

    bits: tuple[Bits, ...] = (8, 7, 6, 5, 4, 3, 2)
    episodes: Count = 120
    warmup: Amount = 20
    noise_decay: Part | None = None
    action_map: ActionMap = "floor"
    share_bits: bool = False
    within: Within = "wall"
    fill: bool = False
    epochs: Amount = 0
    train_images: Count = 20_000
    lr: Positive = 1e-3
    batch_size: Count = 256
    seed: Seed = 0

    @property
    def agent(self) -> Ddpg:
        """Settings of the agent.

        Raises:
            MixbitError: no episode is left after the warm-up.
        """
        return Ddpg(episodes=self.episodes, warmup=self.warmup, noise_decay=self.noise_decay, seed=self.seed)


class Judging(Protocol):
    """What a policy is worth."""

    @property
    def of(self) -> Mapping[str, Any]:
        """All that measurements depend on."""
        ...

    @property
    def on(self) -> str:
        """What was measured on, in words."""
        ...

    def measure(self, policy: Policy) -> dict[str, float]:
        """What there is to know of it, by name."""
        ...

    def reward(self, found: Mapping[str, float]) -> float:
        """What the agent is paid for it; more is better."""
        ...

    def headline(self, found: Mapping[str, float]) -> str:
        """The same for people."""
        ...


class Search:
    """One search: an agent walks over the layers, what comes of it is brought within the limits and measured.

    The episode trains the agent whether its policy was measured before or not. In a run folder all policies that were
    measured, all episodes, and the agent are kept: a killed search goes on with the episodes of an unbroken one.

    Args:
        name: of the method, and of its files.
        settings: of the method.
        walk: over the network, under its limits.
        judge: what a policy is worth.
        run: folder, or None.
    """

    def __init__(self, name: str, settings: Episodic, walk: Walk, judge: Judging, run: Path | None) -> None:
        self.name, self.settings, self.walk, self.judge = name, settings, walk, judge
        self.agent = Agent(settings.agent, observations=walk.observations, steps=len(walk.steps))
        self._key = _digest(walk.limits, walk.pins, walk.terms)
        of = {**plain_settings(settings), **judge.of}
        self.known = Ledger(_file(run, f"{name}.jsonl"), f"measurements of {name}", judge.of)
        self.told = Ledger(_file(run, f"{name}-{EPISODES}"), f"episodes of {name}", of)
        self._file = _file(run, f"{name}-{AGENT}")
        self._resume()

    def best(self, *, quiet: bool) -> Policy:
        """The policy of the largest reward, the first of several."""
        episodes = self.settings.episodes
        records = [self._record(number) for number in range(self.agent.episode)]
        best = max((one.reward for one in records), default=-np.inf)
        label = self.name.replace("-", " ")
        with progress_bar(label, episodes, done=len(records), quiet=quiet) as advance:
            while self.agent.episode < episodes:
                records.append(self._play())
                best = max(best, records[-1].reward)
                advance(1, f"reward {records[-1].reward:.3f}, best {best:.3f}")
        return self._finished(records)

    # -- an episode

    def _play(self) -> EpisodeRecord:
        started, found = time.perf_counter(), dict[str, Any]()

        def environment(act: Callable[[ArrayLike], float]) -> float:
            layers = self.walk.kept(self.walk.actions(act))
            found.update(bits=bits_text(layers), costs=self.walk.terms.cost_table(self.walk.network, layers))
            found["new"] = found["bits"] not in self.known
            if found["new"]:
                self.known.put(found["bits"], self._measured(layers))
            found["quality"] = self.known.read(found["bits"], dict[str, float])
            return self._rewarded(found["quality"], found["bits"])

        episode = self.agent.play(environment)
        record = EpisodeRecord(
            number=episode.number,
            actions=list(episode.actions),
            delta=episode.delta,
            reward=episode.reward,
            agent_seconds=episode.seconds,
            seconds=time.perf_counter() - started,
            **found,
        )
        record = self._kept(record, episode)
        self._save()  # last: an agent that is behind plays again what was measured
        return record

    def _measured(self, layers: Mapping[str, Any]) -> dict[str, float]:
        return self.judge.measure(self.walk.policy(layers))

    def _rewarded(self, quality: Mapping[str, float], bits: str) -> float:
        reward = self.judge.reward(quality)
        if not np.isfinite(reward):
            raise MixbitError(
                f"{self.name}: the reward of {bits} is {reward}, from {dict(quality)}. Legal: a finite number. Look at "
                "the metric on the images that judge."
            )
        return reward

    def _kept(self, record: EpisodeRecord, episode: Episode) -> EpisodeRecord:
        """The episode as the ledger has it; one that is there already must be the same."""
        key = f"{self._key}, episode {episode.number}"
        if key not in self.told:
            self.told.put(key, asdict(record))
            return record
        old = self.told.read(key, EpisodeRecord)
        if (old.actions, old.bits, old.reward) != (record.actions, record.bits, record.reward):
            raise StaleRun(
                f"{self.told.path}: episode {episode.number} had {old.bits} and the reward {old.reward}, and comes to "
                f"{record.bits} and {record.reward} now: the file of the agent is gone, and this machine rounds "
                "otherwise, or the measurements were changed. Remove the file to begin the episodes anew."
            )
        return old

    def _record(self, number: int) -> EpisodeRecord:
        return self.told.read(f"{self._key}, episode {number}", EpisodeRecord)

    # -- the agent's file

    def _save(self) -> None:
        if self._file is not None and _distributed.rank() == 0:
            _io.write_bytes(self._file, save(self.agent.state(), metadata={"search": self._key}))

    def _resume(self) -> None:
        """Take the agent from its file if that is of this search, and no farther than its episodes.

        Raises:
            StaleRun: the file is none.
        """
        path = self._file
        if path is None:
            return
        content = _distributed.bytes_of_first(lambda: _io.read_bytes(path, error=StaleRun) if path.exists() else b"")
        if not content:
            return
        try:
            state = load(content)
            if _search_of(content) != self._key:
                return  # of other limits: it is written anew, and what was measured stays
            played = int(state["counts"][0])
            if all(f"{self._key}, episode {number}" in self.told for number in range(played)):
                self.agent.restore(state)
        except (SafetensorError, MixbitError, KeyError, ValueError) as cause:
            raise StaleRun(
                f"{path} is no agent of this search: {cause}. Remove it; episodes are then played again from what was "
                "measured."
            ) from None

    # -- the result

    def _finished(self, records: list[EpisodeRecord]) -> Policy:
        best = max(records, key=lambda one: one.reward)
        return self.walk.policy(
            bits_of(best.bits, self.walk.network),
            method=self.name,
            seed=self.settings.seed,
            allocation={
                "solver": self.name,
                "objective": best.reward,
                "evaluations": len({one.bits for one in records}),
                "episodes": len(records),
                "quality": dict(best.quality),
                "settings": plain_settings(self.settings),
                **self.walk.terms.facts,
            },
            notes=([pin_note(self.walk.pins)] if self.walk.pins else []) + self._notes(records, best),
        )

    def _notes(self, records: list[EpisodeRecord], best: EpisodeRecord) -> list[str]:
        different = len({one.bits for one in records})
        found = [
            f"the best of {len(records)} episodes, {different} different policies: reward {best.reward:.4g} in episode "
            f"{best.number}; {self.judge.headline(best.quality)} on {self.judge.on}"
        ]
        chance = [one.reward for one in records if one.delta is None]
        learned = [one.reward for one in records if one.delta is not None]
        if chance:
            found.append(
                f"of the {len(chance)} random episodes the best had {max(chance):.4g} and the median "
                f"{statistics.median(chance):.4g}; of the last {len(learned[-10:])} the median is "
                f"{statistics.median(learned[-10:]):.4g}"
            )
        return found


def _file(run: Path | None, name: str) -> Path | None:
    return None if run is None else run / name


def _digest(*of: Any) -> str:
    """Of limits and terms: searches under others keep their episodes apart."""
    return blake2b(repr(ordered(of)).encode(), digest_size=6).hexdigest()


def _search_of(content: bytes) -> str:
    """Which search a file of an agent is of, by the head of the file."""
    size = int.from_bytes(content[:8], "little")
    return str(json.loads(content[8 : 8 + size])["__metadata__"]["search"])
