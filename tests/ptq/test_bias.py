"""Means of quantized filters put right, and the shift folded for export."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixbit.errors import ExportError, MixbitError
from mixbit.integer import executor
from mixbit.integer.lowering import lower
from mixbit.network import Network, capture
from mixbit.policy import Policy
from mixbit.ptq import correct_bias, fold_bias, forget_bias
from mixbit.quantization import QuantizeConfig, calibrate, detach, quantize, quantized_layers

X = torch.rand(16, 2, 6, 6, generator=torch.Generator().manual_seed(1))


class SameConv(nn.Conv2d):
    """A layer with a forward of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(F.pad(x, (0, 1, 0, 1)), self.weight, self.bias)


def quantized(bits: int = 3, **config: object) -> tuple[nn.Module, Network]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        SameConv(4, 5, 2), nn.ReLU(), nn.Conv2d(5, 5, 3, groups=5), nn.ReLU(), nn.Flatten(), nn.Linear(80, 3),
    ).eval()  # fmt: skip
    network = capture(model, X[:2])
    settings = QuantizeConfig(**{"per_channel": False, "weight_rule": "minmax", **config})  # type: ignore[arg-type]
    quantize(model, Policy.uniform(network, bits, 8, {}), network, settings)
    calibrate(model, [X], rule="minmax")
    return model, network


def means(model: nn.Module) -> list[Tensor]:
    return [
        layer.quantize_weight(layer.weight).detach().flatten(1).mean(dim=1)  # type: ignore[arg-type]
        for layer in quantized_layers(model).values()
    ]


@pytest.mark.parametrize("config", [{}, {"per_channel": True}, {"weights": "midrise"}])
def test_every_filter_has_the_mean_of_the_float_one(config: dict[str, object]) -> None:
    model, _ = quantized(**config)
    wanted = [layer.weight.flatten(1).mean(dim=1) for layer in quantized_layers(model).values()]  # type: ignore[operator,union-attr]
    assert any((a - b).abs().max() > 1e-3 for a, b in zip(means(model), wanted, strict=True))
    correct_bias(model)
    for found, mean in zip(means(model), wanted, strict=True):
        torch.testing.assert_close(found, mean, atol=1e-6, rtol=0)


def test_only_the_mean_moves() -> None:
    model, _ = quantized()
    layer = quantized_layers(model)["0"]
    before = layer.quantize_weight(layer.weight).detach()  # type: ignore[arg-type]
    correct_bias(model)
    moved = layer.quantize_weight(layer.weight).detach() - before  # type: ignore[arg-type]
    torch.testing.assert_close(moved, moved[:, :1, :1, :1].expand_as(moved))


def test_dorefa_meets_the_mean_of_what_it_rounds() -> None:
    model, _ = quantized(weights="dorefa")
    correct_bias(model)
    for layer, found in zip(quantized_layers(model).values(), means(model), strict=True):
        wanted = layer.weight_quantizer.unrounded(layer.weight).flatten(1).mean(dim=1)  # type: ignore[union-attr,arg-type]
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)


def test_a_reference_in_the_place_of_the_float_weights() -> None:
    """As in the study of other bit-widths: the means of the trained bits."""
    model, _ = quantized()
    layer = quantized_layers(model)["3"]
    trained = layer.quantize_weight(layer.weight).detach()  # type: ignore[arg-type]
    with torch.no_grad():
        layer.weight_quantizer.steps.mul_(1.3)  # type: ignore[union-attr]
    correct_bias(model, {"3": trained})
    torch.testing.assert_close(means(model)[1], trained.flatten(1).mean(dim=1), atol=1e-6, rtol=0)


def test_correcting_twice_is_correcting_once_and_steps_leave_it_alone() -> None:
    model, _ = quantized()
    correct_bias(model)
    once = [layer.weight_shift.clone() for layer in quantized_layers(model).values()]  # type: ignore[union-attr]
    correct_bias(model)
    with torch.no_grad():
        quantized_layers(model)["0"].weight_quantizer.steps.mul_(2)  # type: ignore[union-attr]
    for layer, shift in zip(quantized_layers(model).values(), once, strict=True):
        assert torch.equal(layer.weight_shift, shift)  # type: ignore[arg-type]


def test_shifts_are_saved_and_come_off_with_the_quantizers() -> None:
    model, _ = quantized()
    plain, keys = copy.deepcopy(model), set(model.state_dict())
    correct_bias(model)
    fold_bias(model, [X])
    correct_bias(model)
    expected = model(X)
    assert set(model.state_dict()) - keys == {
        f"{n}.{s}_shift" for n in ("0", "3", "5", "8") for s in ("weight", "bias")
    }
    other, _ = quantized()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(X), expected) and torch.equal(pickle.loads(pickle.dumps(model))(X), expected)
    forget_bias(other)
    assert torch.equal(other(X), plain(X))
    detach(model)
    detach(plain)
    assert torch.equal(model(X), plain(X)) and set(model.state_dict()) == set(plain.state_dict())


def test_folding_keeps_the_mean_of_every_layers_output() -> None:
    model, _ = quantized(2)
    uncorrected = copy.deepcopy(model)
    correct_bias(model)
    seen: dict[str, list[Tensor]] = {}
    for name in ("0", "3", "5", "8"):
        layer = model.get_submodule(name)
        layer.register_forward_hook(lambda _m, _x, y, name=name: seen.setdefault(name, []).append(y.detach()))
    model(X)
    shifted = copy.deepcopy(seen)
    fold_bias(model, [X[:4], X[4:]])
    seen.clear()
    model(X)
    first = [y.mean(dim=(0, 2, 3)) for y in (shifted["0"][0], seen["0"][0])]
    torch.testing.assert_close(first[0], first[1], atol=1e-5, rtol=0)
    assert not torch.equal(model(X), uncorrected(X))
    for layer in quantized_layers(model).values():
        assert layer.weight_shift is None and layer.bias_shift is not None


def test_shifted_weights_are_refused_and_folded_ones_lower() -> None:
    model, network = quantized(4)
    correct_bias(model)
    with pytest.raises(ExportError, match=r"^0: its quantized weights are shifted.*fold_bias"):
        lower(model, network, [X])
    fold_bias(model, [X])
    found = executor.run(lower(model, network, [X], rounding="float32"), X.numpy())
    wanted = model(X).detach().numpy()
    assert np.abs(found - wanted).max() < 0.05 * wanted.std()


def test_correction_brings_outputs_closer_to_float() -> None:
    """Inputs that are not negative, two bits, one step a tensor: where means matter."""
    model, _ = quantized(2)
    float_model = copy.deepcopy(model)
    detach(float_model)
    layer, x = model[0], X
    errors = []
    for fix in (lambda: None, lambda: correct_bias(model), lambda: fold_bias(model, [X])):
        fix()
        errors.append((layer(x) - float_model[0](x)).square().mean().item())
    assert errors[1] < errors[0] and errors[2] < errors[0]


def test_bad_input() -> None:
    model, _ = quantized()
    with pytest.raises(MixbitError, match=r"reference names \['9'\].*Legal: 0, 3, 5, 8"):
        correct_bias(model, {"9": X})
    with pytest.raises(MixbitError, match="reference of '0' has shape"):
        correct_bias(model, {"0": X})
    correct_bias(model)
    with pytest.raises(MixbitError, match="no batch"):
        fold_bias(model, [])


def test_attention_is_corrected_and_not_folded() -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    x = torch.randn(2, 5, 8)
    network = capture(model, x)
    quantize(model, Policy.uniform(network, 2, None, {}), network)
    before = model(x)
    correct_bias(model)
    assert not torch.equal(model(x), before)
    with pytest.raises(MixbitError, match="self_attn.*cannot be folded"):
        fold_bias(model, [x])


def folded_effect(layer: nn.Module, x: Tensor, shift: Tensor) -> Tensor:
    """The mean over samples and positions of `d_c * sum(x)` over what the filter of a channel sees."""
    if isinstance(layer, nn.Linear):
        return shift.flatten() * x.sum(dim=-1).mean()
    ones = torch.ones_like(layer.weight)  # type: ignore[arg-type]
    x = F.pad(x, (0, 1, 0, 1)) if isinstance(layer, SameConv) else x
    seen = F.conv2d(x, ones, None, layer.stride, layer.padding, layer.dilation, layer.groups)  # type: ignore[arg-type]
    return shift.flatten() * seen.mean(dim=(0, 2, 3))


def test_folded_biases_are_the_mean_effect_by_formula() -> None:
    """Each layer's on the inputs that it has in the shifted network, over batches of unlike sizes; they add up."""
    model, _ = quantized(3)
    correct_bias(model)
    layers = quantized_layers(model)
    inputs: dict[str, Tensor] = {}
    handles = [
        layer.register_forward_pre_hook(lambda m, args, name=name: inputs.update({name: m.quantize_input(args[0])}))
        for name, layer in layers.items()
    ]
    model(X)
    for handle in handles:
        handle.remove()
    wanted = {name: folded_effect(layer, inputs[name], layer.weight_shift) for name, layer in layers.items()}  # type: ignore[arg-type]
    fold_bias(model, [X[:3], X[3:4], X[4:]])
    for name, layer in layers.items():
        torch.testing.assert_close(layer.bias_shift, wanted[name].detach(), rtol=1e-3, atol=1e-5)
    once = layers["0"].bias_shift.clone()  # type: ignore[union-attr]
    correct_bias(model)
    fold_bias(model, [X])
    torch.testing.assert_close(layers["0"].bias_shift, 2 * once, rtol=1e-4, atol=1e-6)


def test_of_tokens_the_last_dimension_is_the_channel() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7)).eval()
    x = torch.rand(4, 3, 5)
    quantize(model, Policy.uniform(found := capture(model, x), 2, None, {}), found)
    correct_bias(model)
    shift = quantized_layers(model)["0"].weight_shift
    assert shift is not None
    wanted = folded_effect(model[0], x, shift)
    fold_bias(model, [x[:1], x[1:]])
    torch.testing.assert_close(quantized_layers(model)["0"].bias_shift, wanted, rtol=1e-4, atol=1e-6)


def test_folding_runs_in_evaluation_and_gives_the_mode_back() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Dropout(0.9), nn.Linear(5, 7)), torch.rand(6, 5)
    quantize(model, Policy.uniform(found := capture(model, x), 2, None, {}), found)
    model.train()
    correct_bias(model)
    shift = quantized_layers(model)["1"].weight_shift
    assert shift is not None
    wanted = folded_effect(model[1], x, shift)
    fold_bias(model, [x])
    torch.testing.assert_close(quantized_layers(model)["1"].bias_shift, wanted, rtol=1e-4, atol=1e-6)
    assert model.training


def test_a_weight_that_is_passed_by_is_left_alone() -> None:
    model, _ = quantized()
    layers = quantized_layers(model)
    layers["0"].weight_quantizer.bypass = True  # type: ignore[union-attr]
    correct_bias(model)
    assert layers["0"].weight_shift is None and layers["3"].weight_shift is not None
