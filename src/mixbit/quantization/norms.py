"""Which batch norm stands behind which layer, seen in one forward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mixbit import _batch
from mixbit._modes import in_evaluation
from mixbit.quantization._layers import QuantizedLayer

__all__ = ["norms_after_layers", "norms_fed_by_layers"]


def norms_after_layers(model: nn.Module, example: Any) -> dict[str, str]:
    """Batch-norm name -> name of the quantized layer whose output it normalises.

    Where other operations stand between, it is the nearest quantized layer before it in execution order. Batch norms
    before the first quantized layer are left out, and so are those whose nearest layer is in float.
    """
    found = _watch_norms(model, example, nearest=True)
    return {norm: layer for norm, layer in found.items() if isinstance(model.get_submodule(layer), QuantizedLayer)}


def norms_fed_by_layers(model: nn.Module, example: Any) -> dict[str, str]:
    """Layer name -> name of the batch norm that reads its very output, so that it can be folded into the layer."""
    return {layer: norm for norm, layer in _watch_norms(model, example, nearest=False).items()}


@torch.no_grad()
def _watch_norms(model: nn.Module, example: Any, *, nearest: bool) -> dict[str, str]:
    """Batch-norm name -> name of the layer before it, from one forward pass."""
    found: dict[str, str] = {}
    source: dict[int, str] = {}
    kept: list[Tensor] = []  # so that no address is used twice while we look
    latest: list[str] = []

    def after_layer(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            source[id(output)] = name
            kept.append(output)
            latest.append(name)

        return hook

    def before_norm(name: str) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            layer = source.get(id(inputs[0])) or (latest[-1] if latest and nearest else None)
            if layer is not None:
                found[name] = layer

        return hook

    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            hooks.append(module.register_forward_pre_hook(before_norm(name)))
        elif isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
            hooks.append(module.register_forward_hook(after_layer(name)))
    try:
        with in_evaluation(model):
            _batch.call(model, example)
    finally:
        for handle in hooks:
            handle.remove()
    return found
