"""Dominance by its definition, and volumes by counting unit cubes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mixbit.errors import MixbitError
from mixbit.search import hypervolume, non_dominated
from tests.needs import needs


def cubes(points: np.ndarray, reference: np.ndarray) -> int:
    """Unit cubes below the reference that a point of whole numbers covers."""
    cells = itertools.product(*(range(edge) for edge in reference.tolist()))
    return sum(bool((points <= np.array(cell)).all(axis=1).any()) for cell in cells)


def beats(one: np.ndarray, other: np.ndarray) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True)) and any(a < b for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("objectives", [1, 2, 3])
@pytest.mark.parametrize("seed", range(5))
def test_what_is_not_beaten_by_definition(objectives: int, seed: int) -> None:
    points = np.random.default_rng(seed).integers(0, 5, size=(40, objectives))
    wanted = [
        at
        for at, one in enumerate(points)
        if not any(beats(other, one) for other in points) and not any((other == one).all() for other in points[:at])
    ]
    assert non_dominated(points).tolist() == wanted


def test_no_points_are_beaten_by_none() -> None:
    assert non_dominated(np.zeros((0, 2))).tolist() == non_dominated([]).tolist() == []


def test_a_row_with_nan_stays_and_beats_nothing() -> None:
    assert non_dominated([[1.0, np.nan], [2.0, 2.0], [3.0, 3.0], [np.nan, 1.0]]).tolist() == [0, 1, 3]


@pytest.mark.parametrize("objectives", [1, 2, 3])
@pytest.mark.parametrize("seed", range(5))
def test_a_volume_is_the_number_of_cubes(objectives: int, seed: int) -> None:
    points = np.random.default_rng(seed).integers(0, 8, size=(9, objectives))
    reference = np.array([6, 7, 5])[:objectives]  # some points lie beyond it
    assert hypervolume(points, reference) == cubes(points, reference)


def test_no_points_and_points_beyond_the_reference_have_no_volume() -> None:
    assert hypervolume([], [1, 1]) == hypervolume([[2, 0], [1, 0]], [1, 1]) == 0


def test_points_may_be_below_zero() -> None:
    assert hypervolume([[-3, -1], [-1, -2]], [0, 0]) == 3 + 1


def test_a_volume_is_a_float_and_does_not_overflow() -> None:
    found = hypervolume([[0, 0, 0]], [4_000_000] * 3)
    assert type(found) is float and found == 6.4e19
    assert type(hypervolume([], [1])) is float


@needs("pymoo")
@pytest.mark.parametrize("objectives", [2, 3])
def test_a_volume_is_that_of_pymoo(objectives: int) -> None:
    from pymoo.indicators.hv import HV

    points = np.random.default_rng(objectives).random((60, objectives))
    reference = np.full(objectives, 0.9)
    assert hypervolume(points, reference) == pytest.approx(HV(ref_point=reference)(points), rel=1e-9)


@pytest.mark.parametrize(
    ("points", "reference", "says"),
    [
        ([[1, 2]], [3, 3, 3], r"points have the shape \(1, 2\). Legal: \(n, 3\)"),
        ([1, 2], [3, 3], r"points have the shape \(2,\)"),
        ([[1, 2, 3, 4]], [5] * 4, r"reference has the shape \(4,\). Legal: one number an objective, 1 to 3"),
        ([[1, 2]], 3, r"reference has the shape \(\)"),
        ([[1, 2], [1, np.nan]], [3, 3], r"No volume can be told of \[1.0, nan\]. Legal: finite"),
        ([[1, 2], [3]], [3, 3], "no table of numbers: .*Legal: numbers"),
        ([[1, 2]], ["a", 3], "no table of numbers: could not convert"),
        ([[1, 2]], [3, np.inf], r"No volume can be told of \[3.0, inf\]"),
    ],
)
def test_what_has_no_volume(points: object, reference: object, says: str) -> None:
    with pytest.raises(MixbitError, match=says):
        hypervolume(points, reference)  # type: ignore[arg-type]
