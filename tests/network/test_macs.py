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
