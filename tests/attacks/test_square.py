import math
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor

from mixbit.attacks import Square, Target, _target, norm_of
from mixbit.attacks.square import _bump, _Bumps
from mixbit.data import InputSpace
from mixbit.errors import MixbitError
from mixbit.testing.attacks import AttackCases, LinearPredictor
from mixbit.testing.options import OptionCases, OptionRow, fields_of, higher
from tests.attacks.seen import expects


class TestSquare(AttackCases):
    images = 4

    def make(self) -> Square:
        return Square(eps=0.4, queries=120, p=0.3)


class TestSquareL2(AttackCases):
    images = 4

    def make(self) -> Square:
        return Square(eps=1.2, queries=120, p=0.3, ball="L2")


class TestSquareOptions(OptionCases):
    owner = Square
    options = fields_of(Square)
    rows = (
        OptionRow("eps", (0.01, 0.02), seen=lambda value: _moved(eps=value), holds=expects(0.01, 0.02)),
        OptionRow("queries", (1, 7), seen=lambda value: _asked(queries=value), holds=expects(1, 7)),
        OptionRow("p", (0.1, 0.9), seen=lambda value: _side(p=value), holds=expects(3, 9)),
        OptionRow("ball", ("L2", "Linf"), seen=lambda value: _moved(ball=value, eps=0.1, size=10), holds=higher),
    )


class _Watched:
    """A network that no point fools; it keeps the points that it was asked.

    Args:
        better: whether every point is better for the attacker than the one before; otherwise none is than the first.
    """

    differentiable, name = False, "a watched network"
    space = InputSpace(bounds=(0.0, 1.0))

    def __init__(self, *, better: bool = False) -> None:
        self.better = better
        self.points: list[Tensor] = []

    def logits(self, x: Tensor) -> Tensor:
        self.points.append(x.clone())
        margin = 1 / len(self.points) if self.better else 1.0
        return torch.tensor([[10.0 + margin, 10.0]]).repeat(len(x), 1)


def _watched(
    shape: tuple[int, ...] = (1, 3, 10, 10), grey: float = 0.5, *, limit: int | None = None, **settings: Any
) -> list[Tensor]:
    """The points that an attack on grey images asked for."""
    network = _Watched(better=settings.pop("better", False))
    x = torch.full(shape, grey)
    y = torch.zeros(shape[0], dtype=torch.int64)
    with mock.patch.object(_target, "_AT_ONCE", shape[0]):  # a query of all images is one call
        Square(**{"eps": 0.1, "queries": 10_000, **settings}).run(network, x, y, queries=limit)
    return network.points[1:-1]  # what is asked before and after is not the attack's


def _side(**settings: Any) -> int:
    """Largest height of what the last patches change: of 64 images, each with three channels of random signs."""
    first, *_, last = _watched((64, 3, 10, 10), **{"limit": 2, **settings})
    return int((first != last).any(1).any(2).sum(1).max())


def _moved(size: int = 4, **settings: Any) -> float:
    return float((_watched((1, 3, size, size), limit=1, **settings)[0] - 0.5).abs().min())


def _asked(**settings: Any) -> int:
    return len(_watched(**settings))


def test_the_first_point_of_linf_has_stripes_at_the_edge_of_the_ball() -> None:
    first = _watched((8, 3, 10, 12), limit=1)[0]
    assert torch.equal((first - 0.5).abs().round(decimals=6), torch.full_like(first, 0.1))
    assert torch.equal(first, first[:, :, :1].expand_as(first))
    signs = (first[:, :, 0] > 0.5).float()
    assert 0.4 < float(signs.mean()) < 0.6 and len({tuple(row) for row in signs.flatten(0, 1).tolist()}) == 24


@pytest.mark.parametrize(("p", "side"), [(0.25, 5), (1e-6, 1), (1.0, 10)])
def test_a_query_changes_one_square_of_linf_whose_channels_have_signs_of_their_own(p: float, side: int) -> None:
    first, second = _watched((200, 3, 10, 10), limit=2, p=p)
    torch.testing.assert_close((second - 0.5).abs(), torch.full_like(second, 0.1))
    changed = (first != second).any(1)
    assert int(changed.any(2).sum(1).max()) == side == int(changed.any(1).sum(1).max())
    one = (second[:, :, :1] == second).all(2).all(2) if side == 10 else None
    assert one is None or (bool(one.all()) and len({tuple(row) for row in second[:, :, 0, 0].tolist()}) == 8)


@pytest.mark.parametrize(("p", "side"), [(0.25, 5), (0.36, 7), (1e-6, 3), (1.0, 9)])
def test_a_query_of_l2_moves_the_budget_of_a_second_square(p: float, side: int) -> None:
    """That one is 0 afterwards, where the first one does not lie; the whole budget is used."""
    _, second = _watched((200, 3, 10, 10), limit=2, p=p, ball="L2")
    torch.testing.assert_close(norm_of(second - 0.5, "L2"), torch.full((200,), 0.1))
    empty = (second == 0.5).all(1).flatten(1).sum(1)
    apart = side * side if side <= 5 else side * side - (2 * side - 10) ** 2
    assert int(empty.max()) == apart


def test_windows_are_everywhere_with_the_same_chance() -> None:
    first, second = _watched((500, 8, 3, 4), limit=2, p=1e-6)
    changed = (first != second).float().mean((0, 1))
    # Half of the patches have the sign that the pixel had.
    assert changed.flatten().tolist() == pytest.approx([1 / 24] * 12, abs=0.02)


def test_the_schedule_is_the_papers_rescaled_to_the_queries() -> None:
    """Table of the paper's section 5: halved after so many of 10 000 queries."""
    halved = {10: 0, 11: 1, 50: 1, 51: 2, 200: 2, 201: 3, 501: 4, 1001: 5, 2001: 6, 4001: 7, 6001: 8, 8000: 8, 8001: 9}
    for queries, factor in ((10_000, 1), (1000, 10)):
        attack = Square(queries=queries, p=0.8)
        for at, times in halved.items():
            if at % factor == 0:
                assert attack._share(at // factor) == pytest.approx(0.8 / 2**times)
    # The first change is that of 0, whatever the queries; of 300 the second is that of 33.
    assert [_side(p=0.8, queries=300, limit=limit) for limit in (2, 3)] == [9, 6]
    assert [_side(p=0.8, queries=10_000, limit=limit) for limit in (2, 3)] == [9, 9]


def test_only_points_that_are_better_are_kept() -> None:
    first, *others = _watched((16, 3, 10, 10), limit=12, p=0.04)
    changed = torch.stack([(point != first).any(1) for point in others])
    assert int(changed.flatten(2).sum(2).max()) <= 4  # none is better, so each is made of the first
    kept = _watched((16, 3, 10, 10), limit=30, p=0.04, better=True)
    assert int((kept[-1] != kept[0]).any(1).flatten(1).sum(1).min()) > 8


def test_an_image_that_is_wrong_asks_no_more() -> None:
    predictor = LinearPredictor(differentiable=False)
    x = (0.5 + 0.1 * torch.randn(16, 1, 4, 4, generator=torch.Generator().manual_seed(3))).clamp(0, 1)
    found = Square(eps=0.25, queries=400).run(predictor, x, predictor.logits(x).argmax(1))
    assert found.success.all() and found.queries.float().mean() < 100 and len(found.queries.unique()) > 3


def test_finds_the_corner_of_a_linear_network() -> None:
    """One pixel at a time, with its best sign kept: after many queries all of them are at the best corner."""
    predictor = LinearPredictor(classes=2, differentiable=False)
    x = 0.5 + 0.04 * predictor.weight[:1].sign()
    y = predictor.logits(x).argmax(1)
    far = float(predictor.distances(x, y, 1.0))
    for ratio, success in ((1.02, True), (0.98, False)):
        found = Square(eps=ratio * far, queries=300, p=0.06).run(predictor, x, y)
        assert bool(found.success) == success
    best = Square(eps=0.98 * far, queries=300, p=0.06).run(predictor, x, y).points
    torch.testing.assert_close((best - x).abs(), torch.full_like(x, 0.98 * far))


@pytest.mark.parametrize("grey", [0.5, 0.98])
def test_points_of_l2_use_the_whole_budget_but_for_the_bounds(grey: float) -> None:
    for point in _watched((8, 2, 12, 9), grey, limit=30, ball="L2", better=True, eps=0.4):
        norms = norm_of(point - grey, "L2")
        assert float(norms.max()) <= 0.4 + 1e-6 and float(point.max()) <= 1
        if grey == 0.5:
            assert float(norms.min()) > 0.4 - 1e-5


def test_points_of_linf_stay_within_the_bounds() -> None:
    for point in _watched((8, 2, 12, 9), 0.98, limit=30, better=True, p=0.3):
        assert point.unique().tolist() == pytest.approx([0.88, 1.0])


def test_a_tie_that_the_first_class_wins_counts() -> None:
    """Integers tie often: the margin is 0 where the label is right, being first, and where it is wrong."""
    network = _Watched()
    answers = iter([[0.0, 2.0, 0.0], [0.0, 1.0, 1.0], [1.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    asked = network.points
    network.logits = lambda x: (asked.append(x.clone()), torch.tensor([next(answers)]))[1]  # type: ignore[method-assign]
    found = Square(eps=0.1).run(network, torch.full((1, 3, 4, 4), 0.5), torch.tensor([1]))
    assert found.success.all() and found.queries.tolist() == [2]
    assert torch.equal(found.points, asked[2]) and not torch.equal(asked[2], asked[1])


def test_the_first_point_of_l2_is_tiles_of_a_bump_beside_a_dent() -> None:
    """Five tiles a side in the middle of the image, each upright or lying, with a sign of its own in each channel."""
    first = (_watched((6, 2, 18, 17), limit=1, ball="L2")[0] - 0.5).numpy()
    assert np.linalg.norm(first.reshape(6, -1), axis=1) == pytest.approx(0.1, rel=1e-5)
    middle = first[:, :, 0:18, 1:16]
    assert np.square(middle).sum() == pytest.approx(np.square(first).sum())
    bump = _bump_by_rectangles(3) * 0.1 / math.sqrt(2 * 6 * 5)
    kinds = {(lies, sign): sign * (bump.T if lies else bump) for lies in (False, True) for sign in (1, -1)}
    tiles = middle.reshape(6, 2, 6, 3, 5, 3).transpose(0, 2, 4, 1, 3, 5).reshape(180, 2, 3, 3)
    seen = [
        tuple(next(kind for kind, one in kinds.items() if np.allclose(channel, one, atol=1e-6)) for channel in tile)
        for tile in tiles
    ]
    assert all(first[0] == second[0] for first, second in seen)
    assert len({(first[0], first[1], second[1]) for first, second in seen}) == 8
    lies = np.array([first[0] for first, _ in seen]).reshape(6, 6, 5)
    assert (lies != lies[:, :1]).any() and (lies != lies[:, :, :1]).any()  # each tile by itself
    square = (_watched((1, 1, 17, 17), limit=1, ball="L2")[0] - 0.5)[0, 0].abs()
    assert float(square[1:16, 1:16].sum()) == pytest.approx(float(square.sum()))


def test_a_step_of_l2_is_algorithm_3_written_out() -> None:
    """For windows apart, that touch, and that are the same; for points within the ball, which may use more of it."""
    random = np.random.default_rng(0)
    x = torch.full((40, 2, 8, 9), 0.5)
    delta = torch.from_numpy(random.normal(size=x.shape).astype(np.float32))
    delta *= torch.linspace(0.05, 0.1, 40)[:, None, None, None] / norm_of(delta, "L2")[:, None, None, None]
    numbers = torch.from_numpy(random.random((40, 7)).astype(np.float32))
    patches = _Bumps(Target(_Watched(), torch.zeros(40, dtype=torch.int64)), x, 0.1)
    found = patches.changed(x + delta, torch.arange(40), 0.15, numbers) - 0.5
    for one, old, drawn in zip(found.numpy(), delta.numpy(), numbers.numpy(), strict=True):
        assert one == pytest.approx(_stepped(old.copy(), drawn, 3, 0.1), abs=1e-6)


def test_a_bump_is_that_of_the_paper() -> None:
    for side in (1, 2, 3, 5, 8, 11):
        assert _bump(side).numpy() == pytest.approx(_bump_by_rectangles(side), abs=1e-6)


@pytest.mark.parametrize(("shape", "changed"), [((300, 16), 4), ((300, 2, 16), 4), ((300, 1, 16, 2), 8)])
def test_other_shapes_are_rows_and_l2_refuses_them(shape: tuple[int, ...], changed: int) -> None:
    first, second = _watched(shape, limit=2, p=0.25)
    assert first.shape == shape
    pixels = (first != second).view(300, 2 if len(shape) == 3 else 1, -1).any(1).sum(1)
    assert int(pixels.max()) == changed
    with pytest.raises(MixbitError, match="ball='Linf'"):
        _watched(shape, limit=2, ball="L2")


def test_refuses_shapes_that_are_no_images() -> None:
    with pytest.raises(MixbitError, match=r"legal is \(N, C, H, W\)"):
        _watched((1, 1, 2, 3, 3), limit=2)


def _bump_by_rectangles(side: int) -> np.ndarray:
    halves = []
    for height in (side // 2, side - side // 2):
        half = np.zeros((height, side))
        for size in range(max(height // 2 + 1, side // 2 + 1)):
            for line in range(height):
                for column in range(side):
                    if abs(line - height // 2) <= size and abs(column - side // 2) <= size:
                        half[line, column] += 1 / (size + 1) ** 2
        length = math.sqrt((half**2).sum())
        halves.append(half / length if length else half)
    both = np.concatenate([halves[0], -halves[1]])
    return both / np.linalg.norm(both)


def _stepped(delta: np.ndarray, drawn: np.ndarray, side: int, eps: float) -> np.ndarray:
    """What comes of the perturbation `(C, H, W)` of one image; `drawn` has places, orientation and signs."""
    lines, columns = delta.shape[1] - side + 1, delta.shape[2] - side + 1
    top, left, top_2, left_2 = (int(drawn[at] * (lines, columns)[at % 2]) for at in range(4))
    one, two = np.zeros(delta.shape[1:], bool), np.zeros(delta.shape[1:], bool)
    one[top : top + side, left : left + side] = True
    two[top_2 : top_2 + side, left_2 : left_2 + side] = True
    bump = _bump_by_rectangles(side)
    bump = bump.T if drawn[4] < 0.5 else bump
    unused = max(eps**2 - (delta**2).sum(), 0)
    new = []
    for channel, sign in zip(delta, np.where(drawn[5:] < 0.5, -1, 1), strict=True):
        window = channel[one].reshape(side, side)
        wanted = sign * bump + window / np.linalg.norm(window)
        budget = unused / len(delta) + (channel[one | two] ** 2).sum()
        new.append(wanted / np.linalg.norm(wanted) * math.sqrt(budget))
    delta[:, two] = 0
    delta[:, one] = np.stack(new).reshape(len(delta), -1)
    return eps * delta / np.linalg.norm(delta)
