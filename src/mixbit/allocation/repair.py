"""Repair of score columns in which fewer bits look less harmful than more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np

from mixbit.allocation._problem import Floats
from mixbit.errors import BudgetError, did_you_mean

__all__ = ["RepairHow", "repair_monotone"]

RepairHow = Literal["forbid", "isotonic", "none"]


def repair_monotone(bits: Sequence[int], scores: Sequence[float] | Floats, how: RepairHow = "forbid") -> Floats:
    """Scores (b,) of one tensor at the bit-widths `bits`, repaired so that fewer bits never look less harmful.

    Learned indicators have such outliers. LIMPQ's released code goes down the bit-widths and overwrites the score of
    a width with 1e8 if it is below the *original* score of the next higher one; "forbid" does the same with inf,
    which the solvers take as a closed option, and for any list of widths in any order. "isotonic" replaces the scores
    by the nearest non-increasing ones in least squares (pool adjacent violators, Ayer et al. 1955; our completion):
    no option is lost.

    Scores that are inf already stay so, and count as absent.

    Args:
        bits: the bit-widths, each once, in any order.
        scores: their scores, finite or inf.
        how: "forbid", "isotonic" or "none".

    Returns:
        A new array in the order of `bits`.

    Raises:
        BudgetError: other shapes, a repeated bit-width, NaN, an unknown `how`.

    >>> repair_monotone([8, 4, 2], [0.3, 0.1, 0.2])
    array([0.3, inf, 0.2])
    >>> repair_monotone([8, 4, 2], [0.3, 0.1, 0.2], how="isotonic")
    array([0.2, 0.2, 0.2])
    """
    values = _checked(bits, scores, how)
    fixed = values.copy()
    order = np.argsort(-np.asarray(bits))
    order = order[np.isfinite(values[order])]
    if how == "forbid":
        lower, higher = order[1:], order[:-1]
        fixed[lower[values[lower] < values[higher]]] = np.inf
    elif how == "isotonic":
        fixed[order] = _pooled(values[order].tolist())
    return fixed


def _checked(bits: Sequence[int], scores: Sequence[float] | Floats, how: str) -> Floats:
    if how not in get_args(RepairHow):
        raise BudgetError(
            f"how: got {how!r}. Legal are 'forbid', 'isotonic' and 'none'.{did_you_mean(how, get_args(RepairHow))}"
        )
    values = np.asarray(scores, dtype=np.float64)
    if values.shape != (len(bits),):
        raise BudgetError(f"scores: got shape {values.shape} for {len(bits)} bit-widths. Give one score a bit-width.")
    if len(set(bits)) != len(bits):
        raise BudgetError(f"bits: got {list(bits)}. Give each bit-width once.")
    if np.isnan(values).any() or np.isneginf(values).any():
        raise BudgetError(f"scores: got {values.tolist()}. Legal are finite numbers, and inf for a forbidden option.")
    return values


def _pooled(values: list[float]) -> list[Any]:
    """The nearest non-decreasing sequence in least squares."""
    blocks: list[tuple[float, int]] = []
    for value in values:
        mean, count = value, 1
        while blocks and blocks[-1][0] > mean:
            before, size = blocks.pop()
            mean, count = (mean * count + before * size) / (count + size), count + size
        blocks.append((mean, count))
    return [mean for mean, count in blocks for _ in range(count)]
