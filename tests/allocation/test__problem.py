"""The caller's tables as exact integers: the grid of the scores, the room above the cheapest options, sums."""

from __future__ import annotations

import numpy as np
import pytest

from mixbit.allocation._problem import GRID_BITS, Instance, Problem, build

SCORES = [[9.0, 3.0, 1.0], [4.0, 0.0]]
COSTS = {"a": [[2, 4, 8], [1, 5]], "b": [[7, 3, 3], [2, 2]]}


def problem(limits: dict[str, int] | None = None) -> Problem:
    return build(SCORES, COSTS, {"a": 9, "b": 8} if limits is None else limits, ["one", "two"])


def small() -> Instance:
    return problem().instance()[0]


def test_the_grid_spans_the_widest_difference() -> None:
    """Steps of 2^-40 of the widest difference within a group, from each group's best."""
    found, unit = problem().instance()
    assert unit == 8.0 / 2**GRID_BITS
    assert found.scores.tolist() == [[2**40, 2**38, 0], [2**39, 0, 0]]
    assert found.open.tolist() == [[True, True, True], [True, True, False]]


def test_no_difference_is_a_grid_of_ones() -> None:
    found, unit = build([[3.0, 3.0]], {}, {}, None).instance()
    assert (unit, found.scores.tolist()) == (1.0, [[0, 0]])


def test_many_groups_take_a_coarser_grid_so_that_sums_stay_in_int64() -> None:
    groups = 2**21
    found, unit = Problem(
        np.array([[1.0, 0.0]] * groups), np.zeros((0, groups, 2), dtype=np.int64), (), (), ()
    ).instance()
    assert unit == 2.0 ** -(61 - 22)
    assert int(found.scores[0, 0]) * groups < 2**62


def test_options_that_are_left_out_do_not_make_the_grid_coarse() -> None:
    table = build([[1e8, 2.0, 1.0], [0.5, 0.0]], {"a": [[0, 1, 2], [3, 4]]}, {"a": 9}, None)
    usable = np.isfinite(table.scores)
    assert table.instance(usable)[1] == (1e8 - 1.0) / 2**40
    usable[0, 0] = False
    found, unit = table.instance(usable)
    assert unit == 1.0 / 2**40 and not found.open[0, 0]
    assert found.costs[0].tolist() == [[0, 1, 2], [0, 1, 0]]  # still from the cheapest that the caller offers


def test_costs_count_from_the_cheapest_open_option() -> None:
    """Least of a is 2 + 1 and of b 3 + 2; what is left of 9 and 8 is the room."""
    found = small()
    assert found.costs.tolist() == [[[0, 2, 6], [0, 4, 0]], [[4, 0, 0], [0, 0, 0]]]
    assert found.room.tolist() == [6, 3] and found.rows == (0, 1)
    assert problem().smallest() == [3, 5]


def test_a_forbidden_option_is_not_the_cheapest() -> None:
    table = build([[np.inf, 1.0]], {"a": [[0, 6]]}, {"a": 7}, None)
    assert (table.smallest(), table.instance()[0].room.tolist()) == ([6], [1])


@pytest.mark.parametrize("limit", [10**30, -(10**30)])
def test_limits_beyond_int64_are_held_at_what_no_sum_reaches(limit: int) -> None:
    room = int(problem({"a": limit}).instance()[0].room[0])
    assert room == (2**62 if limit > 0 else -(2**62))


def test_sums_of_a_choice() -> None:
    found, choice = small(), np.array([1, 1])
    assert found.score(choice) == 2**38
    assert found.used(choice).tolist() == [6, 0]
    assert found.feasible(choice) and not found.feasible(np.array([2, 1]))
    assert problem().objective(choice) == 3.0
    assert problem().used(choice) == {"a": 9, "b": 5}


def test_sums_of_scores_are_rounded_once() -> None:
    table = build([[1e16], [1.0], [1.0]], {}, {}, None)
    assert table.objective(np.zeros(3, dtype=np.int64)) == 1e16 + 2


def test_some_rows_and_one_row_as_the_score() -> None:
    found = small()
    alone = found.only([1])
    assert (alone.rows, alone.room.tolist(), alone.costs.tolist()) == ((1,), [3], [found.costs[1].tolist()])
    turned = found.minimising(0)
    assert turned.scores.tolist() == [[0, 2, 6], [0, 4, 0]]
    assert (turned.rows, turned.room.tolist()) == ((1,), [3])
    assert found.minimising(1).rows == (0,)


def test_the_best_choice_without_limits_takes_the_cheaper_of_equal_ones() -> None:
    table = build([[1.0, 1.0, 1.0], [0.0, 2.0, np.inf]], {"a": [[5, 3, 4], [9, 0, 0]]}, {"a": 100}, None)
    assert table.instance()[0].cheapest_scores().tolist() == [1, 0]
    assert build([[1.0, 1.0]], {}, {}, None).instance()[0].cheapest_scores().tolist() == [0]


def test_ragged_rows_are_padded_with_what_is_never_open() -> None:
    table = problem()
    assert table.scores[1].tolist() == [4.0, 0.0, np.inf]
    assert table.costs[:, 1].tolist() == [[1, 5, 0], [2, 2, 0]]
    assert (table.limits, table.limit_names, table.names) == ((9, 8), ("a", "b"), ("one", "two"))
    assert build(SCORES, COSTS, {}, None).names == ("group 0", "group 1")
