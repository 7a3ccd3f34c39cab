"""What can be left out of an instance without changing its optimum."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mixbit.allocation._problem import Bools, Instance

__all__ = ["drop_dominated", "drop_idle_rows", "drop_implied_rows", "tighten"]

# Above this many comparisons, comparing all pairs of rows costs more than it saves.
_PAIR_WORK = 200_000_000


def tighten(instance: Instance) -> Instance | None:
    """Close options that no feasible choice can take, until nothing changes; None if a group loses its last one."""
    while True:
        fits = instance.open & (instance.costs <= instance.room[:, None, None]).all(axis=0)
        if not fits.any(axis=1).all() or (instance.room < 0).any():
            return None
        if (fits == instance.open).all():
            return instance
        instance = _from_cheapest(replace(instance, open=fits))


def _from_cheapest(instance: Instance) -> Instance:
    """Measure costs from the cheapest option that is still open."""
    shut = np.iinfo(np.int64).max
    floor = np.where(instance.open, instance.costs, shut).min(axis=2)
    costs = np.where(instance.open, instance.costs - floor[:, :, None], 0)
    return replace(instance, costs=costs, room=instance.room - floor.sum(axis=1))


def drop_idle_rows(instance: Instance) -> Instance:
    """Leave out rows that even the most expensive options do not fill."""
    most = np.where(instance.open, instance.costs, 0).max(axis=2, initial=0).sum(axis=1)
    return instance.only(np.flatnonzero(most > instance.room).tolist())


def drop_implied_rows(instance: Instance) -> Instance:
    """Leave out each row i that follows from another row j: sum over groups of max(c_i - c_j) <= room_i - room_j."""
    count = len(instance.room)
    if count * count * instance.scores.size > _PAIR_WORK:
        return instance
    kept = list(range(count))
    least = np.iinfo(np.int64).min
    for row in range(count):
        others = [other for other in kept if other != row]
        beyond = np.where(instance.open, instance.costs[row] - instance.costs[others], least)
        most = beyond.max(axis=2, initial=least).sum(axis=1)
        if (most <= instance.room[row] - instance.room[others]).any():
            kept = others
    return instance.only(kept)


def drop_dominated(instance: Instance) -> Instance:
    """Close options that another option of the group beats or equals in score and in every cost.

    Of options that are equal in everything the first one stays.
    """
    keys = (*instance.costs[::-1], instance.scores, ~instance.open)
    order = np.lexsort(keys, axis=1)
    table = np.stack([instance.scores, *instance.costs])
    table = np.take_along_axis(table, order[None], axis=2)
    closed = ~np.take_along_axis(instance.open, order, axis=1)
    for column in range(table.shape[2] - 1):
        # In this order only an earlier option can beat a later one.
        beaten = (table[:, :, column : column + 1] <= table[:, :, column + 1 :]).all(axis=0)
        closed[:, column + 1 :] |= beaten & ~closed[:, column : column + 1]
    still: Bools = np.zeros_like(instance.open)
    np.put_along_axis(still, order, ~closed, axis=1)
    return replace(instance, open=still)
