from typing import Any

import pytest
import torch
from torch import Tensor

from mixbit.attacks import Found, GeoDA, norm_of
from mixbit.attacks._streams import Streams
from mixbit.attacks._target import Target
from mixbit.attacks.geoda import _GROWTHS
from mixbit.errors import MixbitError
from mixbit.testing.attacks import AttackCases, LinearPredictor
from mixbit.testing.options import OptionCases, OptionRow, fields_of, higher, lower
from tests.attacks.seen import expects, fools_integers, integers

HERE = "tests/attacks/test_geoda.py"


class TestGeoDA(AttackCases):
    def make(self) -> GeoDA:
        return GeoDA(budget=200, first=20)


class TestGeoDALinf(AttackCases):
    def make(self) -> GeoDA:
        return GeoDA(budget=150, first=20, sub_dim=4, ball="Linf")


class TestGeoDAOptions(OptionCases):
    owner = GeoDA
    options = fields_of(GeoDA)
    rows = (
        OptionRow("budget", (100, 300), seen=lambda value: _asked(budget=value), holds=lambda a, b: b > a + 150),
        OptionRow("first", (10, 100), seen=lambda value: _steps(budget=400, first=value), holds=expects(8, 2)),
        OptionRow("decay", (1.0, 0.6), seen=lambda value: _steps(budget=400, first=50, decay=value), holds=lower),
        OptionRow("sub_dim", (4, 1), seen=lambda value: _colours(sub_dim=value), holds=expects(16, 1)),
        OptionRow("sub_dim", (None, 2), seen=lambda value: _rank(sub_dim=value), holds=expects(3, 2), says="a default"),
        OptionRow("sigma", (0.005, 0.02), seen=lambda value: _spread(sigma=value), holds=lambda a, b: b > 3.5 * a),
        OptionRow("tol", (1e-4, 0.1), seen=lambda value: _behind(tol=value), holds=higher),
        OptionRow("ball", ("L2", "Linf"), seen=lambda value: _farthest(ball=value), holds=higher),
        OptionRow("tries", (1, 7), seen=lambda value: _in_vain(tries=value), holds=expects(1, 7)),
        OptionRow("starts", (None, torch.ones(2, 1, 4, 4)), seen=lambda value: _in_vain(starts=value), holds=higher),
    )


@pytest.mark.parametrize(("ball", "dual"), [("L2", 2.0), ("Linf", 1.0)])
def test_finds_the_nearest_point_of_a_flat_boundary(ball: str, dual: float) -> None:
    predictor = LinearPredictor(differentiable=False, classes=2)
    x, y = _images(predictor)
    attack = GeoDA(budget=1500, first=30, sub_dim=4, ball=ball, tol=1e-4)
    found = attack.run(predictor, x, y)
    ratio = norm_of(found.points - x, attack.norm) / predictor.distances(x, y, dual)
    assert found.success.all() and float(ratio.min()) > 0.999 and float(ratio.median()) < 1.04


def test_the_normal_is_that_of_the_boundary_within_the_subspace() -> None:
    """Also where most probes are of one class: their mean, which says nothing, is taken off."""
    predictor = LinearPredictor(differentiable=False, classes=2)
    target, normal = Target(predictor, torch.zeros(2, dtype=torch.int64)), predictor.weight[1] - predictor.weight[0]
    points = torch.full((2, 1, 4, 4), 0.5)
    points[1] += 0.02 * normal / normal.norm()  # a standard deviation to the wrong side
    counts = torch.tensor([3000, 3000])
    found = GeoDA(sigma=0.02)._normal(target, points, target.all_rows, counts, 4, Streams(0, "geoda", [0, 1]))
    cosine = (found * normal).flatten(1).sum(1) / found.flatten(1).norm(dim=1) / normal.norm()
    assert bool((cosine > 0.99).all()) and target.queries.tolist() == [3000, 3000]
    # E[(c - mean c) eta] of a normal deviate and a threshold: the density at it.
    density = torch.exp(-0.5 * torch.tensor([0.0, 1.0]).square()) / (2 * torch.pi) ** 0.5
    torch.testing.assert_close(found.flatten(1).norm(dim=1) / 3000, density, rtol=0.1, atol=0.0)


class _Scripted(GeoDA):
    """Normals of 1, 2 and 3, and points at distances of 3, 1 and 2 tenths."""

    __slots__ = ()

    def _normal(self, target: Target, points: Tensor, rows: Tensor, *_: object) -> Tensor:
        return torch.full_like(points[rows], float(len(NORMALS) + 1))

    def _to_boundary(self, target: Target, x: Tensor, points: Tensor, rows: Tensor, normal: Tensor) -> None:
        NORMALS.append(float(normal[0, 0, 0, 0]))
        points[rows] = x[rows]
        points[rows, 0, 0, 0] += (0.3, 0.1, 0.2)[len(NORMALS) - 1]


NORMALS: list[float] = []


def test_normals_of_all_steps_are_summed_and_the_nearest_point_is_given() -> None:
    predictor = LinearPredictor(differentiable=False)
    x, y = _images(predictor, 2)
    NORMALS.clear()
    found = _Scripted(budget=400, first=80).run(predictor, x, y)
    assert NORMALS == [1.0, 3.0, 6.0]
    assert norm_of(found.points - x, "L2").tolist() == pytest.approx([0.1, 0.1])


def test_no_point_beyond_the_bounds_is_asked_for() -> None:
    predictor = _Recorder()
    x = (torch.full((4, 1, 4, 4), 0.5) + 0.5 * predictor.weight[0].sign()).clamp(0.01, 0.99)
    GeoDA(budget=200, first=30, sigma=0.1).run(predictor, x, predictor.logits(x).argmax(1))
    asked = torch.cat(predictor.points)
    assert float(asked.min()) == 0 and float(asked.max()) == 1


def test_probes_are_split_as_the_paper_says() -> None:
    predictor = LinearPredictor(differentiable=False)
    target = Target(predictor, torch.zeros(3, dtype=torch.int64))
    target.queries += torch.tensor([0, 100, 990])
    attack = GeoDA(budget=1000, first=50)
    shares = attack._shares(target)
    assert len(shares) == 6 and 50 * float(shares.sum()) <= 1000 < 50 * float(shares.sum() + 0.6 ** (-2 / 3 * 6))
    torch.testing.assert_close(shares[1:] / shares[:-1], torch.full((5,), 0.6 ** (-2 / 3)))
    counts = attack._counts(target, target.all_rows, shares, torch.tensor([10, 10, 10]))
    wanted = [int(left / float(shares.sum())) for left in (1000 - 60, 1000 - 100 - 60)]
    assert counts.tolist() == [*wanted, 0]
    narrow = Target(predictor, torch.zeros(3, dtype=torch.int64), limit=100)
    assert len(attack._shares(narrow)) == 1
    assert attack._counts(narrow, narrow.all_rows, shares[:1], torch.tensor([0, 10, 100])).tolist() == [100, 90, 0]


def test_a_ray_that_never_crosses_leaves_the_point() -> None:
    predictor = LinearPredictor(differentiable=False, classes=2)
    x, y = _images(predictor, 2)
    target = Target(predictor, y)
    away = per_class(predictor, y)
    points = x - 0.3 * away / norm_of(away, "L2")[:, None, None, None]
    kept = points.clone()
    GeoDA()._to_boundary(target, x, points, target.all_rows, away * torch.tensor([1.0, -1.0])[:, None, None, None])
    assert torch.equal(points[0], kept[0]) and int(target.queries[0]) == _GROWTHS
    assert float(norm_of(points - x, "L2")[1]) == pytest.approx(float(predictor.distances(x, y, 2.0)[1]), abs=1.1e-3)


def test_the_radius_grows_until_a_slanted_ray_crosses() -> None:
    predictor = LinearPredictor(differentiable=False, classes=2)
    x, y = _images(predictor, 1)
    away = per_class(predictor, y)
    aside = torch.randn(away.shape, generator=torch.Generator().manual_seed(0))
    aside -= (aside * away).sum() / away.square().sum() * away
    far = predictor.distances(x, y, 2.0)
    points = x - far * away / away.norm()
    for slant, asked in ((1.0, 2), (2.0, 3)):  # 1.4 and 2.2 times as far: once and twice grown by a half
        target, moved = Target(predictor, y), points.clone()
        ray = -away / away.norm() + slant * aside / aside.norm()
        GeoDA(tol=10.0)._to_boundary(target, x, moved, target.all_rows, ray)
        assert target.queries.tolist() == [asked]
        assert float((moved - x).norm() / far) == pytest.approx(1.5 ** (asked - 1), rel=1e-3)
    narrow = Target(predictor, y, limit=1)
    GeoDA(tol=10.0)._to_boundary(narrow, x, moved, narrow.all_rows, away)
    assert narrow.queries.tolist() == [1]


def test_bad_settings_are_refused_when_the_images_are_known() -> None:
    predictor = LinearPredictor(differentiable=False)
    x, y = _images(predictor)
    with pytest.raises(MixbitError, match="attack 'geoda': sub_dim=5 is illegal for images of 4 by 4.*from 1 to 4"):
        GeoDA(sub_dim=5).run(predictor, x, y)
    with pytest.raises(MixbitError, match="attack 'geoda': starting points of shape"):
        GeoDA(starts=x[0]).run(predictor, x, y)


def test_integers_are_attacked_as_they_are() -> None:
    x = integers()[1]
    lengths = [norm_of(fools_integers(GeoDA(budget=200, sigma=sigma)).points - x, "L2") for sigma in (0.005, 1e-5)]
    assert float(lengths[0].median()) < 0.9 * float(lengths[1].median())  # probes below a pixel's step are not seen


def per_class(predictor: LinearPredictor, y: Tensor) -> Tensor:
    """Where the logit of the label grows, for each image."""
    return predictor.weight[y] - predictor.weight[1 - y]


def _images(predictor: LinearPredictor, count: int = 8) -> tuple[Tensor, Tensor]:
    x = 0.5 + 0.05 * torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    return x.clamp(0, 1), predictor.logits(x.clamp(0, 1)).argmax(1)


class _Recorder(LinearPredictor):
    """Two classes; keeps the points that it was asked for."""

    def __init__(self) -> None:
        super().__init__(differentiable=False, classes=2)
        self.points: list[Tensor] = []

    def logits(self, x: Tensor) -> Tensor:
        self.points.append(x)
        return LinearPredictor.logits(self, x)


def _run(**settings: Any) -> tuple[_Recorder, Tensor, Found]:
    predictor = _Recorder()
    x = torch.full((1, 1, 4, 4), 0.5) + 0.02 * predictor.weight[0].sign()
    start = 0.5 - 0.1 * predictor.weight[0].sign()
    settings = {"starts": start[None], "budget": 100, **settings}
    found = GeoDA(**settings).run(predictor, x, predictor.logits(x).argmax(1))
    return predictor, x, found


def _probes(**settings: Any) -> list[Tensor]:
    """Batches of probes, with 32 points or what is left of them."""
    return [points for points in _run(**settings)[0].points if len(points) > 1]


def _asked(**settings: Any) -> int:
    return int(_run(**settings)[2].queries.sum())


def _steps(**settings: Any) -> int:
    return len(GeoDA(**settings)._shares(Target(LinearPredictor(), torch.tensor([0]))))


def _colours(**settings: Any) -> int:
    probes = _probes(**settings)[0]
    return len((probes[0] - probes[1]).mul(1e5).round().unique())


def _rank(**settings: Any) -> int:
    """Of the difference of two probes, as a matrix: as many as frequencies."""
    probes = _probes(**settings)[0]
    return int(torch.linalg.matrix_rank((probes[0] - probes[1])[0], atol=1e-5))


def _spread(**settings: Any) -> float:
    return float(_probes(**settings)[0].std(0).mean())


def _farthest(**settings: Any) -> float:
    """Distance in L2: signs are not the way that is short there."""
    _, x, found = _run(budget=600, sub_dim=4, **settings)
    return float(norm_of(found.points - x, "L2"))


def _behind(**settings: Any) -> float:
    """How sure the network is of the wrong class."""
    predictor, _, found = _run(budget=60, **settings)
    return float(predictor.logits(found.points).diff().abs())


def _in_vain(**settings: Any) -> int:
    """Points that an image of a network of one class asks for."""
    predictor = _Recorder()
    predictor.weight, predictor.bias = torch.zeros_like(predictor.weight), torch.tensor([1.0, 0.0])
    x = torch.full((1, 1, 4, 4), 0.5)
    return int(GeoDA(**{"tries": 5, **settings}).run(predictor, x, torch.tensor([0])).queries)
