"""Putting quantizers on, calibrating, switching, freezing, taking off."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from mixbit.data import LoaderSplit
from mixbit.errors import ExportError, MixbitError, PolicyError, WeightsError
from mixbit.evaluation import evaluate
from mixbit.integer import lower
from mixbit.models import load_weights
from mixbit.network import Network, capture
from mixbit.policy import LayerBits, Policy
from mixbit.quantization import (
    QuantizeConfig,
    attach,
    calibrate,
    check_calibrated,
    detach,
    fold_residuals,
    freeze,
    put_policy_on,
    quantize,
    quantized_layers,
    quantizers,
)
from mixbit.quantization._layers import QuantizedLayer
from mixbit.quantizers import ActivationKind, BatchQuant, Quantizer, WeightKind, find_rule
from mixbit.supernet import Mixture, PerSample, make_switchable, select
from mixbit.testing.options import OptionCases, OptionRow, fields_of
from mixbit.training import TrainConfig, train
from mixbit.training._optim import make_optimizer


class SameConv(nn.Conv2d):
    """A layer with a forward of its own, as TF-style padding needs it."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(F.pad(x, (0, 1, 0, 1)), self.weight, self.bias)


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), SameConv(4, 6, 2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip


X = torch.randn(8, 1, 6, 6, generator=torch.Generator().manual_seed(1))


@cache
def small_network() -> Network:
    """Captured once: that is the slow part."""
    return capture(small_net(), X)


def quantized(bits: int = 4) -> nn.Sequential:
    model, network = small_net(), small_network()
    quantize(model, Policy.uniform(network, bits, bits, {}), network)
    calibrate(model, [X])
    return model


def test_on_and_off_is_bit_exact_and_keeps_names() -> None:
    model = small_net()
    before, keys = copy.deepcopy(model.state_dict()), list(model.state_dict())
    parameters = [id(p) for p in model.parameters()]
    expected, network = model.eval()(X), small_network()
    quantize(model, Policy.uniform(network, 3, 3, {}), network)
    calibrate(model, [X])
    assert not torch.equal(model(X), expected)
    assert set(keys) < set(model.state_dict())
    detach(model)
    assert list(model.state_dict()) == keys and [id(p) for p in model.parameters()] == parameters
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert torch.equal(model(X), expected)
    assert [type(m) for m in model] == [type(m) for m in small_net()]


def test_class_with_a_forward_of_its_own_uses_the_quantized_weight() -> None:
    model = quantized(2)
    layer = model[3]
    seen = layer(torch.ones(1, 4, 5, 5)).detach()
    weight, x = layer.quantize_weight(layer.weight), layer.quantize_input(torch.ones(1, 4, 5, 5))
    assert torch.equal(seen, F.conv2d(F.pad(x, (0, 1, 0, 1)), weight, layer.bias))
    assert isinstance(layer.weight, nn.Parameter)  # it is put back
    model(X).sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.abs().sum() > 0


def test_signs_follow_the_network() -> None:
    layers = quantized_layers(quantized())
    assert [layer.input_quantizer.signed for layer in layers.values() if layer.input_quantizer] == [True, False, False]


def test_more_bits_come_closer_to_float() -> None:
    expected, errors = small_net().train()(X).detach(), []
    for bits in (2, 4, 8):
        errors.append(float((quantized(bits).train()(X).detach() - expected).square().mean()))
    assert errors[0] > errors[1] > errors[2]


def test_bank_switches_bits_in_place() -> None:
    model, network = small_net(), small_network()
    attach(model, network, {la.name: ((8, 4, 2), (8, 4, 2)) for la in network.layers})
    calibrate(model, [X])
    outputs = []
    for bits in (8, 4, 2, 8):
        select(model, bits)
        outputs.append(model.eval()(X))
    assert torch.equal(outputs[0], outputs[3]) and not torch.equal(outputs[0], outputs[2])
    select(model, {"3": LayerBits(4, 2)})
    layer = quantized_layers(model)["3"]
    assert layer.weight_quantizer and layer.input_quantizer
    assert (layer.weight_quantizer.selected, layer.input_quantizer.selected) == (4, 2)


def test_calibration_of_a_bank_equals_calibration_one_by_one() -> None:
    """Each row is calibrated with all layers at its bits, as in the first joint training pass."""
    model, network = small_net(), small_network()
    attach(model, network, {la.name: ((4, 2), (4, 2)) for la in network.layers})
    calibrate(model, [X])
    for row, bits in enumerate((4, 2)):
        single = small_net()
        attach(single, network, {la.name: ((bits,), (bits,)) for la in network.layers})
        calibrate(single, [X])
        for one, many in zip(quantizers(single).values(), quantizers(model).values(), strict=True):
            torch.testing.assert_close(one.steps[0], many.steps[row])


def test_calibration_leaves_batch_norm_and_mode_alone() -> None:
    model, network = small_net().eval(), small_network()
    quantize(model, Policy.uniform(network, 4, 4, {}), network)
    before = model[1].running_mean.clone()
    calibrate(model, [X, X + 1])
    assert torch.equal(model[1].running_mean, before) and not model.training


def test_calibration_sets_aside_the_bits_of_each_sample_and_puts_them_back() -> None:
    model, network = small_net().eval(), small_network()
    attach(model, network, dict.fromkeys(("0", "7"), ((4, 2), (4, 2))))
    make_switchable(model, X)
    calibrate(model, [X[:5]])
    wanted = {name: bank.steps.clone() for name, bank in quantizers(model).items()}
    each, half = torch.tensor([[4, 2], [2, 4], [4, 4]]), torch.tensor([0.5, 0.5])
    for again in (PerSample(["0", "7"], each), Mixture({"7": (half, half)})):
        select(model, again)
        expected = model(X[:3])
        with pytest.raises(MixbitError, match="several bits in use at once"):
            calibrate(model, [X[:5]], every_row=False)
        calibrate(model, [X[:5]])
        assert torch.equal(model(X[:3]), expected)
        assert all(torch.equal(bank.steps, wanted[name]) for name, bank in quantizers(model).items())


def test_several_batches_are_averaged() -> None:
    steps = []
    for batches in ([X], [3 * X], [X, 3 * X]):
        model = nn.Sequential(nn.Conv2d(1, 2, 1))
        network = capture(model, X)
        quantize(model, Policy.uniform(network, 4, 4, {}), network)
        calibrate(model, batches)
        steps.append(float(quantized_layers(model)["0"].input_quantizer.steps.detach()))  # type: ignore[union-attr]
    assert steps[2] == pytest.approx((steps[0] + steps[1]) / 2)


def test_freeze_and_thaw() -> None:
    model = quantized()
    freeze(model)
    assert not any(q.steps.requires_grad for q in quantizers(model).values())
    freeze(model, frozen=False)
    assert all(q.steps.requires_grad for q in quantizers(model).values())


def test_what_stays_float_is_listed() -> None:
    model, network = small_net(), small_network()
    left = attach(model, network, {"0": ((4,), None), "3": ((4,), (4,))})
    reasons = {s.name: s.reason for s in left}
    assert reasons == {"0": "input in float: as the policy says", "7": "weight and input in float: as the policy says"}


def test_parametrized_weight_is_left_alone_and_listed() -> None:
    model, network = small_net(), small_network()
    nn.utils.parametrizations.weight_norm(model[0])
    left = attach(model, network, {"0": ((4,), (4,))})
    assert "no plain parameter" in {s.name: s.reason for s in left}["0"]


def test_unknown_layer_and_double_attach_are_errors() -> None:
    model, network = small_net(), small_network()
    with pytest.raises(PolicyError, match="conv9"):
        attach(model, network, {"conv9": ((4,), (4,))})
    attach(model, network, {"0": ((4,), (4,))})
    with pytest.raises(MixbitError, match="detach"):
        attach(model, network, {"0": ((4,), (4,))})


def test_calibration_needs_a_batch() -> None:
    model, network = small_net(), small_network()
    quantize(model, Policy.uniform(network, 4, 4, {}), network)
    with pytest.raises(MixbitError, match="at least one batch"):
        calibrate(model, [])


def test_quantized_model_copies_and_saves() -> None:
    model = quantized().eval()
    twin = copy.deepcopy(model)
    assert torch.equal(twin(X), model(X))
    assert torch.equal(pickle.loads(pickle.dumps(model))(X), model(X))
    other = quantized(4).eval()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(X), model(X))


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_attention_at_8_bits_is_close_to_pytorch(batch_first: bool, need_weights: bool, masked: bool) -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=batch_first).eval()

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = attention

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x, x, x, need_weights=False)[0]  # type: ignore[no-any-return]

    x = torch.randn(3, 5, 8)
    length = 5 if batch_first else 3
    mask = torch.ones(length, length, dtype=torch.bool).triu(1) if masked else None
    expected = attention(x, x, x, attn_mask=mask, need_weights=need_weights)
    model = Net()
    network = capture(model, x)
    assert [layer.name for layer in network.layers] == ["attention.in_proj", "attention.out_proj"]
    quantize(model, Policy.uniform(network, 8, 8, {}), network)
    calibrate(model, [x], "minmax", forward=lambda net, batch: attention(batch, batch, batch, attn_mask=mask))
    found = attention(x, x, x, attn_mask=mask, need_weights=need_weights)
    assert found[0].shape == expected[0].shape
    torch.testing.assert_close(found[0], expected[0], atol=0.02, rtol=0.1)
    if need_weights:
        torch.testing.assert_close(found[1], expected[1], atol=0.02, rtol=0.1)
    detach(model)
    assert torch.equal(attention(x, x, x, attn_mask=mask, need_weights=need_weights)[0], expected[0])


def test_an_output_projection_alone_is_quantized_within_its_attention() -> None:
    """The heads in float, as PyTorch's attention gives them with an identity behind; then the projection by hand."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(8, 2, batch_first=True)}).eval()
    plain: Any = copy.deepcopy(model["attention"])
    with torch.no_grad():
        plain.out_proj.weight.copy_(torch.eye(8))
        plain.out_proj.bias.zero_()
    attention: Any = model["attention"]
    model.forward = lambda x: attention(x, x, x, need_weights=False)[0]  # type: ignore[method-assign]
    x = torch.randn(3, 5, 8)
    network = capture(model, x)
    policy = Policy.uniform(network, 3, 3, {"attention.in_proj": LayerBits(None, None)})
    quantize(model, policy, network)
    calibrate(model, [x], "minmax")
    out = attention.out_proj
    heads = plain(x, x, x, need_weights=False)[0]
    wanted = F.linear(out.quantize_input(heads), out.quantize_weight(out.weight), out.bias)
    torch.testing.assert_close(model(x), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("error")
def test_what_a_model_draws_in_evaluation_mode_is_no_distance_from_float() -> None:
    """A dropout that never stops draws the same for both networks that are compared."""

    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.noise = nn.Linear(8, 32), False

        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(self.fc(x), 0.5, training=True) if self.noise else self.fc(x)

    torch.manual_seed(0)
    model, x = Noisy().eval(), torch.randn(16, 8)
    network = capture(model, x)
    quantize(model, Policy.uniform(network, 8, 8, {}), network)
    model.noise = True
    calibrate(model, [x], "minmax")


def test_encoder_layer_does_not_bypass_the_quantizers() -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    x = torch.randn(2, 5, 8)
    network = capture(model, x)
    quantize(model, Policy.uniform(network, 2, 2, {}), network)
    calibrate(model, [x])
    model.eval()
    with torch.no_grad():
        before = model(x)
        quantized_layers(model)["self_attn.in_proj"].weight_quantizer.steps.mul_(3)  # type: ignore[union-attr]
        assert not torch.equal(model(x), before)


def test_per_tensor_option() -> None:
    model, network = small_net(), small_network()
    quantize(model, Policy.uniform(network, 4, 4, {}), network, QuantizeConfig(per_channel=False))
    assert {q.channels for q in quantizers(model).values()} == {1}


KINDS = [QuantizeConfig(weights=w, per_channel=c) for w in ("lsq-clip", "midrise", "dorefa") for c in (True, False)]
KINDS += [QuantizeConfig(activations="pact", clip=0.2), QuantizeConfig(activations="dorefa")]
KINDS += [QuantizeConfig(activations="batchquant")]


def named(config: QuantizeConfig) -> str:
    return f"{config.weights}-{config.activations}-{config.per_channel}"


@pytest.mark.parametrize("config", KINDS, ids=named)
def test_kinds_go_on_and_off_switch_and_are_saved(config: QuantizeConfig) -> None:
    model, network = small_net().eval(), small_network()
    expected = model(X)
    options = {la.name: ((4, 2), (4, 2)) for la in network.layers}
    attach(model, network, options, config)
    calibrate(model, [X])
    outputs = []
    for bits in (4, 2, 4):
        select(model, bits)
        outputs.append(model(X).detach())
    assert torch.equal(outputs[0], outputs[2]) and not torch.equal(outputs[0], outputs[1])
    other = small_net().eval()
    attach(other, network, options, config)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(X), outputs[0])
    assert torch.equal(pickle.loads(pickle.dumps(model))(X), outputs[0])
    detach(model)
    assert torch.equal(model(X), expected)


def learned_by(bank: Quantizer) -> Tensor:
    """Steps, or the residuals of BatchQuant, of which nothing learns the steps."""
    if isinstance(bank, BatchQuant):
        return torch.cat([bank.theta, bank.delta]).detach()
    return bank.steps.detach().clone()


@pytest.mark.parametrize("config", KINDS, ids=named)
def test_kinds_learn(config: QuantizeConfig) -> None:
    """SGD lowers the loss, and moves steps where there is something to learn."""
    model, network = small_net(), small_network()
    quantize(model, Policy.uniform(network, 4, 4, {}), network, config)
    calibrate(model, [X])
    before = {name: learned_by(q) for name, q in quantizers(model).items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(X), torch.arange(8) % 3)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[-5:]) < losses[0]
    moved = {name for name, q in quantizers(model).items() if not torch.equal(learned_by(q), before[name])}
    assert moved == {name for name, q in quantizers(model).items() if q.learned}


def test_signed_inputs_are_not_clipped_at_zero() -> None:
    for kind in ("pact", "dorefa"):
        model, network = small_net(), small_network()
        quantize(model, Policy.uniform(network, 4, 4, {}), network, QuantizeConfig(activations=kind))  # type: ignore[arg-type]
        inputs = [layer.input_quantizer for layer in quantized_layers(model).values()]
        assert [type(q).__name__ == "Quantizer" for q in inputs] == [True, False, False]
    banks = put_on_with(QuantizeConfig(activations="batchquant")).values()
    assert [(type(one.input_quantizer), one.input_quantizer.signed) for one in banks] == [  # type: ignore[union-attr]
        (BatchQuant, True), (BatchQuant, False), (BatchQuant, False)
    ]  # fmt: skip


def test_the_default_kinds_are_lsq() -> None:
    assert {type(q).__name__ for q in quantizers(quantized()).values()} == {"Quantizer"}


def test_clip_and_decay_reach_the_quantizers() -> None:
    model, network = small_net(), small_network()
    config = QuantizeConfig(activations="pact", clip=6.0, clip_decay=0.01)
    quantize(model, Policy.uniform(network, 4, 4, {}), network, config)
    calibrate(model, [X])
    second = quantized_layers(model)["3"].input_quantizer
    assert second is not None and second.decay == 0.01
    assert float(second.steps.detach()) == pytest.approx(6 / 15)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"weights": "dorfa"}, "Did you mean 'dorefa'"),
        ({"activations": "relu"}, "Legal: batchquant, dorefa, lsq, pact"),
        ({"clip": 1.0}, "PACT's"),
        ({"per_channel": 1}, "per_channel=1 is illegal. Legal: true or false"),
        ({"gradient_scale": "channels"}, "Legal: 'features', 'numel' or 'none'"),
        ({"step_range": -1}, "step_range=-1 is illegal. Legal: a list of 2"),
        ({"step_range": (1.0, 0.5)}, "the lower bound, the upper one"),
        ({"weight_rule": {}}, "weight_rule={} is illegal"),
        ({"clip": float("nan"), "activations": "pact"}, "clip=nan"),
        ({"clip_decay": 1.0, "activations": "dorefa"}, "PACT's"),
        ({"ignore_dead": True}, "ignore_dead is BatchQuant's, but activations='lsq'"),
    ],
)
def test_illegal_kinds(settings: dict[str, object], match: str) -> None:
    with pytest.raises(MixbitError, match=match):
        QuantizeConfig(**settings)  # type: ignore[arg-type]


def test_frozen_steps_of_a_fixed_kind_stay_frozen() -> None:
    model, network = small_net(), small_network()
    quantize(model, Policy.uniform(network, 4, 4, {}), network, QuantizeConfig(weights="dorefa"))
    freeze(model, frozen=False)
    assert not any(q.steps.requires_grad for q in quantizers(model).values() if not q.learned)


def test_a_network_that_was_never_calibrated_is_refused_wherever_its_numbers_are_used() -> None:
    model, network = small_net().eval(), small_network()
    quantize(model, Policy.uniform(network, 8, 8, {}), network)
    split = LoaderSplit([(X, torch.arange(8) % 3)], num_classes=3)
    uses: list[Callable[[], object]] = [
        lambda: check_calibrated(model),
        lambda: evaluate(model, split),
        lambda: train(model, split, None, TrainConfig(epochs=1, batch_size=8), quiet=True),
        lambda: lower(model, network, [X]),
    ]
    for use in uses:
        with pytest.raises(MixbitError, match=r"0\.input_quantizer.*[Cc]all mixbit.calibrate"):
            use()
    calibrate(model, [X])
    for use in uses:
        use()


def test_rows_that_were_not_calibrated_are_refused_when_they_are_selected() -> None:
    model, network = small_net(), small_network()
    attach(model, network, {la.name: ((8, 4), (8, 4)) for la in network.layers})
    calibrate(model, [X], every_row=False)
    check_calibrated(model)
    select(model, 4)
    with pytest.raises(MixbitError, match="3 quantizers were never calibrated"):
        check_calibrated(model)


def test_steps_that_are_not_positive_are_not_lowered() -> None:
    model = quantized(8).eval()
    bank = quantized_layers(model)["3"].input_quantizer
    assert bank is not None
    with torch.no_grad():
        bank.steps.neg_()
    with pytest.raises(ExportError, match=r"3\.input_quantizer has 1 of 1 steps that are not positive"):
        lower(model, small_network(), [X])


def test_a_weights_file_of_other_bits_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    eight, three = quantized(8), quantized(3)
    before = copy.deepcopy(three.state_dict())
    save_file({name: tensor.contiguous() for name, tensor in eight.state_dict().items()}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"0\.weight_quantizer is of 3 bits signed here, and of 8 bits signed"):
        load_weights(three, tmp_path / "w.safetensors")
    assert all(torch.equal(before[key], value) for key, value in three.state_dict().items())
    assert load_weights(quantized(8), tmp_path / "w.safetensors")


def test_a_weights_file_of_the_first_version_is_still_read(tmp_path: Path) -> None:
    model = quantized(4).eval()
    later = ("qmins", "qmaxs", "ready")
    state = {k: v.contiguous() for k, v in model.state_dict().items() if k.rpartition(".")[2] not in later}
    save_file(state, tmp_path / "w.safetensors")
    other = small_net().eval()
    quantize(other, Policy.uniform(small_network(), 4, 4, {}), small_network())
    load_weights(other, tmp_path / "w.safetensors")
    assert torch.equal(other(X), model(X))
    check_calibrated(other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_quantized_model_in_another_dtype_gives_the_same_numbers(dtype: torch.dtype) -> None:
    model = quantized(8).eval()
    want = model(X)
    found = copy.deepcopy(model).to(dtype)(X.to(dtype))
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), want, atol=0.05, rtol=0)


def test_quantizing_under_another_default_dtype_gives_the_same_numbers() -> None:
    want = quantized(8).eval()(X)
    model, network = small_net(), small_network()
    torch.set_default_dtype(torch.float64)
    try:
        quantize(model, Policy.uniform(network, 8, 8, {}), network)
        calibrate(model, [X])
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(model.eval()(X), want)


# ------------------------------------------------------------------------------------------- every option, by numbers


def put_on_with(config: QuantizeConfig, bits: int = 4) -> dict[str, QuantizedLayer]:
    """`small_net` with steps of weights made by the rule; those of inputs are as they were made."""
    model, network = small_net(), small_network()
    quantize(model, Policy.uniform(network, bits, bits, {}), network, config)
    return quantized_layers(model)


def weight_steps(config: QuantizeConfig) -> Tensor:
    bank = put_on_with(config)["3"].weight_quantizer
    assert bank is not None
    return bank.steps.detach()[0]


WEIGHT = small_net()[3].weight.detach().flatten(1)  # type: ignore[union-attr,operator]
WIDEST = torch.maximum(WEIGHT.amax(dim=1) / 7, WEIGHT.amin(dim=1) / -8)


def lsq_plus(rows: Tensor) -> Tensor:
    mean, sigma = rows.mean(dim=1), rows.std(dim=1)
    return torch.maximum((mean - 3 * sigma).abs(), (mean + 3 * sigma).abs()) / 8


def step_gradients(config: QuantizeConfig) -> tuple[float, float]:
    """Norms of the gradients of the steps of a weight `(6, 4, 2, 2)` and of its input `(8, 4, 6, 6)`."""
    layer = put_on_with(config)["3"]
    for quantizer in (layer.weight_quantizer, layer.input_quantizer):
        assert quantizer is not None
        with torch.no_grad():
            quantizer.steps.fill_(0.1)
    up = torch.randn(8, 6, 6, 6, generator=torch.Generator().manual_seed(2))
    layer(X.repeat(1, 4, 1, 1)).backward(up)
    assert layer.weight_quantizer is not None and layer.input_quantizer is not None
    found = (layer.weight_quantizer.steps.grad, layer.input_quantizer.steps.grad)
    return tuple(float(one.norm()) for one in found if one is not None)  # type: ignore[return-value]


def by_factors(weight: float, inputs: float) -> Callable[[Any, Any], bool]:
    """The second pair is the first times these."""
    return lambda a, b: b == pytest.approx((a[0] * weight, a[1] * inputs), rel=1e-5)


def clamped(step_range: tuple[float, float] | None) -> tuple[float, ...]:
    """What steps of 3 and of 0.01 make of 1.3: of a weight and of an input."""
    layer = put_on_with(QuantizeConfig(step_range=step_range))["3"]
    found = []
    for quantizer in (layer.weight_quantizer, layer.input_quantizer):
        assert quantizer is not None
        for step in (3.0, 0.01):
            with torch.no_grad():
                quantizer.steps.fill_(step)
            found.append(float(quantizer(torch.full((6, 1), 1.3))[0].detach()))
    return tuple(found)


def used_weight(kind: WeightKind) -> Tensor:
    layer = put_on_with(QuantizeConfig(weights=kind, weight_rule="minmax", per_channel=False))["3"]
    return layer.quantize_weight(layer.weight).detach().flatten(1)  # type: ignore[arg-type,union-attr]


def in_levels(kind: str) -> Tensor:
    """The same by formula: integers, odd halves of a step, or DoReFa's fifteenths."""
    if kind == "lsq":
        return torch.clamp(torch.round(WEIGHT / WIDEST.max()), -8, 7) * WIDEST.max()
    if kind == "dorefa":
        t = WEIGHT.tanh()
        return 2 * torch.round(15 * (t / (2 * t.abs().max()) + 0.5)) / 15 - 1
    step = 2 * WEIGHT.abs().max() / 15
    return (torch.clamp(torch.floor(WEIGHT / step), -8, 7) + 0.5) * step


def behind(kind: ActivationKind) -> tuple[list[float], list[float]]:
    """Of a layer behind a ReLU, with steps of 0.1 where they can be set: what 0.234 and 9 become, their gradients of
    the step."""
    bank = put_on_with(QuantizeConfig(activations=kind))["3"].input_quantizer
    assert bank is not None
    if bank.learned:
        with torch.no_grad():
            bank.steps.fill_(0.1)
    outputs, gradients = [], []
    for value in (0.234, 9.0):
        y = bank(torch.full((1, 1), value))
        outputs.append(round(float(y.detach()), 4))
        if bank.learned:
            bank.steps.grad = None
            y.backward()
            gradients.append(round(float(bank.steps.grad), 4))
    return outputs, gradients


def input_steps(**settings: Any) -> list[float]:
    """As a run calibrates them, on X: of the first layer, which is signed, and of the second."""
    model, network = small_net(), small_network()
    task = SimpleNamespace(network=network, calibration=lambda samples, seed: X)
    put_policy_on(model, Policy.uniform(network, 4, 4, {}), task, seed=0, config=QuantizeConfig(**settings))  # type: ignore[arg-type]
    return [float(layer.input_quantizer.steps.detach()) for layer in quantized_layers(model).values()]  # type: ignore[union-attr]


def span(x: Tensor) -> float:
    """Mean over channels of the largest, less that of the smallest."""
    channels = list(x.unbind(dim=1))
    return sum(float(one.max()) - float(one.min()) for one in channels) / len(channels)


def step_of_half_dead(config: QuantizeConfig) -> float:
    """Of an input of 0 to 6 in two of three channels, in training mode's grid of 15 steps."""
    bank = put_on_with(config)["3"].input_quantizer
    assert bank is not None
    x = torch.zeros(2, 3, 2, 2)
    x[:, :2, 0] = 6.0
    bank.initialise(x, find_rule("minmax"))
    return float(bank.steps)


def decayed_clip(decay: float) -> float:
    """The clip after one update by SGD at rate 0.5 with no other gradient."""
    model, network = small_net(), small_network()
    config = QuantizeConfig(activations="pact", clip=6.0, clip_decay=decay)
    quantize(model, Policy.uniform(network, 4, 4, {}), network, config)
    optimizer = make_optimizer(model, name="sgd", lr=0.5, step_lr=0.5, momentum=0.0, weight_decay=0.0)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    bank = quantized_layers(model)["3"].input_quantizer
    assert bank is not None
    return 15 * float(bank.steps.detach())


def near(first: Tensor, second: Tensor) -> Callable[[Any, Any], bool]:
    return lambda a, b: torch.allclose(a, first, rtol=1e-5) and torch.allclose(b, second, rtol=1e-5)


class TestQuantizeConfigOptions(OptionCases):
    owner = QuantizeConfig
    options = fields_of(QuantizeConfig)
    rows = (
        OptionRow(
            "per_channel", (True, False),
            seen=lambda value: weight_steps(QuantizeConfig(per_channel=value, weight_rule="minmax")),
            holds=near(WIDEST, WIDEST.max()[None]),
        ),
        OptionRow(
            "gradient_scale", ("none", "features"), says="counts what shares a step in one sample",
            seen=lambda value: step_gradients(QuantizeConfig(gradient_scale=value)),
            holds=by_factors((16 * 7) ** -0.5, (4 * 6 * 6 * 15) ** -0.5),
        ),
        OptionRow(
            "gradient_scale", ("none", "numel"), says="counts the batch",
            seen=lambda value: step_gradients(QuantizeConfig(gradient_scale=value)),
            holds=by_factors((16 * 7) ** -0.5, (8 * 4 * 6 * 6 * 15) ** -0.5),
        ),
        OptionRow(
            "gradient_scale", ("none", "features"), says="of a weight with one step",
            seen=lambda value: step_gradients(QuantizeConfig(gradient_scale=value, per_channel=False)),
            holds=by_factors((6 * 16 * 7) ** -0.5, (4 * 6 * 6 * 15) ** -0.5),
        ),
        OptionRow(
            "weight_rule", ("lsq+", "minmax"),
            seen=lambda value: weight_steps(QuantizeConfig(weight_rule=value)),
            holds=near(lsq_plus(WEIGHT), WIDEST),
        ),
        OptionRow(
            "weight_rule", ("lsq", "constant"),
            seen=lambda value: weight_steps(QuantizeConfig(weight_rule=value)),
            holds=near(2 * WEIGHT.abs().mean(dim=1) / 7**0.5, torch.full((6,), 0.025)),
        ),
        OptionRow(
            "activation_rule", ("lsq", "minmax"),
            seen=lambda value: input_steps(activation_rule=value)[0],
            holds=lambda a, b: (a, b) == pytest.approx(
                (2 * float(X.abs().mean()) / 7**0.5, max(float(X.max()) / 7, -float(X.min()) / 8)), rel=1e-5
            ),
        ),
        OptionRow(
            "step_range", (None, (0.5, 2.0)), says="of weights and inputs, from both sides",
            seen=clamped,
            holds=lambda a, b: a == pytest.approx((0.0, 0.07, 0.0, 0.15)) and b == pytest.approx((2.0, 1.5, 2.0, 1.5)),
        ),
        OptionRow("weights", ("lsq", "dorefa"), seen=used_weight, holds=near(in_levels("lsq"), in_levels("dorefa"))),
        OptionRow(
            "weights", ("midrise", "lsq-clip"),
            seen=used_weight,
            holds=near(in_levels("midrise"), in_levels("midrise")),
        ),
        OptionRow(
            "weights", ("midrise", "lsq-clip"), says="whatever the rule, the clip starts at the largest weight",
            seen=lambda value: weight_steps(QuantizeConfig(weights=value, weight_rule="lsq+")),
            holds=near(lsq_plus(WEIGHT), 2 * WEIGHT.abs().amax(dim=1) / 15),
        ),
        OptionRow(
            "activations", ("lsq", "pact"), says="rounding is learned from by LSQ, and not by PACT",
            seen=behind,
            holds=lambda a, b: a[0] == b[0] == pytest.approx([0.2, 1.5])
            and a[1] == pytest.approx([(2 - 2.34) / 15**0.5, 15 / 15**0.5], abs=1e-3)
            and b[1] == pytest.approx([0.0, 1 / 15], abs=1e-3),
        ),
        OptionRow(
            "activations", ("lsq", "dorefa"), says="DoReFa clips at 1",
            seen=behind,
            holds=lambda a, b: a[0] == pytest.approx([0.2, 1.5]) and b == ([round(4 / 15, 4), 1.0], []),
        ),
        OptionRow(
            "activations", ("lsq", "batchquant"), says="of inputs that can be negative too, the range that they have",
            seen=lambda value: input_steps(activations=value, activation_rule="minmax")[0],
            holds=lambda a, b: a == pytest.approx(max(float(X.max()) / 7, -float(X.min()) / 8), rel=1e-5)
            and b == pytest.approx(span(X) / 15, rel=1e-5),
        ),
        OptionRow(
            "ignore_dead", (False, True), says="a third of the channels is dead",
            seen=lambda value: step_of_half_dead(QuantizeConfig(activations="batchquant", ignore_dead=value)),
            holds=lambda a, b: (a, b) == pytest.approx((4 / 15, 6 / 15)),
        ),
        OptionRow(
            "clip", (6.0, 3.0),
            seen=lambda value: input_steps(activations="pact", clip=value)[1],
            holds=lambda a, b: (a, b) == pytest.approx((6 / 15, 3 / 15)),
        ),
        OptionRow(
            "clip", (None, 6.0), says="where none is given, the rule decides",
            seen=lambda value: input_steps(activations="pact", clip=value, activation_rule="minmax"),
            holds=lambda a, b: a[0] == b[0] and a[1] == pytest.approx(input_steps(activation_rule="minmax")[1]),
        ),
        OptionRow(
            "clip_decay", (0.0, 0.1),
            seen=decayed_clip,
            holds=lambda a, b: (a, b) == pytest.approx((6.0, 6.0 * (1 - 0.5 * 0.1))),
        ),
    )  # fmt: skip


def test_the_defaults_are_those_that_are_documented() -> None:
    """LIMPQ's code for weights, LSQ's paper for the rest; a state that was saved depends on them."""
    found = {name: getattr(QuantizeConfig(), name) for name in fields_of(QuantizeConfig)}
    assert found == {
        "per_channel": True, "gradient_scale": "features", "weight_rule": "lsq+", "activation_rule": "lsq",
        "step_range": None, "weights": "lsq", "activations": "lsq", "clip": None, "clip_decay": 0.0,
        "ignore_dead": False,
    }  # fmt: skip
    assert QuantizeConfig(step_range=(0.5, 0.5)).step_range == (0.5, 0.5)


# ---------------------------------------------------------------------------------------------------------- BatchQuant


def batch_quantized(bits: tuple[int, ...] = (4,)) -> tuple[nn.Sequential, dict[str, BatchQuant]]:
    """`small_net`, not calibrated, and its input quantizers by layer."""
    model, network = small_net(), small_network()
    attach(model, network, {one.name: (bits, bits) for one in network.layers}, QuantizeConfig(activations="batchquant"))
    found = {name: layer.input_quantizer for name, layer in quantized_layers(model).items()}
    return model, found  # type: ignore[return-value]


def test_calibration_freezes_the_range_of_every_row_behind_quantized_layers() -> None:
    """By samples over two batches; the second layer reads what the first one makes of its bits."""
    model, banks = batch_quantized((8, 2))
    batches = [X[:6], 3 * X[6:]]
    calibrate(model, batches)
    ranges = [(float(x.amin()), float(x.amax()), len(x)) for x in batches]  # of one channel
    for at, wanted in enumerate(sum(one[side] * one[2] / 8 for one in ranges) for side in (0, 1)):
        assert (banks["0"].lows, banks["0"].highs)[at].flatten().tolist() == pytest.approx([wanted] * 2, rel=1e-6)
    assert not torch.equal(*banks["3"].highs)
    assert all(bool(bank.ready.all()) and not bank.trained_on.any() for bank in banks.values())


def test_the_features_of_a_linear_layer_are_its_channels() -> None:
    _, banks = batch_quantized()
    assert [bank.channel_axis for bank in banks.values()] == [1, 1, -1]


def test_calibration_of_the_rows_in_use_leaves_others() -> None:
    model, banks = batch_quantized((8, 2))
    select(model, 2)
    calibrate(model, [X], every_row=False)
    assert all(bank.ready.tolist() == [False, True] for bank in banks.values())
    select(model, 8)
    with pytest.raises(MixbitError, match="3 quantizers were never calibrated: 0.input_quantizer"):
        check_calibrated(model)


def test_one_image_is_no_calibration_of_batch_quant() -> None:
    model, _ = batch_quantized()
    with pytest.raises(MixbitError, match="^0.input_quantizer: calibration by batches of one sample"):
        calibrate(model, [X[:1]])


def test_an_affine_grid_holds_negative_inputs_and_says_nothing() -> None:
    model = nn.Sequential(nn.ReLU(), nn.Conv2d(1, 2, 3))
    network = capture(model, X)
    for kind, told in (("lsq", 1), ("batchquant", 0)):
        one = copy.deepcopy(model)
        quantize(one, Policy.uniform(network, 4, 4, {}), network, QuantizeConfig(activations=kind))  # type: ignore[arg-type]
        one[0] = nn.Identity()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            calibrate(one, [X])
        assert sum("below zero" in str(w.message) for w in caught) == told


def test_residuals_are_folded_into_plain_quantizers_in_place() -> None:
    model, banks = batch_quantized()
    calibrate(model, [X])
    with torch.no_grad():
        for delta, bank in zip((0.25, -0.5, 1.0), banks.values(), strict=True):
            bank.delta.fill_(delta)
    wanted = model.eval()(X).detach()
    moved = fold_residuals(model)
    assert list(moved) == [f"{name}.input_quantizer" for name in banks]
    assert list(moved.values()) == pytest.approx([0.25, 0.5, 0.0], abs=1e-6)
    assert {type(one) for one in quantizers(model).values()} == {Quantizer} and fold_residuals(model) == {}
    found = model(X).detach()
    assert not torch.equal(found, wanted) and float((found - wanted).abs().max()) < float(wanted.std())


def test_folding_names_the_quantizer_and_folds_none_where_one_cannot_be() -> None:
    model, banks = batch_quantized((8, 2))
    calibrate(model, [X])
    banks["0"].keep_row()
    with pytest.raises(MixbitError, match=r"^3.input_quantizer: .*\[8, 2\] bits"):
        fold_residuals(model)
    assert type(model[0].input_quantizer) is BatchQuant


# -------------------------------------------------------------------------------------------- calibration, step by step


def one_linear(bits: tuple[int, ...] = (4,), positive: bool = False) -> tuple[nn.Sequential, Quantizer]:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 2)), torch.randn(4, 3)
    network = capture(model, x.abs() if positive else x)
    attach(model, network, {"0": (bits, bits)})
    bank = quantized_layers(model)["0"].input_quantizer
    assert bank is not None
    return model, bank


def test_calibration_is_by_its_rule_and_the_default_is_lsq() -> None:
    x = torch.tensor([[1.0, -2.0, 3.0], [0.5, 0.0, -7.0]])
    wanted = {"lsq": 2 * (13.5 / 6) / 7**0.5, "minmax": 7 / 8, "minmax-affine": 10 / 15, "constant": 0.025}
    for rule, step in wanted.items():
        model, bank = one_linear()
        calibrate(model, [x], rule)  # type: ignore[arg-type]
        assert bank.steps.item() == pytest.approx(step), rule
    model, bank = one_linear()
    calibrate(model, [x])
    assert bank.steps.item() == pytest.approx(wanted["lsq"])


def test_calibrating_again_begins_anew() -> None:
    model, bank = one_linear()
    for scale in (1.0, 5.0):
        calibrate(model, [scale * torch.tensor([[1.0, -1.0, 7.0]])], "minmax")
        assert bank.steps.item() == pytest.approx(scale)


def test_only_the_rows_in_use_are_calibrated_where_that_is_asked_for() -> None:
    x = torch.tensor([[1.0, -1.0, 7.0]])
    model, bank = one_linear((4, 2))
    select(model, 2)
    calibrate(model, [x], "minmax", every_row=False)
    assert bank.ready.tolist() == [False, True] and bank.steps.flatten().tolist() == pytest.approx([1.0, 7.0])
    assert bank.selected == 2
    calibrate(model, [x], "minmax")
    assert bank.ready.tolist() == [True, True] and bank.selected == 2


def test_a_short_bank_keeps_its_last_row_while_longer_ones_go_on() -> None:
    """Row 2 of the others meets the lowest bits that there are here."""
    model, network = small_net(), small_network()
    attach(model, network, {"0": ((8, 4, 2), (8, 4, 2)), "3": ((8, 4), (8, 4)), "7": ((4,), (4,))})
    seen: dict[str, list[int]] = {"0": [], "3": [], "7": []}
    for name, layer in quantized_layers(model).items():
        assert layer.input_quantizer is not None
        layer.input_quantizer.register_forward_pre_hook(lambda bank, _, name=name: seen[name].append(bank.selected))
    calibrate(model, [X])
    assert {name: bits[:3] for name, bits in seen.items()} == {"0": [8, 4, 2], "3": [8, 4, 4], "7": [4, 4, 4]}
    assert [layer.input_quantizer.selected for layer in quantized_layers(model).values()] == [8, 8, 4]  # type: ignore[union-attr]


def test_dropout_in_calibration_draws_from_the_seed() -> None:
    steps = []
    for seed in (0, 0, 5):
        torch.manual_seed(1)
        model, x = nn.Sequential(nn.Dropout(), nn.Linear(3, 2)), torch.ones(4, 3)
        attach(model, capture(model, x), {"1": ((4,), (4,))})
        calibrate(model, [x], seed=seed)
        steps.append([float(q.steps.detach().sum()) for q in quantizers(model).values()])
    assert steps[0] == steps[1] != steps[2]


def test_the_look_in_evaluation_mode_is_at_the_first_batch() -> None:
    model, _ = one_linear()
    batches, seen = [torch.full((2, 3), 1.0), torch.full((2, 3), 2.0)], []
    calibrate(model, batches, forward=lambda net, x: (seen.append((net.training, float(x[0, 0]))), net(x)))
    assert seen[:3] == [(True, 1.0), (True, 2.0), (False, 1.0)] and {value for _, value in seen[2:]} == {1.0}


def test_quantizers_that_are_passed_by_need_no_calibration() -> None:
    model, network = small_net(), small_network()
    quantize(model, Policy.uniform(network, 4, 4, {}), network)
    with pytest.raises(MixbitError, match="3 quantizers were never calibrated: 0.input_quantizer"):
        check_calibrated(model)
    for name, bank in quantizers(model).items():
        bank.bypass = name.endswith("input_quantizer")
    check_calibrated(model)


def test_switching_leaves_single_quantizers_and_unnamed_sides_alone() -> None:
    model, network = small_net(), small_network()
    attach(model, network, {"0": ((8,), (8,)), "3": ((8, 4), (8, 4))})
    select(model, 4)  # the first layer has nothing to choose
    select(model, {"3": LayerBits(None, 8)})
    layers = quantized_layers(model)
    found = [(la.weight_quantizer.selected, la.input_quantizer.selected) for la in layers.values()]  # type: ignore[union-attr]
    assert found == [(8, 8), (4, 8)]
    with pytest.raises(MixbitError, match="layer '3' has no 2 bits. Legal: 8, 4"):
        select(model, 2)


def test_a_policy_of_another_network_is_refused_before_anything_is_put_on() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    network = capture(model, torch.zeros(2, 3))
    policy = Policy.uniform(network, 4, 4)
    strange = replace(policy, fingerprint="sha256:" + "0" * 16)
    with pytest.raises(PolicyError):
        quantize(model, strange, network)
    assert not quantized_layers(model)
