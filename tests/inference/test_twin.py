import pytest
import torch
from torch import nn

from mixbit.attacks import Pgd
from mixbit.data import InputSpace
from mixbit.errors import MixbitError
from mixbit.inference import TorchPredictor, TwinPredictor
from mixbit.testing.attacks import LinearPredictor


def test_an_attack_follows_the_twin_and_is_judged_by_the_network_itself() -> None:
    """A network in steps has no gradient; with those of its smooth twin it is attacked."""
    smooth = LinearPredictor()
    stepped = LinearPredictor(differentiable=False)
    logits = stepped.logits
    stepped.logits = lambda x: logits((x * 16).floor() / 16)  # type: ignore[method-assign]
    x = torch.full((1, 1, 4, 4), 0.5) + 0.05 * torch.randn(12, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    y = stepped.logits(x).argmax(1)
    attack = Pgd(eps=0.3, restarts=1)
    with pytest.raises(MixbitError, match="needs gradients"):
        attack.run(stepped, x, y)
    found = attack.run(TwinPredictor(stepped, smooth), x, y)
    assert found.success.all() and bool((stepped.logits(found.points).argmax(1) != y).all())
    # Judged by the twin alone it would have ended at other points.
    assert not torch.equal(attack.run(smooth, x, smooth.logits(x).argmax(1)).points, found.points)


def test_gradients_are_the_twins_to_the_bit() -> None:
    space = InputSpace.of_images(mean=(0.5,), std=(0.5,))
    torch.manual_seed(0)
    one, two = (TorchPredictor(nn.Sequential(nn.Flatten(), nn.Linear(9, 3)), space) for _ in range(2))
    twin, x = TwinPredictor(one, two), torch.rand(4, 1, 3, 3, requires_grad=True)
    weights = torch.randn(4, 3)
    wanted = torch.autograd.grad((two.logits(x) * weights).sum(), x)[0]
    assert torch.equal(torch.autograd.grad((twin.logits(x) * weights).sum(), x)[0], wanted)
    assert torch.equal(twin.logits(x), one.logits(x)) and twin.space == space and twin.differentiable
    with torch.no_grad():
        assert torch.equal(twin.logits(x), one.logits(x))


def test_twins_are_of_one_space_and_the_second_has_gradients() -> None:
    other = LinearPredictor(space=InputSpace.of_images(mean=(0.1,), std=(0.2,)))
    with pytest.raises(MixbitError, match="one input space"):
        TwinPredictor(LinearPredictor(), other)
    with pytest.raises(MixbitError, match="a twin needs gradients"):
        TwinPredictor(LinearPredictor(), LinearPredictor(differentiable=False))
