"""Turned classes run what the user's forward ran: variants of attention, patched and unusual layers, fused paths."""

from __future__ import annotations

import copy
import io
import types
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
from mixbit.quantization import attach, calibrate, detach, quantize, quantized_layers
from mixbit.quantization._layers import put_on, take_off
from mixbit.quantizers import Quantizer, find_rule
from mixbit.supernet import select

Forward = Callable[[nn.MultiheadAttention, Tensor, Tensor, Tensor], Tensor]

CALLS: dict[str, Forward] = {
    "attn(q, k, v)": lambda attn, a, b, c: attn(a, b, c)[0],
    "attn(q, q, v)": lambda attn, a, b, _: attn(a, a, b)[0],
    "attn(q, v, v)": lambda attn, a, b, _: attn(a, b, b)[0],
    "attn(q, k, q)": lambda attn, a, b, _: attn(a, b, a)[0],
    "attn(q, q, q)": lambda attn, a, *_: attn(a, a, a)[0],
}


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("call", CALLS)
def test_attention_tells_query_key_and_value_apart(call: str, batch_first: bool) -> None:
    """Turned, but with both sides in float, so nothing but the way through attention could differ."""
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=batch_first)
    inputs = torch.randn(3, 4, 5, 8)
    want = CALLS[call](attention, *inputs)
    put_on(attention, None, None)
    torch.testing.assert_close(CALLS[call](attention, *inputs), want)


def test_the_causal_hint_without_its_mask_is_refused_as_in_pytorch() -> None:
    attention, x = nn.MultiheadAttention(8, 2), torch.randn(3, 4, 8)
    with pytest.raises(RuntimeError, match="attn_mask"):
        attention(x, x, x, is_causal=True)
    put_on(attention, None, None)
    with pytest.raises(MixbitError, match="attn_mask"):
        attention(x, x, x, is_causal=True)


class Halved(nn.MultiheadAttention):
    """Attention with a forward of its own around PyTorch's."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **how: Any) -> tuple[Tensor, Tensor | None]:  # type: ignore[override]
        out, weights = super().forward(query, key, value, **how)
        return 0.5 * out, weights


class Named(nn.MultiheadAttention):
    """A subclass that changes nothing."""


class Around(nn.Module):
    def __init__(self, attention: nn.MultiheadAttention, keys: int = 8) -> None:
        super().__init__()
        self.embed, self.other, self.head = nn.Linear(6, 8), nn.Linear(6, keys), nn.Linear(8, 3)
        self.attention, self.same = attention, keys == 8

    def forward(self, x: Tensor) -> Tensor:
        q = self.embed(x)
        k = q if self.same else self.other(x)
        return self.head(self.attention(q, k, k)[0])  # type: ignore[no-any-return]


def patched(layer: nn.Module) -> nn.Module:
    layer.forward = types.MethodType(type(layer).forward, layer)  # type: ignore[method-assign]
    return layer


REFUSED: dict[str, tuple[Callable[[], nn.MultiheadAttention], int, str]] = {
    "a forward of its own": (lambda: Halved(8, 2, batch_first=True), 8, "Halved has an attention forward of its own"),
    "a zero key": (lambda: nn.MultiheadAttention(8, 2, batch_first=True, add_zero_attn=True), 8, "add_zero_attn"),
    "a learned key": (lambda: nn.MultiheadAttention(8, 2, batch_first=True, add_bias_kv=True), 8, "bias_k"),
    "other sizes": (lambda: nn.MultiheadAttention(8, 2, batch_first=True, kdim=4, vdim=4), 4, "separate key or value"),
    "a patch": (lambda: patched(nn.MultiheadAttention(8, 2, batch_first=True)), 8, "set on the instance"),  # type: ignore[dict-item,return-value]
}


@pytest.mark.parametrize("variant", REFUSED)
def test_attention_that_cannot_be_written_out_stays_in_float_with_its_projection(variant: str) -> None:
    make, keys, reason = REFUSED[variant]
    torch.manual_seed(0)
    model, x = Around(make(), keys).eval(), torch.randn(4, 5, 6)
    want = model(x)
    network = capture(model, x)
    assert not [layer.name for layer in network.layers if "attention" in layer.name]
    assert reason in next(one.reason for one in network.skipped if one.name == "attention.out_proj")
    quantize(model, Policy.uniform(network, 8, 8, {}), network)
    calibrate(model, [x], "minmax")
    assert type(model.attention) is type(make())
    torch.testing.assert_close(model.eval()(x), want, atol=0.02, rtol=0)


def test_a_subclass_that_changes_nothing_is_quantized() -> None:
    network = capture(Around(Named(8, 2, batch_first=True)).eval(), torch.randn(4, 5, 6))
    assert [layer.name for layer in network.layers] == ["embed", "attention.in_proj", "attention.out_proj", "head"]


def chain(patch: bool) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    if patch:
        patched(net[0])
    return net


def test_a_forward_on_the_instance_is_a_reason_in_capture() -> None:
    network = capture(chain(patch=True), torch.randn(4, 6))
    assert [layer.name for layer in network.layers] == ["2"]
    assert "set on the instance" in next(one.reason for one in network.skipped if one.name == "0")


def test_a_forward_that_is_set_after_capture_is_listed_and_warned_of() -> None:
    network = capture(chain(patch=False), torch.randn(4, 6))
    net = chain(patch=True)
    with pytest.warns(UserWarning, match=r"1 layers stay in float against the policy: 0 .*set on the instance"):
        left = quantize(net, Policy.uniform(network, 2, 2, {}), network)
    assert [one.name for one in left] == ["0"] and type(net[0]) is nn.Linear


def test_layers_without_a_graph_have_the_same_reasons() -> None:
    class Branching(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x if x.sum() > 0 else -x)  # type: ignore[no-any-return]

    net = Branching(*chain(patch=True))
    network = capture(net, torch.randn(4, 6))
    assert [layer.name for layer in network.layers] == ["2"]
    assert "set on the instance" in next(one.reason for one in network.skipped if one.name == "0")
    assert "set on the instance" in next(one.reason for one in network.float_parameters if one.name == "0.weight")


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        return self.head(self.body(x, src_key_padding_mask=padding))  # type: ignore[no-any-return]


TOKENS = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))


@cache
def encoder_network() -> Network:
    """Captured once: that is the slow part."""
    return capture(Encoder().eval(), TOKENS)


def quantized_encoder(bits: int, pins: dict[str, LayerBits] | None = None) -> Encoder:
    torch.manual_seed(0)
    model, network = Encoder().eval(), encoder_network()
    quantize(model, Policy.uniform(network, bits, bits, pins or {}), network)
    calibrate(model, [TOKENS])
    return model.eval()


@pytest.mark.parametrize("attention", ["quantized", "in float"])
def test_encoders_in_evaluation_compute_what_they_compute_with_gradients(attention: str) -> None:
    """Without gradients PyTorch would take its fused path, which reads the float weights, or pack the padded batch."""
    padding = torch.arange(5) >= torch.tensor([[5], [4], [3]])
    names = [la.name for la in encoder_network().layers if "self_attn" in la.name and attention == "in float"]
    model, x = quantized_encoder(2, dict.fromkeys(names, LayerBits(None, None))), TOKENS
    slow, slow_padded = model(x).detach(), model(x, padding).detach()
    with torch.no_grad():
        torch.testing.assert_close(model(x), slow)
        torch.testing.assert_close(model(x, padding), slow_padded)


def test_encoders_take_the_fused_path_again_after_detach() -> None:
    model = quantized_encoder(4)
    assert not model.body.use_nested_tensor
    detach(model)
    assert model.body.use_nested_tensor
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("way", ["torch.save", "deepcopy"])
def test_quantized_attention_is_saved_and_copied_whole(way: str) -> None:
    model, x = quantized_encoder(4), TOKENS
    want = model(x).detach()
    if way == "deepcopy":
        other = copy.deepcopy(model)
    else:
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        other = torch.load(file, weights_only=False)
    with torch.no_grad():
        torch.testing.assert_close(other(x), want)
    detach(other)
    assert not any(module._forward_pre_hooks for module in other.modules())
    assert any(module._forward_pre_hooks for module in model.modules())


class Doubled(nn.Conv2d):
    """An override in the place that nn.Conv2d offers for it; it reads its own weight, not the argument."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002
        del weight
        return 2 * F.conv2d(input, self.weight, bias, self.stride, self.padding)


def test_the_weight_that_a_class_reads_by_name_is_the_quantized_one() -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(Doubled(1, 4, 3)), torch.randn(2, 1, 5, 5)
    attach(net, capture(net, x), {"0": ((2,), None)})
    weight = quantized_layers(net)["0"].quantize_weight(net[0].weight)
    torch.testing.assert_close(net(x), 2 * F.conv2d(x, weight, net[0].bias))


@pytest.mark.parametrize("make", [lambda: nn.Linear(6, 4), lambda: Doubled(1, 2, 1)])
def test_layers_are_called_by_keyword(make: Callable[[], nn.Module]) -> None:
    layer = make()
    x = torch.randn(2, 6) if isinstance(layer, nn.Linear) else torch.randn(2, 1, 3, 3)
    want = layer(input=x)
    put_on(layer, None, None)
    assert torch.equal(layer(input=x), want) and torch.equal(layer(x), want)


@pytest.mark.parametrize(
    ("make", "shape", "names"),
    [
        (lambda: nn.Linear(6, 4), (3, 6), ["weight"]),
        (lambda: nn.Conv2d(1, 2, 3), (3, 1, 5, 5), ["weight"]),
    ],
)
def test_a_model_that_is_one_layer_has_the_name_of_capture(
    make: Callable[[], nn.Module], shape: tuple[int, ...], names: list[str]
) -> None:
    model, x = make(), torch.randn(shape)
    network = capture(model, x)
    assert [layer.name for layer in network.layers] == names == list(_attached(model, network))
    select(model, {names[0]: LayerBits(8, 4)})
    layer = quantized_layers(model)[names[0]]
    assert layer.weight_quantizer is not None and layer.input_quantizer is not None
    assert (layer.weight_quantizer.selected, layer.input_quantizer.selected) == (8, 4)


def _attached(model: nn.Module, network: Network) -> dict[str, Any]:
    attach(model, network, {layer.name: ((2, 4, 8), (2, 4, 8)) for layer in network.layers})
    return dict(quantized_layers(model))


# ------------------------------------------------------------------------ every way to call attention, by PyTorch


def additive(*shape: int, seed: int = 0) -> Tensor:
    """A mask of unlike numbers with some places shut, none of them the first."""
    random = torch.Generator().manual_seed(seed)
    mask = torch.randn(shape, generator=random)
    mask[..., 1:] = mask[..., 1:].masked_fill(torch.rand(mask[..., 1:].shape, generator=random) < 0.3, float("-inf"))
    return mask


N, HEADS, L, S = 3, 2, 5, 4
ATTN_MASKS: dict[str, Callable[[int], Tensor | None]] = {
    "none": lambda batch: None,
    "bool": lambda batch: additive(L, S).isinf(),
    "float": lambda batch: additive(L, S),
    "float by sample and head": lambda batch: additive(batch * HEADS, L, S),
    "bool by sample and head": lambda batch: additive(batch * HEADS, L, S).isinf(),
}
PADDINGS: dict[str, Callable[..., Tensor | None]] = {
    "none": lambda *shape: None,
    "bool": lambda *shape: additive(*shape, seed=1).isinf(),
    "float": lambda *shape: additive(*shape, seed=1),
}


@pytest.mark.parametrize("mask", ATTN_MASKS)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.filterwarnings("ignore:Support for mismatched")
def test_attention_with_any_masks_is_pytorchs(mask: str, padding: str) -> None:
    """Batched and not, both layouts, weights asked for or not, averaged over heads or not, with and without biases."""
    torch.manual_seed(0)
    for first, batched, bias in ((True, True, True), (False, True, True), (True, False, False)):
        attention = nn.MultiheadAttention(8, HEADS, batch_first=first, bias=bias).eval()
        with torch.no_grad():
            if bias:
                attention.in_proj_bias.normal_()  # PyTorch starts with zeros
        turned = copy.deepcopy(attention)
        put_on(turned, None, None)
        q, k, v = torch.randn(N, L, 8), torch.randn(N, S, 8), torch.randn(N, S, 8)
        inputs = [q, k, v] if batched and first else [x.transpose(0, 1) if batched else x[0] for x in (q, k, v)]
        how = {
            "attn_mask": ATTN_MASKS[mask](N if batched else 1),
            "key_padding_mask": PADDINGS[padding](N, S) if batched else PADDINGS[padding](S),
        }
        for weights, average in ((True, True), (True, False), (False, True)):
            found = turned(*inputs, need_weights=weights, average_attn_weights=average, **how)
            want = attention(*inputs, need_weights=weights, average_attn_weights=average, **how)
            torch.testing.assert_close(found, want)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("need_weights", [True, False])
def test_attention_drops_in_training_what_pytorchs_drops(training: bool, need_weights: bool) -> None:
    """The same draws from the same seed; what is returned as weights is what was used."""
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, HEADS, dropout=0.5, batch_first=True).train(training)
    turned = copy.deepcopy(attention)
    put_on(turned, None, None)
    q, k = torch.randn(N, L, 8), torch.randn(N, S, 8)
    results = []
    for one in (attention, turned):
        torch.manual_seed(5)
        results.append(one(q, k, k, need_weights=need_weights))
    torch.testing.assert_close(results[1], results[0])
    torch.manual_seed(6)
    assert torch.allclose(turned(q, k, k, need_weights=need_weights)[0], results[1][0]) != training


def test_a_tensor_that_attention_is_given_twice_is_quantized_once() -> None:
    attention = nn.MultiheadAttention(8, HEADS, batch_first=True)
    bank = Quantizer([4], signed=True)
    put_on(attention, None, bank)
    seen: list[Tensor] = []
    bank.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    q, k, v = torch.randn(3, N, L, 8)
    for call, wanted in (((q, q, q), [q]), ((q, k, k), [q, k]), ((q, k, v), [q, k, v])):
        seen.clear()
        attention(*call)
        assert len(seen) == len(wanted) and all(torch.equal(a, b) for a, b in zip(seen, wanted, strict=True))


def test_attention_uses_the_quantized_weight_and_inputs() -> None:
    """By PyTorch's own attention with these in their places."""
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, HEADS, batch_first=True)
    float_one = copy.deepcopy(attention)
    weight, inputs = Quantizer([3], signed=True, channels=24), Quantizer([3], signed=True)
    weight.initialise(attention.in_proj_weight, find_rule("minmax"))
    with torch.no_grad():
        inputs.steps.fill_(0.5)
        float_one.in_proj_weight.copy_(weight(attention.in_proj_weight))
    put_on(attention, weight, inputs)
    x = torch.randn(N, L, 8)
    rounded = inputs(x).detach()
    torch.testing.assert_close(attention(x, x, x), float_one(rounded, rounded, rounded))


SHIFTED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 4), (2, 6)),
    "linear without bias": (lambda: nn.Linear(6, 4, bias=False), (2, 6)),
    "conv1d": (lambda: nn.Conv1d(3, 4, 2), (2, 3, 5)),
    "conv2d without bias": (lambda: nn.Conv2d(3, 4, 2, bias=False), (2, 3, 5, 5)),
    "a class of one's own": (lambda: Halving(3, 4, 2), (2, 3, 5, 5)),
    "attention": (lambda: nn.MultiheadAttention(8, HEADS, batch_first=True), (2, 5, 8)),
}


class Halving(nn.Conv2d):
    """A forward of its own that reads weight and bias by name."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return F.conv2d(input / 2, self.weight, self.bias)


@pytest.mark.parametrize("kind", SHIFTED)
def test_shifts_are_added_to_the_quantized_weight_and_to_the_bias(kind: str) -> None:
    """As the float layer computes with a weight and a bias that hold them; taken off, nothing of it is left."""
    make, shape = SHIFTED[kind]
    torch.manual_seed(0)
    layer, x = make(), torch.randn(shape)
    other = copy.deepcopy(layer)
    name = "in_proj_" if kind == "attention" else ""
    weight, bias = getattr(layer, f"{name}weight"), getattr(layer, f"{name}bias")
    bank = Quantizer([3], signed=True)
    bank.initialise(weight, find_rule("minmax"))
    call = (lambda one: one(x, x, x)[0]) if kind == "attention" else lambda one: one(x)
    before = call(layer).detach()
    put_on(layer, bank, None)
    shifts = torch.randn(len(weight), *[1] * (weight.dim() - 1)), torch.randn(len(weight))
    layer.weight_shift, layer.bias_shift = shifts
    with torch.no_grad():
        getattr(other, f"{name}weight").copy_(bank(weight) + shifts[0])
        setattr(other, f"{name}bias", nn.Parameter(shifts[1] if bias is None else bias + shifts[1]))
    torch.testing.assert_close(call(layer), call(other))
    assert getattr(layer, f"{name}weight") is weight and getattr(layer, f"{name}bias") is bias
    take_off(layer)  # type: ignore[arg-type]
    assert torch.equal(call(layer), before)


def test_weights_are_put_back_where_a_forward_of_ones_own_fails() -> None:
    layer = Halving(3, 4, 2)
    weight, bias = layer.weight, layer.bias
    put_on(layer, Quantizer([3], signed=True), None)
    layer.bias_shift = torch.ones(4)  # type: ignore[assignment]
    with pytest.raises(RuntimeError):
        layer(torch.randn(2, 7, 5, 5))
    assert layer.weight is weight and layer.bias is bias


def test_attention_takes_samples_of_other_activation_bits_but_one_bit_width_of_weights() -> None:
    torch.manual_seed(0)
    attention, x = nn.MultiheadAttention(8, 2, batch_first=True), torch.randn(3, 4, 8)
    banks = [Quantizer([8, 2], signed=True, channels=24), Quantizer([8, 2], signed=True, batched=True)]
    for bank, tensor in zip(banks, (attention.in_proj_weight, x), strict=True):
        bank.initialise(tensor, find_rule("lsq"))
    put_on(attention, *banks)
    wanted = []
    for at, row in enumerate((0, 1, 1)):
        banks[0].use_row(1)
        banks[1].use_row(row)
        wanted.append(attention(x[at : at + 1], x[at : at + 1], x[at : at + 1])[0])
    banks[0].select_samples(torch.tensor([1, 1, 1]))
    banks[1].select_samples(torch.tensor([0, 1, 1]))
    torch.testing.assert_close(attention(x, x, x)[0], torch.cat(wanted))
    banks[0].select_samples(torch.tensor([1, 0, 1]))
    with pytest.raises(MixbitError, match="give the weight of this layer the same bits in all samples"):
        attention(x, x, x)
