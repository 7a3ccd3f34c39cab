"""HAQ's agent in a toy of twenty layers, beside stable-baselines3's DDPG and chance, at equal episodes.

    python benchmarks/ddpg.py [--seeds 3] [--episodes 300] [--fresh | --smoke]

The toy is that of `toy_bits.py`. Ours has the settings of HAQ's code, and beside them its own fall of the noise.
stable-baselines3 has its defaults, but for a discount of 1, as many random episodes before it learns, and normal noise
of 0.2 (on actions from 0 to 1), without which it tries nothing; it learns as many times as it acts, and is paid at the
end alone. Where it is not installed (`pip install stable-baselines3`, which brings pandas and matplotlib), it is left
out with a word.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

import records
import toy_bits
from mixbit.search import Agent, Ddpg

LAST = 20
HIDDEN = (300, 300)


def ours(episodes: int, seed: int, **settings: Any) -> list[float]:
    """Rewards of all episodes."""
    asked = Ddpg(episodes=episodes, warmup=min(20, episodes // 2), seed=seed, **settings)
    agent = Agent(asked, observations=toy_bits.OBSERVATIONS, steps=toy_bits.LAYERS)
    return [agent.play(toy_bits.environment).reward for _ in range(episodes)]


def random(episodes: int, seed: int) -> list[float]:
    """Actions that are drawn evenly."""
    rng = np.random.default_rng(seed)
    return [toy_bits.environment(lambda _: float(rng.uniform())) for _ in range(episodes)]


def theirs(episodes: int, seed: int) -> list[float]:
    """stable-baselines3's DDPG."""
    import gymnasium
    from stable_baselines3 import DDPG
    from stable_baselines3.common.noise import NormalActionNoise

    rewards: list[float] = []

    class Toy(gymnasium.Env[Any, Any]):
        observation_space = gymnasium.spaces.Box(0.0, 1.0, (toy_bits.OBSERVATIONS,), np.float32)
        action_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)

        def reset(self, **given: Any) -> tuple[Any, dict[str, Any]]:
            super().reset(**given)
            self.bits: list[int] = []
            return self._state(1.0), {}

        def _state(self, before: float) -> Any:
            return toy_bits.state(min(len(self.bits), toy_bits.LAYERS - 1), before).astype(np.float32)

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            choice = toy_bits.choice_of(float(np.clip(action[0], 0, 1)), len(toy_bits.BITS))
            self.bits.append(toy_bits.BITS[choice])
            done, reward = len(self.bits) == toy_bits.LAYERS, 0.0
            if done:
                reward = toy_bits.SCALE * toy_bits.worth(toy_bits.walled(np.array(self.bits)))
                rewards.append(reward)
            return self._state(self.bits[-1] / toy_bits.BITS[-1]), reward, done, False, {}

    noise = NormalActionNoise(np.zeros(1), np.full(1, 0.4))  # actions are from -1 to 1 within
    start = min(20, episodes // 2) * toy_bits.LAYERS
    agent = DDPG("MlpPolicy", Toy(), gamma=1.0, learning_starts=start, action_noise=noise, seed=seed, device="cpu")
    agent.learn(episodes * toy_bits.LAYERS)
    return rewards


def measured(play: Callable[[int, int], Sequence[float]], episodes: int, seed: int) -> dict[str, Any]:
    """The best that was found, and what the last episodes were worth."""
    started = time.process_time()
    found = [one / toy_bits.SCALE for one in play(episodes, seed)]
    return {
        "best": max(found),
        "last": statistics.fmean(found[-LAST:]),
        "episodes": len(found),
        "cpu_s": time.process_time() - started,
    }


def main() -> None:
    """A row for each agent and seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--episodes", type=int, default=300)
    records.arguments(parser)
    given = parser.parse_args()
    torch.set_num_threads(1)
    seeds, episodes = (1, 4) if given.smoke else (given.seeds, given.episodes)
    agents: dict[str, Callable[[int, int], Sequence[float]]] = {
        "ours": lambda n, seed: ours(n, seed, hidden=HIDDEN),
        "ours, noise of the code": lambda n, seed: ours(n, seed, hidden=HIDDEN, noise_decay=0.99),
        "random": random,
    }
    if importlib.util.find_spec("stable_baselines3") is None:
        print("stable-baselines3 is not installed, and is left out: pip install stable-baselines3")
    else:
        agents["stable-baselines3"] = theirs
    for name, play in agents.items():
        libraries = ("numpy", "torch", "stable-baselines3") if name == "stable-baselines3" else ("numpy",)
        results = records.Results(
            "ddpg", settings={"episodes": episodes}, libraries=libraries, fresh=given.fresh, smoke=given.smoke
        )
        for seed in range(seeds):
            row = {"agent": name, "seed": seed}
            results.row(row, lambda play=play, seed=seed: measured(play, episodes, seed))  # type: ignore[misc]


if __name__ == "__main__":
    main()
