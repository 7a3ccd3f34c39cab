"""What a training shows of each of its settings: the weights that it ends at, and what it did on the way."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from mixbit.quantization import quantizers
from mixbit.testing.options import OptionRow
from mixbit.training import StepContext, TrainConfig, _checkpoint, supervised_step, train
from tests.by_hand import by_hand
from tests.nets import colours, numbered, quantized_net, small_net, tiny_split

PLAIN: dict[str, Any] = {"epochs": 2, "batch_size": 8, "lr": 0.05, "bn_samples": 0, "final_lr": 0.1}


def spoiled(model: nn.Module, number: int) -> None:
    """No gradient at all for the first layer in every other step, and a part of one for the last."""
    if number % 2:
        model[0].weight.grad.zero_()  # type: ignore[index, union-attr, operator]
        model[4].weight.grad[1:] = 0  # type: ignore[index, union-attr, operator]


def in_the_loop(config: TrainConfig) -> dict[str, Tensor]:
    """What `by_hand` gives, by `train`: the same model, teacher and gradients."""
    model, teacher = small_net(), small_net(1)

    def step(context: StepContext, x: Tensor, y: Tensor) -> Tensor:
        loss = supervised_step(context, x, y)
        if config.drop_zero_gradients or config.momentum == 0.8:
            spoiled(model, context.number)
        return loss

    train(model, colours(), colours(), config, teacher=teacher, step=step, quiet=True)
    return {name: tensor for name, tensor in model.state_dict().items() if "tracked" not in name}


def close(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.allclose(first[name], second[name], rtol=1e-4, atol=2e-5) for name in first)


def as_by_hand(option: str, first: Any, second: Any, **others: Any) -> OptionRow:
    """The loop ends where the hand-written training ends, with both values, which lie apart."""

    def seen(value: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        config = TrainConfig(**{**PLAIN, **others, option: value})
        spoil = spoiled if config.drop_zero_gradients or config.momentum == 0.8 else None
        return in_the_loop(config), by_hand(small_net(), colours(), config, teacher=small_net(1), spoil=spoil)

    def holds(one: Any, other: Any) -> bool:
        return close(*one) and close(*other) and not close(one[1], other[1])

    return OptionRow(option, (first, second), seen=seen, holds=holds, says=", ".join(others) or "as by hand")


@dataclass
class Notes:
    """What a training did: the numbers of the images of every step, the layouts of what its model read, and so on."""

    batches: list[list[int]] = field(default_factory=list)
    layouts: set[bool] = field(default_factory=set)
    types: set[torch.dtype] = field(default_factory=set)
    saved: list[int] = field(default_factory=list)
    drawn: list[float] = field(default_factory=list)
    compiled: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


def notes_of(folder: Path | None = None, *, seconds: float = 0.0, **changed: Any) -> Notes:
    """Train on numbered images; a step takes `seconds` by a clock that nothing else moves."""
    found, model, now = Notes(), small_net(), [0.0]

    def look(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found.types.add(output.dtype)
        if found.batches:  # the trial before the first step is not laid out
            found.layouts.add(inputs[0].is_contiguous(memory_format=torch.channels_last))

    def step(context: StepContext, x: Tensor, y: Tensor) -> Tensor:
        found.batches.append(x[:, 0, 0, 0].round().int().tolist())
        found.drawn += [float(torch.rand(())), float(context.seed)]
        now[0] += seconds
        return supervised_step(context, x, y)

    def compiled(inner: nn.Module) -> Any:
        def run(x: Tensor) -> Any:
            found.compiled += 1
            return inner(x)

        return run

    model[0].register_forward_hook(look)
    write = _checkpoint.write
    with (
        mock.patch("mixbit.training.loop.time.perf_counter", side_effect=lambda: now[0]),
        mock.patch.object(torch, "compile", compiled),
        mock.patch("mixbit.training._checkpoint.write", lambda *a: (found.saved.append(a[2]["batch"]), write(*a))),
    ):
        config = TrainConfig(**{**PLAIN, **changed})
        found.history = train(model, numbered(), numbered(), config, run=folder, step=step, quiet=True).history
    return found


def saved_at(seconds: float) -> list[int]:
    """After which steps of one epoch of six a checkpoint was written, where a step takes ten seconds; 0 at its end."""
    with tempfile.TemporaryDirectory() as folder:
        return notes_of(Path(folder), seconds=10.0, epochs=1, batch_size=5, checkpoint_seconds=seconds).saved


def validated(every: int) -> list[int]:
    """The epochs that were evaluated."""
    return [one["epoch"] for one in notes_of(epochs=5, validate_every=every).history if "test" in one]


def chosen(fraction: float) -> list[list[int]]:
    """The images of each epoch, by number."""
    found = notes_of(fraction=fraction, batch_size=5, seed=2).batches
    half = len(found) // 2
    return [sorted(number for batch in part for number in batch) for part in (found[:half], found[half:])]


def rates_of_steps(step_lr: float | None) -> set[tuple[float, float]]:
    """(rate of step sizes, rate of the others) in a training at one constant rate."""
    found: list[float] = []

    def look(optimizer: torch.optim.Optimizer, *_: object) -> None:
        steps = {id(bank.steps) for bank in quantizers(model).values()}
        found.extend(
            group["lr"] * (-1 if id(parameter) in steps else 1)
            for group in optimizer.param_groups
            for parameter in group["params"]
        )

    model, hook = quantized_net(), register_optimizer_step_pre_hook(look)
    config = TrainConfig(epochs=1, batch_size=48, lr=0.02, step_lr=step_lr, final_lr=1.0, bn_samples=0)
    train(model, tiny_split(), None, config, quiet=True)
    hook.remove()
    return {(-min(found), max(found)), (-max(r for r in found if r < 0), min(r for r in found if r > 0))}


def statistics(samples: int) -> tuple[Tensor, Tensor]:
    """(statistics of the norm after a training, by the closed form over the first batches), mean and variance."""
    model = small_net()
    config = TrainConfig(**{**PLAIN, "bn_samples": samples, "seed": 3, "augment": False})
    train(model, colours(), colours(), config, quiet=True)
    batches = colours().batches(8, seed=3, shuffle=True, drop_last=True)
    outputs = [model[0](x).detach() for (x, _), _ in zip(batches, range(-(-samples // 8)), strict=False)]
    wanted = [torch.stack([of(one) for one in outputs]).mean(0) for of in (_mean, _variance)]
    return torch.cat([model[1].running_mean, model[1].running_var]), torch.cat(wanted)  # type: ignore[list-item]


def _mean(x: Tensor) -> Tensor:
    return x.mean((0, 2, 3))


def _variance(x: Tensor) -> Tensor:
    return x.transpose(0, 1).flatten(1).var(1)


def both_close(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> bool:
    pairs = (one, other)
    return all(torch.allclose(*pair, rtol=1e-4, atol=1e-5) for pair in pairs) and not torch.allclose(one[1], other[1])


def expects(first: Any, second: Any) -> Callable[[Any, Any], bool]:
    return lambda one, other: (one, other) == (first, second)


def first_draw(seed: int) -> float:
    return float(torch.rand((), generator=torch.Generator().manual_seed(seed)))
