"""The operator against LSQ's formulas and numbers by hand, its own PyTorch form, autograd, the compiler and export."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mixbit.errors import MixbitError
from mixbit.quantizers import _native, fake_quantize, fuse_under_compile
from mixbit.quantizers._native import block, library
from mixbit.quantizers.operator import _backward, _forward
from tests.needs import need, needs
from tests.quantizers.formulas import eighths, lsq
from tests.support import ROOT

ONE = torch.ones(1)
VALUES = torch.tensor([-1.3, -1, -0.62, -0.3, -0.06, 0, 0.12, 0.26, 0.55, 0.74, 1.4])


def run(x: Tensor, step: float, low: int, high: int, count: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Output, gradient of x, gradient of the step, for an upstream gradient of ones."""
    x, s = x.clone().requires_grad_(), torch.tensor([step], requires_grad=True)
    y = fake_quantize(x, s, torch.zeros(1), torch.tensor([float(low)]), torch.tensor([float(high)]), count=count)
    y.backward(torch.ones_like(y))
    assert x.grad is not None and s.grad is not None
    return y.detach(), x.grad, s.grad


def test_signed_numbers_by_hand() -> None:
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


def test_unsigned_numbers_by_hand() -> None:
    y, _, grad_s = run(VALUES, 0.25, 0, 7)
    assert (y / 0.25).tolist() == [0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 6]
    torch.testing.assert_close(grad_s, torch.tensor([-0.28]), atol=1e-6, rtol=0)
    torch.testing.assert_close(run(VALUES, 0.25, 0, 7, count=11)[2], torch.tensor([-0.031909]), atol=1e-6, rtol=0)


def test_rounding_is_half_to_even() -> None:
    y, _, _ = run(torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5]), 1.0, -4, 3)
    assert y.tolist() == [0, 2, 2, 0, -2]


@pytest.mark.parametrize("step", [0.3, 0.7])
def test_it_is_the_quotient_that_is_rounded(step: float) -> None:
    """Halfway between two steps a product with the inverse falls on the other side for some numbers."""
    s = torch.tensor(step)
    x = (torch.arange(-1000, 1000) + 0.5) * s
    wanted = torch.round(x / s)
    assert not torch.equal(torch.round(x * (1 / s)), wanted), "numbers that tell"
    y, _, _ = run(x, step, -(2**15), 2**15 - 1)
    assert torch.equal(torch.round(y / s), wanted)


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
    need("kernels")
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


# ------------------------------------------------------------------------ the published numbers, at every size


@pytest.fixture
def threads() -> Iterator[None]:
    """The number of threads is put back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("low", "high"), [(-4, 3), (0, 7), (-8, 7)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [0, 5])
def test_both_forms_are_the_published_ones_inside_at_and_beyond_the_bounds(
    low: int, high: int, channels: int, count: int
) -> None:
    """Every eighth of a step from far below to far above, so every bound and every tie is met; all sums are exact."""
    x = (torch.arange(-8 * 11, 8 * 11 + 1) / 8).repeat(3, 1)
    step = torch.tensor([0.5, 1.0, 0.25])[:channels]
    zero = torch.tensor([1.0, -2.0, 0.0])[:channels]
    x = x * (step[:, None] if channels > 1 else step)
    up = eighths((3, x.shape[1]), 2)
    want = lsq(x, up, step, low, high, zero, count)
    rest = (step, zero, torch.tensor([float(low)]), torch.tensor([float(high)]), count)
    for forward, backward in (
        (torch.ops.mixbit.fake_quantize, torch.ops.mixbit.fake_quantize_backward),
        (_forward, _backward),
    ):
        assert torch.equal(forward(x, *rest).double(), want[0])
        grad_x, grad_step, grad_zero = backward(up, x, *rest)
        assert torch.equal(grad_x.double(), want[1])
        torch.testing.assert_close(grad_step.double(), want[2], rtol=1e-6, atol=0)
        torch.testing.assert_close(grad_zero.double(), want[3], rtol=1e-6, atol=0)


LARGE = [
    (1, (3, 3 * 8192 + 5)),  # one tensor of nine blocks and a bit
    (3, (3, 2 * 8192 + 7)),  # channels of three blocks each
    (2, (2, 8192)),  # channels of one block each
    (2, (2, 8193)),
]


def large_case(channels: int, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """`up`, `x` and the other arguments: multiples of powers of two, so that sums are exact in any order."""
    step = torch.tensor([0.5, 2.0, 1.0])[:channels]
    x = eighths(shape, 6) * (step[:, None] if channels > 1 else step)
    zero = torch.tensor([1.0, 0.0, -1.0])[:channels]
    return eighths(shape, 1, seed=1), x, step, zero, -4 * ONE, 3 * ONE


@needs("kernels")
@pytest.mark.parametrize("number", [1, 2, 5])
@pytest.mark.parametrize(("channels", "shape"), LARGE)
def test_many_blocks_on_any_number_of_threads(
    channels: int, shape: tuple[int, ...], number: int, threads: None
) -> None:
    """No block, channel or thread is left out, counted twice or given another's step."""
    assert block() == 8192
    up, x, step, zero, low, high = large_case(channels, shape)
    slices = zip(up.view(channels, -1), x.view(channels, -1), step, zero, strict=True)
    parts = [lsq_sums(*one, -4, 3) for one in slices]
    torch.set_num_threads(number)
    y = torch.ops.mixbit.fake_quantize(x, step, zero, low, high, 0)
    found = torch.ops.mixbit.fake_quantize_backward(up, x, step, zero, low, high, 0)
    assert torch.equal(y.view(channels, -1), torch.stack([part[0] for part in parts]))
    assert torch.equal(found[0].view(channels, -1), torch.stack([part[1] for part in parts]))
    assert found[1].double().tolist() == [part[2] for part in parts]
    assert found[2].double().tolist() == [part[3] for part in parts]


def lsq_sums(
    up: Tensor, x: Tensor, step: Tensor, zero: Tensor, low: int, high: int
) -> tuple[Tensor, Tensor, float, float]:
    """As `formulas.lsq` for one slice, in NumPy, which is fast enough for many elements."""
    v, g = (x.double() / step).numpy(), up.double().numpy()
    s, z = float(step), float(zero)
    whole = (v.round() + z).clip(low, high) - z
    inside = (v + z > low) & (v + z < high)
    by_step, by_zero = (g * (whole - v * inside)).sum(), -s * g[~inside].sum()
    return torch.from_numpy(s * whole).float(), torch.from_numpy(g * inside).float(), float(by_step), float(by_zero)


@pytest.mark.parametrize("path", ["x86-64", "x86-64-v3", "x86-64-v4"])
def test_every_instruction_set_gives_the_same_numbers(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernels are compiled for three; a processor would only ever run one of them."""
    need("gcc", path)
    built = tmp_path / "kernels.so"
    options = ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-shared", "-fPIC"]
    source = str(ROOT / "src" / "mixbit" / "quantizers" / "_kernels.c")
    command = ["gcc", *options, f"-march={path}", "-DMULTIVERSION=", source, "-o", str(built), "-lm"]
    subprocess.run(command, check=True)
    compiled = ctypes.CDLL(str(built))
    _native._declare(compiled)
    for dtype in (torch.float32, torch.bfloat16):
        for channels, shape in LARGE[:2]:
            up, x, *rest = large_case(channels, shape)
            up, x = up.to(dtype), x.to(dtype)
            want = (_forward(x, *rest, 3), *_backward(up, x, *rest, 3))
            with monkeypatch.context() as patch:
                name = {torch.float32: "f32", torch.bfloat16: "bf16"}[dtype]
                kernels = tuple(getattr(compiled, f"mixbit_{way}_{name}") for way in ("forward", "backward"))
                patch.setattr("mixbit.quantizers.operator.kernels_of", lambda _dtype, found=kernels: found)
                y = torch.ops.mixbit.fake_quantize(x, *rest, 3)
                found = torch.ops.mixbit.fake_quantize_backward(up, x, *rest, 3)
            assert torch.equal(y, want[0]) and torch.equal(found[0], want[1])
            torch.testing.assert_close(found[1:], want[2:], rtol=1e-6, atol=0)  # the scale is rounded


@needs("kernels")
def test_both_types_have_kernels_and_no_other_has() -> None:
    """A float16 tensor read as bfloat16 would be nonsense of the right shape."""
    assert [_native.kernels_of(dtype) is not None for dtype in (torch.float32, torch.bfloat16)] == [True, True]
    assert [_native.kernels_of(dtype) for dtype in (torch.float16, torch.float64)] == [None, None]


def test_bfloat16_results_are_rounded_half_to_even() -> None:
    """A step of 1 + 2^-8 puts every odd level half way between two numbers of bfloat16."""
    step, x = torch.tensor([1 + 2.0**-8]), torch.arange(-7.0, 8.0).to(torch.bfloat16)
    y = fake_quantize(x, step, 0 * ONE, -8 * ONE, 7 * ONE)
    assert torch.equal(y, (x.float() * step).to(torch.bfloat16))
    assert y[8].item() == 1.0 and y[10].item() == 3.015625


def test_a_gradient_that_is_written_over_is_that_of_the_input() -> None:
    """Also in layouts that no kernel takes."""
    x, up = torch.randn(5, 6).t(), torch.randn(6, 5)
    rest = (x, torch.full((6,), 0.3), torch.zeros(6), -2 * ONE, 1 * ONE, 4)
    want = torch.ops.mixbit.fake_quantize_backward(up, *rest)
    sums = torch.ops.mixbit.fake_quantize_backward_(up, *rest)
    assert torch.equal(up, want[0])
    assert torch.equal(sums[0], want[1]) and torch.equal(sums[1], want[2])


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


def plain(x: Tensor, step: Tensor, zero: Tensor, low: float, high: float) -> Tensor:
    """Straight-through in PyTorch's own operators, which have derivatives of every order."""
    s, z = (one.view(-1, *[1] * (x.dim() - 1)) if one.numel() > 1 else one for one in (step, zero))
    v = x / s
    inside = (v + z > low) & (v + z < high)
    whole = torch.clamp(v.round() + z, low, high)
    passed = torch.where(inside, v, 0.0)
    return (whole.detach() - z + torch.where(inside, z - z.detach(), 0.0) + (passed - passed.detach())) * s


LAYOUTS = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "tokens": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "with gaps": lambda x: torch.cat([x, x], dim=2)[:, :, : x.shape[2]],
    "expanded": lambda x: x[:, :1].expand_as(x),
    "reversed order of all": lambda x: x.permute(2, 1, 0).contiguous().permute(2, 1, 0),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [1, 6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_any_layout_and_dtype(layout: str, channels: int, dtype: torch.dtype) -> None:
    """Numbers of PyTorch's operators, gradients of the inputs' dtypes, and the strides that a compiler is told of."""
    torch.manual_seed(0)
    x = LAYOUTS[layout](torch.randn(6, 5, 4).to(dtype)).detach().requires_grad_()
    step = (torch.rand(channels) + 0.1).requires_grad_()
    zero = torch.ones(channels)
    y = fake_quantize(x, step, zero, -8 * ONE, 7 * ONE)
    want = plain(x.float(), step, zero, -8, 7)
    assert torch.equal(y, want.to(dtype)) and y.dtype == dtype
    assert y.stride() == torch.empty_like(x).stride()
    weights = torch.randn(6, 5, 4).to(dtype)
    found = torch.autograd.grad(y, (x, step), weights)
    wanted = torch.autograd.grad(want, (x, step), weights.float())
    assert found[0].dtype == dtype and found[0].stride() == torch.empty_like(x).stride()
    torch.testing.assert_close(found[0].float(), wanted[0].float(), rtol=1e-2, atol=0)  # a multiple of bf16's rounding
    torch.testing.assert_close(found[1], wanted[1], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_parameters_of_other_dtypes_are_read_as_numbers(dtype: torch.dtype) -> None:
    x = torch.randn(6, 5)
    step = torch.full((6,), 0.25, dtype=dtype, requires_grad=True)
    rest = [one.to(dtype) for one in (torch.ones(6), -8 * ONE, 7 * ONE)]
    y = fake_quantize(x, step, *rest)
    assert torch.equal(y, plain(x, step.float(), torch.ones(6), -8, 7))
    y.sum().backward()
    assert step.grad is not None and step.grad.dtype == dtype


def test_strided_and_expanded_parameters_are_read_as_numbers() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 5, requires_grad=True)
    for step in ((torch.rand(6, 2) + 0.1)[:, 0], torch.tensor([0.25]).expand(6), torch.tensor(0.25)):
        zero, low = torch.tensor(2.0).expand(step.shape), torch.tensor([9.0, -8.0])[1:]
        y = fake_quantize(x, step, zero, low, 7 * ONE)
        want = plain(x, step.reshape(-1), zero.reshape(-1), -8, 7)
        assert torch.equal(y, want)
        torch.testing.assert_close(torch.autograd.grad(y.sum(), x), torch.autograd.grad(want.sum(), x))


@pytest.mark.parametrize(
    ("x", "step", "zero", "low", "match"),
    [
        (torch.randn(6, 5), torch.ones(4), torch.zeros(4), -8 * ONE, r"4 steps for a tensor of shape \(6, 5\)"),
        (torch.randn(6, 5), torch.ones(5), torch.zeros(5), -8 * ONE, "5 steps"),
        (torch.randn(()), torch.ones(2), torch.zeros(2), -8 * ONE, "2 steps"),
        (torch.randn(6, 5), torch.ones(6), torch.zeros(1), -8 * ONE, "1 zero points for 6 steps"),
        (torch.randn(6, 5), torch.ones(1), torch.zeros(6), -8 * ONE, "6 zero points for 1 steps"),
        (torch.randn(6, 5), torch.ones(1), torch.zeros(1), torch.ones(6), "6 values of qmin"),
        (torch.randn(6, 5), torch.ones(0), torch.zeros(0), -8 * ONE, "0 steps"),
        (torch.ones(6, 5, dtype=torch.int32), torch.ones(1), torch.zeros(1), -8 * ONE, "dtype torch.int32"),
    ],
)
def test_lengths_and_types_that_do_not_fit(x: Tensor, step: Tensor, zero: Tensor, low: Tensor, match: str) -> None:
    """The kernels see addresses; what they would read beyond a tensor is refused before."""
    with pytest.raises(MixbitError, match=match):
        fake_quantize(x, step, zero, low, 7 * ONE)
    with pytest.raises(MixbitError, match=match):
        torch.ops.mixbit.fake_quantize_backward(x, x, step, zero, low, 7 * ONE, 0)


@pytest.mark.parametrize("default", [torch.bfloat16, torch.float64])
def test_defaults_of_the_process_do_not_matter(default: torch.dtype) -> None:
    """Partial sums are many here: with room of the default type the kernel wrote beyond it."""
    x, step = torch.randn(4096, 3), torch.full((4096,), 0.25)
    rest = (x, step, torch.zeros(4096), -8 * ONE, 7 * ONE, 0)
    wanted = torch.ops.mixbit.fake_quantize_backward(x, *rest)
    torch.set_default_dtype(default)
    try:
        with torch.device("meta"):
            found = torch.ops.mixbit.fake_quantize_backward(x, *rest)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(a, b) and a.dtype == torch.float32 for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("channels", [1, 5])
@pytest.mark.parametrize("count", [0, 3])
def test_second_derivatives_are_those_of_straight_through(channels: int, count: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 7, requires_grad=True)
    step, zero = (torch.rand(channels) / 4 + 0.1).requires_grad_(), torch.ones(channels, requires_grad=True)
    upstream = torch.randn(5, 7, requires_grad=True)
    at = (upstream, x, step, zero)
    mixes = [torch.randn(5, 7), torch.randn(channels), torch.randn(channels)]
    results = []
    for ours in (True, False):
        y = fake_quantize(x, step, zero, -4 * ONE, 3 * ONE, count=count) if ours else plain(x, step, zero, -4, 3)
        first = list(torch.autograd.grad(y, (x, step, zero), upstream, create_graph=True))
        if not ours and count:
            first[1:] = [one / (count * 3) ** 0.5 for one in first[1:]]
        total = sum((one * mix).sum() for one, mix in zip(first, mixes, strict=True))
        assert isinstance(total, Tensor)
        results.append(torch.autograd.grad(total, at, allow_unused=True))
    for name, ours_, theirs in zip(("grad", "x", "step", "zero"), *results, strict=True):
        found, wanted = (torch.zeros(()) if one is None else one for one in (ours_, theirs))
        torch.testing.assert_close(found.expand_as(wanted), wanted, rtol=1e-4, atol=1e-4, msg=name)


@pytest.fixture
def plain_cpp() -> Iterator[None]:
    """PyTorch's compiler without its looks at what the C++ compiler can vectorize, which are half of its time.

    Where there are kernels they stay one node of the graph: only what surrounds them would be vectorized.
    """
    from torch._inductor import config

    with config.patch({"cpp.vec_isa_ok": False, "compile_threads": 1}):
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("plain_cpp")
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
@pytest.mark.usefixtures("plain_cpp")
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", ["kernel", "pytorch"])
def test_slices_with_ranges_of_their_own_are_what_each_is_alone(form: str, dtype: torch.dtype) -> None:
    """Samples of a batch at 2, 4 and 8 bits, and again at 2: values, gradients, and the scale of each step."""
    if form == "kernel":
        need("kernels")
    forward = torch.ops.mixbit.fake_quantize if form == "kernel" else _forward
    backward = torch.ops.mixbit.fake_quantize_backward if form == "kernel" else _backward
    generator = torch.Generator().manual_seed(2)
    x, up = (torch.randn(4, block() + 3 if form == "kernel" else 50, generator=generator).to(dtype) for _ in range(2))
    step, zero = torch.tensor([0.9, 0.2, 0.02, 0.5]), torch.tensor([0.0, 3.0, -7.0, 1.0])
    low, high = torch.tensor([-2.0, -8.0, -128.0, 0.0]), torch.tensor([1.0, 7.0, 127.0, 3.0])
    y, (grad_x, grad_step, grad_zero) = forward(x, step, zero, low, high, 5), backward(up, x, step, zero, low, high, 5)
    for at in range(4):
        one = slice(at, at + 1)
        alone = [t[one] for t in (step, zero, low, high)]
        assert torch.equal(y[one], forward(x[one], *alone, 5))
        wanted = backward(up[one], x[one], *alone, 5)
        assert torch.equal(grad_x[one], wanted[0])
        torch.testing.assert_close((grad_step[one], grad_zero[one]), wanted[1:], rtol=1e-6, atol=0)


def test_second_derivatives_of_slices_with_ranges_of_their_own() -> None:
    x, up = torch.randn(2, 7, dtype=torch.float32), torch.randn(2, 7)
    step, zero = torch.tensor([0.9, 0.2], requires_grad=True), torch.zeros(2)
    low, high = torch.tensor([-2.0, -8.0]), torch.tensor([1.0, 7.0])

    def second(rows: slice) -> Tensor:
        inner = x[rows].clone().requires_grad_()
        s = step.detach()[rows].clone().requires_grad_()
        y = fake_quantize(inner, s, zero[rows], low[rows], high[rows], count=3)
        (grad,) = torch.autograd.grad((y * up[rows]).square().sum(), s, create_graph=True)
        return torch.autograd.grad(grad.sum(), inner)[0]

    torch.testing.assert_close(second(slice(None)), torch.cat([second(slice(0, 1)), second(slice(1, 2))]))


def test_kernels_of_another_version_are_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would read one argument for another."""
    for old in (SimpleNamespace(), SimpleNamespace(mixbit_kernels=lambda: 1)):
        monkeypatch.setattr(_native, "load_library", lambda _path, old=old: old)
        with pytest.warns(UserWarning, match=r"of another version of mixbit \(1, legal is 2\).*pip install -e"):
            assert library.__wrapped__() is None
