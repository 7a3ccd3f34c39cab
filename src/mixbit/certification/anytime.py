"""Bounds on a chance that hold at all times at once, so that one may stop when one has seen enough.

Clopper and Pearson's bound is for a number of samples that was fixed before. Who looks after each batch, and stops when
the bound is where he wants it, is wrong more often. A confidence sequence is wrong at any time with a chance of at most
alpha (Robbins, 1970; Ville, 1939): here the mixture of likelihood ratios over all chances, each as likely as another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

__all__ = ["ConfidenceSequence"]

_HALVINGS = 40
"""Of an interval, at whose end a bound is then known to 1e-12."""


@dataclass(slots=True)
class ConfidenceSequence:
    """Two-sided bounds on the chance of an event, after any number of samples.

    After `k` hits of `n` it holds all chances `p` with `B(k + 1, n - k + 1) / (p^k (1 - p)^(n - k)) < 1 / alpha`; what
    it has excluded once stays out.

    Args:
        alpha: chance that the true chance ever leaves the bounds.

    >>> bounds = ConfidenceSequence(0.001)
    >>> bounds.add(990, 1000)
    >>> round(bounds.low, 4), round(bounds.high, 4)
    (0.9664, 0.9987)
    """

    alpha: float
    hits: int = field(default=0, init=False)
    samples: int = field(default=0, init=False)
    low: float = field(default=0.0, init=False)
    high: float = field(default=1.0, init=False)

    def add(self, hits: int, samples: int) -> None:
        """Take so many samples more, of which so many are hits."""
        self.hits, self.samples = self.hits + hits, self.samples + samples
        share = self.hits / self.samples
        if self._excluded(self.low) and self.hits:
            self.low = max(self.low, self._edge(0.0, share))
        if self._excluded(self.high) and self.hits < self.samples:
            self.high = min(self.high, self._edge(1.0, share))

    def _excluded(self, chance: float) -> bool:
        """Whether the samples speak against this chance by more than 1 / alpha."""
        k, n = self.hits, self.samples
        if (k and chance <= 0) or (k < n and chance >= 1):
            return True
        likelihood = (k * math.log(chance) if k else 0.0) + ((n - k) * math.log1p(-chance) if k < n else 0.0)
        mixture = math.lgamma(k + 1) + math.lgamma(n - k + 1) - math.lgamma(n + 2)
        return mixture - likelihood >= -math.log(self.alpha)

    def _edge(self, out: float, inside: float) -> float:
        """The last excluded chance between one that is excluded and one that is not, by bisection."""
        for _ in range(_HALVINGS):
            middle = (out + inside) / 2
            out, inside = (middle, inside) if self._excluded(middle) else (out, middle)
        return out
