from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from mixbit.attacks import DeepFool, Found, norm_of
from mixbit.data import InputSpace
from mixbit.testing.attacks import AttackCases, LinearPredictor
from mixbit.testing.options import OptionCases, OptionRow, fields_of, higher, lower
from tests.attacks.seen import Curved, expects

HERE = "tests/attacks/test_deepfool.py"


class TestDeepFool(AttackCases):
    def make(self) -> DeepFool:
        return DeepFool()


class TestDeepFoolOptions(OptionCases):
    owner = DeepFool
    options = fields_of(DeepFool)
    rows = (
        OptionRow(
            "steps", (1, 50), seen=lambda value: int(_attacked(Curved(), steps=value).success.sum()), holds=higher
        ),
        OptionRow(
            "rivals", (1, None), seen=lambda value: _length(rivals=value), holds=lower, says="the nearest of more"
        ),
        OptionRow(
            "rivals",
            (1, 9),
            seen=lambda value: int(_attacked(LinearPredictor(), rivals=value).gradients.sum()),
            holds=expects(32, 64),
            says="a pass back for each of those that there are",
        ),
    )
    elsewhere: ClassVar = {"overshoot": f"{HERE}::test_goes_as_far_as_the_nearest_boundary_and_the_overshoot"}


@pytest.mark.parametrize("overshoot", [0.0, 0.02, 0.5])
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-3.0, 5.0)])
def test_goes_as_far_as_the_nearest_boundary_and_the_overshoot(overshoot: float, low: float, high: float) -> None:
    predictor = _uneven(space=InputSpace(bounds=(low, high)))
    x, y = _images(predictor)
    found = DeepFool(overshoot=overshoot).run(predictor, x, y)
    wanted = (1 + overshoot) * (predictor.distances(x, y, 2.0) + 1e-4 * (high - low))
    torch.testing.assert_close(norm_of(found.points - x, "L2"), wanted, rtol=1e-4, atol=2e-6)
    assert found.success.all() and found.queries.tolist() == [2] * len(x)
    enough = DeepFool(overshoot=overshoot).run(predictor, x, y, queries=2)
    assert torch.equal(enough.points, found.points)


def test_goes_on_where_logits_are_curved_and_ends_beside_the_boundary() -> None:
    predictor = Curved(classes=2)
    x, y = _images(predictor)
    found = DeepFool(overshoot=1e-3).run(predictor, x, y)
    far = LinearPredictor(classes=2).distances(x, y, 2.0)
    length = norm_of(found.points - x, "L2")
    assert found.success.all() and int(found.gradients.median()) >= 4
    assert bool((length >= far).all()) and float((length / far).median()) < 1.2


def test_goes_on_where_a_step_is_cut_at_the_bounds() -> None:
    predictor = LinearPredictor(classes=2)
    x = 0.5 + 0.49 * (predictor.weight[:1] - predictor.weight[1:]).sign().roll(1, -1)
    y = predictor.logits(x).argmax(1)
    found = DeepFool().run(predictor, x, y)
    assert found.success.all() and int(found.gradients) > 1
    assert float(norm_of(found.points - x, "L2")) > 1.02 * float(predictor.distances(x, y, 2.0))


def test_gives_the_image_itself_where_it_found_nothing() -> None:
    predictor = Curved()
    x, y = _images(predictor)
    found = DeepFool(steps=1, overshoot=0.0).run(predictor, x, y)
    assert int((~found.success).sum()) > 0
    assert torch.equal(found.points[~found.success], x[~found.success])
    assert bool((found.points[found.success] != x[found.success]).flatten(1).any(1).all())


def _uneven(**settings: Any) -> LinearPredictor:
    """Logits of unlike steepness: the nearest boundary is often not that of the second largest one."""
    predictor = LinearPredictor(**settings)
    predictor.weight[2] *= 3
    predictor.bias = -0.5 * predictor.weight.flatten(1).sum(1) + torch.tensor([0.0, 0.0, -20.0])
    return predictor


def _images(predictor: LinearPredictor) -> tuple[Tensor, Tensor]:
    x = 0.5 + 0.1 * torch.randn(32, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return x, predictor.logits(x).argmax(1)


def _attacked(predictor: LinearPredictor, **settings: Any) -> Found:
    x, y = _images(predictor)
    return DeepFool(**settings).run(predictor, x, y)


def _length(**settings: Any) -> float:
    x, _ = _images(_uneven())
    return float(norm_of(_attacked(_uneven(), **settings).points - x, "L2").sum())
