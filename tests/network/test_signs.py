"""Which tensors can be negative: by rule, and never wrong on random networks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from mixbit.network import capture
from mixbit.network._signs import _KEEPS_SIGN, _NON_NEGATIVE, example_negative, has_negative
from tests.network.conftest import Call

Function = Callable[[torch.Tensor], torch.Tensor]


def signed(function: Function, *, positive: bool = False) -> bool:
    """Whether the input of a layer behind the function counts as signed."""
    x = torch.rand(2, 4, 6, 6) if positive else torch.randn(2, 4, 6, 6)
    model = Call(lambda self, x: self.last(function(x).flatten(1)[:, :8]), last=nn.Linear(8, 2))
    return capture(model, x).layer("last").input_signed


NEVER_NEGATIVE: list[Function] = [
    F.relu,
    F.relu6,
    torch.sigmoid,
    F.hardsigmoid,
    F.softplus,
    torch.abs,
    torch.exp,
    torch.square,
    lambda x: x**2,
    lambda x: F.softmax(x, dim=1),
    lambda x: x.clamp(min=0.0),
    lambda x: x.clamp(0.0, 6.0),
    lambda x: x.clamp(min=F.relu(x), max=F.relu(x) + 1),
    lambda x: torch.pow(2.0, x),
    lambda x: F.alpha_dropout(F.relu(x), 0.0),
    lambda x: F.hardtanh(x, 0.0, 6.0),
    lambda x: x.relu_().mul_(0.5),
    lambda x: torch.maximum(x, F.relu(x)),
    lambda x: torch.ones_like(x) * F.relu(x),
    lambda x: (x > 0).float(),
    lambda x: F.scaled_dot_product_attention(x, x, F.relu(x)),
    lambda x: torch.cat([F.relu(x), torch.zeros_like(x)], 1),
]
CAN_BE_NEGATIVE: list[Function] = [
    lambda x: x,
    lambda x: -F.relu(x),
    lambda x: F.relu(x) - 1,
    lambda x: F.relu(x) * -2,
    lambda x: F.relu(x) + (-1),
    lambda x: torch.add(F.relu(x), F.relu(x), alpha=-1),
    lambda x: F.relu(x) - F.relu(-x),
    lambda x: F.relu(x) + x,
    lambda x: F.hardswish(x),
    lambda x: F.gelu(x),
    lambda x: F.leaky_relu(x),
    lambda x: x.clamp(-1.0, 1.0),
    lambda x: F.relu(x).clamp(max=-1.0),
    lambda x: F.hardtanh(x),
    lambda x: x**3,
    lambda x: torch.minimum(x, F.relu(x)),
    lambda x: F.pad(F.relu(x), (1, 1), value=-1.0),
    lambda x: F.relu(x).masked_fill(x > 0, -1.0),
    lambda x: torch.full_like(x, -1.0) * F.relu(x),
    lambda x: F.layer_norm(F.relu(x), (6, 6)),
    lambda x: F.interpolate(F.relu(x), scale_factor=2.0, mode="bicubic"),
    lambda x: torch.cat([F.relu(x), x], 1),
    lambda x: F.log_softmax(x, dim=1),
    lambda x: torch.where(x > 0, F.relu(x), -1.0),
    lambda x: torch.baddbmm(F.relu(x)[0], F.relu(x)[0], F.relu(x)[0], beta=-3)[None],
    lambda x: torch.pow(-2.0, F.relu(x)),
    lambda x: F.relu(x).clamp(max=x),
    lambda x: x.clamp(min=x),
    lambda x: torch.clamp_max(F.relu(x), x),
    lambda x: F.softplus(x, beta=-1.0),
    lambda x: F.relu(x).nan_to_num(nan=-1.0),
    lambda x: F.relu(x).scatter(1, (x > 0).long(), -1.0),
    lambda x: F.relu(x).index_add(0, torch.zeros(2, dtype=torch.long), F.relu(x), alpha=-1),
    lambda x: F.alpha_dropout(F.relu(x), 0.5),
    lambda x: F.feature_alpha_dropout(F.relu(x), 0.5).flatten(1).unflatten(1, (4, 6, 6)),
]
KEEPS_SIGN: list[Function] = [
    lambda x: F.max_pool2d(x, 2),
    lambda x: F.adaptive_avg_pool2d(x, 2),
    lambda x: F.avg_pool2d(x, 3),
    lambda x: x.mean((2,)),
    lambda x: x.permute(0, 2, 3, 1).reshape(2, 6, 24),
    lambda x: x[:, 1:3, ::2],
    lambda x: x + x.flip(1),
    lambda x: x * 0.5 + 3,
    lambda x: x * x.sum((2, 3), keepdim=True).sigmoid(),
    lambda x: F.pad(x, (1, 1)),
    lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    lambda x: torch.cat([x, x], 1),
    lambda x: F.hardswish(x),
    lambda x: F.gelu(x),
    lambda x: torch.tanh(x),
    lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"),
    lambda x: F.dropout(x, training=False),
    lambda x: x.matmul(x),
    lambda x: x.split(2, 1)[1],
    lambda x: x.topk(2, 1).values,
    lambda x: F.pixel_shuffle(x, 2),
]


@pytest.mark.parametrize("function", NEVER_NEGATIVE)
def test_never_negative(function: Function) -> None:
    assert not signed(function)


@pytest.mark.parametrize("function", CAN_BE_NEGATIVE)
def test_can_be_negative(function: Function) -> None:
    assert signed(function)


@pytest.mark.parametrize("function", KEEPS_SIGN)
def test_not_negative_if_the_input_is_not(function: Function) -> None:
    assert not signed(function, positive=True)


def test_example_inputs() -> None:
    assert not signed(lambda x: x, positive=True)
    assert example_negative(torch.tensor([-1.0, 2.0]))
    assert example_negative(torch.zeros(3)), "an example of zeros is given for its shape"
    assert not example_negative(torch.tensor([0, 3]))
    assert has_negative(torch.zeros(2, device="meta")), "nobody knows"


def test_parameters_can_become_negative_and_buffers_are_looked_at() -> None:
    class Scaled(nn.Module):
        def __init__(self, factor: float, *, trained: bool) -> None:
            super().__init__()
            value = torch.full((8,), factor)
            if trained:
                self.factor = nn.Parameter(value)
            else:
                self.register_buffer("factor", value)
            self.last = nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(F.relu(x) * self.factor)

    def found(factor: float, *, trained: bool) -> bool:
        return capture(Scaled(factor, trained=trained), torch.randn(2, 8)).layer("last").input_signed

    assert [found(1.0, trained=True), found(1.0, trained=False), found(-1.0, trained=False)] == [True, False, True]


def test_a_view_made_before_a_write_in_place_sees_the_write() -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(x)
        early = y.flatten(1)
        y.sub_(1.0)
        return self.last(early)

    assert capture(Call(forward, last=nn.Linear(8, 2)), torch.randn(2, 2, 4)).layer("last").input_signed


STEPS: dict[str, Function] = {
    "relu": F.relu,
    "hardswish": F.hardswish,
    "add": lambda x: x + x.flip(1),
    "sub": lambda x: x - 0.5 * x.flip(2),
    "scale": lambda x: x * 0.7,
    "negate": lambda x: x * -0.7,
    "shift": lambda x: x + 0.3,
    "pool": lambda x: F.avg_pool2d(x, 3, 1, 1),
    "sigmoid": torch.sigmoid,
    "cat": lambda x: torch.cat([x[:, :2], F.relu(x[:, 2:])], 1),
    "inplace": lambda x: F.relu_(x.clone()),
    "clamp": lambda x: x.clamp(-0.2, 0.8),
    "view": lambda x: x.transpose(2, 3).contiguous(),
    "write": lambda x: _halve_first_channel(x.clone()),
}


def _halve_first_channel(x: torch.Tensor) -> torch.Tensor:
    x[:, 0] = x[:, 0] - 0.5
    return x


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["conv", *STEPS]), min_size=1, max_size=7), st.booleans(), st.integers(0, 2**16))
def test_no_layer_that_counts_as_unsigned_ever_sees_a_negative(names: list[str], positive: bool, seed: int) -> None:
    torch.manual_seed(seed)
    convs = {f"conv{at}": nn.Conv2d(4, 4, 1) for at, name in enumerate(names) if name == "conv"}

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        for at, name in enumerate(names):
            x = getattr(self, f"conv{at}")(x) if name == "conv" else STEPS[name](x)
        return self.last(x)

    model = Call(forward, last=nn.Conv2d(4, 4, 1), **convs)
    x = torch.rand(2, 4, 4, 4) if positive else torch.randn(2, 4, 4, 4)
    network = capture(model, x)
    seen: dict[str, float] = {}
    for name, module in model.named_children():
        module.register_forward_pre_hook(lambda _, args, name=name: seen.update({name: float(args[0].min())}))
    with torch.no_grad():
        model.eval()(x)
    assert {layer.name for layer in network.layers} == set(seen)
    assert [n for n, low in seen.items() if low < 0 and not network.layer(n).input_signed] == []


# ----------------------------------------------------------------------- every word of the tables, by its operator

ZEROS = torch.zeros(1, dtype=torch.long)
SPECIAL: dict[str, Callable[[torch.Tensor], Any]] = {
    "_adaptive_avg_pool2d": lambda x: torch.ops.aten._adaptive_avg_pool2d(x, [2, 3]),
    "_adaptive_avg_pool3d": lambda x: torch.ops.aten._adaptive_avg_pool3d(x, [2, 2, 3]),
    "_softmax": lambda x: torch.ops.aten._softmax(x, 1, False),
    "_unsafe_view": lambda x: torch.ops.aten._unsafe_view(x, [8, 36]),
    "adaptive_avg_pool1d": lambda x: F.adaptive_avg_pool1d(x[0], 2),
    "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, 2),
    "adaptive_avg_pool3d": lambda x: F.adaptive_avg_pool3d(x, 2),
    "adaptive_max_pool1d": lambda x: F.adaptive_max_pool1d(x[0], 2),
    "adaptive_max_pool2d": lambda x: F.adaptive_max_pool2d(x, 2),
    "adaptive_max_pool3d": lambda x: F.adaptive_max_pool3d(x, 2),
    "avg_pool1d": lambda x: F.avg_pool1d(x[0], 2),
    "avg_pool2d": lambda x: F.avg_pool2d(x, 2),
    "avg_pool3d": lambda x: F.avg_pool3d(x, 2),
    "baddbmm": lambda x: torch.baddbmm(x[0], x[0], x[0]),
    "bernoulli": lambda x: torch.bernoulli(x.sigmoid()),
    "bmm": lambda x: torch.bmm(x[0], x[0]),
    "channel_shuffle": lambda x: F.channel_shuffle(x, 2),
    "cumsum": lambda x: x.cumsum(1),
    "dropout": lambda x: torch.ops.aten.dropout(x, 0.5, True),
    "feature_dropout": lambda x: torch.ops.aten.feature_dropout(x, 0.5, True),
    "fill": lambda x: torch.ops.aten.fill(x, 2.0),
    "flip": lambda x: x.flip(1),
    "gather": lambda x: x.gather(0, torch.zeros(1, 4, 6, 6, dtype=torch.long)),
    "getitem": lambda x: x.split(2, 1),
    "im2col": lambda x: F.unfold(x, 2),
    "index": lambda x: x[ZEROS],
    "index_add": lambda x: x.index_add(0, ZEROS, x[:1]),
    "index_copy": lambda x: x.index_copy(0, ZEROS, x[1:]),
    "index_fill": lambda x: x.index_fill(0, ZEROS, 2.0),
    "index_put": lambda x: x.index_put((ZEROS,), x[1:]),
    "index_select": lambda x: x.index_select(0, ZEROS),
    "kthvalue": lambda x: x.kthvalue(2, dim=1).values,
    "masked_fill": lambda x: x.masked_fill(x > 1, 2.0),
    "masked_select": lambda x: x.masked_select(x > 1),
    "max_pool1d": lambda x: F.max_pool1d(x[0], 2),
    "max_pool1d_with_indices": lambda x: F.max_pool1d(x[0], 2, return_indices=True)[0],
    "max_pool2d": lambda x: F.max_pool2d(x, 2),
    "max_pool2d_with_indices": lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
    "max_pool3d": lambda x: F.max_pool3d(x, 2),
    "max_pool3d_with_indices": lambda x: F.max_pool3d(x, 2, return_indices=True)[0],
    "mm": lambda x: x[0, 0].mm(x[0, 1]),
    "native_dropout": lambda x: torch.native_dropout(x, 0.5, True)[0],
    "new_ones": lambda x: x.new_ones(3),
    "new_zeros": lambda x: x.new_zeros(3),
    "one_hot": lambda x: F.one_hot((x > 1).long()).float(),
    "ones": lambda x: torch.ones(3) + 0 * x[0, 0, 0, 0].abs(),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x, 2),
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(x, 2),
    "rand": lambda x: torch.rand(3) * x[0, 0, 0, 0].abs(),
    "reflection_pad1d": lambda x: F.pad(x[0], (1, 2), mode="reflect"),
    "reflection_pad2d": lambda x: F.pad(x, (1, 2, 3, 1), mode="reflect"),
    "repeat": lambda x: x.repeat(2, 1, 1, 1),
    "repeat_interleave": lambda x: x.repeat_interleave(2, 1),
    "replication_pad1d": lambda x: F.pad(x[0], (1, 2), mode="replicate"),
    "replication_pad2d": lambda x: F.pad(x, (1, 2, 3, 1), mode="replicate"),
    "scatter": lambda x: x.scatter(0, ZEROS.view(1, 1, 1, 1), x[:1]),
    "scatter_add": lambda x: x.scatter_add(0, ZEROS.view(1, 1, 1, 1), x[:1]),
    "softmax": lambda x: x.softmax(1),
    "softsign": lambda x: F.softsign(x),
    "take": lambda x: x.take(ZEROS),
    "tile": lambda x: x.tile(2),
    "topk": lambda x: x.topk(2, 1).values,
    "upsample_bilinear2d": lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"),
    "upsample_linear1d": lambda x: F.interpolate(x[0], scale_factor=2.0, mode="linear"),
    "upsample_nearest1d": lambda x: F.interpolate(x[0], scale_factor=2.0),
    "upsample_nearest2d": lambda x: F.interpolate(x, scale_factor=2.0),
    "upsample_nearest3d": lambda x: F.interpolate(x[None], scale_factor=2.0),
    "upsample_trilinear3d": lambda x: F.interpolate(x[None], scale_factor=2.0, mode="trilinear"),
    "zeros": lambda x: torch.zeros(3) * x[0, 0, 0, 0],
}
"""Operators that take more than tensors, as they are called on `(2, 4, 6, 6)`; all others are asked for by name."""


def called(word: str, x: torch.Tensor) -> torch.Tensor:
    """The first tensor that the operator gives, by name on one, on two, or on a list of tensors."""
    ways = [SPECIAL[word]] if word in SPECIAL else []
    if not ways:
        op = getattr(torch.ops.aten, word)
        ways = [lambda x: op(x), lambda x: op(x, x), lambda x: op([x, x])]
    for way in ways[:-1]:
        with suppress(RuntimeError):
            return _first(way(x))
    return _first(ways[-1](x))


def _first(found: Any) -> torch.Tensor:
    return found if isinstance(found, torch.Tensor) else found[0]


@pytest.mark.parametrize("word", sorted(_KEEPS_SIGN))
def test_what_keeps_the_sign_gives_no_negative_for_what_is_not(word: str) -> None:
    torch.manual_seed(0)
    for scale in (1e-3, 1.0, 30.0):
        found = called(word, scale * torch.rand(2, 4, 6, 6) + 1e-6)
        assert not (found < 0).any()


@pytest.mark.parametrize("word", sorted(_NON_NEGATIVE))
def test_what_is_never_negative_is_not_whatever_it_is_given(word: str) -> None:
    torch.manual_seed(0)
    for scale in (1e-3, 1.0, 30.0):
        found = called(word, scale * torch.randn(2, 4, 6, 6))
        assert not (found < 0).any()


def test_no_word_got_lost() -> None:
    """A word that is taken out costs a bit of every tensor behind that operator."""
    assert SPECIAL.keys() <= _KEEPS_SIGN | _NON_NEGATIVE
    assert len(_KEEPS_SIGN) >= 107 and len(_NON_NEGATIVE) >= 37 and not _KEEPS_SIGN & _NON_NEGATIVE


MORE_NEVER: list[Function] = [
    lambda x: F.relu(x) * torch.arange(6.0),
    lambda x: F.relu(x) * torch.arange(1, 6.5, 1.0),
    lambda x: F.relu(x) + x.new_full((6,), 2.0),
    lambda x: F.relu(x).clamp(-1.0, 5.0),
    lambda x: F.softplus(x, beta=2.0),
    lambda x: torch.maximum(x, torch.full_like(x, 0.5)),
    lambda x: F.scaled_dot_product_attention(x, -x, F.relu(x)),
    lambda x: x.pow(4),
    lambda x: F.relu(x).pow(3),
    lambda x: F.relu(x).index_add(0, torch.zeros(2, dtype=torch.long), F.relu(x), alpha=2),
    lambda x: F.relu(x).scatter(1, (x > 0).long(), 1.0),
    lambda x: torch.clamp_max(F.relu(x), 6.0),
]
MORE_CAN: list[Function] = [
    lambda x: F.relu(x) * torch.arange(-1, 5),
    lambda x: F.relu(x) * torch.arange(3.0, -3.0, -1.0),
    lambda x: F.relu(x) + x.new_full((6,), -2.0),
    lambda x: x.clamp(max=3.0),
    lambda x: torch.erf(x),
    lambda x: torch.log(F.relu(x) + 0.5),
    lambda x: 1 - F.relu(x),
    lambda x: x.pow(1),
    lambda x: x.pow(0.5 * 6),
    lambda x: F.scaled_dot_product_attention(F.relu(x), F.relu(x), x),
    lambda x: F.relu(x).index_fill(1, torch.tensor([0]), -1.0),
    lambda x: F.relu(x) / -2,
    lambda x: F.threshold(F.relu(x), 0.1, -20.0),
    lambda x: F.hardtanh(F.relu(x), -2.0, -1.0),
    lambda x: torch.clamp_max(F.relu(x), -1.0),
    lambda x: torch.minimum(F.relu(x), x),
    lambda x: torch.maximum(x, -F.relu(x)),
    lambda x: F.pad(F.relu(x), (1, 1), "constant", -0.5),
    lambda x: F.relu(x).fill_(-1.0),
    lambda x: torch.cos(F.relu(x)),
    lambda x: F.relu(x).cumsum(1) - F.relu(x),
    lambda x: F.instance_norm(F.relu(x)),
]


@pytest.mark.parametrize(("functions", "wanted"), [(MORE_NEVER, False), (MORE_CAN, True)])
def test_values_among_the_arguments_count(functions: list[Function], wanted: bool) -> None:
    """In one graph, each before a layer of its own."""

    def forward(self: Any, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(getattr(self, f"at{at}")(function(x).flatten(1)[:, :8]) for at, function in enumerate(functions))

    model = Call(forward, **{f"at{at}": nn.Linear(8, 1) for at in range(len(functions))})
    network = capture(model, torch.randn(2, 4, 6, 6))
    assert [at for at in range(len(functions)) if network.layer(f"at{at}").input_signed != wanted] == []
