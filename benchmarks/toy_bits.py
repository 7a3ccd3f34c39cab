"""Twenty layers of bits under a budget: a toy whose optimum is known, for agents that choose bits one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixbit.search import choice_of

Bits = NDArray[np.int64]
Act = Callable[[Any], float]
"""A state to an action in [0, 1]."""

_RNG = np.random.default_rng(123)
COST: NDArray[np.float64] = _RNG.uniform(0.5, 2, 20)
HARM: NDArray[np.float64] = _RNG.uniform(0.1, 3, 20)
LAYERS, BUDGET = 20, 4 * float(COST.sum())
BITS = range(2, 9)
OBSERVATIONS = 4
SCALE = 0.1
"""Of the reward that an agent is told, as HAQ's has it."""
BEST = -1.7243
"""What an integer programme finds."""

_COLUMNS = np.stack([COST, HARM, np.arange(LAYERS)], axis=1)
_STATES = (_COLUMNS - _COLUMNS.min(0)) / np.ptp(_COLUMNS, axis=0)


def walled(bits: Bits) -> Bits:
    """From the last layer to the first one bit less, again and again, until the budget holds."""
    bits = bits.copy()
    while True:
        for at in range(LAYERS)[::-1]:
            if bits @ COST <= BUDGET:
                return bits
            bits[at] = max(bits[at] - 1, BITS[0])


def worth(bits: Bits) -> float:
    """Harm falls to a quarter with each bit; more is better.

    >>> round(worth(np.full(LAYERS, 4)), 4)
    -2.0796
    """
    return -float((HARM * 4.0 ** (2 - bits)).sum())


def state(at: int, before: float) -> NDArray[np.float64]:
    """Of a layer, with its predecessor's bits as a part of the most."""
    return np.array([*_STATES[at], before])


def environment(act: Act) -> float:
    """An episode, and its scaled reward."""
    found, before = list[int](), 1.0
    for at in range(LAYERS):
        found.append(BITS[choice_of(act(state(at, before)), len(BITS))])
        before = found[-1] / BITS[-1]
    return SCALE * worth(walled(np.array(found)))
