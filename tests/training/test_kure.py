"""KURE: which layers the penalty takes, what it adds, and what it does to weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from mixbit.cost import LayerBits
from mixbit.errors import MixbitError, TrainingDiverged
from mixbit.policy import Policy
from mixbit.quantization import QuantizeConfig, quantize
from mixbit.quantizers.rules import mse
from mixbit.task import Task
from mixbit.testing.options import OptionCases, OptionRow, fields_of
from mixbit.training import KurtosisConfig, KurtosisPenalty, TrainConfig, stopping, train
from mixbit.training.kurtosis import kurtosis, kurtosis_gradient, kurtosis_loss
from tests.support import summation_error
from tests.tasks import tiny_task


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
    """From N(0, 0.05^2), 18,432 elements, SGD 0.1: near 1.80 after 100 steps, spread unchanged."""
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
    """The term has no scale, so nothing but this check sees the weights grow."""
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
    with pytest.raises(MixbitError, match=r"skip=\['conv3'\] names no layer. Did you mean 'conv[12]'"):
        KurtosisPenalty(tiny_task(), KurtosisConfig(skip=("conv3",)))
    with pytest.raises(MixbitError, match="by_bits=True needs a policy"):
        KurtosisPenalty(tiny_task(), KurtosisConfig(by_bits=True))
    with pytest.raises(MixbitError, match=r"no layer is left to regularise: stem: the first layer; .*linear='all'"):
        KurtosisPenalty(tiny_task(), KurtosisConfig(skip=("conv1", "conv2")))


# ------------------------------------------------------------------------------------------- every option, by numbers


@cache
def task_of_options() -> Task:
    """`tiny_task`, captured once: that is the slow part. The penalty touches nothing but gradients."""
    task = tiny_task()
    torch.manual_seed(3)
    with torch.no_grad():
        for name, shift in (("conv1", 0.0), ("conv2", 0.5)):
            layer = task.model.get_submodule(name)
            layer.weight.normal_().pow_(3).add_(shift)  # type: ignore[union-attr,operator]
        norm = task.model.get_submodule("bn1")
        norm.running_var.copy_(torch.tensor([1e-5, 4.0, 0.5, 1.0]))  # type: ignore[union-attr,operator]
        norm.weight.copy_(torch.tensor([0.01, 1.0, -2.0, 4.0]))  # type: ignore[union-attr,operator]
    assert task.network.layers
    return task


@cache
def wide_task() -> Task:
    """A convolution of 64 weights a channel, two of fewer (96 and 16 in all); means and spreads differ."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(1, 16, 3), nn.Conv2d(16, 3, 2), nn.Conv2d(3, 8, 2), nn.Conv2d(8, 2, 1))
    with torch.no_grad():
        model[1].weight.normal_().mul_(torch.tensor([0.1, 1.0, 5.0]).view(3, 1, 1, 1))  # type: ignore[union-attr,operator]
        model[1].weight[2] += 3.0  # type: ignore[index]
    task = replace(tiny_task(), model=model, network=None)  # type: ignore[arg-type]
    assert task.network.layers
    return task


def scipy_kurtosis(weight: Tensor, unbiased: bool = True) -> float:
    """By scipy; the authors' divisor of N - 1 in the deviation makes it `((N - 1) / N)^2` of that."""
    values = weight.detach().double().numpy().ravel()
    plain = float(stats.kurtosis(values, fisher=False, bias=True))
    return plain * ((values.size - 1) / values.size) ** 2 if unbiased else plain


def weights_of(task: Task, *names: str) -> list[Tensor]:
    return [task.model.get_parameter(f"{name}.weight") for name in names]


def terms(target: float = 1.8, *, unbiased: bool = True) -> list[float]:
    """Of the two convolutions that are regularised by default."""
    return [(scipy_kurtosis(w, unbiased) - target) ** 2 for w in weights_of(task_of_options(), "conv1", "conv2")]


def penalised(config: KurtosisConfig, policy: Policy | None = None, epoch: float = 1.0) -> float:
    """The value of the term, once its gradient was found to be that of its value along the gradient itself.

    The value is probed at two points half a step apart in the direction of the gradient that was added.
    """
    task = task_of_options()
    penalty = KurtosisPenalty(task, config, policy)
    for parameter in task.model.parameters():
        parameter.grad = None
    value = float(penalty(task.model, epoch))
    added = {n: p.grad.clone() for n, p in task.model.named_parameters() if p.grad is not None}
    length = sum(float(g.double().square().sum()) for g in added.values()) ** 0.5
    if length:
        saved = {n: p.detach().clone() for n, p in task.model.named_parameters() if n in added}
        ends = []
        for side in (-1, 1):
            with torch.no_grad():
                for name, gradient in added.items():
                    task.model.get_parameter(name).copy_(saved[name] + side * 2e-3 / length * gradient)
            ends.append(float(penalty(task.model, epoch)))
        with torch.no_grad():
            for name, weight in saved.items():
                task.model.get_parameter(name).copy_(weight)
        assert (ends[1] - ends[0]) / 4e-3 == pytest.approx(length, rel=0.03)
    return value


def are(*wanted: float) -> Callable[[Any, Any], bool]:
    return lambda *found: found == pytest.approx(wanted, rel=1e-3)


def layers_of(config: KurtosisConfig) -> tuple[str, ...]:
    return KurtosisPenalty(task_of_options(), config).layers


def by_bits(value: bool) -> float:
    """Layers at 2 and at 6 bits: shares of 1 and of 1/3."""
    network = task_of_options().network
    bits = {layer.name: LayerBits({"conv1": 2, "conv2": 6}.get(layer.name, 8), 8) for layer in network.layers}
    return penalised(KurtosisConfig(by_bits=value), Policy(fingerprint=network.fingerprint, layers=bits))


def channelwise(granularity: str) -> dict[str, float]:
    task = wide_task()
    penalty = KurtosisPenalty(task, KurtosisConfig(granularity=granularity, combine="sum"))  # type: ignore[arg-type]
    return {**penalty.values(task.model), "all": float(penalty(task.model, 0.0))}


def channels_expected() -> tuple[dict[str, float], dict[str, float]]:
    """As one tensor each, and with a mean over channels where there are 64 weights a channel (layer 1: 16 * 4)."""
    first, *others = weights_of(wide_task(), "1", "2", "3")
    rest = [scipy_kurtosis(w) for w in others]
    kinds = [[scipy_kurtosis(first)], [scipy_kurtosis(channel) for channel in first]]
    found = []
    for values in kinds:
        total = float(np.mean([(k - 1.8) ** 2 for k in values])) + sum((k - 1.8) ** 2 for k in rest)
        found.append({"1": float(np.mean(values)), "2": rest[0], "3": rest[1], "all": total})
    return found[0], found[1]


def folded_expected() -> float:
    """`w * gamma / sqrt(var + eps)` of the convolution that a batch norm follows; here both have one."""
    found = []
    for layer, norm in (("conv1", "bn1"), ("conv2", "bn2")):
        module = task_of_options().model.get_submodule(norm)
        assert isinstance(module, nn.BatchNorm2d) and module.running_var is not None
        factor = module.weight / (module.running_var + module.eps).sqrt()
        (weight,) = weights_of(task_of_options(), layer)
        found.append((scipy_kurtosis(weight * factor.view(-1, 1, 1, 1)) - 1.8) ** 2)
    return float(np.mean(found))


def clipped(clip: bool) -> tuple[float, float]:
    """Lengths of what is added to a long gradient of the task and to a short one."""
    task = task_of_options()
    penalty = KurtosisPenalty(task, KurtosisConfig(clip=clip, weight=2.0))
    for name, size in (("conv1", 1e4), ("conv2", 1e-3)):
        parameter = task.model.get_parameter(f"{name}.weight")
        parameter.grad = torch.full_like(parameter, size).double().float()
    before = [w.grad.clone() for w in weights_of(task, "conv1", "conv2")]  # type: ignore[union-attr]
    penalty(task.model, 0.0)
    added = [w.grad - old for w, old in zip(weights_of(task, "conv1", "conv2"), before, strict=True)]  # type: ignore[operator]
    return tuple(float(one.norm()) for one in added)  # type: ignore[return-value]


def clip_holds(free: tuple[float, float], bound: tuple[float, float]) -> bool:
    """The long gradient bounds nothing, the short one bounds the term to its own length."""
    count = weights_of(task_of_options(), "conv2")[0].numel()
    limit = 1e-3 * count**0.5
    return bound == pytest.approx((free[0], limit), rel=1e-2) and free[1] > 2 * limit


def monitored(**settings: Any) -> tuple[int, int | None]:
    """Images that a run trains on and that it holds out."""
    task = replace(task_of_options(), penalty=KurtosisPenalty(task_of_options()))
    found, watch = stopping.monitored(task, KurtosisConfig(**settings), Path(), 0)
    assert watch is not None
    return len(found.train), None if watch.held_out is None else len(watch.held_out)


class TestKurtosisConfigOptions(OptionCases):
    owner = KurtosisConfig
    options = fields_of(KurtosisConfig)
    rows = (
        OptionRow(
            "weight", (1.0, 0.25),
            seen=lambda value: penalised(KurtosisConfig(weight=value)),
            holds=lambda a, b: are(np.mean(terms()), np.mean(terms()) / 4)(a, b),
        ),
        OptionRow(
            "target", (1.8, 2.5),
            seen=lambda value: penalised(KurtosisConfig(target=value)),
            holds=lambda a, b: are(np.mean(terms()), np.mean(terms(2.5)))(a, b),
        ),
        OptionRow(
            "target", (1.8, 30.0), says="the gap that is recorded is to it, whichever side",
            seen=lambda value: KurtosisPenalty(task_of_options(), KurtosisConfig(target=value)).record(
                task_of_options().model
            )["gap"],
            holds=lambda a, b: are(*(np.mean(np.sqrt(terms(target))) for target in (1.8, 30.0)))(a, b),
        ),
        OptionRow(
            "combine", ("avg", "sum"),
            seen=lambda value: penalised(KurtosisConfig(combine=value)),
            holds=lambda a, b: are(np.mean(terms()), sum(terms()))(a, b),
        ),
        OptionRow(
            "combine", ("avg", "max"),
            seen=lambda value: penalised(KurtosisConfig(combine=value)),
            holds=lambda a, b: are(np.mean(terms()), max(terms()))(a, b),
        ),
        OptionRow(
            "linear", ("none", "hidden"),
            seen=lambda value: layers_of(KurtosisConfig(linear=value)),
            holds=lambda a, b: (a, b) == (("conv1", "conv2"), ("conv1", "conv2", "hidden")),
        ),
        OptionRow(
            "linear", ("hidden", "all"),
            seen=lambda value: layers_of(KurtosisConfig(linear=value)),
            holds=lambda a, b: (a, b) == (("conv1", "conv2", "hidden"), ("conv1", "conv2", "hidden", "head")),
        ),
        OptionRow(
            "skip", ((), ("conv1",)),
            seen=lambda value: penalised(KurtosisConfig(skip=value)),
            holds=lambda a, b: are(np.mean(terms()), terms()[1])(a, b),
        ),
        OptionRow(
            "granularity", ("tensor", "channel"),
            seen=channelwise,
            holds=lambda a, b: (a, b) == tuple(pytest.approx(one, rel=1e-4) for one in channels_expected()),
        ),
        OptionRow(
            "folded", (False, True),
            seen=lambda value: penalised(KurtosisConfig(folded=value)),
            holds=lambda a, b: are(np.mean(terms()), folded_expected())(a, b),
        ),
        OptionRow(
            "unbiased", (True, False),
            seen=lambda value: penalised(KurtosisConfig(unbiased=value)),
            holds=lambda a, b: are(np.mean(terms()), np.mean(terms(unbiased=False)))(a, b),
        ),
        OptionRow(
            "unbiased", (True, False), says="in what is told, too",
            seen=lambda value: KurtosisPenalty(task_of_options(), KurtosisConfig(unbiased=value)).values(
                task_of_options().model
            )["conv1"],
            holds=lambda a, b: are(
                *(scipy_kurtosis(weights_of(task_of_options(), "conv1")[0], unbiased) for unbiased in (True, False))
            )(a, b),
        ),
        OptionRow(
            "by_bits", (False, True),
            seen=by_bits,
            holds=lambda a, b: are(np.mean(terms()), (terms()[0] + terms()[1] / 3) / 2)(a, b),
        ),
        OptionRow(
            "warmup_epochs", (0.0, 4.0),
            seen=lambda value: penalised(KurtosisConfig(warmup_epochs=value)),
            holds=lambda a, b: are(np.mean(terms()), np.mean(terms()) / 4)(a, b),
        ),
        OptionRow("clip", (False, True), seen=clipped, holds=clip_holds),
        OptionRow(
            "stop", (False, True),
            seen=lambda value: monitored(stop=value),
            holds=lambda a, b: (a, b) == ((64, None), (61, 3)),
        ),
        OptionRow(
            "held_out", (0.05, 0.5),
            seen=lambda value: monitored(stop=True, held_out=value),
            holds=lambda a, b: sum(a) == sum(b) == 64 and a[1] <= 4 and b[1] in (31, 32, 33),
        ),
    )  # fmt: skip
    elsewhere: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(
            ("gap", "gap_epochs", "patience"), "tests/training/test_stopping.py::test_every_number_of_the_rule_counts"
        ),
        "max_drop": "tests/training/test_stopping.py::test_the_nearest_epoch_that_dropped_little_enough_is_kept",
    }


def test_the_defaults_are_those_that_are_documented() -> None:
    config = KurtosisConfig()
    assert {name: getattr(config, name) for name in fields_of(KurtosisConfig)} == {
        "weight": 1.0, "target": 1.8, "combine": "avg", "linear": "none", "skip": (), "granularity": "tensor",
        "folded": False, "unbiased": True, "by_bits": False, "warmup_epochs": 0.0, "clip": False, "stop": False,
        "gap": 0.05, "gap_epochs": 2, "patience": 3, "max_drop": 0.005, "held_out": 0.05,
    }  # fmt: skip


def test_layers_of_eight_weights_and_channels_of_64_are_enough() -> None:
    """One fewer is not; a layer without bits of its own has no share by bits."""
    model = nn.Sequential(nn.Conv2d(1, 7, 1), nn.Conv2d(7, 1, 1), nn.Conv2d(1, 8, 1), nn.Conv2d(8, 2, 1))
    task = replace(tiny_task(), model=model, network=None)  # type: ignore[arg-type]
    assert KurtosisPenalty(task).layers == ("2", "3")
    bits = {layer.name: LayerBits(None, None) for layer in task.network.layers}
    policy = Policy(fingerprint=task.network.fingerprint, layers=bits)
    assert float(KurtosisPenalty(task, KurtosisConfig(by_bits=True), policy)(model, 0.0)) == 0


def test_what_is_recorded_is_the_mean_over_layers() -> None:
    task = task_of_options()
    weights = weights_of(task, "conv1", "conv2")
    found = KurtosisPenalty(task).record(task.model)
    values = [scipy_kurtosis(w) for w in weights]
    peaks = [float(w.detach().abs().max() / w.detach().std()) for w in weights]
    assert found == pytest.approx(
        {"mean": np.mean(values), "gap": np.mean(np.abs(np.array(values) - 1.8)), "peak": np.mean(peaks)}, rel=1e-4
    )
    with torch.no_grad():
        weights[0].neg_()  # the largest magnitude may be negative
    assert KurtosisPenalty(task).record(task.model)["peak"] == pytest.approx(np.mean(peaks), rel=1e-4)
    with torch.no_grad():
        weights[0].neg_()


@pytest.mark.parametrize(("growth", "diverges"), [(99.0, False), (101.0, True)])
def test_growth_beyond_a_hundredfold_is_divergence(growth: float, diverges: bool) -> None:
    task = tiny_task()
    penalty = KurtosisPenalty(task)
    with torch.no_grad():
        task.model.get_parameter("conv1.weight").mul_(growth)
    if diverges:
        with pytest.raises(TrainingDiverged, match="conv1"):
            penalty.check_growth(task.model)
    else:
        penalty.check_growth(task.model)
