from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from mixbit.attacks import CarliniWagnerL2, Found, norm_of
from mixbit.data import InputSpace
from mixbit.testing.attacks import AttackCases, LinearPredictor
from mixbit.testing.options import OptionCases, OptionRow, fields_of, lower
from tests.attacks.seen import Curved, expects


class TestL2(AttackCases):
    def make(self) -> CarliniWagnerL2:
        return CarliniWagnerL2(steps=10)


class TestL2Adam(AttackCases):
    def make(self) -> CarliniWagnerL2:
        return CarliniWagnerL2(steps=20, searches=6, solver="adam", lr=0.05)


class TestL2Options(OptionCases):
    owner = CarliniWagnerL2
    options = fields_of(CarliniWagnerL2)
    rows = (
        OptionRow("steps", (3, 7), seen=lambda value: _asked(steps=value, searches=1), holds=expects(3, 7)),
        OptionRow("searches", (1, 3), seen=lambda value: _asked(steps=4, searches=value), holds=expects(4, 12)),
        OptionRow("first_c", (1e-6, 1.0), seen=lambda value: _fooled(first_c=value, searches=1), holds=expects(0, 8)),
        OptionRow(
            "confidence", (0.0, 3.0), seen=lambda value: _lead(confidence=value), holds=lambda a, b: a < 1 < 3 <= b
        ),
        OptionRow(
            "solver", ("adam", "descent"), seen=lambda value: _length(solver=value, steps=10, lr=0.05), holds=lower
        ),
        # The first step of Adam is as long as its rate in every pixel, wherever the gradient is not 0.
        OptionRow("lr", (0.2, 0.4), seen=lambda value: _first_step(lr=value), holds=expects(0.2, 0.4)),
    )


@pytest.mark.parametrize(("solver", "steps", "within"), [("descent", 20, 1.01), ("adam", 150, 1.03)])
def test_comes_to_the_nearest_point_of_the_boundary(solver: str, steps: int, within: float) -> None:
    predictor = LinearPredictor()
    x, y = _images(predictor)
    found = CarliniWagnerL2(solver=solver, steps=steps, searches=12).run(predictor, x, y)
    times = norm_of(found.points - x, "L2") / predictor.distances(x, y, 2.0)
    assert float(times.min()) > 0.999 and float(times.max()) < within


@pytest.mark.parametrize("solver", ["descent", "adam"])
def test_is_what_a_plain_loop_finds_image_by_image(solver: Literal["descent", "adam"]) -> None:
    predictor = Curved(scale=4.0)
    x, y = _images(predictor)
    attack = CarliniWagnerL2(steps=8, searches=7, first_c=0.02, confidence=0.3, solver=solver, lr=0.08)
    wanted = torch.cat(
        [_plain(predictor, one, label, attack) for one, label in zip(x[:, None], y[:, None], strict=True)]
    )
    found = attack.run(predictor, x, y)
    assert found.success.sum() > 5
    torch.testing.assert_close(found.points, wanted, rtol=0, atol=1e-5)


def _plain(predictor: LinearPredictor, x: Tensor, y: Tensor, attack: CarliniWagnerL2) -> Tensor:
    """The attack on one image, with autograd through everything and PyTorch's optimisers."""
    best, least, c, low, high = x, float("inf"), attack.first_c, 0.0, float("inf")
    for _ in range(attack.searches):
        w = torch.atanh((2 * x - 1) * (1 - 1e-6)).requires_grad_()
        optimiser = torch.optim.Adam([w], attack.lr) if attack.solver == "adam" else torch.optim.SGD([w], 2.0)
        success = False
        for at in range(attack.steps):
            points = 0.5 + 0.5 * torch.tanh(w)
            logits = predictor.logits(points)[0]
            gap = logits[y] - logits[[k for k in range(3) if k != y]].max()
            length = (points - x).detach().norm()
            if float(gap.detach()) <= -attack.confidence:
                success = True
                if float(length) < least:
                    best, least = points.detach(), float(length)
                if attack.solver == "descent":
                    break
            loss = (points - x).square().sum() + c * torch.relu(gap + attack.confidence)
            optimiser.zero_grad()
            loss.sum().backward()
            if attack.solver == "descent":
                optimiser.param_groups[0]["lr"] = 2.0 * (1 - at / attack.steps)
            optimiser.step()
            if attack.solver == "descent" and (0.5 + 0.5 * torch.tanh(w) - points).norm() <= 0.05 * length:
                break
        low, high = (low, c) if success else (c, high)
        c = 10 * c if high == float("inf") else (low + high) / 2
    return best


def test_descent_goes_on_to_the_next_c_when_this_one_is_enough_or_has_done_all() -> None:
    assert 0 < _asked(solver="descent", steps=100, searches=9) < 150


def test_means_the_same_in_every_unit_of_the_inputs() -> None:
    predictor, pixels = LinearPredictor(), LinearPredictor(space=InputSpace(bounds=(0.0, 255.0)))
    pixels.weight = predictor.weight / 255
    x, y = _images(predictor)
    for solver in ("descent", "adam"):
        attack = CarliniWagnerL2(steps=10, searches=6, solver=solver, lr=0.05)
        one, other = attack.run(predictor, x, y), attack.run(pixels, 255 * x, y)
        torch.testing.assert_close(
            norm_of(other.points - 255 * x, "L2"), 255 * norm_of(one.points - x, "L2"), rtol=1e-2, atol=0
        )


def test_moves_pixels_that_lie_at_the_bounds() -> None:
    predictor = LinearPredictor()
    x, y = _images(predictor)
    x[:, :, 0] = x[:, :, 0].round()  # black or white
    y = predictor.logits(x).argmax(1)
    found = CarliniWagnerL2().run(predictor, x, y)
    assert found.success.all() and float(found.points.min()) >= 0 and float(found.points.max()) <= 1


def _images(predictor: LinearPredictor) -> tuple[Tensor, Tensor]:
    x = 0.5 + 0.05 * torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return x, predictor.logits(x).argmax(1)


def _attacked(**settings: Any) -> tuple[LinearPredictor, Tensor, Tensor, Found]:
    predictor = LinearPredictor()
    x, y = _images(predictor)
    return predictor, x, y, CarliniWagnerL2(**settings).run(predictor, x, y)


def _asked(**settings: Any) -> int:
    return int(_attacked(**{"solver": "adam", **settings})[3].queries.max())


def _fooled(**settings: Any) -> int:
    return int(_attacked(**settings)[3].success.sum())


def _lead(**settings: Any) -> float:
    """By how much the other class wins at the least."""
    predictor, _, y, found = _attacked(searches=12, **settings)
    logits = predictor.logits(found.points)
    return float((logits.amax(1) - logits.gather(1, y[:, None]).squeeze(1)).min())


def _length(**settings: Any) -> float:
    _, x, _, found = _attacked(**settings)
    assert found.success.all()
    return float(norm_of(found.points - x, "L2").mean())


def _first_step(**settings: Any) -> float:
    _, x, _, found = _attacked(solver="adam", steps=2, searches=1, first_c=100.0, **settings)
    assert found.success.any()
    moved = torch.atanh(2 * found.points - 1) - torch.atanh(2 * x - 1)
    return float(moved[found.success].abs().median())
