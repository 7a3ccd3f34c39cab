"""Actor and critic of a small agent: two hidden layers each, their gradients, Adam, and targets that follow slowly."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

__all__ = ["Actor", "Critic", "Floats", "Trained"]

Floats = NDArray[np.float32]
Shape = tuple[int, ...]

_BETAS, _EPSILON = (0.9, 0.999), 1e-8
"""PyTorch's defaults of Adam, which HAQ leaves as they are."""


class Trained:
    """Weights in one vector, so that an optimiser's step and a target's are a few operations on whole vectors.

    Args:
        shapes: name -> shape of each part; parts of two dimensions are `(inputs, outputs)`.
        fans: name -> inputs of its layer: a part starts evenly within `1 / sqrt(fan)`, as PyTorch's linear layers do.
        rng: draws the start.
        lr: of Adam.
    """

    def __init__(
        self, shapes: Mapping[str, Shape], fans: Mapping[str, int], rng: np.random.Generator, lr: float
    ) -> None:
        drawn = [rng.uniform(-(fans[name] ** -0.5), fans[name] ** -0.5, shape) for name, shape in shapes.items()]
        self.vector: Floats = np.concatenate([one.ravel() for one in drawn]).astype(np.float32)
        self.target = self.vector.copy()
        self.moments: Floats = np.zeros((2, len(self.vector)), dtype=np.float32)
        self.lr, self._shapes = lr, dict(shapes)

    def parts(self, vector: Floats) -> dict[str, Floats]:
        """Views of a vector by name."""
        found, first = {}, 0
        for name, shape in self._shapes.items():
            size = int(np.prod(shape))
            found[name] = vector[first : first + size].reshape(shape)
            first += size
        return found

    def joined(self, parts: Mapping[str, Floats]) -> Floats:
        """Parts as one vector."""
        return np.concatenate([parts[name].ravel() for name in self._shapes])

    def descend(self, gradient: Floats, number: int) -> None:
        """Step `number` of Adam, from 1."""
        first, second = self.moments
        first += np.float32(1 - _BETAS[0]) * (gradient - first)
        second *= np.float32(_BETAS[1])
        second += np.float32(1 - _BETAS[1]) * gradient * gradient
        scale = np.sqrt(second) / np.float32((1 - _BETAS[1] ** number) ** 0.5) + np.float32(_EPSILON)
        self.vector -= np.float32(self.lr / (1 - _BETAS[0] ** number)) * first / scale

    def follow(self, tau: float) -> None:
        """Move the target by a part `tau` of its distance."""
        self.target += np.float32(tau) * (self.vector - self.target)


class Actor(Trained):
    """`sigmoid(w3 relu(w2 relu(w1 s)))`: states `(n, observations)` to actions `(n, 1)` in [0, 1]."""

    def __init__(self, observations: int, hidden: tuple[int, int], rng: np.random.Generator, lr: float) -> None:
        one, two = hidden
        shapes = {"w1": (observations, one), "b1": (one,), "w2": (one, two), "b2": (two,), "w3": (two, 1), "b3": (1,)}
        fans = {"w1": observations, "b1": observations, "w2": one, "b2": one, "w3": two, "b3": two}
        super().__init__(shapes, fans, rng, lr)

    def __call__(self, vector: Floats, states: Floats) -> tuple[Floats, Floats, Floats]:
        """Actions, and both hidden layers."""
        p = self.parts(vector)
        first = np.maximum(states @ p["w1"] + p["b1"], 0)
        second = np.maximum(first @ p["w2"] + p["b2"], 0)
        logits = second @ p["w3"] + p["b3"]
        # Of numbers above 0 and below 0 alike, without an overflow.
        return (0.5 * (1 + np.tanh(0.5 * logits))).astype(np.float32), first, second

    def gradient(self, states: Floats, found: tuple[Floats, Floats, Floats], slope: Floats) -> Floats:
        """The gradient of all weights, where that along the actions is `slope` `(n, 1)`."""
        (actions, first, second), p = found, self.parts(self.vector)
        three: Floats = slope * actions * (1 - actions)
        two: Floats = np.where(second > 0, three @ p["w3"].T, np.float32(0))
        one: Floats = np.where(first > 0, two @ p["w2"].T, np.float32(0))
        return self.joined(
            {
                "w1": states.T @ one, "b1": one.sum(axis=0), "w2": first.T @ two, "b2": two.sum(axis=0),
                "w3": second.T @ three, "b3": three.sum(axis=0),
            }
        )  # fmt: skip


class Critic(Trained):
    """`w3 relu(w2 relu(ws s + wa a))`: states `(n, observations)` and actions `(n, 1)` to values `(n, 1)`."""

    def __init__(self, observations: int, hidden: tuple[int, int], rng: np.random.Generator, lr: float) -> None:
        one, two = hidden
        shapes = {
            "ws": (observations, one), "bs": (one,), "wa": (1, one), "ba": (one,), "w2": (one, two), "b2": (two,),
            "w3": (two, 1), "b3": (1,),
        }  # fmt: skip
        fans = {"ws": observations, "bs": observations, "wa": 1, "ba": 1, "w2": one, "b2": one, "w3": two, "b3": two}
        super().__init__(shapes, fans, rng, lr)

    def __call__(self, vector: Floats, states: Floats, actions: Floats) -> tuple[Floats, Floats, Floats]:
        """Values, and both hidden layers."""
        p = self.parts(vector)
        first = np.maximum(states @ p["ws"] + p["bs"] + actions @ p["wa"] + p["ba"], 0)
        second = np.maximum(first @ p["w2"] + p["b2"], 0)
        return second @ p["w3"] + p["b3"], first, second

    def gradient(self, states: Floats, actions: Floats, found: tuple[Floats, Floats, Floats], slope: Floats) -> Floats:
        """The gradient of all weights, where that along the values is `slope` `(n, 1)`."""
        _, first, second = found
        one, two = self._back(found, slope)
        bias = one.sum(axis=0)
        return self.joined(
            {
                "ws": states.T @ one, "bs": bias, "wa": actions.T @ one, "ba": bias, "w2": first.T @ two,
                "b2": two.sum(axis=0), "w3": second.T @ slope, "b3": slope.sum(axis=0),
            }
        )  # fmt: skip

    def slope(self, found: tuple[Floats, Floats, Floats], slope: Floats) -> Floats:
        """Along the actions `(n, 1)`, from that along the values."""
        back: Floats = self._back(found, slope)[0] @ self.parts(self.vector)["wa"].T
        return back

    def _back(self, found: tuple[Floats, Floats, Floats], slope: Floats) -> tuple[Floats, Floats]:
        """Slopes along what enters both hidden layers."""
        (_, first, second), p = found, self.parts(self.vector)
        two: Floats = np.where(second > 0, slope @ p["w3"].T, np.float32(0))
        one: Floats = np.where(first > 0, two @ p["w2"].T, np.float32(0))
        return one, two
