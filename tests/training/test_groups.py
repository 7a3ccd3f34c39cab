"""Parameter groups of a step: every setting by a formula, and what is no group."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from mixbit.errors import MixbitError
from mixbit.testing.options import OptionCases, OptionRow, fields_of
from mixbit.training import ParameterGroup, StatefulStep, StepContext, TrainConfig, supervised_step, train

GRADIENT = (0.6, 0.8)  # of length 1; that of the second step is twice as long
START = (1.0, -1.0)


class Pull(StatefulStep):
    """Two numbers with gradients that are given."""

    def __init__(self, **settings: Any) -> None:
        self.point = nn.Parameter(torch.tensor(START))
        self.group = ParameterGroup(**{"name": "pull", "parameters": {"point": self.point}, **settings})

    def parameter_groups(self) -> Sequence[ParameterGroup]:
        return [self.group]

    def __call__(self, context: StepContext, x: Tensor, y: Tensor) -> Tensor:
        self.point.grad = (1 + context.number) * torch.tensor(GRADIENT)
        return supervised_step(context, x, y)


def moved(folder: Path | None = None, config: dict[str, Any] | None = None, **settings: Any) -> list[float]:
    """Where two steps take them."""
    torch.manual_seed(0)
    step, data = Pull(**settings), [(torch.randn(8, 3), torch.arange(8) % 2)]
    how = TrainConfig(epochs=1, batch_size=4, clip_value=1e-3, **config or {})  # the model's own clip is none of theirs
    train(nn.Linear(3, 2), data, None, how, run=folder, step=step, quiet=True)
    return step.point.tolist()


def sgd(*, lr: Sequence[float] = (0.1, 0.1), momentum: float = 0.0, decay: float = 0.0, sign: int = 1) -> list[float]:
    """Nesterov: the velocity is `m v + g`, the step `g + m v`; decay is a part of the gradient."""
    return [_sgd(p, g, lr, momentum, decay, sign) for p, g in zip(START, GRADIENT, strict=True)]


def plain_momentum(momentum: float) -> list[float]:
    """The step is the velocity, `g` and then `m g + 2 g`."""
    return [p - 0.1 * (g + (momentum * g + 2 * g)) for p, g in zip(START, GRADIENT, strict=True)]


def _sgd(p: float, g: float, lr: Sequence[float], momentum: float, decay: float, sign: int) -> float:
    velocity = 0.0
    for number in (0, 1):
        slope = sign * (1 + number) * g + decay * p
        velocity = momentum * velocity + slope
        p -= lr[number] * (slope + momentum * velocity)
    return p


def adam(*, betas: tuple[float, float] = (0.9, 0.999), decay: float = 0.0, apart: bool = True) -> list[float]:
    """Kingma and Ba, with a rate of 0.1; decay `apart` from the gradient (Loshchilov and Hutter) or a part of it."""
    return [_adam(p, g, betas, decay, apart) for p, g in zip(START, GRADIENT, strict=True)]


def _adam(p: float, g: float, betas: tuple[float, float], decay: float, apart: bool) -> float:
    m, v = 0.0, 0.0
    for number in (1, 2):
        slope = number * g + (0.0 if apart else decay * p)
        p *= 1 - 0.1 * decay if apart else 1.0
        m, v = betas[0] * m + (1 - betas[0]) * slope, betas[1] * v + (1 - betas[1]) * slope**2
        p -= 0.1 * (m / (1 - betas[0] ** number)) / (math.sqrt(v / (1 - betas[1] ** number)) + 1e-8)
    return p


def close(first: list[float], second: list[float]) -> Callable[[list[float], list[float]], bool]:
    assert first != pytest.approx(second, rel=1e-3)
    return lambda one, other: one == pytest.approx(first, rel=1e-5) and other == pytest.approx(second, rel=1e-5)


def plain(**settings: Any) -> list[float]:
    return moved(**{"optimizer": "sgd", "momentum": 0.0, "lr": 0.1, **settings})


def averaged(average: bool) -> list[float]:
    """With an average of one half: of the two steps, and of its start a part."""
    return plain(average=average, config={"ema": 0.5})


def mixed() -> list[float]:
    """Update 0 keeps a tenth of the average, update 1 two elevenths."""
    found = []
    for p, g in zip(START, GRADIENT, strict=True):
        first, second = p - 0.1 * g, p - 0.1 * 3 * g
        found.append((0.1 * p + 0.9 * first) * 2 / 11 + second * 9 / 11)
    return found


def names_of(**settings: Any) -> set[str]:
    """Parameters of a step in a checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        moved(Path(folder), **settings)
        with safe_open(Path(folder) / "checkpoint.safetensors", framework="pt") as file:
            return {name for name in file.keys() if name.startswith("step/parameter")}  # noqa: SIM118


def shrunk(g: float) -> float:
    """Cut to a length of one half: steps of 0.3 and 0.4, twice."""
    return 2 * 0.1 * g / 2


class TestParameterGroupOptions(OptionCases):
    """Every setting against the formula of its optimizer."""

    owner = ParameterGroup
    options = fields_of(ParameterGroup)
    rows = (
        OptionRow(
            "name", ("pull", "other"), seen=lambda value: names_of(name=value),
            holds=lambda *seen: seen == ({"step/parameter/pull/point"}, {"step/parameter/other/point"}),
        ),
        OptionRow(
            "parameters", ({"point": nn.Parameter(torch.zeros(2))}, nn.Sequential(nn.Linear(1, 1))),
            seen=lambda value: list(ParameterGroup(name="a", parameters=value).named()),
            holds=lambda *seen: seen == (["point"], ["0.weight", "0.bias"]),
        ),
        OptionRow(
            "optimizer", ("sgd", "adam"), seen=lambda value: moved(optimizer=value, lr=0.1),
            holds=close(sgd(momentum=0.9), adam()),
        ),
        OptionRow(
            "optimizer", ("adam", "adamw"), seen=lambda value: moved(optimizer=value, lr=0.1, weight_decay=0.5),
            holds=close(adam(decay=0.5, apart=False), adam(decay=0.5)),
        ),
        OptionRow("lr", (0.1, 0.2), seen=lambda value: plain(lr=value), holds=close(sgd(), sgd(lr=(0.2, 0.2)))),
        OptionRow(
            "momentum", (0.0, 0.5), seen=lambda value: plain(momentum=value), holds=close(sgd(), sgd(momentum=0.5))
        ),
        OptionRow(
            "nesterov", (True, False), seen=lambda value: plain(momentum=0.5, nesterov=value),
            holds=close(sgd(momentum=0.5), plain_momentum(0.5)),
        ),
        OptionRow(
            "betas", ((0.9, 0.999), (0.2, 0.5)), seen=lambda value: moved(lr=0.1, betas=value),
            holds=close(adam(), adam(betas=(0.2, 0.5))),
        ),
        OptionRow(
            "weight_decay", (0.0, 0.5), seen=lambda value: plain(weight_decay=value), holds=close(sgd(), sgd(decay=0.5))
        ),
        OptionRow(
            "schedule", ("constant", "run"), seen=lambda value: plain(schedule=value, config={"final_lr": 0.2}),
            holds=close(sgd(), sgd(lr=(0.1, 0.1 * 0.6))), says="half way down the cosine at the second step",
        ),
        OptionRow(
            "maximize", (False, True), seen=lambda value: plain(maximize=value), holds=close(sgd(), sgd(sign=-1))
        ),
        OptionRow(
            "clip_value", (None, 0.7), seen=lambda value: plain(clip_value=value),
            holds=close(sgd(), [1.0 - 0.1 * (0.6 + 0.7), -1.0 - 0.1 * (0.7 + 0.7)]),
        ),
        OptionRow(
            "clip_norm", (None, 0.5), seen=lambda value: plain(clip_norm=value),
            holds=close(sgd(), [1.0 - shrunk(0.6), -1.0 - shrunk(0.8)]),
        ),
        OptionRow("average", (False, True), seen=averaged, holds=close(sgd(), mixed())),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"parameters": {}}, "'a' has no parameters. Leave it out"),
        ({"parameters": nn.ReLU()}, "'a' has no parameters"),
        (
            {"parameters": {"w": torch.zeros(2)}},
            "'a': parameters: 'w' is .*Legal: nn.Parameter with requires_grad=True",
        ),
        ({"parameters": {"w": nn.Parameter(torch.zeros(2), requires_grad=False)}}, "'w' needs no gradient"),
        ({"name": ""}, "name='' is illegal"),
        ({"name": "a/b"}, "name='a/b' is illegal. Legal: text without '/'"),
        ({"optimizer": "rmsprop"}, "parameter group: optimizer='rmsprop' is illegal. Legal: 'sgd', 'adam' or 'adamw'"),
        ({"lr": 0}, "lr=0 is illegal. Legal: a number above 0"),
        ({"betas": (0.9, 1.0)}, "betas=.* is illegal. Legal: a list of 2"),
        ({"schedule": "cosine"}, "Legal: 'constant' or 'run'"),
    ],
)
def test_what_is_no_group(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(MixbitError, match=told):
        ParameterGroup(**{"name": "a", "parameters": nn.Linear(1, 1), **settings})


def test_groups_move_to_a_device_as_the_objects_that_they_are() -> None:
    """A module with its buffers, and parameters by name; a type moves as a device does, on every machine."""
    norm, free = nn.BatchNorm1d(2), nn.Parameter(torch.ones(3))
    parts = [ParameterGroup(name="a", parameters=norm), ParameterGroup(name="b", parameters={"free": free})]
    parts[1].move_to(torch.float64)  # type: ignore[arg-type]
    assert parts[1].named()["free"] is free and free.dtype == torch.float64
    parts[0].move_to(torch.device("meta"))
    assert {one.device.type for one in (norm.weight, norm.running_mean, norm.num_batches_tracked)} == {"meta"}  # type: ignore[union-attr]
    assert set(parts[0].buffers()) == {"running_mean", "running_var", "num_batches_tracked"} and not parts[1].buffers()
