"""MACs against torch's FlopCounterMode and by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mixbit.network import capture
from mixbit.network._macs import is_unknown, limpq_area, macs
from mixbit.network._program import Program
from tests.network.conftest import Call


def counted(model: nn.Module, *inputs: torch.Tensor) -> float:
    """MACs of one sample by torch; with the plain backend attention's products are seen on every device."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.eval()(*inputs)
    return int(counter.get_total_flops()) / 2 / inputs[0].shape[0]


CONVOLUTIONS: list[nn.Module] = [
    nn.Conv2d(4, 6, 3),
    nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)),
    nn.Conv2d(4, 8, 3, groups=2, padding="same"),
    nn.Conv2d(4, 4, 3, groups=4, padding=1, padding_mode="reflect"),
    nn.Conv2d(4, 6, 1, padding="valid", bias=False),
    nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2),
]


@pytest.mark.parametrize("model", CONVOLUTIONS, ids=str)
def test_convolutions(model: nn.Module) -> None:
    x = torch.randn(2, 4, 9, 7)
    assert capture(model, x).macs == counted(model, x)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Conv1d(4, 6, 3, groups=2, stride=2), (2, 4, 11)),
        (nn.Conv3d(2, 3, 2), (2, 2, 5, 4, 3)),
        (nn.ConvTranspose1d(4, 6, 3), (2, 4, 11)),
        (nn.Linear(5, 3), (2, 5)),
        (nn.Linear(5, 3), (2, 7, 4, 5)),
        (Call(lambda self, x: torch.einsum("bij,bkj->bik", x, x)), (2, 3, 5)),
        (Call(lambda self, x: x @ x.transpose(1, 2)), (2, 3, 5)),
        (Call(lambda self, x: torch.baddbmm(x, x, x)), (2, 3, 3)),
        (
            Call(
                lambda self, x: torch.addmm(self.b, x, self.w),
                b=nn.Parameter(torch.randn(4)),
                w=nn.Parameter(torch.randn(5, 4)),
            ),
            (2, 5),
        ),
    ],
    ids=str,
)
def test_other_products(model: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    assert capture(model, x).macs == counted(model, x) > 0


def test_recurrent_layers_are_counted_by_hand() -> None:
    """On the CPU an LSTM is one operator that FlopCounterMode does not open: 7 steps, 4 gates, inputs and states."""
    network = capture(Call(lambda self, x: self.lstm(x)[0], lstm=nn.LSTM(3, 5, batch_first=True)), torch.randn(2, 7, 3))
    assert network.macs == 7 * 4 * (3 * 5 + 5 * 5)


@pytest.mark.parametrize(("heads", "key_heads", "keys", "size"), [(4, 4, 6, 8), (4, 2, 6, 8), (3, 1, 2, 5)])
def test_attention_counts_both_products_over_all_query_heads(heads: int, key_heads: int, keys: int, size: int) -> None:
    query, key, value = (
        torch.randn(2, h, n, e) for h, n, e in ((heads, 3, 8), (key_heads, keys, 8), (key_heads, keys, size))
    )

    def attend(self: nn.Module, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=heads != key_heads)

    network = capture(Call(attend), (query, key, value))
    assert network.other_macs == network.macs == heads * 3 * keys * (8 + size)
    assert network.macs == counted(Call(attend), query, key, value)


@given(
    st.integers(3, 40), st.integers(3, 40), st.integers(1, 3), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2)
)
def test_limpq_area_is_the_formula_truncated(h: int, w: int, k: int, s: int, p: int, d: int) -> None:
    extent = d * (k - 1) + 1
    if extent > min(h, w) + 2 * p:
        return
    plain = ((h + 2 * p - extent) / s + 1) * ((w + 2 * p - extent) / s + 1)
    area = limpq_area((h, w), (k, k), (s, s), (p, p), (d, d))
    # The formula's floats can fall just below an integer; exact integers cannot.
    assert area in (int(plain), int(plain + 1e-6))
    exact = F.conv2d(torch.zeros(1, 1, h, w), torch.zeros(1, 1, k, k), stride=s, padding=p, dilation=d)
    assert math.prod(exact.shape) <= area


@pytest.mark.parametrize(
    ("layer", "exact", "limpq"),
    [
        (nn.Conv2d(2, 3, 3, stride=2, padding=1), 4 * 4 * 54, 20 * 54),  # (7 / 2 + 1) ** 2 = 20.25
        (nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2), 4 * 4 * 36, 20 * 36),
        (nn.Conv2d(2, 3, 3, padding=1), 64 * 54, 64 * 54),
        (nn.Conv2d(2, 3, 3, padding="same"), 64 * 54, 64 * 54),
        (nn.Conv2d(2, 3, 2, stride=2, padding="valid"), 16 * 24, 16 * 24),
        (nn.Conv2d(2, 3, 3, stride=2, padding=1, padding_mode="reflect"), 4 * 4 * 54, 20 * 54),
    ],
    ids=str,
)
def test_both_countings(layer: nn.Module, exact: int, limpq: int) -> None:
    (found,) = capture(layer, torch.randn(3, 2, 8, 8)).layers
    assert (found.macs, found.macs_limpq) == (exact, limpq)


def test_linear_has_one_count() -> None:
    (found,) = capture(nn.Linear(5, 3), torch.randn(2, 7, 5)).layers
    assert found.macs == found.macs_limpq == 7 * 15


def test_static_batches_are_divided_out() -> None:
    model = Call(lambda self, x: self.fc(x.reshape(4, 12)), fc=nn.Linear(12, 3))
    assert capture(model, torch.randn(4, 3, 4)).macs == 36


def test_an_operator_from_elsewhere_is_told(program: Callable[..., Program]) -> None:
    torch.library.define("mixbit_test::double", "(Tensor x) -> Tensor")
    torch.library.impl("mixbit_test::double", "CompositeExplicitAutograd", lambda x: 2 * x)
    torch.library.register_fake("mixbit_test::double", torch.empty_like)
    model = Call(lambda self, x: torch.ops.mixbit_test.double(x))
    found = program(model, torch.zeros(2, 3))
    assert [is_unknown(node) for node in found.calls] == [True]
    assert macs(found.calls[0], found.sizes) == 0
    (skipped,) = capture(model, torch.zeros(2, 3)).skipped
    assert (skipped.name, "MACs are not counted" in skipped.reason) == ("double", True)


# ----------------------------------------------------------------------- layers that are unlike in their two directions

ASYMMETRIC: list[tuple[nn.Module, tuple[int, ...]]] = [
    (nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), (10, 7)),
    (nn.Conv2d(4, 8, (1, 3), stride=(3, 2), padding=(2, 1), groups=4), (10, 8)),
    (nn.Conv2d(4, 6, (5, 2), stride=(2, 3), padding=(0, 1), dilation=(1, 3), groups=2, bias=False), (12, 9)),
    (nn.Conv2d(4, 6, (2, 4), stride=(2, 3), padding="valid"), (9, 12)),
    (nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2), (12,)),
]


def by_hand(layer: nn.Module, size: tuple[int, ...]) -> tuple[int, int, tuple[int, ...]]:
    """MACs, MACs with LIMPQ's area, and the output's shape: PyTorch's own, and the formula with its floats."""
    out = tuple(layer(torch.zeros(1, 4, *size)).shape[1:])
    padding = (0,) * len(size) if layer.padding == "valid" else layer.padding
    area = 1.0
    for side, k, s, p, d in zip(size, layer.kernel_size, layer.stride, padding, layer.dilation, strict=True):  # type: ignore[arg-type]
        area *= (side + 2 * p - d * (k - 1) - 1) / s + 1
    weights = layer.weight.numel()  # type: ignore[union-attr,operator]
    return math.prod(out[1:]) * weights, int(area + 1e-9) * weights, out


@pytest.mark.parametrize(("layer", "size"), ASYMMETRIC, ids=str)
def test_every_number_of_an_asymmetric_layer(layer: nn.Module, size: tuple[int, ...]) -> None:
    x = torch.randn(3, 4, *size)
    macs, limpq, out = by_hand(layer, size)
    (found,) = capture(layer, x).layers
    assert (found.macs, found.macs_limpq, found.groups) == (macs, limpq, layer.groups)
    assert (found.input_shape, found.output_shape) == ((4, *size), out)
    assert found.macs == counted(layer, x) and found.weight_shape == tuple(layer.weight.shape)  # type: ignore[union-attr,arg-type]


def test_the_two_countings_differ_where_they_should() -> None:
    """Else the cases above could not tell them apart, nor one direction from the other."""
    both = [by_hand(layer, size)[:2] for layer, size in ASYMMETRIC]
    assert sum(macs != limpq for macs, limpq in both) >= 4


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "dilation", "area"),
    [
        ((10, 7), (3, 2), (2, 1), (1, 0), (1, 2), 27),  # 5.5 * 5 = 27.5
        ((7, 10), (2, 3), (1, 2), (0, 1), (2, 1), 27),
        ((9, 9), (2, 2), (2, 4), (0, 3), (3, 1), 17),  # 3.5 * 4.75... = (9 - 4 + 2) / 2 * (9 + 6 - 2 + 4) / 4
        ((11,), (3,), (2,), (1,), (2,), 5),
    ],
)
def test_areas_by_hand(
    size: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...],
    dilation: tuple[int, ...], area: int,
) -> None:  # fmt: skip
    exact = 1.0
    for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True):
        exact *= (n + 2 * p - (d * (k - 1) + 1)) / s + 1
    assert limpq_area(size, kernel, stride, padding, dilation) == int(exact + 1e-9) and abs(area - exact) < 15


@pytest.mark.parametrize(
    ("function", "shape", "members", "macs"),
    [
        (lambda self, x: x @ self.w, (2, 5), {"w": (5,)}, 5),
        (lambda self, x: torch.mv(x, self.w), (2, 5), {"w": (5,)}, 5),
        (lambda self, x: torch.addmv(self.b, x, self.w), (2, 5), {"w": (5,), "b": (1,)}, 5),
        (lambda self, x: x.reshape(-1).dot(x.reshape(-1))[None] + x, (2, 5), {}, 5),
        (lambda self, x: x.mm(self.w), (2, 5), {"w": (5, 7)}, 35),
        (lambda self, x: torch.bmm(x, x.transpose(1, 2)), (2, 3, 5), {}, 45),
        (lambda self, x: torch.baddbmm(x @ self.w, x, x.transpose(1, 2)), (2, 3, 5), {"w": (5, 3)}, 90),
        (lambda self, x: F.bilinear(x, x[:, :4], self.w, self.b), (2, 5), {"w": (3, 5, 4), "b": (3,)}, 60),
        (lambda self, x: torch.inner(x, self.w), (2, 5), {"w": (7, 5)}, 35),
        (lambda self, x: x + torch.addbmm(self.b, x, x.transpose(1, 2)).sum(), (2, 3, 5), {"b": (3, 3)}, 45),
        (lambda self, x: torch.cdist(x, x[:, 1:]), (2, 4, 5), {}, 60),
        (lambda self, x: torch.tensordot(x, self.w, 1), (2, 3, 5), {"w": (5, 4)}, 60),
        (lambda self, x: torch.linalg.multi_dot([x, self.w, self.w]), (2, 5), {"w": (5, 5)}, 50),
        (lambda self, x: torch.einsum("bi,ij->bj", x, self.w), (2, 5), {"w": (5, 4)}, 20),
        (lambda self, x: nn.functional.linear(x, self.w), (2, 5), {"w": (4, 5)}, 20),
    ],
)
def test_products_by_hand(
    function: Callable[..., torch.Tensor], shape: tuple[int, ...], members: dict[str, tuple[int, ...]], macs: int
) -> None:
    """Also those that torch's own counter does not know; the weight is among what is multiplied, the bias is not."""
    model = Call(function, **{name: nn.Parameter(torch.randn(size)) for name, size in members.items()})
    x = torch.randn(shape)
    network = capture(model, x)
    assert network.macs == macs
    taken = {one.name: one.macs for one in network.float_parameters}
    assert taken.get("b", 0) == 0 and (taken["w"] > 0 if "w" in members else not taken.get("w"))


CELLS: list[tuple[nn.Module, int]] = [
    (nn.RNN(3, 5, batch_first=True), 7 * (15 + 25)),
    (nn.RNN(3, 5, batch_first=True, nonlinearity="relu"), 7 * (15 + 25)),
    (nn.GRU(3, 5, batch_first=True), 7 * 3 * (15 + 25)),
    (nn.RNNCell(3, 5), 15 + 25),
    (nn.RNNCell(3, 5, nonlinearity="relu"), 15 + 25),
    (nn.GRUCell(3, 5), 3 * (15 + 25)),
    (nn.LSTMCell(3, 5), 4 * (15 + 25)),
]


@pytest.mark.parametrize(("cell", "macs"), CELLS, ids=str)
def test_recurrent_cells_by_hand(cell: nn.Module, macs: int) -> None:
    """Of 3 inputs and 5 states; networks of them over 7 steps."""
    shape = (2, 3) if isinstance(cell, nn.RNNCellBase) else (2, 7, 3)
    model = Call(lambda self, x: _first_tensor(self.cell(x)), cell=cell)
    assert capture(model, torch.randn(shape)).macs == macs


def _first_tensor(found: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    return found if isinstance(found, torch.Tensor) else found[0]


def test_attention_of_unequal_lengths_and_sizes_by_hand() -> None:
    """Queries (7 of 6), keys (5 of 6), values (5 of 4): 7 * 5 * 6 and 7 * 5 * 4, for each of 3 heads."""
    q, k, v = torch.randn(2, 3, 7, 6), torch.randn(2, 3, 5, 6), torch.randn(2, 3, 5, 4)
    assert capture(Call(lambda self, *qkv: F.scaled_dot_product_attention(*qkv)), (q, k, v)).macs == 3 * 35 * 10
