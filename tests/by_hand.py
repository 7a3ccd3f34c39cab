"""A training written out in plain PyTorch, from what docs/training.md promises: what the one loop is compared with."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixbit.data import Split
from mixbit.training import TrainConfig

Spoil = Callable[[nn.Module, int], None]
"""`(model, number of the step)`: changes gradients after the backward pass."""


def by_hand(
    model: nn.Module,
    split: Split,
    config: TrainConfig,
    *,
    teacher: nn.Module | None = None,
    spoil: Spoil | None = None,
    parts: int = 1,
) -> dict[str, Tensor]:
    """The state of a copy of `model` after its training, without re-estimation of batch norm.

    With several `parts` every batch is cut into as many, which batch norm sees one by one, as on so many processes; its
    running statistics are averaged after every epoch.
    """
    nets, wise = [copy.deepcopy(model).train() for _ in range(parts)], copy.deepcopy(teacher)
    net, wise = nets[0], wise.eval() if wise is not None else None
    named = list(net.named_parameters())
    update = _adamw(named, config) if config.optimizer == "adamw" else _nesterov(named, config)
    shadow = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    number = 0
    for epoch in range(config.epochs):
        batches = list(
            split.batches(
                config.batch_size, epoch=epoch, seed=config.seed, shuffle=True, augment=config.augment, drop_last=True,
                fraction=config.fraction,
            )
        )  # fmt: skip
        for place, (x, y) in enumerate(batches):
            net.zero_grad()
            for one, x_part, y_part in zip(nets, x.tensor_split(parts), y.tensor_split(parts), strict=True):
                _add_gradients(net, one, x_part, y_part, wise, config, len(x_part) / len(x))
            if spoil is not None:
                spoil(net, number)
            for _, parameter in named:
                if parameter.grad is not None and config.clip_value is not None:
                    parameter.grad.clamp_(-config.clip_value, config.clip_value)
            update(rate(config, epoch, place, len(batches)))
            keep = min(config.ema or 0.0, (1 + number) / (10 + number))
            for name, tensor in _mean_state(nets).items():
                shadow[name] = keep * shadow[name] + (1 - keep) * tensor if tensor.is_floating_point() else tensor
            number += 1
        averaged = _mean_state(nets)
        for one in nets:
            one.load_state_dict(averaged)
    return shadow


def _add_gradients(
    net: nn.Module, one: nn.Module, x: Tensor, y: Tensor, teacher: nn.Module | None, config: TrainConfig, share: float
) -> None:
    """Those of a part of the batch, which `one`, a copy with statistics of its own, sees; added to those of `net`."""
    if one is not net:
        one.load_state_dict(dict(net.named_parameters()), strict=False)
        one.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, config.precision == "bf16"):
        outputs = one(x)
        wanted = None if teacher is None else teacher(x)
    (share * loss_of(outputs.float(), y, wanted, config)).backward()  # type: ignore[no-untyped-call]
    if one is not net:
        for mine, its in zip(net.parameters(), one.parameters(), strict=True):
            mine.grad += its.grad


def _mean_state(nets: list[nn.Module]) -> dict[str, Tensor]:
    """Weights of the first, and the mean of the running statistics of all."""
    states = [one.state_dict() for one in nets]
    return {
        name: torch.stack([state[name] for state in states]).mean(0) if "running" in name else tensor
        for name, tensor in states[0].items()
    }


def loss_of(outputs: Tensor, y: Tensor, teacher: Tensor | None, config: TrainConfig) -> Tensor:
    """`(1 - w) CE + w T^2 sum_k p_k (log p_k - log q_k)`, the mean over samples; p is the teacher's."""
    hard = F.cross_entropy(outputs, y, label_smoothing=config.label_smoothing)
    if teacher is None or not config.distill:
        return hard
    p, q = ((one.float() / config.temperature).softmax(1) for one in (teacher, outputs))
    apart = (p * (p.log() - q.log())).sum(1).mean()
    return (1 - config.distill) * hard + config.distill * config.temperature**2 * apart


def rate(config: TrainConfig, epoch: int, place: int, per_epoch: int) -> float:
    """Part of the peak: the cosine from the first step on, cut off by the ramp; an epoch's ramp is its mean."""
    begin, held = (epoch + place / per_epoch, 0.0) if config.schedule == "step" else (float(epoch), 1.0)
    part = 0.5 * (1 + math.cos(math.pi * begin / config.epochs))
    if begin < config.warmup_epochs:
        points = [min((begin + held * (at + 0.5) / 1000) / config.warmup_epochs, 1.0) for at in range(1000)]
        part = sum(points) / len(points)
    return config.final_lr + (1 - config.final_lr) * part


def _decay(parameter: Tensor, config: TrainConfig) -> float:
    return config.weight_decay if parameter.dim() > 1 else 0.0


def _nesterov(named: list[tuple[str, nn.Parameter]], config: TrainConfig) -> Callable[[float], None]:
    velocity = {name: torch.zeros_like(parameter) for name, parameter in named}

    @torch.no_grad()
    def update(part: float) -> None:
        for name, parameter in named:
            if parameter.grad is None or (config.drop_zero_gradients and not parameter.grad.any()):
                continue
            gradient = parameter.grad + _decay(parameter, config) * parameter
            velocity[name] = config.momentum * velocity[name] + gradient
            parameter -= config.lr * part * (gradient + config.momentum * velocity[name])

    return update


def _adamw(named: list[tuple[str, nn.Parameter]], config: TrainConfig) -> Callable[[float], None]:
    groups: list[dict[str, Any]] = [{"params": [p], "weight_decay": _decay(p, config)} for _, p in named]
    optimizer = torch.optim.AdamW(groups, lr=config.lr)

    def update(part: float) -> None:
        for group in optimizer.param_groups:
            group["lr"] = config.lr * part
        optimizer.step()

    return update
