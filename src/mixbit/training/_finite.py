"""Where numbers that are no numbers come from, for the message of a training that diverged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mixbit import _batch


def first_not_finite(model: nn.Module, x: Any) -> str:
    """Where NaN or infinity first appears: in the input, a parameter, or a layer's output."""
    if not all(bool(torch.isfinite(one).all()) for one in _batch.tensors(x)):
        return "the input batch holds NaN or infinity"
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            return f"parameter {name!r} is not finite"
    found: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not torch.isfinite(output).all():
                found.append(name)

        return hook

    hooks = [m.register_forward_hook(watch(n)) for n, m in model.named_modules() if not list(m.children())]
    _batch.call(model, x)
    for handle in hooks:
        handle.remove()
    return f"layer {found[0]!r} gives the first output that is not finite" if found else "the loss itself is not finite"
