from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mixbit.attacks._starts import bisect, check_starts, first_points, halvings
from mixbit.attacks._streams import Streams
from mixbit.attacks._target import Target
from mixbit.data import InputSpace
from mixbit.errors import MixbitError

SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda flat: flat.mean((1, 2)),
    "flat": lambda flat: 0.5 - flat.std(2).mean(1),  # pictures of one colour alone are of class 1
    "never": lambda flat: torch.full((len(flat),), -1.0),
}


class Threshold:
    """Two classes: whether the score is above 0."""

    differentiable, space, name = False, InputSpace(bounds=(-1.0, 3.0)), "a threshold"

    def __init__(self, score: str) -> None:
        self.score = score
        self.seen: list[Tensor] = []

    def logits(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        found = SCORES[self.score](x.flatten(2))
        return torch.stack([torch.zeros_like(found), found], 1)


def _target(score: str, images: int, limit: int | None = None) -> tuple[Target, Threshold]:
    predictor = Threshold(score)
    return Target(predictor, torch.zeros(images, dtype=torch.int64), limit), predictor


def _first(target: Target, x: Tensor, tries: int, given: Tensor | None = None) -> tuple[Tensor, Tensor]:
    return first_points(target, x, Streams(0, "a", range(len(x))), tries, given)


def test_starts_are_uniform_first_and_then_coarser() -> None:
    target, predictor = _target("never", 4)
    x = torch.full((4, 2, 20, 24), -0.5)
    points, rows = _first(target, x, 7)
    assert torch.equal(points, x) and not len(rows) and target.queries.tolist() == [7] * 4
    for at, size in enumerate((1, 2, 4, 8, 16, 32, 1)):
        drawn = predictor.seen[at]
        assert drawn.shape == x.shape and float(drawn.min()) >= -1 and float(drawn.max()) <= 3
        if size < 32:
            assert float(drawn.min()) < -0.5 and float(drawn.max()) > 2.5
        across, down = ((drawn.diff(dim=axis) != 0).any(0).any(0) for axis in (3, 2))
        assert across.any(0).nonzero().flatten().tolist() == [one for one in range(23) if (one + 1) % size == 0]
        assert down.any(1).nonzero().flatten().tolist() == [one for one in range(19) if (one + 1) % size == 0]
    assert not torch.equal(predictor.seen[0], predictor.seen[6])


def test_each_image_stops_at_its_first_wrong_point() -> None:
    target, _ = _target("flat", 3)
    x = torch.zeros(3, 2, 4, 4)
    x[:, :, :2] = 2.0
    points, rows = _first(target, x, 9)
    assert rows.tolist() == [0, 1, 2] and target.queries.tolist() == [3, 3, 3]  # squares of 1, 2 and 4 pixels
    assert target.is_wrong(points, rows).all()
    none, rows = _first(_target("flat", 3)[0], x, 2)
    assert torch.equal(none, x) and not len(rows)


def test_given_starts_come_first_and_in_turn() -> None:
    target, predictor = _target("mean", 2)
    x = torch.full((2, 5), -0.5)
    given = torch.tensor([[-1.0] * 5, [2.0] * 5, [3.0] * 5])
    points, rows = first_points(target, x[..., None], Streams(0, "a", [0, 1]), 1, given[..., None])
    assert rows.tolist() == [0, 1] and torch.equal(points[..., 0], given[[1, 1]]) and len(predictor.seen) == 2
    target, predictor = _target("never", 2)
    first_points(target, x[..., None], Streams(0, "a", [0, 1]), 2, given[..., None])
    assert len(predictor.seen) == 5 and predictor.seen[3].unique().numel() == 10  # no image: no squares


def test_random_starts_begin_fine_after_given_ones() -> None:
    target, predictor = _target("never", 1)
    first_points(target, torch.zeros(1, 1, 4, 4), Streams(0, "a", [0]), 1, torch.ones(1, 1, 4, 4))
    assert len(predictor.seen) == 2 and predictor.seen[1].unique().numel() == 16


def test_starts_end_with_the_queries() -> None:
    target, predictor = _target("never", 2, limit=3)
    _first(target, torch.zeros(2, 1, 2, 2), 9)
    assert len(predictor.seen) == 3


def test_bisection_ends_as_near_as_it_says_on_the_wrong_side() -> None:
    target, _ = _target("mean", 3)
    right, points = torch.full((3, 1, 4), -1.0), torch.tensor([2.0, 3.0, 0.5])[:, None, None].expand(3, 1, 4).clone()
    kept = points.clone()
    rows, times = torch.tensor([0, 2]), torch.tensor([12, 4])
    bisect(target, right, points, rows, times)
    assert torch.equal(points[1], kept[1]) and target.queries.tolist() == [12, 0, 4]
    for row, width in ((0, 3.0 / 2**12), (2, 1.5 / 2**4)):
        low, high = float(right[row, 0, 0]), float(points[row, 0, 0])
        assert low <= 0 < high and high - low == pytest.approx(width)


def test_bisection_ends_with_the_queries() -> None:
    target, _ = _target("mean", 2, limit=3)
    target.queries[1] = 2
    points = torch.full((2, 1, 4), 3.0)
    bisect(target, torch.full((2, 1, 4), -1.0), points, torch.arange(2), torch.tensor([9, 9]))
    assert target.queries.tolist() == [3, 3] and points[:, 0, 0].tolist() == [0.5, 1.0]


def test_halvings_reach_the_tolerance_and_no_farther() -> None:
    x = torch.zeros(40, 3)
    points = torch.linspace(0.01, 30, 40)[:, None].expand(40, 3)
    times = halvings(x, points, 0.25)
    left = torch.linalg.vector_norm(points, dim=1) / 2.0**times
    assert bool((left <= 0.25 * 1.0001).all()) and bool((left[times > 0] > 0.125 * 0.9999).all())
    assert int(times[0]) == 0 and halvings(x, points, 0.25, "Linf")[-1] == 7


def test_starts_of_another_shape_are_refused() -> None:
    check_starts(None, torch.zeros(2, 3), "it")
    check_starts(torch.zeros(1, 3), torch.zeros(2, 3), "it")
    with pytest.raises(MixbitError, match=r"it: starting points of shape \(3,\).*Legal: \(K, 3\)"):
        check_starts(torch.zeros(3), torch.zeros(2, 3), "it")
