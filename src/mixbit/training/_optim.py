"""Parameter groups and the learning rate over time."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mixbit.quantizers import Quantizer


def split_parameters(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Learnable parameters as "steps" (of quantizers), "decay" (two dimensions and more) and "plain" (BN, biases).

    Batch norm never decays, also where it has a row a bit-width, nor do BatchQuant's residuals, which start at 0.
    """
    kinds = (_BatchNorm, Quantizer)
    never = {id(p) for m in model.modules() if isinstance(m, kinds) for p in m.parameters(recurse=False)}
    steps = {id(m.steps) for m in model.modules() if isinstance(m, Quantizer)}
    groups: dict[str, list[nn.Parameter]] = {"decay": [], "plain": [], "steps": []}
    for parameter in model.parameters():
        if parameter.requires_grad:
            kind = "steps" if id(parameter) in steps else "decay" if _decays(parameter, never) else "plain"
            groups[kind].append(parameter)
    return groups


def _decays(parameter: nn.Parameter, never: Collection[int]) -> bool:
    return parameter.dim() > 1 and id(parameter) not in never


def make_optimizer(
    model: nn.Module, *, name: str, lr: float, step_lr: float, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum or AdamW; decay only where it belongs, step sizes with a rate of their own.

    Under AdamW the rate of step sizes is a part of each step size; see `_RelativeSteps`.
    """
    parts = split_parameters(model)
    groups: list[dict[str, Any]] = [
        {"params": parts["decay"], "weight_decay": weight_decay, "lr": lr, "peak": lr},
        {"params": parts["plain"], "weight_decay": 0.0, "lr": lr, "peak": lr},
    ]
    for decay, steps in _by_decay(model, parts["steps"]).items():
        groups.append({"params": steps, "weight_decay": decay, "lr": step_lr, "peak": step_lr, "steps": True})
    groups = [g for g in groups if g["params"]]
    # Fused: one call for all parameters. Step sizes are many and tiny, so a call for each of them would be felt.
    if name == "adamw":
        adamw = torch.optim.AdamW(groups, fused=True)
        if parts["steps"]:
            _RelativeSteps(adamw)
        return adamw
    optimizer = torch.optim.SGD(groups, momentum=momentum, nesterov=momentum > 0, fused=True)
    if momentum:
        _fill_momentum(optimizer)
        optimizer.register_load_state_dict_post_hook(_fill_momentum)
    return optimizer


class _RelativeSteps:
    """Makes AdamW's updates of step sizes relative: a rate of 0.001 moves each by about 0.1 %.

    AdamW moves a number by about its rate, whatever the size of its gradient. Step sizes lie between 0.0001 and 1, so
    one absolute rate for all of them is too slow for the large and takes the small ones through zero within a few
    updates. Our completion, in first order that of training the logarithm of the step; weight decay stays as it is.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._held: list[tuple[list[torch.Tensor], list[torch.Tensor]]] = []
        optimizer.register_step_pre_hook(self._hold)
        optimizer.register_step_post_hook(self._scale)

    @torch.no_grad()
    def _hold(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        """Keep the step sizes as weight decay alone would leave them."""
        self._held = []
        for group in optimizer.param_groups:
            steps = [p.detach() for p in group["params"] if p.grad is not None] if group.get("steps") else []
            if steps:
                kept = torch._foreach_mul(steps, 1 - group["lr"] * group["weight_decay"])
                self._held.append((steps, list(kept)))

    @torch.no_grad()
    def _scale(self, *_: object) -> None:
        for steps, kept in self._held:
            moved = torch._foreach_sub(steps, kept)
            torch._foreach_mul_(moved, torch._foreach_abs(kept))
            torch._foreach_copy_(steps, torch._foreach_add(kept, moved))


def _fill_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Give every parameter its momentum, of zeros, which is what an absent one counts as.

    Fused SGD knows no parameters whose first gradient comes after the others': behind a batch norm, a branch or a head
    that starts at zero, or in a layer that some steps leave out.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if optimizer.state[parameter].get("momentum_buffer") is None:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def _by_decay(model: nn.Module, steps: list[nn.Parameter]) -> dict[float, list[nn.Parameter]]:
    """Step sizes by the weight decay that their quantizers ask for: none, but for PACT's clips."""
    decays = {id(m.steps): m.decay for m in model.modules() if isinstance(m, Quantizer)}
    found: dict[float, list[nn.Parameter]] = {}
    for parameter in steps:
        found.setdefault(decays[id(parameter)], []).append(parameter)
    return dict(sorted(found.items()))


def rate_at(progress: float, *, peak: float, floor: float, warmup: float, held: float = 0.0) -> float:
    """Cosine from `peak` to `floor` after a linear warm-up; `progress`, `warmup` and `held` are parts of the whole run.

    The cosine's clock includes the warm-up. `floor` above `peak` means no decay. A rate that is `held` for a while
    (an epoch) is, during the warm-up, the mean of the ramp over that while: at its beginning it would be 0.

    >>> [round(rate_at(p, peak=1.0, floor=0.0, warmup=0.1), 4) for p in (0.0, 0.05, 0.5, 1.0)]
    [0.0, 0.5, 0.5, 0.0]
    >>> [round(rate_at(p, peak=1.0, floor=0.0, warmup=0.4, held=0.2), 4) for p in (0.0, 0.2)]
    [0.25, 0.75]
    """
    floor = min(floor, peak)
    if progress < warmup:
        begin, end = progress / warmup, (progress + held) / warmup
        part = (begin + end) / 2 if end <= 1 else _mean_of_a_broken_ramp(begin, end)
        return floor + (peak - floor) * part
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def _mean_of_a_broken_ramp(begin: float, end: float) -> float:
    """Mean of `min(t, 1)` between `begin` (below 1) and `end` (above 1)."""
    return ((1 - begin * begin) / 2 + (end - 1)) / (end - begin)


def set_rates(
    optimizer: torch.optim.Optimizer, progress: float, *, floor: float, warmup: float, held: float = 0.0
) -> None:
    """Give every group its rate at this point of the run; the floor is a part of each group's own peak."""
    for group in optimizer.param_groups:
        peak = group["peak"]
        group["lr"] = rate_at(progress, peak=peak, floor=floor * peak, warmup=warmup, held=held)
