from typing import Any, ClassVar

import pytest
import torch

from mixbit.attacks import Pgd, norm_of
from mixbit.testing.attacks import AttackCases, LinearPredictor
from mixbit.testing.options import OptionCases, OptionRow, fields_of, higher
from tests.attacks.seen import expects

HERE = "tests/attacks/test_pgd.py"


class TestPgd(AttackCases):
    def make(self) -> Pgd:
        return Pgd(eps=0.25, steps=10, restarts=2)


class TestPgdOptions(OptionCases):
    owner = Pgd
    options = fields_of(Pgd)
    rows = (
        OptionRow("eps", (0.01, 0.02), seen=lambda value: _farthest(eps=value), holds=higher),
        OptionRow("step", (1e-3, 3e-3), seen=lambda value: _farthest(step=value, steps=2), holds=expects(2e-3, 6e-3)),
        OptionRow("steps", (1, 3), seen=lambda value: _farthest(step=1e-3, steps=value), holds=expects(1e-3, 3e-3)),
        OptionRow("restarts", (1, 3), seen=lambda value: _asked(restarts=value), holds=expects(21, 63)),
        OptionRow("ball", ("Linf", "L2"), seen=lambda value: _corners(ball=value), holds=expects(16, 0)),
        OptionRow("early", (True, False), seen=lambda value: _asked(eps=0.5, restarts=1, early=value), holds=higher),
    )
    elsewhere: ClassVar = {"loss": f"{HERE}::test_the_losses_differ_where_the_network_is_sure"}


class TestPgdL2(AttackCases):
    def make(self) -> Pgd:
        return Pgd(eps=0.9, steps=12, restarts=2, ball="L2", loss="cross-entropy")


@pytest.mark.parametrize(("ball", "dual"), [("Linf", 1.0), ("L2", 2.0)])
def test_succeeds_exactly_where_the_ball_reaches_the_boundary(ball: str, dual: float) -> None:
    """Of a linear network of two classes the sign (the direction) is the best step, and the distance is known."""
    predictor = LinearPredictor(classes=2)
    x = (0.5 + 0.05 * torch.randn(40, 1, 4, 4, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    y = predictor.logits(x).argmax(1)
    far = predictor.distances(x, y, dual)
    eps = float(far.median()) * 1.001
    found = Pgd(eps=eps, steps=12, restarts=1, ball=ball).run(predictor, x, y)
    assert torch.equal(found.success, far < eps)
    assert 15 < int(found.success.sum()) < 25


def test_takes_no_step_once_it_is_done_and_no_other_start() -> None:
    predictor, x, y = _pair()
    far = predictor.distances(x, y, 1.0)
    found = Pgd(eps=0.5, step=float(far) * 1.01, steps=9, restarts=5).run(predictor, x, y)
    assert found.queries.tolist() == [2] and found.success.all()
    late = Pgd(eps=0.5, step=float(far) * 1.01, steps=9, restarts=5, early=False).run(predictor, x, y)
    assert late.queries.tolist() == [50] and late.gradients.tolist() == [45]
    # All the way to the corner of the ball: a good deal behind the boundary.
    assert float(norm_of(late.points - x, "Linf")) > 3 * float(far)


def test_a_step_is_a_tenth_of_the_radius() -> None:
    predictor, x, y = _pair()
    eps = float(predictor.distances(x, y, 1.0)) / 2
    once = Pgd(eps=eps, steps=1, restarts=1).run(predictor, x, y)
    assert float(norm_of(once.points - x, "Linf")) == pytest.approx(eps / 10, rel=1e-4)
    assert not once.success.any()


def test_starts_after_the_first_are_anywhere_in_the_ball() -> None:
    predictor, x, y = _pair()
    for ball, eps in (("Linf", 0.01), ("L2", 0.02)):
        x = x.repeat(64, 1, 1, 1)[:64]
        attack = Pgd(eps=eps, steps=1, restarts=3, step=1e-9, ball=ball)
        lengths = norm_of(attack.run(predictor, x, y.repeat(64)[:64]).points - x, attack.norm)
        assert float(lengths.max()) <= eps * 1.001 and float(lengths.max()) > 0.8 * eps
        assert len(lengths.unique()) > 30


def test_the_losses_differ_where_the_network_is_sure() -> None:
    """The gradient of the cross-entropy is 0 in float32 where the network is sure; that of the margin is not."""
    predictor = LinearPredictor(scale=2000.0)
    x = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    y = predictor.logits(x).argmax(1)
    masked = Pgd(eps=0.5, restarts=1, loss="cross-entropy").run(predictor, x, y)
    assert not masked.success.any() and Pgd(eps=0.5, restarts=1).run(predictor, x, y).success.all()


def _pair() -> tuple[LinearPredictor, torch.Tensor, torch.Tensor]:
    predictor = LinearPredictor(classes=2)
    x = torch.full((1, 1, 4, 4), 0.5) + 0.02 * predictor.weight[0].sign()
    return predictor, x, predictor.logits(x).argmax(1)


def _farthest(**settings: Any) -> float:
    predictor, x, y = _pair()
    settings = {"eps": 0.01, "restarts": 1, **settings}
    return float(norm_of(Pgd(**settings).run(predictor, x, y).points - x, "Linf").max())


def _asked(**settings: Any) -> int:
    predictor, x, y = _pair()
    return int(Pgd(**{"eps": 0.01, **settings}).run(predictor, x, y).queries.sum())


def _corners(**settings: Any) -> int:
    """Pixels that moved as far as the farthest one."""
    predictor, x, y = _pair()
    moved = (Pgd(eps=0.01, restarts=1, **settings).run(predictor, x, y).points - x).abs()
    return int((moved > 0.999 * 0.01).sum())
