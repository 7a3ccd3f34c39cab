import pytest
import torch
from torch.nn import functional as F

from mixbit.attacks import alignment, density, estimated_gradients, exact_gradients
from mixbit.errors import MixbitError
from mixbit.testing.attacks import LinearPredictor

ALL = torch.arange(16)


def _images(count: int = 3) -> tuple[LinearPredictor, torch.Tensor, torch.Tensor]:
    predictor = LinearPredictor(scale=1.0)
    x = torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return predictor, x, torch.tensor([0, 1, 2])[:count]


def test_exact_gradients_are_the_closed_forms() -> None:
    predictor, x, y = _images()
    weight = predictor.weight.flatten(1)
    p = predictor.logits(x).softmax(1)
    assert torch.equal(exact_gradients(predictor, x, y).flatten(1), weight[y])
    entropy = p @ weight - weight[y]
    torch.testing.assert_close(exact_gradients(predictor, x, y, "cross-entropy").flatten(1), entropy)
    share = -p.gather(1, y[:, None]) * entropy
    torch.testing.assert_close(exact_gradients(predictor, x, y, "probability").flatten(1), share)


@pytest.mark.parametrize("value", ["logit", "probability", "cross-entropy"])
def test_estimates_are_the_exact_ones_where_the_network_is_smooth(value: str) -> None:
    predictor, x, y = _images()
    x[0, 0, 0, 0], x[1, 0, 0, 0] = 0.0, 1.0  # at the bounds there is one side alone
    chosen = torch.tensor([0, 3, 7, 15])
    found = estimated_gradients(predictor, x, y, step=1e-2, coordinates=chosen, value=value)
    wanted = exact_gradients(predictor, x, y, value).flatten(1)[:, chosen]
    torch.testing.assert_close(found, wanted, rtol=2e-2, atol=2e-3)


def test_an_integer_input_sees_nothing_of_less_than_half_a_step() -> None:
    predictor, x, y = _images()
    logits = predictor.logits
    predictor.logits = lambda z: logits((z * 255).round() / 255)  # type: ignore[method-assign]
    x = (x * 255).round().clamp(40, 200) / 255
    small = estimated_gradients(predictor, x, y, step=0.3 / 255, coordinates=ALL)
    assert density(small).zeros == 1.0 and density(small).all_zero == 1.0
    whole = estimated_gradients(predictor, x, y, step=1 / 255, coordinates=ALL)
    torch.testing.assert_close(whole, predictor.weight.flatten(1)[y], rtol=1e-2, atol=1e-2)
    # A step just over half a step is taken for a whole one: the estimate is nearly twice the gradient.
    half = estimated_gradients(predictor, x, y, step=0.51 / 255, coordinates=ALL)
    torch.testing.assert_close(half, whole / 0.51, rtol=1e-2, atol=1e-2)


def test_many_coordinates_come_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    from mixbit.attacks import gradients

    predictor, x, y = _images()
    whole = estimated_gradients(predictor, x, y, step=0.01, coordinates=ALL)
    monkeypatch.setattr(gradients, "_AT_ONCE", 5)
    assert torch.equal(estimated_gradients(predictor, x, y, step=0.01, coordinates=ALL), whole)


def test_alignment_is_the_cosine_and_the_signs_that_agree() -> None:
    random = torch.Generator().manual_seed(0)
    one, two = torch.randn(4, 2, 3, generator=random), torch.randn(4, 2, 3, generator=random)
    one[0, 0, 0] = 0
    found = alignment(one, two)
    torch.testing.assert_close(found.cosine, F.cosine_similarity(one.flatten(1).double(), two.flatten(1).double()))
    signs = (one.sign() == two.sign()).flatten(1)
    assert found.sign[0] == signs[0, 1:].double().mean() and found.sign[1] == signs[1].double().mean()
    assert found.mean_cosine == pytest.approx(float(found.cosine.mean()))
    same = alignment(one, 1e-30 * one)
    assert same.mean_sign == 1.0 and same.mean_cosine == pytest.approx(1.0)
    nothing = alignment(torch.zeros(2, 3), torch.ones(2, 3))
    assert nothing.mean_cosine == 0.0 and nothing.mean_sign != nothing.mean_sign
    some = alignment(torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
    assert some.mean_sign == 0.5 and some.mean_cosine == 0.0


def test_bad_input_is_named() -> None:
    predictor, x, y = _images()
    for step, chosen in ((0.0, ALL), (0.1, torch.tensor([16])), (0.1, torch.tensor([-1]))):
        with pytest.raises(MixbitError, match="0 to 15"):
            estimated_gradients(predictor, x, y, step=step, coordinates=chosen)
    with pytest.raises(MixbitError, match="exact_gradients needs gradients"):
        exact_gradients(LinearPredictor(differentiable=False), x, y)
    with pytest.raises(MixbitError, match="one shape"):
        alignment(x, x[:1])
