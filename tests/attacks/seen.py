"""What rows of options of attacks ask."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mixbit.attacks import Attack, Found
from mixbit.export import ExecutorPredictor
from mixbit.testing.attacks import LinearPredictor
from mixbit.testing.predictors import PredictorCases
from tests.inference import seen


def expects(first: float, second: float) -> Callable[[float, float], bool]:
    """Whether the two are these numbers, up to float32's rounding."""
    return lambda one, other: (one, other) == pytest.approx((first, second), rel=1e-4)


def integers(images: int = 6) -> tuple[ExecutorPredictor, Tensor, Tensor]:
    """An integer network, images of whole pixels, and the classes that it gives them."""
    cases = PredictorCases()
    cases.shape = seen.SHAPE
    predictor = ExecutorPredictor(seen.graph(cases.space()), cases.space())
    x = cases.inputs(images)
    return predictor, x, predictor.logits(x).argmax(1)


def fools_integers(attack: Attack, images: int = 6) -> Found:
    """Attack them; whatever succeeded is what the integers themselves call wrong, and something did."""
    predictor, x, y = integers(images)
    found = attack.run(predictor, x, y)
    wrong = predictor.logits(found.points).argmax(1) != y
    assert torch.equal(found.success, wrong) and bool(wrong.any())
    assert not found.gradients.any()
    return found


class Curved(LinearPredictor):
    """The linear network with `sinh` of its logits, which leaves the boundaries where they are."""

    def logits(self, x: Tensor) -> Tensor:
        return LinearPredictor.logits(self, x).sinh()
