"""The guards around HiGHS: wrong answers, choices beyond a row, and lines on standard output."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mixbit.allocation import _milp, solve
from mixbit.allocation import solver as solver_module
from mixbit.allocation._dp import Answer, exact, nearby
from mixbit.allocation._dual import Frame
from mixbit.allocation._problem import Instance, build
from mixbit.allocation._search import Effort
from mixbit.testing.solvers import instance


def prepared(seed: int) -> tuple[Instance, Frame, Answer, Answer]:
    """An instance with two binding rows, its relaxation, the repaired choice and the optimum."""
    scores, costs, limits = instance(seed, limits=2, groups=15, tightness=0.3)
    problem, _ = build(scores, costs, limits, None).instance()
    deadline = time.perf_counter() + 60
    frame, choice = nearby(problem, deadline)
    assert choice is not None
    known = Answer(choice, problem.score(choice), frame.bound_int, False)
    return problem, frame, known, exact(problem, Effort(deadline=deadline))


def test_finds_the_optimum_with_and_without_a_known_choice() -> None:
    for seed in range(6):
        problem, frame, known, best = prepared(seed)
        for start in (known, Answer(None, 0, frame.bound_int, False)):
            answer = _milp.milp_answer(problem, frame, start, time.perf_counter() + 60)
            assert answer.complete
            # HiGHS stops within 1e-9 of the distance between bound and known choice.
            assert abs(answer.score - best.score) <= 1e-6 * best.score


def test_a_poor_incumbent_that_is_called_optimal_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, frame, _, best = prepared(0)
    assert best.choice is not None
    known = Answer(best.choice, best.score, frame.bound_int, False)

    def wrong(model: Any, *_: object) -> SimpleNamespace:
        worst = np.zeros(len(model.group))
        for group in range(len(problem.open)):
            columns = np.flatnonzero(model.group == group)
            fits = problem.costs[:, group, model.option[columns]].sum(axis=0)
            worst[columns[fits.argmin()]] = 1
        return SimpleNamespace(status=0, x=worst, mip_dual_bound=float(model.objective @ worst))

    monkeypatch.setattr(_milp, "_run", wrong)
    answer = _milp.milp_answer(problem, frame, known, time.perf_counter() + 60)
    assert answer.score == known.score
    assert answer.bound == known.bound
    assert not answer.complete


def test_a_choice_beyond_a_row_is_solved_again_with_a_tighter_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """HiGHS's feasibility tolerance, made large: the first answer ignores the rows."""
    problem, frame, _, best = prepared(1)
    real, calls = _milp._run, []

    def loose(model: Any, limits: Any, groups: int, deadline: float) -> Any:
        calls.append(limits)
        return real(model, limits + 100.0, groups, deadline)

    monkeypatch.setattr(_milp, "_run", loose)
    answer = _milp.milp_answer(problem, frame, Answer(None, 0, 0, False), time.perf_counter() + 60)
    assert len(calls) > 1
    assert answer.choice is None or problem.feasible(answer.choice)
    assert answer.choice is None or answer.score >= best.score
    assert not answer.complete or answer.score == best.score


@pytest.mark.parametrize("solution", [None, "two", "none"])
def test_an_answer_that_is_no_choice_keeps_the_known_one(monkeypatch: pytest.MonkeyPatch, solution: str | None) -> None:
    problem, frame, known, _ = prepared(2)

    def broken(model: Any, *_: object) -> SimpleNamespace:
        x = None if solution is None else np.full(len(model.group), 1.0 if solution == "two" else 0.4)
        return SimpleNamespace(status=1, x=x, mip_dual_bound=None)

    monkeypatch.setattr(_milp, "_run", broken)
    answer = _milp.milp_answer(problem, frame, known, time.perf_counter() + 60)
    assert answer.choice is known.choice
    assert not answer.complete and answer.bound == known.bound > 0


def test_the_better_of_two_bounds_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """HiGHS gives up without a choice, half way between the relaxation's bound and the known choice, or below both."""
    problem, frame, known, _ = prepared(0)
    base = problem.score(frame.base)
    for wanted, told in (((known.bound + known.score) // 2,) * 2, (known.bound, known.bound // 2)):

        def gave_up(model: Any, *_: object, told: int = told) -> SimpleNamespace:
            dual = (told + 0.5 - base) / model.unit + _milp._ABSOLUTE_GAP
            return SimpleNamespace(status=1, x=None, mip_dual_bound=dual)

        monkeypatch.setattr(_milp, "_run", gave_up)
        answer = _milp.milp_answer(problem, frame, known, time.perf_counter() + 60)
        # Half a unit stands against the rounding of so many in float64.
        assert abs(answer.bound - wanted) <= 1e-12 * known.score + 1 and not answer.complete


def test_infeasible_according_to_highs_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """HiGHS may call a feasible problem infeasible; the exact search has the last word."""
    monkeypatch.setattr(_milp, "_run", lambda *_: SimpleNamespace(status=2, x=None, mip_dual_bound=None))
    monkeypatch.setattr(solver_module, "nearby", lambda found, deadline: (nearby(found, deadline)[0], None))
    scores, costs, limits = instance(0, limits=2, groups=8, tightness=0.3)
    answer = solve(scores, costs, limits, solver="milp")
    assert answer.proven
    assert answer.solver == "dp"


def test_highs_keeps_off_standard_output() -> None:
    """Lines of HiGHS go, all others stay, in C's buffer too."""
    code = (
        "import ctypes, os\n"
        "from mixbit.allocation._milp import quiet_stdout\n"
        "print('before')\n"
        "print('HighsMipSolverData:of-the-user')\n"  # in a buffer still: not of the block
        "with quiet_stdout():\n"
        "    print('python')\n"
        "    os.write(1, b'transformNewIntegerFeasibleSolution: noise\\n')\n"
        "    ctypes.CDLL(None).puts(b'HighsMipSolverData::transformNewIntegerFeasibleSolution noise')\n"
        "    ctypes.CDLL(None).puts(b'other')\n"
        "print('after')\n"
    )
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
    done = subprocess.run([sys.executable, "-c", code], env=buffered, capture_output=True, text=True, check=True)
    assert sorted(done.stdout.split()) == ["HighsMipSolverData:of-the-user", "after", "before", "other", "python"]
    assert done.stdout.split()[-1] == "after"


@pytest.mark.parametrize("closed", ["1", "0, 1"])
def test_a_closed_standard_output_is_no_error(closed: str, warm: str) -> None:
    """Alone its number is that of the next file; with standard input there is none that could be held back."""
    code = f"import os\nfrom mixbit.allocation._milp import quiet_stdout\nfor one in [{closed}]:\n    os.close(one)\n"
    code += "with quiet_stdout():\n    pass\n"
    python = str(shutil.which("python", path=warm))
    assert subprocess.run([python, "-c", code], env=os.environ, check=False).returncode == 0


def test_the_bound_is_highss_less_its_gap_in_grid_units_and_counts_up_to_the_known_score() -> None:
    problem, frame, known, _ = prepared(0)
    base = problem.score(frame.base)
    model = SimpleNamespace(unit=1e9)

    def bound(dual: float, score: int) -> int:
        answer = Answer(known.choice, score, frame.bound_int, False)
        return _milp._bound(SimpleNamespace(mip_dual_bound=dual), model, problem, frame, answer)  # type: ignore[arg-type]

    expected = base + 3 * 10**9 - 1000  # 1e-6 of the unit less
    assert bound(3.0, expected) == expected
    assert bound(3.0, expected - 1) == 0  # a known choice is better than the bound: refuted
    assert bound(float("inf"), expected) == bound(float("nan"), expected) == 0
