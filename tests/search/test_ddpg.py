"""The agent against plain PyTorch, numbers of HAQ's code, an exact optimum, and itself after a kill."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from mixbit.errors import MixbitError
from mixbit.search import Agent, Ddpg, Episode, choice_of, ddpg
from mixbit.testing.options import OptionCases, OptionRow, alike, fields_of, higher, lower
from tests.support import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import toy_bits as toy

SMALL: dict[str, Any] = {"episodes": 12, "warmup": 3, "hidden": (8, 6), "batch": 5, "memory": 2}


def near(target: float) -> Callable[[Callable[[Any], float]], float]:
    """An environment of three actions, each best at `target`."""
    return lambda act: -sum(abs(act([at / 2, 0.5]) - target) for at in range(3))


def agent(**settings: Any) -> Agent:
    return Agent(Ddpg(**{**SMALL, **settings}), observations=2, steps=3)


def played(count: int = 12, **settings: Any) -> list[Episode]:
    one = agent(**settings)
    return [one.play(near(0.25)) for _ in range(count)]


# ------------------------------------------------------------------------------------------------- numbers of HAQ


ACTIONS = (0, 0.05, 0.1, 1 / 7, 0.25, 0.5, 0.75, 0.9, 1)


def test_actions_stand_for_bits_as_in_the_code_and_in_equal_parts() -> None:
    """And at the ends of 1 to 8 bits, where the code gives 0."""
    assert [2 + choice_of(a, 7, by="haq", first=2) for a in ACTIONS] == [2, 2, 2, 2, 3, 5, 7, 8, 8]
    assert [2 + choice_of(a, 7) for a in ACTIONS] == [2, 2, 2, 3, 3, 5, 7, 8, 8]
    assert 1 + choice_of(0.0, 8, by="haq", first=1) == 1 and 1 + choice_of(1.0, 7, by="haq", first=1) == 7
    assert np.bincount([choice_of(a, 4) for a in np.linspace(0, 1, 4001)]).tolist() == [1000, 1000, 1000, 1001]


@pytest.mark.parametrize("action", [-0.01, 1.01, float("nan")])
def test_an_action_is_between_0_and_1(action: float) -> None:
    with pytest.raises(MixbitError, match="Legal: a number from 0 to 1"):
        choice_of(action, 4)


def test_noise_falls_as_in_the_code() -> None:
    delta = [Ddpg(noise_decay=0.99).delta(at) for at in (20, 70, 120, 220, 320, 600)]
    assert delta == pytest.approx([0.5, 0.303, 0.183, 0.067, 0.0245, 0.00147], rel=5e-3)


@pytest.mark.parametrize("episodes", [60, 120, 600])
def test_noise_ends_where_it_should_for_any_number_of_episodes(episodes: int) -> None:
    settings = Ddpg(episodes=episodes)
    decay = (0.02 / 0.5) ** (1 / (episodes - 20))
    assert [settings.delta(at) for at in (20, 21, 40)] == pytest.approx([0.5, 0.5 * decay, 0.5 * decay**20])
    assert settings.delta(episodes) == pytest.approx(0.02) and settings.delta(19) is None


@pytest.mark.parametrize(("mean", "delta"), [(0.5, 0.5), (0.02, 0.3), (1.0, 0.05), (0.7, 0.02)])
def test_actions_are_of_a_normal_distribution_that_is_cut(mean: float, delta: float) -> None:
    rng = np.random.default_rng(0)
    found = np.array([ddpg.drawn(mean, delta, rng) for _ in range(3000)])
    wanted = stats.truncnorm(-mean / delta, (1 - mean) / delta, mean, delta)
    assert found.min() >= 0 and found.max() <= 1 and stats.kstest(found, wanted.cdf).pvalue > 0.01


def test_defaults_are_those_of_the_code() -> None:
    assert Ddpg() == Ddpg(
        episodes=600, warmup=20, noise=0.5, noise_end=0.02, noise_decay=None, hidden=(300, 300), actor_lr=1e-4,
        critic_lr=1e-3, tau=0.01, batch=64, memory=128, discount=1.0, baseline=0.5, seed=0,
    )  # fmt: skip


# --------------------------------------------------------------------------------------------- against plain PyTorch


class TorchActor(nn.Module):
    def __init__(self, parts: dict[str, Any]) -> None:
        super().__init__()
        for name, value in parts.items():
            self.register_parameter(name, nn.Parameter(torch.from_numpy(value.copy())))

    def forward(self, s: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(torch.relu(s @ self.w1 + self.b1) @ self.w2 + self.b2)
        return torch.sigmoid(hidden @ self.w3 + self.b3)


class TorchCritic(TorchActor):
    def forward(self, s: torch.Tensor, a: Any = None) -> torch.Tensor:
        hidden = torch.relu(s @ self.ws + self.bs + a @ self.wa + self.ba)
        return torch.relu(hidden @ self.w2 + self.b2) @ self.w3 + self.b3


def test_updates_are_those_of_pytorch() -> None:
    """Batches that the memory holds once each, so that their order alone is drawn: losses are means over all rows."""
    settings = {"batch": 6, "memory": 2, "warmup": 2, "baseline": 0.5, "discount": 0.75, "tau": 0.1, "actor_lr": 0.01}
    mine = agent(**settings)
    episodes = [mine.play(lambda act: act([0.0, 0.3]) + act([0.5, 0.3]) - 1 + act([1.0, 0.3])) for _ in range(2)]
    assert mine.state()["counts"].tolist() == [2, 0, 6], "warm-up learns nothing"
    actor, critic = (
        make(one.parts(one.vector)) for make, one in ((TorchActor, mine.actor), (TorchCritic, mine.critic))
    )
    actor_target, critic_target = (
        make(one.parts(one.target)) for make, one in ((TorchActor, mine.actor), (TorchCritic, mine.critic))
    )
    optimizers = [torch.optim.Adam(actor.parameters(), lr=0.01), torch.optim.Adam(critic.parameters(), lr=1e-3)]
    third = mine.play(lambda act: act([0.0, 0.3]) - act([0.5, 0.3]) * act([1.0, 0.3]))
    states = torch.tensor([[0.0, 0.3], [0.5, 0.3], [1.0, 0.3]])
    stored = [[a, e.reward] for e in episodes for a in e.actions]
    moving = None
    for turn, action in enumerate(third.actions):
        stored[turn] = [action, third.reward]  # the oldest goes
        rows = torch.tensor(stored)
        a, r = rows[:, :1], rows[:, 1:]
        s, last = states.repeat(2, 1), torch.tensor([0.0, 0.0, 1.0]).repeat(2)[:, None]
        after = torch.cat([states[1:], torch.zeros(1, 2)]).repeat(2, 1)
        mean = float(r.mean())
        moving = mean if moving is None else moving + 0.5 * (mean - moving)
        with torch.no_grad():
            target = r - moving + 0.75 * (1 - last) * critic_target(after, actor_target(after))
        optimizers[1].zero_grad()
        nn.functional.mse_loss(critic(s, a), target).backward()
        optimizers[1].step()
        optimizers[0].zero_grad()
        (-critic(s, actor(s)).mean()).backward()
        optimizers[0].step()
        with torch.no_grad():
            for slow, fast in ((actor_target, actor), (critic_target, critic)):
                for old, new in zip(slow.parameters(), fast.parameters(), strict=True):
                    old.lerp_(new, 0.1)
    state = mine.state()
    for name, one, model, slow in (
        ("actor", mine.actor, actor, actor_target),
        ("critic", mine.critic, critic, critic_target),
    ):
        for key, found in ((name, model), (f"{name}.target", slow)):
            wanted = {part: value.detach().numpy() for part, value in found.named_parameters()}
            assert np.allclose(state[key], one.joined(wanted), rtol=1e-4, atol=2e-6), key
    assert float(state["baseline"]) == pytest.approx(moving)


def test_weights_start_as_linear_layers_of_pytorch() -> None:
    mine = Agent(Ddpg(hidden=(40, 50)), observations=9, steps=3)
    for one, layers in (
        (mine.actor, {"w1": 9, "b1": 9, "w2": 40, "b2": 40, "w3": 50, "b3": 50}),
        (mine.critic, {"ws": 9, "bs": 9, "wa": 1, "ba": 1, "w2": 40, "b2": 40, "w3": 50, "b3": 50}),
    ):
        for name, fan in layers.items():
            part = one.parts(one.vector)[name]
            assert np.abs(part).max() <= fan**-0.5 and (part.size < 30 or np.abs(part).max() > 0.85 * fan**-0.5)
            if part.size > 30:
                assert abs(part.mean()) < 0.25 * fan**-0.5
        assert np.array_equal(one.vector, one.target) and not one.moments.any()


# --------------------------------------------------------------------------------------------------------- the toy


def optimum() -> float:
    """Of the toy by an integer programme: one bit-width a layer, within the budget."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    bits = np.array(toy.BITS)
    harm = (toy.HARM[:, None] * 4.0 ** (2 - bits)).ravel()
    one = np.kron(np.eye(toy.LAYERS), np.ones(len(bits)))
    found = milp(
        harm,
        constraints=[LinearConstraint(one, 1, 1), LinearConstraint(np.outer(toy.COST, bits).ravel(), ub=toy.BUDGET)],
        integrality=np.ones(len(harm)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0.0},
    )
    return -float(found.fun)


def test_the_toy_is_the_one_that_numbers_are_known_of() -> None:
    assert toy.worth(np.full(toy.LAYERS, 4)) == pytest.approx(-2.0796, abs=1e-4)
    assert optimum() == pytest.approx(toy.BEST, abs=1e-4)
    high = toy.walled(np.full(toy.LAYERS, 8))
    assert high @ toy.COST <= toy.BUDGET < (high + np.eye(toy.LAYERS, dtype=int)[0]) @ toy.COST


def best_of(episodes: int, seed: int, **settings: Any) -> float:
    one = Agent(Ddpg(episodes=episodes, seed=seed, **settings), observations=toy.OBSERVATIONS, steps=toy.LAYERS)
    return 10 * max(one.play(toy.environment).reward for _ in range(episodes))


def test_a_short_search_of_the_toy_is_far_ahead_of_chance() -> None:
    """A small agent of quick rates, as the suite has no time for HAQ's; the best of as many random ones is -4 to -6."""
    rng = np.random.default_rng(0)
    chance = 10 * max(toy.environment(lambda _: rng.uniform()) for _ in range(80))
    found = best_of(80, 0, hidden=(64, 64), actor_lr=1e-3)
    assert chance < -4 and -3.2 < found < toy.BEST


@pytest.mark.bench
@pytest.mark.parametrize("seed", range(3))
def test_haqs_agent_beats_equal_bits_in_the_toy(seed: int) -> None:
    assert -2.08 <= best_of(300, seed) <= toy.BEST + 1e-4


# ------------------------------------------------------------------------------------------------------ going on


@pytest.mark.parametrize("stopped", [1, 3, 4, 9])
def test_an_agent_that_was_saved_goes_on_to_the_bit(stopped: int) -> None:
    whole, first, second = (agent() for _ in range(3))
    wanted = [whole.play(near(0.7)) for _ in range(12)]
    found = [first.play(near(0.7)) for _ in range(stopped)]
    kept = first.state()
    first.play(near(0.1))  # what is kept is a copy
    second.restore(kept)
    found += [second.play(near(0.7)) for _ in range(12 - stopped)]
    assert [(e.number, e.actions, e.reward) for e in found] == [(e.number, e.actions, e.reward) for e in wanted]
    assert alike(second.state(), whole.state())


def test_a_state_of_another_agent_is_refused() -> None:
    with pytest.raises(MixbitError, match="the state of an agent does not fit: actor is .* It is of other settings"):
        agent().restore(agent(hidden=(8, 7)).state())
    with pytest.raises(MixbitError, match="baseline is None"):
        agent().restore({name: value for name, value in agent().state().items() if name != "baseline"})


def test_time_is_the_agents_own() -> None:
    def slow(act: Callable[[Any], float]) -> float:
        time.sleep(0.2)
        return act([0.0, 0.0])

    assert 0 < agent().play(slow).seconds < 0.1


# ------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        (lambda act: act([0.0, 0.0]) + float("nan"), "has 1 actions and the reward nan"),
        (lambda act: 1.0, "has 0 actions"),
        (lambda act: act([0.0]), "action 0: the state is"),
        (lambda act: act([0.0, float("inf")]), "Legal: 2 finite numbers, 3 times at most"),
        (lambda act: sum(act([0.0, 0.0]) for _ in range(4)), "action 3: "),
    ],
)
def test_an_environment_that_is_none(environment: Any, words: str) -> None:
    with pytest.raises(MixbitError, match=words):
        agent().play(environment)


@pytest.mark.parametrize("sizes", [{"observations": 0, "steps": 1}, {"observations": 1, "steps": 0}])
def test_an_agent_of_nothing(sizes: dict[str, int]) -> None:
    with pytest.raises(MixbitError, match="Legal: 1 or more of each"):
        Agent(Ddpg(), **sizes)


def test_settings_that_cannot_be() -> None:
    with pytest.raises(MixbitError, match="episodes=20 would all be drawn evenly"):
        Ddpg(episodes=20)
    with pytest.raises(MixbitError, match=r"noise_end=0.6 is above noise=0.5"):
        Ddpg(noise_end=0.6)


# --------------------------------------------------------------------------------------------------------- options


def spread(**settings: Any) -> float:
    """Of the actions after the warm-up, around what they are without noise."""
    one = agent(**{"episodes": 4, "warmup": 3, **settings})
    for _ in range(3):
        one.play(near(0.5))
    mean = one.action([0.0, 0.0])
    return float(np.abs([a - mean for _ in range(9) for a in one.play(lambda act: act([0.0, 0.0])).actions]).mean())


def moved(of: str, **settings: Any) -> float:
    """How far weights go in the first update, or their target does."""
    one = agent(**{"episodes": 9, "warmup": 2, **settings})
    before = one.state()
    for _ in range(2):
        one.play(near(0.5))
    one.play(lambda act: act([0.0, 0.0]))
    return float(np.abs(one.state()[of] - before[of]).mean())


def baselines(**settings: Any) -> float:
    """After a batch of a mean of 0 and one of a mean of 1."""
    one = agent(**settings)
    zero, last = np.zeros((5, 1), np.float32), np.ones((5, 1), np.float32)
    one.targets(zero, last, np.zeros((5, 2), np.float32))
    one.targets(last, last, np.zeros((5, 2), np.float32))
    return float(one.state()["baseline"])


def later(**settings: Any) -> float:
    """By how much what follows counts in the critic's target."""
    one = agent(**settings)
    given = np.ones((1, 1), np.float32), np.zeros((1, 1), np.float32), np.full((1, 2), 0.5, np.float32)
    return float(one.targets(*given)[0, 0])


def sampled(**settings: Any) -> int:
    """Rows of an update."""
    seen: list[int] = []
    one = agent(**{"warmup": 2, **settings})
    inner = one.targets
    one.targets = lambda r, *more: (seen.append(len(r)), inner(r, *more))[1]  # type: ignore[method-assign]
    for _ in range(3):
        one.play(near(0.5))
    return seen[0]


class TestDdpgOptions(OptionCases):
    owner = Ddpg
    options = fields_of(Ddpg)
    rows = (
        OptionRow("episodes", (600, 120), lambda v: Ddpg(episodes=v).delta(100), lower, "noise falls in time"),
        OptionRow("warmup", (3, 5), lambda v: [e.delta is None for e in played(warmup=v)].count(True),
                  lambda a, b: (a, b) == (3, 5)),
        OptionRow("noise", (0.5, 0.03), lambda v: spread(noise=v), lower),
        OptionRow("noise_end", (0.02, 0.2), lambda v: Ddpg(noise_end=v).delta(600),
                  lambda a, b: (round(a, 6), round(b, 6)) == (0.02, 0.2)),
        OptionRow("noise_decay", (None, 0.9), lambda v: Ddpg(noise_decay=v).delta(30),
                  lambda a, b: a > b and round(b, 9) == round(0.5 * 0.9**10, 9)),
        OptionRow("hidden", ((8, 6), (9, 7)), lambda v: len(agent(hidden=v).actor.vector),
                  lambda a, b: (a, b) == (3 * 8 + 9 * 6 + 7, 3 * 9 + 10 * 7 + 8)),
        OptionRow("actor_lr", (1e-4, 1e-2), lambda v: moved("actor", actor_lr=v), higher),
        OptionRow("critic_lr", (1e-3, 1e-1), lambda v: moved("critic", critic_lr=v), higher),
        OptionRow("tau", (0.01, 0.5), lambda v: moved("critic.target", tau=v), higher),
        OptionRow("batch", (5, 4), lambda v: sampled(batch=v), lambda a, b: (a, b) == (5, 4)),
        OptionRow("memory", (2, 4), lambda v: len(agent(memory=v).state()["memory"]), lambda a, b: (a, b) == (6, 12)),
        OptionRow("discount", (1.0, 0.0), lambda v: later(discount=v), lambda a, b: a != 0 and b == 0),
        OptionRow("baseline", (0.5, 0.25), lambda v: baselines(baseline=v), lambda a, b: (a, b) == (0.5, 0.25)),
        OptionRow("seed", (0, 1), lambda v: [e.actions for e in itertools.islice(played(seed=v), 4)],
                  lambda a, b: a != b and a == [e.actions for e in played(4)]),
    )  # fmt: skip
