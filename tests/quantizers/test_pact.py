"""PACT: the clip's gradient, start and decay."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mixbit.errors import MixbitError
from mixbit.quantizers import Pact, find_rule
from mixbit.testing.quantizers import QuantizerCases


class TestContract(QuantizerCases):
    def make(self, bits: int, signed: bool) -> nn.Module:
        return Pact([bits], signed=False, batched=True, alpha=1.0)

    def cases(self) -> list[tuple[int, bool]]:
        return [(bits, False) for bits in self.widths]


def inputs(seed: int = 0) -> Tensor:
    return torch.randn(8, 3, 5, generator=torch.Generator().manual_seed(seed)).abs() * 2


def formula(x: Tensor, alpha: Tensor, bits: int) -> Tensor:
    """Clip, then round; rounding passes gradients straight through, also to the clip where the clip is what is left."""
    n = 2**bits - 1
    y = torch.where(x >= alpha, alpha, x.clamp(min=0))
    step = alpha.detach() / n
    return y + (torch.round(y / step) * step - y).detach()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_gradient_of_the_clip_is_one_where_it_clips(bits: int) -> None:
    quantizer, x, up = Pact([bits], signed=False, alpha=1.5), inputs().requires_grad_(), inputs(1)
    y = quantizer(x)
    (y * up).sum().backward()
    w, alpha = inputs().requires_grad_(), torch.tensor([1.5], requires_grad=True)
    (formula(w, alpha, bits) * up).sum().backward()
    torch.testing.assert_close(y, formula(w, alpha, bits))
    assert alpha.grad is not None and quantizer.steps.grad is not None
    torch.testing.assert_close(alpha.grad, up[inputs() >= 1.5].sum().view(1))
    # d alpha = n d s, and the factor 1 / n^2 of the class
    torch.testing.assert_close(quantizer.steps.grad.flatten() * (2**bits - 1), alpha.grad)
    assert torch.equal(x.grad, w.grad)  # type: ignore[arg-type]


def test_on_the_clip_itself_the_clip_gets_the_gradient() -> None:
    """PACT's formula says `x >= alpha`; the input gets none there, nor at zero and below."""
    quantizer = Pact([2], signed=False, alpha=1.5)
    x = torch.tensor([-1.0, 0.0, 0.25, 0.5, 1.25, 1.5, 1.75, 9.0], requires_grad=True)
    up = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0])
    y = quantizer(x)
    y.backward(up)
    assert y.tolist() == [0.0, 0.0, 0.0, 0.5, 1.0, 1.5, 1.5, 1.5]  # 0.25 and 1.25 are ties, to the even level
    assert x.grad is not None and quantizer.steps.grad is not None
    assert x.grad.tolist() == [0, 0, 4, 8, 16, 0, 0, 0]
    assert quantizer.steps.grad.item() == pytest.approx((32 + 64 + 128) / 3)


def test_settings_are_kept() -> None:
    quantizer = Pact([4], signed=False, alpha=2.0, decay=0.125)
    assert (quantizer.alpha, quantizer.decay) == (2.0, 0.125)
    assert quantizer.ready.all() and not Pact([4], signed=False).ready.any()
    assert Pact([4], signed=False).decay == 0


def test_a_given_clip_is_the_same_at_every_bit_width_after_calibration() -> None:
    """Batch by batch too, where the rule finds other steps."""
    quantizer = Pact([4, 2], signed=False, batched=True, alpha=3.0)
    quantizer.rule = find_rule("minmax")
    for bits in (4, 2):
        quantizer.select(bits)
        for seed in (0, 1):
            quantizer(inputs(seed))
    torch.testing.assert_close(quantizer.steps.detach().flatten(), torch.tensor([3 / 15, 3 / 3]))


def test_sgd_on_the_step_is_sgd_on_the_clip() -> None:
    quantizer, alpha = Pact([3], signed=False, alpha=1.5), torch.tensor([1.5], requires_grad=True)
    settings = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.02}
    ours, theirs = torch.optim.SGD([quantizer.steps], **settings), torch.optim.SGD([alpha], **settings)  # type: ignore[arg-type]
    for seed in range(5):
        for optimizer, y in ((ours, quantizer(inputs(seed))), (theirs, formula(inputs(seed), alpha, 3))):
            optimizer.zero_grad()
            y.mean().backward()
            optimizer.step()
    clip = quantizer.steps.detach().flatten() * 7
    torch.testing.assert_close(clip, alpha.detach())
    assert abs(float(clip) - 1.5) > 0.01


def test_the_value_is_the_same_with_gradients_and_without() -> None:
    quantizer = Pact([4], signed=False, alpha=1.7)
    learned = quantizer(inputs())
    with torch.no_grad():
        assert torch.equal(quantizer(inputs()), learned)
    quantizer.steps.requires_grad_(False)
    assert torch.equal(quantizer(inputs()), learned)


def test_nan_stays_visible() -> None:
    """A diverged network must not look healthy behind a clip."""
    x = torch.tensor([float("nan"), 1.0])
    assert Pact([4], signed=False, alpha=1.0)(x).isnan().tolist() == [True, False]


def test_given_clip_is_not_calibrated_and_none_is() -> None:
    given, free = Pact([4, 2], signed=False, alpha=3.0), Pact([4, 2], signed=False)
    for quantizer in (given, free):
        quantizer.initialise(inputs(), find_rule("minmax"))
    torch.testing.assert_close(given.steps.detach(), torch.tensor([[3 / 15], [3 / 3]]))
    torch.testing.assert_close(free.steps.detach().flatten() * torch.tensor([15, 3]), inputs().max().expand(2))


@pytest.mark.parametrize(
    ("settings", "match"),
    [({"alpha": 0.0}, "alpha=0.0"), ({"alpha": float("inf")}, "alpha=inf"), ({"decay": -1.0}, "decay=-1.0")],
)
def test_illegal_settings(settings: dict[str, float], match: str) -> None:
    with pytest.raises(MixbitError, match=match):
        Pact([4], signed=False, **settings)  # type: ignore[arg-type]


def test_signed_is_refused() -> None:
    with pytest.raises(MixbitError, match="clips at zero"):
        Pact([4], signed=True)


def test_bf16_inputs() -> None:
    quantizer = Pact([4], signed=False, alpha=1.5)
    y = quantizer(inputs().bfloat16())
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), quantizer(inputs().bfloat16().float()), atol=0.01, rtol=0.01)


def test_compiles_to_the_same_numbers_and_gradients() -> None:
    grads = []
    for compiled in (False, True):
        quantizer = Pact([4], signed=False, alpha=1.5)
        run = torch.compile(quantizer, backend="aot_eager") if compiled else quantizer
        run(inputs()).square().sum().backward()
        grads.append(quantizer.steps.grad)
    torch.testing.assert_close(grads[0], grads[1])
