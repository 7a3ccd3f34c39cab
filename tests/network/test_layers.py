"""Which operators are layers, and the reason for everything that is not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mixbit.network import Network, Skipped, capture
from tests.network.conftest import Call


def only(network: Network) -> Skipped:
    (skipped,) = network.skipped
    return skipped


def test_kinds_names_and_facts() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.ReLU(), nn.Conv2d(4, 4, 1, groups=4, bias=False))
            self.line = nn.Conv1d(4, 3, 2)
            self.head = nn.Linear(3, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.line(self.body(x).flatten(2)).mean(2))

    network = capture(Net(), torch.randn(2, 2, 5, 5))
    assert [(n.name, n.kind, n.parameter, n.weight_shape, n.groups) for n in network.layers] == [
        ("body.0", "conv2d", "body.0.weight", (4, 1, 3, 3), 2),
        ("body.2", "conv2d", "body.2.weight", (4, 1, 1, 1), 4),
        ("line", "conv1d", "line.weight", (3, 4, 2), 1),
        ("head", "linear", "head.weight", (5, 3), 1),
    ]
    assert [(n.input_shape, n.output_shape) for n in network.layers] == [
        ((2, 5, 5), (4, 3, 3)),
        ((4, 3, 3), (4, 3, 3)),
        ((4, 9), (3, 8)),
        ((3,), (5,)),
    ]
    assert network.layer("body.0").weights == 36
    assert network.skipped == ()


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("need_weights", [True, False])
def test_packed_attention_projections(batch_first: bool, need_weights: bool) -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=batch_first)

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        x = x if batch_first else x.transpose(0, 1)
        y, _ = self.attention(x, x, x, need_weights=need_weights)
        return y if batch_first else y.transpose(0, 1)

    network = capture(Call(forward, attention=attention), torch.randn(2, 5, 8))
    projection, out = network.layers
    assert (projection.name, projection.kind) == ("attention.in_proj", "attention_in_proj")
    assert (projection.parameter, projection.weight_shape) == ("attention.in_proj_weight", (24, 8))
    assert (projection.input_shape, projection.output_shape) == ((5, 8), (5, 24))
    assert (out.name, out.kind, out.parameter) == ("attention.out_proj", "linear", "attention.out_proj.weight")
    assert (projection.macs, out.macs) == (5 * 24 * 8, 5 * 8 * 8)
    assert network.other_macs == 2 * 5 * 5 * 8, "queries times keys, weights times values"


def test_encoder_layers_do_not_take_the_fused_path() -> None:
    network = capture(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), torch.randn(2, 5, 8))
    assert [layer.name for layer in network.layers] == ["self_attn.in_proj", "self_attn.out_proj", "linear1", "linear2"]
    assert torch.backends.mha.get_fastpath_enabled()


def test_cross_attention_reads_two_inputs_with_one_weight() -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    network = capture(
        Call(lambda self, x, y: self.attention(x, y, y)[0], attention=attention),
        (torch.randn(2, 5, 8), torch.randn(2, 3, 8)),
    )
    assert [layer.name for layer in network.layers] == ["attention.out_proj"]
    assert only(network).name == "attention.in_proj"
    assert only(network).reason.startswith("cross-attention")
    assert only(network).macs == 5 * 8 * 8 + 3 * 16 * 8


def test_a_module_that_is_called_twice() -> None:
    network = capture(Call(lambda self, x: self.fc(self.fc(x)), fc=nn.Linear(4, 4)), torch.randn(2, 4))
    assert (network.layers, network.other_macs) == ((), 32)
    assert (only(network).name, only(network).macs) == ("fc", 32)
    assert only(network).reason == "weight used 2 times (in fc)"


def test_one_module_under_two_names() -> None:
    shared = nn.Linear(4, 4)
    network = capture(Call(lambda self, x: self.b(self.a(x)), a=shared, b=shared), torch.randn(2, 4))
    assert (only(network).name, only(network).reason) == ("a", "weight used 2 times (in a, b)")
    once = capture(Call(lambda self, x: self.b(x), a=shared, b=shared), torch.randn(2, 4))
    assert [layer.name for layer in once.layers] == ["a"]


def test_tied_weights() -> None:
    table, head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
    head.weight = table.weight
    network = capture(
        Call(lambda self, x: self.head(self.table(x)), table=table, head=head), torch.randint(0, 7, (2, 3))
    )
    assert (only(network).name, only(network).reason) == ("table", "weight used 2 times (in table, head)")
    assert only(network).macs == network.macs == 3 * 28


def weight_norm() -> nn.Module:
    return nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))


@pytest.mark.parametrize(
    ("forward", "members", "name", "reason"),
    [
        (
            lambda self, x: F.linear(x, self.w),
            {"w": nn.Parameter(torch.randn(3, 4))},
            "w",
            "functional weight: no module",
        ),
        (lambda self, x: x @ self.w, {"w": nn.Parameter(torch.randn(4, 3))}, "w", "matmul is not supported"),
        (lambda self, x: x @ self.w.t(), {"w": nn.Parameter(torch.randn(3, 4))}, "w", "computed before use, by t"),
        (lambda self, x: F.linear(x, self.fc.weight), {"fc": nn.Linear(4, 3)}, "fc", "outside its module's forward"),
        (lambda self, x: F.linear(x, 2 * self.fc.weight), {"fc": nn.Linear(4, 3)}, "fc", "computed before use, by mul"),
        (lambda self, x: self.fc(x), {"fc": weight_norm()}, "fc", "computed before use, by _weight_norm"),
        (lambda self, x: x, {"fc": nn.Linear(4, 3)}, "fc", "not reached by the example"),
        (lambda self, x: x + self.fc(torch.ones(4)), {"fc": nn.Linear(4, 4)}, "fc", "the result is a constant"),
        (lambda self, x: x + self.w, {"w": nn.Parameter(torch.randn(1, 4))}, "w", "read by add"),
        (lambda self, x: self.up(x[:, :, None]), {"up": nn.ConvTranspose1d(4, 3, 2)}, "up", "conv_transpose1d is not"),
        (lambda self, x: self.up(x[:, :, None, None, None]), {"up": nn.Conv3d(4, 3, 1)}, "up", "conv3d is not"),
        (lambda self, x: self.bi(x, x), {"bi": nn.Bilinear(4, 4, 3)}, "bi", "bilinear is not"),
        (lambda self, x: self.norm(x[:, None]), {"norm": nn.LayerNorm((1, 4))}, "norm", "read by layer_norm"),
        (lambda self, x: self.emb(x.long()), {"emb": nn.Embedding(9, 4)}, "emb", "a table that is looked up"),
        (
            lambda self, x: F.linear(x, self.fc.weight) + self.fc(x),
            {"fc": nn.Linear(4, 3)},
            "fc",
            "weight used 2 times (in the model's own forward, fc)",
        ),
    ],
)
def test_reasons(forward: Any, members: dict[str, Any], name: str, reason: str) -> None:
    network = capture(Call(forward, **members), torch.rand(2, 4))
    assert network.layers == ()
    assert only(network).name == name
    assert reason in only(network).reason
    assert only(network).macs == network.other_macs


def test_what_is_added_to_a_product_is_no_factor() -> None:
    shift, mask = nn.Parameter(torch.zeros(1, 3, 3)), nn.Parameter(torch.zeros(3, 3))

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.baddbmm(self.shift, x, x) + F.scaled_dot_product_attention(x, x, x, attn_mask=self.mask)

    network = capture(Call(forward, shift=shift, mask=mask), torch.randn(2, 3, 3))
    assert {s.name: (s.reason.partition(":")[2], s.macs) for s in network.skipped} == {
        "shift": (" read by baddbmm", 0),
        "mask": (" read by scaled_dot_product_attention", 0),
    }
    assert network.other_macs == 27 + 54


def test_the_macs_of_a_product_with_two_weights_are_told_once() -> None:
    network = capture(Call(lambda self, x: self.lstm(x)[0], lstm=nn.LSTM(3, 5)), torch.randn(2, 7, 3))
    assert [s.name for s in network.skipped] == ["lstm.weight_ih_l0", "lstm.weight_hh_l0"]
    assert sum(s.macs for s in network.skipped) == network.other_macs > 0


def test_weights_that_are_no_parameters() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("kernel", torch.ones(1, 1, 3))
            self.controller = nn.Linear(6, 12)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            smooth = F.conv1d(x[:, None], self.kernel)
            weight = self.controller(x.mean(0)).view(3, 4)
            return F.linear(smooth, weight)

    network = capture(Fixed(), torch.randn(2, 6))
    assert [layer.name for layer in network.layers] == ["controller"]
    reasons = {skipped.name: skipped.reason for skipped in network.skipped}
    assert reasons == {
        "conv1d": "functional weight: a buffer or constant",
        "linear": "functional weight: computed from the input",
    }


def test_a_class_with_a_forward_of_its_own_is_a_layer() -> None:
    class SamePad(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.conv2d(F.pad(x, (0, 1, 0, 1)), self.weight, self.bias, self.stride)

    network = capture(nn.Sequential(SamePad(2, 3, 2, stride=2)), torch.randn(2, 2, 5, 5))
    (layer,) = network.layers
    assert (layer.name, layer.input_shape, layer.output_shape) == ("0", (2, 5, 5), (3, 3, 3))


def test_blocks_without_gradients_and_with_autocast_are_seen_through() -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            x = self.a(x)
        with torch.autocast("cpu", enabled=False):
            x = self.b(x)
        return torch.utils.checkpoint.checkpoint(self.c, x, use_reentrant=False)

    network = capture(Call(forward, a=nn.Linear(4, 4), b=nn.Linear(4, 4), c=nn.Linear(4, 4)), torch.randn(2, 4))
    assert [(n.name, n.input_tensor) for n in network.layers] == [("a", "input"), ("b", "a"), ("c", "b")]


def test_every_matrix_is_accounted_for() -> None:
    """A parameter with two or more dimensions is a layer's weight or in the list, whatever the model does."""
    decoder = nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)
    network = capture(decoder, (torch.randn(2, 5, 8), torch.randn(2, 3, 8)))
    told = {layer.name for layer in network.layers} | {skipped.name for skipped in network.skipped}
    matrices = {n.removesuffix("_weight").removesuffix(".weight") for n, p in decoder.named_parameters() if p.dim() > 1}
    assert told == matrices
    assert [s.name for s in network.skipped] == ["multihead_attn.in_proj"]
