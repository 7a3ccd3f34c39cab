"""Batch norm with one copy a bit-width, for networks that train several bit-widths at once.

Activation statistics differ between bit-widths, so each needs batch-norm parameters of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mixbit import _batch
from mixbit._modes import in_evaluation
from mixbit.quantization import QuantizedLayer

__all__ = ["SwitchableBatchNorm", "make_switchable", "norms_after_layers", "norms_fed_by_layers", "select_norms"]


class SwitchableBatchNorm(nn.Module):
    """`n` deep copies of one batch norm; `row` says which is in use."""

    def __init__(self, norm: _BatchNorm, rows: int) -> None:
        super().__init__()
        self.copies = nn.ModuleList(copy.deepcopy(norm) for _ in range(rows))
        self.row = 0

    def forward(self, x: Tensor) -> Tensor:
        """Normalise with the copy in use."""
        return self.copies[self.row](x)  # type: ignore[no-any-return]


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


def make_switchable(model: nn.Module, norms: Iterable[str], rows: int) -> None:
    """Replace the named batch norms, in place, by `rows` copies each."""
    for name in norms:
        parent, _, child = name.rpartition(".")
        norm = model.get_submodule(name)
        assert isinstance(norm, _BatchNorm)
        setattr(model.get_submodule(parent), child, SwitchableBatchNorm(norm, rows))


def select_norms(model: nn.Module, after: Mapping[str, str], bits: Sequence[int], chosen: Mapping[str, int]) -> None:
    """Point each batch norm at the copy of the bit-width that `chosen` gives the layer before it."""
    for norm, layer in after.items():
        module = model.get_submodule(norm)
        assert isinstance(module, SwitchableBatchNorm)
        module.row = list(bits).index(chosen[layer])
