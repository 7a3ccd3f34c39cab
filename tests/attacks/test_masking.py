from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from mixbit.attacks import Attack, Found, Norm, Pgd, Target, Trial, masking_signs, missed_points
from mixbit.attacks._streams import Streams
from mixbit.testing.attacks import LinearPredictor


@dataclass(frozen=True, slots=True, kw_only=True)
class Straight(Attack):
    """Knows the network, and goes straight to the nearest boundary, a little beyond."""

    network: LinearPredictor
    beyond: float = 1.01

    name = "straight"
    access = "labels"

    def __post_init__(self) -> None:
        pass

    @property
    def norm(self) -> Norm:
        return "L2"

    def _perturb(self, target: Target, x: Tensor, y: Tensor, streams: Streams) -> Tensor:
        logits = target.logits(x, target.all_rows)
        second = logits.scatter(1, y[:, None], -torch.inf).argmax(1)
        normal = self.network.weight[second] - self.network.weight[y]
        gap = (logits.gather(1, y[:, None]) - logits.gather(1, second[:, None])).view(-1, 1, 1, 1)
        return x + self.beyond * normal * gap / normal.flatten(1).square().sum(1).view(-1, 1, 1, 1)


def _setting() -> tuple[LinearPredictor, Tensor, Tensor]:
    """A network so sure of itself that the cross-entropy has no gradient in float32."""
    predictor = LinearPredictor(scale=2000.0)
    x = 0.5 + 0.05 * torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return predictor, x, predictor.logits(x).argmax(1)


def test_a_boundary_that_is_near_gives_masked_gradients_away() -> None:
    predictor, x, y = _setting()
    masked, honest = (Pgd(eps=0.2, restarts=1, steps=12, loss=loss) for loss in ("cross-entropy", "margin"))
    near = Straight(network=predictor)
    trials = {
        "masked": Trial(attack=masked, found=masked.run(predictor, x, y)),
        "honest": Trial(attack=honest, found=honest.run(predictor, x, y)),
        "near": Trial(attack=near, found=near.run(predictor, x, y)),
    }
    lost = ~trials["masked"].found.success
    assert lost.sum() >= 6 and trials["honest"].found.success.all() and trials["near"].found.success.all()
    assert torch.equal(missed_points(predictor, x, y, trials["masked"], [trials["near"]]), lost)
    (sign,) = masking_signs(predictor, x, y, trials)
    assert (sign.kind, sign.attack) == ("missed", "masked") and sign.share == pytest.approx(float(lost.float().mean()))
    assert f"masked calls {int(lost.sum())} images robust" in sign.text and "0.2 in Linf" in sign.text


def test_a_point_outside_the_ball_is_a_way_into_it_and_no_proof_by_itself() -> None:
    """Of a nearest point in L2 the sign at full radius is tried: it is wrong where the ball of Linf reaches over."""
    predictor, x, y = _setting()
    far = predictor.distances(x, y, 1.0)
    for share, wanted in ((1.05, True), (0.95, False)):
        for row in range(3):
            one, label = x[row : row + 1], y[row : row + 1]
            ball = Pgd(eps=float(far[row]) * share, restarts=1, steps=1, step=1e-9)
            near = Straight(network=predictor, beyond=3.0)
            trials = [Trial(attack=each, found=each.run(predictor, one, label)) for each in (ball, near)]
            assert missed_points(predictor, one, label, trials[0], trials[1:]).tolist() == [wanted]


def test_who_sees_less_and_finds_more_gives_it_away() -> None:
    predictor, x, y = _setting()
    right = torch.ones(8, dtype=torch.bool)

    def found(successes: int) -> Found:
        zeros = torch.zeros(8, dtype=torch.int64)
        return Found(points=x, right=right, success=torch.arange(8) < successes, queries=zeros, gradients=zeros)

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Blind(Pgd):
        pass

    white, black = Pgd(eps=0.1), Blind(eps=0.1)
    Blind.access = "scores"
    signs = masking_signs(
        predictor, x, y, {"white": Trial(attack=white, found=found(2)), "black": Trial(attack=black, found=found(5))}
    )
    assert [(one.kind, one.attack, one.share) for one in signs] == [("black box", "white", 3 / 8)]
    assert "black, with scores alone, finds 3 points more than white" in signs[0].text
    for other in (replace(black, eps=0.2), replace(black, ball="L2")):
        trials = {"white": Trial(attack=white, found=found(2)), "black": Trial(attack=other, found=found(5))}
        assert masking_signs(predictor, x, y, trials) == []
    trials = {"white": Trial(attack=white, found=found(5)), "black": Trial(attack=black, found=found(5))}
    assert masking_signs(predictor, x, y, trials) == []


def test_a_network_that_is_wrong_everywhere_has_no_signs() -> None:
    predictor, x, y = _setting()
    attack = Pgd(eps=0.1)
    found = attack.run(predictor, x, (y + 1) % 3)
    assert masking_signs(predictor, x, (y + 1) % 3, {"one": Trial(attack=attack, found=found)}) == []
