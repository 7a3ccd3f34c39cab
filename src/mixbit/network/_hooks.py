"""Layers and MACs of a model that cannot be exported, from one run on the example: no graph, so no shared tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mixbit.network._inputs import Inputs
from mixbit.network._macs import limpq_area
from mixbit.network._records import FloatParameter, Layer, LayerKind, Network, Skipped, Tensor
from mixbit.network._signs import has_negative
from mixbit.network._sizes import drop_batch
from mixbit.network.carriers import why_not

_KINDS: dict[type[nn.Module], LayerKind] = {nn.Conv1d: "conv1d", nn.Conv2d: "conv2d", nn.Linear: "linear"}


@dataclass(slots=True)
class _Seen:
    """What the hooks saw, in order of execution."""

    batch: int
    layers: dict[str, Layer] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def add(self, layer: Layer) -> None:
        self.calls[layer.name] = self.calls.get(layer.name, 0) + 1
        self.layers.setdefault(layer.name, layer)


def observe(model: nn.Module, inputs: Inputs) -> Network:
    """Run the model once with a hook on every layer.

    Every layer reads a tensor of its own, which is alive at that layer alone, and its sign is that of the example.

    Args:
        model: in evaluation mode.
        inputs: the example.
    """
    from torch.utils.flop_counter import FlopCounterMode

    seen = _Seen(inputs.batch)
    with ExitStack() as stack:
        for name, module in model.named_modules():
            handle = _hook(seen, name, module)
            if handle is not None:
                stack.callback(handle.remove)
        # With this backend attention is two products of matrices, which the counter sees.
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        counter = stack.enter_context(FlopCounterMode(display=False))
        model(*inputs.args, **inputs.kwargs)
    seen.refused = {name: reason for name, la in seen.layers.items() if (reason := why_not(model, la.parameter))}
    layers = tuple(la for name, la in seen.layers.items() if seen.calls[name] == 1 and name not in seen.refused)
    total = int(counter.get_total_flops()) // 2 // inputs.batch
    tensors = tuple(tensor for at, layer in enumerate(layers) for tensor in _tensors(at, layer))
    return Network(
        layers=layers,
        tensors=tensors,
        steps=tuple(layer.name for layer in layers),
        joins=(),
        skipped=(
            Skipped(
                name="(topology)",
                reason="branches, loops or shapes depend on the values of the inputs, so there is no graph: layers"
                " and MACs are those of one run on the example; shared tensors, adds and concats are unknown, and"
                " weights used outside their modules were not seen",
            ),
            *_left_out(model, seen),
        ),
        other_macs=total - sum(layer.macs for layer in layers),
        float_parameters=tuple(_float_parameters(model, seen, layers)),
    )


def _hook(seen: _Seen, name: str, module: nn.Module) -> Any:
    kind = next((kind for cls, kind in _KINDS.items() if isinstance(module, cls)), None)
    if isinstance(module, nn.MultiheadAttention):
        return module.register_forward_hook(
            lambda m, args, kwargs, out: _see_attention(seen, name, m, args, kwargs, out), with_kwargs=True
        )
    if kind is None or "weight" not in dict(module.named_parameters(recurse=False)):
        return None

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.Tensor) -> None:
        seen.add(_layer(seen, name, kind, module, (*args, *kwargs.values())[0], out))

    return module.register_forward_hook(hook, with_kwargs=True)


def _layer(seen: _Seen, name: str, kind: LayerKind, module: Any, x: torch.Tensor, out: torch.Tensor) -> Layer:
    weight = tuple(module.weight.shape)
    positions = out.numel() // weight[0]
    limpq = positions
    if kind != "linear" and module.padding != "same":
        spatial = out.shape[2 - len(weight) :]
        padding = (0,) * len(spatial) if module.padding == "valid" else module.padding
        area = limpq_area(x.shape[2 - len(weight) :], weight[2:], module.stride, padding, module.dilation)
        limpq = positions // math.prod(spatial) * area
    return _record(
        seen,
        name,
        kind=kind,
        parameter=f"{name}.weight".removeprefix("."),
        weight_shape=weight,
        groups=1 if kind == "linear" else module.groups,
        macs=positions * math.prod(weight) // seen.batch,
        macs_limpq=limpq * math.prod(weight) // seen.batch,
        shapes=(x, out),
        signed=has_negative(x),
    )


def _record(seen: _Seen, name: str, *, shapes: tuple[torch.Tensor, torch.Tensor], signed: bool, **facts: Any) -> Layer:
    x, out = (drop_batch(tuple(tensor.shape), seen.batch) for tensor in shapes)
    own = name or "weight"
    return Layer(
        name=own,
        input_shape=x,
        output_shape=out,
        input_tensor=f"{own}.input",
        output_tensor=f"{own}.output",
        input_signed=signed,
        **facts,
    )


def _see_attention(
    seen: _Seen, name: str, module: nn.MultiheadAttention, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
) -> None:
    """Attention calls neither of its projections as a module."""
    query, key, value = (
        args[at] if len(args) > at else kwargs[word] for at, word in enumerate(("query", "key", "value"))
    )
    tokens, size = query.numel() // module.embed_dim, module.embed_dim
    prefix = f"{name}." if name else ""
    if module.in_proj_weight is not None and query is key and key is value:
        macs = tokens * 3 * size * size // seen.batch
        shape = query.new_empty((*query.shape[:-1], 3 * size), device="meta")
        facts = {"kind": "attention_in_proj", "parameter": f"{prefix}in_proj_weight", "weight_shape": (3 * size, size)}
        seen.add(
            _record(
                seen,
                f"{prefix}in_proj",
                shapes=(query, shape),
                signed=has_negative(query),
                groups=1,
                macs=macs,
                macs_limpq=macs,
                **facts,
            )
        )
    macs = tokens * size * size // seen.batch
    seen.add(
        _record(
            seen,
            f"{prefix}out_proj",
            shapes=(query, out[0]),
            signed=True,
            kind="linear",
            parameter=f"{prefix}out_proj.weight",
            weight_shape=(size, size),
            groups=1,
            macs=macs,
            macs_limpq=macs,
        )
    )


def _tensors(at: int, layer: Layer) -> Iterator[Tensor]:
    for name, shape, readers in (
        (layer.input_tensor, layer.input_shape, (layer.name,)),
        (layer.output_tensor, layer.output_shape, ()),
    ):
        yield Tensor(name=name, shape=shape, first_step=at, last_step=at, readers=readers, read_elsewhere=not readers)


def _left_out(model: nn.Module, seen: _Seen) -> Iterator[Skipped]:
    """Every weight of two or more dimensions that is no layer's."""
    taken = {layer.parameter: name for name, layer in seen.layers.items()}
    for parameter, value in model.named_parameters():
        name = taken.get(parameter)
        if name in seen.refused:
            yield Skipped(name=name, reason=seen.refused[name], macs=seen.layers[name].macs * seen.calls[name])
        elif name is not None and seen.calls[name] > 1:
            macs = seen.layers[name].macs * seen.calls[name]
            yield Skipped(name=name, reason=f"weight used {seen.calls[name]} times", macs=macs)
        elif name is None and value.dim() >= 2 and parameter.rpartition(".")[2] != "bias":
            yield Skipped(name=parameter.removesuffix(".weight"), reason="not seen as a layer by the example")


def _float_parameters(model: nn.Module, seen: _Seen, layers: tuple[Layer, ...]) -> Iterator[FloatParameter]:
    """All but the layers' weights and biases: without a graph nothing is known to be folded, or not reached."""
    weights = {layer.parameter for layer in layers}
    biases = {f"{name.removesuffix('weight')}bias" for name in weights}
    taken = {layer.parameter: name for name, layer in seen.layers.items()}
    often = {layer.parameter: name for name, layer in seen.layers.items() if seen.calls[name] > 1}
    for parameter, value in model.named_parameters():
        if parameter in often:
            name, calls = often[parameter], seen.calls[often[parameter]]
            macs, reason = seen.layers[name].macs * calls, f"weight used {calls} times"
            yield FloatParameter(name=parameter, size=value.numel(), macs=macs, reason=reason)
        elif parameter not in weights | biases:
            reason = seen.refused.get(taken.get(parameter, ""), "not seen as a layer by the example")
            yield FloatParameter(name=parameter, size=value.numel(), reason=reason)
