from typing import Any

import pytest
import torch
from torch import Tensor

from mixbit.attacks import Zoo, norm_of
from mixbit.attacks._objectives import margin
from mixbit.attacks._target import Target
from mixbit.testing.attacks import AttackCases, LinearPredictor
from mixbit.testing.options import OptionCases, OptionRow, fields_of, higher, lower
from tests.attacks.seen import expects, fools_integers


class TestZoo(AttackCases):
    images = 4

    def make(self) -> Zoo:
        return Zoo(steps=10, c=1.0, rounds=2)


class TestZooOptions(OptionCases):
    owner = Zoo
    options = fields_of(Zoo)
    rows = (
        OptionRow("steps", (1, 3), seen=lambda value: _asked(steps=value), holds=expects(33, 99)),
        OptionRow("coordinates", (128, 3), seen=lambda value: _asked(coordinates=value), holds=expects(33, 7)),
        OptionRow("lr", (0.001, 0.003), seen=lambda value: _moves(lr=value), holds=expects(0.001, 0.003)),
        OptionRow("step", (None, 0.1), seen=lambda value: _probed(step=value), holds=expects(1 / 255, 0.1)),
        OptionRow("c", (1e-6, 100.0), seen=lambda value: _found(steps=20, c=value), holds=expects(0, 1)),
        OptionRow("rounds", (1, 2), seen=lambda value: _asked(rounds=value), holds=expects(33, 66)),
        OptionRow("confidence", (0.0, 2.0), seen=lambda value: _behind(confidence=value), holds=higher),
        OptionRow("block", (1, 2), seen=lambda value: _colours(block=value), holds=lower),
    )


def test_finds_the_nearest_point_of_a_linear_network() -> None:
    predictor = LinearPredictor(differentiable=False)
    x, y = _images(predictor)
    found = Zoo(steps=100, rounds=6, c=0.01, lr=0.005).run(predictor, x, y)
    ratio = norm_of(found.points - x, "L2") / predictor.distances(x, y, 2.0)
    assert found.success.all() and float(ratio.min()) > 0.999 and float(ratio.median()) < 1.05


class Rounded(LinearPredictor):
    """The linear network behind an input of whole pixels of 8 bits."""

    def logits(self, x: Tensor) -> Tensor:
        return LinearPredictor.logits(self, (x * 255).round() / 255)


def test_differences_must_be_seen_by_a_quantized_input() -> None:
    predictor = Rounded(differentiable=False)
    x, y = _images(predictor)
    x = (x * 255).round() / 255
    blind = Zoo(step=1e-4, c=1.0, steps=20).run(predictor, x, y)
    assert not blind.success.any() and torch.equal(blind.points, x) and blind.queries.all()
    for step in (None, 1 / 255, 8 / 255):
        assert Zoo(step=step, c=1.0, steps=20).run(predictor, x, y).success.all()


@pytest.mark.parametrize("block", [1, 2, 3])
@pytest.mark.parametrize("confidence", [0.0, 50.0])
def test_slopes_are_the_gradient_of_the_objective(block: int, confidence: float) -> None:
    predictor = LinearPredictor()
    x, y = _images(predictor)
    attack, target = Zoo(block=block, confidence=confidence), Target(predictor, y)
    side = -(-4 // block)
    size = side * side
    moved = 0.02 * torch.randn(len(x), size, generator=torch.Generator().manual_seed(0))
    c = torch.linspace(0.5, 2.0, len(x))
    rows = torch.tensor([3, 0, 5])
    drawn = torch.stack([torch.randperm(size, generator=torch.Generator().manual_seed(at))[:4] for at in range(3)])
    found = attack._slopes(target, x, moved, c, (rows[:, None], drawn), 1e-3)
    assert int(target.queries.sum()) == 2 * drawn.numel()
    variable = moved[rows].clone().requires_grad_()
    delta = variable.view(3, 1, side, side)
    delta = delta.repeat_interleave(block, 2).repeat_interleave(block, 3)[..., :4, :4]
    hinge = margin(predictor.logits(x[rows] + delta), y[rows]).clamp_min(-confidence)
    (delta.flatten(1).square().sum(1) + c[rows] * hinge).sum().backward()
    assert variable.grad is not None
    torch.testing.assert_close(found, variable.grad.gather(1, drawn), rtol=1e-2, atol=1e-2)


def test_each_coordinate_is_moved_by_an_adam_of_its_own() -> None:
    """The distance's part of the gradient changes from step to step, as much as the other part is."""
    predictor = _Recorder()
    x = (0.5 + 0.3 * predictor.weight[:1].sign()).repeat(2, 1, 1, 1)
    x[1, 0, 0] = 0.5
    y = predictor.logits(x).argmax(1)
    predictor.points = []
    found = Zoo(steps=4, rounds=1, c=0.01, lr=0.02, step=1e-2).run(predictor, x, y)
    assert not found.success.any()  # where one is found, Adam begins anew
    walked = [points for points in predictor.points if len(points) == len(x)][1:-1]
    variable = x.clone().requires_grad_()
    adam = torch.optim.Adam([variable], lr=0.02)
    assert len(walked) == 4
    for points in walked:
        adam.zero_grad()
        ((variable - x).square().sum() + 0.01 * margin(predictor.logits(variable), y).sum()).backward()
        adam.step()
        torch.testing.assert_close(points, variable.detach(), rtol=0, atol=5e-5)


def test_adam_begins_anew_where_a_point_is_found() -> None:
    """Else the way back from behind the boundary is as long as its momentum."""
    predictor = _Recorder()
    x, y = _images(predictor, 1)
    predictor.points = []
    found = Zoo(steps=40, rounds=1, c=100.0, lr=0.01).run(predictor, x, y)
    walked = torch.cat([points for points in predictor.points if len(points) == 1][1:-1])
    wrong = predictor.logits(walked).argmax(1) != y
    first = int(wrong.nonzero()[0])
    step = walked[first + 1] - walked[first]
    torch.testing.assert_close(step.abs(), torch.full_like(step, 0.01), rtol=1e-2, atol=1e-4)
    assert bool(((step * (x[0] - walked[first])) > 0).all())  # straight back
    assert float(norm_of(found.points - x, "L2")) == float(
        norm_of(walked[wrong] - x, "L2").min()
    )  # of all, the nearest


def test_a_step_is_asked_for_whole_and_within_the_bounds() -> None:
    predictor = _Recorder()
    x = (0.5 + 0.5 * predictor.weight[:1].sign()).clamp(0.02, 0.98)
    y = predictor.logits(x).argmax(1)
    assert Zoo().run(predictor, x, y, queries=32).queries.tolist() == [0]
    predictor.points = []
    assert Zoo(step=0.1).run(predictor, x, y, queries=33).queries.tolist() == [33]
    asked = torch.cat(predictor.points)
    assert float(asked.min()) == 0 and float(asked.max()) == 1


def test_the_weight_of_the_margin_is_searched() -> None:
    weights: list[Tensor] = []

    class Noted(Zoo):
        __slots__ = ()

        def _descend(self, target: Target, x: Tensor, c: Tensor, best: Tensor, length: Tensor, streams: Any) -> Tensor:
            weights.append(c.clone())
            return torch.tensor([False, len(weights) == 2, True])

    predictor = LinearPredictor(differentiable=False)
    x, y = _images(predictor, 3)
    Noted(rounds=4, c=1.0).run(predictor, x, y)
    torch.testing.assert_close(
        torch.stack(weights), torch.tensor([[1, 1, 1], [10, 10, 0.5], [100, 5.5, 0.25], [1000, 7.75, 0.125]])
    )


def test_integers_are_attacked_as_they_are() -> None:
    fools_integers(Zoo(steps=6, rounds=1, c=1.0, lr=0.05, step=8 / 255), images=3)


class _Recorder(LinearPredictor):
    """Keeps the points that it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.points: list[Tensor] = []

    def logits(self, x: Tensor) -> Tensor:
        self.points.append(x.detach())
        return LinearPredictor.logits(self, x)


def _images(predictor: LinearPredictor, count: int = 6) -> tuple[Tensor, Tensor]:
    x = 0.5 + 0.1 * torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    return x.clamp(0, 1), predictor.logits(x.clamp(0, 1)).argmax(1)


def _run(**settings: Any) -> tuple[_Recorder, Tensor, Tensor]:
    predictor = _Recorder()
    x, y = _images(predictor, 1)
    predictor.points = []
    found = Zoo(**{"steps": 1, "rounds": 1, "c": 1.0, **settings}).run(predictor, x, y)
    return predictor, x, found.queries


def _asked(**settings: Any) -> int:
    return int(_run(**settings)[2].sum())


def _moves(**settings: Any) -> float:
    """The first step of Adam is as long as its rate."""
    predictor, x, _ = _run(**settings)
    return float((predictor.points[2] - x).abs().median())


def _probed(**settings: Any) -> float:
    predictor, x, _ = _run(**settings)
    return float(norm_of(predictor.points[1] - x, "Linf").median())


def _found(**settings: Any) -> int:
    predictor, x, _ = _run(**settings)
    y = predictor.logits(x).argmax(1)
    return int(Zoo(**{"rounds": 1, **settings}).run(predictor, x, y).success.sum())


def _behind(**settings: Any) -> float:
    """How sure the network comes to be of another class."""
    predictor, x, _ = _run(steps=60, c=100.0, **settings)
    y = predictor.logits(x).argmax(1).expand(len(predictor.points[-2]))
    walked = torch.cat([points for points in predictor.points[20:-2] if len(points) == 1])
    return -float(margin(predictor.logits(walked), y[:1].expand(len(walked))).median())


def _colours(**settings: Any) -> int:
    """Different movements in a step."""
    predictor, x, _ = _run(step=0.1, **settings)
    return len(torch.unique((predictor.points[1] - x).flatten(1).abs().gt(0.01), dim=0))
