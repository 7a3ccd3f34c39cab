import pytest
import torch

from mixbit.attacks import Pgd, classes_of, transfer_matrix
from mixbit.errors import MixbitError
from mixbit.testing.attacks import LinearPredictor


def test_a_share_is_of_images_that_both_have_right() -> None:
    right = {"a": [True, True, True, False, True], "b": [True, True, False, True, True], "c": [False] * 5}
    fooled = [True, False, True, True, True]
    wrong = {(one, other): fooled for one in ("a", "b") for other in right}
    found = transfer_matrix(right, wrong)
    assert found.sources == ("a", "b") and found.targets == ("a", "b", "c")
    shares = [[None if one is None else one.value for one in row] for row in found.shares]
    assert shares == [[0.75, pytest.approx(2 / 3), None], [pytest.approx(2 / 3), 0.75, None]]
    assert found.images == ((4, 3, 0), (3, 4, 0))
    middle = found.share("a", "b")
    assert middle is not None and middle.low < middle.value < middle.high
    with pytest.raises(MixbitError, match="points of b were not tried on c"):
        transfer_matrix(right, {pair: flags for pair, flags in wrong.items() if pair != ("b", "c")})


def test_points_of_one_network_fool_one_that_is_near() -> None:
    """Points far behind the boundary of a linear network fool it with a little noise on its weights as well."""
    first, near = LinearPredictor(), LinearPredictor(differentiable=False)
    near.weight = near.weight + 0.1 * torch.randn(near.weight.shape, generator=torch.Generator().manual_seed(0))
    x = (0.5 + 0.1 * torch.randn(20, 1, 4, 4, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    y = first.logits(x).argmax(1)
    points = Pgd(eps=0.2, restarts=1, early=False).run(first, x, y).points
    assert (classes_of(first, points) != y).all() and int((classes_of(near, points) != y).sum()) > 15
    assert torch.equal(classes_of(near, x), near.logits(x).argmax(1))
    near.bias = torch.full((3,), torch.nan)
    with pytest.raises(MixbitError, match="NaN"):
        classes_of(near, points)
    with pytest.raises(MixbitError, match="two classes"):
        classes_of(LinearPredictor(classes=1), points)
