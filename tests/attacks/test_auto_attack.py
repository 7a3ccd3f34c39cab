from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mixbit.attacks import AutoAttack, Found, norm_of
from mixbit.runs._attack_pieces import Pieces
from mixbit.testing.attacks import AttackCases, LinearPredictor
from mixbit.testing.options import OptionCases, OptionRow, fields_of, higher
from tests.attacks.seen import expects


class TestAutoAttack(AttackCases):
    images = 4

    def make(self) -> AutoAttack:
        return AutoAttack(eps=0.25, steps=6, queries=40)


class TestAutoAttackL2(AttackCases):
    images = 4
    classes = 5

    def make(self) -> AutoAttack:
        return AutoAttack(eps=0.9, steps=6, queries=40, ball="L2")


class TestAutoAttackOptions(OptionCases):
    owner = AutoAttack
    options = fields_of(AutoAttack)
    rows = (
        OptionRow("eps", (0.001, 0.3), seen=lambda value: _attacked(eps=value).success.sum(), holds=higher),
        # The image, APGD, APGD-T and FAB with a query for their ranks, Square, and what came of each but FAB, whose
        # points are beyond the radius.
        OptionRow("steps", (3, 4), seen=lambda value: _asked(steps=value), holds=expects(84, 97)),
        OptionRow("targets", (1, 9), seen=lambda value: _asked(targets=value), holds=expects(54, 84)),
        OptionRow("queries", (20, 30), seen=lambda value: _asked(queries=value), holds=expects(74, 84)),
        OptionRow("ball", ("L2", "Linf"), seen=lambda value: _length(ball=value), holds=expects(0.001, 0.004)),
    )


def test_the_first_part_that_breaks_an_image_is_named() -> None:
    found = _attacked(eps=0.3)
    assert found.success.all() and found.by == ("apgd",) * 8
    assert int(found.queries.max()) < 10  # and no other is begun
    assert _attacked(eps=1e-5).by == ("",) * 8


def test_batches_that_are_joined_say_it_of_every_image() -> None:
    parts = [_attacked(eps=eps) for eps in (0.3, 1e-5)]
    both = Found.joined(parts)
    assert both.by == ("apgd",) * 8 + ("",) * 8
    for name in ("points", "right", "success", "queries", "gradients"):
        assert torch.equal(getattr(both, name), torch.cat([getattr(part, name) for part in parts]))


def test_a_ledger_keeps_it(tmp_path: Path) -> None:
    found = _attacked(eps=0.3)
    for _ in range(2):
        pieces = Pieces(tmp_path, {})
        assert pieces.attack("key", "auto-attack", lambda: found).by == found.by


def test_what_a_part_cannot_do_the_next_one_does() -> None:
    """Where the network is sure the cross-entropy has no gradient; where it is flat nothing has."""
    for network, part in (
        (LinearPredictor(classes=5, scale=1e6), "apgd-t"),
        (LinearPredictor(classes=3, scale=1e6), "fab"),
        (_Flat(classes=3, scale=1e6), "square"),
    ):
        x = 0.5 + 0.05 * network.weight.sign()
        found = AutoAttack(eps=0.06, steps=6, queries=200).run(network, x, network.logits(x).argmax(1))
        assert set(found.by) == {part} and found.success.all()


@pytest.mark.parametrize(("ball", "dual"), [("Linf", 1.0), ("L2", 2.0)])
def test_what_fab_finds_beyond_the_radius_does_not_count(ball: Any, dual: float) -> None:
    predictor = LinearPredictor(scale=1e6)
    x = _images()
    y = predictor.logits(x).argmax(1)
    far = predictor.distances(x, y, dual)
    eps = float(far.median()) * 1.01
    found = AutoAttack(eps=eps, steps=3, queries=5, ball=ball).run(predictor, x, y)
    assert torch.equal(found.success, far < eps / 1.001)
    assert float(norm_of(found.points - x, ball).max()) <= eps * (1 + 1e-5)
    # Of the others the worst point is given, which is not the image.
    assert bool((norm_of(found.points - x, ball)[~found.success] > 0).all())


def test_a_limit_ends_it_in_any_part() -> None:
    whole = _attacked(LinearPredictor(classes=5, scale=1e6), eps=0.01)
    for limit in (1, 2, 3, 4, 5, 6, 9, 20, 30, 40, 50):
        found = _attacked(LinearPredictor(classes=5, scale=1e6), eps=0.01, limit=limit)
        assert int(found.queries.max()) <= limit < int(whole.queries.max())


class _Flat(LinearPredictor):
    """The same network, without a slope."""

    def logits(self, x: Tensor) -> Tensor:
        found = super().logits(x)
        return found.detach() + 0 * x.flatten(1).sum(1, keepdim=True)


def _images() -> Tensor:
    return (0.5 + 0.05 * torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(2))).clamp(0, 1)


def _attacked(predictor: LinearPredictor | None = None, *, limit: int | None = None, **settings: Any) -> Found:
    predictor = predictor or LinearPredictor(classes=5)
    x = _images()
    attack = AutoAttack(**{"steps": 3, "queries": 30, **settings})
    return attack.run(predictor, x, predictor.logits(x).argmax(1), queries=limit)


def _asked(**settings: Any) -> int:
    return int(_attacked(eps=1e-5, **settings).queries.max())


def _length(**settings: Any) -> float:
    predictor = LinearPredictor(classes=5)
    x = _images()
    attack = AutoAttack(eps=0.001, steps=9, queries=30, **settings)
    found = attack.run(predictor, x, predictor.logits(x).argmax(1))
    return float(norm_of(found.points - x, "L2").max())
