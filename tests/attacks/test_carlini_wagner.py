from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from mixbit.attacks import Attack, CarliniWagnerL2, CarliniWagnerLinf, Found, norm_of
from mixbit.data import InputSpace
from mixbit.testing.attacks import AttackCases, LinearPredictor
from mixbit.testing.options import OptionCases, OptionRow, fields_of, higher, lower
from tests.attacks.seen import Curved, expects


class TestL2(AttackCases):
    def make(self) -> CarliniWagnerL2:
        return CarliniWagnerL2(steps=10)


class TestL2Adam(AttackCases):
    def make(self) -> CarliniWagnerL2:
        return CarliniWagnerL2(steps=20, searches=6, solver="adam", lr=0.05)


class TestLinf(AttackCases):
    def make(self) -> CarliniWagnerLinf:
        return CarliniWagnerLinf(steps=5)


class TestL2Options(OptionCases):
    owner = CarliniWagnerL2
    options = fields_of(CarliniWagnerL2)
    rows = (
        OptionRow("steps", (3, 7), seen=lambda value: _asked(steps=value, searches=1), holds=expects(3, 7)),
        OptionRow("searches", (1, 3), seen=lambda value: _asked(steps=4, searches=value), holds=expects(4, 12)),
        OptionRow("first_c", (1e-6, 1.0), seen=lambda value: _fooled(first_c=value, searches=1), holds=expects(0, 8)),
        OptionRow(
            "confidence",
            (0.0, 3.0),
            seen=lambda value: _lead(CarliniWagnerL2(searches=12, confidence=value)),
            holds=lambda a, b: a < 1 < 3 <= b,
        ),
        OptionRow("within", (0.5, 0.0), seen=lambda value: int(_attacked(within=value)[3].queries.sum()), holds=higher),
        OptionRow(
            "solver", ("adam", "descent"), seen=lambda value: _length(solver=value, steps=10, lr=0.05), holds=lower
        ),
        # The first step of Adam is as long as its rate in every pixel, wherever the gradient is not 0.
        OptionRow("lr", (0.2, 0.4), seen=lambda value: _first_step(lr=value), holds=expects(0.2, 0.4)),
    )


class TestLinfOptions(OptionCases):
    """On a network of one class a round makes its steps and `c` doubles: each asks once, and the last point once."""

    owner = CarliniWagnerLinf
    options = fields_of(CarliniWagnerLinf)
    rows = (
        OptionRow("steps", (3, 7), seen=lambda value: _hopeless(steps=value, first_c=20.0), holds=expects(4, 8)),
        OptionRow(
            "first_c", (1.0, 4.0), seen=lambda value: _hopeless(first_c=value, largest_c=4.0), holds=expects(7, 3)
        ),
        OptionRow(
            "largest_c", (1.0, 4.0), seen=lambda value: _hopeless(first_c=1.0, largest_c=value), holds=expects(3, 7)
        ),
        OptionRow(
            "patience", (1, 3), seen=lambda value: int(_attacked_linf(patience=value).queries.min()), holds=higher
        ),
        OptionRow(
            "shrink", (0.5, 0.95), seen=lambda value: int(_attacked_linf(shrink=value).queries.sum()), holds=higher
        ),
        OptionRow("lr", (0.05, 0.1), seen=lambda value: _first_step_linf(lr=value), holds=expects(0.05, 0.1)),
        # Of the images that are black and white alone, tanh moves none to another class.
        OptionRow("bounds", ("tanh", "cut"), seen=lambda value: _saturated(bounds=value), holds=expects(0, 8)),
        OptionRow(
            "confidence",
            (0.0, 3.0),
            seen=lambda value: _lead(CarliniWagnerLinf(confidence=value)),
            holds=lambda a, b: a < 1 < 3 <= b,
        ),
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
    attack = CarliniWagnerL2(steps=8, searches=7, first_c=0.02, within=0.0, confidence=0.3, solver=solver, lr=0.08)
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
        adam = attack.solver == "adam"
        w = (torch.atanh((2 * x - 1) * (1 - 1e-6)) if adam else x.clone()).requires_grad_()
        optimiser = torch.optim.Adam([w], attack.lr) if adam else torch.optim.SGD([w], 0.5)
        success = False
        for at in range(attack.steps):
            points = 0.5 + 0.5 * torch.tanh(w) if adam else 1.0 * w
            logits = predictor.logits(points)[0]
            gap = logits[y] - logits[[k for k in range(3) if k != y]].max()
            length = (points - x).detach().norm()
            if float(gap.detach()) <= -attack.confidence:
                success = True
                if float(length) < least:
                    best, least = points.detach(), float(length)
                if not adam:
                    break
            loss = (points - x).square().sum() + c * torch.relu(gap + attack.confidence)
            optimiser.zero_grad()
            loss.sum().backward()
            if not adam:
                optimiser.param_groups[0]["lr"] = 0.5 * (1 - at / attack.steps)
            optimiser.step()
            if not adam:
                w.data.clamp_(0, 1)
                if (w - points).norm() <= 0.05 * length:
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
    for attack in (
        CarliniWagnerL2(steps=10, searches=6),
        CarliniWagnerL2(steps=10, searches=6, solver="adam", lr=0.05),
        CarliniWagnerLinf(),
    ):
        one, other = attack.run(predictor, x, y), attack.run(pixels, 255 * x, y)
        lengths = [norm_of(points, attack.norm) for points in (one.points - x, other.points - 255 * x)]
        torch.testing.assert_close(lengths[1], 255 * lengths[0], rtol=1e-2, atol=0)


@pytest.mark.parametrize("attack", [CarliniWagnerL2(searches=12), CarliniWagnerLinf(steps=20, shrink=0.98)], ids=str)
def test_pixels_at_the_bounds_move_as_far_as_any_other(attack: Attack) -> None:
    """The nearest point of two classes of a linear network, when only half of the pixels can move: a closed form."""
    predictor = LinearPredictor(classes=2)
    x, y = _black_and_white(predictor)
    found = attack.run(predictor, x, y)
    assert found.success.all()
    gap = (predictor.weight[1 - y] - predictor.weight[y]).reshape(x.shape)
    wanted = _nearest_between_bounds(predictor, x, y, gap, attack.norm)
    times = norm_of(found.points - x, attack.norm) / wanted
    assert float(times.min()) > 0.999 and float(times.max()) < 1.1


def _nearest_between_bounds(predictor: LinearPredictor, x: Tensor, y: Tensor, gap: Tensor, norm: str) -> Tensor:
    """Pixels move along their gradients where these lead inwards, each by less than the whole width."""
    free = torch.where(x == 0, gap > 0, gap < 0)
    logits = predictor.logits(x)
    lead = logits.gather(1, y[:, None]).squeeze(1) - logits.gather(1, 1 - y[:, None]).squeeze(1)
    slope = (gap * free).flatten(1)
    found = lead / (slope.norm(dim=1) if norm == "L2" else slope.abs().sum(1))
    change = found[:, None] * slope / slope.norm(dim=1, keepdim=True)
    assert norm != "L2" or float(change.abs().max()) < 1
    return found


def test_in_linf_it_comes_to_the_nearest_point_of_the_boundary() -> None:
    predictor = LinearPredictor()
    x, y = _images(predictor)
    found = CarliniWagnerLinf(steps=20, shrink=0.98).run(predictor, x, y)
    times = norm_of(found.points - x, "Linf") / predictor.distances(x, y, 1.0)
    assert float(times.min()) > 0.999 and float(times.max()) < 1.1


@pytest.mark.parametrize("bounds", ["cut", "tanh"])
def test_in_linf_it_is_what_a_plain_loop_finds_image_by_image(bounds: Literal["cut", "tanh"]) -> None:
    predictor = Curved(scale=4.0)
    x, y = _images(predictor)
    attack = CarliniWagnerLinf(
        steps=3, bounds=bounds, lr=0.01, shrink=0.9, first_c=0.02, largest_c=5.0, patience=2, confidence=0.3
    )
    wanted = torch.cat(
        [_plain_linf(predictor, one, label, attack) for one, label in zip(x[:, None], y[:, None], strict=True)]
    )
    found = attack.run(predictor, x, y)
    assert found.success.sum() > 5
    torch.testing.assert_close(found.points, wanted, rtol=0, atol=1e-5)


def _plain_linf(predictor: LinearPredictor, x: Tensor, y: Tensor, attack: CarliniWagnerLinf) -> Tensor:
    """The attack on one image: a loop of rounds around one of steps, with autograd and PyTorch's Adam."""
    best, least, tau, c, failed = x, float("inf"), 1.0, attack.first_c, 0
    tanh = attack.bounds == "tanh"
    w = (torch.atanh((2 * x - 1) * (1 - 1e-6)) if tanh else x.clone()).requires_grad_()
    while c <= attack.largest_c and (failed < attack.patience or least == float("inf")):
        optimiser = torch.optim.Adam([w], min(attack.lr, 0.2 * tau) * (1 if tanh else 0.5))
        succeeded = False
        for at in range(attack.steps + 1):
            points = 0.5 + 0.5 * torch.tanh(w) if tanh else 1.0 * w
            logits = predictor.logits(points)[0]
            gap = logits[y] - logits[[k for k in range(3) if k != y]].max()
            length = float((points - x).detach().abs().max())
            if float(gap.detach()) <= -attack.confidence:
                if length < least:
                    best, least = points.detach(), length
                if succeeded := length < tau:
                    break
            if at == attack.steps:
                break
            loss = c * torch.relu(gap + attack.confidence) + torch.relu((points - x).abs() - tau).sum()
            optimiser.zero_grad()
            loss.sum().backward()
            optimiser.step()
            if not tanh:
                w.data.clamp_(0, 1)
        tau, c, failed = (attack.shrink * length, c, 0) if succeeded else (tau, 2 * c, failed + 1)
    return best


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


def _lead(attack: Attack) -> float:
    """By how much the other class wins at the least."""
    predictor = LinearPredictor()
    x, y = _images(predictor)
    logits = predictor.logits(attack.run(predictor, x, y).points)
    return float((logits.amax(1) - logits.gather(1, y[:, None]).squeeze(1)).min())


def _hopeless(**settings: Any) -> int:
    """What an image asks of a network of which nothing is found."""
    predictor = LinearPredictor()
    predictor.weight, predictor.bias = torch.zeros_like(predictor.weight), torch.tensor([1.0, 0.0, 0.0])
    x = torch.full((1, 1, 4, 4), 0.3)
    found = CarliniWagnerLinf(**{"steps": 2, **settings}).run(predictor, x, torch.tensor([0]))
    return int(found.queries)


def _attacked_linf(**settings: Any) -> Found:
    predictor = LinearPredictor()
    return CarliniWagnerLinf(**settings).run(predictor, *_images(predictor))


def _first_step_linf(**settings: Any) -> float:
    """In half widths, which are 0.5."""
    predictor = LinearPredictor()
    x, y = _images(predictor)
    found = CarliniWagnerLinf(**settings).run(predictor, x, y, queries=2)
    assert found.success.any()
    return float(2 * (found.points - x)[found.success].abs().median())


def _black_and_white(predictor: LinearPredictor) -> tuple[Tensor, Tensor]:
    x = torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(0)).round()
    return x, predictor.logits(x).argmax(1)


def _saturated(**settings: Any) -> int:
    predictor = LinearPredictor()
    return int(CarliniWagnerLinf(**settings).run(predictor, *_black_and_white(predictor)).success.sum())


def _length(**settings: Any) -> float:
    _, x, _, found = _attacked(**settings)
    assert found.success.all()
    return float(norm_of(found.points - x, "L2").mean())


def _first_step(**settings: Any) -> float:
    _, x, _, found = _attacked(solver="adam", steps=2, searches=1, first_c=100.0, **settings)
    assert found.success.any()
    return _moved(x, found)


def _moved(x: Tensor, found: Found) -> float:
    """How far numbers of `w` are, in the middle."""
    moved = torch.atanh(2 * found.points - 1) - torch.atanh(2 * x - 1)
    return float(moved[found.success].abs().median())
