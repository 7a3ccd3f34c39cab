"""What lowering reads of a program: every operator's arguments against PyTorch, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixbit.errors import ExportError
from mixbit.integer import executor
from mixbit.integer import graph as g
from mixbit.integer.lowering import lower
from mixbit.quantization._layers import put_on
from mixbit.quantizers import RULES, Quantizer
from tests.export.following import hold
from tests.export.modules import NETWORK, quantized

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")

X = torch.randn(4, 3, 6, 8, generator=torch.Generator().manual_seed(0))


class Changed(nn.Module):
    """A change of the input, then a layer that reads all of it."""

    def __init__(self, change: Callable[..., Tensor], features: int | None = None, **parts: nn.Module) -> None:
        super().__init__()
        self.change = change
        for name, part in parts.items():
            self.add_module(name, part)
        self.eval()
        if features is None:
            with torch.no_grad():
                features = change(self, X).flatten(1).shape[1]
        torch.manual_seed(0)
        self.fc = nn.Linear(features, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.change(self, x).flatten(1))


def lowered(change: Callable[..., Tensor], **parts: nn.Module) -> g.IntegerGraph:
    return lower(quantized(Changed(change, **parts), X), NETWORK, [X])


REFUSED: dict[str, tuple[Callable[..., Tensor], str]] = {
    "bounds that are tensors": (lambda m, x: x.clamp(torch.tensor(0.0), torch.tensor(1.0)), "its bounds are tensors"),
    "alpha of a sum": (lambda m, x: torch.add(x.relu(), x.sigmoid(), alpha=2), "or alpha is not 1"),
    "a sum of unlike shapes": (lambda m, x: x.relu() + x.sigmoid()[:, :1], "differ, or alpha is not 1"),
    "a difference of tensors": (lambda m, x: x.relu() - x.sigmoid(), "sub has no integer form: it is not among"),
    "a product of tensors": (lambda m, x: x.relu() * x.sigmoid(), "mul has no integer form: it is not among"),
    "a concat over the batch": (lambda m, x: torch.cat([x, x], 0).reshape(-1, 288), "cat has no .*: it mixes or moves"),
    "ceil_mode of an average": (lambda m, x: F.avg_pool2d(x, 2, ceil_mode=True), "ceil_mode, count_include_pad=False"),
    "padding that does not count": (
        lambda m, x: F.avg_pool2d(x, 2, padding=1, count_include_pad=False),
        "ceil_mode, count_include_pad=False",
    ),
    "padding at one side that does not count": (
        lambda m, x: F.avg_pool2d(x, (2, 3), padding=(0, 1), count_include_pad=False),
        "ceil_mode, count_include_pad=False",
    ),
    "another divisor": (lambda m, x: F.avg_pool2d(x, 2, divisor_override=3), "and divisor_override are not supported"),
    "ceil_mode of a maximum": (lambda m, x: F.max_pool2d(x, 4, ceil_mode=True), "ceil_mode and dilation are not"),
    "dilation of a maximum": (lambda m, x: F.max_pool2d(x, 2, dilation=2), "ceil_mode and dilation are not"),
    "dilation of a maximum, one way": (lambda m, x: F.max_pool2d(x, 2, dilation=(1, 2)), "ceil_mode and dilation"),
    "windows that overlap": (lambda m, x: F.adaptive_avg_pool2d(x, (4, 8)), r"windows overlap: \(6, 8\) to \(4, 8\)"),
    "a mean over rows": (lambda m, x: x.mean(2), r"a mean over \[2\] of 4 dimensions. Legal: over all spatial"),
    "a mean over channels": (lambda m, x: x.mean((1, 2, 3)).unsqueeze(1), r"a mean over \[1, 2, 3\] of 4 dimensions"),
    "a permutation of samples": (
        lambda m, x: x.permute(1, 0, 2, 3).permute(1, 0, 2, 3),
        "permute has no .*: it mixes or moves samples",
    ),
    "a slice of samples": (lambda m, x: x[1:], "slice has no .*: it mixes or moves samples"),
    "every second sample": (lambda m, x: x[::2], "slice has no .*: it mixes or moves samples"),
    "padding of samples": (lambda m, x: F.pad(x, (0, 0, 0, 0, 0, 0, 1, 0)), "pad has no .*: it mixes or moves samples"),
    "padding with ones": (lambda m, x: F.pad(x, (1, 0), value=1.0), "pads with something other than zeros"),
    "padding by reflection": (
        lambda m, x: F.pad(x, (1, 0, 0, 0), mode="reflect"),
        "it pads with something other than zeros",
    ),
    "cropping": (lambda m, x: F.pad(x, (-1, 0)), "pads with something other than zeros, or crops"),
    "a softmax inside": (lambda m, x: x.softmax(-1), "a softmax is supported at the end, over the last dimension"),
    "one sample's number": (lambda m, x: x.select(2, 1), "it takes one of several"),
    "a batch norm of batches": (lambda m, x: m.norm(m.conv(x)), "no running statistics, but takes those of the batch"),
    "a batch norm behind a ReLU": (
        lambda m, x: m.own(m.conv(x).relu()),
        "does not follow a convolution or",
    ),
    "a batch norm twice read": (lambda m, x: m.own(y := m.conv(x)) + y, "something else reads the layer before it"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_integer_form_is_refused(name: str) -> None:
    change, reason = REFUSED[name]
    norm = nn.BatchNorm2d(3, track_running_stats=False)
    parts = {"conv": nn.Conv2d(3, 3, 1), "norm": norm, "own": nn.BatchNorm2d(3)}
    used = {key: part for key, part in parts.items() if key in change.__code__.co_names}
    with pytest.raises(ExportError, match=reason):
        lower(quantized(Changed(change, **used), X), NETWORK, [X])


def test_a_learned_gain_by_channel_is_refused() -> None:
    model = Changed(lambda m, x: x + m.gain, 144)
    model.gain = nn.Parameter(torch.ones(1, 3, 1, 1))
    with pytest.raises(ExportError, match="add has no .*: its input is no activation of the network, but learned"):
        lower(quantized(model, X), NETWORK, [X])


@pytest.mark.parametrize("broken", ["weight", "bias", "running_var", "running_mean"])
def test_numbers_that_are_not_finite_are_refused_with_their_layer(broken: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(192, 3)).eval()
    model = quantized(model, X)
    module = model[0] if broken in ("weight", "bias") else model[1]
    with torch.no_grad():
        getattr(module, broken).view(-1)[1] = torch.nan
    with pytest.raises(ExportError, match=r"^[01]: its (weight|bias|running \w+) is not finite \(nan in 1 of \d+\)"):
        lower(model, NETWORK, [X], compare=False)


def test_a_negative_variance_is_refused_with_its_layer() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(192, 3)).eval()
    model = quantized(model, X)
    model[1].running_var[2] = -1.0
    with pytest.raises(ExportError, match=r"^1: batch_norm .* its running variance is -1"):
        lower(model, NETWORK, [X])


def test_weights_with_a_zero_point_are_refused() -> None:
    model = quantized(Changed(lambda m, x: x), X)
    model.fc.weight_quantizer.zero_points.fill_(1)
    with pytest.raises(ExportError, match="its weights have a zero point. Legal: symmetric weights"):
        lower(model, NETWORK, [X])


def test_a_weight_that_is_no_parameter_is_refused() -> None:
    """The thirds of a packed attention projection, which only the softmax between needs apart."""
    model = nn.MultiheadAttention(8, 2, batch_first=True)
    put_on(model, Quantizer([8], signed=True, channels=24), Quantizer([8], signed=True, batched=True))
    model.weight_quantizer.initialise(model.in_proj_weight, RULES["minmax"])
    model.input_quantizer.steps.data.fill_(0.02)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.fc = model, nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.attention(x, x, x)[0])

    with pytest.raises(ExportError, match="attention: .* has no integer form"):
        lower(Net().eval(), NETWORK, [torch.randn(2, 4, 8)])


def test_several_outputs_are_refused() -> None:
    class Two(Changed):
        def forward(self, x: Tensor) -> object:
            y = super().forward(x)
            return y, y + 1

    with pytest.raises(ExportError, match=r"has 2 outputs. Legal: one tensor in, one tensor out"):
        lower(quantized(Two(lambda m, x: x), X), NETWORK, [X])


def test_several_inputs_are_refused() -> None:
    with pytest.raises(ExportError, match=r"the model takes .* Legal: one tensor; an integer graph has one input"):
        lower(quantized(Changed(lambda m, x: x), X), NETWORK, [{"x": X, "y": X}])


# ------------------------------------------------------------------------------------- arguments, one by one


def output(graph: g.IntegerGraph) -> np.ndarray:
    return executor.run(graph, X.numpy())


LEGAL: dict[str, Callable[..., Tensor]] = {
    "alpha 1": lambda m, x: torch.add(x.relu(), x.sigmoid(), alpha=1),
    "alpha of a number": lambda m, x: torch.add(x, 0.25, alpha=3),
    "padding of 0 that would not count": lambda m, x: F.avg_pool2d(x, (2, 3), count_include_pad=False),
    "padding that counts": lambda m, x: F.avg_pool2d(x, (2, 3), (2, 1), (1, 0), count_include_pad=True),
    "a stride of its own": lambda m, x: F.max_pool2d(x, (2, 3), (1, 2)),
    "a stride that is the kernel": lambda m, x: F.avg_pool2d(x, (2, 4)),
    "windows side by side": lambda m, x: F.adaptive_avg_pool2d(x, (3, 2)),
    "cat by a negative axis": lambda m, x: torch.cat([x, x[..., :3]], -1),
    "a slice by a negative axis": lambda m, x: x[..., 2:5],
    "a slice from the end": lambda m, x: x[..., -5:-1:2],
    "padding on four sides": lambda m, x: F.pad(x, (1, 2, 3, 0)),
    "padding of channels": lambda m, x: F.pad(x, (0, 0, 0, 0, 2, 1)),
    "hardtanh by default": lambda m, x: F.hardtanh(x),
    "a clamp of one side": lambda m, x: x.clamp(max=-0.1),
    "mean by negative axes": lambda m, x: x.mean((-1, -2)),
    "mean of one row": lambda m, x: x.flatten(2).mean(-1),
    "dropout of nothing": lambda m, x: F.dropout(x, 0.0, training=True),
}


@pytest.mark.parametrize("name", LEGAL)
def test_arguments_mean_what_pytorch_takes_them_for(name: str) -> None:
    """Within what two roundings to 8 bits can move; an argument that is read wrong moves far more or the shape."""
    model = quantized(Changed(LEGAL[name]), X)
    graph = lower(model, NETWORK, [X], compare=False)
    with torch.no_grad():
        wanted = model(X).numpy()
    assert np.abs(output(graph) - wanted).max() < 0.02


@pytest.mark.parametrize(
    ("kernel", "dilation", "wanted"),
    [((2, 3), (1, 1), ((0, 1), (1, 1))), ((4, 2), (1, 3), ((1, 2), (1, 2))), ((1, 4), (2, 1), ((0, 0), (1, 2)))],
)
def test_padding_same_is_wider_at_the_end(
    kernel: tuple[int, int], dilation: tuple[int, int], wanted: tuple[tuple[int, int], ...]
) -> None:
    """As PyTorch's formula has it: `d (k - 1)` in all, the larger half behind."""
    conv = nn.Conv2d(3, 2, kernel, padding="same", dilation=dilation)
    op = lowered(lambda m, x: m.conv(x), conv=conv).weighted()[0]
    assert op.padding == wanted and op.dilation == dilation and op.stride == (1, 1)


def test_what_a_convolution_is_built_with() -> None:
    conv = nn.Conv2d(3, 6, (2, 1), (1, 2), (1, 0), (2, 1), groups=3)
    op = lowered(lambda m, x: m.conv(x), conv=conv).weighted()[0]
    assert (op.stride, op.padding, op.dilation, op.groups) == ((1, 2), ((1, 1), (0, 0)), (2, 1), 3)
    valid = lowered(lambda m, x: m.conv(x), conv=nn.Conv2d(3, 2, 2, padding="valid")).weighted()[0]
    assert valid.padding == ((0, 0), (0, 0))


@pytest.mark.parametrize("affine", [True, False])
def test_a_folded_batch_norm_by_its_formula(affine: bool) -> None:
    """`gamma / sqrt(var + eps)`: an eps of 0.5 beside variances of 0.1 to 1."""
    conv, norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, eps=0.5, affine=affine)
    gamma, beta = [2.0, -1.0, 0.5, 1.5] if affine else [1.0] * 4, [0.3, 0.0, -0.2, 1.0] if affine else [0.0] * 4
    mean, var = np.array([0.2, -0.1, 0.0, 0.4]), np.array([0.1, 0.5, 1.0, 0.3])
    with torch.no_grad():
        norm.running_mean.copy_(torch.tensor(mean)), norm.running_var.copy_(torch.tensor(var))
        if affine:
            norm.weight.copy_(torch.tensor(gamma)), norm.bias.copy_(torch.tensor(beta))
    graph = lowered(lambda m, x: m.norm(m.conv(x)), conv=conv, norm=norm)
    op, scale = graph.weighted()[0], np.array(gamma) / np.sqrt(var + 0.5)
    step = float(conv.weight_quantizer.steps)
    np.testing.assert_allclose(op.weight_scale, step * scale, rtol=1e-5)
    bias = (conv.bias.detach().double().numpy() - mean) * scale + beta
    np.testing.assert_allclose(op.bias * graph.unit(op), bias, atol=1e-3)


def test_tables_hold_the_function_at_every_integer() -> None:
    graph = lowered(lambda m, x: F.elu(x, 0.7))
    op = next(op for op in graph.ops if isinstance(op, g.Lookup))
    of, result = graph.grid(op.x), graph.grid(op.output)
    reals = torch.arange(of.qmin, of.qmax + 1).sub(of.zero_point).double() * of.scale
    wanted = (F.elu(reals, 0.7) / result.scale + result.zero_point).clamp(result.qmin, result.qmax)
    assert op.function == "elu" and len(op.table) == 256
    assert np.abs(op.table - wanted.numpy()).max() <= 0.5 + 1e-4


def test_a_layer_that_is_called_twice_keeps_its_name_and_gets_a_number() -> None:
    graph = lowered(lambda m, x: m.conv(m.conv(x).relu()), conv=nn.Conv2d(3, 3, 1))
    assert [op.name for op in graph.weighted()] == ["conv", "conv:2", "fc"]


@pytest.mark.parametrize("seed", range(50))
def test_random_networks_lower_to_the_nearest_integers(seed: int) -> None:
    hold(seed)


@pytest.mark.bench
def test_thousands_of_random_networks() -> None:
    for seed in range(1000, 3000):
        hold(seed, steps=6)
