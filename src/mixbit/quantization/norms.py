"""Which batch norm stands behind which layer, seen in one forward pass, and norms of several rows in their places."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mixbit import _batch
from mixbit._modes import in_evaluation
from mixbit.errors import MixbitError, WeightsError
from mixbit.quantization._layers import QuantizedLayer
from mixbit.quantizers import SampleRows

__all__ = [
    "RowsOfNorms",
    "layers_before_norms",
    "norms_after_layers",
    "norms_fed_by_layers",
    "put_in_place",
    "refuse_rows",
    "take_off_rows",
]

KEY_BITS = "key_bits"
"""Name of the buffer that only a norm of several rows has."""


class RowsOfNorms(_BatchNorm):
    """A batch norm that stands in the place of an ordinary one while the layer before it has a choice of bits."""

    layer: str
    """Name of that layer."""
    rows: SampleRows | None
    """The row of every sample, where the coming batch has several."""

    def plain(self) -> _BatchNorm:
        """An ordinary batch norm with the row in use."""
        raise NotImplementedError


def take_off_rows(model: nn.Module) -> None:
    """Put an ordinary batch norm, of the row in use, in the place of every norm of several.

    Raises:
        MixbitError: a norm whose samples use several rows: none of them is the norm of the model. Nothing was changed.
    """
    found = [module for module in model.modules() if isinstance(module, RowsOfNorms)]
    for norm in found:
        if norm.rows is not None:
            raise MixbitError(
                f"the norm behind layer {norm.layer!r} has a row a sample in use, of which no one norm is made. Select "
                "one bit-width a layer first, as mixbit.supernet.select(model, 8) does."
            )
    for norm in found:
        put_in_place(model, norm, norm.plain())


def put_in_place(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module in the place of another, under all of the names that it has."""
    for path, module in list(model.named_modules(remove_duplicate=False)):
        if module is old:
            parent, _, child = path.rpartition(".")
            setattr(model.get_submodule(parent), child, new)


def refuse_rows(model: nn.Module, state: Mapping[str, Any], prefix: str, *_args: Any) -> None:
    """Called before a state is loaded: ordinary norms take none of a network whose norms have rows.

    Raises:
        WeightsError: the state has rows for a norm that has none here.
    """
    for key in state:
        path, _, last = key.removeprefix(prefix).rpartition(".")
        if last != KEY_BITS or not key.startswith(prefix):
            continue
        try:
            own = model.get_submodule(path)
        except AttributeError:
            continue
        if isinstance(own, _BatchNorm) and not isinstance(own, RowsOfNorms):
            raise WeightsError(
                f"the state does not fit: {path} is one norm for all bits here, and the state has a row for each of "
                f"{state[key].tolist()}. Legal: norms that were made as those of the state. Call "
                "mixbit.supernet.make_switchable (norms='bits' or 'pair') first, as was done when it was saved."
            )


def norms_after_layers(model: nn.Module, example: Any) -> dict[str, str]:
    """Batch-norm name -> name of the quantized layer whose output it normalises.

    Where other operations stand between, it is the nearest quantized layer before it in execution order. Batch norms
    before the first quantized layer are left out, and so are those whose nearest layer is in float. Of a norm that is
    called behind several layers it is the last one, see `layers_before_norms`.
    """
    found = {norm: layers[-1] for norm, layers in layers_before_norms(model, example).items()}
    return {norm: layer for norm, layer in found.items() if isinstance(model.get_submodule(layer), QuantizedLayer)}


def layers_before_norms(model: nn.Module, example: Any) -> dict[str, list[str]]:
    """Batch-norm name -> the layers that it is called behind, quantized or not, the last call last, none twice."""
    return _watch_norms(model, example, nearest=True)


def norms_fed_by_layers(model: nn.Module, example: Any) -> dict[str, str]:
    """Layer name -> name of the batch norm that reads its very output, so that it can be folded into the layer."""
    return {layers[-1]: norm for norm, layers in _watch_norms(model, example, nearest=False).items()}


@torch.no_grad()
def _watch_norms(model: nn.Module, example: Any, *, nearest: bool) -> dict[str, list[str]]:
    """Batch-norm name -> names of the layers before its calls, from one forward pass."""
    found: dict[str, list[str]] = {}
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
                found[name] = [*(one for one in found.get(name, ()) if one != layer), layer]

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
