"""The operator against the numbers of the LSQ paper, its own PyTorch form, autograd, the compiler and export."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mixbit.quantizers import fake_quantize, fuse_under_compile
from mixbit.quantizers._native import library
from mixbit.quantizers.operator import _backward, _forward

VALUES = torch.tensor([-1.3, -1, -0.62, -0.3, -0.06, 0, 0.12, 0.26, 0.55, 0.74, 1.4])


def run(x: Tensor, step: float, low: int, high: int, count: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Output, gradient of x, gradient of the step, for an upstream gradient of ones."""
    x, s = x.clone().requires_grad_(), torch.tensor([step], requires_grad=True)
    y = fake_quantize(x, s, torch.zeros(1), torch.tensor([float(low)]), torch.tensor([float(high)]), count=count)
    y.backward(torch.ones_like(y))
    assert x.grad is not None and s.grad is not None
    return y.detach(), x.grad, s.grad


def test_signed_numbers_of_the_dossier() -> None:
    y, grad_x, grad_s = run(VALUES, 0.25, -4, 3)
    assert (y / 0.25).tolist() == [-4, -4, -2, -1, 0, 0, 0, 1, 2, 3, 3]
    assert grad_x.tolist() == [
        0,
        0,
        1,
        1,
        1,
        1,
        1,
        1,
        1,
        1,
        0,
    ]  # on the bound counts as clipped, as the paper's formula says
    torch.testing.assert_close(grad_s, torch.tensor([-4.76]))
    torch.testing.assert_close(run(VALUES, 0.25, -4, 3, count=11)[2], torch.tensor([-0.82861]), atol=1e-5, rtol=0)


def test_unsigned_numbers_of_the_dossier() -> None:
    y, _, grad_s = run(VALUES, 0.25, 0, 7)
    assert (y / 0.25).tolist() == [0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 6]
    torch.testing.assert_close(grad_s, torch.tensor([-0.28]), atol=1e-6, rtol=0)
    torch.testing.assert_close(run(VALUES, 0.25, 0, 7, count=11)[2], torch.tensor([-0.031909]), atol=1e-6, rtol=0)


def test_rounding_is_half_to_even() -> None:
    y, _, _ = run(torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5]), 1.0, -4, 3)
    assert y.tolist() == [0, 2, 2, 0, -2]


@settings(max_examples=60, deadline=None)
@given(
    bits=st.integers(2, 8),
    signed=st.booleans(),
    channels=st.sampled_from([1, 5]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    channels_last=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_compiled_kernel_equals_pytorch(
    bits: int, signed: bool, channels: int, dtype: torch.dtype, channels_last: bool, seed: int
) -> None:
    if library() is None:
        pytest.skip("mixbit was installed without a compiler: there is only the PyTorch form")
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(5, 7, 9, 11, generator=random).to(dtype)
    grad = torch.randn(5, 7, 9, 11, generator=random).to(dtype)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    step, zero = torch.rand(channels, generator=random) + 0.01, torch.ones(channels)
    rest = (step, zero, torch.tensor([float(low)]), torch.tensor([float(high)]), 17)
    assert torch.equal(torch.ops.mixbit.fake_quantize(x, *rest), _forward(x, *rest))
    ours, theirs = torch.ops.mixbit.fake_quantize_backward(grad, x, *rest), _backward(grad, x, *rest)
    assert torch.equal(ours[0], theirs[0])
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours[2], theirs[2], rtol=1e-4, atol=1e-4)
    sums = torch.ops.mixbit.fake_quantize_backward_(grad, x, *rest)
    assert torch.equal(grad, ours[0]) and torch.equal(sums[0], ours[1]) and torch.equal(sums[1], ours[2])


@pytest.mark.parametrize("channels", [1, 3])
def test_registration_is_complete(channels: int) -> None:
    """PyTorch's own checks: schema, fake tensors, autograd registration, and AOT dispatch."""
    step = (torch.rand(channels) + 0.1).requires_grad_()
    x = torch.randn(3, 4, requires_grad=True)
    rest = (step, torch.zeros(channels), torch.tensor([-4.0]), torch.tensor([3.0]), 4)
    # count is an integer of the schema, so dynamic shapes of it are not what is checked here
    torch.library.opcheck(torch.ops.mixbit.fake_quantize.default, (x, *rest))


def test_nan_stays_nan() -> None:
    y, _, _ = run(torch.tensor([float("nan"), 0.3]), 0.25, -4, 3)
    assert torch.isnan(y[0]) and y[1] == 0.25


def test_bfloat16_quantizes_in_float32() -> None:
    """In bfloat16 arithmetic x / s itself would be rounded to 8 bits, and many elements would land on another
    integer.
    """
    x = torch.linspace(0, 1, 4001).to(torch.bfloat16)
    one, s = torch.ones(1), torch.tensor([0.0039])
    y = fake_quantize(x, s, 0 * one, 0 * one, 255 * one)
    wanted = (torch.clamp(torch.round(x.float() / s), 0, 255) * s).to(torch.bfloat16)
    assert y.dtype == torch.bfloat16 and torch.equal(y, wanted)


def test_export_keeps_one_node() -> None:
    class Net(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            one = torch.ones(1)
            return fake_quantize(x, 0.1 * one, 0 * one, 0 * one, 15 * one)

    graph = torch.export.export(Net(), (torch.rand(2, 3),), strict=False).graph
    assert [n.target for n in graph.nodes].count(torch.ops.mixbit.fake_quantize.default) == 1


def test_empty_and_non_contiguous_input() -> None:
    assert run(torch.empty(0, 3), 0.1, 0, 15)[0].shape == (0, 3)
    x = torch.randn(6, 4).t()
    torch.testing.assert_close(run(x, 0.25, -4, 3)[0], run(x.contiguous(), 0.25, -4, 3)[0])


@pytest.mark.slow
def test_compiled_model_gives_the_same_numbers() -> None:
    fuse_under_compile()
    one = torch.ones(1)

    def f(x: Tensor, s: Tensor) -> Tensor:
        return fake_quantize(x.relu(), s, 0 * one, 0 * one, 15 * one, count=4).sin().sum()

    x, s = torch.randn(8, 4, requires_grad=True), torch.tensor([0.1], requires_grad=True)
    f(x, s).backward()
    eager = (x.grad, s.grad)
    x.grad = s.grad = None
    torch.compile(f)(x, s).backward()
    torch.testing.assert_close((x.grad, s.grad), eager)


@pytest.mark.slow
def test_compiled_backward_spares_a_gradient_that_is_read_elsewhere() -> None:
    """Both branches of the sum get one gradient tensor; the compiled operator must not write into the other's."""
    one = torch.ones(1)

    def f(x: Tensor, h: Tensor, s: Tensor) -> Tensor:
        return ((fake_quantize(x, s, 0 * one, -8 * one, 7 * one) + h.exp()) * x.detach()).sum()

    x, h = torch.randn(8, 4, requires_grad=True), torch.randn(8, 4, requires_grad=True)
    s = torch.tensor([0.05], requires_grad=True)
    f(x, h, s).backward()
    eager = (x.grad, h.grad, s.grad)
    x.grad = h.grad = s.grad = None
    torch.compile(f)(x, h, s).backward()
    torch.testing.assert_close((x.grad, h.grad, s.grad), eager)
