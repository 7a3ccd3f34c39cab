"""The bank of quantizers: switching, initialisation, gradient scale."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from mixbit.errors import MixbitError, WeightsError
from mixbit.quantizers import WEIGHTS, GradientScale, Pact, Quantizer, find_rule
from tests.quantizers.formulas import eighths, lsq


def bank(**kwargs: object) -> Quantizer:
    return Quantizer([6, 5, 4, 3, 2], **{"signed": True, **kwargs})  # type: ignore[arg-type]


def test_weight_initialisation_doubles_from_bit_to_bit() -> None:
    quantizer = bank()
    quantizer.initialise(torch.randn(16, 8, 3, 3), find_rule("lsq+"))
    ratios = quantizer.steps[1:, 0] / quantizer.steps[:-1, 0]
    torch.testing.assert_close(ratios, torch.full((4,), 2.0))


def test_activation_initialisation_ratios_by_hand() -> None:
    quantizer = bank(signed=False, batched=True)
    quantizer.initialise(torch.rand(8, 3, 5, 5), find_rule("lsq"))
    s6, s5, s4, s3, s2 = quantizer.steps[:, 0].tolist()
    assert [round(r, 4) for r in (s2 / s3, s3 / s4, s4 / s5, s5 / s6)] == [1.5275, 1.4639, 1.4376, 1.4256]


@pytest.mark.parametrize(
    ("bits", "step", "rounded"),
    [(4, 0.349617, [0.34962, -0.34962, 0, -1.04885]), (2, 0.925, [0.925, 0, 0, -0.925])],
)
def test_weights_start_and_round_as_in_released_code(bits: int, step: float, rounded: list[float]) -> None:
    """What the LSQ of BatchQuant's authors, run on these weights, gives."""
    weight = torch.tensor([0.5, -0.25, 0.1, -1.0])
    quantizer = Quantizer([bits], signed=True)
    quantizer.initialise(weight, find_rule("lsq"))
    assert quantizer.steps.item() == pytest.approx(step, abs=1e-6)
    assert quantizer(weight).tolist() == pytest.approx(rounded, abs=1e-5)


def test_select_changes_only_the_row_in_use() -> None:
    quantizer = bank()
    quantizer.initialise(torch.randn(64), find_rule("minmax"))
    x = torch.randn(64)
    for bits in quantizer.bits:
        quantizer.select(bits)
        assert quantizer.selected == bits
        assert quantizer(x).unique().numel() <= 2**bits
    quantizer.select(4)
    quantizer(x).sum().backward()
    assert quantizer.steps.grad is not None
    assert (quantizer.steps.grad != 0).squeeze(1).tolist() == [False, False, True, False, False]


def test_selection_survives_the_state_dict() -> None:
    one, other = bank(), bank()
    one.initialise(torch.randn(64), find_rule("minmax"))
    one.select(3)
    other.load_state_dict(one.state_dict())
    x = torch.randn(64)
    assert other.selected == 3 and torch.equal(one(x), other(x))


@pytest.mark.parametrize(
    ("scale", "factor"), [("none", 1.0), ("features", (6 * 15) ** -0.5), ("numel", (24 * 15) ** -0.5)]
)
def test_gradient_scale(scale: str, factor: float) -> None:
    x = torch.rand(4, 6)
    grads = []
    for mode in ("none", scale):
        quantizer = Quantizer([4], signed=False, batched=True, gradient_scale=mode)  # type: ignore[arg-type]
        quantizer.initialise(x, find_rule("lsq"))
        quantizer(x).sum().backward()
        grads.append(quantizer.steps.grad)
    torch.testing.assert_close(grads[1], grads[0] * factor)


@pytest.mark.parametrize(
    ("scale", "batched", "channels", "count"),
    [
        ("features", True, 1, 3 * 5),  # one sample
        ("numel", True, 1, 4 * 3 * 5),  # the batch
        ("features", False, 1, 4 * 3 * 5),  # a weight has no batch
        ("numel", False, 1, 4 * 3 * 5),
        ("features", False, 4, 3 * 5),  # those that share a channel's step
        ("numel", False, 4, 3 * 5),
        ("none", True, 1, 0),
        ("none", False, 4, 0),
    ],
)
@pytest.mark.parametrize("signed", [True, False])
def test_gradients_are_those_of_the_paper(
    scale: GradientScale, batched: bool, channels: int, count: int, signed: bool
) -> None:
    """Inside, at and beyond the bounds, at both bit-widths of a bank; the scale counts what shares a step."""
    low, high = (-4, 3) if signed else (0, 7)
    bank = Quantizer([5, 3], signed=signed, channels=channels, gradient_scale=scale, batched=batched)
    step = torch.tensor([0.5, 1.0, 0.25, 2.0])[:channels]
    with torch.no_grad():
        bank.steps.copy_(torch.stack([2 * step, step]))
    bank.select(3)
    x = (eighths((4, 3, 5), 10) * step.view(-1, 1, 1)).requires_grad_()
    up = eighths((4, 3, 5), 1, seed=1)
    y = bank(x)
    y.backward(up)
    want = lsq(x.detach(), up, step, low, high, count=count)
    assert x.grad is not None and bank.steps.grad is not None
    assert torch.equal(y.detach().double(), want[0]) and torch.equal(x.grad.double(), want[1])
    torch.testing.assert_close(bank.steps.grad[1].double(), want[2], rtol=1e-6, atol=0)
    assert not bank.steps.grad[0].any()


def test_both_bounds_of_the_row_in_use_are_its_own() -> None:
    bank = Quantizer([4, 2], signed=True)
    for bits, low, high in ((4, -8.0, 7.0), (2, -2.0, 1.0)):
        bank.select(bits)
        assert bank(torch.tensor([-99.0, 99.0])).tolist() == [low, high]


def test_every_row_starts_by_the_rule_at_its_own_bits() -> None:
    bank, x = Quantizer([4, 2], signed=False, channels=2), torch.tensor([[3.0, 1.5], [-1.0, 4.5]])
    bank.initialise(x, find_rule("minmax"))
    torch.testing.assert_close(bank.steps.detach(), torch.tensor([[3 / 15, 4.5 / 15], [3 / 3, 4.5 / 3]]))
    bank.initialise(x, find_rule("minmax-affine"))
    torch.testing.assert_close(bank.steps.detach(), torch.tensor([[3 / 15, 5.5 / 15], [3 / 3, 5.5 / 3]]))
    assert bank.zero_points.tolist() == [[0, 3], [0, 1]]


def observed(bank: Quantizer, *batches: Tensor, rule: str = "minmax-affine") -> tuple[list[float], list[float]]:
    """Steps and zero points of the row in use after these batches."""
    bank.rule = find_rule(rule)
    for batch in batches:
        bank(batch)
    bank.rule = None
    row = int(bank.index)
    return bank.steps[row].tolist(), bank.zero_points[row].tolist()


def test_observed_batches_count_alike() -> None:
    """The mean of three, of the rounded mean of zero points as well; each row counts its own batches."""
    bank = Quantizer([2, 3], signed=False)
    batches = [torch.tensor([0.0, 3.0]), torch.tensor([-6.0, 0.0]), torch.tensor([-3.0, 9.0])]
    # Steps (0, 3) -> 1, (-6, 0) -> 2, (-3, 9) -> 4; zero points 0, 3, 1: their running mean is 0, 1.5 -> 2, 5/3 -> 2.
    assert observed(bank, *batches) == ([pytest.approx(7 / 3)], [2])
    bank.select(3)
    assert observed(bank, torch.tensor([0.0, 14.0])) == ([pytest.approx(2.0)], [0])  # the other row's do not count
    bank.select(2)
    assert bank.steps[0].item() == pytest.approx(7 / 3)


def test_after_forgetting_the_first_batch_is_the_first() -> None:
    bank = Quantizer([2], signed=False)
    assert observed(bank, torch.tensor([0.0, 3.0]), rule="minmax") == ([1.0], [0])
    assert observed(bank, torch.tensor([0.0, 9.0]), rule="minmax") == ([2.0], [0])
    bank.forget()
    assert observed(bank, torch.tensor([0.0, 12.0]), rule="minmax") == ([4.0], [0])


def test_what_a_batch_says_is_averaged_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """With another process that found steps and zero points three times as large."""

    def mean(tensors: list[Tensor]) -> None:
        for tensor in tensors:
            tensor.mul_(2.0)

    monkeypatch.setattr("mixbit._distributed.mean_", mean)
    bank = Quantizer([2], signed=False)
    assert observed(bank, torch.tensor([-1.0, 2.0])) == ([2.0], [2.0])


def test_a_quantizer_that_is_passed_by_is_the_identity_and_sees_nothing() -> None:
    bank, x = bank_of_one(), torch.randn(5)
    bank.bypass, bank.rule = True, find_rule("minmax")
    assert bank(x) is x and bank.never_set


def bank_of_one() -> Quantizer:
    return Quantizer([4], signed=True)


def test_a_step_of_one_that_was_set_is_known_from_one_that_was_not() -> None:
    """By a rule it is flagged, by hand it is seen by the other channels or rows."""
    bank = Quantizer([4], signed=True, channels=2)
    with torch.no_grad():
        bank.steps[0, 1] = 0.5
    assert not bank.never_set and bank.fault() is None


def test_a_gradient_scale_by_the_whole_batch_counts_the_parts_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean of the gradients of two halves, each on its process, is the gradient of the whole; weights are whole."""
    x = torch.rand(4, 6)

    def gradient(of: torch.Tensor, *, batched: bool) -> torch.Tensor:
        quantizer = Quantizer([4], signed=False, batched=batched, gradient_scale="numel")
        quantizer.initialise(x, find_rule("minmax"))
        quantizer(of).mean().backward()
        assert quantizer.steps.grad is not None
        return quantizer.steps.grad

    whole, weight = gradient(x, batched=True), gradient(x, batched=False)
    monkeypatch.setattr("mixbit.quantizers.quantizer._distributed.world_size", lambda: 2)
    torch.testing.assert_close((gradient(x[:2], batched=True) + gradient(x[2:], batched=True)) / 2, whole)
    torch.testing.assert_close(gradient(x, batched=False), weight)


def test_step_range_clamps_before_use_and_stops_the_gradient() -> None:
    quantizer = Quantizer([4], signed=True, step_range=(1e-5, 1.0))
    with torch.no_grad():
        quantizer.steps.fill_(3.0)
    y = quantizer(torch.tensor([2.2]))
    y.sum().backward()
    assert y.item() == 2.0
    assert quantizer.steps.grad is not None and quantizer.steps.grad.item() == 0
    assert quantizer.steps.item() == 3.0  # the indicator that LIMPQ reads is the raw value


def test_per_channel_steps() -> None:
    quantizer = Quantizer([4], signed=True, channels=3)
    quantizer.initialise(torch.randn(3, 5, 2), find_rule("minmax"))
    assert quantizer.steps.shape == (1, 3) and quantizer(torch.randn(3, 5, 2)).shape == (3, 5, 2)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_a_row_of_many_has_one_step_a_channel(channels: int) -> None:
    given: list[list[torch.Size]] = []

    class Kind(Quantizer):
        def _fake_quantize(self, x: Tensor, *row: Tensor) -> Tensor:
            given.append([part.shape for part in row])
            return super()._fake_quantize(x, *row)

    quantizer = Kind([4, 2], signed=True, channels=channels)
    steps = torch.tensor([[0.1, 0.2, 0.3], [0.5, 0.7, 0.9]])[:, :channels]
    with torch.no_grad():
        quantizer.steps.copy_(steps)
    x = torch.randn(channels, 3, 2, generator=torch.Generator().manual_seed(0))
    for row, (bits, top) in enumerate(((4, 7), (2, 1))):
        quantizer.select(bits)
        step = steps[row].reshape(-1, 1, 1)
        wanted = torch.round(x / step).clamp(-top - 1, top) * step
        torch.testing.assert_close(quantizer(x), wanted)
    assert given == [[(channels,), (channels,), (1,), (1,)]] * 2, "what a kind of quantizer gets to work with"


def test_a_move_to_a_device_takes_the_whole_bank() -> None:
    """To the device without memory, which every machine has."""
    model = torch.nn.Sequential(bank(), torch.nn.Linear(2, 2)).to("meta")
    assert {value.device.type for value in model.state_dict().values()} == {"meta"}


@pytest.mark.parametrize("bits", [[], [4, 4], [0], [17], ["4"]])
def test_illegal_bits(bits: list[int]) -> None:
    with pytest.raises(MixbitError, match="bits="):
        Quantizer(bits, signed=True)


def test_select_of_other_bits_names_the_legal_ones() -> None:
    with pytest.raises(MixbitError, match=r"bits=7 is not in this bank. Legal: \[6, 5, 4, 3, 2\]"):
        bank().select(7)


def saved(bits: list[int], signed: bool = True, kind: type[Quantizer] = Quantizer) -> dict[str, torch.Tensor]:
    quantizer = kind(bits, signed=signed)
    with torch.no_grad():
        quantizer.initialise(torch.randn(64).abs(), find_rule("minmax"))
    return dict(quantizer.state_dict())


@pytest.mark.parametrize(
    ("bits", "signed", "match"),
    [
        ([8], True, "of 3 bits signed here, and of 8 bits signed in the state"),
        ([3], False, "of 3 bits signed here, and of 3 bits unsigned in the state"),
        ([4, 3], True, "of 3 bits signed here, and of 4 bits signed and 3 bits signed in the state"),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_a_state_of_other_bits_or_sign_is_refused(bits: list[int], signed: bool, match: str, strict: bool) -> None:
    model = torch.nn.Sequential(Quantizer([3], signed=True))
    state = {f"0.{key}": value for key, value in saved(bits, signed).items()}
    with pytest.raises(WeightsError, match=f"0 is {match}.*Quantize the model with the policy"):
        model.load_state_dict(state, strict=strict)


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("index", 2, r"0 has 2 bit-widths, and row \[2\] is in use"),
        ("index", -1, r"0 has 2 bit-widths, and row \[-1\] is in use"),
        ("zero_points", 0.5, "0 has zero points in the state that are no whole numbers"),
    ],
)
def test_a_state_of_a_row_that_there_is_not_or_of_half_a_zero_point_is_refused(
    key: str, value: float, match: str
) -> None:
    state = saved([4, 2])
    state[key] = torch.full_like(state[key], value)
    model = torch.nn.Sequential(Quantizer([4, 2], signed=True))
    with pytest.raises(WeightsError, match=match):
        model.load_state_dict({f"0.{name}": tensor for name, tensor in state.items()})


def test_rows_in_another_order_are_refused() -> None:
    with pytest.raises(WeightsError, match="2 bits signed and 4 bits signed here, and of 4 bits signed and 2 bits"):
        Quantizer([2, 4], signed=True).load_state_dict(saved([4, 2]))


def test_a_state_without_ranges_is_still_read() -> None:
    """As states of the first version are; what was set is seen by the steps."""
    state = {key: value for key, value in saved([4, 2]).items() if key in ("steps", "zero_points", "index")}
    quantizer = Quantizer([4, 2], signed=True)
    quantizer.load_state_dict(state)
    assert torch.equal(quantizer.steps, state["steps"]) and quantizer.ready.tolist() == [True, True]
    fresh = {key: value for key, value in bank().state_dict().items() if key in state}
    other = bank()
    other.load_state_dict(fresh)
    assert other.never_set


def test_whether_steps_were_set_is_known_and_saved() -> None:
    quantizer = bank()
    assert quantizer.never_set and quantizer.fault() == "was never calibrated"
    quantizer.rule = find_rule("minmax")
    quantizer.select(4)
    quantizer(torch.tensor([-8.0, 3.0]))  # 8 / 2^3: the very step that a bank is made with
    assert quantizer.steps[2].item() == 1 and not quantizer.never_set and quantizer.fault() is None
    other = bank()
    other.load_state_dict(quantizer.state_dict())
    assert not other.never_set
    other.select(5)
    assert other.never_set


def test_steps_that_were_set_by_hand_count() -> None:
    quantizer = bank()
    with torch.no_grad():
        quantizer.steps.fill_(0.5)
    assert quantizer.fault() is None
    with torch.no_grad():
        quantizer.steps[0] = -0.5
    assert quantizer.fault() == "has 1 of 1 steps that are not positive (-0.5)"
    with torch.no_grad():
        quantizer.steps[0] = float("nan")
    assert quantizer.fault() == "has 1 of 1 steps that are not finite (nan)"


def test_steps_below_a_clamp_are_no_fault() -> None:
    """They are clamped before use, as LIMPQ's released code does."""
    quantizer = bank(step_range=(1e-5, 1.0))
    with torch.no_grad():
        quantizer.steps.fill_(-0.5)
    assert quantizer.fault() is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_another_dtype_of_the_model_leaves_the_bank_as_it_was(dtype: torch.dtype) -> None:
    """bfloat16 has no 1023, and would round every step to eight bits."""
    quantizer = Quantizer([10], signed=False)
    quantizer.initialise(torch.rand(64), find_rule("minmax"))
    before = {key: value.clone() for key, value in quantizer.state_dict().items()}
    model = torch.nn.Sequential(quantizer, torch.nn.Linear(2, 2)).to(dtype)
    assert model[1].weight.dtype == dtype
    assert all(torch.equal(before[k], v) and before[k].dtype == v.dtype for k, v in quantizer.state_dict().items())


@pytest.mark.parametrize("default", [torch.bfloat16, torch.float64])
def test_the_default_dtype_does_not_reach_the_bank(default: torch.dtype) -> None:
    torch.set_default_dtype(default)
    try:
        quantizer = bank()
    finally:
        torch.set_default_dtype(torch.float32)
    assert {v.dtype for v in (quantizer.steps, quantizer.zero_points, quantizer.qmins, quantizer.qmaxs)} == {
        torch.float32
    }


@pytest.mark.parametrize("kind", [WEIGHTS.find(name) for name in WEIGHTS])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_every_kind_gives_back_the_dtype_that_it_was_given(kind: type[Quantizer], dtype: torch.dtype) -> None:
    quantizer = kind([4], signed=True)
    quantizer.initialise(torch.randn(4, 4), find_rule("minmax"))
    assert quantizer(torch.randn(4, 4).to(dtype)).dtype == dtype


@pytest.mark.parametrize("rule", ["lsq", "lsq+", "minmax", "minmax-affine", "mse"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_rules_refuse_numbers_that_are_not_finite(rule: str, bad: float) -> None:
    with pytest.raises(MixbitError, match="NaN or infinity"):
        bank().initialise(torch.tensor([0.5, bad, -1.0]), find_rule(rule))


# ------------------------------------------------------------------------------------------- 1 and 16 bits


def binary(x: Tensor, up: Tensor, step: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """`alpha sign(x)` with `alpha = step / 2`, and the gradients of `x` and of the step, in float64.

    LSQ's formulas with levels at -alpha and alpha: `dy/dalpha = sign(x) - x / alpha` between them, `sign(x)` beyond.
    """
    alpha = (step.double() / 2).reshape(-1, *[1] * (x.dim() - 1))
    sign = torch.where(x.double() >= 0, 1.0, -1.0)
    inside = x.double().abs() < alpha
    by_alpha = up * (sign - torch.where(inside, x.double() / alpha, 0.0))
    summed = by_alpha.sum().view(1) if len(step) == 1 else by_alpha.flatten(1).sum(dim=1)
    return alpha * sign, torch.where(inside, up.double(), 0.0), summed / 2 * ((2 / count) ** 0.5 if count else 1.0)


@pytest.mark.parametrize("compiled", [True, False], ids=["kernel", "fallback"])
@pytest.mark.parametrize(("scale", "channels", "count"), [("features", 1, 60), ("features", 4, 15), ("none", 4, 0)])
def test_one_signed_bit_is_a_learned_scale_times_the_sign(
    scale: GradientScale, channels: int, count: int, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not compiled:
        monkeypatch.setattr("mixbit.quantizers.operator.kernels_of", lambda _dtype: None)
    step = torch.tensor([0.5, 1.0, 0.25, 2.0])[:channels]
    bank = Quantizer([1], signed=True, channels=channels, gradient_scale=scale)
    with torch.no_grad():
        bank.steps.copy_(step[None])
    x = (eighths((4, 3, 5), 1) * step.view(-1, 1, 1)).requires_grad_()
    up = eighths((4, 3, 5), 1, seed=1)
    y = bank(x)
    y.backward(up)
    values, passed, by_step = binary(x.detach(), up, step, count)
    assert bool((x == 0).any()) and bool((x.abs() >= step.view(-1, 1, 1) / 2).any())
    assert x.grad is not None and bank.steps.grad is not None
    assert torch.equal(y.detach().double(), values) and torch.equal(x.grad.double(), passed)
    torch.testing.assert_close(bank.steps.grad[0].double(), by_step, rtol=1e-5, atol=1e-6)


def test_a_row_of_one_bit_leaves_the_other_rows_of_a_bank_as_they_are() -> None:
    x, up = torch.randn(4, 30), torch.randn(4, 30)
    both, alone = Quantizer([4, 1], signed=True, channels=4), Quantizer([4], signed=True, channels=4)
    for one in (both, alone):
        one.initialise(x, find_rule("mse"))
        one(x).backward(up)
    assert torch.equal(both(x), alone(x))
    assert both.steps.grad is not None and alone.steps.grad is not None
    torch.testing.assert_close(both.steps.grad[0], alone.steps.grad[0], rtol=1e-5, atol=1e-6)
    both.select(1)
    torch.testing.assert_close(both(x).detach(), torch.where(x >= 0, 1.0, -1.0) * x.abs().mean(dim=1, keepdim=True))


@pytest.mark.parametrize(
    ("rule", "at"), [("lsq", "mean"), ("mse", "mean"), ("minmax", "amax"), ("minmax-affine", "amax")]
)
def test_where_rules_put_the_two_levels_of_one_signed_bit(rule: str, at: str) -> None:
    """At the mean of the magnitudes the squared error is least, by trying all places; or at the largest of them."""
    x = torch.randn(3, 200, generator=torch.Generator().manual_seed(0))
    bank = Quantizer([1], signed=True, channels=3)
    bank.initialise(x, find_rule(rule))
    levels = bank(x).detach().abs()
    torch.testing.assert_close(levels, getattr(x.abs(), at)(dim=1, keepdim=True).expand_as(x))
    assert not bank.zero_points.any()
    if at == "mean":
        error = (x.abs() - levels).square().sum(dim=1)
        others = torch.linspace(0.05, 3, 400)[:, None, None]
        assert bool((error <= (x.abs() - others).square().sum(dim=2).amin(dim=0) + 1e-3).all())


@pytest.mark.parametrize("compiled", [True, False], ids=["kernel", "fallback"])
@pytest.mark.parametrize(("bits", "signed"), [(16, True), (16, False), (9, True), (12, False), (1, False)])
def test_nine_to_sixteen_bits_and_one_unsigned_bit_are_those_of_the_paper(
    bits: int, signed: bool, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole numbers up to 65535 times a power of two: float32 holds them and the ties between them exactly."""
    if not compiled:
        monkeypatch.setattr("mixbit.quantizers.operator.kernels_of", lambda _dtype: None)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    bank, step = Quantizer([bits], signed=signed, gradient_scale="none"), torch.tensor([2.0**-10])
    with torch.no_grad():
        bank.steps.copy_(step[None])
    draws = torch.randint(2 * low - 10, 2 * high + 10, (400,), generator=torch.Generator().manual_seed(bits))
    x = ((draws / 2).clamp(low - 3, high + 3) * step).requires_grad_()
    up = eighths((400,), 1, seed=1)
    y = bank(x)
    y.backward(up)
    want = lsq(x.detach(), up, step, low, high)
    assert x.grad is not None and bank.steps.grad is not None
    assert torch.equal(y.detach().double(), want[0]) and torch.equal(x.grad.double(), want[1])
    torch.testing.assert_close(bank.steps.grad[0].double(), want[2], rtol=1e-5, atol=1e-5 * high)


def test_dorefa_refuses_weights_of_one_bit() -> None:
    with pytest.raises(MixbitError, match="weights='dorefa' at 1 bit.*Use weights='lsq'"):
        WEIGHTS.find("dorefa")([2, 1], signed=True)


def test_each_sample_is_quantized_with_its_own_row() -> None:
    bank = Quantizer([4, 2], signed=False, batched=True)
    with torch.no_grad():
        bank.steps.copy_(torch.tensor([[0.1], [0.4]]))
    x = torch.rand(3, 5, generator=torch.Generator().manual_seed(0))
    bank.select_samples(torch.tensor([1, 0, 1]))
    found = bank(x)
    assert bank.used == [0, 1]
    for at, bits in enumerate((2, 4, 2)):
        bank.select(bits)
        assert torch.equal(found[at : at + 1], bank(x[at : at + 1]))
    assert bank.used == [1] and bank.rows is None


def test_rows_that_a_bank_does_not_have() -> None:
    with pytest.raises(MixbitError, match=r"row 2 of a bank of 2 bit-widths, \[4, 2\]"):
        Quantizer([4, 2], signed=False, batched=True).select_samples(torch.tensor([0, 2]))
    with pytest.raises(MixbitError, match="Pact has no bit-width a sample: its clip is one for the whole batch"):
        Pact([4, 2], signed=False, batched=True).select_samples(torch.tensor([0, 1]))
    weights = Quantizer([4, 2], signed=True)
    weights.select_samples(torch.tensor([0, 1]))
    with pytest.raises(MixbitError, match="weights have no batch"):
        weights(torch.zeros(2, 3))


def test_a_bank_of_the_selected_bits_alone() -> None:
    bank = Quantizer([4, 2, 1], signed=True, channels=2)
    bank.initialise(torch.tensor([[0.5, -1.0], [2.0, 3.0]]), find_rule("minmax"))
    for bits in (2, 1):
        twin, x = copy.deepcopy(bank), torch.randn(2, 5)
        twin.select(bits)
        wanted = twin(x)
        twin.keep_row()
        assert twin.bits == (bits,) and twin.steps.shape == (1, 2) and torch.equal(twin(x), wanted)
        assert twin.steps.requires_grad and not twin.never_set


@pytest.mark.parametrize("samples", [1, 6])
def test_samples_of_one_signed_bit_stand_beside_others_in_a_batch(samples: int) -> None:
    """Each sample as a bank that has its row alone would quantize it, and the gradients of steps added up."""
    x, up = torch.randn(samples, 30), torch.randn(samples, 30)
    bank = Quantizer([4, 1, 16], signed=True, batched=True)
    bank.initialise(x, find_rule("minmax"))
    rows = torch.tensor([1, 0, 2, 1, 1, 0])[:samples]
    bank.select_samples(rows)
    y = bank(x)
    y.backward(up)
    wanted = torch.zeros_like(bank.steps)
    for at, row in enumerate(rows.tolist()):
        alone = Quantizer([bank.bits[row]], signed=True, batched=True)
        with torch.no_grad():
            alone.steps.copy_(bank.steps[row : row + 1])
        one = alone(x[at : at + 1])
        one.backward(up[at : at + 1])
        assert alone.steps.grad is not None and torch.equal(one, y[at : at + 1])
        wanted[row] += alone.steps.grad[0]
    torch.testing.assert_close(bank.steps.grad, wanted, rtol=1e-4, atol=1e-4)
    assert set(y[0].detach().abs().unique().tolist()) == {float(bank.steps.detach()[1] / 2)}
