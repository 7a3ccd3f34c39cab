"""HiGHS through `scipy.optimize.milp`, with its known traps closed.

* The relative gap is set to 0, and the objective is scaled so that the absolute gap of 1e-6, which scipy does not let
  us set, is 1e-9 of the distance between bound and known choice. Unscaled, scores of order 1e-7 get wrong "optimal"
  answers.
* Options that cannot be part of a better choice than the known one are left out; there are no large penalties.
* The answer counts only after a check in integers: one option a group, every row within its room. Rows carry a
  feasibility tolerance inside HiGHS, so a choice beyond the room is answered by a tighter row.
* HiGHS can stop at a poor incumbent, or call it optimal: a better known choice is kept, and a claim that contradicts
  it proves nothing.
* HiGHS prints debugging lines to the process's standard output; they are taken out.
"""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from mixbit.allocation._dp import Answer
from mixbit.allocation._dual import Frame
from mixbit.allocation._problem import Bools, Floats, Instance, Ints

__all__ = ["milp_answer", "quiet_stdout"]

_NOISE = (b"transformNewIntegerFeasibleSolution", b"HighsMipSolverData")
# Distance between bound and known choice in the objective that HiGHS sees; rows are scaled to the same size.
_SCALE = 1000.0
# HiGHS's mip_abs_gap, which scipy leaves at its default.
_ABSOLUTE_GAP = 1e-6
_OPTIMAL, _INFEASIBLE = 0, 2  # scipy's status numbers
_TIGHTENINGS = 3
_stdout_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class _Model:
    """The free options of an instance as columns."""

    group: Ints
    option: Ints
    objective: Floats
    rows: Floats
    """(k, columns)"""
    row_limits: Floats
    row_units: Floats
    unit: float
    """Grid score of one unit of the objective."""


def milp_answer(instance: Instance, frame: Frame, known: Answer, deadline: float) -> Answer:
    """The optimum as HiGHS finds it, or the better of its choice and the known one."""
    model = _model(instance, frame, known)
    result = _run(model, model.row_limits, len(instance.open), deadline)
    bound = max(known.bound, _bound(result, model, instance, frame, known))
    if result.status == _INFEASIBLE and known.choice is None:
        return Answer(None, 0, 0, True)
    choice = _choice(result, model, frame)
    tolerance = 2 * _ABSOLUTE_GAP * model.unit if result.status == _OPTIMAL else None
    if choice is not None and not instance.feasible(choice):
        choice, tolerance = _within(instance, frame, model, choice, deadline), None
    return _best(known, choice, instance, bound, tolerance)


def _within(instance: Instance, frame: Frame, model: _Model, choice: Ints, deadline: float) -> Ints | None:
    """HiGHS again with the rows tightened by what its choice was beyond them; None if that does not help."""
    limits = model.row_limits
    for _ in range(_TIGHTENINGS):
        beyond = np.maximum(0, instance.used(choice) - instance.room)
        limits = limits - np.where(beyond > 0, 2 * beyond / model.row_units + _ABSOLUTE_GAP, 0.0)
        found = _choice(_run(model, limits, len(instance.open), deadline), model, frame)
        if found is None or instance.feasible(found):
            return found
        choice = found
    return None


def _model(instance: Instance, frame: Frame, known: Answer) -> _Model:
    open_ = _useful(instance, frame, known)
    group, option = np.nonzero(open_)
    base = frame.base[group]
    gain = instance.scores[group, option] - instance.scores[group, base]
    distance = known.score - frame.bound if known.choice is not None else float(np.abs(gain).max(initial=1))
    unit = max(distance, 1.0) / _SCALE
    costs = (instance.costs[:, group, option] - instance.costs[:, group, base]).astype(np.float64)
    row_units = np.maximum(1.0, np.abs(costs).max(axis=1, initial=1.0)) / _SCALE
    room = (instance.room - instance.used(frame.base)) / row_units
    return _Model(group, option, gain / unit, costs / row_units[:, None], room, row_units, unit)


def _useful(instance: Instance, frame: Frame, known: Answer) -> Bools:
    if known.choice is None:
        return instance.open
    useful: Bools = frame.reduced <= known.score - frame.bound + frame.noise
    useful[np.arange(len(known.choice)), known.choice] = True
    return useful


def _run(model: _Model, limits: Floats, groups: int, deadline: float) -> Any:
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    count = len(model.group)
    one_each = csr_array((np.ones(count), (model.group, np.arange(count))), shape=(groups, count))
    with quiet_stdout():
        return milp(
            model.objective,
            integrality=np.ones(count, dtype=np.int64),
            bounds=Bounds(0, 1),
            constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(model.rows, -np.inf, limits)],
            options={"mip_rel_gap": 0.0, "time_limit": max(0.1, deadline - time.perf_counter())},
        )


def _choice(result: Any, model: _Model, frame: Frame) -> Ints | None:
    """One option a group, or None where HiGHS did not give exactly one."""
    if result.x is None:
        return None
    taken = np.flatnonzero(result.x > 0.5)
    if not np.array_equal(model.group[taken], np.arange(len(frame.base))):
        return None
    return model.option[taken]


def _bound(result: Any, model: _Model, instance: Instance, frame: Frame, known: Answer) -> int:
    """HiGHS's bound in grid units; 0 where it has none, or one that a feasible choice refutes."""
    dual = getattr(result, "mip_dual_bound", None)
    if dual is None or not np.isfinite(dual):
        return 0
    bound = int(np.floor(instance.score(frame.base) + (dual - _ABSOLUTE_GAP) * model.unit))
    return 0 if known.choice is not None and bound > known.score else max(0, bound)


def _best(known: Answer, choice: Ints | None, instance: Instance, bound: int, tolerance: float | None) -> Answer:
    """The better choice. HiGHS calls its own optimal to within `tolerance` (grid units), or does not where None."""
    if choice is None:
        return Answer(known.choice, known.score, bound, known.choice is not None and bound >= known.score)
    score = instance.score(choice)
    if known.choice is not None and known.score < score:
        if tolerance is None or known.score < score - tolerance:
            return known  # HiGHS is refuted, so its bound is worth nothing either
        choice, score = known.choice, known.score
    proven = tolerance is not None or bound >= score
    return Answer(choice, score, score if proven else bound, proven)


@contextmanager
def quiet_stdout() -> Iterator[None]:
    """Hold the process's standard output back for the block, and drop the lines that HiGHS prints to it by mistake."""
    with _stdout_lock, tempfile.TemporaryFile() as held:
        _flush()
        try:
            saved = os.dup(1)
        except OSError:  # a process without standard output has nothing to protect
            yield
            return
        os.dup2(held.fileno(), 1)
        try:
            yield
        finally:
            _flush()
            os.dup2(saved, 1)
            os.close(saved)
            _copy(held)


def _flush() -> None:
    """Empty the buffers of Python and of the C library, which HiGHS prints through."""
    if sys.stdout is not None:
        sys.stdout.flush()
    # No C library under that name (Windows): lines still in its buffer come out later, unfiltered.
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).fflush(None)


def _copy(held: Any) -> None:
    held.seek(0)
    for line in held:
        if not any(word in line for word in _NOISE):
            os.write(1, line)
