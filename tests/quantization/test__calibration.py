"""Calibration: what is attached is called, what it sees is finite and of the right sign, 8 bits stay near float."""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixbit.errors import MixbitError
from mixbit.network import Network, capture
from mixbit.policy import LayerBits, Policy
from mixbit.quantization import QuantizeConfig, attach, calibrate, quantize, quantized_layers
from mixbit.quantization._calibration import Watch, far_from_float
from mixbit.quantization._layers import put_on as put_layer_on
from mixbit.quantizers import Quantizer

X = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Three layers, and ways to go past the second."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.way = "module"

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        if self.way == "function" or (self.way == "function in evaluation" and not self.training):
            x = F.linear(x, self.second.weight, self.second.bias)
        elif self.way in ("module", "function in evaluation"):
            x = self.second(x)
        return self.last(F.relu(x))  # type: ignore[no-any-return]


def fresh(way: str = "module") -> Net:
    torch.manual_seed(0)
    net = Net().eval()
    net.way = way
    return net


@cache
def network() -> Network:
    """Captured once: that is the slow part."""
    return capture(fresh(), X)


def put_on(net: nn.Module, bits: int = 4, pins: dict[str, LayerBits] | None = None) -> nn.Module:
    quantize(net, Policy.uniform(network(), bits, bits, pins or {}), network())
    return net


@pytest.mark.parametrize("way", ["function", "another branch", "function in evaluation"])
def test_a_quantizer_that_is_never_called_is_an_error(way: str) -> None:
    net = put_on(fresh(way))
    when = "evaluation mode" if way == "function in evaluation" else "calibration"
    with pytest.raises(MixbitError, match=rf"^{when} never called .* of 1 layers.*second \(weight and input\)"):
        calibrate(net, [X])


def test_a_forward_that_is_set_after_quantizing_is_an_error_that_says_so() -> None:
    net = put_on(fresh())
    net.second.forward = types.MethodType(nn.Linear.forward, net.second)
    with pytest.raises(MixbitError, match="second: forward was set on the instance"):
        calibrate(net, [X])


def test_a_side_in_float_need_not_be_called() -> None:
    net = put_on(fresh("function"), pins={"second": LayerBits(None, None)})
    calibrate(net, [X])


def test_a_forward_of_the_users_own_is_watched_as_well() -> None:
    net = put_on(fresh())
    with pytest.raises(MixbitError, match="never called the quantizers of 2 layers"):
        calibrate(net, [X], forward=lambda model, x: model.first(x))


def nan_batch(_: Net) -> Tensor:
    x = X.clone()
    x[3, 1] = float("nan")
    return x


def infinite_batch(_: Net) -> Tensor:
    x = X.clone()
    x[3, 1] = float("inf")
    return x


def spoiled_weight(net: Net) -> Tensor:
    with torch.no_grad():
        net.second.weight[0, 0] = float("nan")
    return X


def spoiled_bias(net: Net) -> Tensor:
    with torch.no_grad():
        net.first.bias[0] = float("inf")
    return X


@pytest.mark.parametrize("rule", ["lsq", "minmax", "mse", "constant"])
@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (nan_batch, "1 of 64 numbers of the input of layer 'first' are NaN or infinite.*the batch itself"),
        (infinite_batch, "input of layer 'first'.*the batch itself"),
        (spoiled_weight, "1 of 64 numbers of the weight of layer 'second'.*'second.weight' holds them"),
        (spoiled_bias, "16 of 128 numbers of the input of layer 'second'.*'first.bias' holds them"),
    ],
)
def test_numbers_that_are_not_finite_are_an_error_that_names_the_layer(
    spoil: Callable[[Net], Tensor], match: str, rule: Any
) -> None:
    net = put_on(fresh())
    assert isinstance(net, Net)
    with pytest.raises(MixbitError, match=match):
        calibrate(net, [X, spoil(net)], rule)


def test_operations_that_make_infinity_are_told_from_data_and_weights() -> None:
    net = put_on(fresh())
    with pytest.raises(MixbitError, match="a layer before it makes them"):
        calibrate(net, [X], forward=lambda model, x: model(x / 0.0))


@pytest.mark.parametrize(
    "config", [QuantizeConfig(), QuantizeConfig(weights="dorefa"), QuantizeConfig(weights="midrise")]
)
def test_weights_that_are_not_finite_are_an_error_when_quantizers_go_on(config: QuantizeConfig) -> None:
    net = fresh()
    spoiled_weight(net)
    with pytest.raises(MixbitError, match="layer 'second': 1 of its 64 weights are NaN or infinite"):
        quantize(net, Policy.uniform(network(), 4, 4, {}), network(), config)


def shifted_network() -> Network:
    """Captured with inputs that are never negative, as images in [0, 1] are."""
    return capture(fresh(), X.abs())


def test_inputs_below_zero_after_a_capture_above_are_told() -> None:
    net, seen = fresh(), shifted_network()
    quantize(net, Policy.uniform(seen, 4, 4, {}), seen)
    with pytest.warns(UserWarning, match=rf"never negative: first \(down to {float(X.min()):.3g}\).*Capture the model"):
        calibrate(net, [X.abs(), X])


@pytest.mark.parametrize("x", [X.abs(), X.abs() - 1e-4])
def test_inputs_that_are_above_or_round_to_zero_are_not_told(x: Tensor) -> None:
    net, seen = fresh(), shifted_network()
    quantize(net, Policy.uniform(seen, 4, 4, {}), seen)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calibrate(net, [x])


def test_eight_bits_near_float_are_not_told_and_fewer_are_no_reason() -> None:
    for bits in (8, 2):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            calibrate(put_on(fresh(), bits), [X])


def test_eight_bits_far_from_float_are_told_with_the_layer() -> None:
    """One weight of a thousand times the others leaves these no level but zero; what it gives is not read on."""
    net = fresh()
    with torch.no_grad():
        net.second.weight[0, 0] = 1000 * net.second.weight.abs().max()
        net.last.weight[:, 0] = 0
    config = QuantizeConfig(per_channel=False, weight_rule="minmax")
    quantize(net, Policy.uniform(network(), 8, 8, {}), network(), config)
    with pytest.warns(UserWarning, match=r"at 8 bits .* first layer whose output is far is 'last'"):
        calibrate(net, [X])


def test_looking_at_the_float_network_leaves_the_quantized_one() -> None:
    net = put_on(fresh(), 8)
    calibrate(net, [X])
    assert list(quantized_layers(net)) == ["first", "second", "last"]
    assert not torch.equal(net(X), fresh()(X)) and not any(m._forward_hooks for m in net.modules())


def dropping() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 2))


def test_dropout_draws_from_the_seed_and_gives_the_generator_back() -> None:
    seen = capture(dropping(), X)
    steps = []
    for start, seed in ((1, 0), (2, 0), (2, 5)):
        net = dropping()
        attach(net, seen, {layer.name: ((4,), (4,)) for layer in seen.layers})
        torch.manual_seed(start)
        calibrate(net, [X], seed=seed)
        assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(start)))
        bank = quantized_layers(net)["3"].input_quantizer
        assert bank is not None
        steps.append(float(bank.steps.detach()))
    assert steps[0] == steps[1] != steps[2]


# --------------------------------------------------------------------------------- the numbers behind what is told


def scaled_copy(factor: float, bits: int = 8, kind: type[Quantizer] = Quantizer) -> tuple[nn.Module, dict[str, Any]]:
    """A linear layer of weight 1 whose quantized weight is `factor`."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False))
    with torch.no_grad():
        model[0].weight.fill_(1.0)
    bank = kind([bits], signed=True)
    with torch.no_grad():
        bank.steps.fill_(factor)
    put_layer_on(model[0], bank, None)
    return model, quantized_layers(model)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("error", "mean", "told"), [(0.29, 0, None), (0.31, 0, "31%"), (0.2, 3, "63%"), (0.09, 3, None)]
)
def test_far_is_more_than_three_tenths_of_the_outputs_own_deviation(
    error: float, mean: float, told: str | None
) -> None:
    """Inputs of deviation 1 about `mean`: the error has a root mean square of `error * sqrt(1 + mean^2)`."""
    model, layers = scaled_copy(1 + error)
    x = torch.tensor([[mean - 1.0], [mean + 1.0]])
    text = far_from_float(model, layers, lambda: model(x))
    assert (text is None) if told is None else (text is not None and f"outputs are {told} of" in text)
    assert text is None or f"is '0' ({told})" in text


def test_only_eight_learned_bits_that_are_in_use_are_compared() -> None:
    x = torch.tensor([[-1.0], [1.0]])
    for change, told in ((None, True), ("bits", False), ("bypass", False), ("fixed", False)):
        model, layers = scaled_copy(2.0, bits=7 if change == "bits" else 8)
        bank = layers["0"].weight_quantizer
        bank.bypass = change == "bypass"
        if change == "fixed":
            bank.learned = False
        assert (far_from_float(model, layers, lambda net=model: net(x)) is not None) == told, change


def test_the_farthest_of_several_outputs_counts_and_constants_do_not() -> None:
    model, layers = scaled_copy(1.5)
    x, near = torch.tensor([[-1.0], [1.0]]), torch.tensor([5.0, -5.0])
    text = far_from_float(model, layers, lambda: (near, model(x), torch.ones(3) * model(x).max(), x > 0))
    assert text is not None and "are 50% of" in text


def test_the_lowest_of_all_batches_is_told_unless_it_is_within_half_a_step() -> None:
    """By the smallest of the steps; a zero point can stand for numbers below zero."""
    model = nn.Sequential(nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 1))
    bank = Quantizer([4, 2], signed=False)
    with torch.no_grad():
        bank.steps.copy_(torch.tensor([[0.5], [1.0]]))
    put_layer_on(model[0], None, bank)
    for values, told in (((-0.2, -3.0, -1.0), "-3"), ((-0.26,), "-0.26"), ((-0.24,), None), ((0.0, 4.0), None)):
        with Watch(model, quantized_layers(model)) as watch:
            for value in values:
                model(torch.tensor([[value, 1.0]]))
        assert watch.called == {("0", "input")}
        text = watch.negatives()
        assert (text is None) if told is None else (text is not None and f"0 (down to {told})" in text)
    bank.zero_points.fill_(3)
    with Watch(model, quantized_layers(model)) as watch:
        model(torch.tensor([[-3.0, 1.0]]))
    assert watch.negatives() is None and not bank._forward_pre_hooks


def test_signed_inputs_and_weights_below_zero_are_nothing_to_tell() -> None:
    model = nn.Sequential(nn.Linear(2, 1))
    put_layer_on(model[0], Quantizer([4], signed=True), Quantizer([4], signed=True))
    with Watch(model, quantized_layers(model)) as watch:
        model(-torch.ones(1, 2))
    assert watch.negatives() is None and watch.called == {("0", "weight"), ("0", "input")}
