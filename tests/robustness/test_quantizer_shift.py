"""Shifted quantizers: the arithmetic of every shift, what sweeps report, and that models are as before."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mixbit import data
from mixbit.errors import MixbitError, PolicyError
from mixbit.evaluation import Metrics, evaluate
from mixbit.network import Network, capture
from mixbit.policy import LayerBits, Policy, resolve_pins
from mixbit.ptq import PTQConfig, correct_bias
from mixbit.quantization import QuantizeConfig, attach, calibrate, quantize, quantized_layers
from mixbit.quantizers import Quantizer, WeightKind, find_rule
from mixbit.robustness.quantizer_shift import (
    BITS,
    BitShift,
    Clipping,
    PowerOfTwoStep,
    RoundBy,
    ScaledStep,
    Shift,
    ShiftPoint,
    ShiftSweep,
    WeightBits,
    bit_shift_sweep,
    clipping_sweep,
    evaluator,
    left_alone,
    power_of_two,
    ptq_bit_sweep,
    qat_bit_sweep,
    rounding_sweep,
    shifted,
    step_sweep,
)
from mixbit.supernet import select
from mixbit.task import Task
from tests.tasks import Net

KINDS: tuple[WeightKind, ...] = ("lsq", "midrise", "lsq-clip", "dorefa")
SHIFTS: tuple[Shift, ...] = (
    ScaledStep(0.8), ScaledStep(1.25), PowerOfTwoStep(), WeightBits(2), WeightBits(8), WeightBits(None), BitShift(-1),
    RoundBy("half-away"), RoundBy("floor"), RoundBy("truncate"), RoundBy("stochastic"), Clipping("mse"),
    Clipping("percentile 90"), Clipping("sigma 2"),
)  # fmt: skip
X = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@cache
def digits_task() -> Task:
    """A small network that can tell digits apart, after a few seconds of training."""
    torch.manual_seed(0)
    found = data.load("digits")
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.BatchNorm2d(16),
        nn.ReLU(), nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for epoch in range(3):
        for x, y in found.train.batches(64, epoch=epoch, shuffle=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    return Task(model=model.eval(), train=found.train, test=found.test)


@cache
def network() -> Network:
    return capture(Net().eval(), X)


def quantized(
    bits: int = 4, *, weights: WeightKind = "lsq", per_channel: bool = True, inputs: int | None = None
) -> nn.Module:
    """`Net` with quantizers of one kind on all layers, its steps not those of any rule."""
    torch.manual_seed(0)
    model = Net().eval()
    policy = Policy.uniform(network(), bits, inputs, {})
    quantize(model, policy, network(), QuantizeConfig(weights=weights, per_channel=per_channel))
    if inputs:
        calibrate(model, [X])
    return model


def digits_model(bits: int = 4, *, weights: WeightKind = "lsq", per_channel: bool = False) -> nn.Module:
    """The trained network, quantized."""
    task = digits_task()
    model = copy.deepcopy(task.model)
    config = QuantizeConfig(weights=weights, per_channel=per_channel, weight_rule="mse")
    quantize(model, Policy.uniform(task.network, bits, 8, {}), task.network, config)
    calibrate(model, [next(task.train.batches(256))[0]], "mse")
    return model


def test_images() -> Any:
    return evaluator(digits_task().test)


test_images.__test__ = False  # type: ignore[attr-defined]


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """What every layer computes with."""
    return {name: layer.quantize_weight(layer.weight).detach() for name, layer in quantized_layers(model).items()}  # type: ignore[arg-type]


def one_layer(weight: list[float], bits: int, step: float, *, weights: WeightKind = "lsq") -> nn.Module:
    """A linear layer of one row, one step."""
    model = nn.Sequential(nn.Linear(len(weight), 1, bias=False))
    model[0].weight.data.copy_(torch.tensor([weight]))
    found = capture(model, torch.zeros(1, len(weight)))
    quantize(model, Policy.uniform(found, bits, None, {}), found, QuantizeConfig(weights=weights))
    if weights != "dorefa":
        quantized_layers(model)["0"].weight_quantizer.steps.data.fill_(step)  # type: ignore[union-attr]
    return model


def under(model: nn.Module, shift: Shift, **settings: Any) -> list[float]:
    with shifted(model, shift, **settings):
        return [round(value, 5) for value in weights_of(model)["0"].flatten().tolist()]


# ------------------------------------------------------------------------------------------- what each shift computes


def test_a_larger_factor_is_a_coarser_and_wider_grid() -> None:
    model = one_layer([0.6, -1.3, 5.0], 3, 0.5)
    assert under(model, ScaledStep(1.0)) == [0.5, -1.5, 1.5]
    assert under(model, ScaledStep(2.0)) == [1.0, -1.0, 3.0]
    assert under(model, ScaledStep(0.5)) == [0.5, -1.0, 0.75]


def test_powers_of_two_are_the_nearest_in_the_logarithm() -> None:
    # 0.36 is nearer to 0.25 than to 0.5, but log2(0.36) is -1.474; that of 0.35 is -1.515.
    assert under(one_layer([0.3, 1.1], 4, 0.36), PowerOfTwoStep()) == [0.5, 1.0]
    assert under(one_layer([0.3, 1.1], 4, 0.35), PowerOfTwoStep()) == [0.25, 1.0]


def test_other_bits_keep_the_range() -> None:
    model = one_layer([0.6, -1.3, 5.0], 3, 0.5)  # from -2 in steps of 0.5
    assert under(model, WeightBits(2)) == [1.0, -1.0, 1.0]
    assert under(model, WeightBits(4)) == [0.5, -1.25, 1.75]
    assert under(model, BitShift(1)) == under(model, WeightBits(4))
    assert under(model, WeightBits(None)) == [0.6, -1.3, 5.0]


def test_other_bits_keep_the_clip_of_a_mid_rise_grid() -> None:
    model = one_layer([0.6, -9.0, 9.0], 2, 1.0, weights="midrise")  # levels -1.5, -0.5, 0.5, 1.5
    assert under(model, WeightBits(3)) == [0.64286, -1.5, 1.5]  # steps of 3 / 7
    assert under(model, ScaledStep(2.0)) == [1.0, -3.0, 3.0]


def test_dorefa_scales_levels_a_unit_and_clips_nothing() -> None:
    weight = [0.2, -0.7, 0.1]
    model = one_layer(weight, 4, 1.0, weights="dorefa")
    t = torch.tanh(torch.tensor(weight)) / (2 * torch.tanh(torch.tensor(0.7))) + 0.5
    for x in (0.7, 0.9, 1.0, 1.3):
        levels = 15 / x
        wanted = 2 * torch.round(levels * t) / levels - 1
        assert under(model, ScaledStep(x)) == pytest.approx(wanted.tolist(), abs=2e-5)
    # At x = 1.3, the lowest level is -1 and none lies at 1: with 2^M levels there would be no question.
    assert under(model, WeightBits(2)) == pytest.approx((2 * torch.round(3 * t) / 3 - 1).tolist(), abs=2e-5)
    assert under(model, WeightBits(None)) == pytest.approx((2 * t - 1).tolist(), abs=2e-5)


def test_dorefa_to_a_power_of_two_is_of_the_distance_of_levels() -> None:
    model = one_layer([0.2, -0.7, 0.1], 4, 1.0, weights="dorefa")
    found = [(value + 1) / 0.125 for value in under(model, PowerOfTwoStep())]  # 2 / 15 becomes 2 / 16
    assert found == pytest.approx([round(value) for value in found], abs=1e-3)


@pytest.mark.parametrize(
    ("rounding", "wanted"),
    [
        ("half-even", [0.0, 2.0, 0.0, -2.0, 1.0]),
        ("half-away", [1.0, 2.0, -1.0, -2.0, 1.0]),
        ("floor", [0.0, 1.0, -1.0, -2.0, 0.0]),
        ("truncate", [0.0, 1.0, 0.0, -1.0, 0.0]),
    ],
)
def test_roundings(rounding: Any, wanted: list[float]) -> None:
    assert under(one_layer([0.5, 1.5, -0.5, -1.5, 0.7], 4, 1.0), RoundBy(rounding)) == wanted


def test_half_away_leaves_what_is_below_a_half() -> None:
    below = 0.49999997  # plus 0.5 it is 1.0 in float32
    assert under(one_layer([below, -below], 4, 1.0), RoundBy("half-away")) == [0.0, 0.0]


def test_stochastic_rounding_is_right_in_the_mean_and_follows_its_seed() -> None:
    model = one_layer([0.3] * 4000, 4, 1.0)
    first = under(model, RoundBy("stochastic", 0))
    assert set(first) == {0.0, 1.0} and sum(first) / 4000 == pytest.approx(0.3, abs=0.03)
    assert under(model, RoundBy("stochastic", 0)) == first
    assert under(model, RoundBy("stochastic", 1)) != first


def test_every_layer_draws_its_own_numbers() -> None:
    """Two layers of one shape and weight must not err alike."""
    model = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 40))
    model[1].load_state_dict(model[0].state_dict())
    found = capture(model, torch.zeros(1, 40))
    quantize(model, Policy.uniform(found, 4, None, {}), found)
    with shifted(model, RoundBy("stochastic")):
        one, other = weights_of(model).values()
    assert not torch.equal(one, other)


def test_clipping_rules() -> None:
    weight = [0.1, -0.2, 0.3, 4.0]
    model = one_layer(weight, 3, 0.5)
    rows = torch.tensor([weight])

    def step(rule: str) -> float:
        found: list[float] = []

        class Spy:
            label, value = rule, None

            def __call__(self, grid: Any, seen: Tensor | None) -> Any:
                changed = Clipping(rule)(grid, seen)
                found.append(float(changed.step))
                return changed

        with shifted(model, Spy()):
            return found[0]

    for rule in ("minmax", "mse", "lsq+"):
        assert step(rule) == pytest.approx(float(find_rule(rule)(rows, -4, 3)[0]))
    assert step("sigma 3") == pytest.approx(step("lsq+"))
    assert step("percentile 75") == pytest.approx(0.1) and step("percentile 100") == pytest.approx(4 / 3)
    assert step("sigma 1") < step("sigma 2") < step("sigma 3")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("per_channel", [False, True])
def test_nothing_changed_is_the_same_to_the_last_bit(kind: WeightKind, per_channel: bool) -> None:
    """The grids of this module are those of the quantizers."""
    model = quantized(weights=kind, per_channel=per_channel)
    before = weights_of(model)
    for shift in (ScaledStep(1.0), WeightBits(4), BitShift(0), RoundBy("half-even")):
        with shifted(model, shift) as different:
            after = weights_of(model)
        assert not different and all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("kind", KINDS)
def test_scaled_steps_are_what_the_quantizer_does_with_such_steps(kind: WeightKind) -> None:
    model = quantized(weights=kind)
    with shifted(model, ScaledStep(1.3)) as different:
        found = weights_of(model)
    for layer in quantized_layers(model).values():
        layer.weight_quantizer.steps.data.mul_(1.3)  # type: ignore[union-attr]
    assert different
    for name, wanted in weights_of(model).items():
        torch.testing.assert_close(found[name], wanted, rtol=0, atol=1e-6)


def test_bias_correction_gives_channels_their_means_back() -> None:
    model = quantized(per_channel=True)
    before = {name: weight.flatten(1).mean(dim=1) for name, weight in weights_of(model).items()}
    apart = []
    for corrected in (False, True):
        with shifted(model, WeightBits(2), bias_correction=corrected):
            means = {name: weight.flatten(1).mean(dim=1) for name, weight in weights_of(model).items()}
        apart.append(max(float((means[name] - before[name]).abs().max()) for name in before))
    assert apart[1] < 1e-6 < 1e-3 < apart[0]


def test_a_bias_corrected_model_keeps_its_correction() -> None:
    model = quantized(per_channel=True)
    correct_bias(model)
    before = weights_of(model)
    with shifted(model, ScaledStep(1.5), bias_correction=True):
        after = weights_of(model)
    for name, weight in before.items():
        torch.testing.assert_close(after[name].flatten(1).mean(dim=1), weight.flatten(1).mean(dim=1))


def test_inputs_can_be_shifted_too() -> None:
    model = quantized(inputs=4)
    layer = quantized_layers(model)["conv1"]
    assert isinstance(layer.input_quantizer, Quantizer)
    x, weight = torch.rand(2, 4, 6, 6), weights_of(model)["conv1"]
    step = float(layer.input_quantizer.steps.detach())
    with shifted(model, ScaledStep(2.0), sides="inputs"):
        found = layer.quantize_input(x)
        assert torch.equal(weights_of(model)["conv1"], weight)
    assert torch.equal(found, torch.clamp(torch.round(x / (2 * step)), 0, 15) * (2 * step))
    with shifted(model, ScaledStep(2.0), sides="both"):
        assert torch.equal(layer.quantize_input(x), found)
        assert not torch.equal(weights_of(model)["conv1"], weight)


def test_a_bank_is_shifted_at_the_row_in_use() -> None:
    torch.manual_seed(0)
    model = Net().eval()
    attach(model, network(), {layer.name: ((8, 4, 2), None) for layer in network().layers})
    select(model, 2)
    steps = {n: layer.weight_quantizer.steps[2].detach() for n, layer in quantized_layers(model).items()}  # type: ignore[union-attr]
    with shifted(model, WeightBits(3)):
        for name, weight in weights_of(model).items():
            levels = weight / (steps[name].view(-1, *[1] * (weight.dim() - 1)) / 2)
            torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
            assert levels.min() >= -4.01 and levels.max() <= 3.01
    assert {layer.weight_quantizer.selected for layer in quantized_layers(model).values()} == {2}  # type: ignore[union-attr]


def test_steps_out_of_range_are_clamped_before_they_are_scaled() -> None:
    model = one_layer([0.6, -1.3], 4, 5.0)
    quantized_layers(model)["0"].weight_quantizer.step_range = (1e-5, 0.5)  # type: ignore[union-attr]
    assert under(model, ScaledStep(1.0)) == [0.5, -1.5]
    assert under(model, ScaledStep(2.0)) == [1.0, -1.0]


# ------------------------------------------------------------------------------------------- as before, bit for bit


def everything(model: nn.Module) -> tuple[dict[str, Tensor], list[type], list[bool], Tensor]:
    state = {name: value.clone() for name, value in model.state_dict().items()}
    kinds, modes = [type(m) for m in model.modules()], [m.training for m in model.modules()]
    copied = copy.deepcopy(model).eval()
    return state, kinds, modes, copied(X)


def same(one: Any, other: Any) -> bool:
    tensors = one[0].keys() == other[0].keys() and all(torch.equal(one[0][k], other[0][k]) for k in one[0])
    return tensors and one[1:3] == other[1:3] and torch.equal(one[3], other[3])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shift", SHIFTS, ids=lambda shift: shift.label)
def test_the_model_is_as_before(kind: WeightKind, shift: Shift) -> None:
    model = quantized(weights=kind, inputs=4)
    before, own = everything(model), list(model.modules())
    with shifted(model, shift):
        assert [m for m in model.modules() if m not in own]
        model.train()(X)  # moves the statistics of batch norm
    assert same(before, everything(model))
    assert all(a is b for a, b in zip(own, model.modules(), strict=True))


def test_the_model_is_as_before_when_evaluation_raises() -> None:
    model = quantized(inputs=4)
    before = everything(model)

    def broken(found: nn.Module) -> Metrics:
        found.train()(X)
        raise RuntimeError("no power")

    def broken_later(found: nn.Module) -> Metrics:
        found.eval()
        if isinstance(quantized_layers(found)["stem"].weight_quantizer, Quantizer):
            return Metrics(values={"accuracy": 1.0}, loss=0.0, samples=1)
        return broken(found)

    for images in (broken, broken_later):
        with pytest.raises(RuntimeError, match="no power"):
            step_sweep(model, images, (1.5,), sides="both")
        assert same(before, everything(model))


def test_the_model_is_as_before_when_a_shift_raises() -> None:
    model = quantized(inputs=4)
    before = everything(model)
    with pytest.raises(MixbitError, match="sides='weights'"), shifted(model, Clipping("mse"), sides="both"):
        pass
    assert same(before, everything(model))


# ------------------------------------------------------------------------------------------- which layers


def test_layers_in_float_and_pinned_ones_stay_and_are_listed() -> None:
    torch.manual_seed(0)
    model, found = Net().eval(), network()
    attach(model, found, {"conv1": ((4,), None), "conv2": (None, (4,)), "hidden": ((4,), (4,))})
    calibrate(model, [X])
    before = {name: weight.clone() for name, weight in weights_of(model).items()}
    reasons = {one.name: one.reason for one in left_alone(model, pinned=["hidden"])}
    assert reasons == {"stem": "in float", "head": "in float", "conv2": "weight: in float", "hidden": "pinned"}
    assert "conv1" in {one.name for one in left_alone(model, sides="inputs")}
    with shifted(model, ScaledStep(2.0), pinned=["hidden"]):
        changed = [name for name, weight in weights_of(model).items() if not torch.equal(weight, before[name])]
    assert changed == ["conv1"]


def test_switched_off_and_unknown_quantizers_are_listed() -> None:
    class Mine(Quantizer):
        """A quantizer of a user."""

    model = quantized()
    layers = quantized_layers(model)
    layers["conv1"].weight_quantizer.bypass = True  # type: ignore[union-attr]
    layers["conv2"].weight_quantizer = Mine([4], signed=True)
    reasons = {one.name: one.reason for one in left_alone(model)}
    assert "switched off" in reasons["conv1"] and "Mine" in reasons["conv2"] and len(reasons) == 2
    with shifted(model, WeightBits(2)):
        assert torch.equal(weights_of(model)["conv1"], layers["conv1"].weight.detach())  # type: ignore[arg-type]


def test_attention_is_shifted_as_well() -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).eval()
    x = torch.randn(2, 3, 8)
    found = capture(model, x)
    quantize(model, Policy.uniform(found, 4, None, {}), found)
    plain = model(x)
    with shifted(model, WeightBits(2)):
        assert not torch.allclose(model(x), plain)
    assert torch.equal(model(x), plain) and left_alone(model) == ()


def test_a_mixed_policy_shifts_each_layer_from_its_own_bits() -> None:
    torch.manual_seed(0)
    model, found = Net().eval(), network()
    bits = dict(zip([layer.name for layer in found.layers], (8, 2, 3, 4, 8), strict=True))
    attach(model, found, {name: ((width,), None) for name, width in bits.items()})

    def levels(shift: Shift) -> dict[str, int]:
        with shifted(model, shift, pinned=["stem", "head"]):
            return {name: max(len(row.unique()) for row in weight) for name, weight in weights_of(model).items()}

    fewer, more = levels(BitShift(-1)), levels(BitShift(1))
    assert fewer["conv1"] <= 4 and fewer["conv2"] <= 4 and fewer["hidden"] <= 8  # 2 bits stay 2 bits
    assert 4 < more["conv1"] <= 8 and more["stem"] == fewer["stem"]
    sweep = qat_bit_sweep(
        model, lambda _: Metrics(values={"accuracy": 0.5}, loss=1.0, samples=2), pinned=["stem", "head"]
    )
    assert sweep.reference.value == 3.0  # the mean of 2, 3 and 4


# ------------------------------------------------------------------------------------------- sweeps


def test_a_step_sweep_on_real_digits() -> None:
    model = digits_model(3)
    sweep = step_sweep(model, test_images(), (0.25, 0.9, 1.0, 1.1, 8.0))
    accuracy = {point.value: point.accuracy for point in sweep.points}
    assert accuracy[1.0] == sweep.reference.accuracy == evaluate(model, digits_task().test).accuracy > 0.9
    assert min(accuracy[0.9], accuracy[1.1]) > 0.8 and accuracy[0.25] < 0.8 and accuracy[8.0] < 0.3
    assert sweep.protocol == "step-size" and sweep.left == ()
    assert all(point.samples == 360 for point in sweep.points)
    assert sweep == step_sweep(model, test_images(), (0.25, 0.9, 1.0, 1.1, 8.0))


@pytest.mark.parametrize("kind", KINDS)
def test_a_bit_sweep_on_real_digits(kind: WeightKind) -> None:
    model = digits_model(4, weights=kind)
    sweep = qat_bit_sweep(model, digits_task().test, BITS)
    assert [point.label for point in sweep.points] == ["2", "3", "4", "5", "6", "8", "float"]
    assert sweep.at(4).accuracy == sweep.reference.accuracy and sweep.reference.value == 4.0
    if kind != "dorefa":  # this network was not trained with it
        assert sweep.at(8).accuracy > 0.9 and sweep.named("float").accuracy > 0.9 > sweep.at(2).accuracy


def test_powers_of_two_roundings_and_clippings_on_real_digits() -> None:
    model = digits_model(4)
    (point,) = power_of_two(model, test_images()).points
    assert point.label == "2^n" and point.accuracy > 0.8
    roundings = rounding_sweep(model, test_images(), seeds=(0, 1))
    assert [p.label for p in roundings.points] == ["half-away", "floor", "truncate", "stochastic 0", "stochastic 1"]
    assert roundings.named("half-away").accuracy == roundings.reference.accuracy
    assert roundings.named("floor").accuracy < roundings.reference.accuracy
    clippings = clipping_sweep(model, test_images(), ("mse", "percentile 50"))
    assert clippings.named("mse").accuracy == clippings.reference.accuracy > clippings.named("percentile 50").accuracy
    shift = bit_shift_sweep(model, test_images(), (-2, 0, 4))
    assert shift.at(0).accuracy == shift.reference.accuracy > shift.at(-2).accuracy
    assert shift.at(4).accuracy > 0.9


def test_post_training_quantization_at_several_bits() -> None:
    task = digits_task()
    state = copy.deepcopy(task.model.state_dict())
    settings = [LayerBits(8, 8), LayerBits(4, None), LayerBits(2, None), LayerBits(None, None)]
    config = PTQConfig(method="mse", samples=128, selection_samples=64)
    sweep = ptq_bit_sweep(task, settings, config=config)
    assert [(point.label, point.value) for point in sweep.points] == [
        ("W8A8", 8.0), ("W4A32", 4.0), ("W2A32", 2.0), ("float", None)
    ]  # fmt: skip
    eight, four, two, plain = (point.accuracy for point in sweep.points)
    assert plain == sweep.reference.accuracy == evaluate(task.model, task.test).accuracy
    assert abs(eight - plain) < 0.02 and plain - four < 0.1 and two < four
    assert all(torch.equal(state[key], value) for key, value in task.model.state_dict().items())
    assert sweep.settings["ptq"]["method"] == "mse"


def test_pins_of_post_training_quantization() -> None:
    """By default the first and the last layer stay at 8 bits; without pins they go to 2 like all others."""
    task, seen = digits_task(), []

    def bits(model: nn.Module) -> Metrics:
        seen.append([layer.weight_quantizer.selected for layer in quantized_layers(model).values()])  # type: ignore[union-attr]
        return Metrics(values={"accuracy": 0.5}, loss=1.0, samples=2)

    config = PTQConfig(method="minmax", samples=16, selection_samples=16)
    for pins in (None, {}):
        ptq_bit_sweep(task, [LayerBits(2, None)], bits, pins=pins, config=config)
    assert [one for one in seen if one] == [[8, 2, 2, 8], [2, 2, 2, 2]]
    assert list(resolve_pins(task.network)) == ["0", "10"]


def test_loss_that_is_not_finite_has_no_number() -> None:
    sweep = step_sweep(quantized(), lambda _: Metrics(values={"accuracy": 0.1}, loss=float("nan"), samples=4), (1.1,))
    assert sweep.points[0].loss is None
    assert ShiftSweep.from_json(json.loads(json.dumps(sweep.to_json(), allow_nan=False))) == sweep


# ------------------------------------------------------------------------------------------- interrupted sweeps


class Counting:
    """An evaluation that counts, and that can be made to fail."""

    def __init__(self, limit: int = 1000) -> None:
        self.calls, self.limit = 0, limit

    def __call__(self, model: nn.Module) -> Metrics:
        if self.calls == self.limit:
            raise KeyboardInterrupt
        self.calls += 1
        return evaluate(model, digits_task().test)


def test_a_sweep_goes_on_where_it_was_killed() -> None:
    model, factors = digits_model(3), (0.7, 0.9, 1.0, 1.2)
    wanted = step_sweep(model, Counting(), factors)
    cache: dict[str, ShiftPoint] = {}
    with pytest.raises(KeyboardInterrupt):
        step_sweep(model, Counting(limit=2), factors, cache=cache)
    assert len(cache) == 2  # as trained, and 0.7
    cache = {key: ShiftPoint.from_json(json.loads(json.dumps(point.to_json()))) for key, point in cache.items()}
    rest = Counting()
    assert step_sweep(model, rest, factors, cache=cache) == wanted
    assert rest.calls == 2  # 1 is the model as it is
    assert step_sweep(model, rest, factors, cache=cache) == wanted and rest.calls == 2


def test_one_cache_serves_all_sweeps_of_a_model() -> None:
    model, count, cache = digits_model(3), Counting(), dict[str, ShiftPoint]()
    step_sweep(model, count, (1.5,), cache=cache)
    assert count.calls == 2
    step_sweep(model, count, (1.5,), cache=cache, pinned=["0"])
    step_sweep(model, count, (1.5,), cache=cache, bias_correction=True)
    step_sweep(model, count, (1.5,), cache=cache, sides="both")
    bit_shift_sweep(model, count, (1,), cache=cache)
    assert count.calls == 6 and len(cache) == 6  # each of its own; the model as it is once
    step_sweep(model, count, (1.0,), cache=cache)
    step_sweep(model, count, (1.0,), cache=cache, sides="both")
    assert count.calls == 6  # nothing changes, so nothing is evaluated


def test_images_are_limited_to_the_same_ones() -> None:
    model = digits_model()
    small = evaluator(digits_task().test, images=100, batch_size=32)
    assert small(model).samples == 100 and small(model) == small(model)
    assert evaluator(digits_task().test, images=5000)(model).samples == 360
    with pytest.raises(MixbitError, match="images=0"):
        evaluator(digits_task().test, images=0)


# ------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ScaledStep(0.0), "scaled by 0.0"),
        (lambda: ScaledStep(float("inf")), "scaled by inf"),
        (lambda: WeightBits(9), "weight_bits"),
        (lambda: BitShift(7), "shifted by 7"),
        (lambda: RoundBy("flour"), "Did you mean 'floor'"),  # type: ignore[arg-type]
        (lambda: Clipping("minmaxx"), "Did you mean 'minmax'"),
        (lambda: Clipping("percentile 0"), "percentile 0"),
        (lambda: Clipping("percentile 101"), "percentile 101"),
        (lambda: Clipping("sigma 0"), "sigma 0"),
    ],
)
def test_shifts_that_cannot_be(make: Any, said: str) -> None:
    with pytest.raises((MixbitError, PolicyError), match=said):
        make()


def test_models_that_cannot_be_shifted() -> None:
    images = evaluator(digits_task().test)
    with pytest.raises(MixbitError, match=r"mixbit\.quantize"):
        step_sweep(digits_task().model, images)
    model = quantized()
    with pytest.raises(MixbitError, match="Did you mean 'hidden'"):
        step_sweep(model, images, pinned=["hiden"])
    with pytest.raises(MixbitError, match="pin fewer"):
        step_sweep(model, images, pinned=[layer.name for layer in network().layers])
    with pytest.raises(MixbitError, match="weights, inputs, both"), shifted(model, WeightBits(2), sides="left"):  # type: ignore[arg-type]
        pass


# ------------------------------------------------------------------------------------------- every argument of a sweep

SWEEPS: dict[str, Callable[..., ShiftSweep]] = {
    "step-size": lambda model, see, **how: step_sweep(model, see, (1.5,), **how),
    "power-of-two": power_of_two,
    "qat-bits": lambda model, see, **how: qat_bit_sweep(model, see, (3,), **how),
    "bit-shift": lambda model, see, **how: bit_shift_sweep(model, see, (-1,), **how),
    "rounding": lambda model, see, **how: rounding_sweep(model, see, ("floor",), **how),
    "clipping": lambda model, see, **how: clipping_sweep(model, see, ("sigma 2",), **how),
}


@pytest.mark.parametrize("protocol", SWEEPS)
@pytest.mark.parametrize("correct", [True, False])
def test_every_sweep_keeps_what_is_pinned_and_corrects_means_if_asked(protocol: str, correct: bool) -> None:
    """Seen by what the layers compute with while the model is evaluated."""
    model, seen = quantized(), []

    def see(one: nn.Module) -> Metrics:
        seen.append(weights_of(one))
        return Metrics(values={"accuracy": 0.5}, loss=1.0, samples=2)

    sweep = SWEEPS[protocol](model, see, pinned=["conv1", "head"], bias_correction=correct)
    before, under_it = seen
    assert sweep.protocol == protocol and len(sweep.points) == 1
    assert sweep.settings == {"sides": "weights", "pinned": ["conv1", "head"], "bias_correction": correct}
    same = {name for name in before if torch.equal(before[name], under_it[name])}
    assert same == {"conv1", "head"}
    means = [
        torch.allclose(before[name].flatten(1).mean(1), under_it[name].flatten(1).mean(1), atol=1e-6)
        for name in ("stem", "conv2", "hidden")
    ]
    assert all(means) if correct else not all(means)


@pytest.mark.parametrize("protocol", ["step-size", "power-of-two", "rounding"])
@pytest.mark.parametrize(
    ("sides", "moved"), [("weights", (True, False)), ("inputs", (False, True)), ("both", (True, True))]
)
def test_sweeps_of_inputs_change_what_layers_see(protocol: str, sides: Any, moved: tuple[bool, bool]) -> None:
    model, seen = quantized(inputs=4), []
    x = X.repeat(1, 4, 1, 1)

    def see(one: nn.Module) -> Metrics:
        layer = quantized_layers(one)["conv1"]
        seen.append((weights_of(one)["conv1"], layer.quantize_input(x).detach()))
        return Metrics(values={"accuracy": 0.5}, loss=1.0, samples=2)

    sweep = SWEEPS[protocol](model, see, sides=sides)
    assert sweep.settings["sides"] == sides
    assert tuple(not torch.equal(a, b) for a, b in zip(*seen, strict=True)) == moved


def test_stochastic_rounding_is_evaluated_once_with_each_seed() -> None:
    model, found = quantized(), Metrics(values={"accuracy": 0.5}, loss=1.0, samples=2)
    sweep = rounding_sweep(model, lambda _: found, ("floor", "stochastic"), seeds=(4, 9))
    assert [point.label for point in sweep.points] == ["floor", "stochastic 4", "stochastic 9"]
    assert [point.label for point in rounding_sweep(model, lambda _: found).points][-3:] == [
        "stochastic 0", "stochastic 1", "stochastic 2",
    ]  # fmt: skip


def test_places_on_the_axes() -> None:
    model, found = quantized(5), Metrics(values={"accuracy": 0.5}, loss=1.0, samples=2)
    sweeps = [step_sweep(model, lambda _: found, (0.5,)), qat_bit_sweep(model, lambda _: found, (3, None))]
    sweeps += [bit_shift_sweep(model, lambda _: found, (-2,)), power_of_two(model, lambda _: found)]
    assert [sweep.reference.value for sweep in sweeps] == [1.0, 5.0, 0.0, None]
    assert [[point.value for point in sweep.points] for sweep in sweeps] == [[0.5], [3.0, None], [-2.0], [None]]


def test_an_evaluator_takes_loss_and_batch_size() -> None:
    model, sizes = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), []
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    split = digits_task().test
    found = evaluator(split, images=50, batch_size=20, loss=lambda outputs, y: outputs.sum() * 0 + 7.0)(model)
    assert found.loss == pytest.approx(7.0) and found.samples == 50 and sum(sizes) == 50 and max(sizes) == 20


def test_post_training_quantization_gets_its_settings_bits_and_pins(monkeypatch: pytest.MonkeyPatch) -> None:
    task, asked = digits_task(), []

    def noted(_: Task, policy: Policy, config: PTQConfig, *, quiet: bool) -> Any:
        asked.append((policy.layers, config, quiet))
        return SimpleNamespace(model=task.model)

    monkeypatch.setattr("mixbit.robustness.quantizer_shift.ptq", noted)
    config = PTQConfig(method="lapq", samples=3)
    found = Metrics(values={"accuracy": 0.5}, loss=1.0, samples=2)
    ptq_bit_sweep(task, [LayerBits(3, 4), LayerBits(3, None)], lambda _: found, config=config)
    ptq_bit_sweep(task, [LayerBits(3, 4)], lambda _: found, config=config, pins={"0": LayerBits(5, None)})
    assert all(one is config and quiet for _, one, quiet in asked)
    first, *_, last = task.network.layers
    wanted = [
        (LayerBits(8, 8), LayerBits(8, 8)),
        (LayerBits(8, None), LayerBits(8, None)),
        (LayerBits(5, None), LayerBits(3, 4)),
    ]
    assert [(layers[first.name], layers[last.name]) for layers, *_ in asked] == wanted
    middle = task.network.layers[1].name
    assert [layers[middle] for layers, *_ in asked] == [LayerBits(3, 4), LayerBits(3, None), LayerBits(3, 4)]
