import math
from typing import Any

import pytest
import torch
from torch import Tensor

from mixbit.attacks import Apgd, ApgdT, Target, norm_of
from mixbit.attacks._streams import Streams
from mixbit.attacks.apgd import _Ascent
from mixbit.data import InputSpace
from mixbit.errors import MixbitError
from mixbit.testing.attacks import AttackCases, LinearPredictor
from mixbit.testing.options import OptionCases, OptionRow, fields_of, higher
from tests.attacks.seen import expects


class TestApgd(AttackCases):
    def make(self) -> Apgd:
        return Apgd(eps=0.25, steps=10)


class TestApgdL2(AttackCases):
    def make(self) -> Apgd:
        return Apgd(eps=0.9, steps=10, ball="L2", loss="dlr")


class TestApgdT(AttackCases):
    classes = 5

    def make(self) -> ApgdT:
        return ApgdT(eps=0.3, steps=10)


class TestApgdOptions(OptionCases):
    owner = Apgd
    options = fields_of(Apgd)
    rows = (
        OptionRow("eps", (0.01, 0.02), seen=lambda value: _farthest(eps=value), holds=expects(0.01, 0.02)),
        OptionRow("steps", (3, 5), seen=lambda value: _asked(steps=value), holds=expects(4, 6)),
        OptionRow("restarts", (1, 3), seen=lambda value: _asked(steps=4, restarts=value), holds=expects(5, 15)),
        OptionRow(
            "ball",
            ("L2", "Linf"),
            seen=lambda value: _corners(Apgd(eps=0.01, ball=value, steps=20)),
            holds=expects(0, 16),
        ),
        OptionRow("loss", ("cross-entropy", "dlr"), seen=lambda value: _sure(loss=value), holds=higher),
    )


class TestApgdTOptions(OptionCases):
    owner = ApgdT
    options = fields_of(ApgdT)
    rows = (
        OptionRow("eps", (0.01, 0.02), seen=lambda value: _farthest(ApgdT, eps=value), holds=expects(0.01, 0.02)),
        # One query more for the ranks of the classes.
        OptionRow("steps", (3, 5), seen=lambda value: _asked(ApgdT, steps=value), holds=expects(17, 25)),
        OptionRow("targets", (2, 9), seen=lambda value: _asked(ApgdT, steps=4, targets=value), holds=expects(11, 21)),
        OptionRow("restarts", (1, 2), seen=lambda value: _asked(ApgdT, steps=4, restarts=value), holds=expects(21, 41)),
        OptionRow(
            "ball",
            ("L2", "Linf"),
            seen=lambda value: _corners(ApgdT(eps=1e-3, ball=value, steps=20, targets=1)),
            holds=higher,
        ),
    )


@pytest.mark.parametrize(("ball", "dual"), [("Linf", 1.0), ("L2", 2.0)])
@pytest.mark.parametrize("kind", [Apgd, ApgdT])
def test_succeeds_exactly_where_the_ball_reaches_the_boundary(kind: Any, ball: str, dual: float) -> None:
    predictor = LinearPredictor(classes=5)
    x = (0.5 + 0.05 * torch.randn(40, 1, 4, 4, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    y = predictor.logits(x).argmax(1)
    far = predictor.distances(x, y, dual)
    eps = float(far.median()) * 1.001
    found = kind(eps=eps, steps=30, ball=ball).run(predictor, x, y)
    # Of five classes one step heads for one boundary; APGD-T tries each.
    reached, missed = far < 0.97 * eps, found.success & (far > eps)
    assert not missed.any() and int((reached & ~found.success).sum()) <= (0 if kind is ApgdT else 2)


class _Wavy:
    """A network that no point fools, whose loss has ups and downs; it keeps what it is asked, with gradients or not."""

    differentiable, name = True, "a wavy network"

    space = InputSpace(bounds=(0.0, 1.0))

    def __init__(self, waves: float = 9.0) -> None:
        self.weight = waves * torch.randn(3, 12, generator=torch.Generator().manual_seed(1))
        self.points: list[Tensor] = []

    def logits(self, x: Tensor) -> Tensor:
        self.points.append(x.detach().clone())
        return self.of(x)

    def of(self, x: Tensor) -> Tensor:
        waves = torch.sin((x.flatten(1)[:, None] * self.weight).sum(2))
        return waves + torch.tensor([2.5, 0.0, 0.0])


@pytest.mark.parametrize("ball", ["Linf", "L2"])
def test_a_start_is_algorithm_1_written_out(ball: str) -> None:
    """Every point of every image, with bounds that cut; from the first point on, which is random, at the edge."""
    steps, eps = (60, 0.3) if ball == "Linf" else (30, 0.7)  # steps of a sign forget rounding, others multiply it
    network = _Wavy(9.0 if ball == "Linf" else 2.0)
    x = torch.rand(6, 1, 3, 4, generator=torch.Generator().manual_seed(2))
    found = Apgd(eps=eps, steps=steps, ball=ball).run(network, x, torch.zeros(6, dtype=torch.int64))
    asked = torch.stack(network.points[1:-1])
    assert len(asked) == steps + 1 and found.gradients.tolist() == [steps] * 6
    for image in range(6):
        wanted = _ascent(network, x[image], asked[0, image], steps, eps, ball)
        torch.testing.assert_close(asked[:, image], wanted, rtol=0, atol=1e-4 if ball == "Linf" else 1e-3)
    gaps = torch.stack([network.of(points)[:, 0] - network.of(points)[:, 1:].amax(1) for points in asked])
    assert torch.equal(found.points, asked[gaps.argmin(0), torch.arange(6)])


def test_a_checkpoint_halves_by_either_condition() -> None:
    """Too few steps that raised the loss, or neither the step nor the best loss has changed since the last one."""
    x = torch.zeros(4, 1, 1, 1)
    target = Target(_Wavy(), torch.zeros(4, dtype=torch.int64))
    ascent = _Ascent(target, x, target.y, eps=0.5, steps=60, ball="Linf")
    state = ascent._begin(torch.arange(4), Streams(0, "apgd", range(4)))
    state.best = x + 9
    rounds = (
        ([7, 8, 10, 10], [1.0, 1.0, 1.0, 1.0], [True, False, False, False]),  # 7.5 of 10 must have raised it
        ([10, 10, 10, 7], [1.0, 1.0, 2.0, 2.0], [False, True, False, True]),  # the first one has a new step
        ([10, 10, 10, 10], [1.0, 1.0, 2.0, 2.0], [True, False, True, False]),
    )
    for raised, most, halved in rounds:
        before, state.points = state.length.clone(), x
        state.raised, state.most = torch.tensor(raised, dtype=torch.float32), torch.tensor(most)
        ascent._check(state, 10)
        assert (state.length < before).tolist() == halved == (state.points == 9).flatten().tolist()
        assert torch.equal(state.length, torch.where(torch.tensor(halved), before / 2, before))
        assert not state.raised.any()


def test_starts_are_at_the_edge_of_the_ball_and_differ() -> None:
    for ball, eps in (("Linf", 0.1), ("L2", 0.2)):
        network = _Wavy()
        x = torch.full((20, 1, 3, 4), 0.5)
        Apgd(eps=eps, steps=1, restarts=2, ball=ball).run(network, x, torch.zeros(20, dtype=torch.int64))
        first, second = network.points[1] - x, network.points[3] - x
        for start in (first, second):
            torch.testing.assert_close(norm_of(start, ball), torch.full((20,), eps))
            assert 0.4 < float((start > 0).float().mean()) < 0.6
        assert len({tuple(one) for one in torch.cat([first, second]).flatten(1).tolist()}) == 40


def test_each_target_is_the_next_likeliest_class() -> None:
    """The ratio of a class is largest in the walk that heads for it."""
    predictor, x, y = _pair()
    order = predictor.logits(x)[0].argsort(descending=True)[1:].tolist()
    asked: list[Tensor] = []
    whole = predictor.logits
    predictor.logits = lambda points: (asked.append(points.detach()), whole(points))[1]  # type: ignore[method-assign]
    ApgdT(eps=1e-3, steps=12).run(predictor, x, y)
    logits = whole(torch.cat(asked[2:-1])).view(4, 13, 5)  # before: what the base asks, and the ranks
    top = logits.sort(dim=2, descending=True).values
    ratios = (logits - logits[..., :1]) / (top[..., :1] - top[..., 2:4].mean(2, keepdim=True))
    assert ratios.amax(1)[:, order].argmax(0).tolist() == [0, 1, 2, 3] and int(y) == 0


def test_ratios_need_three_and_four_classes() -> None:
    x = torch.full((1, 1, 4, 4), 0.6)
    for attack, classes in ((Apgd(loss="dlr"), 3), (ApgdT(), 4)):
        predictor = LinearPredictor(classes=classes - 1)
        with pytest.raises(
            MixbitError, match=f"needs {classes} classes or more, and a linear network has {classes - 1}"
        ):
            attack.run(predictor, x, predictor.logits(x).argmax(1))
        enough = LinearPredictor(classes=classes)
        attack.run(enough, x, enough.logits(x).argmax(1))


def _ascent(network: _Wavy, x: Tensor, start: Tensor, steps: int, eps: float, ball: str) -> Tensor:
    """Algorithm 1 of the paper for one image: all points that it comes to."""

    def loss_and_gradient(point: Tensor) -> tuple[float, Tensor]:
        point = point.clone().requires_grad_()
        loss = -network.of(point[None]).log_softmax(1)[0, 0]
        return loss.item(), torch.autograd.grad(loss, point)[0]

    def cut(point: Tensor) -> Tensor:
        delta = point - x
        if ball == "Linf":
            return (x + delta.clamp(-eps, eps)).clamp(0, 1)
        return (x + delta * min(1.0, eps / float(delta.norm()))).clamp(0, 1)

    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    checks = [math.ceil(round(share * steps, 6)) for share in shares]
    points, before, eta = [start], start, 2 * eps
    values, best, best_loss = [], start, -math.inf
    eta_then, best_then = eta, -math.inf
    for at in range(steps):
        loss, gradient = loss_and_gradient(points[-1])
        now = points[-1]
        values.append(loss)
        if loss > best_loss:
            best, best_loss = now, loss
        if at in checks[1:]:
            since = checks[checks.index(at) - 1]
            raised = sum(values[one + 1] > values[one] for one in range(since, at))
            halve = raised < 0.75 * (at - since) or (eta == eta_then and best_loss <= best_then)
            eta_then, best_then = eta, best_loss
            if halve:
                eta, now = eta / 2, best
                gradient = loss_and_gradient(best)[1]
        moved = cut(now + eta * (gradient.sign() if ball == "Linf" else gradient / gradient.norm()))
        if at:
            moved = cut(now + 0.75 * (moved - now) + 0.25 * (now - before))
        before = now
        points.append(moved)
    return torch.stack(points)


def _pair(classes: int = 5) -> tuple[LinearPredictor, Tensor, Tensor]:
    predictor = LinearPredictor(classes=classes)
    x = torch.full((1, 1, 4, 4), 0.5) + 0.05 * predictor.weight[0].sign()
    return predictor, x, predictor.logits(x).argmax(1)


def _farthest(kind: Any = Apgd, **settings: Any) -> float:
    predictor, x, y = _pair()
    return float(norm_of(kind(**{"steps": 10, **settings}).run(predictor, x, y).points - x, "Linf").max())


def _asked(kind: Any = Apgd, **settings: Any) -> int:
    predictor, x, y = _pair()
    return int(kind(**{"eps": 1e-4, **settings}).run(predictor, x, y).queries.sum())


def _corners(attack: Any) -> int:
    """Pixels that moved as far as the radius."""
    predictor, x, y = _pair(2 if isinstance(attack, Apgd) else 5)
    return int(((attack.run(predictor, x, y).points - x).abs() > 0.999 * attack.eps).sum())


def _sure(**settings: Any) -> float:
    """Successes on a network whose cross-entropy is 0 in float32."""
    predictor = LinearPredictor(scale=3000.0)
    x = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    y = predictor.logits(x).argmax(1)
    return float(Apgd(eps=0.3, steps=20, **settings).run(predictor, x, y).success.sum())
