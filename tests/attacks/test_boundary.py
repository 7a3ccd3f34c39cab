import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from mixbit.attacks import Boundary, Found, norm_of
from mixbit.attacks._dct import cosines
from mixbit.attacks.boundary import _learn, _on_sphere
from mixbit.errors import MixbitError
from mixbit.testing.attacks import AttackCases, LinearPredictor
from mixbit.testing.options import OptionCases, OptionRow, fields_of, higher, lower
from tests.attacks.seen import expects, fools_integers

HERE = "tests/attacks/test_boundary.py"


class TestBoundary(AttackCases):
    def make(self) -> Boundary:
        return Boundary(steps=60)


class TestBoundaryByThePaper(AttackCases):
    def make(self) -> Boundary:
        return Boundary(steps=40, rule="paper", halvings=0)


class TestBoundaryOptions(OptionCases):
    owner = Boundary
    options = fields_of(Boundary)
    rows = (
        OptionRow("steps", (1, 2), seen=lambda value: _asked(steps=value, halvings=3), holds=expects(5, 6)),
        OptionRow("delta", (0.1, 0.3), seen=lambda value: _first_moves(delta=value)[0], holds=expects(0.1, 0.3)),
        OptionRow(
            "epsilon",
            (0.1, 0.3),
            seen=lambda value: _first_moves(rule="paper", epsilon=value)[1],
            holds=expects(0.9, 0.7),
        ),
        OptionRow(
            "rule", ("coupled", "paper"), seen=lambda value: _first_moves(rule=value)[1], holds=expects(0.995, 0.9)
        ),
        OptionRow("converged", (0.0, 0.5), seen=lambda value: _asked(steps=4, converged=value), holds=expects(15, 11)),
        OptionRow("tries", (1, 7), seen=lambda value: _in_vain(tries=value), holds=expects(1, 7)),
        OptionRow("halvings", (0, 9), seen=lambda value: _distance(steps=1, halvings=value), holds=lower),
        OptionRow("sub_dim", (None, 2), seen=lambda value: _roughness(sub_dim=value), holds=lower),
        OptionRow("starts", (None, torch.ones(2, 1, 4, 4)), seen=lambda value: _in_vain(starts=value), holds=higher),
    )


@pytest.mark.parametrize(("rule", "most"), [("coupled", 1.03), ("paper", 1.1)])
def test_walks_to_the_nearest_point_of_a_flat_boundary(rule: str, most: float) -> None:
    predictor = LinearPredictor(differentiable=False)
    x, y = _images(predictor)
    found = Boundary(steps=300, rule=rule).run(predictor, x, y)
    ratio = norm_of(found.points - x, "L2") / predictor.distances(x, y, 2.0)
    assert found.success.all() and float(ratio.min()) > 0.999 and float(ratio.median()) < most


def test_coupled_steps_gain_more_than_the_papers_at_equal_queries() -> None:
    """In many dimensions, which is what the coupling is for."""
    predictor = LinearPredictor(differentiable=False)
    predictor.weight = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    predictor.bias = -0.5 * predictor.weight.flatten(1).sum(1)
    x = 0.5 + 0.05 * torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    y = predictor.logits(x).argmax(1)
    far = {
        rule: norm_of(Boundary(rule=rule).run(predictor, x, y, queries=400).points - x, "L2").median()
        for rule in ("coupled", "paper")
    }
    assert float(far["coupled"]) < 0.9 * float(far["paper"])


def test_a_step_stays_on_the_sphere_and_has_its_length_before() -> None:
    random = torch.Generator().manual_seed(0)
    x, points, eta = (torch.randn(5, 3, 4, generator=random) for _ in range(3))
    delta = torch.tensor([0.01, 0.1, 0.5, 1.0, 0.3])
    moved = _on_sphere(x, points, delta, 7 * eta)
    radius = norm_of(points - x, "L2")
    torch.testing.assert_close(norm_of(moved - x, "L2"), radius)
    cosine = ((moved - x) * (points - x)).flatten(1).sum(1) / radius.square()
    torch.testing.assert_close(cosine, 1 / (1 + delta.square()).sqrt())  # a right angle, and a leg of `delta`
    assert bool((((moved - points) * eta).flatten(1).sum(1) > 0).all())


def test_sizes_rest_where_the_wanted_share_of_trials_stays() -> None:
    sizes = torch.tensor([0.2, 0.2, 0.2, 0.99])
    for at in range(10):
        _learn(sizes, torch.tensor([0, 1, 3]), torch.tensor([at < 3, at < 4, True]), 0.3)
    assert sizes.tolist() == pytest.approx([0.2, 0.2 * math.exp(0.1), 0.2, 1.0])


def test_a_size_grows_where_a_trial_stays_and_shrinks_where_not() -> None:
    """By a tenth of what the trial is above the share that is wanted: 0.12, or 0.3 sideways and 0.4 nearer."""
    predictor, x, _ = _run(steps=30, halvings=0)
    current, sizes = predictor.points[2], []
    for point in predictor.points[3:-1]:
        sizes.append(
            (math.sqrt(2 * (1 - float((point - x).norm() / (current - x).norm()))), _other(predictor, x, point))
        )
        current = point if sizes[-1][1] else current
    assert _learns(sizes, 0.12) > 3

    predictor, x, _ = _run(steps=30, halvings=0, rule="paper")
    current, sizes, nearer = predictor.points[2], [], []
    asked = iter(predictor.points[3:-1])
    for point in asked:
        cosine = float(((point - x) * (current - x)).sum() / (point - x).norm() / (current - x).norm())
        sizes.append((math.sqrt(1 / cosine**2 - 1), _other(predictor, x, point)))
        if sizes[-1][1]:
            end = next(asked)
            nearer.append((1 - float((end - x).norm() / (point - x).norm()), _other(predictor, x, end)))
            current = end if nearer[-1][1] else current
    assert _learns(sizes, 0.3) > 3 and _learns(nearer, 0.4) > 3


def _other(predictor: LinearPredictor, x: Tensor, point: Tensor) -> bool:
    """Whether the network calls the point something else."""
    return bool(predictor.logits(point).argmax(1) != predictor.logits(x).argmax(1))


def _learns(sizes: list[tuple[float, bool]], wanted: float) -> int:
    """How many trials stayed; each size must follow from the one before and its trial."""
    for (before, stayed), (after, _) in itertools.pairwise(sizes):
        assert after / before == pytest.approx(math.exp(0.1 * (stayed - wanted)), rel=2e-3)
    return sum(stayed for _, stayed in sizes)


@pytest.mark.parametrize("rule", ["coupled", "paper"])
def test_no_point_beyond_the_bounds_is_asked_for(rule: str) -> None:
    predictor = _Recorder()
    x = (torch.full((4, 1, 4, 4), 0.5) + 0.5 * predictor.weight[0].sign()).clamp(0.01, 0.99)
    Boundary(rule=rule, steps=20, delta=0.5).run(predictor, x, predictor.logits(x).argmax(1))
    asked = torch.cat(predictor.points)
    assert float(asked.min()) >= 0 and float(asked.max()) <= 1
    assert rule == "coupled" or (float(asked.min()) == 0 and float(asked.max()) == 1)  # and some are cut there


def test_no_step_leads_away() -> None:
    predictor = LinearPredictor(differentiable=False)
    x, y = _images(predictor)
    far = [
        norm_of(Boundary(steps=steps, rule=rule, halvings=2).run(predictor, x, y).points - x, "L2")
        for rule in ("coupled", "paper")
        for steps in (1, 4, 16, 64)
    ]
    for one, other in zip(far[:3] + far[4:7], far[1:4] + far[5:], strict=True):
        assert bool((other <= one * (1 + 1e-6)).all()) and bool((other < one).any())


def test_an_image_without_a_start_is_told_apart() -> None:
    predictor = _Far()
    x, y = _images(predictor)
    found = Boundary(steps=5, tries=1).run(predictor, x, y)
    assert found.right.all() and torch.equal(found.success, y != 0) and 0 < int(found.success.sum()) < len(x)
    assert torch.equal(found.points[y == 0], x[y == 0]) and found.queries[y == 0].unique().tolist() == [1]


def test_bad_settings_are_refused_when_the_images_are_known() -> None:
    predictor = LinearPredictor(differentiable=False)
    x, y = _images(predictor)
    with pytest.raises(MixbitError, match="attack 'boundary': sub_dim=5 is illegal"):
        Boundary(sub_dim=5).run(predictor, x, y)
    with pytest.raises(MixbitError, match="attack 'boundary': starting points of shape"):
        Boundary(starts=x[0]).run(predictor, x, y)


def test_integers_are_attacked_as_they_are() -> None:
    fools_integers(Boundary(steps=40))


class _Far(LinearPredictor):
    """All that is not close to grey is of class 0."""

    def logits(self, x: Tensor) -> Tensor:
        near = (x - 0.5).abs().amax((1, 2, 3)) < 0.4
        return torch.where(near[:, None], LinearPredictor.logits(self, x), torch.eye(3)[:1])


def _images(predictor: LinearPredictor, count: int = 8) -> tuple[Tensor, Tensor]:
    x = 0.5 + 0.1 * torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    return x.clamp(0, 1), predictor.logits(x.clamp(0, 1)).argmax(1)


class _Recorder(LinearPredictor):
    """Two classes, the second below a plane far away; keeps the points that it was asked for."""

    def __init__(self) -> None:
        super().__init__(differentiable=False, classes=2)
        self.points: list[Tensor] = []

    def logits(self, x: Tensor) -> Tensor:
        self.points.append(x)
        return LinearPredictor.logits(self, x)


def _run(images: int = 1, **settings: Any) -> tuple[_Recorder, Tensor, Found]:
    predictor = _Recorder()
    x = torch.full((images, 1, 4, 4), 0.5) + 0.02 * predictor.weight[0].sign()
    start = 0.5 - 0.1 * predictor.weight[0].sign()
    settings = {"starts": start[None], "halvings": 10, **settings}
    found = Boundary(**settings).run(predictor, x, predictor.logits(x).argmax(1))
    return predictor, x, found


def _asked(**settings: Any) -> int:
    return int(_run(**settings)[2].queries.sum())


def _distance(**settings: Any) -> float:
    _, x, found = _run(**settings)
    return float(norm_of(found.points - x, "L2").max())


def _first_moves(**settings: Any) -> tuple[float, float]:
    """Length of the first half-step, a part of the distance, and what the second leaves of it."""
    predictor, x, _ = _run(steps=1, halvings=0, **settings)
    # Before: the labels, the attack's own look at the images, the start.
    start, asked = predictor.points[2], predictor.points[3:-1]
    away, moved = start - x, asked[0] - x
    cosine = float((away * moved).sum() / away.norm() / moved.norm())
    return math.sqrt(1 / cosine**2 - 1), float(asked[-1].sub(x).norm() / away.norm())


def _in_vain(**settings: Any) -> int:
    """Points that an image of a network of one class asks for."""
    predictor = _Recorder()
    predictor.weight, predictor.bias = torch.zeros_like(predictor.weight), torch.tensor([1.0, 0.0])
    x = torch.full((1, 1, 4, 4), 0.5)
    return int(Boundary(**{"tries": 5, **settings}).run(predictor, x, torch.tensor([0])).queries)


def _roughness(**settings: Any) -> float:
    """Part of the first step that is in the lowest two frequencies of each side."""
    predictor, _, _ = _run(steps=1, halvings=0, **settings)
    step = predictor.points[3] - predictor.points[2]
    step = step - step.mean()
    basis = cosines(4, 2)
    smooth = basis @ (basis.T @ step @ basis) @ basis.T
    return -float(smooth.norm() / step.norm())
