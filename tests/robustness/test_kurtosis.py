"""KURE: the statistic, its gradient, which layers it takes, and what it does to weights."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from mixbit.cost import LayerBits
from mixbit.errors import MixbitError, TrainingDiverged
from mixbit.policy import Policy
from mixbit.quantize import QuantizeConfig, quantize
from mixbit.quantizers.rules import mse
from mixbit.robustness.kurtosis import KurtosisConfig, KurtosisPenalty, kurtosis, kurtosis_gradient, kurtosis_loss
from mixbit.task import Task
from mixbit.training import TrainConfig, train
from tests.support import summation_error
from tests.tasks import tiny_task

# Population values of known distributions (dossier 04, section 5), by quantiles of 200,000 points.
DISTRIBUTIONS = [
    (stats.uniform, 1.8), (stats.norm, 3.0), (stats.laplace, 6.0), (stats.logistic, 4.2), (stats.triang(0.5), 2.4),
    (stats.arcsine, 1.5),
]  # fmt: skip


@pytest.mark.parametrize(("distribution", "expected"), DISTRIBUTIONS)
def test_known_distributions(distribution: object, expected: float) -> None:
    points = distribution.ppf((np.arange(2_000_000) + 0.5) / 2_000_000)  # type: ignore[attr-defined]
    assert float(kurtosis(torch.from_numpy(points), unbiased=False)) == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize(
    ("levels", "expected"), [(2, 1.0), (3, 1.5), (4, 1.64), (8, 1.761905), (16, 1.790588), (256, 1.799963)]
)
def test_equispaced_levels(levels: int, expected: float) -> None:
    w = torch.arange(levels, dtype=torch.float64)
    assert float(kurtosis(w, unbiased=False)) == pytest.approx(expected, abs=5e-7)
    assert 3 - 6 * (levels**2 + 1) / (5 * (levels**2 - 1)) == pytest.approx(expected, abs=5e-7)


@given(st.integers(0, 10_000), st.integers(8, 400))
@settings(max_examples=30, deadline=None)
def test_scipy_agrees(seed: int, count: int) -> None:
    w = np.random.default_rng(seed).laplace(size=count)
    found = float(kurtosis(torch.from_numpy(w), unbiased=False))
    assert found == pytest.approx(float(stats.kurtosis(w, fisher=False, bias=True)), rel=1e-6)
    unbiased = float(kurtosis(torch.from_numpy(w)))
    assert unbiased == pytest.approx(found * ((count - 1) / count) ** 2, rel=1e-6)


@pytest.mark.parametrize("unbiased", [True, False])
def test_closed_form_is_autograd(unbiased: bool) -> None:
    rows = torch.randn(5, 700, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.05
    values, slopes = kurtosis_gradient(rows.clone(), unbiased=unbiased)
    for row, value, slope in zip(rows, values, slopes, strict=True):
        leaf = row.clone().requires_grad_()
        expected = kurtosis(leaf, unbiased=unbiased)
        (autograd,) = torch.autograd.grad(expected, leaf)
        assert value.item() == pytest.approx(expected.item(), rel=1e-8)
        assert torch.allclose(slope, autograd, rtol=1e-7, atol=1e-12)
        assert abs(slope.sum().item()) < 1e-10 and abs((slope * row).sum().item()) < 1e-7  # shift, scale


def penalty_gradient(task: Task, config: KurtosisConfig, policy: Policy | None = None) -> dict[str, Tensor]:
    for parameter in task.model.parameters():
        parameter.grad = None
    KurtosisPenalty(task, config, policy)(task.model, 1.0)
    return {n: p.grad.clone() for n, p in task.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("combine", ["avg", "sum", "max"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_penalty_is_the_published_loss(combine: str, channels_last: bool) -> None:
    """Value and gradient equal autograd through the paper's formula over all convolutions but the first."""
    task = tiny_task()
    if channels_last:
        task.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    config = KurtosisConfig(weight=0.7, combine=combine)  # type: ignore[arg-type]
    penalty = KurtosisPenalty(task, config)
    assert penalty.layers == ("conv1", "conv2")
    value, found = penalty(task.model, 0.0), penalty_gradient(task, config)
    weights = [task.model.get_parameter(f"{name}.weight") for name in penalty.layers]
    loss = 0.7 * kurtosis_loss(weights, combine=combine)  # type: ignore[arg-type]
    expected = torch.autograd.grad(loss, weights)
    # A kurtosis is a mean of fourth powers of normalised weights, so it carries the error of a sum times four; the loss
    # has twice the distance from the target for each.
    found_k = [kurtosis(w.detach()).item() for w in weights]
    errors = [2 * abs(k - 1.8) * 4 * summation_error(k, w.numel()) for k, w in zip(found_k, weights, strict=True)]
    assert float(value) == pytest.approx(float(loss.detach()), abs=0.7 * sum(errors), rel=0)
    for name, gradient in zip(penalty.layers, expected, strict=True):
        assert torch.allclose(found[f"{name}.weight"], gradient, rtol=1e-3, atol=1e-6)


def test_gradient_is_added_to_what_is_there() -> None:
    task = tiny_task()
    alone = penalty_gradient(task, KurtosisConfig())["conv1.weight"]
    task.model.conv1.weight.grad = torch.ones_like(alone)  # type: ignore[union-attr]
    KurtosisPenalty(task)(task.model, 0.0)
    assert torch.allclose(task.model.conv1.weight.grad, alone + 1)  # type: ignore[union-attr]


def test_every_layer_left_out_is_listed_with_its_reason() -> None:
    penalty = KurtosisPenalty(tiny_task(), KurtosisConfig(skip=("conv2",)))
    reasons = {one.name: one.reason for one in penalty.skipped}
    assert penalty.layers == ("conv1",)
    assert reasons == {
        "stem": "the first layer",
        "conv2": "left out by skip",
        "hidden": "linear, and linear='none'",
        "head": "linear, and linear='none'",
    }


@pytest.mark.parametrize(
    ("linear", "layers"),
    [("hidden", ("conv1", "conv2", "hidden")), ("all", ("conv1", "conv2", "hidden", "head"))],
)
def test_linear_layers(linear: str, layers: tuple[str, ...]) -> None:
    assert KurtosisPenalty(tiny_task(), KurtosisConfig(linear=linear)).layers == layers  # type: ignore[arg-type]


def test_constant_and_tiny_weights_are_left_out() -> None:
    task = tiny_task()
    with torch.no_grad():
        task.model.conv1.weight.fill_(0.3)  # type: ignore[union-attr,operator]
    reasons = {one.name: one.reason for one in KurtosisPenalty(task, KurtosisConfig(linear="all")).skipped}
    assert reasons["conv1"] == "all its weights are equal"
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 3, 1), nn.Conv2d(3, 3, 1), nn.Flatten(), nn.Linear(108, 3))
    small = KurtosisPenalty(replace(tiny_task(), model=model, network=None))  # type: ignore[arg-type]
    assert small.layers == ("2",)
    assert {one.name: one.reason for one in small.skipped}["1"].startswith("6 weights, fewer than 8")


def test_a_weight_that_becomes_constant_gets_no_gradient() -> None:
    task = tiny_task()
    penalty = KurtosisPenalty(task)
    with torch.no_grad():
        task.model.conv1.weight.fill_(0.3)  # type: ignore[union-attr,operator]
    value = penalty(task.model, 0.0)
    assert math.isfinite(float(value)) and not task.model.conv1.weight.grad.any()  # type: ignore[union-attr,operator]


def test_channels() -> None:
    """The mean over channels of each channel's own term; a channel of fewer than 64 weights says nothing."""
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 4, 3), nn.Conv2d(4, 4, 3, groups=4, padding=1), nn.Flatten())
    task = replace(tiny_task(), model=model, network=None)  # type: ignore[arg-type]
    config = KurtosisConfig(granularity="channel", combine="sum")
    penalty, found = KurtosisPenalty(task, config), penalty_gradient(task, config)
    wide, deep = model[1].weight, model[2].weight
    assert isinstance(wide, Tensor) and isinstance(deep, Tensor)
    term = torch.stack([(kurtosis(channel) - 1.8) ** 2 for channel in wide]).mean()  # 72 weights a channel
    (expected,) = torch.autograd.grad(term, wide)
    assert torch.allclose(found["1.weight"], expected, rtol=1e-3, atol=1e-6)
    whole = (kurtosis(deep) - 1.8) ** 2  # 9 weights a channel
    assert torch.allclose(found["2.weight"], torch.autograd.grad(whole, deep)[0], rtol=1e-3, atol=1e-6)
    assert penalty.values(model)["2"] == pytest.approx(float(kurtosis(deep)), rel=1e-5)


def test_folded_weight() -> None:
    """The statistic of `w * gamma / sqrt(var + eps)`, with the factor as a constant."""
    task = tiny_task()
    norm = task.model.bn1
    assert isinstance(norm, nn.BatchNorm2d) and norm.running_var is not None
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.1, 1.0, 2.0, 4.0]))
        norm.running_var.copy_(torch.tensor([1.0, 4.0, 0.5, 1.0]))
    config = KurtosisConfig(folded=True, combine="sum", skip=("conv2",))
    found = penalty_gradient(task, config)
    weight = task.model.conv1.weight
    assert isinstance(weight, Tensor)
    factor = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach().view(-1, 1, 1, 1)
    (expected,) = torch.autograd.grad((kurtosis(weight * factor) - 1.8) ** 2, weight)
    assert torch.allclose(found["conv1.weight"], expected, rtol=1e-3, atol=1e-6)
    assert norm.weight.grad is None
    assert not torch.allclose(expected, penalty_gradient(task, replace(config, folded=False))["conv1.weight"])


def test_bits_weigh_the_layers() -> None:
    task = tiny_task()
    bits = {layer.name: LayerBits(8, 8) for layer in task.network.layers} | {"conv2": LayerBits(5, 8)}
    policy = Policy(fingerprint=task.network.fingerprint, layers=bits)
    found = penalty_gradient(task, KurtosisConfig(by_bits=True), policy)
    plain = penalty_gradient(task, KurtosisConfig())
    assert not found["conv1.weight"].any()
    assert torch.allclose(found["conv2.weight"], plain["conv2.weight"] * 0.5)


def test_warmup() -> None:
    task = tiny_task()
    penalty, full = KurtosisPenalty(task, KurtosisConfig(warmup_epochs=2.0)), KurtosisPenalty(task)
    values = [float(penalty(task.model, epoch)) for epoch in (0.0, 1.0, 2.0, 3.0)]
    whole = float(full(task.model, 0.0))
    assert values == pytest.approx([0.0, whole / 2, whole, whole])


def test_clip_never_exceeds_the_task() -> None:
    task = tiny_task()
    for parameter in task.model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-4)
    before = task.model.conv1.weight.grad.clone()  # type: ignore[union-attr,operator]
    KurtosisPenalty(task, KurtosisConfig(clip=True))(task.model, 0.0)
    added = task.model.conv1.weight.grad - before  # type: ignore[union-attr,operator]
    assert float(added.norm()) == pytest.approx(float(before.norm()), rel=1e-4)


def test_pure_descent() -> None:
    """Dossier 04, section 5: N(0, 0.05^2), 18,432 elements, SGD 0.1: near 1.80 after 100 steps, spread unchanged."""
    rows = (torch.randn(1, 18_432, generator=torch.Generator().manual_seed(0)) * 0.05).double()
    seen = {}
    for step in range(301):
        value, slope = kurtosis_gradient(rows)
        seen[step] = float(value)
        rows -= 0.1 * 2 * (value - 1.8) * slope
    assert seen[0] == pytest.approx(3.0, abs=0.1)
    assert seen[10] == pytest.approx(2.05, abs=0.05) and seen[30] == pytest.approx(1.87, abs=0.02)
    assert seen[100] == pytest.approx(1.802, abs=0.002) and seen[300] == pytest.approx(1.8, abs=0.001)
    assert float(rows.std()) == pytest.approx(0.05, rel=0.02)


def test_high_rates_run_away_and_are_caught() -> None:
    """The term has no scale, so nothing but this check sees the weights grow (dossier 04, 4.7)."""
    task = tiny_task()
    penalty = KurtosisPenalty(task)
    penalty.check_growth(task.model)
    with torch.no_grad():
        task.model.conv2.weight *= 1000  # type: ignore[operator]
    with pytest.raises(TrainingDiverged, match=r"conv2.*standard deviation went from .* clip=true"):
        penalty.check_growth(task.model)
    with torch.no_grad():
        task.model.conv2.weight.view(-1)[0] = float("inf")  # type: ignore[union-attr,operator]
    with pytest.raises(TrainingDiverged, match=r"conv2.*its term is"):
        penalty(task.model, 0.0)


def test_training_spreads_the_weights_evenly() -> None:
    """Relative squared error of the best step: the ratios of the table of uniform and normal (section 5)."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(128, 3),
    )  # fmt: skip
    task = replace(tiny_task(), model=model, network=None)  # type: ignore[arg-type]
    with torch.no_grad():
        for layer in (model[2], model[4]):
            assert isinstance(layer.weight, Tensor)
            layer.weight.normal_(0, 0.1)
    before = [_relative_error(model[2].weight, bits) for bits in (2, 3, 4)]
    penalty = KurtosisPenalty(task)
    config = TrainConfig(epochs=150, batch_size=64, lr=0.1, bn_samples=0, augment=False, validate_every=0)
    train(model, task.train, None, config, penalty=penalty, quiet=True)
    record = penalty.record(model)
    assert record["gap"] < 0.05 and record["peak"] < 2.6
    after = [_relative_error(model[2].weight, bits) for bits in (2, 3, 4)]
    ratios = [b / a for b, a in zip(before, after, strict=True)]
    assert 1.1 < ratios[0] < 1.7 and 1.4 < ratios[1] < 2.4 and 1.8 < ratios[2] < 3.2


def _relative_error(weight: object, bits: int) -> float:
    assert isinstance(weight, Tensor)
    rows = weight.detach().reshape(1, -1)
    step, _ = mse(rows, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    error = (rows / step).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * step - rows
    return float(error.square().mean() / rows.var())


def test_quantized_layers_are_regularised_by_their_latent_weights() -> None:
    task = tiny_task()
    penalty = KurtosisPenalty(task)
    expected = float(penalty(task.model, 0.0))
    quantize(task.model, Policy.uniform(task.network, 2, 2), task.network, QuantizeConfig(per_channel=False))
    assert float(penalty(task.model, 0.0)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"target": 0.5}, "target=0.5 is illegal. Legal: a number from 1 up"),
        ({"weight": -1}, "weight=-1 is illegal"),
        ({"combine": "mean"}, "'avg', 'sum' or 'max'"),
        ({"patience": 1.5}, "patience=1.5 is illegal. Legal: a whole number"),
        ({"gap": float("nan")}, "gap=nan is illegal"),
        ({"stop": 1}, "stop=1 is illegal. Legal: true or false"),
        ({"skip": "conv1"}, "skip='conv1' is illegal. Legal: a list, each text"),
        (float("inf"), "weight=inf is illegal"),
        ({"granularity": "filter"}, "'tensor' or 'channel'"),
        ({"wieght": 1}, "no setting 'wieght'. Did you mean 'weight'"),
        ("on", "kurtosis='on' is no setting"),
        ({"held_out": 1.5}, "held_out=1.5 is illegal"),
    ],
)
def test_bad_settings(setting: object, message: str) -> None:
    with pytest.raises(MixbitError, match=message.replace("(", r"\(")):
        KurtosisConfig.from_setting(setting)


def test_settings_of_a_command_line() -> None:
    assert KurtosisConfig.from_setting(None) is None and KurtosisConfig.from_setting(False) is None
    assert KurtosisConfig.from_setting(True) == KurtosisConfig()
    assert KurtosisConfig.from_setting({"skip": ["a"]}) == KurtosisConfig(skip=("a",))


def test_errors_of_a_task() -> None:
    with pytest.raises(MixbitError, match=r"skip=\['conv3'\] names no layer. Did you mean 'conv1'|'conv2'"):
        KurtosisPenalty(tiny_task(), KurtosisConfig(skip=("conv3",)))
    with pytest.raises(MixbitError, match="by_bits=True needs a policy"):
        KurtosisPenalty(tiny_task(), KurtosisConfig(by_bits=True))
    with pytest.raises(MixbitError, match=r"no layer is left to regularise: stem: the first layer; .*linear='all'"):
        KurtosisPenalty(tiny_task(), KurtosisConfig(skip=("conv1", "conv2")))
