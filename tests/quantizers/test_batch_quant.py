"""BatchQuant: golden numbers of the authors' code, gradients of the formula, statistics, the folded form."""

from __future__ import annotations

import json
import subprocess
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mixbit.errors import MixbitError, WeightsError
from mixbit.quantizers import BatchQuant, Quantizer, find_rule
from mixbit.testing.quantizers import QuantizerCases
from tests.needs import ROOT, needs

X = torch.tensor([[[[-1.0, 5.0, 0.0, 1.0]], [[-3.0, 3.0, 2.0, -0.6]]]])
"""One sample of two channels: mn = -2, mx = 4."""


def with_range(quantizer: BatchQuant, low: float, high: float) -> BatchQuant:
    """In evaluation mode, with that range in every row."""
    quantizer.initialise(torch.tensor([low, high]), find_rule("lsq"))
    return quantizer.eval()


class TestContract(QuantizerCases):
    """On the frozen range; that of a batch moves with its inputs."""

    def make(self, bits: int, signed: bool) -> nn.Module:
        return with_range(BatchQuant([bits], signed=signed, batched=True), -1.0 if signed else 0.0, 1.0)


def batch_quant(bits: int | list[int] = 4, theta: float = 0.0, delta: float = 0.0, **settings: Any) -> BatchQuant:
    settings = {"signed": False, "batched": True, **settings}
    quantizer = BatchQuant([bits] if isinstance(bits, int) else bits, **settings)
    with torch.no_grad():
        quantizer.theta.fill_(theta)
        quantizer.delta.fill_(delta)
    return quantizer


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def formula(x: Tensor, theta: Tensor, delta: Tensor, qmin: int, qmax: int) -> Tensor:
    """As the released code has it; the range by loops over channels."""
    channels = [x.detach()[:, c] for c in range(x.shape[1])]
    mn = min(sum(float(c.min()) for c in channels) / len(channels), 0.0)
    mx = max(sum(float(c.max()) for c in channels) / len(channels), 0.0)
    s = (mx - mn) / (qmax - qmin)
    z = min(max(qmin - round(mn / s), qmin), qmax)
    gamma = torch.log2(1 + 2**theta)
    clamped = torch.clamp(x * gamma / s + z + delta, qmin, qmax)
    q = clamped + (clamped.round() - clamped).detach()
    return (q - z - delta) * s / gamma


@pytest.mark.parametrize(
    ("bits", "signed", "wanted"),
    [
        (2, False, [-2, 4, 0, 2, -2, 2, 2, 0]),
        (2, True, [-2, 4, 0, 2, -2, 2, 2, 0]),
        (3, False, [-0.8571, 4.2857, 0, 0.8571, -1.7143, 3.4286, 1.7143, -0.8571]),
        (4, False, [-1.2, 4, 0, 1.2, -2, 2.8, 2, -0.4]),
    ],
)
def test_examples_of_the_authors_code(bits: int, signed: bool, wanted: list[float]) -> None:
    found = batch_quant(bits, signed=signed)(X).detach().flatten().tolist()
    assert found == pytest.approx(wanted, abs=5e-5)


def test_residuals_of_the_authors_code() -> None:
    """A zero point that is no whole number takes 0 elsewhere."""
    quantizer = batch_quant(3, theta=0.7, delta=-0.3)
    assert quantizer.gamma.item() == pytest.approx(1.392045, abs=5e-7)
    wanted = [-1.04676, 3.26344, 0.18472, 0.80047, -1.04676, 3.26344, 2.03195, -0.43102]
    assert quantizer(X).detach().flatten().tolist() == pytest.approx(wanted, abs=5e-6)


@pytest.mark.parametrize(("theta", "gamma"), [(0.0, 1.0), (1.0, 1.5849625), (-float("inf"), 0.0), (40.0, 40.0)])
def test_gamma_is_log2_of_one_plus_two_to_theta(theta: float, gamma: float) -> None:
    assert batch_quant(theta=theta).gamma.item() == pytest.approx(gamma, rel=1e-6)


def test_a_gamma_of_zero_is_told() -> None:
    quantizer = with_range(batch_quant(theta=-float("inf")), 0.0, 1.0)
    assert quantizer.fault() == "has a residual gamma of 0, by which nothing can be divided"


@pytest.mark.parametrize("factor", [0.01, 3.0, 100.0])
def test_it_moves_with_the_scale_of_its_input(factor: float) -> None:
    quantizer, x = batch_quant(3, theta=0.4, delta=0.2), normal(8, 3, 5, 5)
    torch.testing.assert_close(quantizer(factor * x), factor * quantizer(x))


@pytest.mark.parametrize(
    ("bits", "ours", "theirs"),
    [(3, 0.0211, [0.121, 0.030, 0.016, 0.136, 0.400]), (2, 0.1176, [0.284, 0.071, 0.077, 0.291, 0.557])],
)
def test_errors_of_a_rectified_gaussian_as_its_scale_changes(bits: int, ours: float, theirs: list[float]) -> None:
    """Errors as parts of the signal, as measured with the authors' code: one for all scales, where LSQ's go up."""
    x = normal(16, 64, 14, 14).relu()
    lsq = Quantizer([bits], signed=False, batched=True)
    lsq.initialise(x, find_rule("lsq"))
    for factor, error in zip((0.25, 0.5, 1.0, 2.0, 4.0), theirs, strict=True):
        scaled = factor * x
        for quantizer, wanted in ((batch_quant(bits), ours), (lsq, error)):
            found = (quantizer(scaled).detach() - scaled).square().sum() / scaled.square().sum()
            assert float(found) == pytest.approx(wanted, rel=0.04)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 3, 8])
@pytest.mark.parametrize("shape", [(6, 3, 4, 5), (6, 9)])
def test_values_and_gradients_are_those_of_the_formula(bits: int, signed: bool, shape: tuple[int, ...]) -> None:
    theta, delta = (torch.tensor([value], dtype=torch.float64, requires_grad=True) for value in (0.6, -0.35))
    quantizer = batch_quant(bits, theta=0.6, delta=-0.35, signed=signed)
    x, up = normal(*shape).requires_grad_(), normal(*shape, seed=1)
    other = x.detach().double().requires_grad_()
    y = quantizer(x)
    y.backward(up)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed and bits > 1 else (0, 2**bits - 1)
    wanted = formula(other, theta, delta, low, high)
    wanted.backward(up.double())
    torch.testing.assert_close(y.double(), wanted, rtol=1e-5, atol=1e-5)
    assert quantizer.theta.grad is not None and quantizer.delta.grad is not None
    torch.testing.assert_close(x.grad.double(), other.grad)  # type: ignore[union-attr]
    torch.testing.assert_close(quantizer.theta.grad.double().flatten(), theta.grad, rtol=2e-4, atol=1e-4)
    torch.testing.assert_close(quantizer.delta.grad.double().flatten(), delta.grad, rtol=2e-4, atol=1e-4)


def test_second_derivatives_are_those_of_the_formula() -> None:
    """As a gradient penalty needs them."""
    quantizer, x = batch_quant(3, theta=0.2, delta=0.1, signed=True), normal(8, 3).requires_grad_()
    theta, delta = (torch.tensor([value], requires_grad=True) for value in (0.2, 0.1))
    found = []
    sides = (
        (quantizer(x), (x, quantizer.theta, quantizer.delta)),
        (formula(x, theta, delta, -4, 3), (x, theta, delta)),
    )
    for y, unknowns in sides:
        firsts = torch.autograd.grad(y.square().sum(), unknowns, create_graph=True)
        found.append(torch.autograd.grad(sum(one.sum() for one in firsts), unknowns))  # type: ignore[arg-type]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one.flatten(), other.flatten(), rtol=1e-4, atol=1e-4)


def test_an_element_on_a_bound_is_inside() -> None:
    """Zeros behind a ReLU lie there until delta moves; were they outside, they would all pull at delta."""
    quantizer = batch_quant(2)
    x = torch.tensor([[0.0, 0.0, 0.4], [0.0, 3.0, 3.0]]).t().reshape(3, 1, 2).requires_grad_()  # mx = 3, s = 1
    quantizer(x).sum().backward()
    assert x.grad is not None and x.grad.flatten().tolist() == [1.0] * 6
    assert quantizer.delta.grad is not None and quantizer.delta.grad.item() == 0.0


def test_nothing_passes_to_the_range() -> None:
    """The gradient of the largest element is that of any other inside: the step does not follow it."""
    quantizer, x = batch_quant(4), normal(4, 2, 3, 3).requires_grad_()
    quantizer(x).sum().backward()
    assert x.grad is not None and set(x.grad.flatten().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
def test_the_range_does_not_depend_on_the_layout(layout: str) -> None:
    x, quantizer = normal(5, 3, 4, 6), batch_quant(4)
    wanted = quantizer(x)
    if layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    elif layout == "strided":
        x = torch.stack([x, 9 * x], dim=-1)[..., 0]
    assert torch.equal(quantizer(x), wanted)


def test_channels_may_be_last() -> None:
    x = normal(4, 5, 3)
    last, moved = batch_quant(4, channel_axis=-1), batch_quant(4)
    assert torch.equal(last(x), moved(x.transpose(1, 2)).transpose(1, 2))
    assert not torch.equal(moved(x), last(x))


def test_dead_channels_pull_the_range_down_unless_they_are_ignored() -> None:
    x = torch.zeros(2, 4, 3, 3)
    x[:, 0], x[:, 1] = 6.0, 2.0
    with_all, alive = batch_quant(2), batch_quant(2, ignore_dead=True)
    assert with_all(x).max().item() == 2.0 and alive(x).max().item() == 4.0
    assert not alive(torch.zeros(2, 4, 3, 3)).any() and not with_all(torch.zeros(2, 4, 3, 3)).any()


def test_ties_fall_to_the_even_integer_after_the_zero_point_is_added() -> None:
    """-1 / 2 + 1 is a tie between 0 and 1, and the code rounds the sum."""
    quantizer = with_range(batch_quant(2), -2.0, 4.0)
    assert quantizer(torch.tensor([[-1.0, 1.0]])).tolist() == [[-2.0, 2.0]]


def test_bf16_inputs_are_rounded_in_float32() -> None:
    quantizer, x = with_range(batch_quant(8), -3.0, 3.0), normal(4, 3).bfloat16().requires_grad_()
    y = quantizer(x)
    y.sum().backward()
    assert y.dtype == torch.bfloat16 and x.grad is not None and x.grad.dtype == torch.bfloat16
    assert torch.equal(y, quantizer(x.float()).bfloat16())


def test_compiles_to_the_same_numbers_and_gradients() -> None:
    found = []
    for compiled in (False, True):
        quantizer, x = batch_quant([4, 2], theta=0.3, delta=0.2), normal(4, 3, 5, 5)
        quantizer.select(2)
        run = torch.compile(quantizer, backend="aot_eager", fullgraph=True) if compiled else quantizer
        y = run(x)
        y.square().sum().backward()
        found.append((y.detach(), quantizer.theta.grad, quantizer.delta.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


# ------------------------------------------------------------------------------------------------------- statistics


def observed(quantizer: BatchQuant, *batches: Tensor) -> BatchQuant:
    quantizer.eval()
    with quantizer.statistics_anew("bank"), torch.no_grad():
        for x in batches:
            quantizer(x)
    return quantizer


def test_frozen_statistics_are_the_average_by_samples() -> None:
    """Of ranges (-2, 4) of two samples, and (-4, 8) of six."""
    batch = X.expand(2, 2, 1, 4)
    quantizer = observed(batch_quant([4, 3]), batch, 2 * batch.repeat(3, 1, 1, 1))
    assert (quantizer.lows[0].item(), quantizer.highs[0].item()) == pytest.approx((-3.5, 7.0))
    assert quantizer.steps[0].item() == pytest.approx(10.5 / 15) and quantizer.zero_points[0].item() == 5
    assert quantizer.ready.tolist() == [True, False] and not quantizer.lows[1].any()
    assert quantizer.fault() is None
    quantizer.select(3)
    assert quantizer.fault() == "was never calibrated" and quantizer.never_set


def test_while_they_are_made_each_batch_has_its_own_range() -> None:
    quantizer, batch = with_range(batch_quant(4), 0.0, 1.0), X.expand(2, 2, 1, 4)
    wanted = quantizer.train()(batch).detach()
    quantizer.eval()
    assert not torch.equal(quantizer(batch), wanted)
    with quantizer.statistics_anew():
        assert torch.equal(quantizer(batch), wanted)
    assert torch.equal(quantizer(batch), wanted)  # one batch is its own average


def test_training_moves_no_statistics() -> None:
    quantizer = with_range(batch_quant(4), 0.0, 1.0).train()
    before = {name: value.clone() for name, value in quantizer.state_dict().items() if name != "trained_on"}
    quantizer(normal(4, 3)).sum().backward()
    assert all(torch.equal(quantizer.state_dict()[name], value) for name, value in before.items())


def test_an_error_leaves_the_statistics_as_they_were() -> None:
    quantizer = with_range(batch_quant(4), 0.0, 1.0)
    with pytest.raises(TypeError), quantizer.statistics_anew():
        quantizer(quantizer(X.expand(2, 2, 1, 4)), "too many")
    assert quantizer.highs.item() == 1.0
    assert quantizer(torch.tensor([[0.0, 9.0]])).max().item() == 1.0  # and frozen again


def test_batches_of_one_sample_are_refused() -> None:
    with pytest.raises(MixbitError, match=r"^bank: calibration by batches of one sample.*32 samples or more"):
        observed(batch_quant(4), X, X)


@pytest.mark.parametrize(("samples", "told"), [(2, True), (5, False), (16, False), (20, True), (32, True)])
def test_batches_far_from_those_of_training_are_warned_of(samples: int, told: bool) -> None:
    quantizer = batch_quant(4)
    for size in (8, 3):  # a shorter last one is none
        quantizer(normal(size, 3)).sum().backward()
    assert quantizer.trained_on.tolist() == [8]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        observed(quantizer, normal(samples, 3), normal(1, 3))  # one sample of many makes no small batch
    found = [str(one.message) for one in caught]
    assert bool(found) == told and all("trained on batches of 8" in text for text in found)


def test_ranks_add_their_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one saw 6 samples from -4 to 8."""
    other = torch.tensor([[-24.0, 48.0, 6.0, 36.0]], dtype=torch.float64)
    monkeypatch.setattr("mixbit._distributed.sum_", lambda tensors: [one.add_(other) for one in tensors])
    quantizer = observed(batch_quant(4), X.expand(2, 2, 1, 4))
    assert (quantizer.lows.item(), quantizer.highs.item()) == pytest.approx((-3.5, 7.0))


def test_it_takes_negative_inputs_and_numbers_without_a_batch() -> None:
    assert BatchQuant.signed_inputs and BatchQuant.affine
    quantizer = batch_quant(4)
    assert quantizer(torch.tensor(-3.0)).item() == pytest.approx(-3.0) and quantizer.trained_on.tolist() == [1]


def test_all_is_float32_whatever_the_default_is() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        state = batch_quant(4).double().state_dict()
    finally:
        torch.set_default_dtype(torch.float32)
    assert {value.dtype for value in state.values() if value.is_floating_point()} == {torch.float32}


def test_a_look_without_gradients_is_no_training() -> None:
    quantizer = batch_quant(4)
    with torch.no_grad():
        quantizer(normal(8, 3))
    assert quantizer.trained_on.tolist() == [0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_an_error_and_stay_visible(bad: float) -> None:
    x = normal(4, 3)
    x[0, 0] = bad
    with pytest.raises(MixbitError, match="^bank: the batches have a range of .*NaN or infinity"):
        observed(batch_quant(4), x)
    assert not torch.isfinite(batch_quant(4)(x)).all()


def test_constant_zero_gives_a_step_of_one() -> None:
    quantizer = observed(batch_quant(4, signed=True), torch.zeros(4, 2))
    assert (quantizer.steps.item(), quantizer.zero_points.item()) == (1.0, 0.0) and quantizer.fault() is None


def test_a_state_comes_back_whole_and_fits_its_bits_alone() -> None:
    quantizer = observed(batch_quant([4, 2], theta=0.3, delta=0.1), X.expand(2, 2, 1, 4))
    other = batch_quant([4, 2])
    other.load_state_dict(quantizer.state_dict())
    assert torch.equal(other.eval()(X), quantizer(X))
    with pytest.raises(WeightsError, match="does not fit"):
        batch_quant([4, 3]).load_state_dict(quantizer.state_dict())


# ------------------------------------------------------------------------------------------------- several bits at once


def test_samples_of_one_row_have_a_range_of_their_own_in_training() -> None:
    quantizer, x = batch_quant([4, 2], theta=0.3, delta=0.2), normal(6, 3, 2, 2).requires_grad_()
    rows = torch.tensor([0, 1, 1, 0, 1, 0])
    quantizer.select_samples(rows)
    y = quantizer(x)
    y.sum().backward()
    assert quantizer.trained_on.tolist() == [3, 3] and quantizer.theta.grad is not None
    by_hand = []
    for row, bits in enumerate((4, 2)):
        alone = batch_quant(bits, theta=0.3, delta=0.2)
        wanted = alone(x[rows == row].detach())
        wanted.sum().backward()
        assert torch.equal(y[rows == row], wanted)
        by_hand.append(alone.theta.grad.item())  # type: ignore[union-attr]
    torch.testing.assert_close(quantizer.theta.grad.flatten(), torch.tensor(by_hand))


def test_samples_have_the_frozen_range_of_their_row_in_evaluation() -> None:
    quantizer, x = with_range(batch_quant([4, 2], theta=0.3, delta=0.2), -1.0, 2.0), normal(4, 3, 2, 2)
    rows = torch.tensor([1, 0, 0, 1])
    quantizer.select_samples(rows)
    y = quantizer(x)
    for row in (0, 1):
        torch.testing.assert_close(y[rows == row], quantizer.with_row(x, row)[rows == row])
    with pytest.raises(MixbitError, match="bits were selected for 4 samples"):
        quantizer(x[:2])


def test_a_mixture_is_the_weighted_sum() -> None:
    quantizer, x = batch_quant([4, 2], delta=0.2), normal(4, 3, 2, 2)
    quantizer.mix(torch.tensor([0.75, 0.25]))
    y = quantizer(x)
    parts = [batch_quant(bits, delta=0.2)(x) for bits in (4, 2)]
    torch.testing.assert_close(y, 0.75 * parts[0] + 0.25 * parts[1])


def test_one_row_is_kept_with_all_that_it_has() -> None:
    quantizer = with_range(batch_quant([4, 2]), -1.0, 2.0)
    with torch.no_grad():
        quantizer.theta.copy_(torch.tensor([[0.1], [0.6]]))
        quantizer.delta.copy_(torch.tensor([[0.2], [-0.4]]))
        quantizer.trained_on.copy_(torch.tensor([7, 9]))
    quantizer.select(2)
    x = normal(4, 3)
    wanted = quantizer(x)
    quantizer.keep_row()
    assert torch.equal(quantizer(x), wanted) and quantizer.bits == (2,) and quantizer.trained_on.tolist() == [9]
    assert all(value.shape[0] == 1 for value in quantizer.state_dict().values())


def test_residuals_are_frozen_and_thawed() -> None:
    quantizer = batch_quant(4)
    quantizer.learn(False)
    assert not any(p.requires_grad for p in quantizer.parameters())
    quantizer.learn(True)
    assert [name for name, p in quantizer.named_parameters() if p.requires_grad] == ["theta", "delta"]


def test_one_range_a_tensor() -> None:
    with pytest.raises(MixbitError, match="channels=3"):
        batch_quant(4, channels=3)


# ------------------------------------------------------------------------------------------------------------- folding


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("bits", "delta"), [(1, 0.1), (3, -0.3), (8, 0.45)])
def test_the_folded_form_is_plain_and_affine(bits: int, delta: float, signed: bool) -> None:
    """By hand: `s / gamma` and the rounded zero point."""
    quantizer = batch_quant(bits, theta=0.7, delta=delta, signed=signed, gradient_scale="numel")
    plain, moved = with_range(quantizer, -2.0, 4.0).fold()
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed and bits > 1 else (0, 2**bits - 1)
    s, gamma = 6 / (high - low), 1.392045
    zero = low - round(-2 / s)
    assert type(plain) is Quantizer and plain.steps.item() == pytest.approx(s / gamma, rel=1e-6)
    assert plain.zero_points.item() == min(max(round(zero + delta), low), high) == zero
    assert moved == pytest.approx(abs(delta), abs=1e-5) and plain.fault() is None and not plain.training
    assert plain.batched and plain.gradient_scale == "numel"
    x = normal(4, 3)
    by_hand = ((x / plain.steps.detach()).round() + zero).clamp(low, high).sub(zero) * plain.steps.detach()
    torch.testing.assert_close(plain(x).detach(), by_hand)
    assert not plain(torch.zeros(1, 1)).any()


def test_without_a_part_in_delta_folding_changes_nothing_but_ties() -> None:
    quantizer = with_range(batch_quant(4, theta=0.3, delta=2.0), -2.0, 4.0)
    plain, moved = quantizer.fold()
    assert moved == 0.0
    torch.testing.assert_close(plain(normal(64, 3)), quantizer(normal(64, 3)))


def test_a_zero_point_beyond_the_integers_is_brought_back() -> None:
    quantizer = with_range(batch_quant(2, delta=-1.6), 0.0, 3.0)
    plain, moved = quantizer.fold()
    assert plain.zero_points.item() == 0.0 and moved == pytest.approx(1.6)


def test_folding_needs_one_bit_width_and_statistics() -> None:
    with pytest.raises(MixbitError, match=r"\[4, 2\] bits.*settle"):
        batch_quant([4, 2]).fold()
    with pytest.raises(MixbitError, match="was never calibrated. Calibrate first"):
        batch_quant(4).fold()


# ------------------------------------------------------------------------------------------------------------ Brevitas

BREVITAS = """
import json, torch
from brevitas.nn import QuantReLU
from brevitas.quant import Uint8ActPerTensorFloatBatchQuant2d
act = QuantReLU(act_quant=Uint8ActPerTensorFloatBatchQuant2d, return_quant_tensor=True).train()
scales = []
for seed in range(3):
    scales.append(act(torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(seed))).scale.item())
print(json.dumps(scales + [act.eval()(torch.zeros(1, 3, 5, 5)).scale.item()]))
"""


@needs("peers")
def test_the_scale_is_that_of_brevitas() -> None:
    """Of each batch, and the true average of three of them; Brevitas has no zero point, so behind a ReLU."""
    python = ROOT / ".venv-peers" / "bin" / "python"
    told = subprocess.run([python, "-c", BREVITAS], capture_output=True, text=True, check=True)
    wanted = json.loads(told.stdout.strip().splitlines()[-1])
    batches = [normal(4, 3, 5, 5, seed=seed).relu() for seed in range(3)]
    found = [observed(batch_quant(8), x).steps.item() for x in batches]
    assert [*found, observed(batch_quant(8), *batches).steps.item()] == pytest.approx(wanted, rel=1e-5)
