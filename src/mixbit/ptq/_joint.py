"""The joint stage of LAPQ: all steps together, by the loss itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Function = Callable[[Floats], float]
"""Logarithms of the factors on all steps -> loss."""

_WORST = 1e30  # a number, since infinity and NaN confuse line searches
_FIRST_MOVE = 0.1
_REACH, _TOLERANCE = 0.5, 0.02


class _Enough(Exception):
    """The evaluations are used up."""


class Watched:
    """A function that remembers its best point, and stops after so many evaluations."""

    def __init__(self, function: Function, dimensions: int, limit: int | None, tell: Callable[[float], None]) -> None:
        self._function, self._limit, self._tell = function, math.inf if limit is None else limit, tell
        self.best: Floats = np.zeros(dimensions)
        self.least = math.inf
        self._used = 0

    def __call__(self, logs: Floats) -> float:
        if self._used >= self._limit:
            raise _Enough
        self._used += 1
        found = self._function(logs)
        found = found if math.isfinite(found) else _WORST
        if found < self.least:
            self.best, self.least = logs.copy(), found
        self._tell(self.least)
        return found


def powell(watched: Watched, iterations: int) -> None:
    """Powell's method from the start (zero), its first moves a tenth of each step."""
    from scipy.optimize import minimize

    directions = _FIRST_MOVE * np.eye(len(watched.best))
    with suppress(_Enough):
        minimize(watched.__call__, watched.best, method="Powell", options={"maxiter": iterations, "direc": directions})


def descend(watched: Watched) -> None:
    """One pass of coordinate descent: each factor in turn, between 0.6 and 1.65, the others where they are by now."""
    from scipy.optimize import minimize_scalar

    def move(at: int, log: float) -> float:
        logs = watched.best.copy()
        logs[at] = log
        return watched(logs)

    with suppress(_Enough):
        watched(watched.best)
        for at in range(len(watched.best)):
            minimize_scalar(
                lambda log, at=at: move(at, log),
                bounds=(-_REACH, _REACH),
                method="bounded",
                options={"xatol": _TOLERANCE},
            )
