from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize
from torch import Tensor

from mixbit.attacks import Fab, norm_of
from mixbit.attacks._hyperplane import towards_hyperplane
from mixbit.testing.attacks import AttackCases, LinearPredictor
from mixbit.testing.options import OptionCases, OptionRow, fields_of, lower
from tests.attacks.seen import expects

HERE = "tests/attacks/test_fab.py"


class TestFab(AttackCases):
    images = 4

    def make(self) -> Fab:
        return Fab(steps=4)


class TestFabL2(AttackCases):
    images = 4

    def make(self) -> Fab:
        return Fab(steps=4, restarts=2, ball="L2")


class TestFabOptions(OptionCases):
    owner = Fab
    options = fields_of(Fab)
    rows = (
        # The ranks and the image at the end ask once each.
        OptionRow("steps", (3, 5), seen=lambda value: _asked(steps=value), holds=expects(1 + 12, 1 + 20)),
        OptionRow("targets", (1, 9), seen=lambda value: _asked(steps=3, targets=value), holds=expects(1 + 6, 1 + 12)),
        OptionRow("restarts", (1, 2), seen=lambda value: _asked(steps=3, restarts=value), holds=expects(13, 25)),
        OptionRow("ball", ("Linf", "L2"), seen=lambda value: _ratio(ball=value), holds=lower),
        OptionRow("overshoot", (1.02, 1.2), seen=lambda value: _ratio(overshoot=value), holds=expects(1.02, 1.2)),
        OptionRow("final", (0, 3), seen=lambda value: _ratio(final=value), holds=expects(1.05, 1.001)),
        OptionRow("enough", (None, 10.0), seen=lambda value: _asked(steps=6, enough=value), holds=lower),
    )
    elsewhere: ClassVar = dict.fromkeys(("most_pull", "back"), f"{HERE}::test_a_step_is_the_papers_written_out")


@pytest.mark.parametrize("ball", ["Linf", "L2", "L1"])
def test_the_way_to_a_hyperplane_is_as_short_as_scipys(ball: Any) -> None:
    """Within bounds that stop some of the numbers; of planes that no point within reaches, the corner towards them."""
    random = np.random.default_rng(0)
    points = random.random((24, 6))
    points[:, 0] = 1.0
    normals = random.normal(size=(24, 6))
    normals[:, 1] = 0
    gaps = random.normal(size=24)
    gaps[0] = 50.0
    found = towards_hyperplane(*(torch.from_numpy(one) for one in (points, normals, gaps)), ball, (0.0, 1.0)).numpy()
    assert ((points + found >= -1e-9) & (points + found <= 1 + 1e-9)).all()
    corner = np.where(normals[0] > 0, 0, 1) - points[0]
    assert found[0] == pytest.approx(np.where(normals[0] == 0, 0, corner))
    for point, normal, gap, way in list(zip(points, normals, gaps, found, strict=True))[1:]:
        best = _shortest(point, normal, gap, ball)
        if best is not None:
            assert normal @ way == pytest.approx(-gap, abs=1e-6)
            assert np.linalg.norm(way, {"Linf": np.inf, "L2": 2, "L1": 1}[ball]) == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize(("ball", "dual"), [("Linf", 1.0), ("L2", 2.0), ("L1", torch.inf)])
def test_finds_the_distance_of_a_linear_network(ball: Any, dual: float) -> None:
    predictor = LinearPredictor(classes=5)
    x = (0.5 + 0.03 * torch.randn(20, 1, 4, 4, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    y = predictor.logits(x).argmax(1)
    found = Fab(steps=3, ball=ball).run(predictor, x, y)
    assert found.success.all()
    length, far = norm_of(found.points - x, ball), predictor.distances(x, y, dual)
    assert bool((length >= far * 0.9999).all()) and float((length / far).max()) < 1.003


def test_points_are_not_where_rounding_decides() -> None:
    predictor = LinearPredictor(classes=5)
    x = (0.5 + 0.03 * torch.randn(20, 1, 4, 4, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    logits = predictor.logits(x)
    found = Fab(steps=3, ball="L2", final=6).run(predictor, x, logits.argmax(1))
    gap = logits.topk(2).values @ torch.tensor([1.0, -1.0])
    behind = predictor.logits(found.points)
    margin = behind.gather(1, logits.argmax(1)[:, None]).squeeze(1) - behind.amax(1)
    assert bool((margin <= -4e-4 * gap).all())


def test_a_step_is_the_papers_written_out() -> None:
    """The points of one image on the way to its first target, from what the network was asked."""
    predictor, x, y = _one()
    asked: list[Tensor] = []
    whole = predictor.logits
    predictor.logits = lambda points: (asked.append(points.detach()[0]), whole(points))[1]  # type: ignore[method-assign]
    Fab(steps=4, targets=1, ball="L2", most_pull=0.2, back=0.8, overshoot=1.1).run(predictor, x, y)
    towards = int(whole(x)[0].topk(2).indices[1])
    normal = predictor.weight[towards] - predictor.weight[y[0]]
    at = x[0]
    for step in range(4):
        torch.testing.assert_close(asked[2 + 2 * step], at, rtol=0, atol=1e-5)
        ways = [
            -(whole(one[None])[0, towards] - whole(one[None])[0, y[0]]) / normal.square().sum() * normal
            for one in (at, x[0])
        ]
        pull = min(float(ways[0].norm() / (ways[0].norm() + ways[1].norm())), 0.2)
        at = (1 - pull) * (at + 1.1 * ways[0]) + pull * (x[0] + 1.1 * ways[1])
        torch.testing.assert_close(asked[3 + 2 * step], at, rtol=0, atol=1e-5)
        if int(whole(at[None]).argmax()) != int(y):
            at = 0.2 * x[0] + 0.8 * at


def test_other_starts_are_random_and_near() -> None:
    predictor, x, y = _one()
    asked: list[Tensor] = []
    whole = predictor.logits
    predictor.logits = lambda points: (asked.append(points.detach()), whole(points))[1]  # type: ignore[method-assign]
    Fab(steps=1, targets=1, restarts=9, ball="L2", final=0).run(predictor, x, y)
    starts = torch.cat(asked[2:-1:2]) - x
    lengths, far = norm_of(starts, "L2"), float(predictor.distances(x, y, 2.0))
    assert float(lengths[0]) == 0 and float(lengths[1:].min()) > 0 and float(lengths.max()) <= 0.55 * far
    assert float(lengths.max()) > 0.25 * far and len(lengths.unique()) == 9


def _shortest(point: np.ndarray, normal: np.ndarray, gap: float, ball: str) -> float | None:
    """By a linear program (L1 and Linf) or SLSQP (L2); None of planes out of reach."""
    size, box = len(point), list(zip(-point, 1 - point, strict=True))
    if ball == "L2":
        done = minimize(
            lambda d: d @ d,
            np.zeros(size),
            jac=lambda d: 2 * d,
            bounds=box,
            constraints={"type": "eq", "fun": lambda d: normal @ d + gap, "jac": lambda _: normal},
            tol=1e-12,
        )
        return float(np.sqrt(done.fun)) if done.success else None
    extra = 1 if ball == "Linf" else size
    bound = np.ones((size, 1)) if ball == "Linf" else np.eye(size)
    rows = np.block([[np.eye(size), -bound], [-np.eye(size), -bound]])
    done = linprog(
        np.r_[np.zeros(size), np.ones(extra)],
        A_ub=rows,
        b_ub=np.zeros(2 * size),
        A_eq=np.r_[normal, np.zeros(extra)][None],
        b_eq=[-gap],
        bounds=[*box, *[(0, None)] * extra],
    )
    return float(done.fun) if done.success else None


def _one() -> tuple[LinearPredictor, Tensor, Tensor]:
    predictor = LinearPredictor()
    x = torch.full((1, 1, 4, 4), 0.5) + 0.05 * predictor.weight[:1].sign()
    return predictor, x, predictor.logits(x).argmax(1)


def _asked(**settings: Any) -> int:
    predictor, x, y = _one()
    return int(Fab(**{"final": 0, **settings}).run(predictor, x, y).queries.sum())


def _ratio(**settings: Any) -> float:
    """Length over the known distance."""
    predictor, x, y = _one()
    found = Fab(**{"steps": 1, "final": 0, "ball": "L2", **settings}).run(predictor, x, y)
    return float(norm_of(found.points - x, "L2") / predictor.distances(x, y, 2.0))
