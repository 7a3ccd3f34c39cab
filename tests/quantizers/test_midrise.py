"""The grid without a zero level, learned by its step and by its clip."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mixbit.quantizers import LsqClip, MidRise, Quantizer, find_rule
from tests.quantizers.formulas import eighths, lsq


def weights(seed: int = 0, shape: tuple[int, ...] = (4, 3, 5)) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def made(kind: type[Quantizer], bits: int = 3, rule: str = "minmax", **kwargs: object) -> Quantizer:
    quantizer = kind([bits], signed=True, **kwargs)  # type: ignore[arg-type]
    quantizer.initialise(weights(), find_rule(rule))
    return quantizer


def from_minus_alpha(w: Tensor, alpha: Tensor, bits: int) -> Tensor:
    """The authors' own form, with the gradient passed straight through its rounding."""
    step = 2 * alpha / (2**bits - 1)
    t = ((w + alpha) / step).clamp(0, 2**bits - 1)
    return (t + (t.round() - t).detach()) * step - alpha


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_levels_are_symmetric_and_none_is_zero(bits: int) -> None:
    quantizer = made(MidRise, bits)
    with torch.no_grad():
        quantizer.steps.fill_(1.0)
    levels = quantizer(torch.linspace(-300, 300, 60001)).detach().unique()
    wanted = torch.arange(2**bits) - (2**bits - 1) / 2
    assert torch.equal(levels, wanted)
    assert torch.equal(quantizer(quantizer(levels)), levels)


def test_zero_goes_to_the_positive_side() -> None:
    for bits in (2, 3, 4, 8):
        assert made(MidRise, bits)(torch.zeros(1)).item() > 0


def test_minmax_reaches_the_largest_weight() -> None:
    quantizer = made(MidRise, 4)
    torch.testing.assert_close(quantizer(weights()).abs().max(), weights().abs().max())


def test_mse_is_never_worse_than_minmax() -> None:
    for bits in (2, 4, 8):
        errors = [
            float((made(MidRise, bits, rule)(weights()) - weights()).square().sum()) for rule in ("mse", "minmax")
        ]
        assert errors[0] <= errors[1]


def test_lsq_rule_doubles_from_bit_to_bit() -> None:
    bank = MidRise([4, 3, 2], signed=True)
    bank.initialise(weights(), find_rule("lsq+"))
    torch.testing.assert_close(bank.steps[1:] / bank.steps[:-1], torch.full((2, 1), 2.0))


def test_gradient_is_that_of_the_straight_through_estimator() -> None:
    w, alpha = weights().requires_grad_(), torch.tensor([0.9], requires_grad=True)
    up = weights(1)
    (from_minus_alpha(w, alpha, 3) * up).sum().backward()
    quantizer, x = MidRise([3], signed=True, gradient_scale="none"), weights().requires_grad_()
    with torch.no_grad():
        quantizer.steps.fill_(0.9 / 3.5)
    y = quantizer(x)
    (y * up).sum().backward()
    torch.testing.assert_close(y, from_minus_alpha(w, alpha, 3))
    assert x.grad is not None and w.grad is not None and alpha.grad is not None and quantizer.steps.grad is not None
    torch.testing.assert_close(x.grad, w.grad)
    torch.testing.assert_close(quantizer.steps.grad.flatten() / 3.5, alpha.grad)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", [MidRise, LsqClip])
def test_gradients_inside_at_and_beyond_the_clip(kind: type[Quantizer], channels: int) -> None:
    """LSQ's on the grid that is moved by half a step, which moves with the step; every tie and both ends are met."""
    quantizer = kind([3], signed=True, channels=channels)
    step = torch.tensor([0.5, 1.0, 0.25])[:channels]
    with torch.no_grad():
        quantizer.steps.copy_(step)
    slopes = step[:, None] if channels > 1 else step
    x = ((torch.arange(-8 * 6, 8 * 6 + 1) / 8).repeat(3, 1) * slopes).requires_grad_()
    up = eighths((3, 97), 1)
    y = quantizer(x)
    y.backward(up)
    out, passed, by_step, _ = lsq(x.detach() - slopes / 2, up, step, -4, 3)
    half = slopes / 2
    if kind is LsqClip:  # an element on the clip is inside there: it passes its gradient, and asks nothing of the step
        ends = (x.detach().abs() == 3.5 * slopes).expand_as(up)
        passed = torch.where(ends, up.double(), passed)
        asked = torch.where(ends, torch.where(x.detach() < 0, -4.0, 3.0) * up, 0.0)
        by_step = by_step - asked.double().reshape(channels, -1).sum(dim=1)
    # y = Q(x - s/2) + s/2: the argument's part of dy/ds is -1/2 where Q passes gradients on, and s/2's own is 1/2.
    by_step = by_step + (up.double() - passed).reshape(channels, -1).sum(dim=1) / 2
    count = 3 * 97 // channels
    factor = 3.5**-2 if kind is LsqClip else (count * 3.5) ** -0.5
    assert x.grad is not None and quantizer.steps.grad is not None
    assert torch.equal(y.detach().double(), out + half) and torch.equal(x.grad.double(), passed)
    torch.testing.assert_close(quantizer.steps.grad[0].double(), by_step * factor, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bits", [2, 4])
def test_rules_are_their_formulas_on_this_grid(bits: int) -> None:
    """By brute force over the levels `(k + 1/2) s`; rows whose largest magnitude is below zero, and outliers."""
    x = np.random.default_rng(0).normal(size=(3, 4000))
    x[:, 0] = (-12, -10, 8)
    x *= [[1.0], [10.0], [0.1]]
    bank = MidRise([bits], signed=True, channels=3)
    alpha = np.abs(x).max(axis=1)
    bank.initialise(torch.from_numpy(x), find_rule("minmax"))
    np.testing.assert_allclose(bank.steps.detach().numpy()[0], 2 * alpha / (2**bits - 1), rtol=1e-6)
    bank.initialise(torch.from_numpy(x), find_rule("mse"))
    for row, widest, step in zip(x, 2 * alpha / (2**bits - 1), bank.steps.detach()[0].tolist(), strict=True):
        parts = widest * np.arange(1, 81) / 80
        errors = []
        for s in parts:
            levels = (np.arange(2**bits) - (2**bits - 1) / 2) * s
            errors.append((np.abs(row[:, None] - levels).min(axis=1) ** 2).sum())
        assert step == pytest.approx(parts[int(np.argmin(errors))], rel=1e-4)
        assert step / widest < 0.7


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_start_of_the_clip_has_the_gradients_of_the_authors_clamp(bits: int) -> None:
    """There the largest weight lies on the clip, and counts as inside."""
    w = weights().requires_grad_()
    alpha = w.detach().abs().max().reshape(1).requires_grad_()
    up = weights(1)
    (from_minus_alpha(w, alpha, bits) * up).sum().backward()
    quantizer, x = made(LsqClip, bits), weights().requires_grad_()
    (quantizer(x) * up).sum().backward()
    assert x.grad is not None and w.grad is not None and alpha.grad is not None and quantizer.steps.grad is not None
    assert torch.equal(x.grad, up)
    torch.testing.assert_close(w.grad, up)
    levels = (2**bits - 1) / 2
    torch.testing.assert_close(quantizer.steps.grad.flatten() * levels, alpha.grad, rtol=1e-3, atol=1e-4)


def test_gradient_scale_counts_features_and_the_clip() -> None:
    grads = []
    for scale in ("none", "features"):
        quantizer = made(MidRise, 3, gradient_scale=scale, rule="mse")
        quantizer(weights()).sum().backward()
        grads.append(quantizer.steps.grad)
    torch.testing.assert_close(grads[1], grads[0] * (60 * 3.5) ** -0.5)


def test_per_channel_equals_channel_by_channel() -> None:
    bank = made(MidRise, 3, channels=4)
    for channel in range(4):
        one = MidRise([3], signed=True)
        one.initialise(weights()[channel], find_rule("minmax"))
        torch.testing.assert_close(bank(weights())[channel], one(weights()[channel]))


def test_a_bank_switches() -> None:
    bank = MidRise([4, 2], signed=True)
    bank.initialise(weights(), find_rule("minmax"))
    bank.select(2)
    single = made(MidRise, 2)
    assert torch.equal(bank(weights()), single(weights()))


def test_clip_starts_at_the_largest_weight_whatever_the_rule() -> None:
    for rule in ("lsq+", "mse", "minmax"):
        step = made(LsqClip, 3, rule).steps.detach()
        torch.testing.assert_close(step.flatten() * 3.5, weights().abs().max().view(1))


@pytest.mark.parametrize("bits", [2, 4])
def test_sgd_on_the_step_is_sgd_on_the_clip(bits: int) -> None:
    """With momentum and decay, over several steps."""
    quantizer = LsqClip([bits], signed=True)
    with torch.no_grad():
        quantizer.steps.fill_(1.2 / (2 ** (bits - 1) - 0.5))
    alpha = torch.tensor([1.2], requires_grad=True)
    settings = {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1, "nesterov": True}
    ours, theirs = torch.optim.SGD([quantizer.steps], **settings), torch.optim.SGD([alpha], **settings)  # type: ignore[arg-type]
    for seed in range(5):
        w, up = weights(seed), weights(seed + 100)
        for optimizer, y in ((ours, quantizer(w)), (theirs, from_minus_alpha(w, alpha, bits))):
            optimizer.zero_grad()
            (y * up).mean().backward()
            optimizer.step()
    clip = quantizer.steps.detach().flatten() * (2 ** (bits - 1) - 0.5)
    torch.testing.assert_close(clip, alpha.detach())
    assert abs(float(clip) - 1.2) > 0.005  # it has learned


def test_compiles_to_the_same_numbers() -> None:
    quantizer = made(MidRise, 3)
    compiled = torch.compile(quantizer, backend="aot_eager")
    assert torch.equal(compiled(weights()), quantizer(weights()))


@pytest.mark.parametrize("rule", ["lsq", "lsq+", "minmax", "mse", "constant"])
def test_at_one_bit_it_is_what_the_plain_quantizer_is(rule: str) -> None:
    up = weights(seed=1)
    results = []
    for kind in (MidRise, Quantizer):
        quantizer = made(kind, 1, rule)
        y = quantizer(weights())
        y.backward(up)
        results.append((y.detach(), quantizer.steps.detach(), quantizer.steps.grad))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)
