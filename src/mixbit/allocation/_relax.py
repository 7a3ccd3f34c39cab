"""Good feasible choices in little time: greedy repair of the relaxation's choice, and local improvement."""

from __future__ import annotations

import numpy as np

from mixbit.allocation._dual import Frame
from mixbit.allocation._problem import Bools, Floats, Instance, Ints

__all__ = ["improve", "repair"]


def repair(instance: Instance, frame: Frame) -> Ints | None:
    """From the relaxation's choice to a feasible one, or None.

    Each round lists, for every group, its move that relieves the broken rows most for its reduced cost, and makes the
    best moves of the list until the rows keep or further moves would break others.
    """
    choice = frame.base.copy()
    groups = np.arange(len(choice))
    unit = np.maximum(1.0, instance.room.astype(np.float64))
    for _ in range(4 * len(choice)):
        excess = instance.used(choice) - instance.room
        if (excess <= 0).all():
            return choice
        move = instance.costs - instance.costs[:, groups, choice][:, :, None]
        broken = _violation(excess, unit)
        relief = np.where(instance.open, broken - _violation(excess[:, None, None] + move, unit), 0.0)
        rate = _rates(relief, frame.reduced - frame.reduced[groups, choice][:, None])
        option = rate.argmin(axis=1)
        order = np.argsort(rate[groups, option], kind="stable")
        order = order[relief[order, option[order]] > 0]
        after = _violation(excess[:, None] + move[:, order, option[order]].cumsum(axis=1), unit)
        if not len(order) or after.min() >= broken:
            return None
        order = order[: int(after.argmin()) + 1]
        choice[order] = option[order]
    return None


def _violation(excess: Ints, unit: Floats) -> Floats:
    """How far all rows together are beyond their room, each in parts of it."""
    scaled = np.maximum(excess, 0) / unit.reshape(-1, *[1] * (excess.ndim - 1))
    total: Floats = scaled.sum(axis=0)
    return total


def _rates(relief: Floats, price: Floats) -> Floats:
    """Price of a unit of relief; of moves without a price the one with most relief is best."""
    tiny = np.finfo(np.float64).tiny
    rates = np.full(relief.shape, np.inf)
    np.divide(np.maximum(price, tiny), relief, out=rates, where=relief > 0)
    return rates


def improve(scores: Ints | Floats, costs: Ints, room: Ints, open_: Bools, choice: Ints) -> Ints:
    """Change one group at a time, best gain first, as long as the total score falls and every row keeps.

    Args:
        scores: (n, m).
        costs: (k, n, m).
        room: (k,) what all groups together may use.
        open_: (n, m) the options that may be taken.
        choice: (n,) a feasible choice.
    """
    choice = choice.copy()
    groups = np.arange(len(choice))
    for _ in range(10 * len(choice)):
        left = room - costs[:, groups, choice].sum(axis=1)
        move = costs - costs[:, groups, choice][:, :, None]
        fits = open_ & (move <= left[:, None, None]).all(axis=0)
        gain = np.where(fits, scores[groups, choice][:, None] - np.where(fits, scores, 0), 0)
        group, option = np.unravel_index(int(gain.argmax()), gain.shape)
        if gain[group, option] <= 0:
            break
        choice[group] = option
    return choice
