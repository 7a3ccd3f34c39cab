"""What the options of search methods change, seen from outside: rows that the tables of several methods share.

Everything is seen on one small network of four layers, of which the middle two are searched: `conv` reads what a ReLU
made, `hidden` a mean of such. The images would change under augmentation, which no measurement may use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixbit.cost import LayerBits
from mixbit.data import TensorSplit
from mixbit.methods import Method
from mixbit.policy import Scores, Side
from mixbit.sensitivity.perturbation import Perturbation
from mixbit.sensitivity.suffix import Suffix
from mixbit.task import Task
from mixbit.testing.options import OptionRow

Make = Callable[..., Method]
"""A method's class, or what makes one with few images and these settings."""

SEARCHED = ["conv", "hidden"]
ALL = ["stem", "conv", "hidden", "head"]
IMAGES = 12


class Small(nn.Module):
    """Two convolutions and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 3, 3, padding=1)
        self.hidden, self.head = nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(torch.relu(self.stem(x)))).mean((2, 3))
        return self.head(torch.relu(self.hidden(x)))  # type: ignore[no-any-return]


@cache
def small_task() -> Task:
    """`Small` on a dozen random images of three classes, all drawn apart in brightness."""
    torch.manual_seed(0)
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 255, (IMAGES, 1, 6, 6), generator=random).float()
    pixels = (pixels * (1 + torch.arange(IMAGES)[:, None, None, None]) / IMAGES).to(torch.uint8)
    split = TensorSplit(pixels, torch.arange(IMAGES) % 3, num_classes=3, mean=(0.5,), std=(0.25,), flip=True)
    return Task(model=Small(), train=split, test=split)


def with_loss(loss: Callable[..., Tensor]) -> Task:
    """The same task under another loss."""
    task = small_task()
    return Task(model=task.model, train=task.train, test=task.test, loss=loss, network=task.network)


def search(method: Method, task: Task | None = None) -> Scores:
    """Its scores of the small task."""
    return method.search(task or small_task(), quiet=True)


def scores(method: Method, task: Task | None = None) -> Scores:
    """The same, searched once for all who only look at them."""
    task = task or small_task()
    key = method, id(task)
    if key not in _KEPT:
        _KEPT[key] = task, search(method, task)  # the task is kept too, so that its number stays its own
    return _KEPT[key][1]


_KEPT: dict[tuple[Method, int], tuple[Task, Scores]] = {}


@cache
def images(seed: int) -> Tensor:
    """All training images in the order of a shuffled pass, as the network gets them."""
    return next(small_task().train.batches(IMAGES, seed=seed, shuffle=True))[0]


@torch.no_grad()
def inputs_of(layer: str, x: Tensor) -> Tensor:
    """What a layer of the float network reads."""
    model, seen = small_task().model.eval(), []
    handle = model.get_submodule(layer).register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
    try:
        model(x)
    finally:
        handle.remove()
    return seen[0]


# ------------------------------------------------------------------------------------------------ what can be seen


class _Enough(Exception):
    """Ends a search as soon as what was looked for is there."""


def quantizers_of(method: Method) -> tuple[Perturbation, Tensor]:
    """The network with quantizers that its search would measure, and the images that set its steps."""
    found: list[tuple[Perturbation, Tensor]] = []
    make = Perturbation.__init__

    def made(self: Perturbation, task: Task, weight: Any, inputs: Any, x: Tensor, **settings: Any) -> None:
        make(self, task, weight, inputs, x, **settings)
        found.append((self, x))
        raise _Enough

    with mock.patch.object(Perturbation, "__init__", made), suppress(_Enough):
        search(method)
    return found[0]


def steps_of(method: Method, side: Side, layer: str = "conv") -> dict[int, Tensor]:
    """Bits -> steps of a layer's weight or input."""
    probe, _ = quantizers_of(method)
    bank = probe.weight_bank(layer) if side == "weight" else probe.input_bank(layer)
    return dict(zip(bank.bits, bank.steps.detach(), strict=True))


def loss_calls(method: Method) -> list[int]:
    """How many images each call of the task's loss was of."""
    calls: list[int] = []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        calls.append(len(targets))
        return F.cross_entropy(outputs, targets)

    task = with_loss(loss)
    calls.clear()  # a task may try its loss
    search(method, task)
    return calls


def model_calls(method: Method) -> list[int]:
    """How many images each call of the model, or of a copy of it, was of."""
    task, calls = small_task(), []
    handle = task.model.register_forward_pre_hook(lambda _module, given: calls.append(len(given[0])))
    try:
        search(method)
    finally:
        handle.remove()
    return calls


def minmax_weight_step(layer: str, bits: int, *, per_channel: bool = True) -> Tensor:
    """The smallest step at which no weight is cut off, of a grid from `-2^(b-1)` to `2^(b-1) - 1`."""
    rows = small_task().model.get_parameter(f"{layer}.weight").detach()
    rows = rows.flatten(1) if per_channel else rows.reshape(1, -1)
    return torch.maximum(rows.amax(1) / (2 ** (bits - 1) - 1), -rows.amin(1) / 2 ** (bits - 1))


def minmax_input_step(layer: str, bits: int, x: Tensor) -> Tensor:
    """The same of an input that is never below zero."""
    return inputs_of(layer, x).max() / (2**bits - 1)


def weight_error(layer: str, bits: int, steps: Tensor) -> float:
    """Sum of squared errors of a layer's rounded weights."""
    rows = small_task().model.get_parameter(f"{layer}.weight").detach().flatten(1)
    return _error(rows, steps[:, None], -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def input_error(layer: str, bits: int, steps: Tensor, x: Tensor) -> float:
    """The same of what it reads."""
    return _error(inputs_of(layer, x), steps, 0, 2**bits - 1)


def _error(values: Tensor, steps: Tensor, low: int, high: int) -> float:
    return float((torch.round(values / steps).clamp(low, high) * steps - values).square().sum())


def float_loss(chosen: Mapping[str, LayerBits], x: Tensor, y: Tensor, *, step_images: int) -> float:
    """Cross entropy of the network run whole, with these sides at bits by "mse"; steps of inputs from the first images.

    No part of the network is kept, and no sum is made of parts.
    """
    probe = Perturbation(small_task(), (8, 4, 2), (8, 4, 2), x[:step_images])
    with torch.no_grad(), probe.chosen(chosen) as model:
        return float(F.cross_entropy(model(x), y))


def labelled(seed: int = 0) -> tuple[Tensor, Tensor]:
    """`images`, and their labels."""
    x, y = next(small_task().train.batches(IMAGES, seed=seed, shuffle=True))
    return x, y


def distinct_images(method: Method) -> int:
    """How many images of different content reached the model or a copy of it."""
    task, seen = small_task(), set()
    handle = task.model.register_forward_pre_hook(
        lambda _module, given: seen.update(one.numpy().tobytes() for one in given[0].detach())
    )
    try:
        search(method)
    finally:
        handle.remove()
    return len(seen)


# -------------------------------------------------------------------------------------------------------- the rows


def bits_row(make: Make, *, option: str = "bits", sides: tuple[Side, ...] = ("weight", "activation")) -> OptionRow:
    """The columns of the table."""

    def columns(bits: tuple[int, ...]) -> list[set[int]]:
        found = scores(make(**{option: bits}))
        return [set(getattr(one, side)) for one in found.layers.values() for side in sides]

    count = 2 * len(sides)
    return OptionRow(
        option, ((4, 2), (6, 3)), columns, lambda a, b: (a, b) == ([{4, 2}] * count, [{6, 3}] * count), "columns"
    )


def first_last_row(make: Make) -> OptionRow:
    """Which layers have scores."""
    return OptionRow(
        "first_last",
        (False, True),
        lambda value: list(scores(make(first_last=value)).layers),
        lambda a, b: (a, b) == (SEARCHED, ALL),
        "layers scored",
    )


def seed_row(make: Make, *, images_used: int) -> OptionRow:
    """Which images are read: the first of the pass that the seed shuffles, not augmented."""

    def holds(first: Tensor, second: Tensor) -> bool:
        wanted = [images(seed)[:images_used] for seed in (0, 5)]
        return torch.equal(first, wanted[0]) and torch.equal(second, wanted[1])

    return OptionRow(
        "seed", (0, 5), lambda value: quantizers_of(make(seed=value))[1], holds, "images of a shuffled pass"
    )


def unused_seed_row(make: Make) -> OptionRow:
    """A method that draws nothing writes its seed down, and that is all."""
    return OptionRow(
        "seed",
        (0, 5),
        lambda value: search(make(seed=value)),
        lambda a, b: a.layers == b.layers and (a.seed, b.seed) == (0, 5),
        "no effect on the scores",
    )


def per_channel_row(make: Make) -> OptionRow:
    """How many steps a weight has, and that they are of their channel."""

    def steps(value: bool) -> Tensor:
        return steps_of(make(per_channel=value, **_minmax(make)), "weight")[4]

    def holds(first: Tensor, second: Tensor) -> bool:
        apart, one = (minmax_weight_step("conv", 4, per_channel=value) for value in (True, False))
        return torch.allclose(first, apart) and torch.allclose(second, one) and len(first) == 3

    return OptionRow("per_channel", (True, False), steps, holds, "steps of a weight")


def rule_row(make: Make, option: str, side: Side, *, of: int, per_channel: bool = True) -> OptionRow:
    """The steps that the rule gives: the closed form of "minmax", and the smaller error of "mse".

    Args:
        make: the method.
        option: name of the option.
        side: which side it is for; the other's steps may not change unless the option is for both.
        of: how many images set the steps of inputs.
        per_channel: whether the method gives each output channel of a weight its step.
    """
    other: Side = "activation" if side == "weight" else "weight"
    alone = option != "rule"

    def steps(rule: str) -> tuple[Tensor, Tensor | None]:
        method = make(**{option: rule})
        return steps_of(method, side)[4], steps_of(method, other)[4] if alone and _has_inputs(method) else None

    def holds(first: tuple[Tensor, Any], second: tuple[Tensor, Any]) -> bool:
        x = images(0)[:of]
        weight = side == "weight"
        wanted = minmax_weight_step("conv", 4, per_channel=per_channel) if weight else minmax_input_step("conv", 4, x)
        errors = [
            weight_error("conv", 4, one) if weight else input_error("conv", 4, one, x) for one in (first[0], second[0])
        ]
        untouched = first[1] is None or torch.equal(first[1], second[1])
        return torch.allclose(first[0], wanted.expand_as(first[0])) and errors[1] < errors[0] and untouched

    return OptionRow(option, ("minmax", "mse"), steps, holds, f"steps of the {side}")


def step_images_row(make: Make, option: str) -> OptionRow:
    """The first so many images, and no others, set the steps of inputs."""

    def step(count: int) -> Tensor:
        return steps_of(make(**{option: count}, **_minmax(make)), "activation")[4]

    def holds(first: Tensor, second: Tensor) -> bool:
        wanted = [minmax_input_step("conv", 4, images(0)[:count]) for count in (1, 6)]
        return wanted[0] != wanted[1] and torch.allclose(first, wanted[0]) and torch.allclose(second, wanted[1])

    return OptionRow(option, (1, 6), step, holds, "images that set the steps")


def _minmax(make: Make) -> dict[str, str]:
    """Settings that give all steps by "minmax", in the words of the method."""
    fields = make().__dataclass_fields__
    return {name: "minmax" for name in ("rule", "weight_rule", "activation_rule") if name in fields}


def _has_inputs(method: Method) -> bool:
    probe, _ = quantizers_of(method)
    return all(carrier.input_quantizer is not None for carrier in probe._carriers.values())


def images_row(make: Make, *, calls: int) -> OptionRow:
    """How many images the loss is measured on, in `calls` passes."""
    return OptionRow(
        "images",
        (4, 9),
        lambda value: sum(loss_calls(make(images=value))),
        lambda a, b: (a, b) == (4 * calls, 9 * calls),
        "images that the loss sees",
    )


def batch_size_row(make: Make, *, seen: Callable[[Method], list[int]] = loss_calls) -> OptionRow:
    """How many images go through the network together, at the same scores."""

    def run(size: int) -> tuple[set[int], Scores]:
        method = make(batch_size=size)
        return set(seen(method)), scores(method)

    def holds(first: tuple[set[int], Scores], second: tuple[set[int], Scores]) -> bool:
        sizes = max(first[0]) == 8 and max(second[0]) == 3
        return sizes and close(first[1], second[1])

    return OptionRow("batch_size", (8, 3), run, holds, "images that go together, and the same scores")


def cache_row(make: Make) -> OptionRow:
    """Two sets of states of 100,000 bytes an image: so many images go together as fit, at the same scores."""

    def run(mib: int) -> tuple[list[int], Scores]:
        method = make(cache_mib=mib, batch_size=128, images=IMAGES)
        with mock.patch.object(Suffix, "bytes_per_image", return_value=100_000):
            return loss_calls(method), search(method)

    def holds(first: tuple[list[int], Scores], second: tuple[list[int], Scores]) -> bool:
        sizes = set(first[0]) == {10, 2} and set(second[0]) == {5, 2}
        return sizes and len(second[0]) * 2 == len(first[0]) * 3 and close(first[1], second[1])

    return OptionRow("cache_mib", (2, 1), run, holds, "images that go together, and the same scores")


def close(first: Scores, second: Scores) -> bool:
    """Whether two tables are the same but for the order of sums: of ratios, or of losses whose difference is a harm."""
    one, other = (
        torch.tensor([h for layer in table.layers.values() for side in BOTH for h in getattr(layer, side).values()])
        for table in (first, second)
    )
    terms = float(first.settings.get("base_loss", 0.0)) + float(one.abs().max())  # type: ignore[arg-type]
    return bool((one - other).abs().max() <= 2e-6 * terms)


BOTH: tuple[Side, ...] = ("weight", "activation")
