"""The exact solver: relaxation, repair, then searches with growing targets until one proves the optimum.

A target a little above the bound leaves few groups with more than one option; each round doubles the distance,
so the last one costs as much as all before. See `_search` for what a round does.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from mixbit.allocation._dual import Frame, relaxation
from mixbit.allocation._presolve import drop_dominated, tighten
from mixbit.allocation._problem import Instance, Ints
from mixbit.allocation._relax import improve, repair
from mixbit.allocation._search import Effort, Found, search

__all__ = ["Answer", "beam", "exact", "exact_by_rows", "nearby"]

# The first target is this part of the way from the bound to the score of the repaired choice.
_FIRST_TARGET = 1 / 64
# A round that made fewer entries than this is so cheap that the next may go four times as far.
_CHEAP_ROUND = 20_000
_BEAM_ENTRIES = 5_000


@dataclass(frozen=True, slots=True)
class Answer:
    """A choice and what is known about the optimum, in grid units."""

    choice: Ints | None
    score: int
    """Score of the choice; meaningless without one."""
    bound: int
    """No feasible choice has a smaller score."""
    complete: bool
    """True: the choice is optimal, or there is no feasible choice."""


NONE = Answer(None, 0, 0, True)
"""Proven: no choice is feasible."""


def exact(instance: Instance, effort: Effort, *, enough: int | None = None) -> Answer:
    """The optimum of an instance with any number of rows, or what was found when the effort ran out.

    Args:
        instance: what to choose.
        effort: when to give up.
        enough: any choice with at most this score will do; larger ones are of no interest.
    """
    tight = tighten(instance)
    if tight is None:
        return NONE
    start = tight.cheapest_scores()
    if tight.feasible(start):
        return Answer(start, instance.score(start), instance.score(start), True)
    tight = drop_dominated(tight)
    frame, choice = nearby(tight, effort.deadline)
    if choice is None:
        choice, impossible = _any_choice(tight, effort)
        if impossible:
            return NONE
    if choice is None:
        return Answer(None, 0, frame.bound_int, False)
    known = Answer(choice, tight.score(choice), frame.bound_int, False)
    if enough is not None:
        return _decide(tight, frame, known, enough, effort)
    return _deepen(tight, frame, known, effort)


def exact_by_rows(instance: Instance, effort: Effort) -> tuple[Answer, list[int]]:
    """As `exact`, for many rows: take rows in only when the optimum of those before breaks them.

    Of one row for every step of a schedule, few ever bind. The rows that were taken in come with the answer; where
    nothing is feasible, nothing is feasible under those rows alone.
    """
    rows: list[int] = []
    while True:
        answer = exact(instance.only(rows), effort)
        if answer.choice is None:
            return answer, rows
        excess = (instance.used(answer.choice) - instance.room) / np.maximum(1.0, instance.room)
        worst = int(excess.argmax()) if len(excess) else 0
        if not len(excess) or excess[worst] <= 0:
            return answer, rows
        rows.append(worst)


def nearby(instance: Instance, deadline: float) -> tuple[Frame, Ints | None]:
    """The relaxation, and a good feasible choice near it where repair finds one."""
    frame = relaxation(instance, deadline)
    choice = repair(instance, frame)
    if choice is None:
        return frame, None
    return frame, improve(instance.scores, instance.costs, instance.room, instance.open, choice)


def beam(instance: Instance, frame: Frame, known: Answer, deadline: float) -> Answer:
    """Try to better a known choice by a search that keeps only the most promising entries."""
    effort = Effort(entries=_BEAM_ENTRIES, deadline=deadline, beam=True)
    return _merged(known, search(instance, frame, known.score - 1, effort), known.score - 1)


def _any_choice(instance: Instance, effort: Effort) -> tuple[Ints | None, bool]:
    """A feasible choice by minimising the last row under the others; True where there is certainly none."""
    last = len(instance.room) - 1
    room = int(instance.room[last])
    answer = exact(instance.minimising(last), effort, enough=room)
    if answer.choice is not None and answer.score <= room:
        return answer.choice, False
    return None, answer.complete or answer.bound > room


def _decide(instance: Instance, frame: Frame, known: Answer, enough: int, effort: Effort) -> Answer:
    """A choice with a score of at most `enough`, or the proof that there is none."""
    if known.score <= enough:
        return known
    found = search(instance, frame, enough, effort, first=True)
    if found.choice is not None:
        return Answer(found.choice, found.score, known.bound, False)
    return Answer(known.choice, known.score, enough + 1 if found.complete else known.bound, False)


def _deepen(instance: Instance, frame: Frame, known: Answer, effort: Effort) -> Answer:
    distance = max(1.0, (known.score - frame.bound) * _FIRST_TARGET)
    work = effort.work
    while known.bound < known.score:
        target = min(known.score - 1, int(frame.bound + distance))
        left = Effort(entries=effort.entries, work=work, deadline=effort.deadline)
        found = search(instance, frame, target, left)
        known = _merged(known, found, target)
        if not found.complete or time.perf_counter() > effort.deadline:
            break
        work -= found.work
        distance *= 4 if found.work < _CHEAP_ROUND else 2
    return Answer(known.choice, known.score, known.bound, known.bound >= known.score)


def _merged(known: Answer, found: Found, target: int) -> Answer:
    """What is known after one more search."""
    choice, score = (known.choice, known.score) if found.choice is None else (found.choice, found.score)
    bound = known.bound
    if found.complete:
        bound = score if found.choice is not None else max(bound, target + 1)
    return Answer(choice, score, min(bound, score), bound >= score)
