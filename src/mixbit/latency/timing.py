"""Time of one inference, fair on a machine that has other things to do: CPU time, in interleaved rounds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["Timing", "interleave"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """CPU time of one call, in milliseconds."""

    median_ms: float
    spread_ms: float
    """Interquartile range over rounds."""
    rounds: int

    @classmethod
    def of(cls, samples: list[float]) -> Timing:
        """From the times of rounds, ms.

        >>> Timing.of([1.0, 2.0, 3.0, 4.0, 5.0])
        Timing(median_ms=3.0, spread_ms=2.0, rounds=5)
        """
        spread = 0.0
        if len(samples) > 1:
            low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
            spread = high - low
        return cls(median_ms=statistics.median(samples), spread_ms=spread, rounds=len(samples))


def interleave(
    calls: Mapping[str, Callable[[], object]], *, rounds: int = 30, least_ms: float = 5.0
) -> dict[str, Timing]:
    """Time several calls in turn, round by round, so that what slows the machine slows all of them.

    Args:
        calls: name -> what to time.
        rounds: how often each has its turn.
        least_ms: a turn repeats its call as often as comes nearest to this, and at least once.

    Returns:
        Name -> CPU time of one call of this process, all threads together.
    """
    repeats = {name: _repeats(call, least_ms) for name, call in calls.items()}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            samples[name].append(_time(call, repeats[name]))
    return {name: Timing.of(found) for name, found in samples.items()}


def _time(call: Callable[[], object], repeats: int) -> float:
    begin = time.process_time_ns()
    for _ in range(repeats):
        call()
    return (time.process_time_ns() - begin) / 1e6 / repeats


def _repeats(call: Callable[[], object], least_ms: float) -> int:
    """After a call that warms caches up."""
    call()
    return max(1, round(least_ms / max(_time(call, 3), 1e-3)))
