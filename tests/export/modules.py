"""Random networks of PyTorch modules, asymmetric on purpose: nothing in them is equal that a mistake could swap.

Kernels, strides, dilations and paddings differ by direction, paddings by side; batch norms have an epsilon that matters
and scales of either sign; clamps cut inside the range, also on the wrong side; maps have several readers with steps of
their own, by channel for weights; zero points are anywhere; joins have parts of unlike range; some inputs are dead.
A network says what it is (`str(model)`), for the message of a failing test.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixbit.network import Network
from mixbit.quantization._layers import put_on
from mixbit.quantizers import RULES, Quantizer

Call = Callable[..., Tensor]

NETWORK = Network(layers=(), tensors=(), steps=(), joins=(), skipped=(), other_macs=0)
"""What lowering asks of a network is its fingerprint; a capture would take half of the tests' time."""


class Part(nn.Module):
    """One step of a network: reads maps, makes one.

    Args:
        kind: "layer", "clamp" (may be folded into what it reads), "nothing" (the same values), "move", "sum", ...
        says: what it does, for messages.
        reads: numbers of maps.
        call: the part and its maps -> the new map.
        layers: modules that the call finds by these names.
    """

    def __init__(self, kind: str, says: str, reads: Sequence[int], call: Call, **layers: nn.Module) -> None:
        super().__init__()
        self.kind, self.says, self.reads, self._call = kind, says, tuple(reads), call
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, *maps: Tensor) -> Tensor:
        return self._call(self, *maps)

    def __str__(self) -> str:
        return f"{self.kind}: {self.says} of {', '.join(map(str, self.reads))}"


class RandomNet(nn.Module):
    """Parts that read maps made earlier, those first that nobody read yet; map 0 is the input.

    Args:
        seed: decides everything.
        steps: how many.
    """

    def __init__(self, seed: int, steps: int = 7) -> None:
        super().__init__()
        self.seed = seed
        self.pick = pick = random.Random(seed)
        torch.manual_seed(seed)
        self.sample = torch.randn(2, 3, 7, 9) if pick.random() < 0.8 else torch.randn(2, 3, 19)
        self.parts = nn.ModuleList()
        maps = [self.sample]
        with torch.no_grad():
            for _ in range(steps):
                part = pick.choice(_KINDS)(self, maps, self._place(len(maps))).eval()
                _vary(part, pick)
                self.parts.append(part)
                maps.append(part(*(maps[i] for i in part.reads)))
            self.head = _head(self, maps)

    def _place(self, count: int) -> int:
        unread = set(range(count)) - {i for part in self.parts for i in part.reads}
        return max(unread) if unread and self.pick.random() < 0.7 else self.pick.randrange(count)

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for part in self.parts:
            maps.append(part(*(maps[i] for i in part.reads)))
        return self.head(*(maps[i] for i in self.head.reads))

    def __str__(self) -> str:
        lines = [f"{number}: {part}" for number, part in enumerate(self.parts, 1)]
        return "\n".join([f"seed {self.seed}, input {tuple(self.sample.shape[1:])}", *lines, f"head: {self.head}"])


@torch.no_grad()
def _vary(part: nn.Module, pick: random.Random) -> None:
    """Statistics, signs and biases that matter."""
    for module in part.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            if module.affine:
                module.weight.uniform_(-0.7, 1.5)
                module.bias.normal_(0.2, 0.4)
            module.running_mean.normal_(0.1, 0.3)
            module.running_var.uniform_(0.05, 2)
        elif isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear) and module.bias is not None and part.kind != "dead":
            module.bias.mul_(pick.choice([1, 3]))


# ------------------------------------------------------------------------------------------------------- layers


def _conv(net: RandomNet, maps: list[Tensor], at: int) -> Part:
    pick, channels, sizes = net.pick, maps[at].shape[1], maps[at].shape[2:]
    if len(sizes) == 0:
        return _linear(net, maps, at)
    kernel = [pick.randint(1, min(3, size)) for size in sizes]
    dilation = [pick.randint(1, 2) if (k - 1) * 2 < size else 1 for k, size in zip(kernel, sizes, strict=True)]
    stride = [pick.choice([1, 1, 2]) for _ in sizes]
    padding = "same" if pick.random() < 0.25 else [pick.randint(0, 2) for _ in sizes]
    if padding == "same":
        stride = [1] * len(sizes)
    groups = pick.choice([1, 1, channels, next(n for n in range(channels, 0, -1) if channels % n == 0 and n < 4)])
    width = groups * pick.randint(1, 2) if groups > 1 else pick.randint(2, 6)
    kind = nn.Conv2d if len(sizes) == 2 else nn.Conv1d
    layer = kind(channels, width, kernel, stride, padding, dilation, groups, bias=pick.random() < 0.7)
    norm: list[nn.Module] = []
    if pick.random() < 0.6:
        of = nn.BatchNorm2d if len(sizes) == 2 else nn.BatchNorm1d
        norm = [of(width, eps=pick.choice([1e-5, 0.1, 0.5]), affine=pick.random() < 0.8)]
    act = pick.choice([[], [], [nn.ReLU()], [nn.ReLU6()], [nn.Hardtanh(-0.3, 0.7)], [nn.ReLU(inplace=True)]])
    rest = nn.Sequential(*norm, *act)
    says = f"{layer}, {rest!r}".replace("\n", "")
    return Part("layer", says, [at], lambda m, y: m.rest(m.layer(y)), layer=layer, rest=rest)


def _linear(net: RandomNet, maps: list[Tensor], at: int) -> Part:
    """Over the last dimension, whatever stands before it."""
    layer = nn.Linear(maps[at].shape[-1], net.pick.randint(2, 6), bias=net.pick.random() < 0.7)
    norm = nn.BatchNorm1d(layer.out_features, eps=0.2) if maps[at].dim() == 2 else nn.Identity()
    return Part("layer", f"{layer}, {norm}", [at], lambda m, y: m.norm(m.layer(y)), layer=layer, norm=norm)


def _dead(net: RandomNet, maps: list[Tensor], at: int) -> Part:
    """Zero for every input."""
    if maps[at].dim() < 3:
        return _linear(net, maps, at)
    kind = nn.Conv2d if maps[at].dim() == 4 else nn.Conv1d
    layer = kind(maps[at].shape[1], 3, 1)
    nn.init.constant_(layer.bias, -3000.0)
    return Part("dead", "a convolution that no ReLU passes", [at], lambda m, y: m.layer(y).relu(), layer=layer)


# ------------------------------------------------------------------------------------------- clamps, functions


_CLAMPS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "hardtanh(-0.2, 0.6)": lambda y: F.hardtanh(y, -0.2, 0.6),
    "clamp(-0.4, 0.9)": lambda y: y.clamp(-0.4, 0.9),
    "clamp(max=0.3)": lambda y: y.clamp(max=0.3),
    "clamp(min=-0.1)": lambda y: torch.clamp(y, min=-0.1),
    "clamp_min(0.1)": lambda y: y.clamp_min(0.1),
    "clamp_max(-0.05)": lambda y: y.clamp_max(-0.05),
    "clip(0.05, 0.5)": lambda y: torch.clip(y, 0.05, 0.5),
    "clamp(-0.5, 0.3), clamp(0.0, 1.0)": lambda y: y.clamp(-0.5, 0.3).clamp(0.0, 1.0),
    "clamp(0.0, 1.0), clamp(-0.5, 0.3)": lambda y: y.clamp(0.0, 1.0).clamp(-0.5, 0.3),
    "clamp(max=0.2), clamp(min=0.4)": lambda y: y.clamp(max=0.2).clamp(min=0.4),
}

_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "hardswish": F.hardswish,
    "sigmoid": torch.sigmoid,
    "gelu": F.gelu,
    "gelu(tanh)": lambda y: F.gelu(y, approximate="tanh"),
    "leaky_relu(0.3)": lambda y: F.leaky_relu(y, 0.3),
    "elu(0.5)": lambda y: F.elu(y, 0.5),
    "1.3 y": lambda y: 1.3 * y,
    "y / -0.7": lambda y: y / -0.7,
    "0.8 - y": lambda y: 0.8 - y,
    "y - 0.2": lambda y: y - 0.2,
    "add(y, 0.3, alpha=-2)": lambda y: torch.add(y, 0.3, alpha=-2),
    "sub(y, 0.1, alpha=3)": lambda y: torch.sub(y, 0.1, alpha=3),
    "-y": lambda y: -y,
    "square": torch.square,
}


def _chosen(kind: str, table: dict[str, Callable[[Tensor], Tensor]], net: RandomNet, at: int) -> Part:
    says = net.pick.choice(sorted(table))
    return Part(kind, says, [at], lambda m, y: table[says](y))


def _clamp(net: RandomNet, maps: list[Tensor], at: int) -> Part:
    return _chosen("clamp", _CLAMPS, net, at)


def _function(net: RandomNet, maps: list[Tensor], at: int) -> Part:
    return _chosen("function", _FUNCTIONS, net, at)


# ------------------------------------------------------------------------------------------------------- moves


_SAME: dict[str, Callable[[Tensor], Tensor]] = {
    "dropout": lambda y: F.dropout(y, 0.5, training=False),
    "full slice": lambda y: y[:, :],
    "reshape to its shape": lambda y: y.reshape(y.shape).contiguous(),
    "flatten, unflatten": lambda y: y.flatten(1).unflatten(1, y.shape[1:]),
    "clone": lambda y: y.mT.mT.clone() if y.dim() > 2 else y.clone(),
    "double and back": lambda y: y.double().to(y.dtype),
}

_MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "mT": lambda y: y.mT,
    "permute(0, -1, 1, ...)": lambda y: y.permute(0, y.dim() - 1, *range(1, y.dim() - 1)),
    "movedim(1, -1)": lambda y: y.movedim(1, -1),
    "[:, 1:]": lambda y: y[:, 1:],
    "[:, :-1, ::2]": lambda y: y[:, :-1, ::2],
    "[..., 1::3]": lambda y: y[..., 1::3],
    "pad(0, 2)": lambda y: F.pad(y, (0, 2)),
    "pad(1, 0, 0, 2)": lambda y: F.pad(y, (1, 0, 0, 2)),
    "reshape": lambda y: y.reshape(y.shape[0], y.shape[-1], -1, *[1] * (y.dim() - 3)),
    "swap by reshape": lambda y: y.reshape(y.shape[0], y.shape[2], y.shape[1], *y.shape[3:]),
}


def _same(net: RandomNet, maps: list[Tensor], at: int) -> Part:
    return _chosen("nothing", _SAME, net, at)


def _move(net: RandomNet, maps: list[Tensor], at: int) -> Part:
    return (
        _chosen("move", _MOVES, net, at) if maps[at].dim() > 2 and min(maps[at].shape[1:]) > 1 else _same(net, maps, at)
    )


def _window(net: RandomNet, sizes: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """Kernel, stride and padding that differ by direction."""
    pick = net.pick
    kernel = [pick.randint(1, min(3, size)) for size in sizes]
    return kernel, [pick.randint(1, 2) for _ in sizes], [pick.randint(0, k // 2) for k in kernel]


def _max_pool(net: RandomNet, maps: list[Tensor], at: int) -> Part:
    sizes = maps[at].shape[2:]
    if not sizes:
        return _same(net, maps, at)
    kernel, stride, padding = _window(net, sizes)
    call = F.max_pool2d if len(sizes) == 2 else F.max_pool1d
    return Part("move", f"max_pool{kernel, stride, padding}", [at], lambda m, y: call(y, kernel, stride, padding))


# ------------------------------------------------------------------------------------------------- pools, joins


def _pool(net: RandomNet, maps: list[Tensor], at: int) -> Part:
    pick, sizes = net.pick, maps[at].shape[2:]
    if not sizes:
        return _function(net, maps, at)
    then = pick.choice([None, None, *sorted(_CLAMPS)])
    after = _CLAMPS.get(then, lambda y: y) if then else lambda y: y
    how = pick.randrange(4)
    if how == 0:
        dims = list(range(2, 2 + len(sizes)))
        if pick.random() < 0.5:  # a reshape follows, into which no clamp is folded
            return Part("pool", f"mean{dims}", [at], lambda m, y: y.mean(dims))
        return Part("pool", f"mean{dims}, kept, {then}", [at], lambda m, y: after(y.mean(dims, keepdim=True)))
    if how == 1:
        to = [pick.choice([n for n in range(1, size + 1) if size % n == 0]) for size in sizes]
        adaptive = F.adaptive_avg_pool2d if len(sizes) == 2 else F.adaptive_avg_pool1d
        return Part("pool", f"adaptive_avg_pool{to}, {then}", [at], lambda m, y: after(adaptive(y, to)))
    kernel, stride, padding = _window(net, sizes)
    counts = bool(any(padding)) or pick.random() < 0.5
    call = F.avg_pool2d if len(sizes) == 2 else F.avg_pool1d
    return Part(
        "pool",
        f"avg_pool{kernel, stride, padding}, count_include_pad={counts}, {then}",
        [at],
        lambda m, y: after(call(y, kernel, stride, padding, False, counts)),
    )


def _join(net: RandomNet, maps: list[Tensor], at: int) -> Part:
    """A sum with a map of the same shape, or a concat with one that differs along one axis at most."""
    pick, shape = net.pick, maps[at].shape
    equal = [i for i, one in enumerate(maps) if one.shape == shape]
    if pick.random() < 0.5:
        other, then = pick.choice(equal), pick.choice([None, None, "relu", "clamp(-0.4, 0.9)"])
        then = then if other != at else None  # of a map with itself it is a function, which no clamp is folded into
        after = _CLAMPS[then] if then else lambda y: y
        plus = pick.choice([torch.add, lambda a, b: a + b, lambda a, b: torch.add(a, b, alpha=1)])
        return Part("sum", f"add, {then}", [at, other], lambda m, a, b: after(plus(a, b)))
    axis = pick.randrange(1, len(shape))
    fits = [i for i, one in enumerate(maps) if one.dim() == len(shape) and _fits(one.shape, shape, axis)]
    other, gain = pick.choice(fits), pick.random() < 0.5
    reads = [at, other] if gain else [other, at]
    return Part("concat", f"cat along {axis}", reads, lambda m, *ys: torch.cat(ys, axis))


def _fits(one: torch.Size, other: torch.Size, axis: int) -> bool:
    return all(a == b for i, (a, b) in enumerate(zip(one, other, strict=True)) if i != axis)


_KINDS = (
    *[_conv] * 7,
    _linear,
    _dead,
    *[_clamp] * 3,
    *[_function] * 2,
    *[_same] * 2,
    *[_move] * 3,
    *[_max_pool] * 2,
    *[_pool] * 3,
    *[_join] * 5,
)


def _head(net: RandomNet, maps: list[Tensor]) -> Part:
    """A linear layer or a convolution, with a softmax or not, over the last map and one that nobody read."""
    pick, last = net.pick, len(maps) - 1
    unread = sorted(set(range(1, last)) - {i for part in net.parts for i in part.reads})
    if unread:
        other = unread[-1]
        flat = Part(
            "concat", "cat of both, flat", [last, other], lambda m, a, b: torch.cat([b.flatten(1), a.flatten(1)], 1)
        )
        net.parts.append(flat)
        maps.append(flat(maps[last], maps[other]))
    y, at = maps[-1], len(maps) - 1
    if y.dim() > 2 and pick.random() < 0.2:
        layer = (nn.Conv2d if y.dim() == 4 else nn.Conv1d)(y.shape[1], 3, 1)
        return Part("layer", str(layer), [at], lambda m, y: m.layer(y), layer=layer)
    layer = nn.Linear(y[0].numel(), 4)
    soft = pick.random() < 0.15
    says = f"{layer}{', softmax' if soft else ''}"
    end = (lambda y: y.softmax(-1)) if soft else (lambda y: y)
    return Part("layer", says, [at], lambda m, y: end(m.layer(y.flatten(1))), layer=layer)


# --------------------------------------------------------------------------------------------------- quantizers


def lowerable(seed: int, *, steps: int = 7, wide: bool = False) -> tuple[RandomNet, Network, Tensor]:
    """A random network with trained quantizers, a `Network` for `lower`, and a batch `(4, ...)` to calibrate with.

    Steps are set by one of the rules and then moved, as training does; readers of one map share a grid or do not. With
    `wide` half of the inputs have 9 to 16 bits.
    """
    model = RandomNet(seed, steps).eval()
    pick, x = random.Random(seed + 1), torch.randn(4, *model.sample.shape[1:])
    banks = [
        _quantize(layer, pick, wide)
        for layer in model.modules()
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear)
    ]
    with torch.no_grad():
        for bank in banks:
            if bank is not None:
                affine = not bank.signed and pick.random() < 0.5
                bank.rule = RULES["minmax-affine" if affine else pick.choice(["minmax", "minmax", "mse", "lsq"])]
        model(x)
        for bank in banks:
            if bank is not None:
                bank.rule = None
        _train(model, pick)
    return model, NETWORK, x


def _quantize(layer: nn.Module, pick: random.Random, wide: bool) -> Quantizer | None:
    """Put quantizers on a layer; some weights and inputs stay in float."""
    weight, inputs = None, None
    if pick.random() < 0.93:
        weight = Quantizer([pick.randint(1, 8)], signed=True, channels=len(layer.weight) if pick.random() < 0.6 else 1)
        weight.initialise(layer.weight, RULES[pick.choice(["minmax", "mse"])])
    if pick.random() < 0.9 or weight is None:
        bits = pick.choice([9, 12, 16, 16]) if wide and pick.random() < 0.5 else pick.randint(2, 8)
        inputs = Quantizer([bits], signed=pick.random() < 0.5, batched=True)
    put_on(layer, weight, inputs)
    return inputs


@torch.no_grad()
def _train(model: RandomNet, pick: random.Random) -> None:
    """Steps where training may have left them; a third of the readers of a map take the grid of another reader."""
    known: dict[tuple[int, int, bool], Quantizer] = {}
    for part in (*model.parts, model.head):
        for module in part.modules():
            if not isinstance(module, Quantizer):
                continue
            if float(module.steps.min()) > 1.1e-8:
                module.steps.mul_(torch.empty_like(module.steps).uniform_(0.7, 1.4))
            if not module.batched:
                continue
            if bool(module.zero_points.any()):
                module.zero_points.add_(pick.randint(-2, 2)).clamp_(float(module.qmins), float(module.qmaxs))
            other = known.setdefault((part.reads[0], module.bits[0], module.signed), module)
            if pick.random() < 0.35 or other is module:
                module.load_state_dict(other.state_dict())


def quantized(model: nn.Module, x: Tensor) -> nn.Module:
    """Any model at 8 bits everywhere, by the smallest and the largest number of weights and of `x`."""
    banks = []
    for layer in list(model.modules()):
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear):
            weight, inputs = Quantizer([8], signed=True), Quantizer([8], signed=True, batched=True)
            weight.initialise(layer.weight, RULES["minmax"])
            inputs.rule = RULES["minmax"]
            put_on(layer, weight, inputs)
            banks.append(inputs)
    with torch.no_grad():
        model.eval()(x)
    for bank in banks:
        bank.rule = None
    return model
