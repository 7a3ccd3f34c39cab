from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from mixbit.attacks import ElasticNet, Found, norm_of
from mixbit.data import InputSpace
from mixbit.testing.attacks import AttackCases, LinearPredictor
from mixbit.testing.options import OptionCases, OptionRow, fields_of, lower
from tests.attacks.seen import Curved, expects


class TestElasticNet(AttackCases):
    def make(self) -> ElasticNet:
        return ElasticNet(steps=10, searches=6)


class TestElasticNetOptions(OptionCases):
    owner = ElasticNet
    options = fields_of(ElasticNet)
    rows = (
        OptionRow("beta", (1e-4, 3e-2), seen=lambda value: _moved(beta=value), holds=lower, says="fewer pixels move"),
        OptionRow("rule", ("EN", "L1"), seen=lambda value: _ones(rule=value), holds=lower),
        OptionRow("steps", (3, 7), seen=lambda value: _asked(steps=value, searches=1), holds=expects(6, 14)),
        OptionRow("searches", (1, 3), seen=lambda value: _asked(steps=4, searches=value), holds=expects(8, 24)),
        OptionRow("first_c", (1e-6, 1.0), seen=lambda value: _fooled(first_c=value, searches=1), holds=expects(0, 8)),
        OptionRow(
            "lr", (1e-6, 1e-2), seen=lambda value: _fooled(first_c=1.0, searches=1, lr=value), holds=expects(0, 8)
        ),
        OptionRow(
            "confidence", (0.0, 3.0), seen=lambda value: _lead(confidence=value), holds=lambda a, b: a < 1 < 3 <= b
        ),
    )


@pytest.mark.parametrize("rule", ["EN", "L1"])
def test_is_what_a_plain_loop_finds_image_by_image(rule: Literal["EN", "L1"]) -> None:
    predictor = Curved(scale=4.0)
    x, y = _images(predictor)
    attack = ElasticNet(beta=2e-3, steps=9, searches=6, first_c=0.02, lr=0.1, confidence=0.2, rule=rule)
    wanted = torch.cat(
        [_plain(predictor, one, label, attack) for one, label in zip(x[:, None], y[:, None], strict=True)]
    )
    found = attack.run(predictor, x, y)
    assert found.success.sum() > 5
    torch.testing.assert_close(found.points, wanted, rtol=0, atol=1e-5)


def _plain(predictor: LinearPredictor, x: Tensor, y: Tensor, attack: ElasticNet) -> Tensor:
    """The attack on one image, pixel by pixel as the paper has it (its equations 5 and 7)."""
    best, least, c, low, high = x, float("inf"), attack.first_c, 0.0, float("inf")
    for _ in range(attack.searches):
        before, ahead, success = x, x, False
        for k in range(attack.steps):
            at = ahead.clone().requires_grad_()
            (slope,) = torch.autograd.grad(
                c * torch.relu(_gap(predictor, at, y) + attack.confidence) + (at - x).square().sum(), at
            )
            z = ahead - attack.lr * (1 - k / attack.steps) ** 0.5 * slope
            points = torch.where(z - x > attack.beta, (z - attack.beta).clamp(max=1), x)
            points = torch.where(z - x < -attack.beta, (z + attack.beta).clamp(min=0), points)
            ahead, before = points + k / (k + 3) * (points - before), points
            ones, twos = float((points - x).abs().sum()), float((points - x).square().sum())
            length = ones if attack.rule == "L1" else twos + attack.beta * ones
            if float(_gap(predictor, points, y)) <= -attack.confidence:
                success = True
                if length < least:
                    best, least = points, length
        low, high = (low, c) if success else (c, high)
        c = 10 * c if high == float("inf") else (low + high) / 2
    return best


def _gap(predictor: LinearPredictor, x: Tensor, y: Tensor) -> Tensor:
    logits = predictor.logits(x)[0]
    return (logits[y] - logits[[k for k in range(3) if k != y]].max())[0]


def test_without_an_l1_norm_it_comes_to_the_nearest_point_in_l2() -> None:
    predictor = LinearPredictor()
    x, y = _images(predictor)
    found = ElasticNet(beta=0.0, lr=0.1, steps=60, searches=12).run(predictor, x, y)
    times = norm_of(found.points - x, "L2") / predictor.distances(x, y, 2.0)
    assert float(times.min()) > 0.999 and float(times.max()) < 1.02


def test_stays_within_the_bounds() -> None:
    predictor = LinearPredictor()
    x = _images(predictor)[0].round()  # black and white
    found = ElasticNet(steps=10, first_c=1.0).run(predictor, x, predictor.logits(x).argmax(1))
    assert bool((found.points != x).any()) and float(found.points.min()) >= 0 and float(found.points.max()) <= 1


def test_means_the_same_in_every_unit_of_the_inputs() -> None:
    predictor, pixels = LinearPredictor(), LinearPredictor(space=InputSpace(bounds=(0.0, 255.0)))
    pixels.weight = predictor.weight / 255
    x, y = _images(predictor)
    one, other = ElasticNet(steps=10).run(predictor, x, y), ElasticNet(steps=10).run(pixels, 255 * x, y)
    assert one.success.all()
    torch.testing.assert_close(other.points / 255, one.points, rtol=0, atol=1e-4)


def _images(predictor: LinearPredictor) -> tuple[Tensor, Tensor]:
    x = 0.5 + 0.05 * torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return x, predictor.logits(x).argmax(1)


def _attacked(**settings: Any) -> tuple[LinearPredictor, Tensor, Tensor, Found]:
    predictor = LinearPredictor()
    x, y = _images(predictor)
    return predictor, x, y, ElasticNet(**{"steps": 20, **settings}).run(predictor, x, y)


def _asked(**settings: Any) -> int:
    return int(_attacked(**settings)[3].queries.max())


def _fooled(**settings: Any) -> int:
    return int(_attacked(**settings)[3].success.sum())


def _moved(**settings: Any) -> int:
    _, x, _, found = _attacked(**settings)
    assert found.success.all()
    return int(norm_of(found.points - x, "L0").sum())


def _ones(**settings: Any) -> float:
    """L1 of points whose L2 has little weight in the rule "L1", and nearly all in the rule "EN"."""
    _, x, _, found = _attacked(steps=40, lr=0.1, **settings)
    assert found.success.all()
    return float(norm_of(found.points - x, "L1").sum())


def _lead(**settings: Any) -> float:
    """By how much the other class wins at the least."""
    predictor, _, y, found = _attacked(searches=12, **settings)
    logits = predictor.logits(found.points)
    return float((logits.amax(1) - logits.gather(1, y[:, None]).squeeze(1)).min())
