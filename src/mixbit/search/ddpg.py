"""HAQ's agent: deep deterministic policy gradient, for episodes of actions in [0, 1] with one reward at the end.

Wang, Liu, Lin, Lin and Han, "HAQ: Hardware-Aware Automated Quantization With Mixed Precision" (CVPR 2019), and its
released code, of which this takes the numbers. Vectors and callables only: what an action stands for is its caller's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixbit._settings import Amount, Count, Part, Positive, Seed, Share, check
from mixbit.errors import MixbitError, shown
from mixbit.search._perceptrons import Actor, Critic, Floats

__all__ = ["ActionMap", "Agent", "Ddpg", "Episode", "choice_of"]

Act = Callable[[ArrayLike], float]
"""`state (observations,) -> action` in [0, 1]."""
ActionMap = Literal["floor", "haq"]

_START, _PLAY = 0, 1
"""What random numbers are for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ddpg:
    """Settings of an agent; the defaults are those of HAQ's code, but for `noise_decay`.

    Attributes:
        episodes: of the whole search, 600 there.
        warmup: first episodes, whose actions are drawn evenly, and in which nothing is learned.
        noise: how far, `delta`, actions are drawn from the actor's in the first episode after these, from a normal
            distribution that is cut at 0 and 1.
        noise_end: delta after the last episode, which says how fast it falls.
        noise_decay: what delta is multiplied by after each episode, 0.99 there, in place of `noise_end`; None takes
            `(noise_end / noise)^(1 / (episodes - warmup))` (our completion), so that short searches settle too.
        hidden: width of both hidden layers of actor and critic.
        actor_lr: Adam's rate.
        critic_lr: Adam's rate.
        tau: part of its distance by which a target network follows at each update.
        batch: transitions of an update.
        memory: episodes whose transitions are kept.
        discount: gamma of the critic's target.
        baseline: by which part of its distance the baseline, which is taken from rewards, follows the mean of each
            batch.
        seed: of the first weights and of all that is drawn.

    Raises:
        MixbitError: a value that is not legal.
    """

    episodes: Count = 600
    warmup: Amount = 20
    noise: Positive = 0.5
    noise_end: Positive = 0.02
    noise_decay: Part | None = None
    hidden: tuple[Count, Count] = (300, 300)
    actor_lr: Positive = 1e-4
    critic_lr: Positive = 1e-3
    tau: Part = 0.01
    batch: Count = 64
    memory: Count = 128
    discount: Share = 1.0
    baseline: Part = 0.5
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self, room="ddpg")
        if self.episodes <= self.warmup:
            raise MixbitError(
                f"ddpg: episodes={self.episodes} would all be drawn evenly, as warmup={self.warmup} are. Legal: more "
                "episodes than warmup."
            )
        if self.noise_end > self.noise:
            raise MixbitError(f"ddpg: noise_end={self.noise_end} is above noise={self.noise}. Legal: at most that.")

    def delta(self, episode: int) -> float | None:
        """Noise of an episode; None while actions are drawn evenly.

        >>> [round(Ddpg(noise_decay=0.99).delta(at), 3) for at in (20, 70, 120)], Ddpg().delta(19)
        ([0.5, 0.303, 0.183], None)
        >>> round(Ddpg(episodes=120).delta(120), 6)
        0.02
        """
        after = episode - self.warmup
        if after < 0:
            return None
        if self.noise_decay is not None:
            return float(self.noise * self.noise_decay**after)
        return float(self.noise * (self.noise_end / self.noise) ** (after / (self.episodes - self.warmup)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """What an episode came to.

    Attributes:
        number: from 0.
        actions: as they were drawn, in their order.
        reward: at the end.
        delta: noise of the actions; None where they were drawn evenly.
        seconds: what the agent itself took, the environment left out.
    """

    number: int
    actions: tuple[float, ...]
    reward: float
    delta: float | None
    seconds: float


class Agent:
    """Actor, critic, their targets, and what they remember.

    The reward of an episode is that of each of its transitions. With `B` the baseline, the critic learns
    `r - B + gamma (1 - last) Q'(s', mu'(s'))` in squared distance, the actor climbs `Q(s, mu(s))`. Each transition that
    is stored is followed by one update.

    What an episode draws depends on the seed and its number alone. So an agent whose `state` was saved goes on as one
    that was never stopped, bit for bit on the same machine.

    Args:
        settings: of the search.
        observations: numbers of a state.
        steps: most actions of an episode.

    Two actions, and a reward that is largest at 0.25 and 0.75:

    >>> agent = Agent(Ddpg(episodes=80, warmup=20, hidden=(32, 32), actor_lr=1e-3, tau=0.1), observations=1, steps=2)
    >>> def environment(act):
    ...     return -abs(act([0.0]) - 0.25) - abs(act([1.0]) - 0.75)
    >>> found = [agent.play(environment) for _ in range(80)]
    >>> max(one.reward for one in found) > -0.1, len(found[-1].actions), agent.episode
    (True, 2, 80)
    """

    def __init__(self, settings: Ddpg, *, observations: int, steps: int) -> None:
        if observations < 1 or steps < 1:
            raise MixbitError(f"observations={observations}, steps={steps} of an agent. Legal: 1 or more of each.")
        self.settings, self.observations, self.steps = settings, observations, steps
        rng = np.random.default_rng([settings.seed, _START])
        self.actor = Actor(observations, settings.hidden, rng, settings.actor_lr)
        self.critic = Critic(observations, settings.hidden, rng, settings.critic_lr)
        self.episode = 0
        """Number of the next episode."""
        self._updates, self._stored = 0, 0
        self._baseline = np.nan
        # A row a transition: state, action, reward, whether it is the last, next state.
        self._memory: Floats = np.zeros((settings.memory * steps, 2 * observations + 3), dtype=np.float32)

    def play(self, environment: Callable[[Act], float]) -> Episode:
        """One episode, and what is learned from it.

        Args:
            environment: asks `act(state)` for each action in its turn, and returns the reward at the end.

        Raises:
            MixbitError: a state of another form, more or fewer actions than can be, or a reward that is not finite.
        """
        rng = np.random.default_rng([self.settings.seed, _PLAY, self.episode])
        delta = self.settings.delta(self.episode)
        states: list[Floats] = []
        actions: list[float] = []
        spent = 0.0

        def act(state: ArrayLike) -> float:
            nonlocal spent
            started = time.perf_counter()
            states.append(self._checked(state, len(states)))
            actions.append(float(rng.uniform()) if delta is None else drawn(self.action(states[-1]), delta, rng))
            spent += time.perf_counter() - started
            return actions[-1]

        reward = float(environment(act))
        started = time.perf_counter()
        if not actions or not np.isfinite(reward):
            raise MixbitError(
                f"episode {self.episode} has {len(actions)} actions and the reward {reward}. Legal: one action or more "
                "and a finite reward."
            )
        self._learn(np.stack(states), np.array(actions, dtype=np.float32), reward, rng)
        spent += time.perf_counter() - started
        self.episode += 1
        return Episode(number=self.episode - 1, actions=tuple(actions), reward=reward, delta=delta, seconds=spent)

    def action(self, state: ArrayLike) -> float:
        """What the actor does, without noise."""
        states = np.asarray(state, dtype=np.float32)[None]
        return float(self.actor(self.actor.vector, states)[0][0, 0])

    def _checked(self, state: ArrayLike, asked: int) -> Floats:
        found = np.asarray(state, dtype=np.float32)
        if found.shape != (self.observations,) or not np.isfinite(found).all() or asked >= self.steps:
            raise MixbitError(
                f"episode {self.episode}, action {asked}: the state is {shown(found.tolist())}. Legal: "
                f"{self.observations} finite numbers, {self.steps} times at most."
            )
        return found

    # -- learning

    def _learn(self, states: Floats, actions: Floats, reward: float, rng: np.random.Generator) -> None:
        nexts = np.concatenate([states[1:], np.zeros_like(states[:1])])
        last = np.arange(len(states)) == len(states) - 1
        for state, action, end, following in zip(states, actions, last, nexts, strict=True):
            row = np.concatenate([state, [action, np.float32(reward), np.float32(end)], following])
            self._memory[self._stored % len(self._memory)] = row
            self._stored += 1
            if self.episode >= self.settings.warmup:
                self._update(rng)

    def _update(self, rng: np.random.Generator) -> None:
        """One step of critic and actor on a batch of what is remembered, each once where there are enough."""
        have, size = min(self._stored, len(self._memory)), self.settings.batch
        rows = self._memory[rng.choice(have, size, replace=have < size)]
        count = self.observations
        states, following = rows[:, :count], rows[:, count + 3 :]
        actions, rewards, last = (rows[:, at : at + 1] for at in range(count, count + 3))
        target = self.targets(rewards, last, following)
        self._updates += 1
        found = self.critic(self.critic.vector, states, actions)
        slope = (np.float32(2 / size) * (found[0] - target)).astype(np.float32)
        self.critic.descend(self.critic.gradient(states, actions, found, slope), self._updates)
        acted = self.actor(self.actor.vector, states)
        valued = self.critic(self.critic.vector, states, acted[0])
        climb = self.critic.slope(valued, np.full((size, 1), -1 / size, dtype=np.float32))
        self.actor.descend(self.actor.gradient(states, acted, climb), self._updates)
        for one in (self.actor, self.critic):
            one.follow(self.settings.tau)

    def targets(self, rewards: Floats, last: Floats, following: Floats) -> Floats:
        """What the critic shall say of a batch, all `(n, 1)`; the baseline follows the batch first, as in the code."""
        mean = float(rewards.mean())
        share = self.settings.baseline
        self._baseline = mean if np.isnan(self._baseline) else self._baseline + share * (mean - self._baseline)
        acted = self.actor(self.actor.target, following)[0]
        then = self.critic(self.critic.target, following, acted)[0]
        left = np.float32(self.settings.discount) * (1 - last)
        return rewards - np.float32(self._baseline) + left * then

    # -- what a killed search goes on from

    def state(self) -> dict[str, NDArray[Any]]:
        """All that the agent is, as copies."""
        found: dict[str, NDArray[Any]] = {"memory": self._memory.copy(), "baseline": np.array(self._baseline)}
        found["counts"] = np.array([self.episode, self._updates, self._stored], dtype=np.int64)
        for name, one in (("actor", self.actor), ("critic", self.critic)):
            found |= {name: one.vector.copy(), f"{name}.target": one.target.copy()}
            found[f"{name}.moments"] = one.moments.copy()
        return found

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Become what `state` gave.

        Raises:
            MixbitError: it is of an agent of other sizes.
        """
        mine = self.state()
        form = {name: (one.dtype, one.shape) for name, one in mine.items()}
        given = {name: (one.dtype, one.shape) for name, one in state.items()}
        if given != form:
            wrong = sorted(name for name in {*form, *given} if form.get(name) != given.get(name))
            raise MixbitError(
                f"the state of an agent does not fit: {wrong[0]} is {given.get(wrong[0])}, legal is "
                f"{form.get(wrong[0])}. It is of other settings."
            )
        self._memory, self._baseline = state["memory"].copy(), float(state["baseline"])
        self.episode, self._updates, self._stored = (int(one) for one in state["counts"])
        for name, one in (("actor", self.actor), ("critic", self.critic)):
            one.vector, one.target = state[name].copy(), state[f"{name}.target"].copy()
            one.moments = state[f"{name}.moments"].copy()


def drawn(mean: float, delta: float, rng: np.random.Generator) -> float:
    """A number of a normal distribution around `mean` that is cut at 0 and 1.

    By the inverse of its distribution: `mean + delta Phi^-1(u)`, u even between `Phi(-mean / delta)` and
    `Phi((1 - mean) / delta)`.
    """
    from scipy.special import ndtr, ndtri

    low, high = (ndtr((end - mean) / delta) for end in (0.0, 1.0))
    return float(np.clip(mean + delta * ndtri(low + rng.uniform() * (high - low)), 0.0, 1.0))


def choice_of(action: float, choices: int, *, by: ActionMap = "floor", first: int = 0) -> int:
    """The number of a choice, from 0, that an action in [0, 1] stands for.

    Args:
        action: of the agent.
        choices: how many there are, in their order.
        by: "floor" gives each an equal part of [0, 1] (our completion): `floor(choices * action)`. "haq" rounds
            `choices * action + first - 1/2` half to even, as HAQ's code does, which lets the place of a boundary hang
            on whether `first` is even; what falls beyond the ends there (0 bits of 1 to 8 at an action of 0) is the end
            here.
        first: what the first choice stands for, the fewest bits; for "haq" alone.

    >>> [2 + choice_of(a, 7) for a in (0, 0.05, 0.1, 1 / 7, 0.25, 0.5, 0.75, 0.9, 1)]
    [2, 2, 2, 3, 3, 5, 7, 8, 8]
    >>> [2 + choice_of(a, 7, by="haq", first=2) for a in (0, 0.05, 0.1, 1 / 7, 0.25, 0.5, 0.75, 0.9, 1)]
    [2, 2, 2, 2, 3, 5, 7, 8, 8]
    """
    if not 0 <= action <= 1:
        raise MixbitError(f"action={action} is illegal. Legal: a number from 0 to 1.")
    found = int(choices * action) if by == "floor" else round(choices * action + first - 0.5) - first
    return min(max(found, 0), choices - 1)
